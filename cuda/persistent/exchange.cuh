// How a block's part of the next operand gets to the other blocks that share its batch rows.
#pragma once

#include "persistent/layout.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

template <class Traits>
struct ForwardShape;

// In a cluster: by asynchronous stores into every block's operand, which count in a barrier there,
// the own block's too. A warp sends what its own lanes have put there; nothing else of its block
// waits.
template <class Traits>
class ClusterExchange {
  using Mode = typename Traits::Mode;
  static constexpr int kElement = sizeof(typename Mode::Element);
  static constexpr int kItems = Traits::kItems;
  // Words of 16 bytes that a warp has: of 4 kItems columns, each 8 units long. As many lanes have
  // the same word, for different blocks.
  static constexpr int kWords = 4 * kItems * Mode::kPlanes * kElement / 2;
  static constexpr int kLanes = kWarp / kWords;
  static_assert(kWords <= kWarp);
  static constexpr int kMostBlocks = 16;

 public:
  const int rank, size;

  __device__ ClusterExchange(const ForwardShape<Traits>& shape, char* memory, int warp, int lane,
                             int, Word16*)
      : rank(cluster_rank()),
        size(cluster_size()),
        barriers_(reinterpret_cast<Barrier*>(memory)),
        bytes_(size * Mode::kPlanes * kColumns * shape.units * kElement),
        to_(lane / kWords) {
    const int first_pair = Traits::first_pair(warp), unit = Traits::first_unit(warp);
    const int word = lane % kWords, column = word % (4 * kItems), rest = word / (4 * kItems);
    has_words_ = first_pair < Traits::kPairs && unit < shape.units;
    from_ = (kItems == 1 ? column * 2 + first_pair % 2 : column) * shape.operand.pitch +
            (Mode::kPlanes > 1 ? rest * shape.operand.plane : rest * 16) +
            (rank * shape.units + unit) * kElement;
  }

  __device__ void begin(int thread) const {
    if (thread == 0) arm_barriers(barriers_, bytes_);
  }
  __device__ void meet(int) const { sync_cluster(); }

  // until this turn's operand is whole
  __device__ void receive(int thread, int turn, char*) const {
    if (size == 1) return;
    Barrier* const barrier = &barriers_[turn % 2];
    wait_phase(barrier, phase_parity(turn));
    if (thread == 0) expect_bytes(barrier, bytes_);  // of the turn after the next
  }

  // warps send and receive each by itself
  __device__ bool is_by_warps() const { return size > 1; }

  // what the warp has put into `operand`, if there is such a turn
  __device__ void send(int turn, char* operand, bool there_is) const {
    if (size == 1) {
      sync_block();
      return;
    }
    sync_warp();
    if (!has_words_ || !there_is) return;
    char* const from = operand + from_;
    const Word16 word = *reinterpret_cast<const Word16*>(from);
#pragma unroll
    for (int i = 0; i < kMostBlocks; i += kLanes) {
      if (to_ + i >= size) break;
      const int to = rank + to_ + i;
      store_async(from, word, &barriers_[turn % 2], to < size ? to : to - size);
    }
  }

 private:
  Barrier* const barriers_;
  const int bytes_, to_;  // the first block that this lane sends to, counted from its own
  int from_;              // of an operand
  bool has_words_;
};

// In a group of blocks anywhere on the device: through the L2 cache, in words of 16 bytes that are
// written and read whole: 6 units of a column and the number of their turn, so that a reader knows
// by the word alone that it is there. A word of turn t + 2 takes the place of one of turn t: its
// writer has all of turn t + 1, which every reader has sent after it had all of turn t. A warp
// reads one column of all blocks, the words of which lie side by side.
template <class Traits>
class CacheExchange {
  static_assert(Traits::Mode::kPlanes == 1 && sizeof(typename Traits::Mode::Element) == 2);
  static_assert(Traits::kWarps == kColumns);
  static constexpr int kParts = 3;    // of a word, beside its number
  static constexpr int kAtATime = 6;  // words of a lane

 public:
  const int rank, size;

  // `words`: all of the launch's, zeros at its start
  __device__ CacheExchange(const ForwardShape<Traits>& shape, char*, int warp, int lane, int blocks,
                           Word16* words)
      : rank(static_cast<int>(blockIdx.x) % blocks),
        size(blocks),
        parts_(shape.units / 2),
        own_(words_of(shape.units)),
        pitch_(shape.operand.pitch),
        warp_(warp),
        lane_(lane),
        words_(words + static_cast<int>(blockIdx.x) / blocks * group_words(shape.units, blocks)) {}

  // of a group: of two turns, and one a block to meet by
  FASTRNN_HD static int group_words(int units, int blocks) {
    return blocks * (2 * kColumns * words_of(units) + 1);
  }

  __device__ void begin(int) const {}

  __device__ void meet(int thread) const {
    sync_block();
    Word16* const met = words_ + 2 * turn_words();
    if (thread == 0) store_word(met + rank, {{0, 0, 0, 1}});
    if (thread < size) {
      const Word16* const from[1] = {met + thread};
      Word16 word[1];
      wait_words(from, word, [](const Word16& w) { return w.part[kParts] == 1; });
    }
    sync_block();
  }

  __device__ bool is_by_warps() const { return false; }

  __device__ void receive(int, int turn, char* operand) const {
    const Word16* const column = words_ + turn % 2 * turn_words() + warp_ * size * own_.value;
    char* const to = operand + warp_ * pitch_;
    for (int first = lane_; first < size * own_.value; first += kAtATime * kWarp) {
      const Word16* from[kAtATime];
      Word16 words[kAtATime];
#pragma unroll
      for (int i = 0; i < kAtATime; ++i) {
        const int at = first + i * kWarp;
        from[i] = at < size * own_.value ? column + at : nullptr;
      }
      wait_words(from, words, [turn](const Word16& word) {
        return word.part[kParts] == static_cast<uint32_t>(turn);
      });
#pragma unroll
      for (int i = 0; i < kAtATime; ++i) {
        if (!from[i]) continue;
        const int at = first + i * kWarp, block = own_.quotient(at);
        const int part = (at - block * own_.value) * kParts;
        uint32_t* const place = reinterpret_cast<uint32_t*>(to) + block * parts_ + part;
#pragma unroll
        for (int k = 0; k < kParts; ++k) {
          if (part + k < parts_) place[k] = words[i].part[k];
        }
      }
    }
    sync_block();
  }

  __device__ void send(int turn, char* operand, bool there_is) const {
    sync_block();
    if (!there_is || lane_ >= own_.value) return;
    const uint32_t* const from = reinterpret_cast<const uint32_t*>(operand + warp_ * pitch_) +
                                 rank * parts_ + lane_ * kParts;
    Word16 word = {};
#pragma unroll
    for (int k = 0; k < kParts; ++k) {
      if (lane_ * kParts + k < parts_) word.part[k] = from[k];
    }
    word.part[kParts] = static_cast<uint32_t>(turn);
    store_word(words_ + turn % 2 * turn_words() + (warp_ * size + rank) * own_.value + lane_, word);
  }

 private:
  // of a column of a block
  FASTRNN_HD static int words_of(int units) { return (units / 2 + kParts - 1) / kParts; }
  __device__ int turn_words() const { return kColumns * size * own_.value; }

  const int parts_;    // of a column of a block
  const Divisor own_;  // its words
  const int pitch_, warp_, lane_;
  Word16* const words_;
};

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
