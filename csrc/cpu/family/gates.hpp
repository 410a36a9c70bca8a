// cells/family_gates.hpp for a block of units at a time, whose peepholes and incoming gradients are
// loaded from panels.
#pragma once

#include "cells/family_gates.hpp"
#include "cpu/dual.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

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

// Makes the gates of a block of units: the panels of peepholes lie one after the other.
template <class V>
class GatesOf {
 public:
  using Gates = FamilyGates<V>;

  // grad_clip: of the gates' gradients; 0 for none
  GatesOf(const Family& f, int gates, At<V> peepholes, int peephole_count, int64_t width,
          double grad_clip = 0)
      : gates_(Gates::of(f, gates, grad_clip)),
        peepholes_(peepholes),
        peephole_count_(peephole_count),
        width_(width) {
    gates_.has_peepholes = f.peephole.present;
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
