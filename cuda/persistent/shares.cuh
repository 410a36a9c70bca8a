// How a block's share of dh gets to the blocks that have its units, four sums at a time, and their
// total to the lanes that have them.
#pragma once

#include "persistent/layout.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

template <class Traits>
struct BackwardShape : BlockShape<Traits> {
  Divisor by_units;
  int slot_pitch, slot, slots;  // words of two batch rows, words of a slot, slots
  int gates, sums, db;          // offsets in shared memory

  BackwardShape(int64_t H, int cluster)
      : BlockShape<Traits>(H, cluster),
        by_units(this->units),
        slot_pitch(this->units / 2 + 2),  // other banks for other rows
        slot(kColumns / 2 * slot_pitch),
        slots(cluster * Traits::kDepthWarps) {
    gates = this->take(2 * this->operand.bytes);
    sums = this->take(Traits::kGrouped ? 0 : 2 * slots * slot * int{sizeof(Word16)});
    db = this->take(kColumns * Traits::Cell::kSlots * this->units * 4);
    this->take_weights();
  }
};

// In a cluster: by asynchronous stores into slots there, which count in a barrier. A word is as a
// lane has its sums: two units of two batch rows. It lies by rows, then by units.
template <class Traits>
class ClusterShares {
 public:
  const int rank, size;

  __device__ ClusterShares(const BackwardShape<Traits>& shape, char* memory, int, Word16*)
      : rank(cluster_rank()),
        size(cluster_size()),
        shape_(shape),
        barriers_(reinterpret_cast<Barrier*>(memory)),
        slots_(reinterpret_cast<Word16*>(memory + shape.sums)),
        bytes_(shape.slots * kColumns * shape.units * 4) {}

  // unit of the block that is item i of a lane
  __device__ static int unit_of(int lane, int i) { return lane + i * kWarp; }
  // unit of a tile that is row `row` of its half
  __device__ static int row_of(int row, int half) { return 2 * row + half; }

  __device__ void begin(int thread) const {
    if (thread == 0) arm_barriers(barriers_, bytes_);
  }
  __device__ void meet() const { sync_cluster(); }

  // until this turn's shares are whole
  __device__ void wait(int thread, int turn) const {
    if (size == 1) {
      sync_block();
      return;
    }
    wait_phase(&barriers_[turn % 2], phase_parity(turn));
    if (thread == 0) expect_bytes(&barriers_[turn % 2], bytes_);  // of the turn after the next
  }

  // their sum, of batch row `row` and this lane's item i
  __device__ float incoming(int turn, int row, int lane, int i, bool is_real) const {
    if (!is_real) return 0;
    const int unit = unit_of(lane, i);
    const float* const from =
        reinterpret_cast<const float*>(slots_ + turn % 2 * shape_.slots * shape_.slot +
                                       row / 2 * shape_.slot_pitch + unit / 2) +
        unit % 2 * 2 + row % 2;
    float sum = 0;
#pragma unroll 8
    for (int k = 0; k < shape_.slots; ++k) sum += from[k * shape_.slot * 4];
    return sum;
  }

  // of units from first_unit on
  template <int N>
  __device__ void send(int turn, int depth_warp, int lane, int first_unit,
                       const float (&sums)[N][4]) const {
    const int slot = turn % 2 * shape_.slots + rank * Traits::kDepthWarps + depth_warp;
    Word16* const of_row = slots_ + slot * shape_.slot + lane % 4 * shape_.slot_pitch;
#pragma unroll
    for (int m = 0; m < N; ++m) {
      const int unit = first_unit + m * 16 + row_of(lane / 4, 0);
      const int to = shape_.by_units.quotient(unit);
      if (to >= size) break;
      Word16* const at = of_row + (unit - to * shape_.units) / 2;
      Word16 word;
#pragma unroll
      for (int i = 0; i < 4; ++i) word.part[i] = std::bit_cast<uint32_t>(sums[m][i]);
      if (size > 1) {
        store_async(at, word, &barriers_[turn % 2], to);
      } else {
        *at = word;
      }
    }
  }

 private:
  const BackwardShape<Traits>& shape_;
  Barrier* const barriers_;
  Word16* const slots_;
  const int bytes_;
};

// values[i] of lanes 4 apart: the lane with lane / 4 % 4 == r gets value r of the four lanes, in
// order.
__device__ inline void transpose_rows(int lane, float (&values)[4]) {
#pragma unroll
  for (int distance = 1; distance < 4; distance *= 2) {
    const bool upper = lane / 4 & distance;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & distance) continue;
      const float got = shuffle_xor(upper ? values[i] : values[i + distance], 4 * distance);
      values[i] = upper ? got : values[i];
      values[i + distance] = upper ? values[i + distance] : got;
    }
  }
}

// In a group of blocks anywhere on the device: through the L2 cache, in words of 16 bytes that are
// written and read whole. A word carries the number of its turn, modulo 16, in the last bits of its
// four sums, so that a reader knows by the word alone that it is there. A word of turn t + 2 takes
// the place of one of turn t: the warps of its writer have met since they had all of turn t + 1,
// which every reader's warps have sent after they had met with all of turn t.
//
// The words that a warp reads lie side by side, a sender's after another's: a lane sums word lane %
// kWords of every (kWarp / kWords)th sender, and then the lanes of equal words add up.
template <class Traits>
class CacheShares {
  static constexpr int kWords = Traits::kUnits / 4;  // of a sender and batch row
  static constexpr int kAtATime = 8;                 // words of a lane
  static_assert(kWords == 4 || kWords == 8);
  static_assert(Traits::kDepthWarps == 1, "a block has one share for each");

 public:
  const int rank, size;

  // `words`: all of the launch's, zeros at its start
  __device__ CacheShares(const BackwardShape<Traits>& shape, char*, int blocks, Word16* words)
      : rank(static_cast<int>(blockIdx.x) % blocks),
        size(blocks),
        by_units_(shape.by_units),
        words_(words + static_cast<int>(blockIdx.x) / blocks * group_words(shape.units, blocks)) {}

  // of a group: of two turns, from each block to each
  FASTRNN_HD static int group_words(int, int blocks) {
    return 2 * blocks * kColumns * blocks * kWords;
  }

  __device__ static int unit_of(int lane, int) {
    return lane < Traits::kUnits ? lane % kWords * 4 + lane / kWords : Traits::kUnits;
  }

  __device__ static int row_of(int row, int half) { return row + 8 * half; }

  __device__ void begin(int) const {}
  __device__ void meet() const { sync_block(); }
  __device__ void wait(int, int) const {}

  __device__ float incoming(int turn, int row, int lane, int, bool) const {
    const int all = size * kWords;
    const Word16* const words = words_ + place(turn, rank, row);
    const bool has_word = lane % kWords * 4 < by_units_.value;
    float sums[4] = {};
    for (int first = lane; first < all; first += kAtATime * kWarp) {
      const Word16* from[kAtATime];
      Word16 got[kAtATime] = {};
#pragma unroll
      for (int i = 0; i < kAtATime; ++i) {
        const int at = first + i * kWarp;
        from[i] = has_word && at < all ? words + at : nullptr;
      }
      wait_words(from, got, [turn](const Word16& word) { return is_of(turn, word); });
#pragma unroll
      for (int i = 0; i < kAtATime; ++i) {
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          sums[part] += std::bit_cast<float>(got[i].part[part] & ~1u);
        }
      }
    }
    return part_of_lane(lane, sums);
  }

  template <int N>
  __device__ void send(int turn, int, int lane, int first_unit, float (&sums)[N][4]) const {
#pragma unroll
    for (int m = 0; m < N; ++m) {
      // four units of one batch row: of rows lane / 4 (+ 8), columns lane % 4 * 2 (+ 1)
      transpose_rows(lane, sums[m]);
      const int which = lane / 4 % 4, row = lane % 4 * 2 + which % 2;
      const int unit = first_unit + m * 16 + which / 2 * 8 + lane / 16 * 4;
      const int to = by_units_.quotient(unit);
      if (to >= size) continue;
      Word16 word;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        word.part[i] = (std::bit_cast<uint32_t>(sums[m][i]) & ~1u) | (turn >> i & 1);
      }
      const int own = unit - to * by_units_.value;
      Word16* const at = words_ + place(turn, to, row) + rank * kWords + own / 4;
      store_word(at, word);
    }
  }

 private:
  // of the first sender's words to a block
  __device__ int place(int turn, int to, int row) const {
    return ((turn % 2 * size + to) * kColumns + row) * size * kWords;
  }

  __device__ static bool is_of(int turn, const Word16& word) {
    uint32_t differs = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) differs |= word.part[i] ^ static_cast<uint32_t>(turn >> i);
    return !(differs & 1);
  }

  // of the sums over lanes of equal words, part lane / kWords
  __device__ static float part_of_lane(int lane, float (&sums)[4]) {
    if constexpr (kWarp > 4 * kWords) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] += shuffle_xor(sums[i], 4 * kWords);
    }
    const bool last = lane & 2 * kWords, odd = lane & kWords;
    float two[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float got = shuffle_xor(last ? sums[i] : sums[2 + i], 2 * kWords);
      two[i] = (last ? sums[2 + i] : sums[i]) + got;
    }
    const float got = shuffle_xor(odd ? two[0] : two[1], kWords);
    return (odd ? two[1] : two[0]) + got;
  }

  const Divisor by_units_;
  Word16* const words_;
};

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
