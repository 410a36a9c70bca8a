// NEON (aarch64): 32 registers of 4 floats or 2 doubles.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

constexpr int kRegisters = 32;

bool supported() { return true; }  // part of the aarch64 baseline

template <class T>
struct Vec;

template <>
struct Vec<float> {
  using Scalar = float;
  static constexpr int kLanes = 4;
  float32x4_t v;
  static Vec set(float s) { return {vdupq_n_f32(s)}; }
  static Vec load(const float* p) { return {vld1q_f32(p)}; }
  static Vec load(const float* p, int n) {
    float lanes[kLanes] = {};
    for (int i = 0; i < n; ++i) lanes[i] = p[i];
    return {vld1q_f32(lanes)};
  }
  void store(float* p) const { vst1q_f32(p, v); }
  void store(float* p, int n) const {
    float lanes[kLanes];
    vst1q_f32(lanes, v);
    for (int i = 0; i < n; ++i) p[i] = lanes[i];
  }
};
using Float = Vec<float>;
inline Float operator+(Float a, Float b) { return {vaddq_f32(a.v, b.v)}; }
inline Float operator-(Float a, Float b) { return {vsubq_f32(a.v, b.v)}; }
inline Float operator*(Float a, Float b) { return {vmulq_f32(a.v, b.v)}; }
inline Float operator/(Float a, Float b) { return {vdivq_f32(a.v, b.v)}; }
inline Float fma(Float a, Float b, Float c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
inline Float minimum(Float a, Float b) { return {vminq_f32(a.v, b.v)}; }
inline Float maximum(Float a, Float b) { return {vmaxq_f32(a.v, b.v)}; }
inline Float abs(Float a) { return {vabsq_f32(a.v)}; }
inline Float copysign(Float a, Float s) { return {vbslq_f32(vdupq_n_u32(0x80000000u), s.v, a.v)}; }
inline Float low_bits_to_exponent(Float z) {
  return {vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(z.v), 23))};
}
inline uint32x4_t less(Float a, Float b) { return vcltq_f32(a.v, b.v); }
inline Float select(uint32x4_t m, Float yes, Float no) { return {vbslq_f32(m, yes.v, no.v)}; }
inline Float zip_low(Float a, Float b) { return {vzip1q_f32(a.v, b.v)}; }
inline Float zip_high(Float a, Float b) { return {vzip2q_f32(a.v, b.v)}; }
inline Float quotient(Float a, Float b) { return a / b; }
inline void add_product(Float& sum, Float a, Float b) { sum = fma(a, b, sum); }

template <>
struct Vec<double> {
  using Scalar = double;
  static constexpr int kLanes = 2;
  float64x2_t v;
  static Vec set(double s) { return {vdupq_n_f64(s)}; }
  static Vec load(const double* p) { return {vld1q_f64(p)}; }
  static Vec load(const double* p, int n) {
    return n == 2 ? load(p) : Vec{vsetq_lane_f64(*p, vdupq_n_f64(0), 0)};
  }
  void store(double* p) const { vst1q_f64(p, v); }
  void store(double* p, int n) const {
    p[0] = vgetq_lane_f64(v, 0);
    if (n == 2) p[1] = vgetq_lane_f64(v, 1);
  }
};
using Double = Vec<double>;
inline Double operator+(Double a, Double b) { return {vaddq_f64(a.v, b.v)}; }
inline Double operator-(Double a, Double b) { return {vsubq_f64(a.v, b.v)}; }
inline Double operator*(Double a, Double b) { return {vmulq_f64(a.v, b.v)}; }
inline Double operator/(Double a, Double b) { return {vdivq_f64(a.v, b.v)}; }
inline Double fma(Double a, Double b, Double c) { return {vfmaq_f64(c.v, a.v, b.v)}; }
inline Double minimum(Double a, Double b) { return {vminq_f64(a.v, b.v)}; }
inline Double maximum(Double a, Double b) { return {vmaxq_f64(a.v, b.v)}; }
inline Double abs(Double a) { return {vabsq_f64(a.v)}; }
inline Double copysign(Double a, Double s) {
  return {vbslq_f64(vdupq_n_u64(0x8000000000000000u), s.v, a.v)};
}
inline Double low_bits_to_exponent(Double z) {
  return {vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(z.v), 52))};
}
inline uint64x2_t less(Double a, Double b) { return vcltq_f64(a.v, b.v); }
inline Double select(uint64x2_t m, Double yes, Double no) { return {vbslq_f64(m, yes.v, no.v)}; }
inline Double zip_low(Double a, Double b) { return {vzip1q_f64(a.v, b.v)}; }
inline Double zip_high(Double a, Double b) { return {vzip2q_f64(a.v, b.v)}; }
inline Double quotient(Double a, Double b) { return a / b; }
inline void add_product(Double& sum, Double a, Double b) { sum = fma(a, b, sum); }

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
