// What this core can do at most: multiply-adds a second, and bytes read a second. The benchmark
// divides by it. Both loops do nothing else, with the vectors of this instruction set.
#pragma once

#include <stdint.h>

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

template <class T>
struct Probe {
  using V = Vec<T>;

  // Chains enough to hide the latency of a multiply-add, few enough for the registers. -> flops
  static int64_t multiply_add(int64_t rounds) {
    constexpr int kChains = kRegisters >= 32 ? 24 : 12;
    const V half = V::set(T(0.5));
    V chain[kChains];
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) chain[i] = V::set(static_cast<T>(i));
    for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
      for (int i = 0; i < kChains; ++i) chain[i] = fma(chain[i], half, half);
    }
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) use(chain[i]);
    return 2 * kChains * V::kLanes * rounds;
  }

  // Read `data`, again and again. -> bytes
  static int64_t read(const void* data, int64_t bytes, int64_t rounds) {
    constexpr int kChains = 8;
    const T* numbers = static_cast<const T*>(data);
    constexpr int64_t kBlock = kChains * V::kLanes;
    const int64_t blocks = bytes / static_cast<int64_t>(sizeof(T)) / kBlock;
    V sum[kChains];
#pragma GCC unroll 8
    for (int i = 0; i < kChains; ++i) sum[i] = V::set(T(0));
    for (int64_t round = 0; round < rounds; ++round) {
      asm volatile("" ::: "memory");  // or one round would do for all
      for (int64_t b = 0; b < blocks; ++b) {
#pragma GCC unroll 8
        for (int i = 0; i < kChains; ++i)
          sum[i] = sum[i] + V::load(numbers + b * kBlock + i * V::kLanes);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kChains; ++i) use(sum[i]);
    return blocks * kBlock * static_cast<int64_t>(sizeof(T)) * rounds;
  }

 private:
  static void use(V v) {
    T lanes[V::kLanes];
    v.store(lanes);
    asm volatile("" ::"r"(lanes) : "memory");
  }
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
