// Layer normalisation of rows (Ba, Kiros & Hinton 2016), forward and back, a block a row. Row r is
// step first + r / B of batch row r % B; where that does not work, nothing is normalised, and
// gradients are 0.
#pragma once

#include "family/data.cuh"

namespace fastrnn {
namespace {
namespace cuda {

// values [rows, n], each row `stride` after the one before, become gain (normalised) + bias. What
// is kept of a row goes to `norms` [T, B, ..], if that is wanted: the normalised values from `at`
// on, their factor at `factor`.
template <class T>
struct NormRows {
  Compute<T>* values;
  int64_t stride, n;
  Vector<T> gain, bias;
  Rows<T> norms;
  int64_t at, factor;
  Compute<T> eps;
};

template <class T>
__global__ void normalise_kernel(Sequence seq, NormRows<T> p, int64_t first) {
  using V = Compute<T>;
  const int64_t row = blockIdx.x, s = first + row / seq.B, b = row % seq.B;
  if (!seq.works(b, s)) return;  // of the whole block
  V* const values = p.values + row * p.stride;
  const V count = static_cast<V>(p.n);
  V sum = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < p.n; i += kThreads) sum += values[i];
  const V mean = block_sum(sum) / count;
  for (int64_t i = threadIdx.x; i < p.n; i += kThreads) {
    const V centred = values[i] - mean;
    squares = std::fma(centred, centred, squares);
  }
  const V factor = V(1) / std::sqrt(block_sum(squares) / count + p.eps);
  T* const norms = p.norms ? p.norms.at(seq.time(b, s), b) : nullptr;
  for (int64_t i = threadIdx.x; i < p.n; i += kThreads) {
    const V normed = (values[i] - mean) * factor;
    if (norms) norms[p.at + i] = stored<T>(normed);
    values[i] = std::fma(normed, p.gain.at(i), p.bias.at(i));
  }
  if (norms && threadIdx.x == 0) norms[p.factor] = stored<T>(factor);
}

// Back through that: from the gradients of gain (normalised) + bias of `gates` gates of H values,
// gate g at slot[g] of a row of d, to those of the values, at out + g * H.
template <class T, class D>
struct NormGradients {
  const D* d;
  int64_t d_stride;
  D* out;
  int64_t out_stride;
  D* step;  // the same once more, of one step alone [B, step_stride], or null
  int64_t step_stride;
  bool by_time;  // d and out: [T, B, ..] in the order of time, or [B, ..] of one step
  int gates;
  int64_t H, slot[4];
  Vector<T> gain;
  Rows<const T> norms;
  int64_t at, factor;
};

template <class T, class D>
__global__ void norm_gradient_kernel(Sequence seq, NormGradients<T, D> p, int64_t first) {
  using V = Compute<T>;
  const int64_t row = blockIdx.x, s = first + row / seq.B, b = row % seq.B, t = seq.time(b, s);
  const int64_t place = p.by_time ? t * seq.B + b : b, n = p.gates * p.H;
  D* const out = p.out + place * p.out_stride;
  D* const step = p.step ? p.step + b * p.step_stride : nullptr;
  const auto write = [&](int64_t i, V value) {
    out[i] = stored<D>(value);
    if (step) step[i] = stored<D>(value);
  };
  if (!seq.works(b, s)) {
    for (int64_t i = threadIdx.x; i < n; i += kThreads) write(i, 0);
    return;
  }
  const D* const d = p.d + place * p.d_stride;
  const T* const norms = p.norms.at(t, b);
  const auto gradient = [&](int64_t i) {
    int64_t slot = p.slot[0];
    for (int g = 1; g < p.gates; ++g) slot = i / p.H == g ? p.slot[g] : slot;
    return computed(d[slot + i % p.H]) * p.gain.at(i);
  };
  V sum = 0, products = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const V value = gradient(i);
    sum += value;
    products = std::fma(value, computed(norms[p.at + i]), products);
  }
  const V count = static_cast<V>(n);
  const V mean = block_sum(sum) / count, along = block_sum(products) / count;
  const V factor = computed(norms[p.factor]);
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    using U = Vec<V>;
    const V normed = computed(norms[p.at + i]);
    write(i, norm_gradient(U{gradient(i)}, U{normed}, U{factor}, U{mean}, U{along}).v);
  }
}

// elements of a vector from `first` on
template <class T>
Vector<T> from(const Vector<T>& vector, int64_t first) {
  return {vector.data ? vector.data + first * vector.stride : nullptr, vector.stride};
}

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
