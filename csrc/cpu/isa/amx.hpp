// AMX: AVX-512 with its dot products of bfloat16, and a matrix unit for bfloat16.
#pragma once

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu/isa/avx512.hpp"

// What runs before it is known that this CPU has AVX-512 must not use a vector register.
#define FASTRNN_EARLY __attribute__((target("general-regs-only")))

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// Linux gives the unit's registers, 8 KiB of a thread's state, to a process that asks for them.
FASTRNN_EARLY bool unit_granted() {
  constexpr unsigned kTilesAndBf16 = 1u << 24 | 1u << 22, kDotProducts = 1u << 5;
  constexpr int64_t kAsk = 0x1023, kTileData = 18;
  unsigned a = 0, b = 0, c = 0, d = 0, more = 0;
  if (!supported() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) ||
      !__get_cpuid_count(7, 1, &more, &b, &c, &a)) {
    return false;
  }
  return (d & kTilesAndBf16) == kTilesAndBf16 && (more & kDotProducts) != 0 &&
         syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
}

FASTRNN_EARLY bool unit_supported() {
  static const bool granted = unit_granted();
  return granted;
}

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
