// GRU, gates r z n. Two cells that differ in where the reset gate acts:
//
//   r = sigmoid(gx_r + gh_r)   z = sigmoid(gx_z + gh_z)   h = (1 - z) n + z h'
//
//   Gru             n = tanh(gx_n + r (W_hn h' + b_hn))
//                   Cho et al. 2014 v1; cuDNN, torch, Keras reset_after=True
//   GruResetBefore  n = tanh(gx_n + W_hn (r h') + b_hn)
//                   Cho et al. 2014 v3; Keras reset_after=False
#pragma once

#include "cells/gates.hpp"

namespace fastrnn {

template <class V>
struct Gru {
  static constexpr const char* kName = "gru";
  static constexpr int kGates = 3;
  static constexpr int kStates = 1;
  static constexpr int kReserve = 4;  // r z n, and gh_n
  static constexpr int kSlots = 4;    // dr dz, dn with respect to gx_n, dn with respect to gh_n
  static constexpr int kEarly = 0;
  static constexpr bool kMixes = true;  // h is a mix of h' and n
  static constexpr int kPeepholes = 0;
  static constexpr int slot_x(int gate) { return gate; }
  static constexpr int slot_h(int gate) { return gate == 2 ? 3 : gate; }

  FASTRNN_HD static void forward(const V* gx, const V* gh, const V* prev, V* curr, V* reserve) {
    curr[0] = forward(StandardGates<V>(), gx, gh, prev[0], reserve);
  }

  FASTRNN_HD static void backward(const V* prev, const V*, const V* reserve, const V* dcurr,
                                  V* dgates, V* dprev) {
    dprev[0] = backward(StandardGates<V>(), prev[0], reserve, dcurr[0], dgates);
  }

  template <class K>
  FASTRNN_HD static V forward(const K& k, const V* gx, const V* gh, V h_prev, V* reserve) {
    const V r = k.value(0, Sigmoid(), gx[0] + gh[0], reserve[0]);
    const V z = k.value(1, Sigmoid(), gx[1] + gh[1], reserve[1]);
    const V n = k.value(2, Tanh(), fma(r, gh[2], gx[2]), reserve[2]);
    reserve[3] = gh[2];
    return fma(z, h_prev - n, n);
  }

  // -> dL/dh' but for what goes through w_hh
  template <class K>
  FASTRNN_HD static V backward(const K& k, V h_prev, const V* reserve, V dh, V* dgates) {
    const Gate<V> r = k.again(0, Sigmoid(), reserve[0]), z = k.again(1, Sigmoid(), reserve[1]),
                  n = k.again(2, Tanh(), reserve[2]);
    const V dn = k.gradient(2, dh * (V::set(1) - z.value), n.slope);
    dgates[0] = k.gradient(0, dn * reserve[3], r.slope);
    dgates[1] = k.gradient(1, dh * (h_prev - n.value), z.slope);
    dgates[2] = dn;
    dgates[3] = dn * r.value;
    return dh * z.value;
  }

  template <class K>
  FASTRNN_HD static V gate_value(const K& k, int gate, const V* reserve) {
    return gate == 2 ? k.again(2, Tanh(), reserve[2]).value
                     : k.again(gate, Sigmoid(), reserve[gate]).value;
  }
};

// The early phase computes r and z and the operand r h' of the second product; the driver owns the
// order.
template <class V>
struct GruResetBefore {
  static constexpr const char* kName = "gru_reset_before";
  static constexpr int kGates = 3;
  static constexpr int kStates = 1;
  static constexpr int kReserve = 3;  // r z n
  static constexpr int kSlots = 3;    // dr dz dn
  static constexpr int kEarly = 2;    // r z
  static constexpr bool kMixes = true;
  static constexpr int kPeepholes = 0;
  static constexpr int slot_x(int gate) { return gate; }
  static constexpr int slot_h(int gate) { return gate; }

  FASTRNN_HD static void forward_early(const V* gx, const V* gh, const V* prev, V* early,
                                       V& operand) {
    operand = forward_early(StandardGates<V>(), gx, gh, prev[0], early);
  }

  // gx[0], gx[1] hold what the early phase kept of r and z; gh has the late gate alone
  FASTRNN_HD static void forward(const V* gx, const V* gh, const V* prev, V* curr, V* reserve) {
    curr[0] = forward(StandardGates<V>(), gx, gh, prev[0], reserve);
  }

  FASTRNN_HD static void backward(const V* prev, const V*, const V* reserve, const V* dcurr,
                                  V* dgates, V* dprev) {
    dprev[0] = backward(StandardGates<V>(), prev[0], reserve, dcurr[0], dgates);
  }

  // d_operand: gradient with respect to r h'
  FASTRNN_HD static void backward_early(const V* prev, const V* reserve, V d_operand, V* dgates,
                                        V* dprev) {
    const StandardGates<V> k;
    dprev[0] = fma(d_operand, reset_gate(k, reserve), dprev[0]);
    dgates[0] = early_gradient(k, prev[0], reserve, d_operand);
  }

  // -> r h'
  template <class K>
  FASTRNN_HD static V forward_early(const K& k, const V* gx, const V* gh, V h_prev, V* early) {
    const V r = k.value(0, Sigmoid(), gx[0] + gh[0], early[0]);
    k.value(1, Sigmoid(), gx[1] + gh[1], early[1]);
    return r * h_prev;
  }

  template <class K>
  FASTRNN_HD static V forward(const K& k, const V* gx, const V* gh, V h_prev, V* reserve) {
    reserve[0] = gx[0], reserve[1] = gx[1];
    const V z = k.again(1, Sigmoid(), gx[1]).value;
    const V n = k.value(2, Tanh(), gx[2] + gh[0], reserve[2]);
    return fma(z, h_prev - n, n);
  }

  // -> dL/dh' but for what goes through w_hh and through r h'
  template <class K>
  FASTRNN_HD static V backward(const K& k, V h_prev, const V* reserve, V dh, V* dgates) {
    const Gate<V> z = k.again(1, Sigmoid(), reserve[1]), n = k.again(2, Tanh(), reserve[2]);
    dgates[1] = k.gradient(1, dh * (h_prev - n.value), z.slope);
    dgates[2] = k.gradient(2, dh * (V::set(1) - z.value), n.slope);
    return dh * z.value;
  }

  template <class K>
  FASTRNN_HD static V early_gradient(const K& k, V h_prev, const V* reserve, V d_operand) {
    return k.gradient(0, d_operand * h_prev, k.again(0, Sigmoid(), reserve[0]).slope);
  }

  template <class K>
  FASTRNN_HD static V reset_gate(const K& k, const V* reserve) {
    return k.again(0, Sigmoid(), reserve[0]).value;
  }

  template <class K>
  FASTRNN_HD static V gate_value(const K& k, int gate, const V* reserve) {
    return gate == 2 ? k.again(2, Tanh(), reserve[2]).value
                     : k.again(gate, Sigmoid(), reserve[gate]).value;
  }
};

}  // namespace fastrnn
