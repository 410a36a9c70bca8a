// Vanilla RNN (Elman 1990):  h = tanh(W_ih x + b_ih + W_hh h' + b_hh), or relu in place of tanh.
#pragma once

#include "cells/gates.hpp"

namespace fastrnn {

template <class V, class F>
struct RnnOf {
  static constexpr int kGates = 1;
  static constexpr int kStates = 1;
  static constexpr int kReserve = 0;  // h itself is enough
  static constexpr int kSlots = 1;
  static constexpr int kEarly = 0;
  static constexpr bool kMixes = false;
  static constexpr int kPeepholes = 0;
  static constexpr int slot_x(int gate) { return gate; }
  static constexpr int slot_h(int gate) { return gate; }

  FASTRNN_HD static void forward(const V* gx, const V* gh, const V* prev, V* curr, V*) {
    V kept;
    curr[0] = forward(StandardGates<V>(), gx, gh, prev[0], &kept);
  }

  FASTRNN_HD static void backward(const V* prev, const V* curr, const V*, const V* dcurr, V* dgates,
                                  V* dprev) {
    dprev[0] = backward(StandardGates<V>(), prev[0], curr, dcurr[0], dgates);
  }

  template <class K>
  FASTRNN_HD static V forward(const K& k, const V* gx, const V* gh, V, V* reserve) {
    return k.value(0, F(), gx[0] + gh[0], reserve[0]);
  }

  // -> dL/dh' but for what goes through w_hh
  template <class K>
  FASTRNN_HD static V backward(const K& k, V, const V* reserve, V dh, V* dgates) {
    dgates[0] = k.gradient(0, dh, k.again(0, F(), reserve[0]).slope);
    return V::set(0);
  }

  template <class K>
  FASTRNN_HD static V gate_value(const K& k, int, const V* reserve) {
    return k.again(0, F(), reserve[0]).value;
  }
};

template <class V>
struct RnnTanh : RnnOf<V, Tanh> {
  static constexpr const char* kName = "rnn_tanh";
};

template <class V>
struct RnnRelu : RnnOf<V, Relu> {
  static constexpr const char* kName = "rnn_relu";
};

}  // namespace fastrnn
