// Forward over a sequence with any feature of the family. A step: the recurrent product of all
// rows, then row by row the stages that a row needs (python/fastrnn/reference/sequence.py has them
// in a list), each of which costs nothing when it is off. The plain layer has a driver of its own
// (cpu/forward.hpp), which runs the cell on a tile while it is in registers.
#pragma once

#include "cpu/family/products.hpp"
#include "cpu/family/sizes.hpp"
#include "cpu/forward.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

template <template <class> class C, class T>
// the gates hold vectors, which are aligned
class FamilyForward {  // NOLINT(clang-analyzer-optin.performance.Padding)
 public:
  using V = Vec<T>;
  using Cell = C<V>;
  using N = Sizes<Cell, T>;
  static constexpr int G = Cell::kGates;
  static constexpr int K = N::K;
  static constexpr int E = Cell::kEarly;
  static constexpr int L = G - E;
  static constexpr bool kIsLstm = Cell::kStates == 2;
  static constexpr int kLanes = V::kLanes;

  static int64_t packed_size(const ForwardArgs& a) {
    Arena arena{nullptr};
    Packed packed(a, arena);
    return arena.used;
  }

  static void pack(const ForwardArgs& a, void* memory) {
    Arena arena{static_cast<char*>(memory)};
    Packed(a, arena).fill(a);
  }

  static int64_t workspace(const ForwardArgs& a) {
    Arena arena{nullptr};
    FamilyForward plan(a, arena);
    return arena.used;
  }

  static void run(const ForwardArgs& a, void* memory) {
    Arena arena{static_cast<char*>(memory)};
    FamilyForward forward(a, arena);
    if (!a.packed) forward.w_.fill(a);
    forward.seq_.split(forward.ranges_, forward.first_);
    parallel_for(a.threads, forward.ranges_,
                 [&](int64_t i) { forward.run_rows(forward.first_[i], forward.first_[i + 1], i); });
  }

 private:
  // matrices [blocks, length, gates, V], biases and gains [blocks, gates, V], of c [blocks, V]
  struct Packed {
    N n;
    Tensor w_hh;
    T *w_ih, *w_early, *w_late, *w_hr, *b_ih, *b_early, *b_late, *gain_ih, *gain_early, *gain_late;
    T *peepholes, *gain_c, *bias_c, *valid;

    Packed(const ForwardArgs& a, Arena& arena) : n(a), w_hh(kept_weights<T>(a, arena)) {
      const Family& f = a.family;
      const int64_t width = n.width;
      w_ih = arena.take<T>(width * G * a.w_ih.shape[1]);
      w_early = arena.take<T>(width * E * n.P);
      w_late = arena.take<T>(width * L * n.P);
      w_hr = n.projected ? arena.take<T>(n.h_width * n.H) : nullptr;
      b_ih = arena.take<T>(width * G);
      b_early = arena.take<T>(width * E);
      b_late = arena.take<T>(width * L);
      gain_ih = n.has_norm ? arena.take<T>(width * G) : nullptr;
      gain_early = n.has_norm ? arena.take<T>(width * E) : nullptr;
      gain_late = n.has_norm ? arena.take<T>(width * L) : nullptr;
      peepholes = f.peephole.present ? arena.take<T>(kMaxPeepholes * width) : nullptr;
      gain_c = f.gain_c.present ? arena.take<T>(width) : nullptr;
      bias_c = f.gain_c.present ? arena.take<T>(width) : nullptr;
      valid = arena.take<T>(width);
    }

    void fill(const ForwardArgs& a) const {
      const Family& f = a.family;
      for_packed_blocks(a.threads, n.blocks, [&](int64_t first, int64_t last) {
        gates(a.w_ih, first, last, a.w_ih.shape[1], 0, G, w_ih);
        gates(w_hh, first, last, n.P, 0, E, w_early);
        gates(w_hh, first, last, n.P, E, L, w_late);
        gates(a.b_ih, first, last, 1, 0, G, b_ih);
        gates(a.b_hh, first, last, 1, 0, E, b_early);
        gates(a.b_hh, first, last, 1, E, L, b_late);
        if (n.has_norm) {
          gates(f.gain_ih, first, last, 1, 0, G, gain_ih);
          gates(f.gain_hh, first, last, 1, 0, E, gain_early);
          gates(f.gain_hh, first, last, 1, E, L, gain_late);
        }
      });
      if (n.projected) {
        for_packed_blocks(a.threads, n.h_blocks, [&](int64_t first, int64_t last) {
          pack_blocks(static_cast<const T*>(f.w_hr.data), first, last, n.P, n.H, 1,
                      f.w_hr.stride[0], f.w_hr.stride[1], 0, w_hr);
        });
      }
      if (peepholes) pad_rows(f.peephole, Cell::kPeepholes, n.H, n.width, peepholes);
      if (gain_c) {
        pad_rows(f.gain_c, 1, n.H, n.width, gain_c);
        pad_rows(f.bias_c, 1, n.H, n.width, bias_c);
      }
      for (int64_t u = 0; u < n.width; ++u) valid[u] = u < n.H ? T(1) : T(0);
    }

    void gates(const Tensor& w, int64_t first, int64_t last, int64_t length, int gate, int count,
               T* packed) const {
      if (!w.present) {
        return copy_or_zero<T>(packed + first * count * kLanes, nullptr,
                               (last - first) * count * kLanes);
      }
      const int64_t gate_stride = n.H * w.stride[0];
      pack_blocks(static_cast<const T*>(w.data) + gate * gate_stride, first, last, n.H, length,
                  count, w.stride[0], w.rank == 2 ? w.stride[1] : 0, gate_stride, packed);
    }
  };

  static Packed packed_weights(const ForwardArgs& a, Arena& workspace) {
    if (!a.packed) return Packed(a, workspace);
    Arena packed{static_cast<char*>(const_cast<void*>(a.packed))};
    return Packed(a, packed);
  }

  FamilyForward(const ForwardArgs& a, Arena& arena)
      : a_(a),
        f_(a.family),
        n_(a),
        seq_(a, arena),
        w_(packed_weights(a, arena)),
        gates_(f_, G, w_.peepholes, Cell::kPeepholes, n_.width),
        ranges_(static_cast<int>(smaller(a.threads, larger(seq_.B, 1)))),
        chunk_(larger(1, smaller(seq_.T, kForwardChunkBytes / (larger(1, seq_.B / ranges_) * G *
                                                               n_.width * int64_t{sizeof(T)})))) {
    const int64_t B = seq_.B;
    first_ = arena.take<int64_t>(ranges_ + 1);
    x_rows_ = arena.take<const T*>(B * chunk_);
    gx_ = arena.take<T>(B * chunk_ * G * n_.width);
    gh_ = arena.take<T>(B * G * n_.width);
    h_ = arena.take<T>(B * n_.h_width);
    new_ = arena.take<T>(B * n_.h_width);
    c_ = n_.has_c ? arena.take<T>(B * n_.width) : nullptr;
    output_ = n_.projected ? arena.take<T>(B * n_.width) : nullptr;
    const bool drops = has_recurrent_dropout(f_);
    kept_ = drops ? arena.take<T>(B * n_.h_width) : nullptr;
    hidden_ = drops ? arena.take<T>(B * n_.h_width) : nullptr;
    operand_ = E > 0 ? arena.take<T>(B * n_.width) : nullptr;
    scratch_ = arena.take<T>(ranges_ * kScratchRows * larger(n_.width, n_.h_width));
  }

  static constexpr int64_t kScratchRows = 3;

  // What the rows of one range work on.
  struct Range {
    int64_t first;
    T *h, *next, *c, *output, *kept, *hidden, *operand, *gh;
    T *state, *normed, *zoneout;  // one row each
  };

  void run_rows(int64_t first, int64_t last, int64_t index) const {
    const int64_t of_c = first * n_.width, of_h = first * n_.h_width;
    const auto at = [](T* panel, int64_t offset) { return panel ? panel + offset : nullptr; };
    const int64_t room = larger(n_.width, n_.h_width);
    T* scratch = scratch_ + index * kScratchRows * room;
    const Range p{
        first,           h_ + of_h,         new_ + of_h,        at(c_, of_c),   at(output_, of_c),
        at(kept_, of_h), at(hidden_, of_h), at(operand_, of_c), gh_ + of_c * G, scratch,
        scratch + room,  scratch + 2 * room};
    start_rows(p, last);
    const int64_t steps = last > first ? seq_.length[first] : 0;
    for (int64_t start = 0; start < steps; start += chunk_) {
      const int64_t end = smaller(start + chunk_, steps);
      T* gx = input_product(first, last, start, end);
      for (int64_t s = start; s < end; ++s) {
        const int64_t rows = seq_.active(first, last, s);
        if (a_.reset.present) reset_rows(p, rows, s);
        step(p, rows, s, gx);
        gx += rows * G * n_.width;
      }
    }
  }

  void start_rows(const Range& p, int64_t last) const {
    for (int64_t row = p.first; row < last; ++row) {
      const int64_t r = row - p.first, b = seq_.batch[row];
      load_state(a_.h0, b, n_.P, n_.h_width, p.h + r * n_.h_width);
      if (n_.has_c) load_state(a_.c0, b, n_.H, n_.width, p.c + r * n_.width);
      if (seq_.length[row] == 0) store_last(p, row);
      for (int64_t t = seq_.length[row]; t < seq_.T; ++t) {
        copy_or_zero<T>(row_of<T>(a_.y, t, b), nullptr, n_.P);
        if (a_.c.present) copy_or_zero<T>(row_of<T>(a_.c, t, b), nullptr, n_.H);
        if (f_.gates.present) copy_or_zero<T>(row_of<T>(f_.gates, t, b), nullptr, G * n_.H);
      }
      if (p.kept) {
        T* kept = p.kept + r * n_.h_width;
        fill(kept, n_.h_width, T(0));
        kept_units<T>(f_.seed, Stream::kRecurrent, f_.recurrent_dropout).fill(0, b, n_.P, kept);
      }
    }
  }

  // gx of steps [start, end), active rows one after the other
  T* input_product(int64_t first, int64_t last, int64_t start, int64_t end) const {
    const T** x = x_rows_ + first * chunk_;
    T* gx = gx_ + first * chunk_ * G * n_.width;
    int64_t count = 0;
    for (int64_t s = start; s < end; ++s) {
      const int64_t rows = seq_.active(first, last, s);
      for (int64_t r = first; r < first + rows; ++r)
        x[count++] = row_of<T>(a_.x, seq_.time(r, s), seq_.batch[r]);
    }
    product<G, T>([&](int64_t r) { return x[r]; }, count, seq_.I, w_.w_ih,
                  n_.has_norm ? nullptr : w_.b_ih, n_.blocks, gx);
    T* next = gx;
    for (int64_t s = start; n_.has_norm && s < end; ++s) {
      const int64_t rows = seq_.active(first, last, s);
      for (int64_t r = first; r < first + rows; ++r, next += G * n_.width) {
        if (!seq_.masked(r, s))
          normalise<G>(next, 0, norms_row(r, s), n_.layout.gx, kOfX, w_.gain_ih, w_.b_ih);
      }
    }
    return gx;
  }

  void step(const Range& p, int64_t rows, int64_t s, T* gx) const {
    const T* hidden = p.h;
    if (p.kept) {
      for (int64_t i = 0; i < rows * n_.h_width; i += kLanes)
        (V::load(p.h + i) * V::load(p.kept + i)).store(p.hidden + i);
      hidden = p.hidden;
    }
    if constexpr (E > 0) step_early(p, rows, s, gx, hidden);
    const T* left = E > 0 ? p.operand : hidden;
    product<L, T>([&](int64_t r) { return left + r * n_.h_width; }, rows, n_.P, w_.w_late,
                  n_.has_norm ? nullptr : w_.b_late, n_.blocks, p.gh);
    for (int64_t r = 0; r < rows; ++r) {
      if (seq_.masked(p.first + r, s)) {
        skip_row(p, r, s);
      } else {
        cell_row(p, r, s, gx + r * G * n_.width, p.gh + r * L * n_.width);
      }
    }
    if (n_.projected) {
      product<1, T>([&](int64_t r) { return p.output + r * n_.width; }, rows, n_.H, w_.w_hr,
                    nullptr, n_.h_blocks, p.next);
    }
    for (int64_t r = 0; r < rows; ++r) finish_row(p, r, s);
  }

  // what the early gates keep takes the place of their gx
  void step_early(const Range& p, int64_t rows, int64_t s, T* gx, const T* hidden) const {
    constexpr int kGates = E > 0 ? E : 1;
    product<kGates, T>([&](int64_t r) { return hidden + r * n_.h_width; }, rows, n_.P, w_.w_early,
                       n_.has_norm ? nullptr : w_.b_early, n_.blocks, p.gh);
    for (int64_t r = 0; r < rows; ++r) {
      T* gh = p.gh + r * kGates * n_.width;
      if (n_.has_norm && !seq_.masked(p.first + r, s)) {
        normalise<kGates>(gh, 0, norms_row(p.first + r, s), n_.layout.gh, kOfEarly, w_.gain_early,
                          w_.b_early);
      }
      for (int64_t j = 0; j < n_.blocks; ++j) {
        V x_gates[kGates], h_gates[kGates], early[kGates];
        T* gx_block = gx + (r * n_.blocks + j) * G * kLanes;
        for (int g = 0; g < kGates; ++g) {
          x_gates[g] = V::load(gx_block + g * kLanes);
          h_gates[g] = V::load(gh + (j * kGates + g) * kLanes);
        }
        const V before = V::load(hidden + r * n_.h_width + j * kLanes);
        if constexpr (E > 0) {
          Cell::forward_early(gates_.at(j), x_gates, h_gates, before, early)
              .store(p.operand + r * n_.width + j * kLanes);
        }
        for (int g = 0; g < kGates; ++g) early[g].store(gx_block + g * kLanes);
      }
    }
  }

  // the state is carried over; what the projection reads of this row is not used
  void skip_row(const Range& p, int64_t r, int64_t s) const {
    const int64_t t = seq_.time(p.first + r, s), b = seq_.batch[p.first + r];
    if (p.output) copy_or_zero<T>(p.output + r * n_.width, nullptr, n_.width);
    if (f_.gates.present) copy_or_zero<T>(row_of<T>(f_.gates, t, b), nullptr, G * n_.H);
    if (a_.c.present && n_.has_c) copy_or_zero(row_of<T>(a_.c, t, b), p.c + r * n_.width, n_.H);
  }

  void cell_row(const Range& p, int64_t r, int64_t s, const T* gx, T* gh) const {
    const int64_t row = p.first + r, t = seq_.time(row, s), b = seq_.batch[row], H = n_.H;
    if (n_.has_norm)
      normalise<L>(gh, E, norms_row(row, s), n_.layout.gh, kOfLate, w_.gain_late, w_.b_late);
    T* reserve = a_.reserve.present ? row_of<T>(a_.reserve, t, b) : nullptr;
    T* values = f_.gates.present ? row_of<T>(f_.gates, t, b) : nullptr;
    T* c = n_.has_c ? p.c + r * n_.width : nullptr;
    T* out = n_.projected ? p.output + r * n_.width : p.next + r * n_.h_width;
    const T* z = n_.has_c ? zoneout_row(f_, 1, t, b, H, p.zoneout) : nullptr;
    if (z) fill(p.zoneout + H, n_.width - H, T(0));

    const auto keep = [&](int64_t j, const V* kept, const auto& k) {
      for (int i = 0; reserve && i < K; ++i) store_block(reserve + i * H, j, H, kept[i]);
      for (int g = 0; values && g < G; ++g)
        store_block(values + g * H, j, H, Cell::gate_value(k, g, kept));
    };
    const auto next_c = [&](int64_t j, V state) {
      if (z) {
        const V share = V::load(z + j * kLanes);
        state = fma(share, V::load(c + j * kLanes), (V::set(1) - share) * state);
      }
      state.store(c + j * kLanes);
    };
    if constexpr (kIsLstm) {
      const NormOfC norm = f_.norm_of_c;
      if (norm == NormOfC::kNone) {
        for (int64_t j = 0; j < n_.blocks; ++j) {
          V x_gates[G], h_gates[G], kept[K];
          load_gates(gx, gh, j, x_gates, h_gates);
          const auto k = gates_.at(j);
          const V state =
              k.clipped(Cell::state(k, x_gates, h_gates, V::load(c + j * kLanes), kept));
          Cell::output(k, x_gates[Cell::kO] + h_gates[Cell::kO], state, state, kept[Cell::kO])
              .store(out + j * kLanes);
          keep(j, kept, k);
          next_c(j, state);
        }
      } else {
        lstm_row_normalised(p, norms_row(row, s), gx, gh, c, out, keep, next_c);
      }
    } else {
      const T* before = n_.has_c ? c : p.h + r * n_.h_width;
      for (int64_t j = 0; j < n_.blocks; ++j) {
        V x_gates[G], h_gates[L], kept[K];
        load_gates(gx, gh, j, x_gates, h_gates);
        const auto k = gates_.at(j);
        const V h = Cell::forward(k, x_gates, h_gates, V::load(before + j * kLanes), kept);
        h.store(out + j * kLanes);
        keep(j, kept, k);
        if (n_.has_c) next_c(j, h);
      }
    }
    if (f_.output.present) copy_or_zero(row_of<T>(f_.output, t, b), out, H);
    if (a_.c.present && n_.has_c) copy_or_zero(row_of<T>(a_.c, t, b), c, H);
  }

  // c is normalised over all units, so that the output has to wait for the last of them
  template <class Keep, class NextC>
  void lstm_row_normalised(const Range& p, T* norms, const T* gx, const T* gh, const T* c, T* out,
                           const Keep& keep, const NextC& next_c) const {
    const bool of_state = f_.norm_of_c == NormOfC::kState;
    for (int64_t j = 0; j < n_.blocks; ++j) {
      V x_gates[G], h_gates[G], kept[K];
      load_gates(gx, gh, j, x_gates, h_gates);
      const auto k = gates_.at(j);
      const V state = k.clipped(Cell::state(k, x_gates, h_gates, V::load(c + j * kLanes), kept));
      (state * V::load(w_.valid + j * kLanes)).store(p.state + j * kLanes);
    }
    copy_or_zero(p.normed, p.state, n_.width);
    RowNorm<T> norm{n_.H, n_.blocks, 1, kLanes, 0, w_.valid, static_cast<T>(f_.eps)};
    const T factor = norm.normalise(p.normed);
    if (norms) {
      copy_or_zero(norms + n_.layout.c, p.normed, n_.H);
      norms[n_.layout.factors + kOfC] = factor;
    }
    for (int64_t j = 0; j < n_.blocks; ++j) {
      V x_gates[G], h_gates[G], kept[K];
      load_gates(gx, gh, j, x_gates, h_gates);
      const auto k = gates_.at(j);
      Cell::state(k, x_gates, h_gates, V::load(c + j * kLanes), kept);
      const V normed = fma(V::load(p.normed + j * kLanes), V::load(w_.gain_c + j * kLanes),
                           V::load(w_.bias_c + j * kLanes));
      const V state = of_state ? normed : V::load(p.state + j * kLanes);
      Cell::output(k, x_gates[Cell::kO] + h_gates[Cell::kO], state, normed, kept[Cell::kO])
          .store(out + j * kLanes);
      keep(j, kept, k);
      next_c(j, state);
    }
  }

  void finish_row(const Range& p, int64_t r, int64_t s) const {
    const int64_t row = p.first + r, t = seq_.time(row, s), b = seq_.batch[row];
    T* h = p.h + r * n_.h_width;
    if (!seq_.masked(row, s)) {
      const T* next = p.next + r * n_.h_width;
      const T* z = zoneout_row(f_, 0, t, b, n_.P, p.zoneout);
      if (z) fill(p.zoneout + n_.P, n_.h_width - n_.P, T(0));
      for (int64_t j = 0; j < n_.h_blocks; ++j) {
        V value = V::load(next + j * kLanes);
        if (z) {
          const V share = V::load(z + j * kLanes);
          value = fma(share, V::load(h + j * kLanes), (V::set(1) - share) * value);
        }
        value.store(h + j * kLanes);
      }
    }
    copy_or_zero(row_of<T>(a_.y, t, b), h, n_.P);
    if (s + 1 == seq_.length[row]) store_last(p, row);
  }

  void store_last(const Range& p, int64_t row) const {
    const int64_t r = row - p.first, b = seq_.batch[row];
    copy_or_zero(row_of<T>(a_.h_n, b), p.h + r * n_.h_width, n_.P);
    if (n_.has_c) copy_or_zero(row_of<T>(a_.c_n, b), p.c + r * n_.width, n_.H);
  }

  static void load_gates(const T* gx, const T* gh, int64_t j, V* x_gates, V* h_gates) {
    for (int g = 0; g < G; ++g) x_gates[g] = V::load(gx + (j * G + g) * kLanes);
    for (int g = 0; g < L; ++g) h_gates[g] = V::load(gh + (j * L + g) * kLanes);
  }

  T* norms_row(int64_t row, int64_t s) const {
    return f_.norms.present ? row_of<T>(f_.norms, seq_.time(row, s), seq_.batch[row]) : nullptr;
  }

  // values = gain (values normalised) + bias, of gates first, first + 1 .. in `norms`
  template <int kGates>
  void normalise(T* values, int first, T* norms, int64_t at, NormFactor which, const T* gain,
                 const T* bias) const {
    RowNorm<T> norm{
        n_.H, n_.blocks, kGates, kGates * kLanes, kLanes, w_.valid, static_cast<T>(f_.eps)};
    const T factor = norm.normalise(values);
    if (norms) norms[n_.layout.factors + which] = factor;
    for (int64_t j = 0; j < n_.blocks; ++j) {
      for (int g = 0; g < kGates; ++g) {
        const int64_t place = (j * kGates + g) * kLanes;
        const V normed = V::load(values + place);
        if (norms) store_block(norms + at + (first + g) * n_.H, j, n_.H, normed);
        fma(normed, V::load(gain + place), V::load(bias + place)).store(values + place);
      }
    }
  }

  void reset_rows(const Range& p, int64_t rows, int64_t s) const {
    for (int64_t r = 0; r < rows; ++r) {
      if (!seq_.resets(p.first + r, s)) continue;
      copy_or_zero<T>(p.h + r * n_.h_width, nullptr, n_.h_width);
      if (n_.has_c) copy_or_zero<T>(p.c + r * n_.width, nullptr, n_.width);
    }
  }

  static void load_state(const Tensor& state, int64_t b, int64_t units, int64_t width, T* panel) {
    copy_or_zero<T>(panel, nullptr, width);
    if (state.present) copy_or_zero<T>(panel, row_of<T>(state, b), units);
  }

  const ForwardArgs& a_;
  const Family& f_;
  N n_;
  Sequence seq_;
  Packed w_;
  GatesOf<T> gates_;
  int ranges_;
  int64_t chunk_;
  int64_t* first_;
  const T** x_rows_;
  T *gx_, *gh_, *h_, *new_, *c_, *output_, *kept_, *hidden_, *operand_, *scratch_;
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
