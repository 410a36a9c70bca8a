// The arrays of a persistent kernel, all packed, and the threads' place in a launch: a cluster of
// blocks has kColumns batch rows for all steps, and a block of it `units` of the hidden units.
#pragma once

#include "persistent/operands.cuh"
#include "sequence.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

template <class Value>
struct ForwardData {
  Sequence seq;
  const Value* w_hh;  // [G*H, H]
  const Value* b_hh;  // [G*H] or null
  const float* gx;    // [T, B, G*H]
  const Value* h0;    // [B, H] or null
  const float* c0;
  Value* y;    // [T, B, H]
  float* c;    // [T, B, H] or null
  Value* h_n;  // [B, H] or null
  float* c_n;
  Value* reserve;  // [T, B, R*H] or null
};

FASTRNN_HD int64_t length_of(const Sequence& seq, int64_t b) {
  return b < seq.B ? seq.length(b) : 0;
}

// Sequence::time of a step that is valid, of a row whose length is at hand
FASTRNN_HD int64_t time_of(const Sequence& seq, int64_t length, int64_t s) {
  return seq.reverse ? length - 1 - s : s;
}

// What step s of batch row b is; beyond the row's length, which is 0 beyond the batch, nothing.
struct Step {
  int64_t row = 0;  // [T, B]
  bool valid = false, masked = false, resets = false;

  Step() = default;
  FASTRNN_HD Step(const Sequence& seq, int64_t b, int64_t length, int64_t s) {
    if (s < 0 || s >= length) return;
    const int64_t t = time_of(seq, length, s);
    valid = true;
    row = t * seq.B + b;
    masked = seq.mask && !*seq.mask.at(t, b);
    resets = seq.reset && *seq.reset.at(t, b);
  }
  FASTRNN_HD bool works() const { return valid && !masked; }
};

// of the longest row of the tile
FASTRNN_HD int64_t steps_of(const Sequence& seq, int64_t tile) {
  int64_t steps = 0;
  for (int n = 0; n < kColumns; ++n) {
    const int64_t length = length_of(seq, tile * kColumns + n);
    steps = length > steps ? length : steps;
  }
  return steps;
}

// Phases of a barrier that is one of two, used in turn from step 1 on
FASTRNN_HD int phase_parity(int64_t step) { return static_cast<int>((step - 1) / 2 % 2); }

// a block's share of the hidden units
inline int units_of(int64_t H, int cluster) {
  return static_cast<int>(divide_up(H, int64_t{8} * cluster) * 8);
}

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
