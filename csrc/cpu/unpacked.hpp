// Products with weights that lie as the caller has them: one step of one row is done before they
// would be packed. A sum runs over k in the order of gemm.hpp, in one accumulator: same bits.
#pragma once

#include "cpu/pack.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

inline bool has_unit_stride(const Tensor& w) { return w.stride[0] == 1 || w.stride[1] == 1; }

// Whether a call takes its weights as they are.
inline bool takes_unpacked(const ForwardArgs& a) {
  return a.x.shape[0] * a.x.shape[1] == 1 && has_unit_stride(a.w_ih) && has_unit_stride(a.w_hh);
}

// The weights of a product: packed, or where that is null
// weight of unit u of gate g at k = data[g * gate_stride + u * unit_stride + k * k_stride]
template <class T>
struct Weights {
  const T* packed;
  const T* data = nullptr;
  int64_t unit_stride = 0, k_stride = 0, gate_stride = 0, units = 0;
};

// out += value * weights over `length` values of k, for G gates of N blocks; units lie side by
// side. The last block has `width` units.
template <class T, int G, int N>
void add_along_units(const T* value, int64_t length, const T* from, int64_t k_stride,
                     int64_t gate_stride, int width, T* out) {
  using V = Vec<T>;
  constexpr int kLanes = V::kLanes;
  V sum[N][G];
#pragma GCC unroll 24
  for (int n = 0; n < N * G; ++n) sum[n / G][n % G] = V::load(out + n * kLanes);
  for (int64_t k = 0; k < length; ++k, from += k_stride) {
    const V x = V::set(value[k]);
#pragma GCC unroll 24
    for (int n = 0; n < N * G; ++n) {
      const T* p = from + n / G * kLanes + n % G * gate_stride;
      add_product(sum[n / G][n % G], x, N > 1 ? V::load(p) : V::load(p, width));
    }
  }
#pragma GCC unroll 24
  for (int n = 0; n < N * G; ++n) sum[n / G][n % G].store(out + n * kLanes);
}

// The same of one vector, the values of a unit lying side by side: V of each are turned in
// registers.
template <class T>
void add_along_k(const T* value, int64_t length, const T* from, int64_t unit_stride, int width,
                 T* out) {
  using V = Vec<T>;
  constexpr int kLanes = V::kLanes;
  V sum = V::load(out);
  int64_t k = 0;
  for (; width == kLanes && k + kLanes <= length; k += kLanes) {
    V w[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) w[i] = V::load(from + i * unit_stride + k);
    if constexpr (kLanes > 1) transpose(w);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) add_product(sum, V::set(value[k + i]), w[i]);
  }
  for (; k < length; ++k) {
    alignas(kAlignment) T w[kLanes] = {};
    for (int i = 0; i < width; ++i) w[i] = from[i * unit_stride + k];
    add_product(sum, V::set(value[k]), V::load(w));
  }
  sum.store(out);
}

// multiply() of one row with weights that are not packed; of `right` only what is of init and out
template <class T, int G>
void multiply_unpacked(const Tile& tile, const Left<T>& left, const Right<T>& right,
                       const Weights<T>& w, int64_t first_k) {
  constexpr int kLanes = Vec<T>::kLanes;
  if (right.init != right.out) copy_or_zero(right.out, right.init, tile.blocks * G * kLanes);
  const T* const value = left.rows[0];
  const auto add = [&]<int N>(int j) __attribute__((always_inline)) {
    const int64_t unit = (tile.block + j) * kLanes;
    const T* from = w.data + (first_k + tile.k) * w.k_stride + unit * w.unit_stride;
    const int width = static_cast<int>(smaller(kLanes, w.units - unit));
    T* out = right.out + j * G * kLanes;
    if (w.unit_stride == 1) {
      add_along_units<T, G, N>(value, tile.length, from, w.k_stride, w.gate_stride, width, out);
      return N;
    }
    for (int g = 0; g < G; ++g)
      add_along_k(value, tile.length, from + g * w.gate_stride, w.unit_stride, width,
                  out + g * kLanes);
    return 1;
  };
  const int64_t whole_blocks = smaller(tile.blocks, w.units / kLanes - tile.block);
  int j = 0;
  if constexpr (G * 8 <= kAccumulators) {
    while (j + 8 <= whole_blocks) j += add.template operator()<8>(j);
  }
  if constexpr (G * 4 <= kAccumulators) {
    while (j + 4 <= whole_blocks) j += add.template operator()<4>(j);
  }
  while (j + 2 <= whole_blocks) j += add.template operator()<2>(j);
  while (j < tile.blocks) j += add.template operator()<1>(j);
}

// The product of a tile, of the terms from `first_k` on of sums that have `length` in the weights.
// Of `right` the caller gives init and out.
template <class T, int G>
void multiply_weights(const Tile& tile, const Left<T>& left, const Right<T>& right,
                      const Weights<T>& weights, int64_t length, int64_t first_k = 0) {
  if (!weights.packed) return multiply_unpacked<T, G>(tile, left, right, weights, first_k);
  Right<T> whole = weights_of<T, G>(tile, weights.packed, length, first_k);
  whole.init = right.init;
  whole.init_stride = right.init_stride;
  whole.out = right.out;
  whole.out_stride = right.out_stride;
  multiply<T, G>(tile, left, whole);
}

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
