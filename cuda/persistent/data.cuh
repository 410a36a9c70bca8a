// What a persistent kernel's threads have to know of steps and rows, and of their place in a
// launch: a cluster of blocks has kColumns batch rows for all steps, and a block of it `units` of
// the hidden units.
#pragma once

#include "persistent/layout.cuh"
#include "sequence.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

// T fits 32 bits here (path.cuh).
FASTRNN_HD int length_of(const Sequence& seq, int64_t b) {
  return b < seq.B ? static_cast<int>(seq.length(b)) : 0;
}

// Sequence::time of a step that is valid, of a row whose length is at hand
FASTRNN_HD int time_of(const Sequence& seq, int length, int s) {
  return seq.reverse ? length - 1 - s : s;
}

// What step s of batch row b is; beyond the row's length, which is 0 beyond the batch, nothing.
class Step {
 public:
  Step() = default;
  FASTRNN_HD Step(const Sequence& seq, int64_t b, int length, int s) {
    if (s < 0 || s >= length) return;
    flags_ = kValid;
    if (!seq.mask && !seq.reset) return;
    const int t = time_of(seq, length, s);
    if (seq.mask && !*seq.mask.at(t, b)) flags_ |= kMasked;
    if (seq.reset && *seq.reset.at(t, b)) flags_ |= kResets;
  }
  FASTRNN_HD bool valid() const { return flags_ & kValid; }
  FASTRNN_HD bool masked() const { return flags_ & kMasked; }
  FASTRNN_HD bool resets() const { return flags_ & kResets; }
  FASTRNN_HD bool works() const { return valid() && !masked(); }

 private:
  static constexpr int kValid = 1, kMasked = 2, kResets = 4;
  int flags_ = 0;
};

// of the longest row of the tile
FASTRNN_HD int steps_of(const Sequence& seq, int64_t tile) {
  int steps = 0;
  for (int n = 0; n < kColumns; ++n) {
    const int length = length_of(seq, tile * kColumns + n);
    steps = length > steps ? length : steps;
  }
  return steps;
}

// Elements from a step's row to the next step's, in the direction of the steps
template <class Value>
int64_t stride_of(const Sequence& seq, const Rows<Value>& rows) {
  return seq.reverse ? -rows.time : rows.time;
}

// Phases of a barrier that is one of two, used in turn from step 1 on
FASTRNN_HD int phase_parity(int step) { return (step - 1) >> 1 & 1; }

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
