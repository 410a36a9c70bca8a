// The host forms of cuda/ops.cuh.
#pragma once

#include <cmath>
#include <type_traits>

#include "fibers.hpp"

namespace fastrnn {
namespace {
namespace cuda {

using cuda_emulation::Scheduler;

inline char* shared_memory() { return Scheduler::fiber().block->memory.data(); }
inline int cluster_rank() { return Scheduler::fiber().block->rank; }
inline int cluster_size() {
  return static_cast<int>(Scheduler::fiber().block->cluster->blocks.size());
}

inline void sync_block() {
  cuda_emulation::Block& block = *Scheduler::fiber().block;
  Scheduler::meet(block.meeting, static_cast<int>(blockDim.x), "sync_block", [] {});
}

inline void sync_group(int group, int threads) {
  cuda_emulation::Block& block = *Scheduler::fiber().block;
  Scheduler::meet(block.groups.at(static_cast<size_t>(group)), threads, "sync_group", [] {});
}

inline void sync_cluster() {
  cuda_emulation::Cluster& cluster = *Scheduler::fiber().block->cluster;
  const int threads = static_cast<int>(blockDim.x) * static_cast<int>(cluster.blocks.size());
  Scheduler::meet(cluster.meeting, threads, "sync_cluster", [] {});
}

// action(operands of the 32 lanes)
template <class Action>
void meet_in_warp(const char* instruction, void* first, void* second, void* third,
                  const Action& action) {
  cuda_emulation::Fiber& self = Scheduler::fiber();
  cuda_emulation::Warp& warp = self.warp();
  void* const mine[] = {first, second, third};
  std::copy(std::begin(mine), std::end(mine), warp.operands[self.lane()]);
  Scheduler::meet(warp.meeting, kWarp, instruction, [&] { action(warp.operands); });
}

template <class T>
T& operand(void* address) {
  return *static_cast<T*>(address);
}

inline void sync_warp() {
  meet_in_warp("sync_warp", nullptr, nullptr, nullptr, [](auto&) {});
}

inline float shuffle_xor(float value, int lanes) {
  float result = 0;
  meet_in_warp("shuffle_xor", &value, &result, nullptr, [&](auto& of) {
    for (int lane = 0; lane < kWarp; ++lane) {
      operand<float>(of[lane][1]) = operand<float>(of[lane ^ lanes][0]);
    }
  });
  return result;
}

inline void init_barrier(Barrier* barrier) {
  Scheduler::fiber().block->cluster->barriers[Scheduler::in_block(barrier, cluster_rank())] = {};
}

inline void expect_bytes(Barrier* barrier, int bytes) {
  cuda_emulation::BarrierState& state = Scheduler::barrier(barrier);
  if (state.pending == 0) Scheduler::fail("expect_bytes", "a second arrival in one phase");
  --state.pending;
  state.bytes += bytes;
  Scheduler::end_phase_if_complete(state);
}

inline void wait_phase(Barrier* barrier, int parity) {
  cuda_emulation::BarrierState& state = Scheduler::barrier(barrier);
  while (static_cast<int>(state.phases % 2) == parity) Scheduler::wait_until_changed(state.phases);
}

inline void store_async(void* to, const Word16& value, Barrier* barrier, int rank) {
  cuda_emulation::Message message = {};
  message.to = static_cast<char*>(Scheduler::in_block(to, rank));
  message.barrier = Scheduler::in_block(barrier, rank);
  if (reinterpret_cast<uintptr_t>(to) % 16)
    Scheduler::fail("store_async", "not aligned to 16 bytes");
  std::memcpy(message.data, &value, sizeof value);
  Scheduler::fiber().block->cluster->messages.push_back(message);
}

inline void store_word(Word16* to, const Word16& value) {
  cuda_emulation::Message message = {};
  message.to = reinterpret_cast<char*>(to);
  if (reinterpret_cast<uintptr_t>(to) % 16)
    Scheduler::fail("store_word", "not aligned to 16 bytes");
  std::memcpy(message.data, &value, sizeof value);
  Scheduler::fiber().block->cluster->messages.push_back(message);
}

template <int N, class IsThere>
void wait_words(const Word16* const (&from)[N], Word16 (&words)[N], const IsThere& is_there) {
  for (int i = 0; i < N; ++i) {
    if (!from[i]) continue;
    while (!is_there(*from[i])) {
      Scheduler::wait_until_changed(Scheduler::fiber().block->cluster->deliveries);
    }
    words[i] = *from[i];
  }
}

inline void load_matrices(const void* row, uint32_t (&words)[4]) {
  if (reinterpret_cast<uintptr_t>(row) % 16)
    Scheduler::fail("load_matrices", "row not aligned to 16 bytes");
  Scheduler::in_block(row, 0);
  meet_in_warp("load_matrices", const_cast<void*>(row), words, nullptr, [](auto& of) {
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int m = 0; m < 4; ++m) {
        std::memcpy(&operand<uint32_t[4]>(of[lane][1])[m],
                    static_cast<const char*>(of[8 * m + lane / 4][0]) + lane % 4 * 4, 4);
      }
    }
  });
}

template <class Operands>
float part_of_word(uint32_t word, [[maybe_unused]] int part) {
  if constexpr (std::is_same_v<Operands, Tf32Operands>) {
    return std::bit_cast<float>(word & 0xffffe000u);
  } else if constexpr (std::is_same_v<Operands, BFloat16Operands>) {
    return computed(BFloat16{static_cast<uint16_t>(word >> 16 * part)});
  } else {
    return computed(Float16{static_cast<uint16_t>(word >> 16 * part)});
  }
}

// Towards zero: tensor cores do not round their sums to nearest.
inline float truncated(double value) {
  const float nearest = static_cast<float>(value);
  return std::fabs(static_cast<double>(nearest)) > std::fabs(value) ? std::nextafterf(nearest, 0)
                                                                    : nearest;
}

template <class Operands, int kFirstA, int kFirstB, int M, int A, int B>
void multiply_tiles(const uint32_t (&a)[M][A], const uint32_t (&b)[B], float (*d)[4]) {
  static_assert(kFirstA + 4 <= A && kFirstB + 2 <= B);
  constexpr int kDepth = Operands::kDepth, kParts = kDepth / 8;  // values in a word
  meet_in_warp(
      "multiply_tiles", const_cast<uint32_t (*)[A]>(a), const_cast<uint32_t*>(b), d, [](auto& of) {
        float right[kDepth][8];
        for (int lane = 0; lane < kWarp; ++lane) {
          for (int i = 0; i < 2 * kParts; ++i) {
            const int k = (lane % 4) * kParts + i % kParts + i / kParts * 4 * kParts;
            right[k][lane / 4] = part_of_word<Operands>(
                operand<uint32_t[B]>(of[lane][1])[kFirstB + i / kParts], i % kParts);
          }
        }
        for (int m = 0; m < M; ++m) {
          float left[16][kDepth];
          for (int lane = 0; lane < kWarp; ++lane) {
            for (int i = 0; i < 4 * kParts; ++i) {
              const int word = i / kParts;
              const int k = (lane % 4) * kParts + i % kParts + word / 2 * 4 * kParts;
              left[lane / 4 + word % 2 * 8][k] = part_of_word<Operands>(
                  operand<uint32_t[M][A]>(of[lane][0])[m][kFirstA + word], i % kParts);
            }
          }
          for (int lane = 0; lane < kWarp; ++lane) {
            for (int i = 0; i < 4; ++i) {
              const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
              float& sum = operand<float[M][4]>(of[lane][2])[m][i];
              double exact = static_cast<double>(sum);
              for (int k = 0; k < kDepth; ++k) {
                exact += static_cast<double>(left[row][k]) * static_cast<double>(right[k][column]);
              }
              sum = truncated(exact);
            }
          }
        }
      });
}

inline int opaque(int value) { return value; }

// off by just under 2^-11, as the hardware's may be
inline float approximate_tanh(float value) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(std::tanh(value)) & 0xfffff000u);
}

inline uint32_t rounded_to_tf32(float value) {
  return (std::bit_cast<uint32_t>(value) + 0x1000u) & 0xffffe000u;
}

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
