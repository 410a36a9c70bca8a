// Matrix products. A thread holds a tile of kRows x N sums in registers; neighbouring threads hold
// neighbouring columns, so that a warp reads the right factor in whole cache lines and the left one
// by broadcast:
//
//            k                         n, n+1 .. of a warp's threads
//   rows  [ a a a ]        k  [ w w w w ]
//         [ a a a ]           [ w w w w ]      sum[row][n] = start + sum over k of a[row][k] *
//         w[k][n]
//
// Each sum runs over k in order, in one accumulator: its bits depend on neither the tile nor the
// batch.
#pragma once

#include <cmath>

#include "device.cuh"

namespace fastrnn {
namespace {
namespace cuda {

struct TileTraits {
  static constexpr int kRows = 4;
  static constexpr int kColumns = 4;
  static_assert(kRows * kColumns <= 32, "the sums of double must stay in registers");
};

// sum[m][n] += sum over k < length of rows[m][k * row_stride] * columns[n][k * column_stride]
template <int M, int N, class T>
FASTRNN_HD void multiply(const T* const (&rows)[M], int64_t row_stride,
                         const T* const (&columns)[N], int64_t column_stride, int64_t length,
                         T (&sum)[M][N]) {
  for (int64_t k = 0; k < length; ++k) {
    T left[M];
    for (int m = 0; m < M; ++m) left[m] = rows[m][k * row_stride];
    for (int n = 0; n < N; ++n) {
      const T right = columns[n][k * column_stride];
      for (int m = 0; m < M; ++m) sum[m][n] = std::fma(left[m], right, sum[m][n]);
    }
  }
}

// Element (i, j) is data[i * row + j * column].
template <class T>
struct Matrix {
  T* data = nullptr;
  int64_t row = 0, column = 0;
};

// out = start + a b; a is [M, K], b [K, N]; start may be out itself, or null for zero
template <class T>
struct ProductData {
  int64_t M, N, K;
  Matrix<const T> a, b, start;
  Matrix<T> out;
};

template <class T>
__global__ void product_kernel(ProductData<T> p) {
  constexpr int kRows = TileTraits::kRows, kColumns = TileTraits::kColumns;
  const int64_t stripe = divide_up(p.N, kColumns);  // a thread's columns are a stripe apart
  const int64_t first_row = thread_index() / stripe * kRows, first_column = thread_index() % stripe;
  if (first_row >= p.M) return;
  const T* rows[kRows];
  const T* columns[kColumns];
  T sum[kRows][kColumns];
  for (int m = 0; m < kRows; ++m)
    rows[m] = p.a.data + (first_row + m < p.M ? first_row + m : 0) * p.a.row;
  for (int n = 0; n < kColumns; ++n) {
    const int64_t column = first_column + n * stripe < p.N ? first_column + n * stripe : 0;
    columns[n] = p.b.data + column * p.b.column;
    for (int m = 0; m < kRows; ++m) {
      const int64_t row = first_row + m < p.M ? first_row + m : 0;
      sum[m][n] = p.start.data ? p.start.data[row * p.start.row + column * p.start.column] : T(0);
    }
  }
  multiply(rows, p.a.column, columns, p.b.row, p.K, sum);
  for (int m = 0; m < kRows; ++m) {
    for (int n = 0; n < kColumns; ++n) {
      const int64_t row = first_row + m, column = first_column + n * stripe;
      if (row < p.M && column < p.N)
        p.out.data[row * p.out.row + column * p.out.column] = sum[m][n];
    }
  }
}

template <class T>
void launch_product(const ProductData<T>& p) {
  launch(product_kernel<T>,
         divide_up(p.M, TileTraits::kRows) * divide_up(p.N, TileTraits::kColumns), p);
}

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
