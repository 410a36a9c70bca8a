// What forward and backward of the family share: what they know of the cell, sizes, which states
// there are, small panels. They are compiled once for all cells: what is compiled for each is a row
// of a step (rows.hpp).
#pragma once

#include "cpu/family/gates.hpp"
#include "cpu/family/norm.hpp"
#include "cpu/family/philox.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

constexpr int kMaxGates = 4;

// A cell's constants (cells/cells.hpp).
struct CellShape {
  int gates, late;  // late: those that are not early
  int early, slots, peepholes;
  bool is_lstm, mixes;
  int slot_x[kMaxGates], slot_h[kMaxGates];
};

template <class Cell>
constexpr CellShape shape_of() {
  static_assert(Cell::kGates <= kMaxGates);
  CellShape shape{Cell::kGates,
                  Cell::kGates - Cell::kEarly,
                  Cell::kEarly,
                  Cell::kSlots,
                  Cell::kPeepholes,
                  Cell::kStates == 2,
                  Cell::kMixes,
                  {},
                  {}};
  for (int g = 0; g < Cell::kGates; ++g)
    shape.slot_x[g] = Cell::slot_x(g), shape.slot_h[g] = Cell::slot_h(g);
  return shape;
}

struct Sizes {
  int64_t H, P;            // units of the cell, and of h
  int64_t width, h_width;  // padded
  int64_t blocks, h_blocks;
  bool projected;
  bool has_c;  // a second state: the LSTM's, or the output that a projected GRU mixes with
  bool has_norm;
  NormLayout layout;

  Sizes(const ForwardArgs& a, const CellShape& cell, int lanes)
      : H(a.w_ih.shape[0] / cell.gates),
        P(a.w_hh.shape[1]),
        width((H + lanes - 1) / lanes * lanes),
        h_width((P + lanes - 1) / lanes * lanes),
        blocks(width / lanes),
        h_blocks(h_width / lanes),
        projected(a.family.w_hr.present),
        has_c(cell.is_lstm || (projected && cell.mixes)),
        has_norm(a.family.gain_ih.present),
        layout(cell.gates, H) {}
};

// a vector of n rows of `units`, each padded to `width`
template <class V>
void pad_rows(const Tensor& tensor, int64_t n, int64_t units, int64_t width, At<V> panel) {
  using T = typename V::Scalar;
  for (int i = 0; i < kParts<V>; ++i) {
    const Tensor& from = part(tensor, i);
    T* const to = part(panel, i);
    const bool matrix = from.rank == 2;
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t u = 0; u < width; ++u) {
        const int64_t at =
            matrix ? row * from.stride[0] + u * from.stride[1] : (row * units + u) * from.stride[0];
        to[row * width + u] = u < units ? static_cast<const T*>(from.data)[at] : T(0);
      }
    }
  }
}

// n values into L2
template <class V>
void fetch(ConstAt<V> row, int64_t n) {
  using T = typename V::Scalar;
  for (int i = 0; i < kParts<V>; ++i) {
    const T* const from = part(row, i);
    for (int64_t at = 0; at < n; at += 64 / static_cast<int64_t>(sizeof(T)))
      __builtin_prefetch(from + at, 0, 2);
  }
}

template <class T>
void fill(T* to, int64_t n, T value) {
  for (int64_t i = 0; i < n; ++i) to[i] = value;
}

// row b of a state, or zeros, padded to `width`
template <class V>
void load_state(const Tensor& state, int64_t b, int64_t units, int64_t width, At<V> panel) {
  clear(panel, width);
  if (state.present) copy(panel, row_at<V>(state, b), units);
}

// z, the share of its old value that each unit of a row keeps (zoneout), in `room`, padded to
// `width`; null: none
template <class T>
const T* zoneout_row(const Family& f, int state, int64_t t, int64_t b, int64_t units, int64_t width,
                     T* room) {
  const Zoneout<T> z(f, state);
  if (!z.on) return nullptr;
  if (z.training) {
    Events<T>(z.chance).fill(z.first_step + t, b, units, room);
  } else {
    fill(room, units, z.expectation);
  }
  fill(room + units, width - units, T(0));
  return room;
}

// what it keeps of h of row b, padded to `width`
template <class T>
void recurrent_dropout_row(const Family& f, int64_t b, int64_t units, int64_t width, T* kept) {
  fill(kept, width, T(0));
  Events<T>(kept_state<T>(f)).fill(0, b, units, kept);
}

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
