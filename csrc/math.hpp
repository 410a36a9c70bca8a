// sigmoid and tanh once, for every instruction set and CUDA, generic over a value type V.
//
// V offers: Scalar, set(s), + - *, quotient(a, b) = a / b for 1 <= b <= 2, fma(a, b, c) = a*b + c,
// minimum/maximum(a, b) that return b when a is NaN or b is, abs(a), copysign(magnitude, sign),
// less(a, b) -> mask, select(mask, yes, no), and low_bits_to_exponent(z): the number whose exponent
// field is the low bits of z.
//
// exp(t): t = n ln2 + r, |r| <= ln2/2, expm1(r) = r + r^2 q(r) with q the minimax polynomial for
// the relative error of expm1 (1.4e-8 for float, 1.9e-17 for double), so that tanh keeps its
// relative accuracy at 0. Adding 1.5 * 2^mantissa rounds t log2(e) to n, which then stands in the
// low bits of the sum, and with the bias of the exponent added too makes 2^n by a shift.
#pragma once

#if defined(__CUDACC__)
#define FASTRNN_HD __host__ __device__ __forceinline__
#else
#define FASTRNN_HD __attribute__((always_inline)) inline
#endif

namespace fastrnn {

template <class V, class Scalar = typename V::Scalar>
struct ExpConstants;

template <class V>
struct ExpConstants<V, float> {
  static constexpr int kTerms = 5;
  // expm1(r) = r + r^2 (q[0] + q[1] r + ...), highest power first
  FASTRNN_HD static float q(int k) {
    constexpr float kQ[kTerms] = {1.38827671301e-3f, 8.36650828182e-3f, 4.16671955278e-2f,
                                  1.66665437489e-1f, 4.99999981714e-1f};
    return kQ[k];
  }
  static constexpr float kRound = 12582912.0f, kBias = 127.0f;
  static constexpr float kLog2e = 1.44269504f;
  static constexpr float kLn2High = 0.693359375f;  // 9 bits: n * kLn2High is exact
  static constexpr float kLn2Low = -2.12194440055e-4f;
  static constexpr float kExpLowest = -104.0f;  // below: exp is 0
  static constexpr float kTanhOne = 10.0f;      // above: tanh rounds to 1
  static constexpr float kDown = 0x1p-64f;
};

template <class V>
struct ExpConstants<V, double> {
  static constexpr int kTerms = 10;
  FASTRNN_HD static double q(int k) {
    constexpr double kQ[kTerms] = {2.505394155574117201597e-8, 2.762599936745891471321e-7,
                                   2.75574069577559665336e-6,  2.480150538455520689489e-5,
                                   1.984126971973849858777e-4, 1.388888893145592757037e-3,
                                   8.333333333389172882089e-3, 4.166666666657717113879e-2,
                                   1.666666666666658994459e-1, 5.000000000000005131382e-1};
    return kQ[k];
  }
  static constexpr double kRound = 6755399441055744.0, kBias = 1023.0;
  static constexpr double kLog2e = 1.44269504088896340736;
  static constexpr double kLn2High = 0.6931471803691238164901733;  // 32 bits
  static constexpr double kLn2Low = 1.908214929270587816144e-10;
  static constexpr double kExpLowest = -746.0;
  static constexpr double kTanhOne = 20.0;
  static constexpr double kDown = 0x1p-64;
};

// t = n ln2 + r -> expm1(r), and 2^(n + up), which must be a normal number
template <int up, class V>
FASTRNN_HD V reduced_expm1(V t, V& power) {
  using K = ExpConstants<V>;
  const V round = V::set(K::kRound + K::kBias + up);
  const V z = fma(t, V::set(K::kLog2e), round);
  const V n = z - round;
  power = low_bits_to_exponent(z);
  V r = fma(n, V::set(-K::kLn2High), t);
  r = fma(n, V::set(-K::kLn2Low), r);
  V q = V::set(K::q(0));
#pragma GCC unroll 10
  for (int k = 1; k < K::kTerms; ++k) q = fma(q, r, V::set(K::q(k)));
  return fma(r * r, q, r);
}

// expm1(t) for t <= 0
template <class V>
FASTRNN_HD V expm1_of_negative(V t) {
  using K = ExpConstants<V>;
  V two_n;
  const V p = reduced_expm1<0>(maximum(V::set(-2 * K::kTanhOne), t), two_n);
  return fma(two_n, p, two_n - V::set(1));
}

// e^-|x|, by way of 2^64 e^-|x|, which is a normal number where the result is not
template <class V>
FASTRNN_HD V exp_minus_abs(V x) {
  using K = ExpConstants<V>;
  V power;
  const V p = reduced_expm1<64>(maximum(V::set(K::kExpLowest), copysign(x, V::set(-1))), power);
  const V down = V::set(K::kDown);
  return fma(p, down, down) * power;
}

// 1 / (1 + e^-x), through e^-|x| so that nothing overflows and small results keep their relative
// accuracy
template <class V>
FASTRNN_HD V sigmoid(V x) {
  const V e = exp_minus_abs(x);
  const V one = V::set(1);
  return quotient(select(less(x, V::set(0)), e, one), one + e);
}

// -expm1(-2|x|) / (2 + expm1(-2|x|)), with the sign of x
template <class V>
FASTRNN_HD V tanh(V x) {
  const V expm1 = expm1_of_negative(abs(x) * V::set(-2));
  return copysign(quotient(expm1, V::set(2) + expm1), x);
}

template <class V>
FASTRNN_HD V relu(V x) {
  return maximum(V::set(0), x);
}

// derivatives in terms of the function's value
template <class V>
FASTRNN_HD V sigmoid_derivative(V value) {
  return fma(V::set(0) - value, value, value);
}

template <class V>
FASTRNN_HD V tanh_derivative(V value) {
  return fma(V::set(0) - value, value, V::set(1));
}

}  // namespace fastrnn
