// Arrays that lie on a CUDA device, of any framework that speaks DLPack: where they lie, the stream
// that their framework works on, views of them, and new ones from its own allocator.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/dlpack.hpp"
#include "errors.hpp"
#include "fastrnn.hpp"

namespace fastrnn::bindings {

namespace py = pybind11;

// Where the arrays of a call lie.
struct Place {
  int device = kHost;
  void* stream = nullptr;
  bool stream_is_known = true;  // else a call has to wait: its framework could free what is in use

  bool on_host() const { return device == kHost; }
  std::string name() const { return on_host() ? "the CPU" : "cuda:" + std::to_string(device); }
};

// The backend of arrays on a device. Throws std::runtime_error, Python's RuntimeError, where it
// cannot run.
inline const KernelTable& cuda_backend(const std::string& function, const Place& place) {
  try {
    return find_backend("cuda");
  } catch (const ValueError& error) {
    throw std::runtime_error(function + ": argument 'x' is on " + place.name() + ", but " +
                             error.what());
  }
}

inline std::optional<DType> dtype_of(dlpack::DataType dtype) {
  if (dtype.lanes != 1) return {};
  const auto is = [&](uint8_t code, uint8_t bits) {
    return dtype.code == code && dtype.bits == bits;
  };
  if (is(dlpack::kFloat, 32)) return DType::kFloat32;
  if (is(dlpack::kFloat, 64)) return DType::kFloat64;
  if (is(dlpack::kFloat, 16)) return DType::kFloat16;
  if (is(dlpack::kBFloat, 16)) return DType::kBFloat16;
  if (is(dlpack::kInt, 64)) return DType::kInt64;
  if (is(dlpack::kBool, 8)) return DType::kBool;
  return {};
}

inline Tensor view_of(const dlpack::Tensor& seen, DType dtype) {
  Tensor tensor;
  tensor.data = static_cast<char*>(seen.data) + seen.byte_offset;
  tensor.present = true;
  tensor.dtype = dtype;
  tensor.device = seen.device.type == dlpack::kCUDA ? seen.device.id : kHost;
  tensor.rank = seen.ndim;
  int64_t size = 1;
  for (int i = seen.ndim - 1; i >= 0; size *= seen.shape[i--]) {
    if (i >= kMaxRank) continue;
    tensor.shape[i] = seen.shape[i];
    tensor.stride[i] = seen.strides ? seen.strides[i] : size;
  }
  return tensor;
}

// The module of the framework that an array belongs to.
inline py::object framework_of(py::handle array) {
  if (py::hasattr(array, "__array_namespace__")) return array.attr("__array_namespace__")();
  const std::string module = py::cast<std::string>(py::type::handle_of(array).attr("__module__"));
  return py::module_::import(module.substr(0, module.find('.')).c_str());
}

// The number of the CUDA device on which an array lies, or kHost.
inline int device_of(py::handle object) {
  if (object.is_none() || !py::hasattr(object, "__dlpack_device__")) return kHost;
  const py::tuple device = object.attr("__dlpack_device__")();
  const int type = py::cast<int>(device[0]);
  const bool on_device = type == dlpack::kCUDA || type == dlpack::kCUDAManaged;
  return on_device ? py::cast<int>(device[1]) : kHost;
}

inline void find_stream(py::handle array, Place& place) {
  const dlpack::ExchangeAPI* api = dlpack::exchange_api(array);
  if (api && api->current_stream) {
    if (api->current_stream(dlpack::kCUDA, place.device, &place.stream) != 0)
      throw py::error_already_set();
    return;
  }
  const py::object framework = framework_of(array);
  if (py::hasattr(framework, "cuda") &&
      py::hasattr(framework.attr("cuda"), "get_current_stream")) {  // CuPy
    const py::object stream = framework.attr("cuda").attr("get_current_stream")();
    place.stream = PyLong_AsVoidPtr(stream.attr("ptr").ptr());
    if (PyErr_Occurred()) throw py::error_already_set();
    return;
  }
  place.stream_is_known = false;
}

inline Place place_of(py::handle x) {
  Place place{device_of(x)};
  if (!place.on_host()) find_stream(x, place);
  return place;
}

// The capsule of an array whose contents are there for what `place.stream` runs next. It keeps the
// memory.
inline py::object capsule_of(py::handle array, const Place& place) {
  const auto stream = reinterpret_cast<uintptr_t>(place.stream);
  const uintptr_t number = stream == 0 ? 1 : stream;  // DLPack's name of the default stream
  try {
    return array.attr("__dlpack__")(py::arg("stream") = number,
                                    py::arg("max_version") = py::make_tuple(1, 0));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return array.attr("__dlpack__")(py::arg("stream") = number);  // from before DLPack 1.0
}

inline const dlpack::Tensor& tensor_in(const py::object& capsule) {
  struct Unversioned {
    dlpack::Tensor tensor;
  };
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    return static_cast<const dlpack::ManagedTensor*>(
               PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"))
        ->tensor;
  }
  const void* found = PyCapsule_GetPointer(capsule.ptr(), "dltensor");
  if (!found) throw py::error_already_set();
  return static_cast<const Unversioned*>(found)->tensor;
}

// A new array of the framework of `like`, on its device; `dtype` where it is not that of `like`.
inline py::object new_like(py::handle like, const std::vector<py::ssize_t>& shape,
                           const char* dtype = nullptr) {
  const py::object framework = framework_of(like);
  const py::object type = dtype ? framework.attr(dtype) : py::object(like.attr("dtype"));
  if (py::hasattr(like, "new_empty"))
    return like.attr("new_empty")(py::cast(shape), py::arg("dtype") = type);
  return framework.attr("empty")(py::tuple(py::cast(shape)), py::arg("dtype") = type);
}

}  // namespace fastrnn::bindings
