// The one matrix micro-kernel. Every product of the library runs through
// multiply(): the input product, the recurrent product, both products of BPTT and the weight
// gradients.
//
//   out[m][n] = init[m][n] + sum over k of a[m][k] * w[n][k]
//
// Weights are packed in panels of P vectors a step of k: the G gates of V neighbouring units (V =
// lanes), or, where there is one gate, the units of four such blocks, so that the weights of a tile
// are one stream of memory. A tile is M rows by N panels. Each sum runs over k in order, in one
// accumulator, so a row's result has the same bits whatever the tile it fell into.
#pragma once

#include <stdint.h>

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// Accumulators of a tile; the rest of the registers hold one step's weights and the broadcast
// value.
constexpr int kAccumulators = kRegisters == 32 ? 24 : 12;
constexpr int kMaxRows = 8;
constexpr int64_t kVectorBytes = Vec<float>::kLanes * sizeof(float);

// Tallest tile: 6 x 4 and 8 x 3 vectors fill the 24 accumulators of a 32-register CPU.
constexpr int max_rows(int vectors) {
  const int rows = kAccumulators / vectors;
  return rows < kMaxRows ? rows : kMaxRows;
}

constexpr int max_panels(int rows, int vectors) {
  int panels = 1;
  while (2 * panels * rows * vectors <= kAccumulators) panels *= 2;
  return panels;
}

// Blocks of a panel where there is one gate; the last panel may have fewer.
constexpr int64_t kPanelBlocks = 4;
template <int G>
constexpr int64_t kGrain = G == 1 ? kPanelBlocks : 1;

// The left factor: row m at rows[m] + k * stride.
template <class T>
struct Left {
  const T* rows[kMaxRows];
  int64_t stride;
};

// The right factor and where the result goes.
//   w: panels of [length][P][V], panel_stride apart
//   init: row m at init + m * init_stride, [panels][P][V]; null for zero
//   out: row m at out + m * out_stride, [panels][P][V]
//   ahead: weights laid out as w to bring into L2 meanwhile, ahead_rate values of k with every
//   kUnroll of ours, as long as k < ahead_until
template <class T>
struct Right {
  const T* w;
  int64_t panel_stride, length;
  const T* init;
  int64_t init_stride;
  T* out;
  int64_t out_stride;
  const T* ahead;
  int64_t ahead_rate, ahead_until;
};

// Vectors of a cache line, of which one fetch brings all.
template <class T>
constexpr int kVectorsOf64Bytes =
    Vec<T>::kLanes * sizeof(T) < 64 ? 64 / (Vec<T>::kLanes * sizeof(T)) : 1;

// Steps of k a turn of the loop: the counting of a turn takes slots that the multiply-adds need.
constexpr int64_t kUnroll = 4;

template <class T, int M, int N, int P>
__attribute__((noinline)) void multiply_tile(const Left<T>& a, const Right<T>& right) {
  using V = Vec<T>;
  constexpr int kVectors = N * P;
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
  const int64_t stride = a.stride, panel_stride = right.panel_stride, length = right.length;
  const T* w = right.w;
  const T* ahead = right.ahead;
  // Beside the accumulators, the registers hold the weights and one row's value, or, where they are
  // too few for that, the values of all rows and one vector of weights.
  constexpr bool kHoldsValues =
      M * kVectors + kVectors >= kRegisters && M * kVectors + M < kRegisters;
  const auto multiply_add = [&](int64_t at) __attribute__((always_inline)) {
    if constexpr (kHoldsValues) {
      V value[M];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) value[m] = V::set(row[m][at]);
#pragma GCC unroll 24
      for (int n = 0; n < kVectors; ++n) {
        const V weight = V::load(w + n / P * panel_stride + n % P * V::kLanes);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) add_product(acc[m][n], value[m], weight);
      }
    } else {
      V weight[kVectors];
#pragma GCC unroll 24
      for (int n = 0; n < kVectors; ++n)
        weight[n] = V::load(w + n / P * panel_stride + n % P * V::kLanes);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const V value = V::set(row[m][at]);
#pragma GCC unroll 24
        for (int n = 0; n < kVectors; ++n) add_product(acc[m][n], value, weight[n]);
      }
    }
    w += P * V::kLanes;
  };
  int64_t k = 0, at = 0;
  for (; k + kUnroll <= length; k += kUnroll) {
    if (k < right.ahead_until) {
      for (int64_t i = 0; i < right.ahead_rate; ++i, ahead += P * V::kLanes) {
#pragma GCC unroll 24
        for (int n = 0; n < kVectors; n += kVectorsOf64Bytes<T>)
          __builtin_prefetch(ahead + n / P * panel_stride + n % P * V::kLanes, 0, 2);
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

template <class T, int P, int M>
void multiply_rows(int panels, const Left<T>& left, const Right<T>& right) {
  constexpr int kMost = max_panels(M, P);
  if constexpr (kMost >= 8) {
    if (panels == 8) return multiply_tile<T, M, 8, P>(left, right);
  }
  if constexpr (kMost >= 4) {
    if (panels == 4) return multiply_tile<T, M, 4, P>(left, right);
  }
  if constexpr (kMost >= 2) {
    if (panels == 2) return multiply_tile<T, M, 2, P>(left, right);
  }
  multiply_tile<T, M, 1, P>(left, right);
}

// rows <= max_rows(P), panels a power of two <= max_panels(rows, P)
template <class T, int P, int M = 1>
void multiply_panels(int rows, int panels, const Left<T>& left, const Right<T>& right) {
  if constexpr (M < max_rows(P)) {
    if (rows > M) return multiply_panels<T, P, M + 1>(rows, panels, left, right);
  }
  multiply_rows<T, P, M>(panels, left, right);
}

// A tile of the whole product: rows [row, row + rows), blocks [block, block + blocks), and of the
// sum over k the terms [k, k + length). The first piece of a sum begins with what the caller adds
// to it, the others with what the piece before has left.
struct Tile {
  int64_t row;
  int rows;
  int64_t block;
  int blocks;
  int panels, vectors;  // the blocks as N panels of P vectors
  int64_t k, length;
  bool first_piece, last_piece;
  // the weights that come after: this tile's share in fetching them, ahead_rate values of k a turn
  int64_t next_block, next_k;
  int64_t ahead_rate, ahead_until;
};

// Terms of a sum that are done for all rows before the next ones are, where weights are taken from
// beyond L2.
constexpr int64_t kPieceLength = kRegisters == 32 ? 512 : 128;

// Weights of so many bytes stay in L2, which brings them as fast as a tile wants them: then the
// rows of a tile meet all weights before the next rows do, and what the rows read and write lies
// side by side.
constexpr int64_t kWeightsInL2 = kRegisters == 32 ? 768 << 10 : 0;

// Covers `rows` rows by the blocks [first, last), in panels of `grain` blocks and `vectors`
// vectors, with tiles of heights as equal as can be, the sum over `length` terms. The weights of
// `after` come next.
template <class Body>
struct Tiling {
  int64_t rows, first, last, grain;
  int vectors;
  int64_t after, length;
  const Body& body;
  int64_t tiles = (rows + max_rows(vectors) - 1) / max_rows(vectors);
  int tallest = static_cast<int>((rows + tiles - 1) / tiles);
  // how many tiles have that height; the others one row less
  int64_t tall = rows - tiles * (tallest - 1);

  void run() const {
    const int64_t vectors_of_weights = (last - first) / grain * vectors * length;
    if (tiles > 1 && vectors_of_weights * kVectorBytes <= kWeightsInL2) {
      rows_first();
    } else {
      weights_first();
    }
  }

  int height(int64_t i) const { return i < tall ? tallest : tallest - 1; }

  void take_blocks(Tile& tile) const {
    tile.panels = max_panels(tallest, vectors);
    while (tile.panels * grain > last - tile.block) tile.panels /= 2;
    tile.blocks = static_cast<int>(tile.panels * grain);
  }

  void rows_first() const {
    Tile tile{};
    tile.vectors = vectors;
    tile.length = length;
    tile.first_piece = tile.last_piece = true;
    for (int64_t i = 0; i < tiles; ++i, tile.row += tile.rows) {
      tile.rows = height(i);
      for (tile.block = first; tile.block < last; tile.block += tile.blocks) {
        take_blocks(tile);
        body(tile);
      }
    }
  }

  // Weights are read from beyond L1 once: those of a piece, for the blocks of one tile, meet all
  // rows before the next ones do.
  void weights_first() const {
    const int64_t pieces =
        tiles > 1 && length > kPieceLength ? (length + kPieceLength / 2) / kPieceLength : 1;
    const int64_t piece_length = (length + pieces - 1) / pieces;
    // Each of several tiles fetches its share of what comes next; one alone leaves it to the CPU.
    const int64_t share = tiles > 1 ? (piece_length + tiles - 1) / tiles : 0;
    const int64_t rate = tiles >= kUnroll ? 1 : 2;
    Tile tile{};
    tile.vectors = vectors;
    tile.ahead_rate = rate;
    tile.ahead_until = (share + rate - 1) / rate * kUnroll;
    for (tile.block = first; tile.block < last; tile.block += tile.blocks) {
      take_blocks(tile);
      for (tile.k = 0; tile.k < length; tile.k += tile.length) {
        tile.length = smaller_of(length - tile.k, piece_length);
        tile.first_piece = tile.k == 0;
        tile.last_piece = tile.k + tile.length == length;
        const int64_t next = tile.block + tile.blocks < last ? tile.block + tile.blocks : after;
        tile.next_block = tile.last_piece ? next : tile.block;
        tile.next_k = tile.last_piece ? 0 : tile.k + tile.length;
        tile.row = 0;
        for (int64_t i = 0; i < tiles; ++i) {
          tile.rows = height(i);
          body(tile);
          tile.row += tile.rows;
          tile.next_k += share;
        }
      }
    }
  }

  static int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }
};

// The same of a product with G gates; `first` begins a panel.
template <int G, class Body>
void for_each_tile(int64_t rows, int64_t first, int64_t last, int64_t length, const Body& body) {
  if (rows == 0) return;
  if constexpr (G > 1) {
    Tiling<Body>{rows, first, last, 1, G, first, length, body}.run();
  } else {
    const int64_t rest = (last - first) % kPanelBlocks, full = last - rest;
    const int vectors = static_cast<int>(rest);
    Tiling<Body>{rows, first, full, kPanelBlocks, kPanelBlocks, rest ? full : first, length, body}
        .run();
    if (rest) Tiling<Body>{rows, full, last, rest, vectors, first, length, body}.run();
  }
}

// The packed weights of a tile, of sums of `length` terms; k counts from `first_k`. The tiles of
// the same weights share in bringing the next ones into L2 while they compute: from beyond L2
// weights come at a fraction of the speed that they are needed at.
template <class T, int G>
Right<T> weights_of(const Tile& tile, const T* packed, int64_t length, int64_t first_k = 0) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const int64_t row = tile.vectors * kLanes;
  return {packed + tile.block * length * G * kLanes + (first_k + tile.k) * row,
          length * row,
          tile.length,
          nullptr,
          0,
          nullptr,
          0,
          packed + tile.next_block * length * G * kLanes + (first_k + tile.next_k) * row,
          tile.ahead_rate,
          tile.ahead_until};
}

template <class T, int G>
void multiply(const Tile& tile, const Left<T>& left, const Right<T>& right) {
  if constexpr (G > 1) {
    multiply_panels<T, G>(tile.rows, tile.panels, left, right);
  } else {
    switch (tile.vectors) {
      case 1:
        return multiply_panels<T, 1>(tile.rows, tile.panels, left, right);
      case 2:
        return multiply_panels<T, 2>(tile.rows, tile.panels, left, right);
      case 3:
        return multiply_panels<T, 3>(tile.rows, tile.panels, left, right);
      default:
        return multiply_panels<T, 4>(tile.rows, tile.panels, left, right);
    }
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
