// The products of the family's drivers, over gemm.hpp.
#pragma once

#include "cpu/gemm.hpp"
#include "cpu/sequence.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// out[r] = bias + W left(r) of N gates, rows [blocks, N, V]; `bias` may be null
template <int N, class T, class LeftRow>
void product(const LeftRow& left_row, int64_t rows, int64_t length, const T* w, const T* bias,
             int64_t blocks, T* out) {
  constexpr int kLanes = Vec<T>::kLanes;
  for_each_tile<N>(rows, 0, blocks, length, [&](const Tile& tile) {
    Left<T> left{{}, 1};
    for (int m = 0; m < tile.rows; ++m) left.rows[m] = left_row(tile.row + m) + tile.k;
    Right<T> right = weights_of<T, N>(tile, w, length);
    right.out = out + (tile.row * blocks + tile.block) * N * kLanes;
    right.out_stride = blocks * N * kLanes;
    right.init = !tile.first_piece ? right.out : bias ? bias + tile.block * N * kLanes : nullptr;
    right.init_stride = tile.first_piece ? 0 : right.out_stride;
    multiply<T, N>(tile, left, right);
  });
}

// out[r] = sum over gates g in [first, last) of w[g]^T (left(r) + offset(g)), `length` values each;
// w: `all_gates` * `length` steps of k, one gate (gemm.hpp)
template <class T, class LeftRow, class Offset>
void transposed_product(const LeftRow& left_row, int64_t rows, int first, int last, int all_gates,
                        const Offset& offset, int64_t length, const T* w, int64_t blocks, T* out,
                        int64_t out_stride) {
  constexpr int kLanes = Vec<T>::kLanes;
  for (int gate = first; gate < last; ++gate) {
    for_each_tile<1>(rows, 0, blocks, length, [&](const Tile& tile) {
      Left<T> left{{}, 1};
      for (int m = 0; m < tile.rows; ++m)
        left.rows[m] = left_row(tile.row + m) + offset(gate) + tile.k;
      Right<T> right = weights_of<T, 1>(tile, w, all_gates * length, gate * length);
      right.out = out + tile.row * out_stride + tile.block * kLanes;
      right.out_stride = out_stride;
      right.init = gate == first && tile.first_piece ? nullptr : right.out;
      right.init_stride = out_stride;
      multiply<T, 1>(tile, left, right);
    });
  }
}

// dw[u][n] += sum over k < count of left[k * left_stride + u] * packed[k][n], u < units, n <
// columns
template <class T>
void weight_product(const T* left_panel, int64_t left_stride, int64_t count, const T* packed,
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

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
