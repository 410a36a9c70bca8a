// Threads that work on one sequence together, for batches too small to be split by rows: each step
// is a phase, whose parts (ranges of hidden units) are claimed one by one, and nobody goes on
// before all parts of a phase are done.
//
// Every member runs the same control flow and asks for each part, its own first, so that the
// weights of a part stay in one core's cache. A member that the machine has not started, or has
// descheduled between two phases, is not waited for: the others claim its parts, and when it comes
// it passes by what is done.
#pragma once

#include <sched.h>
#include <stdint.h>

#include "cpu/sequence.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

class Team {
 public:
  static constexpr int64_t kStride = kAlignment / sizeof(int64_t);  // one counter a cache line

  // Counters that the members share, all zero before the first member starts.
  static int64_t* take_counters(Arena& arena, int64_t parts) {
    return arena.take<int64_t>((parts + 1) * kStride);
  }
  static void clear(int64_t* counters, int64_t parts) {
    copy_or_zero<int64_t>(counters, nullptr, (parts + 1) * kStride);
  }

  Team(int64_t* counters, int64_t parts, int64_t member)
      : done_(counters), claimed_(counters + kStride), parts_(parts), member_(member) {}

  int64_t parts() const { return parts_; }

  // body(part) once for every part, by whichever member
  template <class Body>
  void each_part(const Body& body) {
    if (parts_ == 1) return body(0);
    const int64_t before = phase_++;
    for (int64_t i = 0; i < parts_; ++i) {
      const int64_t part = (member_ + i) % parts_;
      int64_t expected = before;
      if (__atomic_compare_exchange_n(claimed_ + part * kStride, &expected, phase_, false,
                                      __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
        body(part);
        __atomic_fetch_add(done_, 1, __ATOMIC_RELEASE);
      }
    }
    wait();
  }

  // body() once, by one member
  template <class Body>
  void once(const Body& body) {
    each_part([&](int64_t part) {
      if (part == 0) body();
    });
  }

 private:
  // Spins for some microseconds, as long as another member's part should take; then yields, so that
  // on a busy machine the member that is waited for can run.
  void wait() const {
    for (int spin = 0; __atomic_load_n(done_, __ATOMIC_ACQUIRE) < phase_ * parts_; ++spin) {
      if (spin > 2000) sched_yield();
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }

  int64_t* done_;
  int64_t* claimed_;
  int64_t parts_, member_;
  int64_t phase_ = 0;
};

// Blocks [first, last) of one part, whole grains of them.
struct BlockRange {
  int64_t first, last;
  BlockRange(int64_t first_block, int64_t last_block) : first(first_block), last(last_block) {}
  BlockRange(int64_t blocks, int64_t grain, const Team& team, int64_t part)
      : first(begin(blocks, grain, team, part)), last(begin(blocks, grain, team, part + 1)) {}

 private:
  static int64_t begin(int64_t blocks, int64_t grain, const Team& team, int64_t part) {
    const int64_t grains = (blocks + grain - 1) / grain;
    return smaller(blocks, grains * part / team.parts() * grain);
  }
};

// How many parts the hidden units are split into: one (the batch is split by rows) unless rows are
// few and each step's weights are worth the wait at its end.
inline int64_t hidden_parts(int threads, int64_t batch, int64_t weight_bytes) {
  constexpr int64_t kRowsPerThread = 4;
  constexpr int64_t kWorthTheWait = 512 * 1024;
  return batch <= kRowsPerThread * threads && weight_bytes >= kWorthTheWait ? threads : 1;
}

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
