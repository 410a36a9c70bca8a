// One lane: the V that math.hpp and the cells are instantiated with on the device.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "device.cuh"

namespace fastrnn {
namespace {
namespace cuda {

template <class T>
struct Vec {
  using Scalar = T;
  T v;
  FASTRNN_HD static Vec set(T s) { return {s}; }
};

template <class T>
FASTRNN_HD Vec<T> operator+(Vec<T> a, Vec<T> b) {
  return {a.v + b.v};
}
template <class T>
FASTRNN_HD Vec<T> operator-(Vec<T> a, Vec<T> b) {
  return {a.v - b.v};
}
template <class T>
FASTRNN_HD Vec<T> operator*(Vec<T> a, Vec<T> b) {
  return {a.v * b.v};
}
template <class T>
FASTRNN_HD Vec<T> operator/(Vec<T> a, Vec<T> b) {
  return {a.v / b.v};
}
template <class T>
FASTRNN_HD Vec<T> quotient(Vec<T> a, Vec<T> b) {
  return {a.v / b.v};
}
template <class T>
FASTRNN_HD Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return {std::fma(a.v, b.v, c.v)};
}
template <class T>
FASTRNN_HD Vec<T> minimum(Vec<T> a, Vec<T> b) {
  return a.v < b.v ? a : b;
}
template <class T>
FASTRNN_HD Vec<T> maximum(Vec<T> a, Vec<T> b) {
  return a.v > b.v ? a : b;
}
template <class T>
FASTRNN_HD Vec<T> abs(Vec<T> a) {
  return {std::fabs(a.v)};
}
template <class T>
FASTRNN_HD Vec<T> copysign(Vec<T> magnitude, Vec<T> sign) {
  return {std::copysign(magnitude.v, sign.v)};
}
template <class T>
FASTRNN_HD Vec<T> low_bits_to_exponent(Vec<T> z) {
  if constexpr (sizeof(T) == 4) {
    return {std::bit_cast<float>(std::bit_cast<uint32_t>(z.v) << 23)};
  } else {
    return {std::bit_cast<double>(std::bit_cast<uint64_t>(z.v) << 52)};
  }
}
template <class T>
FASTRNN_HD bool less(Vec<T> a, Vec<T> b) {
  return a.v < b.v;
}
template <class T>
FASTRNN_HD Vec<T> select(bool mask, Vec<T> yes, Vec<T> no) {
  return mask ? yes : no;
}

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
