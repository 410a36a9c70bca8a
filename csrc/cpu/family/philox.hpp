// Masks from Philox4x32-10 (Salmon et al. 2011): python/fastrnn/reference/philox.py says what
// decides over an element. Several counters at once, in plain loops that the compiler is to
// vectorise, against what the build says for the files of one instruction set.
#pragma once

#include <stdint.h>

#include "cpu/sequence.hpp"

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

// What a row of units gets where an event of probability p happens, and elsewhere.
template <class T>
class Events {
 public:
  Events(uint64_t key, Stream stream, double p, T yes, T no)
      : key_(key), stream_(static_cast<uint32_t>(stream)), yes_(yes), no_(no) {
    const uint64_t threshold = static_cast<uint64_t>(__builtin_llrint(p * 4294967296.0));
    last_ = static_cast<uint32_t>(threshold - 1);
    if (threshold == 0) last_ = 0, yes_ = no;
  }

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
  static constexpr int kAtOnce = 64;

  template <class Use>
  void each_piece(int64_t t, int64_t b, int64_t units, const Use& use) const {
    T values[4 * kAtOnce];
    for (int64_t first = 0; first < units; first += 4 * kAtOnce) {
      decide(static_cast<uint32_t>(first / 4), static_cast<uint32_t>(b), static_cast<uint32_t>(t),
             values);
      use(first, smaller(4 * kAtOnce, units - first), values);
    }
  }

  FASTRNN_VECTORISE __attribute__((noinline)) void decide(uint32_t block, uint32_t b, uint32_t t,
                                                          T* values) const {
    uint32_t c[4][kAtOnce];
    for (int i = 0; i < kAtOnce; ++i) {
      c[0][i] = block + static_cast<uint32_t>(i), c[1][i] = b, c[2][i] = t, c[3][i] = stream_;
    }
    uint32_t k0 = static_cast<uint32_t>(key_), k1 = static_cast<uint32_t>(key_ >> 32);
    for (int round = 0; round < 10; ++round) {
      FASTRNN_VECTOR_LOOP
      for (int i = 0; i < kAtOnce; ++i) {
        const uint64_t p0 = uint64_t{0xD2511F53u} * c[0][i], p1 = uint64_t{0xCD9E8D57u} * c[2][i];
        c[0][i] = static_cast<uint32_t>(p1 >> 32) ^ c[1][i] ^ k0;
        c[2][i] = static_cast<uint32_t>(p0 >> 32) ^ c[3][i] ^ k1;
        c[1][i] = static_cast<uint32_t>(p1);
        c[3][i] = static_cast<uint32_t>(p0);
      }
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    const uint32_t last = last_;
    const T yes = yes_, no = no_;
    FASTRNN_VECTOR_LOOP
    for (int i = 0; i < kAtOnce; ++i) {
      values[4 * i] = c[0][i] <= last ? yes : no;
      values[4 * i + 1] = c[1][i] <= last ? yes : no;
      values[4 * i + 2] = c[2][i] <= last ? yes : no;
      values[4 * i + 3] = c[3][i] <= last ? yes : no;
    }
  }

  uint64_t key_;
  uint32_t stream_, last_;  // an event is a word of at most last_
  T yes_, no_;
};

// Inverted dropout.
template <class T>
Events<T> kept_units(uint64_t key, Stream stream, double p) {
  return Events<T>(key, stream, p, T(0), p < 1 ? static_cast<T>(1 / (1 - p)) : T(0));
}

inline bool has_weight_dropout(const Family& f) { return f.weight_dropout > 0 && f.training; }

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
  const auto mask = kept_units<T>(family.seed, Stream::kWeight, family.weight_dropout);
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
