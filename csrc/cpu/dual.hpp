// Dual numbers: a value type for the cells and the drivers of the family, like Vec<T> itself, that
// carries the derivative along one direction:  f(a, t) = (f(a), f'(a) t).  So the one definition of
// each cell, of forward and of backward, is its own derivative: the tangent of forward is a jvp,
// and that of backward a second derivative (Wengert 1964; Pearlmutter 1994).
//
// Where a cell or a driver is generic over V, At<V> is where values lie: T*, or for duals a pointer
// to the values and one to the tangents. What is linear is done part by part, kParts<V> times.
#pragma once

#include "cells/units.hpp"
#include "cpu/gemm.hpp"
#include "cpu/sequence.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

template <class T>
struct DualAt {
  T* value = nullptr;
  T* tangent = nullptr;
  explicit operator bool() const { return value != nullptr; }
  // NOLINTNEXTLINE(misc-explicit-constructor): as T* becomes const T*
  operator DualAt<const T>() const { return {value, tangent}; }
};
template <class T>
DualAt<T> operator+(DualAt<T> p, int64_t n) {
  return {p.value + n, p.tangent + n};
}

template <class V>
struct Dual {
  using Scalar = typename V::Scalar;
  static constexpr int kLanes = V::kLanes;
  V value, tangent;

  static Dual set(Scalar s) { return {V::set(s), V::set(0)}; }
  static Dual load(DualAt<const Scalar> p) { return {V::load(p.value), V::load(p.tangent)}; }
  static Dual load(DualAt<const Scalar> p, int n) {
    return {V::load(p.value, n), V::load(p.tangent, n)};
  }
  void store(DualAt<Scalar> p) const { value.store(p.value), tangent.store(p.tangent); }
  void store(DualAt<Scalar> p, int n) const {
    value.store(p.value, n), tangent.store(p.tangent, n);
  }
};

template <class V>
Dual<V> operator+(Dual<V> a, Dual<V> b) {
  return {a.value + b.value, a.tangent + b.tangent};
}
template <class V>
Dual<V> operator-(Dual<V> a, Dual<V> b) {
  return {a.value - b.value, a.tangent - b.tangent};
}
template <class V>
Dual<V> operator*(Dual<V> a, Dual<V> b) {
  return {a.value * b.value, fma(a.tangent, b.value, a.value * b.tangent)};
}
template <class V>
Dual<V> operator*(Dual<V> a, V constant) {
  return {a.value * constant, a.tangent * constant};
}
template <class V>
Dual<V> operator/(Dual<V> a, Dual<V> b) {
  const V value = a.value / b.value;
  return {value, (a.tangent - value * b.tangent) / b.value};
}
template <class V>
Dual<V> fma(Dual<V> a, Dual<V> b, Dual<V> c) {
  return {fma(a.value, b.value, c.value),
          fma(a.tangent, b.value, fma(a.value, b.tangent, c.tangent))};
}
template <class V>
Dual<V> fma(V constant, Dual<V> b, Dual<V> c) {
  return {fma(constant, b.value, c.value), fma(constant, b.tangent, c.tangent)};
}
template <class V>
auto less(Dual<V> a, Dual<V> b) {
  return less(a.value, b.value);
}
template <class Mask, class V>
Dual<V> select(Mask mask, Dual<V> yes, Dual<V> no) {
  return {select(mask, yes.value, no.value), select(mask, yes.tangent, no.tangent)};
}
template <class V>
Dual<V> minimum(Dual<V> a, Dual<V> b) {
  return select(less(a, b), a, b);
}
template <class V>
Dual<V> maximum(Dual<V> a, Dual<V> b) {
  return select(less(b, a), a, b);
}
template <class V>
Dual<V> abs(Dual<V> a) {
  return select(less(a.value, V::set(0)), Dual<V>::set(0) - a, a);
}

// The functions of math.hpp, by their derivatives.
using fastrnn::exp_minus_abs;
using fastrnn::expm1_of_negative;
using fastrnn::relu;
using fastrnn::sigmoid;
using fastrnn::tanh;

template <class V>
Dual<V> sigmoid(Dual<V> a) {
  const V value = sigmoid(a.value);
  return {value, sigmoid_derivative(value) * a.tangent};
}
template <class V>
Dual<V> tanh(Dual<V> a) {
  const V value = tanh(a.value);
  return {value, tanh_derivative(value) * a.tangent};
}
template <class V>
Dual<V> relu(Dual<V> a) {
  return {relu(a.value), select(less(V::set(0), a.value), a.tangent, V::set(0))};
}
template <class V>
Dual<V> expm1_of_negative(Dual<V> a) {
  const V value = expm1_of_negative(a.value);
  return {value, (value + V::set(1)) * a.tangent};
}
template <class V>
Dual<V> exp_minus_abs(Dual<V> a) {
  const V value = exp_minus_abs(a.value);
  return {value, (V::set(0) - value) * abs(a).tangent};
}

// ---------------------------------------------------------------- for drivers over Vec and Dual

template <class V>
struct Kind {
  using At = typename V::Scalar*;
  using ConstAt = const typename V::Scalar*;
  static constexpr int kParts = 1;
};
template <class V>
struct Kind<Dual<V>> {
  using At = DualAt<typename V::Scalar>;
  using ConstAt = DualAt<const typename V::Scalar>;
  static constexpr int kParts = 2;
};
template <class V>
using At = typename Kind<V>::At;
template <class V>
using ConstAt = typename Kind<V>::ConstAt;
template <class V>
constexpr int kParts = Kind<V>::kParts;

// Vectors of constants: masks, and the share of zoneout.
template <class V>
using Lanes = Vec<typename V::Scalar>;

template <class T>
T* part(T* p, int) {
  return p;
}
template <class T>
T* part(DualAt<T> p, int n) {
  return n == 0 ? p.value : p.tangent;
}
inline const Tensor& part(const Tensor& tensor, int n) { return n == 0 ? tensor : *tensor.tangent; }
const Tensor& part(Tensor&&, int) = delete;

template <class V>
At<V> make_at(typename V::Scalar* value, typename V::Scalar* tangent) {
  if constexpr (kParts<V> == 1) {
    return value;
  } else {
    return {value, tangent};
  }
}
template <class V>
ConstAt<V> make_at(const typename V::Scalar* value, const typename V::Scalar* tangent) {
  if constexpr (kParts<V> == 1) {
    return value;
  } else {
    return {value, tangent};
  }
}

template <class V>
At<V> take(Arena& arena, int64_t count) {
  using T = typename V::Scalar;
  T* const value = arena.take<T>(count);
  return make_at<V>(value, kParts<V> == 1 ? nullptr : arena.take<T>(count));
}

// row (t, b), or b, of a tensor
template <class V, class... Index>
At<V> row_at(const Tensor& tensor, Index... index) {
  using T = typename V::Scalar;
  return make_at<V>(row_of<T>(tensor, index...),
                    kParts<V> == 1 ? nullptr : row_of<T>(*tensor.tangent, index...));
}

template <class V>
At<V> data_of(const Tensor& tensor) {
  using T = typename V::Scalar;
  return make_at<V>(static_cast<T*>(tensor.data),
                    kParts<V> == 1 ? nullptr : static_cast<T*>(tensor.tangent->data));
}

template <class V>
ConstAt<V> previous(const Sequence& seq, const Tensor& states, const Tensor& initial, int64_t row,
                    int64_t s) {
  using T = typename V::Scalar;
  const T* value = seq.previous<T>(states, initial, row, s);
  if constexpr (kParts<V> == 1) {
    return value;
  } else {
    return {value, value ? seq.previous<T>(*states.tangent, *initial.tangent, row, s) : nullptr};
  }
}

template <class T>
void copy(T* to, const T* from, int64_t n) {
  copy_or_zero(to, from, n);
}
template <class T>
void copy(DualAt<T> to, DualAt<const T> from, int64_t n) {
  copy(to.value, from.value, n);
  copy(to.tangent, from.tangent, n);
}
template <class T>
void copy(DualAt<T> to, DualAt<T> from, int64_t n) {
  copy(to, DualAt<const T>(from), n);
}
template <class T>
void clear(T* to, int64_t n) {
  copy_or_zero<T>(to, nullptr, n);
}
template <class T>
void clear(DualAt<T> to, int64_t n) {
  clear(to.value, n);
  clear(to.tangent, n);
}

template <class T>
Dual<Vec<T>> load_block(DualAt<const T> p, int64_t block, int64_t units) {
  return {load_block(p.value, block, units), load_block(p.tangent, block, units)};
}
template <class T>
Dual<Vec<T>> load_block(DualAt<T> p, int64_t block, int64_t units) {
  return load_block(DualAt<const T>(p), block, units);
}
template <class T>
void store_block(DualAt<T> p, int64_t block, int64_t units, Dual<Vec<T>> value) {
  store_block(p.value, block, units, value.value);
  store_block(p.tangent, block, units, value.tangent);
}

// one number in all lanes
template <class V>
V broadcast(ConstAt<V> p) {
  if constexpr (kParts<V> == 1) {
    return V::set(*p);
  } else {
    return {Lanes<V>::set(*p.value), Lanes<V>::set(*p.tangent)};
  }
}

template <class T>
Vec<T> value_of(Vec<T> v) {
  return v;
}
template <class V>
V value_of(Dual<V> v) {
  return v.value;
}

using fastrnn::mixed;
template <class V>
Dual<V> mixed(V share, Dual<V> old, Dual<V> fresh) {
  return {mixed(share, old.value, fresh.value), mixed(share, old.tangent, fresh.tangent)};
}

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
