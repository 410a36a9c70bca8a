// What goes on around the gates of a cell (cells/gates.hpp), with everything in it that a layer may
// have: ONNX's activations and their clip, peepholes, the clip of c, gradients from outside and the
// bound of the gates' gradients. Who uses it gives activate(activation, a) for its own V.
#pragma once

#include "cells/gates.hpp"
#include "family.hpp"

namespace fastrnn {

// log(1 + e) for 0 <= e <= 1: 2 atanh(e / (2 + e)), |e / (2 + e)| <= 1/3
template <class V>
FASTRNN_HD V log1p_of_unit(V e) {
  constexpr int kTerms = sizeof(typename V::Scalar) == 4 ? 8 : 17;
  using T = typename V::Scalar;
  const V s = e / (V::set(2) + e), square = s * s;
  V sum = V::set(T(1) / T(2 * kTerms - 1));
  for (int n = kTerms - 2; n >= 0; --n) sum = fma(sum, square, V::set(T(1) / T(2 * n + 1)));
  return V::set(2) * s * sum;
}

template <class V>
FASTRNN_HD Gate<V> activated(const Activation& f, V a) {
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

// The cell's own activations, of which the value is kept, or chosen ones, of which the input is
// kept.
template <class V>
struct FamilyActivations {
  bool is_chosen;            // false: the cell's own
  const Activation* chosen;  // of each gate
  int outputs;               // which is the output's
  V clip;

  template <class F>
  FASTRNN_HD V value(int n, F, V a, V& kept) const {
    if (!is_chosen) return kept = F::value(a);
    kept = a;
    return activate(chosen[n], clipped_input(a)).value;
  }
  template <class F>
  FASTRNN_HD Gate<V> again(int n, F, V kept) const {
    if (!is_chosen) return {kept, F::derivative(kept)};
    Gate<V> gate = activate(chosen[n], clipped_input(kept));
    gate.slope = select(less(clip, abs(kept)), V::set(0), gate.slope);
    return gate;
  }
  template <class F>
  FASTRNN_HD V output(F, V c) const {
    return is_chosen ? activate(chosen[outputs], c).value : F::value(c);
  }
  template <class F>
  FASTRNN_HD Gate<V> output_again(F, V c) const {
    if (is_chosen) return activate(chosen[outputs], c);
    const V value = F::value(c);
    return {value, F::derivative(value)};
  }

 private:
  FASTRNN_HD V clipped_input(V a) const { return maximum(V::set(0) - clip, minimum(clip, a)); }
};

template <class V>
struct FamilyGates : FamilyActivations<V> {
  V weights[kMaxPeepholes];
  V incoming_gradients[4];
  V cell_clip, bound;
  bool has_peepholes, has_incoming, has_clip, is_bounded;

  // without peepholes and gradients from outside; grad_clip: of the gates' gradients, 0 for none
  template <class Tensor>
  FASTRNN_HD static FamilyGates of(const FamilyOf<Tensor>& f, int gates, double grad_clip) {
    using T = typename V::Scalar;
    FamilyGates k;
    k.is_chosen = f.chosen;
    k.chosen = f.activations;
    k.outputs = gates;
    k.clip = V::set(static_cast<T>(f.clip));
    k.cell_clip = V::set(static_cast<T>(f.cell_clip));
    k.bound = V::set(static_cast<T>(grad_clip));
    k.has_peepholes = k.has_incoming = false;
    k.has_clip = f.cell_clip > 0;
    k.is_bounded = grad_clip > 0;
    for (V& weight : k.weights) weight = V::set(0);
    for (V& gradient : k.incoming_gradients) gradient = V::set(0);
    return k;
  }

  FASTRNN_HD V peep(int n, V a, V c) const { return has_peepholes ? fma(weights[n], c, a) : a; }
  FASTRNN_HD V peep_back(int n, V d, V dc) const {
    return has_peepholes ? fma(weights[n], d, dc) : dc;
  }
  FASTRNN_HD V clipped(V c) const {
    return has_clip ? maximum(V::set(0) - cell_clip, minimum(cell_clip, c)) : c;
  }
  FASTRNN_HD V inside(V c, V dc) const {
    return has_clip ? select(less(cell_clip, abs(c)), V::set(0), dc) : dc;
  }
  FASTRNN_HD V gradient(int n, V d, V slope) const {
    const V product = (has_incoming ? d + incoming_gradients[n] : d) * slope;
    return is_bounded ? maximum(V::set(0) - bound, minimum(bound, product)) : product;
  }
};

}  // namespace fastrnn
