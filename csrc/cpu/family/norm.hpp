// Layer normalisation of one row (Ba, Kiros & Hinton 2016) of some gates of `units` units, the
// block j of gate g at j block_stride + g gate_stride; lanes beyond the last unit are 0 before and
// after. What it keeps for backward: NormLayout in cells/units.hpp.
#pragma once

#include "cpu/dual.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// of all lanes, in all lanes
template <class T>
Vec<T> sum_of(Vec<T> v) {
  T lanes[Vec<T>::kLanes];
  v.store(lanes);
  T sum = 0;
  for (const T lane : lanes) sum += lane;
  return Vec<T>::set(sum);
}
template <class V>
Dual<V> sum_of(Dual<V> v) {
  return {sum_of(v.value), sum_of(v.tangent)};
}

inline float square_root(float a) { return __builtin_sqrtf(a); }
inline double square_root(double a) { return __builtin_sqrt(a); }

// 1 / sqrt(a), of one number in all lanes
template <class T>
Vec<T> inverse_root(Vec<T> a) {
  T lanes[Vec<T>::kLanes];
  a.store(lanes);
  return Vec<T>::set(T(1) / square_root(lanes[0]));
}
template <class V>
Dual<V> inverse_root(Dual<V> a) {
  const V value = inverse_root(a.value);
  return {value, V::set(typename V::Scalar(-0.5)) * value * value * value * a.tangent};
}

template <class V>
struct RowNorm {
  using T = typename V::Scalar;
  int64_t units, blocks;
  int gates;
  int64_t block_stride, gate_stride;
  const T* valid;  // [blocks, V]: 1, and 0 beyond the last unit
  T eps;

  // values = (values - mean) / sqrt(variance + eps) -> the factor
  V normalise(At<V> values) const {
    const V mean = total(values) / count();
    V squares = V::set(0);
    each([&](int64_t at, Lanes<V> lanes) {
      const V centred = (V::load(values + at) - mean) * lanes;
      centred.store(values + at);
      squares = fma(centred, centred, squares);
    });
    const V factor = inverse_root(sum_of(squares) / count() + V::set(eps));
    each([&](int64_t at, Lanes<V>) { (V::load(values + at) * factor).store(values + at); });
    return factor;
  }

  // d = factor (d - mean(d) - normalised mean(d normalised))
  void backward(At<V> d, ConstAt<V> normalised, V factor) const {
    const V mean = total(d) / count();
    V products = V::set(0);
    each([&](int64_t at, Lanes<V>) {
      products = fma(V::load(d + at), V::load(normalised + at), products);
    });
    const V along = sum_of(products) / count();
    each([&](int64_t at, Lanes<V> lanes) {
      (norm_gradient(V::load(d + at), V::load(normalised + at), factor, mean, along) * lanes)
          .store(d + at);
    });
  }

 private:
  V count() const { return V::set(static_cast<T>(gates * units)); }

  V total(ConstAt<V> values) const {
    V sum = V::set(0);
    each([&](int64_t at, Lanes<V>) { sum = sum + V::load(values + at); });
    return sum_of(sum);
  }

  template <class Body>
  void each(const Body& body) const {
    for (int64_t j = 0; j < blocks; ++j) {
      const Lanes<V> lanes = Lanes<V>::load(valid + j * V::kLanes);
      for (int g = 0; g < gates; ++g) body(j * block_stride + g * gate_stride, lanes);
    }
  }
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
