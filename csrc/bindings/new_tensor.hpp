// Uninitialised tensors of a framework, for results.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "bindings/dlpack.hpp"
#include "fastrnn.hpp"

namespace fastrnn::bindings {

struct Shape {
  int rank;
  int64_t size[kMaxRank];
};

inline pybind11::object own(PyObject* result) {
  if (!result) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(result);
}

// Memory of ours that the framework is handed: 1 us on a machine where its own empty() takes 3.
// Such a tensor cannot be made larger in place, so it is for small ones.
inline pybind11::object small_tensor(const dlpack::ExchangeAPI& api, const Shape& shape,
                                     DType dtype, int64_t bytes) {
  struct Owned {
    dlpack::ManagedTensor managed;
    int64_t shape[kMaxRank], stride[kMaxRank];
  };
  constexpr int64_t kAlignment = 64;
  const auto aligned = [](int64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; };
  const int64_t before = aligned(sizeof(Owned));
  void* const memory = std::aligned_alloc(kAlignment, static_cast<size_t>(before + aligned(bytes)));
  if (!memory) throw std::bad_alloc();
  auto* const owned = new (memory) Owned;
  int64_t size = 1;
  for (int i = shape.rank - 1; i >= 0; --i) {
    owned->shape[i] = shape.size[i];
    owned->stride[i] = size;
    size *= std::max<int64_t>(shape.size[i], 1);
  }
  const auto bits = static_cast<uint8_t>(8 * item_size(dtype));
  owned->managed = {{dlpack::kMajorVersion, 0},
                    nullptr,
                    [](dlpack::ManagedTensor* self) { std::free(self); },
                    0,
                    {static_cast<char*>(memory) + before,
                     {dlpack::kCPU, 0},
                     shape.rank,
                     {dlpack::kFloat, bits, 1},
                     owned->shape,
                     owned->stride,
                     0}};
  void* object = nullptr;
  if (api.to_object(&owned->managed, &object) != 0) throw pybind11::error_already_set();
  return own(static_cast<PyObject*>(object));
}

// A tensor of the framework of `like`, on its device and of its dtype; on the CPU float32 or
// float64.
inline pybind11::object new_tensor(pybind11::handle like, const Shape& shape, DType dtype,
                                   int device = kHost) {
  constexpr int64_t kSmall = 16 << 10;
  int64_t bytes = item_size(dtype);
  for (int i = 0; i < shape.rank; ++i) bytes *= shape.size[i];
  const dlpack::ExchangeAPI* api = dlpack::exchange_api(like);
  if (device == kHost && api && api->to_object && bytes <= kSmall)
    return small_tensor(*api, shape, dtype, bytes);
  static PyObject* const kNewEmpty = PyUnicode_InternFromString("new_empty");
  pybind11::tuple sizes(shape.rank);
  for (int i = 0; i < shape.rank; ++i)
    PyTuple_SET_ITEM(sizes.ptr(), i, PyLong_FromLongLong(shape.size[i]));
  return own(PyObject_CallMethodOneArg(like.ptr(), kNewEmpty, sizes.ptr()));
}

}  // namespace fastrnn::bindings
