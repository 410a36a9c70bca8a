// Forward over a sequence with any feature of the family. A step: the recurrent product of all
// rows, then row by row the stages that a row needs (python/fastrnn/reference/sequence.py has them
// in a list), each of which costs nothing when it is off. The plain layer has a driver of its own
// (cpu/forward.hpp), which runs the cell on a tile while it is in registers. On dual numbers
// (cpu/dual.hpp) all this is its own derivative.
#pragma once

#include "cpu/family/products.hpp"
#include "cpu/family/rows.hpp"
#include "cpu/forward.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

template <class V>
// the gates hold vectors, which are aligned
class FamilyForward {  // NOLINT(clang-analyzer-optin.performance.Padding)
 public:
  using T = typename V::Scalar;
  static constexpr int kLanes = V::kLanes;

  static int64_t packed_size(const CellShape& cell, const ForwardArgs& a) {
    Arena arena{nullptr};
    Packed packed(cell, a, arena);
    return arena.used;
  }

  static void pack(const CellShape& cell, const ForwardArgs& a, void* memory) {
    Arena arena{static_cast<char*>(memory)};
    Packed(cell, a, arena).fill(a);
  }

  static int64_t workspace(const CellKernels<V>& cell, const ForwardArgs& a) {
    Arena arena{nullptr};
    FamilyForward plan(cell, a, arena);
    return arena.used;
  }

  static void run(const CellKernels<V>& cell, const ForwardArgs& a, void* memory) {
    Arena arena{static_cast<char*>(memory)};
    FamilyForward forward(cell, a, arena);
    if (!a.packed) forward.w_.fill(a);
    forward.seq_.split(forward.ranges_, forward.first_);
    parallel_for(a.threads, forward.ranges_,
                 [&](int64_t i) { forward.run_rows(forward.first_[i], forward.first_[i + 1], i); });
  }

 private:
  // matrices [blocks, length, gates, V], biases and gains [blocks, gates, V], of c [blocks, V]
  struct Packed {
    CellShape cell;
    Sizes n;
    Tensor w_hh[kParts<V>];
    At<V> w_ih{}, w_early{}, w_late{}, w_hr{}, b_ih{}, b_early{}, b_late{};
    At<V> gain_ih{}, gain_early{}, gain_late{}, peepholes{}, gain_c{}, bias_c{};
    T* valid;

    Packed(const CellShape& of, const ForwardArgs& a, Arena& arena) : cell(of), n(a, of, kLanes) {
      const Family& f = a.family;
      const int64_t width = n.width;
      for (int i = 0; i < kParts<V>; ++i) w_hh[i] = kept_weights<T>(f, part(a.w_hh, i), arena);
      w_ih = take<V>(arena, width * cell.gates * a.w_ih.shape[1]);
      w_early = take<V>(arena, width * cell.early * n.P);
      w_late = take<V>(arena, width * cell.late * n.P);
      if (n.projected) w_hr = take<V>(arena, n.h_width * n.H);
      b_ih = take<V>(arena, width * cell.gates);
      b_early = take<V>(arena, width * cell.early);
      b_late = take<V>(arena, width * cell.late);
      if (n.has_norm) {
        gain_ih = take<V>(arena, width * cell.gates);
        gain_early = take<V>(arena, width * cell.early);
        gain_late = take<V>(arena, width * cell.late);
      }
      if (f.peephole.present) peepholes = take<V>(arena, kMaxPeepholes * width);
      if (f.gain_c.present) gain_c = take<V>(arena, width), bias_c = take<V>(arena, width);
      valid = arena.take<T>(width);
    }

    void fill(const ForwardArgs& a) const {
      const Family& f = a.family;
      for (int i = 0; i < kParts<V>; ++i) fill_part(a, i);
      if (peepholes) pad_rows<V>(f.peephole, cell.peepholes, n.H, n.width, peepholes);
      if (gain_c) {
        pad_rows<V>(f.gain_c, 1, n.H, n.width, gain_c);
        pad_rows<V>(f.bias_c, 1, n.H, n.width, bias_c);
      }
      for (int64_t u = 0; u < n.width; ++u) valid[u] = u < n.H ? T(1) : T(0);
    }

    void fill_part(const ForwardArgs& a, int i) const {
      const Family& f = a.family;
      const int G = cell.gates, E = cell.early, L = cell.late;
      for_packed_blocks(a.threads, n.blocks, [&](int64_t first, int64_t last) {
        const auto gates = [&](const Tensor& w, int64_t length, int gate, int count, At<V> to) {
          pack_gates(w.present ? part(w, i) : w, first, last, n.H, length, gate, count,
                     part(to, i));
        };
        gates(a.w_ih, a.w_ih.shape[1], 0, G, w_ih);
        pack_gates(w_hh[i], first, last, n.H, n.P, 0, E, part(w_early, i));
        pack_gates(w_hh[i], first, last, n.H, n.P, E, L, part(w_late, i));
        gates(a.b_ih, 1, 0, G, b_ih);
        gates(a.b_hh, 1, 0, E, b_early);
        gates(a.b_hh, 1, E, L, b_late);
        if (n.has_norm) {
          gates(f.gain_ih, 1, 0, G, gain_ih);
          gates(f.gain_hh, 1, 0, E, gain_early);
          gates(f.gain_hh, 1, E, L, gain_late);
        }
      });
      if (n.projected) {
        for_packed_blocks(a.threads, n.h_blocks, [&](int64_t first, int64_t last) {
          pack_gates(part(f.w_hr, i), first, last, n.P, n.H, 0, 1, part(w_hr, i));
        });
      }
    }
  };

  static Packed packed_weights(const CellShape& cell, const ForwardArgs& a, Arena& workspace) {
    if (!a.packed) return Packed(cell, a, workspace);
    Arena packed{static_cast<char*>(const_cast<void*>(a.packed))};
    return Packed(cell, a, packed);
  }

  FamilyForward(const CellKernels<V>& cell, const ForwardArgs& a, Arena& arena)
      : cell_(cell),
        G(cell.shape.gates),
        E(cell.shape.early),
        L(cell.shape.late),
        a_(a),
        f_(a.family),
        n_(a, cell.shape, kLanes),
        seq_(a, arena),
        w_(packed_weights(cell.shape, a, arena)),
        gates_(f_, G, w_.peepholes, cell.shape.peepholes, n_.width),
        ranges_(static_cast<int>(smaller(a.threads, larger(seq_.B, 1)))),
        chunk_(forward_chunk<T>(seq_, G * n_.width, ranges_)) {
    const int64_t B = seq_.B;
    first_ = arena.take<int64_t>(ranges_ + 1);
    x_rows_ = arena.take<ConstAt<V>>(B * chunk_);
    gx_ = take<V>(arena, B * chunk_ * G * n_.width);
    gh_ = take<V>(arena, B * G * n_.width);
    h_ = take<V>(arena, B * n_.h_width);
    new_ = take<V>(arena, B * n_.h_width);
    if (n_.has_c) c_ = take<V>(arena, B * n_.width);
    if (n_.projected) output_ = take<V>(arena, B * n_.width);
    if (has_recurrent_dropout(f_)) {
      kept_ = arena.take<T>(B * n_.h_width);
      hidden_ = take<V>(arena, B * n_.h_width);
    }
    if (E > 0) operand_ = take<V>(arena, B * n_.width);
    room_ = larger(n_.width, n_.h_width);
    scratch_ = take<V>(arena, ranges_ * kScratchRows * room_);
    zoneout_ = arena.take<T>(ranges_ * room_);
  }

  static constexpr int64_t kScratchRows = 2;

  // What the rows of one range work on.
  struct Range {
    int64_t first;
    At<V> h, next, c, output, hidden, operand, gh;
    const T* kept;
    At<V> state, normed;  // one row each
    T* zoneout;
  };

  void run_rows(int64_t first, int64_t last, int64_t index) const {
    const int64_t of_c = first * n_.width, of_h = first * n_.h_width;
    const auto at = [](At<V> panel, int64_t offset) { return panel ? panel + offset : At<V>{}; };
    const At<V> scratch = scratch_ + index * kScratchRows * room_;
    const Range p{first,
                  h_ + of_h,
                  new_ + of_h,
                  at(c_, of_c),
                  at(output_, of_c),
                  at(hidden_, of_h),
                  at(operand_, of_c),
                  gh_ + of_c * G,
                  kept_ ? kept_ + of_h : nullptr,
                  scratch,
                  scratch + room_,
                  zoneout_ + index * room_};
    start_rows(p, last);
    const int64_t steps = last > first ? seq_.length[first] : 0;
    for (int64_t start = 0; start < steps; start += chunk_) {
      const int64_t end = smaller(start + chunk_, steps);
      At<V> gx = input_product(first, last, start, end);
      for (int64_t s = start; s < end; ++s) {
        const int64_t rows = seq_.active(first, last, s);
        if (a_.reset.present) reset_rows(p, rows, s);
        step(p, rows, s, gx);
        gx = gx + rows * G * n_.width;
      }
    }
  }

  void start_rows(const Range& p, int64_t last) const {
    for (int64_t row = p.first; row < last; ++row) {
      const int64_t r = row - p.first, b = seq_.batch[row];
      load_state<V>(a_.h0, b, n_.P, n_.h_width, p.h + r * n_.h_width);
      if (n_.has_c) load_state<V>(a_.c0, b, n_.H, n_.width, p.c + r * n_.width);
      if (seq_.length[row] == 0) store_last(p, row);
      for (int64_t t = seq_.length[row]; t < seq_.room(row); ++t) {
        clear(row_at<V>(a_.y, t, b), n_.P);
        if (a_.c.present) clear(row_at<V>(a_.c, t, b), n_.H);
        if (f_.gates.present) clear(row_at<V>(f_.gates, t, b), G * n_.H);
      }
      if (kept_) recurrent_dropout_row(f_, b, n_.P, n_.h_width, kept_ + row * n_.h_width);
    }
  }

  // gx of steps [start, end), active rows one after the other
  At<V> input_product(int64_t first, int64_t last, int64_t start, int64_t end) const {
    ConstAt<V>* x = x_rows_ + first * chunk_;
    const At<V> gx = gx_ + first * chunk_ * G * n_.width;
    int64_t count = 0;
    for (int64_t s = start; s < end; ++s) {
      const int64_t rows = seq_.active(first, last, s);
      for (int64_t r = first; r < first + rows; ++r)
        x[count++] = row_at<V>(a_.x, seq_.time(r, s), seq_.batch[r]);
    }
    Products<V>::forward(G, {{}, 0, x}, count, seq_.I, w_.w_ih, bias_of_product(w_.b_ih), n_.blocks,
                         gx);
    At<V> next = gx;
    for (int64_t s = start; n_.has_norm && s < end; ++s) {
      const int64_t rows = seq_.active(first, last, s);
      for (int64_t r = first; r < first + rows; ++r, next = next + G * n_.width) {
        if (!seq_.masked(r, s))
          normalise(G, next, 0, norms_row(r, s), n_.layout.gx, kOfX, w_.gain_ih, w_.b_ih);
      }
    }
    return gx;
  }

  // a bias comes after the normalisation
  ConstAt<V> bias_of_product(At<V> bias) const { return n_.has_norm ? At<V>{} : bias; }

  void step(const Range& p, int64_t rows, int64_t s, At<V> gx) const {
    At<V> hidden = p.h;
    if (p.kept) {
      for (int64_t i = 0; i < rows * n_.h_width; i += kLanes)
        (V::load(p.h + i) * Lanes<V>::load(p.kept + i)).store(p.hidden + i);
      hidden = p.hidden;
    }
    if (E > 0) step_early(p, rows, s, gx, hidden);
    Products<V>::forward(L, {E > 0 ? p.operand : hidden, n_.h_width}, rows, n_.P, w_.w_late,
                         bias_of_product(w_.b_late), n_.blocks, p.gh);
    for (int64_t r = 0; r < rows; ++r) {
      if (seq_.masked(p.first + r, s)) {
        skip_row(p, r, s);
      } else {
        cell_row(p, r, s, gx + r * G * n_.width, p.gh + r * L * n_.width);
      }
    }
    if (n_.projected) {
      Products<V>::forward(1, {p.output, n_.width}, rows, n_.H, w_.w_hr, {}, n_.h_blocks, p.next);
    }
    for (int64_t r = 0; r < rows; ++r) finish_row(p, r, s);
  }

  // what the early gates keep takes the place of their gx
  void step_early(const Range& p, int64_t rows, int64_t s, At<V> gx, At<V> hidden) const {
    Products<V>::forward(E, {hidden, n_.h_width}, rows, n_.P, w_.w_early,
                         bias_of_product(w_.b_early), n_.blocks, p.gh);
    for (int64_t r = 0; r < rows; ++r) {
      const At<V> gh = p.gh + r * E * n_.width;
      if (n_.has_norm && !seq_.masked(p.first + r, s)) {
        normalise(E, gh, 0, norms_row(p.first + r, s), n_.layout.gh, kOfEarly, w_.gain_early,
                  w_.b_early);
      }
      cell_.forward_early({gates_, n_.blocks, gx + r * G * n_.width, gh, hidden + r * n_.h_width,
                           p.operand + r * n_.width});
    }
  }

  // the state is carried over; what the projection reads of this row is not used
  void skip_row(const Range& p, int64_t r, int64_t s) const {
    const int64_t t = seq_.time(p.first + r, s), b = seq_.batch[p.first + r];
    if (p.output) clear(p.output + r * n_.width, n_.width);
    if (f_.gates.present) clear(row_at<V>(f_.gates, t, b), G * n_.H);
    if (a_.c.present && n_.has_c) copy(row_at<V>(a_.c, t, b), p.c + r * n_.width, n_.H);
  }

  void cell_row(const Range& p, int64_t r, int64_t s, At<V> gx, At<V> gh) const {
    const int64_t row = p.first + r, t = seq_.time(row, s), b = seq_.batch[row];
    const At<V> norms = norms_row(row, s);
    if (n_.has_norm) normalise(L, gh, E, norms, n_.layout.gh, kOfLate, w_.gain_late, w_.b_late);
    const At<V> h = p.h + r * n_.h_width, c = n_.has_c ? p.c + r * n_.width : At<V>{};
    ForwardRow<V> f{gates_, n_.blocks, n_.H, gx, gh, c ? c : h};
    f.c = c;
    if (c) f.z = zoneout_row(f_, 1, t, b, n_.H, n_.width, p.zoneout);
    f.out = n_.projected ? p.output + r * n_.width : p.next + r * n_.h_width;
    if (a_.reserve.present) f.reserve = row_at<V>(a_.reserve, t, b);
    if (f_.gates.present) f.values = row_at<V>(f_.gates, t, b);
    if (f_.norm_of_c != NormOfC::kNone) {
      f.norm = {f_.norm_of_c, w_.valid, static_cast<T>(f_.eps), w_.gain_c,
                w_.bias_c,    p.normed, {p.state, {}}};
      if (norms) f.norms = norms + n_.layout.c, f.factor = norms + (n_.layout.factors + kOfC);
    }
    cell_.forward(f);
    if (f_.output.present) copy(row_at<V>(f_.output, t, b), f.out, n_.H);
    if (a_.c.present && n_.has_c) copy(row_at<V>(a_.c, t, b), c, n_.H);
  }

  void finish_row(const Range& p, int64_t r, int64_t s) const {
    const int64_t row = p.first + r, t = seq_.time(row, s), b = seq_.batch[row];
    const At<V> h = p.h + r * n_.h_width;
    if (!seq_.masked(row, s)) {
      const At<V> next = p.next + r * n_.h_width;
      const T* z = zoneout_row(f_, 0, t, b, n_.P, n_.h_width, p.zoneout);
      for (int64_t at = 0; at < n_.h_width; at += kLanes) {
        V value = V::load(next + at);
        if (z) value = mixed(Lanes<V>::load(z + at), V::load(h + at), value);
        value.store(h + at);
      }
    }
    copy(row_at<V>(a_.y, t, b), h, n_.P);
    if (s + 1 == seq_.length[row]) store_last(p, row);
  }

  void store_last(const Range& p, int64_t row) const {
    const int64_t r = row - p.first, b = seq_.batch[row];
    copy(row_at<V>(a_.h_n, b), p.h + r * n_.h_width, n_.P);
    if (n_.has_c) copy(row_at<V>(a_.c_n, b), p.c + r * n_.width, n_.H);
  }

  At<V> norms_row(int64_t row, int64_t s) const {
    return f_.norms.present ? row_at<V>(f_.norms, seq_.time(row, s), seq_.batch[row]) : At<V>{};
  }

  // values = gain (values normalised) + bias, of `gates` gates; in `norms` they are first, first +
  // 1 ..
  void normalise(int gates, At<V> values, int first, At<V> norms, int64_t at, NormFactor which,
                 ConstAt<V> gain, ConstAt<V> bias) const {
    const RowNorm<V> norm{
        n_.H, n_.blocks, gates, gates * kLanes, kLanes, w_.valid, static_cast<T>(f_.eps)};
    const V factor = norm.centre(values);
    if (norms) factor.store(norms + (n_.layout.factors + which), 1);
    for (int64_t j = 0; j < n_.blocks; ++j) {
      for (int g = 0; g < gates; ++g) {
        const int64_t place = (j * gates + g) * kLanes;
        const V normed = V::load(values + place) * factor;
        if (norms) store_block(norms + (at + (first + g) * n_.H), j, n_.H, normed);
        fma(normed, V::load(gain + place), V::load(bias + place)).store(values + place);
      }
    }
  }

  void reset_rows(const Range& p, int64_t rows, int64_t s) const {
    for (int64_t r = 0; r < rows; ++r) {
      if (!seq_.resets(p.first + r, s)) continue;
      clear(p.h + r * n_.h_width, n_.h_width);
      if (n_.has_c) clear(p.c + r * n_.width, n_.width);
    }
  }

  const CellKernels<V>& cell_;
  int G, E, L;  // gates: all, early, late
  const ForwardArgs& a_;
  const Family& f_;
  Sizes n_;
  Sequence seq_;
  Packed w_;
  GatesOf<V> gates_;
  int ranges_;
  int64_t chunk_, room_;
  int64_t* first_;
  ConstAt<V>* x_rows_;
  At<V> gx_{}, gh_{}, h_{}, new_{}, c_{}, output_{}, hidden_{}, operand_{}, scratch_{};
  T* kept_ = nullptr;
  T* zoneout_;
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
