// The products of all drivers over gemm.hpp: of weights with rows, of transposed weights with the
// gradients of gates, and of those gradients with rows, which is the gradient of the weights.
#pragma once

#include "cpu/team.hpp"
#include "cpu/unpacked.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// What a sum begins with: row r at `at` + r * stride; null: zero.
template <class T>
struct Start {
  const T* at;
  int64_t stride;
};

// out[r] = start + W left(r) of N gates, at the blocks of `range`; rows [blocks, N, V]
template <int N, class T, class LeftRow>
void product(const LeftRow& left_row, int64_t rows, const BlockRange& range, int64_t length,
             const Weights<T>& w, const Start<T>& start, int64_t blocks, T* out) {
  constexpr int kLanes = Vec<T>::kLanes;
  for_each_tile<N>(rows, range.first, range.last, length, [&](const Tile& tile) {
    Left<T> left;
    left.stride = 1;
    for (int m = 0; m < tile.rows; ++m) left.rows[m] = left_row(tile.row + m) + tile.k;
    Right<T> right{};
    right.out_stride = blocks * N * kLanes;
    right.out = out + tile.row * right.out_stride + tile.block * N * kLanes;
    if (!tile.first_piece) {
      right.init = right.out;
      right.init_stride = right.out_stride;
    } else if (start.at) {
      right.init = start.at + tile.row * start.stride + tile.block * N * kLanes;
      right.init_stride = start.stride;
    }
    multiply_weights<T, N>(tile, left, right, w, length);
  });
}

// Gates [first, last) of `units` each, whose gradients lie at offset[gate] of a row.
struct GateRange {
  int first, last;
  int64_t units;
  const int64_t* offset;
};

// out[r] (+)= sum over the gates of w[gate]^T (left(r) + offset[gate]), at the blocks of `range`;
// w: `all` gates (pack_transposed). left(r) may be `zeros`, of which nothing comes.
template <class T, class LeftRow>
void transposed_product(const LeftRow& left_row, int64_t rows, const GateRange& gates, int all,
                        const Weights<T>& w, const T* zeros, const BlockRange& range, bool adds,
                        T* out, int64_t out_stride) {
  constexpr int kLanes = Vec<T>::kLanes;
  for (int gate = gates.first, end; gate < gates.last; gate = end) {
    end = gate + 1;  // gates whose gradients lie one after the other are one sum
    while (end < gates.last && gates.offset[end] == gates.offset[end - 1] + gates.units) ++end;
    const int64_t length = (end - gate) * gates.units;
    for_each_tile<1>(rows, range.first, range.last, length, [&](const Tile& tile) {
      const bool begins = gate == gates.first && tile.first_piece && !adds;
      Left<T> left;
      left.stride = 1;
      bool all_zero = true;
      for (int m = 0; m < tile.rows; ++m) {
        const T* row = left_row(tile.row + m);
        all_zero = all_zero && row == zeros;
        left.rows[m] = row + gates.offset[gate] + tile.k;
      }
      T* to = out + tile.row * out_stride + tile.block * kLanes;
      if (all_zero) {  // the last step of these rows
        for (int m = 0; begins && m < tile.rows; ++m)
          copy_or_zero<T>(to + m * out_stride, nullptr, tile.blocks * kLanes);
        return;
      }
      Right<T> right{};
      right.out = to;
      right.out_stride = out_stride;
      right.init = begins ? nullptr : to;
      right.init_stride = out_stride;
      multiply_weights<T, 1>(tile, left, right, w, all * gates.units, gate * gates.units);
    });
  }
}

// Rows by columns, [blocks, rows, V]: what a weight product reads one unit of at a time.
template <class T>
struct Columns {
  static constexpr int kLanes = Vec<T>::kLanes;
  T* at;
  int64_t block_stride;

  Columns(T* columns, int64_t rows) : at(columns), block_stride(size(rows)) {}
  // of a block. An odd number of rows, so that the columns of one row, which are written one after
  // the other, fall into different sets of the caches.
  static int64_t size(int64_t rows) { return (rows | 1) * kLanes; }

  T* place(int64_t block, int64_t row) const { return at + block * block_stride + row * kLanes; }
  const T* unit(int64_t n) const { return place(n / kLanes, 0) + n % kLanes; }

  Vec<T> sum(int64_t block, int64_t rows) const {
    Vec<T> sum = Vec<T>::set(0);
    for (int64_t k = 0; k < rows; ++k) sum = sum + Vec<T>::load(place(block, k));
    return sum;
  }
};

// out[u][n] = left[u] right[n]: the weight product of one row
template <class T>
void outer_product(const T* left, int64_t units, const T* right, int64_t columns, T* out) {
  using V = Vec<T>;
  const V zero = V::set(0);  // multiply() begins with it: the same zeros
  const int64_t blocks = blocks_of<T>(columns);
  for (int64_t u = 0; u < units; ++u, out += columns) {
    const V value = V::set(left[u]);
    for (int64_t j = 0; j < blocks; ++j)
      store_block(out, j, columns, fma(value, V::load(right + j * V::kLanes), zero));
  }
}

constexpr int64_t kWeightRowsPerTask = 48;

// Units of a gate that are one task of a weight product, of `gates` gates: all workers get as many.
inline int64_t weight_rows_per_task(int64_t units, int64_t gates, int workers) {
  if (workers == 1) return kWeightRowsPerTask;
  int64_t tasks = (units + kWeightRowsPerTask - 1) / kWeightRowsPerTask;
  while (tasks * gates % workers != 0) ++tasks;
  return (units + tasks - 1) / tasks;
}

// dw[gate][u][n] (+)= sum over k < count of left[k][offset[gate] + u] * packed[k][n], n < columns
template <class T>
void weight_product(int threads, const Columns<T>& left, const GateRange& gates, int64_t count,
                    const T* packed, int64_t columns, bool sets, T* dw) {
  using V = Vec<T>;
  constexpr int kLanes = V::kLanes;
  const int64_t units = gates.units, number = gates.last - gates.first;
  const int workers = threads_for(threads, count * number * units * columns);
  const int64_t rows_per_task = weight_rows_per_task(units, number, workers);
  const int64_t tasks_per_gate = (units + rows_per_task - 1) / rows_per_task;
  parallel_for(workers, tasks_per_gate * number, [&](int64_t task) {
    const int64_t gate = gates.first + task / tasks_per_gate;
    const int64_t first = task % tasks_per_gate * rows_per_task;
    const int64_t rows = smaller(rows_per_task, units - first);
    T* out = dw + (gate * units + first) * columns;
    if (sets && count == 1)
      return outer_product(left.unit(gates.offset[gate] + first), rows, packed, columns, out);
    alignas(kAlignment) T sums[kWeightRowsPerTask * kAccumulators * kLanes];
    for_each_tile<1>(rows, 0, blocks_of<T>(columns), count, [&](const Tile& tile) {
      Left<T> column;
      column.stride = kLanes;
      for (int m = 0; m < tile.rows; ++m) {
        column.rows[m] = left.unit(gates.offset[gate] + first + tile.row + m) + tile.k * kLanes;
      }
      Right<T> right = weights_of<T, 1>(tile, packed, count);
      T* to = out + tile.row * columns;
      const bool is_whole = tile.first_piece && tile.last_piece;
      if (sets && is_whole && (tile.block + tile.blocks) * kLanes <= columns) {
        right.out = to + tile.block * kLanes;
        right.out_stride = columns;
        return multiply<T, 1>(tile, column, right);
      }
      right.out_stride = tile.blocks * kLanes;
      T* sum_of_tile = sums + tile.row * right.out_stride;
      right.out = sum_of_tile;
      right.init = tile.first_piece ? nullptr : sum_of_tile;
      right.init_stride = right.out_stride;
      if (tile.last_piece && !sets) {
        for (int m = 0; m < tile.rows; ++m) {
          for (int j = 0; j < tile.blocks; ++j)
            __builtin_prefetch(to + m * columns + (tile.block + j) * kLanes, 1, 3);
        }
      }
      multiply<T, 1>(tile, column, right);
      if (!tile.last_piece) return;
      for (int m = 0; m < tile.rows; ++m, to += columns) {
        for (int j = 0; j < tile.blocks; ++j) {
          V sum = V::load(sum_of_tile + (m * tile.blocks + j) * kLanes);
          if (!sets) sum = load_block(to, tile.block + j, columns) + sum;
          store_block(to, tile.block + j, columns, sum);
        }
      }
    });
  });
}

// Where the sums of a tile go.
template <class T>
struct Out {
  T* at;
  int64_t row_stride;
};

// The products of a plain layer with its weights, of a tile at a time, by multiply(), in the dtype
// itself. FixedProduct (fixed.hpp) has the same members and other arithmetic.
//
//   out[row][block][N][V] = bias[block][N][V] + sum over k of rows[row][k] * w[block][N][k][V]
template <class T>
struct PlainProduct {
  static constexpr int kLanes = Vec<T>::kLanes;

  struct Unit {};  // what a thread holds while it multiplies

  // Blocks times rows of a tile of N gates, at most; and the sums of one row, at most.
  template <int N>
  static constexpr int kTileBlocks = kAccumulators / N;
  static constexpr int64_t kSums = kAccumulators * kLanes;

  // Those of each range, which its thread sets at every step, in cache lines of their own.
  struct Rows {
    static constexpr int64_t kApart = kAlignment / sizeof(T*);
    const T** row;

    Rows(Arena& arena, int64_t rows, int64_t, int64_t ranges)
        : row(arena.take<const T*>(rows + ranges * kApart)) {}
    explicit Rows(const T** first) : row(first) {}
    Rows from(int64_t first, int64_t range) const { return Rows(row + first + range * kApart); }
    void set(int64_t r, const T* values) const { row[r] = values; }
  };

  // `gates` gates of w with `units` units each, from gate `first_gate` on: [blocks, terms, gates,
  // V]
  struct Matrix {
    const Tensor& w;
    int64_t units, terms;
    int first_gate, gates;
    T* packed;

    Matrix(Arena& arena, const Tensor& tensor, int64_t hidden, int first, int count, bool packs)
        : w(tensor),
          units(hidden),
          terms(tensor.shape[1]),
          first_gate(first),
          gates(count),
          packed(packs ? arena.take<T>(padded<T>(units) * gates * terms) : nullptr) {}

    void fill(int64_t first_block, int64_t last_block) const {
      if (packed) pack_gates(w, first_block, last_block, units, terms, first_gate, gates, packed);
    }

    Weights<T> weights() const {
      const int64_t gate_stride = units * w.stride[0];
      return {packed,      static_cast<const T*>(w.data) + first_gate * gate_stride,
              w.stride[0], w.stride[1],
              gate_stride, units};
    }
  };

  // body(tile, out) for every tile whose sums are whole; place(tile) -> Out<T>
  template <int N, class Place, class Body>
  static void each_tile(const Rows& left, int64_t rows, const Matrix& w, const T* bias,
                        const BlockRange& range, const Place& place, const Body& body) {
    const Weights<T> weights = w.weights();
    for_each_tile<N>(rows, range.first, range.last, w.terms, [&](const Tile& tile) {
      Left<T> factor;
      factor.stride = 1;
      for (int m = 0; m < tile.rows; ++m) factor.rows[m] = left.row[tile.row + m] + tile.k;
      Right<T> right{};
      const Out<T> out = place(tile);
      right.out = out.at;
      right.out_stride = out.row_stride;
      right.init = tile.first_piece ? bias + tile.block * N * kLanes : right.out;
      right.init_stride = tile.first_piece ? 0 : right.out_stride;
      multiply_weights<T, N>(tile, factor, right, weights, w.terms);
      if (tile.last_piece) body(tile, right.out);
    });
  }
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
