// How a block's part of the next operand gets to the other blocks that share its batch rows.
#pragma once

#include "persistent/layout.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

// In a cluster: by asynchronous stores into the others' operands, which count in a barrier there.
template <class Traits>
class ClusterExchange {
  using Element = typename Traits::Mode::Element;

 public:
  const int rank, size;

  __device__ ClusterExchange(const BlockShape<Traits>& shape, char* memory, int, Word16*)
      : rank(cluster_rank()),
        size(cluster_size()),
        shape_(shape),
        barriers_(reinterpret_cast<Barrier*>(memory)),
        bytes_((size - 1) * Traits::Mode::kPlanes * kColumns * shape.units * int{sizeof(Element)}) {
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

  __device__ void send(int thread, int turn, char* operand) const {
    if (size == 1) return;
    // opaque, or registers would keep what divisions by it need from step to step
    const int words = opaque(shape_.units) * int{sizeof(Element)} / 16;
    const int all = Traits::Mode::kPlanes * kColumns * words;
    for (int i = thread; i < (size - 1) * all; i += Traits::kThreads) {
      const int to = (rank + 1 + i / all) % opaque(size), row = i % all / words, word = i % words;
      char* const from = operand + row * shape_.operand.pitch +
                         rank * shape_.units * int{sizeof(Element)} + word * 16;
      store_async(from, *reinterpret_cast<const Word16*>(from), &barriers_[turn % 2], to);
    }
  }

 private:
  const BlockShape<Traits>& shape_;
  Barrier* const barriers_;
  const int bytes_;
};

// In a group of blocks anywhere on the device: through the L2 cache, in words of 16 bytes that are
// written and read whole and carry the number of their turn, so that a reader knows by the word
// alone that it is there. A word of turn t + 2 takes the place of one of turn t: its writer has all
// of turn t + 1, which every reader has sent after it had all of turn t.
template <class Traits>
class CacheExchange {
  using Element = typename Traits::Mode::Element;
  static constexpr int kParts = 3;    // of a word, beside its number
  static constexpr int kAtATime = 4;  // words of a thread

 public:
  const int rank, size;

  // `words`: all of the launch's, zeros at its start
  __device__ CacheExchange(const BlockShape<Traits>& shape, char*, int blocks, Word16* words)
      : rank(static_cast<int>(blockIdx.x) % blocks),
        size(blocks),
        shape_(shape),
        row_(shape.units * int{sizeof(Element)} / 4),
        own_(words_of(shape.units)),
        words_(words + static_cast<int>(blockIdx.x) / blocks * group_words(shape.units, blocks)) {}

  // of a group: of two turns, and one a block to meet by
  FASTRNN_HD static int group_words(int units, int blocks) {
    return blocks * (2 * words_of(units) + 1);
  }

  __device__ void begin(int) const {}

  __device__ void meet(int thread) const {
    sync_block();
    Word16* const met = words_ + 2 * size * own_;
    if (thread == 0) store_word(met + rank, {{0, 0, 0, 1}});
    if (thread < size) {
      const Word16* const from[1] = {met + thread};
      Word16 word[1];
      wait_words(from, word, [](const Word16& w) { return w.part[kParts] == 1; });
    }
    sync_block();
  }

  __device__ void receive(int thread, int turn, char* operand) const {
    const Word16* const all = words_ + turn % 2 * size * own_;
    const int others = (size - 1) * own_;
    for (int first = thread; first < others; first += kAtATime * Traits::kThreads) {
      const Word16* from[kAtATime];
      Word16 words[kAtATime];
#pragma unroll
      for (int i = 0; i < kAtATime; ++i) {
        const int at = first + i * Traits::kThreads;
        from[i] = at < others ? all + place(at) : nullptr;
      }
      wait_words(from, words, [turn](const Word16& word) {
        return word.part[kParts] == static_cast<uint32_t>(turn);
      });
#pragma unroll
      for (int i = 0; i < kAtATime; ++i) {
        if (from[i]) unpack(operand, place(first + i * Traits::kThreads), words[i]);
      }
    }
    sync_block();
  }

  __device__ void send(int thread, int turn, char* operand) const {
    for (int i = thread; i < own_; i += Traits::kThreads) {
      Word16 word = {};
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const int at = i * kParts + part;
        if (at < parts()) word.part[part] = *part_at(operand, rank, at);
      }
      word.part[3] = static_cast<uint32_t>(turn);
      store_word(words_ + turn % 2 * size * own_ + rank * own_ + i, word);
    }
  }

 private:
  FASTRNN_HD static int words_of(int units) {
    return (Traits::Mode::kPlanes * kColumns * units * int{sizeof(Element)} / 4 + kParts - 1) /
           kParts;
  }
  __device__ int parts() const { return Traits::Mode::kPlanes * kColumns * row_; }

  // of the others' words, the next block's first
  __device__ int place(int i) const { return ((rank + 1 + i / own_) % size) * own_ + i % own_; }

  __device__ uint32_t* part_at(char* operand, int block, int part) const {
    return reinterpret_cast<uint32_t*>(operand + part / row_ * shape_.operand.pitch +
                                       block * shape_.units * int{sizeof(Element)}) +
           part % row_;
  }

  __device__ void unpack(char* operand, int at, const Word16& word) const {
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const int part = at % own_ * kParts + i;
      if (part < parts()) *part_at(operand, at / own_, part) = word.part[i];
    }
  }

  const BlockShape<Traits>& shape_;
  const int row_, own_;  // parts of an operand's row; words of a block and turn
  Word16* const words_;
};

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
