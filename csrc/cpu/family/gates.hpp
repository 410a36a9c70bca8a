// What goes on around the gates of a cell (cells/gates.hpp), with everything in it that a layer may
// have: ONNX's activations and their clip, peepholes, the clip of c, gradients from outside.
#pragma once

#include "cells/gates.hpp"
#include "cpu/dual.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// log(1 + e) for 0 <= e <= 1: 2 atanh(e / (2 + e)), |e / (2 + e)| <= 1/3
template <class V>
V log1p_of_unit(V e) {
  constexpr int kTerms = sizeof(typename V::Scalar) == 4 ? 8 : 17;
  using T = typename V::Scalar;
  const V s = e / (V::set(2) + e), square = s * s;
  V sum = V::set(T(1) / T(2 * kTerms - 1));
  for (int n = kTerms - 2; n >= 0; --n) sum = fma(sum, square, V::set(T(1) / T(2 * n + 1)));
  return V::set(2) * s * sum;
}

template <class V>
Gate<V> activated(const Activation& f, V a) {
  using T = typename V::Scalar;
  const V zero = V::set(0), one = V::set(1);
  const V alpha = V::set(static_cast<T>(f.alpha)), beta = V::set(static_cast<T>(f.beta));
  switch (f.function) {
    case Function::kSigmoid: {
      const V y = sigmoid(a);
      return {y, sigmoid_derivative(y)};
    }
    case Function::kTanh: {
      const V y = tanh(a);
      return {y, tanh_derivative(y)};
    }
    case Function::kRelu:
      return {relu(a), select(less(zero, a), one, zero)};
    case Function::kAffine:
      return {fma(alpha, a, beta), alpha};
    case Function::kLeakyRelu:
      return {select(less(a, zero), alpha * a, a), select(less(a, zero), alpha, one)};
    case Function::kThresholdedRelu:
      return {select(less(a, alpha), zero, a), select(less(a, alpha), zero, one)};
    case Function::kScaledTanh: {
      const V y = tanh(beta * a);
      return {alpha * y, alpha * beta * tanh_derivative(y)};
    }
    case Function::kHardSigmoid: {
      const V y = fma(alpha, a, beta);
      const V value = minimum(one, maximum(zero, y));
      return {value, select(less(zero, y), select(less(y, one), alpha, zero), zero)};
    }
    case Function::kElu: {
      const V expm1 = expm1_of_negative(minimum(zero, a));
      return {select(less(a, zero), alpha * expm1, a),
              select(less(a, zero), alpha * (expm1 + one), one)};
    }
    case Function::kSoftsign: {
      const V d = one / (one + abs(a));
      return {a * d, d * d};
    }
    case Function::kSoftplus:
      return {maximum(zero, a) + log1p_of_unit(exp_minus_abs(a)), sigmoid(a)};
  }
  return {a, one};
}

// At a kink the tangent of the value is the slope's, as it is backwards.
template <class T>
Gate<Vec<T>> by_slope(Gate<Vec<T>> gate, Vec<T>) {
  return gate;
}
template <class V>
Gate<Dual<V>> by_slope(Gate<Dual<V>> gate, Dual<V> a) {
  gate.value.tangent = gate.slope.value * a.tangent;
  return gate;
}

template <class V>
__attribute__((noinline)) Gate<V> activate(const Activation& f, V a) {
  return by_slope(activated(f, a), a);
}

// The cell's own activations, of which the value is kept, or chosen ones, of which the input is
// kept.
template <class V>
struct FamilyActivations {
  const Activation* chosen;  // null: the cell's own
  int outputs;               // which is the output's
  V clip;

  template <class F>
  V value(int n, F, V a, V& kept) const {
    if (!chosen) return kept = F::value(a);
    kept = a;
    return activate(chosen[n], clipped_input(a)).value;
  }
  template <class F>
  Gate<V> again(int n, F, V kept) const {
    if (!chosen) return {kept, F::derivative(kept)};
    Gate<V> gate = activate(chosen[n], clipped_input(kept));
    gate.slope = select(less(clip, abs(kept)), V::set(0), gate.slope);
    return gate;
  }
  template <class F>
  V output(F, V c) const {
    return chosen ? activate(chosen[outputs], c).value : F::value(c);
  }
  template <class F>
  Gate<V> output_again(F, V c) const {
    if (chosen) return activate(chosen[outputs], c);
    const V value = F::value(c);
    return {value, F::derivative(value)};
  }

 private:
  V clipped_input(V a) const { return maximum(V::set(0) - clip, minimum(clip, a)); }
};

template <class V>
struct FamilyGates : FamilyActivations<V> {
  V weights[kMaxPeepholes];
  V incoming_gradients[4];
  V cell_clip, bound;
  bool has_peepholes, has_incoming, has_clip, is_bounded;

  V peep(int n, V a, V c) const { return has_peepholes ? fma(weights[n], c, a) : a; }
  V peep_back(int n, V d, V dc) const { return has_peepholes ? fma(weights[n], d, dc) : dc; }
  V clipped(V c) const {
    return has_clip ? maximum(V::set(0) - cell_clip, minimum(cell_clip, c)) : c;
  }
  V inside(V c, V dc) const {
    return has_clip ? select(less(cell_clip, abs(c)), V::set(0), dc) : dc;
  }
  V gradient(int n, V d, V slope) const {
    const V product = (has_incoming ? d + incoming_gradients[n] : d) * slope;
    return is_bounded ? maximum(V::set(0) - bound, minimum(bound, product)) : product;
  }
};

// Makes the gates of a block of units: the panels of peepholes lie one after the other.
template <class V>
class GatesOf {
 public:
  using T = typename V::Scalar;
  using Gates = FamilyGates<V>;

  // grad_clip: of the gates' gradients; 0 for none
  GatesOf(const Family& f, int gates, At<V> peepholes, int peephole_count, int64_t width,
          double grad_clip = 0)
      : peepholes_(peepholes), peephole_count_(peephole_count), width_(width) {
    gates_.chosen = f.chosen ? f.activations : nullptr;
    gates_.outputs = gates;
    gates_.clip = V::set(static_cast<T>(f.clip));
    gates_.has_peepholes = f.peephole.present;
    gates_.has_incoming = false;
    gates_.has_clip = f.cell_clip > 0;
    gates_.is_bounded = grad_clip > 0;
    gates_.bound = V::set(static_cast<T>(grad_clip));
    gates_.cell_clip = V::set(static_cast<T>(f.cell_clip));
    for (V& weight : gates_.weights) weight = V::set(0);
    for (V& gradient : gates_.incoming_gradients) gradient = V::set(0);
  }

  // incoming: [gates, units] or null
  Gates at(int64_t block, ConstAt<V> incoming = {}, int gates = 0, int64_t units = 0) const {
    Gates k = gates_;
    for (int n = 0; k.has_peepholes && n < peephole_count_; ++n)
      k.weights[n] = V::load(peepholes_ + (n * width_ + block * V::kLanes));
    k.has_incoming = static_cast<bool>(incoming);
    for (int g = 0; incoming && g < gates; ++g)
      k.incoming_gradients[g] = load_block(incoming + g * units, block, units);
    return k;
  }

 private:
  Gates gates_;
  At<V> peepholes_;
  int peephole_count_;
  int64_t width_;
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
