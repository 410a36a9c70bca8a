// Plain C++, one lane: runs everywhere, and is the readable path.
#pragma once

#include <stdint.h>

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

constexpr int kRegisters = 16;

bool supported() { return true; }

template <class T>
struct Bits;
template <>
struct Bits<float> {
  using Integer = uint32_t;
  static constexpr int kMantissa = 23;
};
template <>
struct Bits<double> {
  using Integer = uint64_t;
  static constexpr int kMantissa = 52;
};

template <class T>
struct Vec {
  using Scalar = T;
  static constexpr int kLanes = 1;
  T v;
  static Vec set(T s) { return {s}; }
  static Vec load(const T* p) { return {*p}; }
  static Vec load(const T* p, int) { return {*p}; }
  void store(T* p) const { *p = v; }
  void store(T* p, int) const { *p = v; }
};

template <class T>
inline Vec<T> operator+(Vec<T> a, Vec<T> b) {
  return {a.v + b.v};
}
template <class T>
inline Vec<T> operator-(Vec<T> a, Vec<T> b) {
  return {a.v - b.v};
}
template <class T>
inline Vec<T> operator*(Vec<T> a, Vec<T> b) {
  return {a.v * b.v};
}
template <class T>
inline Vec<T> operator/(Vec<T> a, Vec<T> b) {
  return {a.v / b.v};
}
template <class T>
inline Vec<T> quotient(Vec<T> a, Vec<T> b) {
  return a / b;
}
// Not fused where the CPU has no such instruction: std::fma in software would be 50 times slower.
template <class T>
inline Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return {a.v * b.v + c.v};
}
template <class T>
inline Vec<T> minimum(Vec<T> a, Vec<T> b) {
  return a.v < b.v ? a : b;
}
template <class T>
inline Vec<T> maximum(Vec<T> a, Vec<T> b) {
  return a.v > b.v ? a : b;
}
template <class T>
inline Vec<T> copysign(Vec<T> a, Vec<T> s) {
  if constexpr (sizeof(T) == 4) {
    return {__builtin_copysignf(a.v, s.v)};
  } else {
    return {__builtin_copysign(a.v, s.v)};
  }
}
template <class T>
inline Vec<T> abs(Vec<T> a) {
  return copysign(a, Vec<T>{T(1)});
}
template <class T>
inline Vec<T> low_bits_to_exponent(Vec<T> z) {
  using Integer = typename Bits<T>::Integer;
  return {__builtin_bit_cast(T, __builtin_bit_cast(Integer, z.v) << Bits<T>::kMantissa)};
}
template <class T>
inline bool less(Vec<T> a, Vec<T> b) {
  return a.v < b.v;
}
template <class T>
inline Vec<T> select(bool m, Vec<T> yes, Vec<T> no) {
  return m ? yes : no;
}
template <class T>
inline void add_product(Vec<T>& sum, Vec<T> a, Vec<T> b) {
  sum = fma(a, b, sum);
}

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
