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
  if constexpr (Vec<T>::kLanes > 1) {
    for (int n = 1; n < Vec<T>::kLanes; n *= 2) v = zip_low(v, v) + zip_high(v, v);
  }
  return v;
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

  // values -= mean -> the factor 1 / sqrt(variance + eps)
  V centre(At<V> values) const {
    V sum = V::set(0), squares = V::set(0);
    for (int64_t j = 0; j < blocks; ++j) {
      V of_block = V::set(0);
      for (int g = 0; g < gates; ++g) of_block = of_block + V::load(values + place(j, g));
      sum = sum + of_block;
    }
    const V mean = sum_of(sum) * per_unit();
    for (int64_t j = 0; j < blocks; ++j) {
      const Lanes<V> lanes = Lanes<V>::load(valid + j * V::kLanes);
      V of_block = V::set(0);
      for (int g = 0; g < gates; ++g) {
        const V centred = (V::load(values + place(j, g)) - mean) * lanes;
        centred.store(values + place(j, g));
        of_block = fma(centred, centred, of_block);
      }
      squares = squares + of_block;
    }
    return inverse_root(sum_of(squares) * per_unit() + V::set(eps));
  }

  // to = factor (d - mean(d) - normalised mean(d normalised)); d(j, g) and normalised(j, g): block
  // j of gate g
  template <class D, class Normalised>
  void backward(const D& d, const Normalised& normalised, V factor, At<V> to) const {
    V sum = V::set(0), products = V::set(0);
    for (int64_t j = 0; j < blocks; ++j) {
      V of_block = V::set(0), products_of_block = V::set(0);
      for (int g = 0; g < gates; ++g) {
        const V value = d(j, g);
        value.store(to + place(j, g));
        of_block = of_block + value;
        products_of_block = fma(value, normalised(j, g), products_of_block);
      }
      sum = sum + of_block;
      products = products + products_of_block;
    }
    const V mean = sum_of(sum) * per_unit(), along = sum_of(products) * per_unit();
    for (int64_t j = 0; j < blocks; ++j) {
      const Lanes<V> lanes = Lanes<V>::load(valid + j * V::kLanes);
      for (int g = 0; g < gates; ++g) {
        const V d_row = V::load(to + place(j, g));
        (norm_gradient(d_row, normalised(j, g), factor, mean, along) * lanes)
            .store(to + place(j, g));
      }
    }
  }

 private:
  Lanes<V> per_unit() const { return Lanes<V>::set(T(1) / static_cast<T>(gates * units)); }
  int64_t place(int64_t j, int g) const { return j * block_stride + g * gate_stride; }
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
