// The one matrix micro-kernel. Every product of the library runs through
// multiply(): the input product, the recurrent product, both products of BPTT and the weight
// gradients.
//
//   out[m][n] = init[m][n] + sum over k of a[m][k] * w[n][k]
//
// A tile is M rows by `blocks` blocks of G vectors (the G gates of V neighbouring units, V =
// lanes). Each sum runs over k in order, in one accumulator, so a row's result has the same bits
// whatever the tile it fell into.
#pragma once

#include <stdint.h>

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// Accumulators of a tile; the rest of the registers hold one step's weights and the broadcast
// value.
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

// The left factor: row m at rows[m] + k * stride.
template <class T>
struct Left {
  const T* rows[kMaxRows];
  int64_t stride;
};

// The right factor and where the result goes.
//   w: blocks of [length][G][V], block_stride apart
//   init: row m at init + m * init_stride, [blocks][G][V]; null for zero
//   out: row m at out + m * out_stride, [blocks][G][V]
//   ahead: weights laid out as w to bring into L2 meanwhile, ahead_rate values of k with every
//   kUnroll of ours, as long as k < ahead_until
template <class T>
struct Right {
  const T* w;
  int64_t block_stride, length;
  const T* init;
  int64_t init_stride;
  T* out;
  int64_t out_stride;
  const T* ahead;
  int64_t ahead_rate, ahead_until;
};

// Steps of k a turn of the loop: the counting of a turn takes slots that the multiply-adds need.
constexpr int64_t kUnroll = 4;

template <class T, int M, int B, int G>
__attribute__((noinline)) void multiply_tile(const Left<T>& a, const Right<T>& right) {
  using V = Vec<T>;
  constexpr int kVectors = B * G;
  V acc[M][kVectors];
  if (right.init) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 24
      for (int n = 0; n < kVectors; ++n)
        acc[m][n] = V::load(right.init + m * right.init_stride + n * V::kLanes);
    }
  } else {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 24
      for (int n = 0; n < kVectors; ++n) acc[m][n] = V::set(0);
    }
  }
  const T* row[M];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) row[m] = a.rows[m];
  const int64_t stride = a.stride, block_stride = right.block_stride, length = right.length;
  const T* w = right.w;
  const T* ahead = right.ahead;
  // Beside the accumulators, the registers hold either the values of all rows and one vector of
  // weights, or the other way round.
  constexpr bool kHoldsValues = M * kVectors + M < kRegisters;
  const auto multiply_add = [&](int64_t at) __attribute__((always_inline)) {
    if constexpr (kHoldsValues) {
      V value[M];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) value[m] = V::set(row[m][at]);
#pragma GCC unroll 24
      for (int n = 0; n < kVectors; ++n) {
        const V weight = V::load(w + n / G * block_stride + n % G * V::kLanes);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) add_product(acc[m][n], value[m], weight);
      }
    } else {
      V weight[kVectors];
#pragma GCC unroll 24
      for (int n = 0; n < kVectors; ++n)
        weight[n] = V::load(w + n / G * block_stride + n % G * V::kLanes);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const V value = V::set(row[m][at]);
#pragma GCC unroll 24
        for (int n = 0; n < kVectors; ++n) add_product(acc[m][n], value, weight[n]);
      }
    }
    w += G * V::kLanes;
  };
  int64_t k = 0, at = 0;
  for (; k + kUnroll <= length; k += kUnroll) {
    if (k < right.ahead_until) {
      for (int64_t i = 0; i < right.ahead_rate; ++i, ahead += G * V::kLanes) {
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) {
#pragma GCC unroll 4
          for (int g = 0; g < G; ++g)
            __builtin_prefetch(ahead + b * block_stride + g * V::kLanes, 0, 2);
        }
      }
    }
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u, at += stride) multiply_add(at);
  }
  for (; k < length; ++k, at += stride) multiply_add(at);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 24
    for (int n = 0; n < kVectors; ++n)
      acc[m][n].store(right.out + m * right.out_stride + n * V::kLanes);
  }
}

template <class T, int G, int M>
void multiply_rows(int blocks, const Left<T>& left, const Right<T>& right) {
  if constexpr (max_blocks(M, G) >= 8) {
    if (blocks == 8) return multiply_tile<T, M, 8, G>(left, right);
  }
  if constexpr (max_blocks(M, G) >= 4) {
    if (blocks == 4) return multiply_tile<T, M, 4, G>(left, right);
  }
  if constexpr (max_blocks(M, G) >= 2) {
    if (blocks == 2) return multiply_tile<T, M, 2, G>(left, right);
  }
  multiply_tile<T, M, 1, G>(left, right);
}

// rows <= max_rows(G), blocks a power of two <= max_blocks(rows, G)
template <class T, int G>
void multiply(int rows, int blocks, const Left<T>& left, const Right<T>& right) {
  switch (rows) {
    case 1:
      return multiply_rows<T, G, 1>(blocks, left, right);
    case 2:
      return multiply_rows<T, G, 2>(blocks, left, right);
    case 3:
      return multiply_rows<T, G, 3>(blocks, left, right);
    default:
      break;
  }
  if constexpr (max_rows(G) >= 4) {
    if (rows == 4) return multiply_rows<T, G, 4>(blocks, left, right);
  }
  if constexpr (max_rows(G) >= 6) {
    if (rows == 5) return multiply_rows<T, G, 5>(blocks, left, right);
    if (rows == 6) return multiply_rows<T, G, 6>(blocks, left, right);
  }
  if constexpr (max_rows(G) >= 8) {
    if (rows == 7) return multiply_rows<T, G, 7>(blocks, left, right);
    if (rows == 8) return multiply_rows<T, G, 8>(blocks, left, right);
  }
}

// A tile of the whole product: rows [row, row + rows), blocks [block, block + blocks), and of the
// sum over k the terms [k, k + length). The first piece of a sum begins with what the caller adds
// to it, the others with what the piece before has left.
struct Tile {
  int64_t row;
  int rows;
  int64_t block;
  int blocks;
  int64_t k, length;
  int segment;  // which, and where in it
  int64_t in_segment;
  bool first_piece, last_piece;
  // the weights that come after: this tile's share in fetching them, ahead_rate values of k a turn
  int64_t next_block, next_k;
  int64_t ahead_rate, ahead_until;
};

// Terms of a sum that are done for all rows before the next ones are: their weights, of the blocks
// of one tile, stay in L1 meanwhile.
constexpr int64_t kPieceLength = 128;

// Covers `rows` rows by the blocks [first, last) with tiles of heights as equal as can be, the sum
// over `segments` times `length` terms in pieces. Rows are innermost: weights are read from beyond
// L1 once.
template <int G, class Body>
void for_each_tile(int64_t rows, int64_t first, int64_t last, int segments, int64_t length,
                   const Body& body) {
  if (rows == 0) return;
  const int64_t tiles = (rows + max_rows(G) - 1) / max_rows(G);
  const int tallest = static_cast<int>((rows + tiles - 1) / tiles);
  const int64_t tall =
      rows - tiles * (tallest - 1);  // how many tiles have that height; the others one row less
  const int64_t pieces =
      tiles > 1 && length > kPieceLength ? (length + kPieceLength / 2) / kPieceLength : 1;
  const int64_t piece_length = (length + pieces - 1) / pieces;
  // Each of several tiles fetches its share of what comes next; one alone leaves it to the CPU.
  const int64_t share = tiles > 1 ? (piece_length + tiles - 1) / tiles : 0;
  const int64_t rate = tiles >= kUnroll ? 1 : 2;
  Tile tile{};
  tile.ahead_rate = rate;
  tile.ahead_until = (share + rate - 1) / rate * kUnroll;
  for (tile.block = first; tile.block < last; tile.block += tile.blocks) {
    tile.blocks = max_blocks(tallest, G);
    while (tile.blocks > last - tile.block) tile.blocks /= 2;
    for (tile.segment = 0; tile.segment < segments; ++tile.segment) {
      for (tile.in_segment = 0; tile.in_segment < length; tile.in_segment += tile.length) {
        const int64_t left = length - tile.in_segment;
        tile.length = left < piece_length ? left : piece_length;
        tile.k = tile.segment * length + tile.in_segment;
        tile.first_piece = tile.k == 0;
        tile.last_piece = tile.k + tile.length == segments * length;
        const int64_t after = tile.block + tile.blocks < last ? tile.block + tile.blocks : first;
        tile.next_block = tile.last_piece ? after : tile.block;
        tile.next_k = tile.last_piece ? 0 : tile.k + tile.length;
        tile.row = 0;
        for (int64_t i = 0; i < tiles; ++i) {
          tile.rows = i < tall ? tallest : tallest - 1;
          body(tile);
          tile.row += tile.rows;
          tile.next_k += share;
        }
      }
    }
  }
}

// The packed weights of a tile. The tiles of the same weights share in bringing the next ones into
// L2 while they compute: from beyond L2 weights come at a fraction of the speed that they are
// needed at.
template <class T, int G>
Right<T> weights_of(const Tile& tile, const T* packed, int64_t block_stride) {
  constexpr int64_t kRow = G * Vec<T>::kLanes;
  return {packed + tile.block * block_stride + tile.k * kRow,
          block_stride,
          tile.length,
          nullptr,
          0,
          nullptr,
          0,
          packed + tile.next_block * block_stride + tile.next_k * kRow,
          tile.ahead_rate,
          tile.ahead_until};
}

template <class T>
int64_t blocks_of(int64_t units) {
  return (units + Vec<T>::kLanes - 1) / Vec<T>::kLanes;
}

template <class T>
int64_t padded(int64_t units) {
  return blocks_of<T>(units) * Vec<T>::kLanes;
}

// V values at p + block V, of which the last block of `units` may have fewer
template <class T>
Vec<T> load_block(const T* p, int64_t block, int64_t units) {
  using V = Vec<T>;
  const int64_t left = units - block * V::kLanes;
  return left >= V::kLanes ? V::load(p + block * V::kLanes)
                           : V::load(p + block * V::kLanes, static_cast<int>(left));
}

template <class T>
void store_block(T* p, int64_t block, int64_t units, Vec<T> value) {
  using V = Vec<T>;
  const int64_t left = units - block * V::kLanes;
  if (left >= V::kLanes) {
    value.store(p + block * V::kLanes);
  } else {
    value.store(p + block * V::kLanes, static_cast<int>(left));
  }
}

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
