// The part of DLPack 1.3 (dmlc/dlpack, Apache-2.0) by which a framework shows the memory of a
// tensor, and takes memory as a tensor, without a call into Python:
// `type(tensor).__dlpack_c_exchange_api__`, 0.1 us a tensor against 2-4 us.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace fastrnn::bindings::dlpack {

constexpr uint32_t kMajorVersion = 1;
constexpr int32_t kCPU = 1, kCUDA = 2, kCUDAManaged = 13;
constexpr uint8_t kInt = 0, kFloat = 2, kBFloat = 4, kBool = 6;

struct Device {
  int32_t type;
  int32_t id;
};

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null: contiguous
  uint64_t byte_offset;
};

struct Version {
  uint32_t major, minor;
};

struct ManagedTensor {  // DLManagedTensorVersioned
  Version version;
  void* context;
  void (*deleter)(ManagedTensor* self);
  uint64_t flags;
  Tensor tensor;
};

struct Header {
  Version version;
  Header* previous;
};

struct ExchangeAPI {
  Header header;
  void* allocator;
  void* managed_from_object;
  int (*to_object)(ManagedTensor* tensor, void** object);  // takes it over; may be null
  int (*view)(void* object, Tensor* out);                  // borrows from the object; may be null
  int (*current_stream)(int32_t device_type, int32_t device_id, void** out);
};

// The exchange API of the object's type, or null. A framework keeps it for the life of the process;
// a type that has one is remembered, for the look-up of the attribute costs more than the view.
inline const ExchangeAPI* exchange_api(pybind11::handle object) {
  struct Known {
    PyTypeObject* type;
    const ExchangeAPI* api;
  };
  constexpr int kKnown = 4;  // torch.Tensor, Parameter
  static thread_local Known known[kKnown] = {};
  PyTypeObject* type = Py_TYPE(object.ptr());
  for (const Known& k : known) {
    if (k.type == type) return k.api;
  }
  PyObject* capsule =
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  const ExchangeAPI* api = nullptr;
  if (capsule && PyCapsule_CheckExact(capsule)) {
    api = static_cast<const ExchangeAPI*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  }
  Py_XDECREF(capsule);
  PyErr_Clear();
  if (!api || api->header.version.major != kMajorVersion || !api->view) return nullptr;
  for (Known& k : known) {
    if (k.type) continue;
    Py_INCREF(type);  // for good: nobody else may get its address
    k = {type, api};
    break;
  }
  return api;
}

}  // namespace fastrnn::bindings::dlpack
