// Vanilla RNN (Elman 1990):  h = tanh(W_ih x + b_ih + W_hh h' + b_hh), or relu in place of tanh.
#pragma once

#include "math.hpp"

namespace fastrnn {

template <class V>
struct RnnTanh {
  static constexpr const char* kName = "rnn_tanh";
  static constexpr int kGates = 1;
  static constexpr int kStates = 1;
  static constexpr int kReserve = 0;
  static constexpr int kSlots = 1;
  static constexpr int kEarly = 0;
  static constexpr int slot_x(int gate) { return gate; }
  static constexpr int slot_h(int gate) { return gate; }

  FASTRNN_HD static void forward(const V* gx, const V* gh, const V*, V* curr, V*) {
    curr[0] = tanh(gx[0] + gh[0]);
  }

  FASTRNN_HD static void backward(const V*, const V* curr, const V*, const V* dcurr, V* dgates,
                                  V* dprev) {
    dgates[0] = dcurr[0] * tanh_derivative(curr[0]);
    dprev[0] = V::set(0);
  }
};

template <class V>
struct RnnRelu : RnnTanh<V> {
  static constexpr const char* kName = "rnn_relu";

  FASTRNN_HD static void forward(const V* gx, const V* gh, const V*, V* curr, V*) {
    curr[0] = relu(gx[0] + gh[0]);
  }

  FASTRNN_HD static void backward(const V*, const V* curr, const V*, const V* dcurr, V* dgates,
                                  V* dprev) {
    const V zero = V::set(0);
    dgates[0] = select(less(zero, curr[0]), dcurr[0], zero);
    dprev[0] = zero;
  }
};

}  // namespace fastrnn
