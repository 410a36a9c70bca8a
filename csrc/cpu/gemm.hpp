// The one matrix micro-kernel and the packing it reads. Every product of the library runs through multiply():
// the input product, the recurrent product, both products of BPTT and the weight gradients.
//
//   out[m][n] = init[n] + sum over k of a[m][k] * w[n][k]
//
// A tile is M rows by `blocks` blocks of G vectors (the G gates of V neighbouring units, V = lanes). Each sum runs
// over k in order, in one accumulator, so a row's result has the same bits whatever the tile it fell into.
#pragma once

#include <stdint.h>

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// Accumulators of a tile; the rest of the registers hold one step's weights and the broadcast value.
constexpr int kAccumulators = kRegisters == 32 ? 24 : 12;
constexpr int kMaxRows = 8;
constexpr int kMaxBlocks = 8;

// Tallest tile: 6 x 4 gates and 8 x 3 gates fill the 24 accumulators of a 32-register CPU.
constexpr int max_rows(int gates) {
  if (gates == 4) return kAccumulators / 4;
  if (gates == 3) return kAccumulators / 3;
  return 6;
}

constexpr int max_blocks(int rows, int gates) {
  int blocks = 1;
  while (blocks < kMaxBlocks && 2 * blocks * rows * gates <= kAccumulators) blocks *= 2;
  return blocks;
}

// The left factor: rows[m] + segment[s] + k * stride for k < length, one segment after the other.
template <class T>
struct Left {
  const T* rows[kMaxRows];
  int64_t stride;
  int64_t length;
  int segments;
  int64_t segment[4];
};

// w: blocks of [k over all segments][G][V], block_stride apart. init: [blocks][G][V] or null for zero.
// out: row m at out + m * out_stride, [blocks][G][V].
template <class T, int M, int B, int G>
__attribute__((noinline)) void multiply_tile(const Left<T>& a, const T* w, int64_t block_stride, const T* init,
                                             T* out, int64_t out_stride) {
  using V = Vec<T>;
  constexpr int kVectors = B * G;
  V acc[M][kVectors];
#pragma GCC unroll 24
  for (int n = 0; n < kVectors; ++n) {
    const V start = init ? V::load(init + n * V::kLanes) : V::set(0);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) acc[m][n] = start;
  }
  for (int s = 0; s < a.segments; ++s) {
    const T* row[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) row[m] = a.rows[m] + a.segment[s];
    const int64_t stride = a.stride;
    for (int64_t k = 0, at = 0; k < a.length; ++k, at += stride, w += G * V::kLanes) {
      V value[M];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) value[m] = V::set(row[m][at]);
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) {
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) {
          const V weight = V::load(w + b * block_stride + g * V::kLanes);
#pragma GCC unroll 8
          for (int m = 0; m < M; ++m) acc[m][b * G + g] = fma(value[m], weight, acc[m][b * G + g]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 24
    for (int n = 0; n < kVectors; ++n) acc[m][n].store(out + m * out_stride + n * V::kLanes);
  }
}

template <class T, int G, int M>
void multiply_rows(int blocks, const Left<T>& a, const T* w, int64_t block_stride, const T* init, T* out,
                   int64_t out_stride) {
  if constexpr (max_blocks(M, G) >= 8) {
    if (blocks == 8) return multiply_tile<T, M, 8, G>(a, w, block_stride, init, out, out_stride);
  }
  if constexpr (max_blocks(M, G) >= 4) {
    if (blocks == 4) return multiply_tile<T, M, 4, G>(a, w, block_stride, init, out, out_stride);
  }
  if constexpr (max_blocks(M, G) >= 2) {
    if (blocks == 2) return multiply_tile<T, M, 2, G>(a, w, block_stride, init, out, out_stride);
  }
  multiply_tile<T, M, 1, G>(a, w, block_stride, init, out, out_stride);
}

// rows <= max_rows(G), blocks a power of two <= max_blocks(rows, G)
template <class T, int G>
void multiply(int rows, int blocks, const Left<T>& a, const T* w, int64_t block_stride, const T* init, T* out,
              int64_t out_stride) {
  switch (rows) {
    case 1: return multiply_rows<T, G, 1>(blocks, a, w, block_stride, init, out, out_stride);
    case 2: return multiply_rows<T, G, 2>(blocks, a, w, block_stride, init, out, out_stride);
    case 3: return multiply_rows<T, G, 3>(blocks, a, w, block_stride, init, out, out_stride);
    default: break;
  }
  if constexpr (max_rows(G) >= 4) {
    if (rows == 4) return multiply_rows<T, G, 4>(blocks, a, w, block_stride, init, out, out_stride);
  }
  if constexpr (max_rows(G) >= 6) {
    if (rows == 5) return multiply_rows<T, G, 5>(blocks, a, w, block_stride, init, out, out_stride);
    if (rows == 6) return multiply_rows<T, G, 6>(blocks, a, w, block_stride, init, out, out_stride);
  }
  if constexpr (max_rows(G) >= 8) {
    if (rows == 7) return multiply_rows<T, G, 7>(blocks, a, w, block_stride, init, out, out_stride);
    if (rows == 8) return multiply_rows<T, G, 8>(blocks, a, w, block_stride, init, out, out_stride);
  }
}

// Covers `rows` rows by `blocks` blocks with tiles of heights as equal as can be, calling
// tile(first_row, rows, first_block, blocks). Rows are innermost: a block's weights are read from memory once.
template <int G, class Tile>
void for_each_tile(int64_t rows, int64_t blocks, const Tile& tile) {
  if (rows == 0) return;
  const int64_t tiles = (rows + max_rows(G) - 1) / max_rows(G);
  const int tallest = static_cast<int>((rows + tiles - 1) / tiles);
  const int64_t tall = rows - tiles * (tallest - 1);  // how many tiles have that height; the others one row less
  for (int64_t block = 0; block < blocks;) {
    int width = max_blocks(tallest, G);
    while (width > blocks - block) width /= 2;
    int64_t row = 0;
    for (int64_t i = 0; i < tiles; ++i) {
      const int height = i < tall ? tallest : tallest - 1;
      tile(row, height, block, width);
      row += height;
    }
    block += width;
  }
}

template <class T>
int64_t blocks_of(int64_t units) {
  return (units + Vec<T>::kLanes - 1) / Vec<T>::kLanes;
}

template <class T>
int64_t padded(int64_t units) {
  return blocks_of<T>(units) * Vec<T>::kLanes;
}

// packed[block][k][gate][lane] = source[(block V + lane) * unit_stride + k * k_stride + gate * gate_stride],
// zero beyond the last unit
template <class T>
void pack_block(const T* source, int64_t block, int64_t units, int64_t length, int gates, int64_t unit_stride,
                int64_t k_stride, int64_t gate_stride, T* packed) {
  constexpr int kLanes = Vec<T>::kLanes;
  const int64_t row = static_cast<int64_t>(gates) * kLanes;
  T* block_start = packed + block * length * row;
  for (int g = 0; g < gates; ++g) {
    for (int lane = 0; lane < kLanes; ++lane) {
      T* to = block_start + g * kLanes + lane;
      const int64_t unit = block * kLanes + lane;
      if (unit < units) {
        const T* from = source + unit * unit_stride + g * gate_stride;
        for (int64_t k = 0; k < length; ++k) to[k * row] = from[k * k_stride];
      } else {
        for (int64_t k = 0; k < length; ++k) to[k * row] = T(0);
      }
    }
  }
}

// packed[block][k][lane] = rows[k][block V + lane], zero for a null row and beyond the last column
template <class T>
void pack_rows(const T* const* rows, int64_t count, int64_t columns, int64_t block, T* packed) {
  using V = Vec<T>;
  const int64_t first = block * V::kLanes;
  const int width = static_cast<int>(columns - first < V::kLanes ? columns - first : V::kLanes);
  T* to = packed + first * count;
  for (int64_t k = 0; k < count; ++k, to += V::kLanes) {
    (rows[k] ? V::load(rows[k] + first, width) : V::set(0)).store(to);
  }
}

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
