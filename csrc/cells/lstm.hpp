// LSTM, gates i f g o (Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins
// 2000):
//
//   i = sigmoid(gx_i + gh_i)   f = sigmoid(gx_f + gh_f)
//   g = tanh(gx_g + gh_g)      o = sigmoid(gx_o + gh_o)
//   c = f c' + i g             h = o tanh(c)
#pragma once

#include "math.hpp"

namespace fastrnn {

template <class V>
struct Lstm {
  static constexpr const char* kName = "lstm";
  static constexpr int kGates = 4;
  static constexpr int kStates = 2;   // h, c
  static constexpr int kReserve = 4;  // i f g o
  static constexpr int kSlots = 4;    // di df dg do, before the activation
  static constexpr int kEarly = 0;
  static constexpr int slot_x(int gate) { return gate; }
  static constexpr int slot_h(int gate) { return gate; }

  FASTRNN_HD static void forward(const V* gx, const V* gh, const V* prev, V* curr, V* reserve) {
    const V i = sigmoid(gx[0] + gh[0]);
    const V f = sigmoid(gx[1] + gh[1]);
    const V g = tanh(gx[2] + gh[2]);
    const V o = sigmoid(gx[3] + gh[3]);
    const V c = fma(f, prev[1], i * g);
    curr[0] = o * tanh(c);
    curr[1] = c;
    reserve[0] = i, reserve[1] = f, reserve[2] = g, reserve[3] = o;
  }

  FASTRNN_HD static void backward(const V* prev, const V* curr, const V* reserve, const V* dcurr,
                                  V* dgates, V* dprev) {
    const V i = reserve[0], f = reserve[1], g = reserve[2], o = reserve[3];
    const V tanh_c = tanh(curr[1]);
    const V dh = dcurr[0];
    const V dc = fma(dh * o, tanh_derivative(tanh_c), dcurr[1]);
    dgates[0] = dc * g * sigmoid_derivative(i);
    dgates[1] = dc * prev[1] * sigmoid_derivative(f);
    dgates[2] = dc * i * tanh_derivative(g);
    dgates[3] = dh * tanh_c * sigmoid_derivative(o);
    dprev[0] = V::set(0);
    dprev[1] = dc * f;
  }
};

}  // namespace fastrnn
