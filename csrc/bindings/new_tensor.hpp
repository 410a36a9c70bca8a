// Uninitialised tensors of a framework, for results.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "bindings/dlpack.hpp"
#include "fastrnn.hpp"
#include "memory.hpp"

namespace fastrnn::bindings {

struct Shape {
  int rank;
  int64_t size[kMaxRank];
};

inline pybind11::object own(PyObject* result) {
  if (!result) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(result);
}

struct NewTensor {
  pybind11::object object;
  Tensor view;  // absent where only the framework knows
};

constexpr int64_t kSmall = 16 << 10;

// Memory of ours that the framework is handed. A small one takes 1 us on a machine where the
// framework's own empty() takes 3; a large one has huge pages, and was there at the last call.
// Such a tensor cannot be made larger in place.
inline NewTensor tensor_of_ours(const dlpack::ExchangeAPI& api, const Shape& shape, DType dtype,
                                int64_t bytes) {
  struct Owned {
    dlpack::ManagedTensor managed;
    Free free;
    int64_t shape[kMaxRank], stride[kMaxRank];
  };
  constexpr uintptr_t kAligned = 64;
  // aligned_alloc takes four times as long as malloc, which keeps the small blocks that come back
  const bool small = bytes <= kSmall;
  const int64_t whole = static_cast<int64_t>(sizeof(Owned) + kAligned) + bytes;
  Memory block = small ? Memory(std::malloc(static_cast<size_t>(whole))) : allocate(whole);
  if (!block) throw std::bad_alloc();
  const Free free = block.get_deleter();
  auto* const owned = new (block.release()) Owned;
  owned->free = free;
  char* const after = reinterpret_cast<char*>(owned + 1);
  char* const data = after + (kAligned - reinterpret_cast<uintptr_t>(after) % kAligned) % kAligned;
  int64_t size = 1;
  for (int i = shape.rank - 1; i >= 0; --i) {
    owned->shape[i] = shape.size[i];
    owned->stride[i] = size;
    size *= std::max<int64_t>(shape.size[i], 1);
  }
  const auto bits = static_cast<uint8_t>(8 * item_size(dtype));
  owned->managed = {{dlpack::kMajorVersion, 0},
                    nullptr,
                    [](dlpack::ManagedTensor* self) {
                      const Free free = reinterpret_cast<Owned*>(self)->free;
                      free(self);
                    },
                    0,
                    {data,
                     {dlpack::kCPU, 0},
                     shape.rank,
                     {dlpack::kFloat, bits, 1},
                     owned->shape,
                     owned->stride,
                     0}};
  void* object = nullptr;
  if (api.to_object(&owned->managed, &object) != 0) throw pybind11::error_already_set();
  Tensor view;
  view.data = data;
  view.present = true;
  view.dtype = dtype;
  view.rank = shape.rank;
  std::copy_n(owned->shape, shape.rank, view.shape);
  std::copy_n(owned->stride, shape.rank, view.stride);
  return {own(static_cast<PyObject*>(object)), view};
}

// Who gets a tensor. A user may want to make a large one larger in place; what autograd keeps or
// hands on to the layer before is made anew at every step, and fresh memory costs it a tenth.
enum class For { kUser, kAutograd };

// A tensor of the framework of `like`, on its device and of its dtype; on the CPU float32 or
// float64.
inline NewTensor new_tensor(pybind11::handle like, const Shape& shape, DType dtype,
                            int device = kHost, For whom = For::kUser) {
  int64_t bytes = item_size(dtype);
  for (int i = 0; i < shape.rank; ++i) bytes *= shape.size[i];
  const dlpack::ExchangeAPI* api = dlpack::exchange_api(like);
  if (device == kHost && api && api->to_object && (bytes <= kSmall || whom == For::kAutograd))
    return tensor_of_ours(*api, shape, dtype, bytes);
  static PyObject* const kNewEmpty = PyUnicode_InternFromString("new_empty");
  pybind11::tuple sizes(shape.rank);
  for (int i = 0; i < shape.rank; ++i)
    PyTuple_SET_ITEM(sizes.ptr(), i, PyLong_FromLongLong(shape.size[i]));
  return {own(PyObject_CallMethodOneArg(like.ptr(), kNewEmpty, sizes.ptr())), {}};
}

}  // namespace fastrnn::bindings
