// Python arrays to Tensor views and back. NumPy arrays are taken as they are; anything else that
// speaks DLPack on the CPU goes through numpy.from_dlpack without a copy, and results are handed
// back by its own framework's from_dlpack. Arrays of a device stay there (device_array.hpp).
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/device_array.hpp"
#include "errors.hpp"
#include "fastrnn.hpp"
#include "memory.hpp"

namespace fastrnn::bindings {

inline std::string type_name(py::handle object) {
  return py::cast<std::string>(py::type::handle_of(object).attr("__name__"));
}

inline std::string argument(const std::string& function, const char* name) {
  return function + ": argument '" + name + "'";
}

inline py::array to_numpy(const std::string& function, const char* name, py::handle object) {
  if (py::isinstance<py::array>(object)) return py::reinterpret_borrow<py::array>(object);
  if (!py::hasattr(object, "__dlpack__")) {
    throw TypeError(argument(function, name) + " must be a NumPy array or speak DLPack, got " +
                    type_name(object));
  }
  try {
    return py::module_::import("numpy").attr("from_dlpack")(object);
  } catch (py::error_already_set& error) {
    py::raise_from(
        error, PyExc_TypeError,
        (argument(function, name) + " of type " + type_name(object) +
         " cannot be read through DLPack as a CPU array of a NumPy dtype without gradients")
            .c_str());
    throw py::error_already_set();
  }
}

constexpr int kNumpyHalf = 23;  // NPY_HALF, which pybind11 does not name

inline int numpy_type(DType dtype) {
  using Numpy = py::detail::npy_api;
  switch (dtype) {
    case DType::kFloat16:
      return kNumpyHalf;
    case DType::kFloat32:
      return Numpy::NPY_FLOAT_;
    default:
      return Numpy::NPY_DOUBLE_;
  }
}

inline DType dtype_of(const std::string& function, const char* name, const py::array& array) {
  using Numpy = py::detail::npy_api;
  const py::dtype dtype = array.dtype();
  if (dtype.byteorder() != '>') {
    switch (dtype.num()) {
      case Numpy::NPY_FLOAT_:
        return DType::kFloat32;
      case Numpy::NPY_DOUBLE_:
        return DType::kFloat64;
      case Numpy::NPY_BOOL_:
        return DType::kBool;
      case kNumpyHalf:
        return DType::kFloat16;
      default:
        break;
    }
  }
  throw TypeError(argument(function, name) +
                  " must be of dtype float32 or float64 (mask, reset: bool), got " +
                  py::cast<std::string>(py::str(dtype)));
}

// Kernels need aligned elements, strides in whole elements and, where they load vectors, a unit
// last stride.
inline bool fits(const py::array& array, bool unit_last_stride) {
  const auto size = array.itemsize();
  if (reinterpret_cast<uintptr_t>(array.data()) % static_cast<size_t>(size) != 0) return false;
  for (py::ssize_t i = 0; i < array.ndim(); ++i) {
    if (array.strides(i) % size != 0) return false;
  }
  const auto last = array.ndim() - 1;
  return !unit_last_stride || last < 0 || array.shape(last) <= 1 || array.strides(last) == size;
}

// A view together with the array that owns its memory.
struct Held {
  py::object owner;
  Tensor tensor;
};

enum class Access { kAnyStride, kUnitLastStride, kContiguous };

inline Tensor view_of(const py::array& array, DType dtype) {
  Tensor tensor;
  tensor.data = const_cast<void*>(array.data());
  tensor.present = true;
  tensor.dtype = dtype;
  tensor.rank = static_cast<int>(array.ndim());
  for (int i = 0; i < tensor.rank && i < kMaxRank; ++i) {
    tensor.shape[i] = array.shape(i);
    tensor.stride[i] = array.strides(i) / array.itemsize();
  }
  return tensor;
}

inline TypeError elsewhere(const std::string& function, const char* name, int device,
                           const Place& place) {
  return TypeError(argument(function, name) + " must be on " + place.name() + " as x is, got " +
                   Place{device}.name());
}

inline Held hold_on_device(const std::string& function, const char* name, py::handle object,
                           Access access, const Place& place) {
  if (!py::hasattr(object, "__dlpack__")) {
    throw TypeError(argument(function, name) + " must be on " + place.name() +
                    " as x is and speak DLPack, got " + type_name(object));
  }
  if (const int device = device_of(object); device != place.device)
    throw elsewhere(function, name, device, place);
  py::object capsule;
  try {
    capsule = capsule_of(object, place);
  } catch (py::error_already_set& error) {
    py::raise_from(
        error, PyExc_TypeError,
        (argument(function, name) + " of type " + type_name(object) +
         " cannot be read through DLPack as an array of " + place.name() + " without gradients")
            .c_str());
    throw py::error_already_set();
  }
  const dlpack::Tensor& seen = tensor_in(capsule);
  const std::optional<DType> dtype = dtype_of(seen.dtype);
  if (!dtype) {
    throw TypeError(argument(function, name) +
                    " must be of dtype float16, bfloat16, float32 or float64 (mask, reset: bool, "
                    "lengths: int64), got " +
                    py::cast<std::string>(py::str(object.attr("dtype"))));
  }
  const Tensor tensor = view_of(seen, *dtype);
  const int last = tensor.rank - 1;
  const bool unit =
      last < 0 || last >= kMaxRank || tensor.shape[last] <= 1 || tensor.stride[last] == 1;
  if (access != Access::kAnyStride && !unit) {
    const py::object packed = py::hasattr(object, "contiguous")
                                  ? object.attr("contiguous")()
                                  : framework_of(object).attr("ascontiguousarray")(object);
    return hold_on_device(function, name, packed, access, place);
  }
  return {capsule, tensor};
}

inline Held hold(const std::string& function, const char* name, py::handle object, Access access,
                 const Place& place = {}) {
  if (object.is_none()) return {};
  if (!place.on_host()) return hold_on_device(function, name, object, access, place);
  if (!py::isinstance<py::array>(object)) {
    if (const int device = device_of(object); device != kHost)
      throw elsewhere(function, name, device, place);
  }
  py::array array = to_numpy(function, name, object);
  const DType dtype = dtype_of(function, name, array);
  const bool scattered = access == Access::kContiguous && !(array.flags() & py::array::c_style);
  if (array.size() > 0 && (scattered || !fits(array, access == Access::kUnitLastStride))) {
    array = py::module_::import("numpy").attr("array")(array, py::arg("order") = "C",
                                                       py::arg("copy") = true);
  }
  return {array, view_of(array, dtype)};
}

// The core's own copy: the caller may change the original while a kernel or a saved result relies
// on it.
inline Held copy_lengths(const std::string& function, py::handle object, const Place& place) {
  if (object.is_none()) return {};
  if (const int device = device_of(object); device != kHost) {
    if (device != place.device) throw elsewhere(function, "lengths", device, place);
    return hold_on_device(function, "lengths", object, Access::kContiguous, place);
  }
  const py::module_ numpy = py::module_::import("numpy");
  const bool has_array = py::isinstance<py::array>(object) || py::hasattr(object, "__dlpack__");
  py::array array =
      has_array ? to_numpy(function, "lengths", object) : py::array(numpy.attr("asarray")(object));
  const char kind = array.dtype().kind();
  if (kind != 'i' && kind != 'u' && array.size() > 0) {
    throw TypeError(argument(function, "lengths") + " must be of an integer dtype, got " +
                    py::cast<std::string>(py::str(array.dtype())));
  }
  array = numpy.attr("array")(array, py::arg("dtype") = "int64", py::arg("order") = "C",
                              py::arg("copy") = true);
  return {array, view_of(array, DType::kInt64)};
}

inline Held copy_flags(const std::string& function, const char* name, py::handle object,
                       const Place& place) {
  if (object.is_none()) return {};
  if (!place.on_host()) return hold_on_device(function, name, object, Access::kAnyStride, place);
  const py::array array = to_numpy(function, name, object);
  if (array.dtype().kind() != 'b') {
    throw TypeError(argument(function, name) + " must be of dtype bool, got " +
                    py::cast<std::string>(py::str(array.dtype())));
  }
  const py::array copy = py::module_::import("numpy").attr("array")(array, py::arg("copy") = true);
  return {copy, view_of(copy, DType::kBool)};
}

// Contents are undefined. On a device: of the framework of `like`, and of its dtype or float32.
inline Held new_array(DType dtype, const std::vector<py::ssize_t>& shape, const Place& place = {},
                      py::handle like = {}, DType like_dtype = DType::kFloat32) {
  if (!place.on_host()) {
    const py::object array = new_like(like, shape, dtype == like_dtype ? nullptr : "float32");
    Held held = hold_on_device("fastrnn", "result", array, Access::kContiguous, place);
    held.owner = array;
    return held;
  }
  const py::dtype type(numpy_type(dtype));
  int64_t bytes = type.itemsize();
  for (const py::ssize_t size : shape) bytes *= size;
  if (bytes < kLarge) {
    const py::array array(type, shape);
    return {array, view_of(array, dtype)};
  }
  auto memory = std::make_unique<Memory>(allocate(bytes));
  void* const data = memory->get();
  const py::capsule owner(memory.release(), [](void* held) { delete static_cast<Memory*>(held); });
  const py::array array(type, shape, data, owner);
  return {array, view_of(array, dtype)};
}

inline void swap_first_two(Tensor& tensor) {
  if (tensor.rank < 2) return;
  std::swap(tensor.shape[0], tensor.shape[1]);
  std::swap(tensor.stride[0], tensor.stride[1]);
}

// `array` as an array of the framework that `like` belongs to
inline py::object to_kind_of(py::handle like, const py::object& array) {
  if (!py::isinstance<py::array>(array) || py::isinstance<py::array>(like)) return array;
  return framework_of(like).attr("from_dlpack")(array);
}

}  // namespace fastrnn::bindings
