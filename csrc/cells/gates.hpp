// What goes on around a gate, whatever the cell. A cell's equations take an object with
//
//   value(n, F, a, kept)      gate n of its input a; kept is what the reserve keeps of it
//   again(n, F, kept)         the value, and its derivative with respect to a, from what was kept
//   output(F, c)              the activation of the output;  output_again: with its derivative
//   peep(k, a, c)             a with peephole k from c;  peep_back(k, d, dc): dc with its gradient
//   clipped(c), inside(c, dc) the clip of the cell state, and its derivative times dc
//   gradient(n, d, slope)     of gate n's input, from d, that of its value
//
// F is the activation that the cell has by itself. StandardGates is that and nothing more, so that
// it costs nothing; FamilyGates (cpu/family/gates.hpp) has everything.
#pragma once

#include "math.hpp"

namespace fastrnn {

struct Sigmoid {
  template <class V>
  FASTRNN_HD static V value(V a) {
    return sigmoid(a);
  }
  template <class V>
  FASTRNN_HD static V derivative(V value) {
    return sigmoid_derivative(value);
  }
};

struct Tanh {
  template <class V>
  FASTRNN_HD static V value(V a) {
    return tanh(a);
  }
  template <class V>
  FASTRNN_HD static V derivative(V value) {
    return tanh_derivative(value);
  }
};

struct Relu {
  template <class V>
  FASTRNN_HD static V value(V a) {
    return relu(a);
  }
  template <class V>
  FASTRNN_HD static V derivative(V value) {
    return select(less(V::set(0), value), V::set(1), V::set(0));
  }
};

template <class V>
struct Gate {
  V value, slope;
};

// keeps the value, of which the derivative is a function
template <class V>
struct StandardActivations {
  template <class F>
  FASTRNN_HD V value(int, F, V a, V& kept) const {
    return kept = F::value(a);
  }
  template <class F>
  FASTRNN_HD Gate<V> again(int, F, V kept) const {
    return {kept, F::derivative(kept)};
  }
  template <class F>
  FASTRNN_HD V output(F, V c) const {
    return F::value(c);
  }
  template <class F>
  FASTRNN_HD Gate<V> output_again(F, V c) const {
    const V value = F::value(c);
    return {value, F::derivative(value)};
  }
};

template <class V>
struct StandardGates : StandardActivations<V> {
  FASTRNN_HD V peep(int, V a, V) const { return a; }
  FASTRNN_HD V peep_back(int, V, V dc) const { return dc; }
  FASTRNN_HD V clipped(V c) const { return c; }
  FASTRNN_HD V inside(V, V dc) const { return dc; }
  FASTRNN_HD V gradient(int, V d, V slope) const { return d * slope; }
};

}  // namespace fastrnn
