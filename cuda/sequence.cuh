// What forward and backward share: which time a step of a row is, which steps do anything, the
// state before a step.
//
// Step s of row b is time s, or with reverse the row's own last valid step minus s. Arrays are
// packed [T, B, ...]; row(b, s) = time * B + b is where step s of row b lies in them.
#pragma once

#include "device.cuh"

namespace fastrnn {
namespace {
namespace cuda {

template <class T>
struct State {
  T* steps;          // [T, B, H]  after each step
  const T* initial;  // [B, H]
};

struct Sequence {
  int64_t T, B, I, H;
  bool reverse;
  const int64_t* length;  // [B]
  const uint8_t* mask;    // [T, B] or null
  const uint8_t* reset;   // [T, B] or null

  // its own inverse: also the step at time s
  FASTRNN_HD int64_t time(int64_t b, int64_t s) const { return reverse ? length[b] - 1 - s : s; }
  FASTRNN_HD int64_t row(int64_t b, int64_t s) const { return time(b, s) * B + b; }
  FASTRNN_HD bool valid(int64_t b, int64_t s) const { return b < B && s >= 0 && s < length[b]; }
  FASTRNN_HD bool masked(int64_t b, int64_t s) const { return mask && !mask[row(b, s)]; }
  FASTRNN_HD bool works(int64_t b, int64_t s) const { return valid(b, s) && !masked(b, s); }
  FASTRNN_HD bool resets(int64_t b, int64_t s) const { return reset && reset[row(b, s)]; }

  template <class Value>
  FASTRNN_HD const Value* state_after(const State<Value>& state, int64_t b, int64_t s) const {
    return s < 0 ? state.initial + b * H : state.steps + row(b, s) * H;
  }
  template <class Value>
  FASTRNN_HD const Value* state_before(const State<Value>& state, const Value* zeros, int64_t b,
                                       int64_t s) const {
    return resets(b, s) ? zeros : state_after(state, b, s - 1);
  }
};

class SequenceOnDevice {
 public:
  explicit SequenceOnDevice(const ForwardArgs& a)
      : mask_(upload<uint8_t>(a.mask)), reset_(upload<uint8_t>(a.reset)) {
    const int64_t T = a.x.shape[0], B = a.x.shape[1];
    std::vector<int64_t> length(static_cast<size_t>(B), T);
    for (int64_t b = 0; b < B; ++b) {
      if (a.lengths.present)
        length[static_cast<size_t>(b)] = static_cast<const int64_t*>(a.lengths.data)[b];
      if (length[static_cast<size_t>(b)] > steps) steps = length[static_cast<size_t>(b)];
    }
    length_ = upload(length.data(), B);
    view = {T,
            B,
            a.x.shape[2],
            a.w_hh.shape[1],
            a.reverse,
            length_.data(),
            mask_.data(),
            reset_.data()};
  }

  Sequence view;
  int64_t steps = 0;  // of the longest row

 private:
  DeviceArray<int64_t> length_;
  DeviceArray<uint8_t> mask_, reset_;
};

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
