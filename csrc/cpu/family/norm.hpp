// Layer normalisation of one row (Ba, Kiros & Hinton 2016) of some gates of `units` units, the
// block j of gate g at j block_stride + g gate_stride; lanes beyond the last unit are 0 before and
// after.
//
// What it keeps for backward, one row of ForwardArgs::family.norms [T, B, 2 G H + H + 4]:
//   normalised gx [G*H], normalised gh [G*H], normalised c [H] (for an LSTM), and the four factors
//   1 / sqrt(variance + eps): of gx, of gh (early and late), of c
#pragma once

#include "cpu/gemm.hpp"
#include "cpu/sequence.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

template <class T>
T sum_of(Vec<T> v) {
  T lanes[Vec<T>::kLanes];
  v.store(lanes);
  T sum = 0;
  for (const T lane : lanes) sum += lane;
  return sum;
}

template <class T>
struct RowNorm {
  using V = Vec<T>;
  int64_t units, blocks;
  int gates;
  int64_t block_stride, gate_stride;
  const T* valid;  // [blocks, V]: 1, and 0 beyond the last unit
  T eps;

  // values = (values - mean) / sqrt(variance + eps) -> the factor
  T normalise(T* values) const {
    const V mean = V::set(total(values) / count());
    V squares = V::set(0);
    each([&](int64_t at, V lanes) {
      const V centred = (V::load(values + at) - mean) * lanes;
      centred.store(values + at);
      squares = fma(centred, centred, squares);
    });
    const T variance = sum_of(squares) / count();
    const T factor = T(1) / square_root(variance + eps);
    each([&](int64_t at, V) { (V::load(values + at) * V::set(factor)).store(values + at); });
    return factor;
  }

  // d = factor (d - mean(d) - normalised mean(d normalised))
  void backward(T* d, const T* normalised, T factor) const {
    const V mean = V::set(total(d) / count());
    V products = V::set(0);
    each([&](int64_t at, V) {
      products = fma(V::load(d + at), V::load(normalised + at), products);
    });
    const V along = V::set(sum_of(products) / count());
    each([&](int64_t at, V lanes) {
      const V inner = V::load(d + at) - mean - V::load(normalised + at) * along;
      (inner * V::set(factor) * lanes).store(d + at);
    });
  }

 private:
  T count() const { return static_cast<T>(gates * units); }

  T total(const T* values) const {
    V sum = V::set(0);
    each([&](int64_t at, V) { sum = sum + V::load(values + at); });
    return sum_of(sum);
  }

  template <class Body>
  void each(const Body& body) const {
    for (int64_t j = 0; j < blocks; ++j) {
      const V lanes = V::load(valid + j * V::kLanes);
      for (int g = 0; g < gates; ++g) body(j * block_stride + g * gate_stride, lanes);
    }
  }

  static T square_root(T a) {
    if constexpr (sizeof(T) == 4) {
      return __builtin_sqrtf(a);
    } else {
      return __builtin_sqrt(a);
    }
  }
};

// Where the parts of a row of norms lie.
struct NormLayout {
  int64_t gx, gh, c, factors, size;
  NormLayout(int64_t gates, int64_t units)
      : gx(0), gh(gates * units), c(2 * gates * units), factors(c + units), size(factors + 4) {}
};
enum NormFactor { kOfX, kOfEarly, kOfLate, kOfC };

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
