// A step of a vector of units, forward and back, with everything around the cell: which state the
// output is of, in which order clips, peepholes and layer norm come. One definition for every
// driver, which loads, stores and owns what goes on between units.
//
// `state` is what becomes c, before zoneout: c itself, or of a cell without one its output, which a
// projected GRU mixes with. With layer norm of c, all units' states come first; then u, c
// normalised with its gain and bias, takes the place of c under the output's activation, or
// (NormOfC::kState) of c altogether.
#pragma once

#include "cells/gates.hpp"
#include "family.hpp"

namespace fastrnn {

// Where the parts of a row of ForwardArgs::family.norms lie, what layer norm keeps for backward:
//   normalised gx [G*H], normalised gh [G*H], normalised c [H] (for an LSTM), and the four factors
//   1 / sqrt(variance + eps): of gx, of gh (early and late), of c
enum NormFactor { kOfX, kOfEarly, kOfLate, kOfC };
struct NormLayout {
  int64_t gx, gh, c, factors, size;
  FASTRNN_HD NormLayout(int64_t gates, int64_t units)
      : gx(0),
        gh(gates * units),
        c(2 * gates * units),
        factors(c + units),
        size(factors + kNormFactors) {}
};

// Back through (values - mean) / sqrt(variance + eps) = normalised, of which `factor` is the root;
// mean and along: the means of d and of d normalised, over what is normalised together.
template <class V>
FASTRNN_HD V norm_gradient(V d, V normalised, V factor, V mean, V along) {
  return (d - mean - normalised * along) * factor;
}

// share old + (1 - share) fresh: zoneout
template <class V>
FASTRNN_HD V mixed(V share, V old, V fresh) {
  return fma(share, old, (V::set(1) - share) * fresh);
}

template <class Cell>
struct Units {
  static constexpr bool kIsLstm = Cell::kStates == 2;

  // -> the output; before: c', or h' of a cell without c
  template <class K, class V>
  FASTRNN_HD static V forward(const K& k, const V* gx, const V* gh, V before, V* kept, V& state) {
    if constexpr (kIsLstm) {
      state = k.clipped(Cell::state(k, gx, gh, before, kept));
      return output(k, gx, gh, state, state, kept);
    } else {
      return state = Cell::forward(k, gx, gh, before, kept);
    }
  }

  // LSTM: what layer norm of c is of
  template <class K, class V>
  FASTRNN_HD static V state(const K& k, const V* gx, const V* gh, V before, V* kept) {
    return k.clipped(Cell::state(k, gx, gh, before, kept));
  }

  // -> the output of u; state, as state() gave it, becomes c
  template <class K, class V>
  FASTRNN_HD static V output_of_norm(const K& k, NormOfC of, const V* gx, const V* gh, V before,
                                     V u, V* kept, V& state) {
    Cell::state(k, gx, gh, before, kept);
    if (of == NormOfC::kState) state = u;
    return output(k, gx, gh, state, u, kept);
  }

  // From d, dL/d(output), and dc, dL/d(state), to dL/d(before) but for what goes through w_hh.
  // state: as forward made it.
  template <class K, class V>
  FASTRNN_HD static V backward(const K& k, const V* kept, V before, V d, V dc, V* gradients,
                               V& state) {
    if constexpr (kIsLstm) {
      const V raw = Cell::state_again(k, kept, before);
      state = k.clipped(raw);
      d = Cell::backward_output(k, kept[Cell::kO], state, d, dc, gradients[Cell::kO]);
      d = k.inside(raw, k.peep_back(Cell::kPeepO, gradients[Cell::kO], d));
      return Cell::backward_state(k, kept, before, d, gradients);
    } else {
      return Cell::backward(k, before, kept, d, gradients);
    }
  }

  // The same with layer norm of c, in three parts: -> dL/du by the output, and the output gate's
  template <class K, class V>
  FASTRNN_HD static V backward_output(const K& k, const V* kept, V u, V d, V& gate) {
    return Cell::backward_output(k, kept[Cell::kO], u, d, V::set(0), gate);
  }
  // -> dL/dc, of d, what of the output's gradient has come to c
  template <class K, class V>
  FASTRNN_HD static V backward_c(const K& k, V gate, V d, V dc) {
    return k.peep_back(Cell::kPeepO, gate, d + dc);
  }
  // d: dL/d(state) -> dL/dc'; state: as state() gave it
  template <class K, class V>
  FASTRNN_HD static V backward_state(const K& k, const V* kept, V before, V d, V gate, V* gradients,
                                     V& state) {
    const V raw = Cell::state_again(k, kept, before);
    state = k.clipped(raw);
    gradients[Cell::kO] = gate;
    return Cell::backward_state(k, kept, before, k.inside(raw, d), gradients);
  }

 private:
  template <class K, class V>
  FASTRNN_HD static V output(const K& k, const V* gx, const V* gh, V c, V u, V* kept) {
    return Cell::output(k, gx[Cell::kO] + gh[Cell::kO], c, u, kept[Cell::kO]);
  }
};

}  // namespace fastrnn
