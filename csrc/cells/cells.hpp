// The list of cells and what each must offer. To add a cell: its file, its include, its name in
// per_cell.
#pragma once

#include "cells/gru.hpp"
#include "cells/lstm.hpp"
#include "cells/rnn.hpp"

namespace fastrnn {

// A cell works on one vector of hidden units. gx and gh hold one value a gate:
//   gx = b_ih + W_ih x, gh = b_hh + W_hh h';  prev and curr: the states h (and c) before and after
//   the step; reserve: what backward needs;  dgates: gradients before the activation, one value a
//   slot; dprev: the part of the gradient with respect to prev that does not go through W_hh.
// slot_x(g), slot_h(g): the slot with the gradient with respect to gx[g], gh[g].
// kEarly > 0: the first kEarly gates are needed before the product of the others (GruResetBefore).
template <template <class> class C, class V>
concept IsCell = requires(const V* in, V* out) {
  requires C<V>::kGates >= 1 && C<V>::kStates >= 1 && C<V>::kReserve >= 0;
  requires C<V>::kSlots >= C<V>::kGates&& C<V>::kEarly < C<V>::kGates;
  requires C<V>::slot_x(0) >= 0 && C<V>::slot_h(C<V>::kGates - 1) < C<V>::kSlots;
  C<V>::forward(in, in, in, out, out);
  C<V>::backward(in, in, in, in, out, out);
};

template <class Value>
struct PerCell {
  static constexpr int kCount = 6;
  Value of[kCount];
};

// Entry<C>::value for each cell, in the order that numbers them
template <template <template <class> class> class Entry>
constexpr auto per_cell() {
  return PerCell<decltype(Entry<RnnTanh>::value)>{
      {Entry<RnnTanh>::value, Entry<RnnRelu>::value, Entry<Lstm>::value, Entry<Gru>::value,
       Entry<GruResetBefore>::value, Entry<LstmCoupled>::value}};
}

}  // namespace fastrnn
