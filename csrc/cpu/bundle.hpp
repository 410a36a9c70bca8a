// N vectors side by side: a value type for the cells, like Vec<T> itself. An activation is one long
// chain of operations, each waiting for the one before; N chains at once fill the waiting.
#pragma once

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

template <class V, int N>
struct Bundle {
  using Scalar = typename V::Scalar;
  V v[N];

  static Bundle set(Scalar s) {
    return of([&](int) { return V::set(s); });
  }
  template <class F>
  __attribute__((always_inline)) static Bundle of(const F& f) {
    Bundle b;
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) b.v[i] = f(i);
    return b;
  }
};

template <class V, int N>
struct MaskBundle {
  decltype(less(V(), V())) m[N];
};

#define FASTRNN_EACH(name, parameters, call)                           \
  template <class V, int N>                                            \
  __attribute__((always_inline)) inline Bundle<V, N> name parameters { \
    return Bundle<V, N>::of([&](int i) { return call; });              \
  }
FASTRNN_EACH(operator+, (Bundle<V, N> a, Bundle<V, N> b), a.v[i] + b.v[i])
FASTRNN_EACH(operator-, (Bundle<V, N> a, Bundle<V, N> b), a.v[i] - b.v[i])
FASTRNN_EACH(operator*, (Bundle<V, N> a, Bundle<V, N> b), a.v[i] * b.v[i])
FASTRNN_EACH(quotient, (Bundle<V, N> a, Bundle<V, N> b), quotient(a.v[i], b.v[i]))
FASTRNN_EACH(minimum, (Bundle<V, N> a, Bundle<V, N> b), minimum(a.v[i], b.v[i]))
FASTRNN_EACH(maximum, (Bundle<V, N> a, Bundle<V, N> b), maximum(a.v[i], b.v[i]))
FASTRNN_EACH(copysign, (Bundle<V, N> a, Bundle<V, N> b), copysign(a.v[i], b.v[i]))
FASTRNN_EACH(low_bits_to_exponent, (Bundle<V, N> z), low_bits_to_exponent(z.v[i]))
FASTRNN_EACH(abs, (Bundle<V, N> a), abs(a.v[i]))
FASTRNN_EACH(fma, (Bundle<V, N> a, Bundle<V, N> b, Bundle<V, N> c), fma(a.v[i], b.v[i], c.v[i]))
#undef FASTRNN_EACH

template <class V, int N>
__attribute__((always_inline)) inline MaskBundle<V, N> less(Bundle<V, N> a, Bundle<V, N> b) {
  MaskBundle<V, N> mask;
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) mask.m[i] = less(a.v[i], b.v[i]);
  return mask;
}
template <class V, int N>
__attribute__((always_inline)) inline Bundle<V, N> select(MaskBundle<V, N> mask, Bundle<V, N> yes,
                                                          Bundle<V, N> no) {
  return Bundle<V, N>::of([&](int i) { return select(mask.m[i], yes.v[i], no.v[i]); });
}

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
