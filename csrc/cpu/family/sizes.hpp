// What forward and backward of the family share: sizes, which states there are, small panels.
#pragma once

#include "cpu/family/gates.hpp"
#include "cpu/family/norm.hpp"
#include "cpu/family/philox.hpp"
#include "cpu/gemm.hpp"
#include "cpu/sequence.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

template <class Cell, class T>
struct Sizes {
  static constexpr int G = Cell::kGates;
  static constexpr int K = Cell::kReserve > 0 ? Cell::kReserve : 1;  // what the reserve keeps

  int64_t H, P;            // units of the cell, and of h
  int64_t width, h_width;  // padded
  int64_t blocks, h_blocks;
  bool projected;
  bool has_c;  // a second state: the LSTM's, or the output that a projected GRU mixes with
  bool has_norm;
  NormLayout layout;

  explicit Sizes(const ForwardArgs& a)
      : H(a.w_ih.shape[0] / G),
        P(a.w_hh.shape[1]),
        width(padded<T>(H)),
        h_width(padded<T>(P)),
        blocks(blocks_of<T>(H)),
        h_blocks(blocks_of<T>(P)),
        projected(a.family.w_hr.present),
        has_c(Cell::kStates == 2 || (projected && Cell::kMixes)),
        has_norm(a.family.gain_ih.present),
        layout(G, H) {}
};

// a vector of n rows of `units`, each padded to `width`
template <class T>
void pad_rows(const Tensor& from, int64_t n, int64_t units, int64_t width, T* to) {
  const bool matrix = from.rank == 2;
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t u = 0; u < width; ++u) {
      const int64_t at =
          matrix ? row * from.stride[0] + u * from.stride[1] : (row * units + u) * from.stride[0];
      to[row * width + u] = u < units ? static_cast<const T*>(from.data)[at] : T(0);
    }
  }
}

template <class T>
void fill(T* to, int64_t n, T value) {
  for (int64_t i = 0; i < n; ++i) to[i] = value;
}

// z, the share of its old value that each unit of a row keeps (zoneout), in `room`; null: none
template <class T>
const T* zoneout_row(const Family& f, int state, int64_t t, int64_t b, int64_t units, T* room) {
  const double p = f.zoneout[state];
  if (p == 0) return nullptr;
  if (f.training) {
    const Stream stream = state == 0 ? Stream::kZoneoutH : Stream::kZoneoutC;
    Events<T>(f.seed, stream, p, T(1), T(0)).fill(f.first_step + t, b, units, room);
  } else {
    fill(room, units, static_cast<T>(p));
  }
  return room;
}

inline bool has_recurrent_dropout(const Family& f) { return f.recurrent_dropout > 0 && f.training; }

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
