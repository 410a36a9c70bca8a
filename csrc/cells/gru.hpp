// GRU, gates r z n. Two cells that differ in where the reset gate acts:
//
//   r = sigmoid(gx_r + gh_r)   z = sigmoid(gx_z + gh_z)   h = (1 - z) n + z h'
//
//   Gru             n = tanh(gx_n + r (W_hn h' + b_hn))
//                   Cho et al. 2014 v1; cuDNN, torch, Keras reset_after=True
//   GruResetBefore  n = tanh(gx_n + W_hn (r h') + b_hn)
//                   Cho et al. 2014 v3; Keras reset_after=False
#pragma once

#include "math.hpp"

namespace fastrnn {

template <class V>
struct Gru {
  static constexpr const char* kName = "gru";
  static constexpr int kGates = 3;
  static constexpr int kStates = 1;
  static constexpr int kReserve = 4;  // r z n, and gh_n
  static constexpr int kSlots = 4;    // dr dz, dn with respect to gx_n, dn with respect to gh_n
  static constexpr int kEarly = 0;
  static constexpr int slot_x(int gate) { return gate; }
  static constexpr int slot_h(int gate) { return gate == 2 ? 3 : gate; }

  FASTRNN_HD static void forward(const V* gx, const V* gh, const V* prev, V* curr, V* reserve) {
    const V r = sigmoid(gx[0] + gh[0]);
    const V z = sigmoid(gx[1] + gh[1]);
    const V n = tanh(fma(r, gh[2], gx[2]));
    curr[0] = fma(z, prev[0] - n, n);
    reserve[0] = r, reserve[1] = z, reserve[2] = n, reserve[3] = gh[2];
  }

  FASTRNN_HD static void backward(const V* prev, const V*, const V* reserve, const V* dcurr,
                                  V* dgates, V* dprev) {
    const V r = reserve[0], z = reserve[1], n = reserve[2], gh_n = reserve[3];
    const V dh = dcurr[0];
    const V dn = dh * (V::set(1) - z) * tanh_derivative(n);
    dgates[0] = dn * gh_n * sigmoid_derivative(r);
    dgates[1] = dh * (prev[0] - n) * sigmoid_derivative(z);
    dgates[2] = dn;
    dgates[3] = dn * r;
    dprev[0] = dh * z;
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
  static constexpr int slot_x(int gate) { return gate; }
  static constexpr int slot_h(int gate) { return gate; }

  FASTRNN_HD static void forward_early(const V* gx, const V* gh, const V* prev, V* early,
                                       V& operand) {
    early[0] = sigmoid(gx[0] + gh[0]);
    early[1] = sigmoid(gx[1] + gh[1]);
    operand = early[0] * prev[0];
  }

  // gx[0], gx[1] hold r and z, the results of the early phase; gh has the late gate alone
  FASTRNN_HD static void forward(const V* gx, const V* gh, const V* prev, V* curr, V* reserve) {
    const V r = gx[0], z = gx[1];
    const V n = tanh(gx[2] + gh[0]);
    curr[0] = fma(z, prev[0] - n, n);
    reserve[0] = r, reserve[1] = z, reserve[2] = n;
  }

  FASTRNN_HD static void backward(const V* prev, const V*, const V* reserve, const V* dcurr,
                                  V* dgates, V* dprev) {
    const V z = reserve[1], n = reserve[2];
    const V dh = dcurr[0];
    dgates[1] = dh * (prev[0] - n) * sigmoid_derivative(z);
    dgates[2] = dh * (V::set(1) - z) * tanh_derivative(n);
    dprev[0] = dh * z;
  }

  // d_operand: gradient with respect to r h'
  FASTRNN_HD static void backward_early(const V* prev, const V* reserve, V d_operand, V* dgates,
                                        V* dprev) {
    const V r = reserve[0];
    dgates[0] = d_operand * prev[0] * sigmoid_derivative(r);
    dprev[0] = fma(d_operand, r, dprev[0]);
  }
};

}  // namespace fastrnn
