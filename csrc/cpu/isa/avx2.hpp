// AVX2 + FMA: 16 registers of 8 floats or 4 doubles.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

constexpr int kRegisters = 16;

// Runs before it is known that this CPU has AVX2, so it must not use a vector register.
__attribute__((target("general-regs-only"))) bool supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

template <class T>
struct Vec;

template <>
struct Vec<float> {
  using Scalar = float;
  static constexpr int kLanes = 8;
  __m256 v;
  static Vec set(float s) { return {_mm256_set1_ps(s)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load(const float* p, int n) { return {_mm256_maskload_ps(p, tail(n))}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store(float* p, int n) const { _mm256_maskstore_ps(p, tail(n), v); }
  static __m256i tail(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};
using Float = Vec<float>;
inline Float operator+(Float a, Float b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Float operator-(Float a, Float b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Float operator*(Float a, Float b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Float operator/(Float a, Float b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Float fma(Float a, Float b, Float c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Float minimum(Float a, Float b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Float maximum(Float a, Float b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Float abs(Float a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline Float copysign(Float a, Float s) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_and_ps(sign, s.v), _mm256_andnot_ps(sign, a.v))};
}
inline Float low_bits_to_exponent(Float z) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(z.v), 23))};
}
inline __m256 less(Float a, Float b) { return _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ); }
inline Float select(__m256 m, Float yes, Float no) { return {_mm256_blendv_ps(no.v, yes.v, m)}; }
inline Float zip_low(Float a, Float b) {
  return {_mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x20)};
}
inline Float zip_high(Float a, Float b) {
  return {_mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x31)};
}
inline Float quotient(Float a, Float b) { return a / b; }
// By hand: the compiler lets sums change registers and loads b once for each of them, and there are
// no registers to spare.
inline void add_product(Float& sum, Float a, Float b) {
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum.v) : "x"(a.v), "x"(b.v));
}

template <>
struct Vec<double> {
  using Scalar = double;
  static constexpr int kLanes = 4;
  __m256d v;
  static Vec set(double s) { return {_mm256_set1_pd(s)}; }
  static Vec load(const double* p) { return {_mm256_loadu_pd(p)}; }
  static Vec load(const double* p, int n) { return {_mm256_maskload_pd(p, tail(n))}; }
  void store(double* p) const { _mm256_storeu_pd(p, v); }
  void store(double* p, int n) const { _mm256_maskstore_pd(p, tail(n), v); }
  static __m256i tail(int n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
  }
};
using Double = Vec<double>;
inline Double operator+(Double a, Double b) { return {_mm256_add_pd(a.v, b.v)}; }
inline Double operator-(Double a, Double b) { return {_mm256_sub_pd(a.v, b.v)}; }
inline Double operator*(Double a, Double b) { return {_mm256_mul_pd(a.v, b.v)}; }
inline Double operator/(Double a, Double b) { return {_mm256_div_pd(a.v, b.v)}; }
inline Double fma(Double a, Double b, Double c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
inline Double minimum(Double a, Double b) { return {_mm256_min_pd(a.v, b.v)}; }
inline Double maximum(Double a, Double b) { return {_mm256_max_pd(a.v, b.v)}; }
inline Double abs(Double a) { return {_mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v)}; }
inline Double copysign(Double a, Double s) {
  const __m256d sign = _mm256_set1_pd(-0.0);
  return {_mm256_or_pd(_mm256_and_pd(sign, s.v), _mm256_andnot_pd(sign, a.v))};
}
inline Double low_bits_to_exponent(Double z) {
  return {_mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(z.v), 52))};
}
inline __m256d less(Double a, Double b) { return _mm256_cmp_pd(a.v, b.v, _CMP_LT_OQ); }
inline Double select(__m256d m, Double yes, Double no) {
  return {_mm256_blendv_pd(no.v, yes.v, m)};
}
inline Double zip_low(Double a, Double b) {
  return {_mm256_permute2f128_pd(_mm256_unpacklo_pd(a.v, b.v), _mm256_unpackhi_pd(a.v, b.v), 0x20)};
}
inline Double zip_high(Double a, Double b) {
  return {_mm256_permute2f128_pd(_mm256_unpacklo_pd(a.v, b.v), _mm256_unpackhi_pd(a.v, b.v), 0x31)};
}
inline Double quotient(Double a, Double b) { return a / b; }
inline void add_product(Double& sum, Double a, Double b) {
  asm("vfmadd231pd %2, %1, %0" : "+x"(sum.v) : "x"(a.v), "x"(b.v));
}

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
