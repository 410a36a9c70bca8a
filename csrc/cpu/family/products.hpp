// The products of the family's drivers, over gemm.hpp. Of duals the value is one product, and the
// tangent two: (A B)' = A' B + A B'.
#pragma once

#include "cpu/dual.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// Rows of the left factor: those of a list, or each `stride` after the one before.
template <class At>
struct RowsOf {
  At first{};
  int64_t stride = 0;
  const At* list = nullptr;

  At operator()(int64_t r) const { return list ? list[r] : first + r * stride; }
};
template <class V>
using Rows = RowsOf<ConstAt<V>>;

// Part `i` of rows: pointers.
template <class At>
struct PartOf {
  const RowsOf<At>& rows;
  int i;
  auto operator()(int64_t r) const { return part(rows(r), i); }
};

// What a sum begins with: row r at `at` + r * stride; null: zero.
template <class T>
struct Start {
  const T* at;
  int64_t stride;
};

// out[r] = start + W left(r) of N gates, rows [blocks, N, V]
template <int N, class T, class LeftRow>
void product_of(const LeftRow& left_row, int64_t rows, int64_t length, const T* w,
                const Start<T>& start, int64_t blocks, T* out) {
  constexpr int kLanes = Vec<T>::kLanes;
  for_each_tile<N>(rows, 0, blocks, length, [&](const Tile& tile) {
    Left<T> left{{}, 1};
    for (int m = 0; m < tile.rows; ++m) left.rows[m] = left_row(tile.row + m) + tile.k;
    Right<T> right = weights_of<T, N>(tile, w, length);
    right.out_stride = blocks * N * kLanes;
    right.out = out + tile.row * right.out_stride + tile.block * N * kLanes;
    if (!tile.first_piece) {
      right.init = right.out;
      right.init_stride = right.out_stride;
    } else if (start.at) {
      right.init = start.at + tile.row * start.stride + tile.block * N * kLanes;
      right.init_stride = start.stride;
    }
    multiply<T, N>(tile, left, right);
  });
}

template <int N, class V>
void product_of_gates(const Rows<V>& left, int64_t rows, int64_t length, ConstAt<V> w,
                      ConstAt<V> bias, int64_t blocks, At<V> out) {
  using T = typename V::Scalar;
  for (int i = 0; i < kParts<V>; ++i) {
    product_of<N, T>(PartOf<ConstAt<V>>{left, i}, rows, length, part(w, 0),
                     {bias ? part(bias, i) : nullptr, 0}, blocks, part(out, i));
  }
  if (kParts<V> == 2) {
    const int64_t stride = blocks * N * V::kLanes;
    product_of<N, T>(PartOf<ConstAt<V>>{left, 0}, rows, length, part(w, 1), {part(out, 1), stride},
                     blocks, part(out, 1));
  }
}

// out[r] = bias + W left(r), rows [blocks, gates, V]; `bias` may be null
template <class V>
void product(int gates, const Rows<V>& left, int64_t rows, int64_t length, ConstAt<V> w,
             ConstAt<V> bias, int64_t blocks, At<V> out) {
  switch (gates) {
    case 1:
      return product_of_gates<1, V>(left, rows, length, w, bias, blocks, out);
    case 2:
      return product_of_gates<2, V>(left, rows, length, w, bias, blocks, out);
    case 3:
      return product_of_gates<3, V>(left, rows, length, w, bias, blocks, out);
    default:
      return product_of_gates<4, V>(left, rows, length, w, bias, blocks, out);
  }
}

// out[r] (+)= sum over gates g in [first, last) of w[g]^T (left(r) + offset[g]), `length` values
// each; w: `all_gates` * `length` steps of k, one gate (gemm.hpp)
template <class T, class LeftRow>
void transposed_product_of(const LeftRow& left_row, int64_t rows, int first, int last,
                           int all_gates, const int64_t* offset, int64_t length, const T* w,
                           int64_t blocks, T* out, int64_t out_stride, bool adds) {
  constexpr int kLanes = Vec<T>::kLanes;
  for (int gate = first; gate < last; ++gate) {
    for_each_tile<1>(rows, 0, blocks, length, [&](const Tile& tile) {
      Left<T> left{{}, 1};
      for (int m = 0; m < tile.rows; ++m)
        left.rows[m] = left_row(tile.row + m) + offset[gate] + tile.k;
      Right<T> right = weights_of<T, 1>(tile, w, all_gates * length, gate * length);
      right.out = out + tile.row * out_stride + tile.block * kLanes;
      right.out_stride = out_stride;
      right.init = gate == first && tile.first_piece && !adds ? nullptr : right.out;
      right.init_stride = out_stride;
      multiply<T, 1>(tile, left, right);
    });
  }
}

template <class V>
void transposed_product(const Rows<V>& left, int64_t rows, int first, int last, int all_gates,
                        const int64_t* offset, int64_t length, ConstAt<V> w, int64_t blocks,
                        At<V> out, int64_t out_stride) {
  using T = typename V::Scalar;
  for (int i = 0; i < kParts<V>; ++i) {
    transposed_product_of<T>(PartOf<ConstAt<V>>{left, i}, rows, first, last, all_gates, offset,
                             length, part(w, 0), blocks, part(out, i), out_stride, false);
  }
  if (kParts<V> == 2) {
    transposed_product_of<T>(PartOf<ConstAt<V>>{left, 0}, rows, first, last, all_gates, offset,
                             length, part(w, 1), blocks, part(out, 1), out_stride, true);
  }
}

// dw[u][n] += sum over k < count of left[k * left_stride + u] * packed[k][n], u < units, n <
// columns
template <class T>
void weight_product_of(const T* left_panel, int64_t left_stride, int64_t count, const T* packed,
                       int64_t columns, int64_t first, int64_t units, T* dw) {
  using V = Vec<T>;
  constexpr int64_t kRowsAtOnce = 48;
  constexpr int kLanes = V::kLanes;
  alignas(kAlignment) T sums[kRowsAtOnce * kAccumulators * kLanes];
  for (int64_t end = first + units; first < end; first += kRowsAtOnce) {
    const T* column = left_panel + first;
    T* out = dw + first * columns;
    for_each_tile<1>(smaller(kRowsAtOnce, end - first), 0, blocks_of<T>(columns), count,
                     [&](const Tile& tile) {
                       Left<T> left{{}, left_stride};
                       for (int m = 0; m < tile.rows; ++m)
                         left.rows[m] = column + tile.k * left_stride + tile.row + m;
                       Right<T> right = weights_of<T, 1>(tile, packed, count);
                       right.out_stride = tile.blocks * kLanes;
                       right.out = sums + tile.row * right.out_stride;
                       right.init = tile.first_piece ? nullptr : right.out;
                       right.init_stride = right.out_stride;
                       multiply<T, 1>(tile, left, right);
                       if (!tile.last_piece) return;
                       for (int m = 0; m < tile.rows; ++m) {
                         T* to = out + (tile.row + m) * columns;
                         for (int j = 0; j < tile.blocks; ++j) {
                           const V sum = V::load(right.out + (m * tile.blocks + j) * kLanes);
                           store_block(to, tile.block + j, columns,
                                       load_block(to, tile.block + j, columns) + sum);
                         }
                       }
                     });
  }
}

template <class V>
void weight_product(ConstAt<V> left, int64_t left_stride, int64_t count, ConstAt<V> packed,
                    int64_t columns, int64_t first, int64_t units, At<V> dw) {
  using T = typename V::Scalar;
  for (int i = 0; i < kParts<V>; ++i) {
    weight_product_of<T>(part(left, i), left_stride, count, part(packed, 0), columns, first, units,
                         part(dw, i));
  }
  if (kParts<V> == 2) {
    weight_product_of<T>(part(left, 0), left_stride, count, part(packed, 1), columns, first, units,
                         part(dw, 1));
  }
}

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
