// Views of a call's arrays on the device.
#pragma once

#include "device.cuh"

namespace fastrnn {
namespace {
namespace cuda {

// [T, B, n] with any strides on T and B; a state [B, n] has no stride on T.
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t time = 0, batch = 0;

  FASTRNN_HD T* at(int64_t t, int64_t b) const { return data + t * time + b * batch; }
  FASTRNN_HD explicit operator bool() const { return data != nullptr; }
};

template <class T>
struct Vector {
  const T* data;
  int64_t stride;

  FASTRNN_HD Compute<T> at(int64_t i) const {  // 0 where there is none
    return data ? computed(data[i * stride]) : Compute<T>(0);
  }
};

// Element (i, j) is data[i * row + j * column].
template <class T>
struct Matrix {
  T* data = nullptr;
  int64_t row = 0, column = 0;

  Matrix transposed() const { return {data, column, row}; }
  Matrix from_row(int64_t i) const { return {data + i * row, row, column}; }
  Matrix from_column(int64_t j) const { return {data + j * column, row, column}; }
};

template <class T>
Rows<T> rows_of(const Tensor& view) {
  if (!view.present) return {};
  T* const data = static_cast<T*>(view.data);
  if (view.rank == 2) return {data, 0, view.stride[0]};
  return {data, view.stride[0], view.stride[1]};
}

inline Rows<const uint8_t> flags_of(const Tensor& view) {
  if (!view.present) return {};
  return {static_cast<const uint8_t*>(view.data), view.stride[0], view.stride[1]};
}

template <class T>
Vector<T> vector_of(const Tensor& view) {
  if (!view.present) return {};
  return {static_cast<const T*>(view.data), view.stride[0]};
}

template <class T>
Matrix<const T> matrix_of(const Tensor& view) {
  return {static_cast<const T*>(view.data), view.stride[0], view.stride[1]};
}

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
