// LSTM, gates i f g o (Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins
// 2000):
//
//   i = sigmoid(gx_i + gh_i)   f = sigmoid(gx_f + gh_f)
//   g = tanh(gx_g + gh_g)      o = sigmoid(gx_o + gh_o)
//   c = f c' + i g             h = o tanh(c)
//
// LstmCoupled, gates i g o: f = 1 - i (Greff et al. 2017, CIFG; ONNX input_forget=1).
// With peepholes (Gers & Schmidhuber 2000) i and f also see c', and o sees c.
#pragma once

#include "cells/gates.hpp"

namespace fastrnn {

template <class V, bool kCoupled>
struct LstmOf {
  static constexpr int kGates = kCoupled ? 3 : 4;
  static constexpr int kStates = 2;        // h, c
  static constexpr int kReserve = kGates;  // the gates
  static constexpr int kSlots = kGates;    // their gradients, before the activation
  static constexpr int kEarly = 0;
  static constexpr bool kMixes = false;
  static constexpr int kPeepholes = kGates - 1;
  static constexpr int kI = 0, kF = 1, kG = kGates - 2, kO = kGates - 1;
  static constexpr int kPeepO = kPeepholes - 1;
  static constexpr int slot_x(int gate) { return gate; }
  static constexpr int slot_h(int gate) { return gate; }

  FASTRNN_HD static void forward(const V* gx, const V* gh, const V* prev, V* curr, V* reserve) {
    const StandardGates<V> k;
    curr[1] = state(k, gx, gh, prev[1], reserve);
    curr[0] = output(k, gx[kO] + gh[kO], curr[1], curr[1], reserve[kO]);
  }

  FASTRNN_HD static void backward(const V* prev, const V* curr, const V* reserve, const V* dcurr,
                                  V* dgates, V* dprev) {
    const StandardGates<V> k;
    const V dc = backward_output(k, reserve[kO], curr[1], dcurr[0], dcurr[1], dgates[kO]);
    dprev[0] = V::set(0);
    dprev[1] = backward_state(k, reserve, prev[1], dc, dgates);
  }

  // f c' + i g
  template <class K>
  FASTRNN_HD static V state(const K& k, const V* gx, const V* gh, V c_prev, V* reserve) {
    const V i = k.value(kI, Sigmoid(), k.peep(0, gx[kI] + gh[kI], c_prev), reserve[kI]);
    V f;
    if constexpr (kCoupled) {
      f = V::set(1) - i;
    } else {
      f = k.value(kF, Sigmoid(), k.peep(1, gx[kF] + gh[kF], c_prev), reserve[kF]);
    }
    const V g = k.value(kG, Tanh(), gx[kG] + gh[kG], reserve[kG]);
    return fma(f, c_prev, i * g);
  }

  // the same from what was kept
  template <class K>
  FASTRNN_HD static V state_again(const K& k, const V* reserve, V c_prev) {
    const V i = k.again(kI, Sigmoid(), reserve[kI]).value;
    V f;
    if constexpr (kCoupled) {
      f = V::set(1) - i;
    } else {
      f = k.again(kF, Sigmoid(), reserve[kF]).value;
    }
    return fma(f, c_prev, i * k.again(kG, Tanh(), reserve[kG]).value);
  }

  // h, of the output gate's input a without its peephole, c, and u: c, or c normalised
  template <class K>
  FASTRNN_HD static V output(const K& k, V a, V c, V u, V& kept) {
    const V o = k.value(kO, Sigmoid(), k.peep(kPeepO, a, c), kept);
    return o * k.output(Tanh(), u);
  }

  // -> dL/du + du; the output gate's gradient to dgate
  template <class K>
  FASTRNN_HD static V backward_output(const K& k, V kept, V u, V dh, V du, V& dgate) {
    const Gate<V> o = k.again(kO, Sigmoid(), kept), tanh_c = k.output_again(Tanh(), u);
    dgate = k.gradient(kO, dh * tanh_c.value, o.slope);
    return fma(dh * o.value, tanh_c.slope, du);
  }

  // dL/d(f c' + i g) -> dL/dc' but for what goes through w_hh
  template <class K>
  FASTRNN_HD static V backward_state(const K& k, const V* reserve, V c_prev, V dc, V* dgates) {
    const Gate<V> i = k.again(kI, Sigmoid(), reserve[kI]), g = k.again(kG, Tanh(), reserve[kG]);
    dgates[kG] = k.gradient(kG, dc * i.value, g.slope);
    if constexpr (kCoupled) {
      dgates[kI] = k.gradient(kI, dc * (g.value - c_prev), i.slope);
      return k.peep_back(0, dgates[kI], dc * (V::set(1) - i.value));
    } else {
      const Gate<V> f = k.again(kF, Sigmoid(), reserve[kF]);
      dgates[kI] = k.gradient(kI, dc * g.value, i.slope);
      dgates[kF] = k.gradient(kF, dc * c_prev, f.slope);
      return k.peep_back(1, dgates[kF], k.peep_back(0, dgates[kI], dc * f.value));
    }
  }

  template <class K>
  FASTRNN_HD static V gate_value(const K& k, int gate, const V* reserve) {
    return gate == kG ? k.again(kG, Tanh(), reserve[kG]).value
                      : k.again(gate, Sigmoid(), reserve[gate]).value;
  }
};

template <class V>
struct Lstm : LstmOf<V, false> {
  static constexpr const char* kName = "lstm";
};

template <class V>
struct LstmCoupled : LstmOf<V, true> {
  static constexpr const char* kName = "lstm_coupled";
};

}  // namespace fastrnn
