// What forward and backward share: which time a step of a row is, which steps do anything, the
// state before a step.
//
// Step s of row b is time s, or with reverse the row's own last valid step minus s. Beyond a row's
// length a step is its own time and does nothing.
#pragma once

#include "views.cuh"

namespace fastrnn {
namespace {
namespace cuda {

struct Sequence {
  int64_t T, B, I, H;
  bool reverse;
  const int64_t* lengths;           // [B] or null
  Rows<const uint8_t> mask, reset;  // [T, B] or null

  // `copy`: where lengths of the host lie on the device
  explicit Sequence(const ForwardArgs& a, const int64_t* copy = nullptr)
      : T(a.x.shape[0]),
        B(a.x.shape[1]),
        I(a.x.shape[2]),
        H(a.w_hh.shape[1]),
        reverse(a.reverse),
        lengths(copy                ? copy
                : a.lengths.present ? static_cast<const int64_t*>(a.lengths.data)
                                    : nullptr),
        mask(flags_of(a.mask)),
        reset(flags_of(a.reset)) {}

  // lengths on the device have been seen by nobody: they count as within 0 and T
  FASTRNN_HD int64_t length(int64_t b) const {
    if (!lengths) return T;
    const int64_t length = lengths[b];
    return length < 0 ? 0 : length < T ? length : T;
  }
  FASTRNN_HD bool valid(int64_t b, int64_t s) const { return s >= 0 && s < length(b); }
  // its own inverse: also the step at time s
  FASTRNN_HD int64_t time(int64_t b, int64_t s) const {
    return reverse && valid(b, s) ? length(b) - 1 - s : s;
  }
  FASTRNN_HD bool masked(int64_t b, int64_t s) const { return mask && !*mask.at(time(b, s), b); }
  FASTRNN_HD bool works(int64_t b, int64_t s) const { return valid(b, s) && !masked(b, s); }
  FASTRNN_HD bool resets(int64_t b, int64_t s) const {
    return reset && valid(b, s) && *reset.at(time(b, s), b);
  }
  // of `unit`, from the states after each step and the first one
  template <class Value>
  FASTRNN_HD Compute<Value> state_before(const Rows<const Value>& steps,
                                         const Rows<const Value>& initial, int64_t b, int64_t s,
                                         int64_t unit) const {
    if (resets(b, s)) return 0;
    if (s > 0) return computed(steps.at(time(b, s - 1), b)[unit]);
    return initial ? computed(initial.at(0, b)[unit]) : Compute<Value>(0);
  }

  bool has_idle_steps() const { return lengths || mask; }
};

// Lengths that lie on the host, beside arrays that do not, are copied.
class LengthsFromHost {
 public:
  LengthsFromHost(const ForwardArgs& a, Arena& arena)
      : host_(a.lengths.present && a.lengths.device == kHost && a.x.device != kHost ? a.lengths.data
                                                                                    : nullptr),
        bytes_(static_cast<size_t>(a.x.shape[1]) * sizeof(int64_t)),
        copy_(host_ ? arena.take<int64_t>(a.x.shape[1]) : nullptr) {}

  const int64_t* copy() const { return copy_; }
  void send(cudaStream_t stream) const {  // memory that is not pinned has been read when it returns
    if (host_ && bytes_ > 0)
      FASTRNN_CUDA_CHECK(cudaMemcpyAsync(copy_, host_, bytes_, cudaMemcpyHostToDevice, stream));
  }

 private:
  const void* host_;
  size_t bytes_;
  int64_t* copy_;
};

// What a thread of a launch over [rows, units] works on.
struct Item {
  int64_t row, unit;
  FASTRNN_HD Item(int64_t index, int64_t units) : row(index / units), unit(index % units) {}
};

// state [B, H] = initial, or zeros
template <class T>
__global__ void first_state_kernel(Sequence seq, Rows<const T> initial, Rows<T> state) {
  const Item at(thread_index(), seq.H);
  if (at.row >= seq.B) return;
  state.at(0, at.row)[at.unit] = initial ? initial.at(0, at.row)[at.unit] : T{};
}

// state [B, H] = 0 where step s resets
template <class T>
__global__ void reset_kernel(Sequence seq, Rows<T> state, int64_t s) {
  const Item at(thread_index(), seq.H);
  if (at.row < seq.B && seq.resets(at.row, s)) state.at(0, at.row)[at.unit] = T{};
}

// packed [steps, B, width], from step `first` on, in the order of the steps; zeros where none is
// taken
template <class T>
__global__ void gather_kernel(Sequence seq, Rows<const T> rows, int64_t width, int64_t first,
                              int64_t steps, bool by_time, T* packed) {
  const Item at(thread_index(), width);
  if (at.row >= steps * seq.B) return;
  const int64_t b = at.row % seq.B, t = first + at.row / seq.B;
  const int64_t s = by_time ? seq.time(b, t) : t;
  packed[thread_index()] = seq.works(b, s) ? rows.at(seq.time(b, s), b)[at.unit] : T{};
}

// rows [T, B, width] from packed ones; zeros where no step is taken
template <class T>
__global__ void scatter_kernel(Sequence seq, const T* packed, int64_t width, Rows<T> rows) {
  const Item at(thread_index(), width);
  if (at.row >= seq.T * seq.B) return;
  const int64_t b = at.row % seq.B, t = at.row / seq.B;
  rows.at(t, b)[at.unit] = seq.works(b, seq.time(b, t)) ? packed[thread_index()] : T{};
}

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
