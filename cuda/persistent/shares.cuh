// How a block's share of dh gets to the blocks that have its units, four units of a batch row at a
// time, and their sum to the lanes that have them.
#pragma once

#include "persistent/layout.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

template <class Traits>
struct BackwardShape : BlockShape<Traits> {
  int slot_pitch, slot, slots;  // floats of a row, floats of a slot, slots
  int gates, sums, db;          // offsets in shared memory

  BackwardShape(int64_t H, int cluster)
      : BlockShape<Traits>(H, cluster),
        slot_pitch(this->units + (cluster == 1 ? 4 : 0)),  // for stores of 16 bytes by a warp
        slot(kColumns * slot_pitch),
        slots(cluster * Traits::kDepthWarps) {
    gates = this->take(this->operand.bytes);
    sums = this->take(Traits::kGrouped ? 0 : 2 * slots * slot * 4);
    db = this->take(kColumns * Traits::Cell::kSlots * this->units * 4);
    this->take_weights();
  }
};

// In a cluster: by asynchronous stores into slots there, which count in a barrier.
template <class Traits>
class ClusterShares {
 public:
  const int rank, size;

  __device__ ClusterShares(const BackwardShape<Traits>& shape, char* memory, int, Word16*)
      : rank(cluster_rank()),
        size(cluster_size()),
        shape_(shape),
        barriers_(reinterpret_cast<Barrier*>(memory)),
        slots_(reinterpret_cast<float*>(memory + shape.sums)),
        bytes_(shape.slots * kColumns * shape.units * 4) {}

  // unit of the block that is item i of a lane
  __device__ static int unit_of(int lane, int i) { return lane + i * kWarp; }

  __device__ void begin(int thread) const {
    if (thread == 0) arm_barriers(barriers_, bytes_);
  }
  __device__ void meet() const { sync_cluster(); }

  // until this turn's shares are whole
  __device__ void wait(int thread, int turn) const {
    if (size == 1) return;
    wait_phase(&barriers_[turn % 2], phase_parity(turn));
    if (thread == 0) expect_bytes(&barriers_[turn % 2], bytes_);  // of the turn after the next
  }

  // their sum, of batch row `row` and this lane's item i
  __device__ float incoming(int turn, int row, int lane, int i, bool is_real) const {
    if (!is_real) return 0;
    const float* const from =
        slots_ + turn % 2 * shape_.slots * shape_.slot + row * shape_.slot_pitch + unit_of(lane, i);
    float sum = 0;
#pragma unroll 4
    for (int k = 0; k < shape_.slots; ++k) sum += from[k * shape_.slot];
    return sum;
  }

  __device__ void send(int turn, int depth_warp, int to, int row, int unit,
                       const float (&sums)[4]) const {
    Word16 word;
#pragma unroll
    for (int i = 0; i < 4; ++i) word.part[i] = std::bit_cast<uint32_t>(sums[i]);
    const int slot = turn % 2 * shape_.slots + rank * Traits::kDepthWarps + depth_warp;
    float* const at = slots_ + slot * shape_.slot + row * shape_.slot_pitch + unit;
    if (size > 1) {
      store_async(at, word, &barriers_[turn % 2], to);
    } else {
      *reinterpret_cast<Word16*>(at) = word;
    }
  }

 private:
  const BackwardShape<Traits>& shape_;
  Barrier* const barriers_;
  float* const slots_;
  const int bytes_;
};

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
        units_(shape.units),
        words_(words + static_cast<int>(blockIdx.x) / blocks * group_words(shape.units, blocks)) {}

  // of a group: of two turns, from each block to each
  FASTRNN_HD static int group_words(int, int blocks) {
    return 2 * blocks * kColumns * blocks * kWords;
  }

  __device__ static int unit_of(int lane, int) {
    return lane < Traits::kUnits ? lane % kWords * 4 + lane / kWords : Traits::kUnits;
  }

  __device__ void begin(int) const {}
  __device__ void meet() const { sync_block(); }
  __device__ void wait(int, int) const {}

  __device__ float incoming(int turn, int row, int lane, int, bool) const {
    const int all = size * kWords;
    const Word16* const words = words_ + place(turn, rank, row);
    const bool has_word = lane % kWords * 4 < units_;
    float sums[4] = {};
    for (int first = lane; first < all; first += kAtATime * kWarp) {
      const Word16* from[kAtATime];
      Word16 got[kAtATime];
#pragma unroll
      for (int i = 0; i < kAtATime; ++i) {
        const int at = first + i * kWarp;
        from[i] = has_word && at < all ? words + at : nullptr;
      }
      wait_words(from, got, [turn](const Word16& word) { return is_of(turn, word); });
#pragma unroll
      for (int i = 0; i < kAtATime; ++i) {
        if (!from[i]) continue;
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          sums[part] += std::bit_cast<float>(got[i].part[part] & ~1u);
        }
      }
    }
    return part_of_lane(lane, sums);
  }

  __device__ void send(int turn, int, int to, int row, int unit, const float (&sums)[4]) const {
    Word16 word;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      word.part[i] = (std::bit_cast<uint32_t>(sums[i]) & ~1u) | (turn >> i & 1);
    }
    store_word(words_ + place(turn, to, row) + rank * kWords + unit / 4, word);
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

  const int units_;
  Word16* const words_;
};

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
