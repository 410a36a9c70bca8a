// Python arrays to Tensor views and back. NumPy arrays are taken as they are; anything else that
// speaks DLPack on the CPU goes through numpy.from_dlpack without a copy, and results are handed
// back by its own framework's from_dlpack.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <vector>

#include "errors.hpp"
#include "fastrnn.hpp"
#include "memory.hpp"

namespace fastrnn::bindings {

namespace py = pybind11;

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

inline DType dtype_of(const std::string& function, const char* name, const py::array& array) {
  const py::dtype dtype = array.dtype();
  if (dtype.byteorder() != '>') {
    if (dtype.num() == py::dtype::of<float>().num()) return DType::kFloat32;
    if (dtype.num() == py::dtype::of<double>().num()) return DType::kFloat64;
    if (dtype.num() == py::dtype::of<bool>().num()) return DType::kBool;
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

inline Held hold(const std::string& function, const char* name, py::handle object, Access access) {
  if (object.is_none()) return {};
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
inline Held copy_lengths(const std::string& function, py::handle object) {
  if (object.is_none()) return {};
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

inline Held copy_flags(const std::string& function, const char* name, py::handle object) {
  if (object.is_none()) return {};
  const py::array array = to_numpy(function, name, object);
  if (array.dtype().kind() != 'b') {
    throw TypeError(argument(function, name) + " must be of dtype bool, got " +
                    py::cast<std::string>(py::str(array.dtype())));
  }
  const py::array copy = py::module_::import("numpy").attr("array")(array, py::arg("copy") = true);
  return {copy, view_of(copy, DType::kBool)};
}

// Contents are undefined.
inline Held new_array(DType dtype, const std::vector<py::ssize_t>& shape) {
  const py::dtype type =
      dtype == DType::kFloat32 ? py::dtype::of<float>() : py::dtype::of<double>();
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
  if (array.is_none() || py::isinstance<py::array>(like)) return array;
  const std::string module = py::cast<std::string>(py::type::handle_of(like).attr("__module__"));
  const py::object framework =
      py::hasattr(like, "__array_namespace__")
          ? like.attr("__array_namespace__")()
          : py::object(py::module_::import(module.substr(0, module.find('.')).c_str()));
  return framework.attr("from_dlpack")(array);
}

}  // namespace fastrnn::bindings
