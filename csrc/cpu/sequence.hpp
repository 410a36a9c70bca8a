// What forward and backward share: the order of rows and steps, scratch memory, row ranges of the
// threads.
//
// Rows are taken longest first, so that the rows still active at step s are 0 .. active(s) - 1 and
// the cost is proportional to the sum of lengths. Step s of a row is time s, or with reverse its
// own last valid step minus s.
#pragma once

#include <stdint.h>
#include <string.h>

#include "cpu/threads.hpp"
#include "fastrnn.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

constexpr int64_t kAlignment = 64;

// Hands out pieces of one allocation; with a null base it only adds up what is needed.
struct Arena {
  char* base;
  int64_t used = 0;

  template <class T>
  T* take(int64_t count) {
    const int64_t at = used;
    used += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
    return base ? reinterpret_cast<T*>(base + at) : nullptr;
  }
};

template <class T>
T* row_of(const Tensor& tensor, int64_t t, int64_t b) {
  if (tensor.starts)
    return static_cast<T*>(tensor.data) + (tensor.starts[t] + b) * tensor.stride[1];
  return static_cast<T*>(tensor.data) + t * tensor.stride[0] + b * tensor.stride[1];
}

template <class T>
T* row_of(const Tensor& tensor, int64_t b) {
  return static_cast<T*>(tensor.data) + b * tensor.stride[0];
}

inline bool flag_at(const Tensor& tensor, int64_t t, int64_t b) {
  return tensor.present && *row_of<const uint8_t>(tensor, t, b) != 0;
}

// copy of n values, or zeros for a null source
template <class T>
void copy_or_zero(T* to, const T* from, int64_t n) {
  if (from) {
    memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
  } else {
    // `to` lies in an arena:
    // NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker)
    memset(to, 0, static_cast<size_t>(n) * sizeof(T));
  }
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

template <class F>
void parallel_for(int threads, int64_t count, const F& body) {
  parallel(
      threads, count, [](void* context, int64_t i) { (*static_cast<const F*>(context))(i); },
      const_cast<F*>(&body));
}

struct Sequence {
  int64_t T, B, I, H;
  bool reverse, packed;
  Tensor mask, reset;
  int64_t* batch;   // [B] the batch index of each row
  int64_t* length;  // [B] its length, falling

  Sequence(const ForwardArgs& a, Arena& arena)
      : T(a.x.shape[0]),
        B(a.x.shape[1]),
        I(a.x.shape[2]),
        H(a.w_hh.shape[1]),
        reverse(a.reverse),
        packed(a.x.starts != nullptr),
        mask(a.mask),
        reset(a.reset),
        batch(arena.take<int64_t>(B)),
        length(arena.take<int64_t>(B)) {
    if (!arena.base) return;
    const int64_t* lengths = static_cast<const int64_t*>(a.lengths.data);
    for (int64_t b = 0; b < B; ++b) {
      batch[b] = b;
      length[b] = a.lengths.present ? lengths[b] : T;
    }
    if (a.lengths.present) sort_longest_first();
  }

  int64_t time(int64_t row, int64_t s) const { return reverse ? length[row] - 1 - s : s; }

  // the steps of a row that there is memory for: beyond its length they are cleared
  int64_t room(int64_t row) const { return packed ? length[row] : T; }

  // rows in [first, last) that step s still reaches
  int64_t active(int64_t first, int64_t last, int64_t s) const {
    while (last > first && length[last - 1] <= s) --last;
    return last - first;
  }

  bool masked(int64_t row, int64_t s) const {
    return mask.present && !flag_at(mask, time(row, s), batch[row]);
  }
  bool resets(int64_t row, int64_t s) const { return flag_at(reset, time(row, s), batch[row]); }

  // h' or c' before step s, null where it is zero: y and c hold the state after each step
  template <class Value>
  const Value* previous(const Tensor& states, const Tensor& initial, int64_t row, int64_t s) const {
    if (resets(row, s)) return nullptr;
    if (s > 0) return row_of<const Value>(states, time(row, s - 1), batch[row]);
    return initial.present ? row_of<const Value>(initial, batch[row]) : nullptr;
  }

  // rows [first(i), first(i + 1)) for range i, with equal sums of lengths
  void split(int ranges, int64_t* first) const {
    int64_t total = 0;
    for (int64_t r = 0; r < B; ++r) total += length[r] + 1;
    int64_t sum = 0, row = 0;
    first[0] = 0;
    for (int i = 1; i < ranges; ++i) {
      const int64_t goal = total / ranges * i;
      while (row < B && sum < goal) sum += length[row++] + 1;
      first[i] = row;
    }
    first[ranges] = B;
  }

  // the first of the ranges that begin at `row`
  static int64_t range_of(const int64_t* first, int64_t row) {
    int64_t range = 0;
    while (row > 0 && first[range] < row) ++range;
    return range;
  }

 private:
  // Shell sort: in place, and no template of the standard library may be instantiated in a file of
  // one ISA.
  void sort_longest_first() {
    int64_t gap = 1;
    while (gap < B / 3) gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3) {
      for (int64_t i = gap; i < B; ++i) {
        const int64_t this_length = length[i], this_batch = batch[i];
        int64_t j = i;
        for (; j >= gap && length[j - gap] < this_length; j -= gap) {
          length[j] = length[j - gap];
          batch[j] = batch[j - gap];
        }
        length[j] = this_length;
        batch[j] = this_batch;
      }
    }
  }
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
