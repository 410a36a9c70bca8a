// AVX-512: 32 registers of 16 floats or 8 doubles; masks load tails.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

constexpr int kRegisters = 32;

// Runs before it is known that this CPU has AVX-512, so it must not use a vector register.
__attribute__((target("general-regs-only"))) bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("fma");
}

template <class T>
struct Vec;

template <>
struct Vec<float> {
  using Scalar = float;
  static constexpr int kLanes = 16;
  __m512 v;
  static Vec set(float s) { return {_mm512_set1_ps(s)}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load(const float* p, int n) { return {_mm512_maskz_loadu_ps(tail(n), p)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(float* p, int n) const { _mm512_mask_storeu_ps(p, tail(n), v); }
  static __mmask16 tail(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
};
using Float = Vec<float>;
inline Float operator+(Float a, Float b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Float operator-(Float a, Float b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Float operator*(Float a, Float b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Float operator/(Float a, Float b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Float fma(Float a, Float b, Float c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Float minimum(Float a, Float b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Float maximum(Float a, Float b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Float abs(Float a) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v)}; }
inline Float copysign(Float a, Float s) {
  return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(
      _mm512_set1_epi32(INT32_MIN), _mm512_castps_si512(s.v), _mm512_castps_si512(a.v), 0xCA))};
}
inline Float low_bits_to_exponent(Float z) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(z.v), 23))};
}
inline __mmask16 less(Float a, Float b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
inline Float select(__mmask16 m, Float yes, Float no) {
  return {_mm512_mask_blend_ps(m, no.v, yes.v)};
}
inline Float zip_low(Float a, Float b) {
  const __m512i from = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return {_mm512_permutex2var_ps(a.v, from, b.v)};
}
inline Float zip_high(Float a, Float b) {
  const __m512i from =
      _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return {_mm512_permutex2var_ps(a.v, from, b.v)};
}
// Zen 4 divides a vector in 10 cycles, beside its multiply-adds. The dividers of others take 16:
// there a reciprocal of 14 bits, improved once, and the quotient corrected by its remainder.
inline Float quotient(Float a, Float b) {
  if (__builtin_cpu_is("amdfam19h")) return a / b;
  const Float near{_mm512_rcp14_ps(b.v)};
  const Float reciprocal = fma(fma(Float{-b.v}, near, Float::set(1)), near, near);
  const Float q = a * reciprocal;
  return fma(fma(Float{-b.v}, q, a), reciprocal, q);
}
// By hand, so that the sum stays in its register and b is loaded once.
inline void add_product(Float& sum, Float a, Float b) {
  asm("vfmadd231ps %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(b.v));
}

template <>
struct Vec<double> {
  using Scalar = double;
  static constexpr int kLanes = 8;
  __m512d v;
  static Vec set(double s) { return {_mm512_set1_pd(s)}; }
  static Vec load(const double* p) { return {_mm512_loadu_pd(p)}; }
  static Vec load(const double* p, int n) { return {_mm512_maskz_loadu_pd(tail(n), p)}; }
  void store(double* p) const { _mm512_storeu_pd(p, v); }
  void store(double* p, int n) const { _mm512_mask_storeu_pd(p, tail(n), v); }
  static __mmask8 tail(int n) { return static_cast<__mmask8>((1u << n) - 1u); }
};
using Double = Vec<double>;
inline Double operator+(Double a, Double b) { return {_mm512_add_pd(a.v, b.v)}; }
inline Double operator-(Double a, Double b) { return {_mm512_sub_pd(a.v, b.v)}; }
inline Double operator*(Double a, Double b) { return {_mm512_mul_pd(a.v, b.v)}; }
inline Double operator/(Double a, Double b) { return {_mm512_div_pd(a.v, b.v)}; }
inline Double fma(Double a, Double b, Double c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
inline Double minimum(Double a, Double b) { return {_mm512_min_pd(a.v, b.v)}; }
inline Double maximum(Double a, Double b) { return {_mm512_max_pd(a.v, b.v)}; }
inline Double abs(Double a) { return {_mm512_andnot_pd(_mm512_set1_pd(-0.0), a.v)}; }
inline Double copysign(Double a, Double s) {
  return {_mm512_castsi512_pd(_mm512_ternarylogic_epi64(
      _mm512_set1_epi64(INT64_MIN), _mm512_castpd_si512(s.v), _mm512_castpd_si512(a.v), 0xCA))};
}
inline Double low_bits_to_exponent(Double z) {
  return {_mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(z.v), 52))};
}
inline __mmask8 less(Double a, Double b) { return _mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ); }
inline Double select(__mmask8 m, Double yes, Double no) {
  return {_mm512_mask_blend_pd(m, no.v, yes.v)};
}
inline Double zip_low(Double a, Double b) {
  return {_mm512_permutex2var_pd(a.v, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b.v)};
}
inline Double zip_high(Double a, Double b) {
  return {_mm512_permutex2var_pd(a.v, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b.v)};
}
inline Double quotient(Double a, Double b) {
  const Double one = Double::set(1), near{_mm512_rcp14_pd(b.v)};
  const Double nearer = fma(fma(Double{-b.v}, near, one), near, near);
  const Double reciprocal = fma(fma(Double{-b.v}, nearer, one), nearer, nearer);
  const Double q = a * reciprocal;
  return fma(fma(Double{-b.v}, q, a), reciprocal, q);
}
inline void add_product(Double& sum, Double a, Double b) {
  asm("vfmadd231pd %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(b.v));
}

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
