// What arrays hold, and what is computed with: float16 and bfloat16 are stored so and computed in
// float. Conversions round to nearest, ties to even, and have the same bits on the host and the
// device; every NaN becomes 0x7fff, as the hardware makes it.
#pragma once

#include <bit>
#include <cstdint>

#include "math.hpp"

namespace fastrnn {
namespace {
namespace cuda {

struct Float16 {  // IEEE 754 binary16: 5 bits of exponent, 10 of mantissa
  uint16_t bits;
};

struct BFloat16 {  // the upper half of a float: 8 and 7
  uint16_t bits;
};

template <class T>
struct ComputeOf {
  using Type = T;
};
template <>
struct ComputeOf<Float16> {
  using Type = float;
};
template <>
struct ComputeOf<BFloat16> {
  using Type = float;
};

// of a value that is stored as T
template <class T>
using Compute = typename ComputeOf<T>::Type;

FASTRNN_HD float computed(float value) { return value; }
FASTRNN_HD double computed(double value) { return value; }

FASTRNN_HD float computed(BFloat16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

FASTRNN_HD float computed(Float16 value) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  const uint32_t sign = (value.bits & 0x8000u) << 16, rest = value.bits & 0x7fffu;
  if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  const float magnitude = std::bit_cast<float>(rest << 13) * 0x1p112f;  // subnormal ones too
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
#endif
}

template <class T>
FASTRNN_HD T stored(Compute<T> value) {
  return value;
}

template <>
FASTRNN_HD BFloat16 stored<BFloat16>(float value) {
#if defined(__CUDA_ARCH__)
  uint32_t bits;  // of two values: a conversion of one takes longer
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(0.0f), "f"(value));
  return {static_cast<uint16_t>(bits)};
#else
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
#endif
}

template <>
FASTRNN_HD Float16 stored<Float16>(float value) {
#if defined(__CUDA_ARCH__)
  uint32_t bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(0.0f), "f"(value));
  return {static_cast<uint16_t>(bits)};
#else
  constexpr uint32_t kInfinite = 0x477ff000;   // 65520 rounds up to 2^16
  constexpr uint32_t kSubnormal = 0x38800000;  // below 2^-14
  const uint32_t all = std::bit_cast<uint32_t>(value), size = all & 0x7fffffffu;
  if (size > 0x7f800000u) return {0x7fff};
  uint32_t bits;
  if (size >= kInfinite) {
    bits = 0x7c00;
  } else if (size < kSubnormal) {  // the sum with 1/2 is rounded to multiples of 2^-24
    bits = std::bit_cast<uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3f000000u;
  } else {
    bits = (size + 0xfffu + (size >> 13 & 1) - 0x38000000u) >> 13;
  }
  return {static_cast<uint16_t>((all >> 16 & 0x8000u) | bits)};
#endif
}

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
