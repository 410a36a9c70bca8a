// One row of one step, forward and backward: the part of the family's drivers that is compiled for
// each cell. Blocks of units one after the other; panels of units are padded to `width`, rows that
// are kept have H units.
#pragma once

#include "cpu/family/sizes.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// The normalisation of c, and rows to work in.
template <class V>
struct NormOfRow {
  NormOfC of = NormOfC::kNone;
  const typename V::Scalar* valid = nullptr;  // [width] 1, and 0 beyond the last unit
  typename V::Scalar eps = 0;
  ConstAt<V> gain{}, bias{};  // [width]
  At<V> normed{}, rows[2]{};  // [width]

  RowNorm<V> over(int64_t units, int64_t blocks) const {
    return {units, blocks, 1, V::kLanes, 0, valid, eps};
  }
  V scaled(int64_t at) const {
    return fma(V::load(normed + at), V::load(gain + at), V::load(bias + at));
  }
};

template <class V>
struct ForwardRow {
  using T = typename V::Scalar;
  const GatesOf<V>& gates;
  int64_t blocks, H;
  ConstAt<V> gx, gh;          // [blocks, gates, V], [blocks, late gates, V]
  ConstAt<V> before;          // h', or where there is a c: c'
  At<V> c{};                  // the new one goes here; null: there is none
  const T* z = nullptr;       // the share of its old value that c keeps; null: none
  At<V> out{};                // the cell's output
  At<V> reserve{}, values{};  // [kept, H], [gates, H]; null: not wanted
  At<V> norms{}, factor{};    // normalised c [H] and its factor; null: not wanted
  NormOfRow<V> norm{};

  void next_c(int64_t at, V state) const {
    if (z) state = mixed(Lanes<V>::load(z + at), V::load(c + at), state);
    state.store(c + at);
  }
};

template <class V>
struct EarlyRow {
  const GatesOf<V>& gates;
  int64_t blocks;
  At<V> gx;               // [blocks, gates, V]: of the early gates, what is kept takes its place
  ConstAt<V> gh, hidden;  // [blocks, early gates, V], h' as W_hh sees it
  At<V> operand;          // what W_hh multiplies for the late gates
};

template <class V>
struct BackwardRow {
  using T = typename V::Scalar;
  const GatesOf<V>& gates;
  int64_t blocks, H, width;
  ConstAt<V> reserve, outside;  // [kept, H], gradients of the gates' values [gates, H] or null
  ConstAt<V> before;            // h' or c' [H], null: zero
  ConstAt<V> dh;                // of the cell's output
  At<V> dc{};                   // of c, becomes that of c'; null: there is none
  const T* z = nullptr;         // as in ForwardRow
  At<V> dgates{};               // [slots, width]
  At<V> bypass{};               // of h', what does not go through W_hh is added
  At<V> dpeephole{};            // [peepholes, width], added to; null: not wanted
  ConstAt<V> norms{}, factor{};
  NormOfRow<V> norm{};
  At<V> dgain{}, dbias{};  // of the normalisation of c, added to

  V new_c_gradient(int64_t at) const {
    const V d = V::load(dc + at);
    return z ? d * (Lanes<V>::set(1) - Lanes<V>::load(z + at)) : d;
  }
  void set_c_gradient(int64_t at, V d) const {
    (z ? fma(Lanes<V>::load(z + at), V::load(dc + at), d) : d).store(dc + at);
  }
  V previous(int64_t j) const { return before ? load_block(before, j, H) : V::set(0); }
};

template <class V>
struct EarlyBackwardRow {
  using T = typename V::Scalar;
  const GatesOf<V>& gates;
  int gate_count;
  int64_t blocks, H;
  ConstAt<V> reserve, outside, before;
  const T* kept;        // [width] by recurrent dropout; null: all
  ConstAt<V> doperand;  // [width]
  At<V> dgates, bypass;
};

template <class V>
struct OperandRow {
  const GatesOf<V>& gates;
  int64_t blocks, H;
  ConstAt<V> reserve, hidden;  // [kept, H], [H]
  At<V> operand;               // [width]
};

template <template <class> class C, class V>
struct CellRows {
  using Cell = C<V>;
  static constexpr int G = Cell::kGates, E = Cell::kEarly, L = G - E, D = Cell::kSlots;
  static constexpr int K = Cell::kReserve > 0 ? Cell::kReserve : 1;
  static constexpr int kLanes = V::kLanes;

  static void forward(const ForwardRow<V>& r) {
    if constexpr (Cell::kStates == 2) {
      if (r.norm.of != NormOfC::kNone) return forward_normalised(r);
    }
    for (int64_t j = 0; j < r.blocks; ++j) {
      const int64_t at = j * kLanes;
      V gx[G], gh[L], kept[K];
      load_gates(r, j, gx, gh);
      const auto k = r.gates.at(j);
      V state;
      Units<Cell>::forward(k, gx, gh, V::load(r.before + at), kept, state).store(r.out + at);
      keep(r, j, kept, k);
      if (r.c) r.next_c(at, state);
    }
  }

  static void forward_early(const EarlyRow<V>& r) {
    if constexpr (E > 0) {
      for (int64_t j = 0; j < r.blocks; ++j) {
        V gx[E], gh[E], early[E];
        const At<V> block = r.gx + j * G * kLanes;
        for (int g = 0; g < E; ++g) {
          gx[g] = V::load(block + g * kLanes);
          gh[g] = V::load(r.gh + (j * E + g) * kLanes);
        }
        Cell::forward_early(r.gates.at(j), gx, gh, V::load(r.hidden + j * kLanes), early)
            .store(r.operand + j * kLanes);
        for (int g = 0; g < E; ++g) early[g].store(block + g * kLanes);
      }
    }
  }

  static void backward(const BackwardRow<V>& r) {
    if constexpr (Cell::kStates == 2) {
      if (r.norm.of != NormOfC::kNone) return backward_normalised(r);
    }
    for (int64_t j = 0; j < r.blocks; ++j) {
      const int64_t at = j * kLanes;
      V kept[K], gradients[D];
      for (V& gradient : gradients) gradient = V::set(0);
      load_kept(r, j, kept);
      const auto k = r.gates.at(j, r.outside, G, r.H);
      const V before = r.previous(j);
      V d = V::load(r.dh + at), dc = V::set(0), state;
      if constexpr (Cell::kStates == 2) {
        dc = r.new_c_gradient(at);
      } else if (r.dc) {
        d = d + r.new_c_gradient(at);
      }
      const V bypass = Units<Cell>::backward(k, kept, before, d, dc, gradients, state);
      if (r.dc) {
        r.set_c_gradient(at, bypass);
      } else if (Cell::kMixes) {
        (V::load(r.bypass + at) + bypass).store(r.bypass + at);
      }
      if constexpr (Cell::kStates == 2) add_peepholes(r, at, gradients, before, state);
      store(r, j, gradients);
    }
  }

  static void backward_early(const EarlyBackwardRow<V>& r) {
    if constexpr (E > 0) {
      for (int64_t j = 0; j < r.blocks; ++j) {
        const int64_t at = j * kLanes;
        V kept[K];
        load_kept(r, j, kept);
        const auto mask = r.kept ? Lanes<V>::load(r.kept + at) : Lanes<V>::set(1);
        const V before = (r.before ? load_block(r.before, j, r.H) : V::set(0)) * mask;
        const V d = V::load(r.doperand + at);
        const auto k = r.gates.at(j, r.outside, G, r.H);
        Cell::early_gradient(k, before, kept, d).store(r.dgates + at);
        fma(mask, d * Cell::reset_gate(k, kept), V::load(r.bypass + at)).store(r.bypass + at);
      }
    }
  }

  static void operand(const OperandRow<V>& r) {
    if constexpr (E > 0) {
      for (int64_t j = 0; j < r.blocks; ++j) {
        V kept[K];
        load_kept(r, j, kept);
        (Cell::reset_gate(r.gates.at(j), kept) * load_block(r.hidden, j, r.H))
            .store(r.operand + j * kLanes);
      }
    }
  }

 private:
  static void load_gates(const ForwardRow<V>& r, int64_t j, V* gx, V* gh) {
    for (int g = 0; g < G; ++g) gx[g] = V::load(r.gx + (j * G + g) * kLanes);
    for (int g = 0; g < L; ++g) gh[g] = V::load(r.gh + (j * L + g) * kLanes);
  }

  template <class Row>
  static void load_kept(const Row& r, int64_t j, V* kept) {
    for (int i = 0; i < K; ++i) kept[i] = load_block(r.reserve + i * r.H, j, r.H);
  }

  template <class Gates>
  static void keep(const ForwardRow<V>& r, int64_t j, const V* kept, const Gates& k) {
    for (int i = 0; r.reserve && i < K; ++i) store_block(r.reserve + i * r.H, j, r.H, kept[i]);
    for (int g = 0; r.values && g < G; ++g)
      store_block(r.values + g * r.H, j, r.H, Cell::gate_value(k, g, kept));
  }

  static void store(const BackwardRow<V>& r, int64_t j, const V* gradients) {
    for (int d = 0; d < D; ++d) gradients[d].store(r.dgates + (d * r.width + j * kLanes));
  }

  // c: as the output's peephole sees it, which is the last one, of the last gate
  static void add_peepholes(const BackwardRow<V>& r, int64_t at, const V* gradients, V before,
                            V c) {
    for (int n = 0; r.dpeephole && n < Cell::kPeepholes; ++n) {
      const bool is_last = n + 1 == Cell::kPeepholes;
      const At<V> sum = r.dpeephole + (n * r.width + at);
      fma(gradients[is_last ? G - 1 : n], is_last ? c : before, V::load(sum)).store(sum);
    }
  }

  // c is normalised over all units, so that the output has to wait for the last of them
  static void forward_normalised(const ForwardRow<V>& r) {
    const NormOfRow<V>& norm = r.norm;
    const At<V> states = norm.rows[0];
    for (int64_t j = 0; j < r.blocks; ++j) {
      const int64_t at = j * kLanes;
      V gx[G], gh[L], kept[K];
      load_gates(r, j, gx, gh);
      const auto k = r.gates.at(j);
      const V state =
          Units<Cell>::state(k, gx, gh, V::load(r.c + at), kept) * Lanes<V>::load(norm.valid + at);
      state.store(states + at);
      state.store(norm.normed + at);
    }
    const V factor = norm.over(r.H, r.blocks).centre(norm.normed);
    if (r.norms) factor.store(r.factor, 1);
    for (int64_t j = 0; j < r.blocks; ++j) {
      const int64_t at = j * kLanes;
      V gx[G], gh[L], kept[K];
      load_gates(r, j, gx, gh);
      const auto k = r.gates.at(j);
      const V normed = V::load(norm.normed + at) * factor;
      normed.store(norm.normed + at);
      if (r.norms) store_block(r.norms, j, r.H, normed);
      V state = V::load(states + at);
      Units<Cell>::output_of_norm(k, norm.of, gx, gh, V::load(r.c + at), norm.scaled(at), kept,
                                  state)
          .store(r.out + at);
      keep(r, j, kept, k);
      r.next_c(at, state);
    }
  }

  static void backward_normalised(const BackwardRow<V>& r) {
    const NormOfRow<V>& norm = r.norm;
    const bool of_state = norm.of == NormOfC::kState;
    const At<V> d_row = norm.rows[0], do_row = norm.rows[1];
    const auto lanes = [&](int64_t at) { return Lanes<V>::load(norm.valid + at); };
    clear(norm.normed, r.width);
    copy(norm.normed, r.norms, r.H);
    const V factor = broadcast<V>(r.factor);
    const auto through_norm = [&] {
      norm.over(r.H, r.blocks)
          .backward(
              [&](int64_t j, int) {
                const int64_t at = j * kLanes;
                const V d = V::load(d_row + at);
                fma(d, V::load(norm.normed + at), V::load(r.dgain + at)).store(r.dgain + at);
                (d + V::load(r.dbias + at)).store(r.dbias + at);
                return d * V::load(norm.gain + at);
              },
              [&](int64_t j, int) { return V::load(norm.normed + j * kLanes); }, factor, d_row);
    };
    for (int64_t j = 0; j < r.blocks; ++j) {
      const int64_t at = j * kLanes;
      V kept[K], gate;
      load_kept(r, j, kept);
      const V d = Units<Cell>::backward_output(r.gates.at(j, r.outside, G, r.H), kept,
                                               norm.scaled(at), V::load(r.dh + at), gate);
      gate.store(do_row + at);
      (d * lanes(at)).store(d_row + at);
    }
    if (!of_state) through_norm();
    for (int64_t j = 0; j < r.blocks; ++j) {
      const int64_t at = j * kLanes;
      const V all = Units<Cell>::backward_c(r.gates.at(j), V::load(do_row + at),
                                            V::load(d_row + at), r.new_c_gradient(at));
      (all * lanes(at)).store(d_row + at);
    }
    if (of_state) through_norm();
    for (int64_t j = 0; j < r.blocks; ++j) {
      const int64_t at = j * kLanes;
      V kept[K], gradients[D];
      load_kept(r, j, kept);
      const auto k = r.gates.at(j, r.outside, G, r.H);
      V state;
      r.set_c_gradient(at, Units<Cell>::backward_state(k, kept, r.previous(j), V::load(d_row + at),
                                                       V::load(do_row + at), gradients, state));
      store(r, j, gradients);
      add_peepholes(r, at, gradients, r.previous(j), of_state ? norm.scaled(at) : state);
    }
  }
};

// A cell, for the drivers.
template <class V>
struct CellKernels {
  CellShape shape;
  void (*forward)(const ForwardRow<V>&);
  void (*forward_early)(const EarlyRow<V>&);
  void (*backward)(const BackwardRow<V>&);
  void (*backward_early)(const EarlyBackwardRow<V>&);
  void (*operand)(const OperandRow<V>&);
};

template <template <class> class C, class V>
constexpr CellKernels<V> kCell = {
    shape_of<C<V>>(),         CellRows<C, V>::forward,        CellRows<C, V>::forward_early,
    CellRows<C, V>::backward, CellRows<C, V>::backward_early, CellRows<C, V>::operand};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
