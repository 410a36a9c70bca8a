// Rows of masks (masks.hpp): several counters at once, in plain loops that the compiler is to
// vectorise, against what the build says for the files of one instruction set.
#pragma once

#include <stdint.h>

#include "cpu/sequence.hpp"
#include "masks.hpp"

#if defined(__clang__)
#define FASTRNN_VECTORISE
#define FASTRNN_VECTOR_LOOP _Pragma("clang loop vectorize(enable)")
#else
#define FASTRNN_VECTORISE __attribute__((optimize("tree-vectorize")))
#define FASTRNN_VECTOR_LOOP
#endif

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// What a row of units gets by chance.
template <class T>
class Events {
 public:
  explicit Events(const Chance<T>& chance) : chance_(chance) {}

  void fill(int64_t t, int64_t b, int64_t units, T* out) const {
    each_piece(t, b, units, [&](int64_t first, int64_t count, const T* values) {
      memcpy(out + first, values, static_cast<size_t>(count) * sizeof(T));
    });
  }

  void multiply(int64_t t, int64_t b, int64_t units, T* out) const {
    each_piece(t, b, units, [&](int64_t first, int64_t count, const T* values) {
      for (int64_t i = 0; i < count; ++i) out[first + i] *= values[i];
    });
  }

 private:
  static constexpr int kAtOnce = 64, kGrain = 16;  // counters

  template <class Use>
  void each_piece(int64_t t, int64_t b, int64_t units, const Use& use) const {
    T values[4 * kAtOnce];
    for (int64_t first = 0; first < units; first += 4 * kAtOnce) {
      const int64_t count = smaller(4 * kAtOnce, units - first);
      decide(static_cast<uint32_t>(first / 4), static_cast<uint32_t>(b), static_cast<uint32_t>(t),
             static_cast<int>((count + 4 * kGrain - 1) / (4 * kGrain)) * kGrain, values);
      use(first, count, values);
    }
  }

  // of n counters, some grains of them
  FASTRNN_VECTORISE __attribute__((noinline)) void decide(uint32_t block, uint32_t b, uint32_t t,
                                                          int n, T* values) const {
    uint32_t c[4][kAtOnce];
    for (int i = 0; i < n; ++i) {
      c[0][i] = block + static_cast<uint32_t>(i), c[1][i] = b, c[2][i] = t,
      c[3][i] = chance_.stream;
    }
    uint32_t k0 = static_cast<uint32_t>(chance_.key), k1 = static_cast<uint32_t>(chance_.key >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      FASTRNN_VECTOR_LOOP
      for (int i = 0; i < n; ++i) philox_round(c[0][i], c[1][i], c[2][i], c[3][i], k0, k1);
      next_philox_key(k0, k1);
    }
    const Chance<T> chance = chance_;
    FASTRNN_VECTOR_LOOP
    for (int i = 0; i < n; ++i) {
      values[4 * i] = chance.of(c[0][i]);
      values[4 * i + 1] = chance.of(c[1][i]);
      values[4 * i + 2] = chance.of(c[2][i]);
      values[4 * i + 3] = chance.of(c[3][i]);
    }
  }

  Chance<T> chance_;
};

// w_hh times what DropConnect keeps of it, in memory of `arena`
template <class T>
Tensor kept_weights(const Family& family, const Tensor& w_hh, Arena& arena) {
  if (!has_weight_dropout(family)) return w_hh;
  const int64_t rows = w_hh.shape[0], columns = w_hh.shape[1];
  T* product = arena.take<T>(rows * columns);
  Tensor kept = w_hh;
  kept.data = product;
  kept.stride[0] = columns, kept.stride[1] = 1;
  if (!arena.base) return kept;
  const Events<T> mask(fastrnn::kept_weights<T>(family));
  for (int64_t row = 0; row < rows; ++row) {
    T* to = product + row * columns;
    const T* from = static_cast<const T*>(w_hh.data) + row * w_hh.stride[0];
    for (int64_t k = 0; k < columns; ++k) to[k] = from[k * w_hh.stride[1]];
    mask.multiply(0, row, columns, to);
  }
  return kept;
}

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
