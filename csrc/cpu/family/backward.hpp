// Back-propagation through time with any feature of the family; the order of things is that of
// cpu/backward.hpp, which does the plain layer:
//   1. recurrence, each thread on its own rows, a step at a time and row by row
//   2. dx     3. the gradients of weights, biases and gains, each thread on its own part of them
// On dual numbers (cpu/dual.hpp) all this is its own derivative.
//
// dgates [rows of the chunk, slots, width]: the gates' gradients before their activation. With
// layer norm there is a second panel, flow [rows, 2 G, width]: the gradients of the products W_ih x
// (G gates) and W_hh h (G gates); without it the products' gradients are those of the gates. These
// are kept a second time by columns, of which 3 reads one unit at a time, or, where a matrix unit
// makes the products, as its left factor (unit_products.hpp).
#pragma once

#include "cpu/backward.hpp"
#include "cpu/family/products.hpp"
#include "cpu/family/rows.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

template <class V, class Unit = NoMatrixUnit>
// the gates hold vectors, which are aligned
class FamilyBackward {  // NOLINT(clang-analyzer-optin.performance.Padding)
 public:
  using T = typename V::Scalar;
  static constexpr int kLanes = V::kLanes;
  static constexpr bool kUnit = Unit::kPresent;

  static int64_t workspace(const CellKernels<V>& cell, const BackwardArgs& a) {
    Arena arena{nullptr};
    FamilyBackward plan(cell, a, arena);
    return arena.used;
  }

  static void run(const CellKernels<V>& cell, const BackwardArgs& a, void* memory) {
    Arena arena{static_cast<char*>(memory)};
    FamilyBackward backward(cell, a, arena);
    backward.run_chunks();
  }

 private:
  FamilyBackward(const CellKernels<V>& cell, const BackwardArgs& a, Arena& arena)
      : cell_(cell),
        shape_(cell.shape),
        G(shape_.gates),
        E(shape_.early),
        a_(a),
        f_(a.forward),
        on_(f_.family),
        n_(f_, shape_, kLanes),
        seq_(f_, arena),
        threads_(f_.threads),
        peepholes_(on_.peephole.present ? take<V>(arena, kMaxPeepholes * n_.width) : At<V>{}),
        gates_(on_, G, peepholes_, shape_.peepholes, n_.width, a.clip),
        ranges_(static_cast<int>(smaller(threads_, larger(seq_.B, 1)))),
        chunk_(larger(1, smaller(seq_.T, kBackwardChunkRows / larger(seq_.B, 1)))),
        dgates_width_(shape_.slots * n_.width),
        flow_width_(n_.has_norm ? 2 * G * n_.width : dgates_width_),
        input_blocks_(blocks_of<T>(seq_.I)),
        room_(larger(n_.width, n_.h_width)),
        drops_(has_recurrent_dropout(on_)),
        flow_slots_(n_.has_norm ? 2 * G : shape_.slots),
        by_unit_(kUnit && E == 0, seq_.B * chunk_, seq_.B, n_.H) {
    const int64_t B = seq_.B, rows = B * chunk_, GH = G * n_.H;
    const int64_t widest = larger(input_blocks_ * kLanes, room_);
    for (int g = 0; g < G; ++g) {
      slot_x_[g] = n_.has_norm ? g : shape_.slot_x[g];
      slot_h_[g] = n_.has_norm ? G + g : shape_.slot_h[g];
      flow_x_[g] = slot_x_[g] * n_.width, flow_h_[g] = slot_h_[g] * n_.width;
    }
    for (int i = 0; i < kParts<V>; ++i) weights_[i] = kept_weights<T>(on_, part(f_.w_hh, i), arena);
    if constexpr (kUnit) take_for_unit(arena, rows);
    if (!by_unit_.recurrence) {
      w_hh_ = take<V>(arena, n_.h_width * GH);
      if (n_.projected) w_hr_ = take<V>(arena, n_.width * n_.P);
    }
    if (a.dx.present && !by_unit_.inputs) w_ih_ = take<V>(arena, input_blocks_ * kLanes * GH);
    if (n_.has_norm) {
      gain_ih_ = take<V>(arena, G * n_.width);
      gain_hh_ = take<V>(arena, G * n_.width);
      gain_sums_ = take<V>(arena, B * flow_width_);
    }
    if (on_.gain_c.present) {
      gain_c_ = take<V>(arena, n_.width);
      bias_c_ = take<V>(arena, n_.width);
      c_sums_ = take<V>(arena, B * 2 * n_.width);
    }
    valid_ = arena.take<T>(n_.width);
    first_ = arena.take<int64_t>(ranges_ + 1);
    base_ = arena.take<int64_t>(chunk_ + 1);
    zeros_ = take<V>(arena, flow_width_);
    keeps_dgates_ = !by_unit_.recurrence || n_.has_norm;
    dgates_ = take<V>(arena, (keeps_dgates_ ? rows : ranges_) * dgates_width_);
    const int64_t flows = by_unit_.recurrence ? ranges_ : rows;
    flow_ = n_.has_norm ? take<V>(arena, flows * flow_width_) : dgates_;
    carry_ = take<V>(arena, B * flow_width_);
    if (!by_unit_.weights) {
      columns_ = take<V>(arena, column_room(rows, flow_width_));
      if (n_.projected) dnew_columns_ = take<V>(arena, column_room(rows, n_.h_width));
      packed_ = take<V>(arena, rows * widest);
    }
    bias_width_ = n_.width;
    if constexpr (kUnit) {
      if (sums_by_unit()) bias_width_ = UnitWeightProduct<Unit>::padded_units(n_.H);
    }
    db_ = take<V>(arena, shape_.slots * bias_width_);
    dh_ = take<V>(arena, B * n_.h_width);
    if (n_.has_c) dc_ = take<V>(arena, B * n_.width);
    incoming_ = take<V>(arena, B * n_.h_width);
    incoming_rows_ = arena.take<ConstAt<V>>(B);
    dnew_ = take<V>(arena, B * n_.h_width);
    if (n_.projected) doutput_ = take<V>(arena, B * n_.width);
    if (E > 0) {
      doperand_ = take<V>(arena, B * n_.width);
      operands_ = take<V>(arena, rows * n_.width);
    }
    if (drops_) {
      kept_ = arena.take<T>(B * n_.h_width);
      hidden_ = take<V>(arena, rows * n_.h_width);
    }
    if (a.dpeephole.present) dpeephole_ = take<V>(arena, B * kMaxPeepholes * n_.width);
    row_list_ = arena.take<ConstAt<V>>(rows);
    if (a.dx.present) dx_ = take<V>(arena, rows * input_blocks_ * kLanes);
    if (has_weight_dropout(on_)) dw_hh_ = take<V>(arena, GH * n_.P);
    scratch_ = take<V>(arena, ranges_ * kScratchRows * room_);
    zoneout_ = arena.take<T>(ranges_ * room_);
  }

  static int64_t column_room(int64_t rows, int64_t width) {
    return Columns<T>::size(rows) * (width / kLanes);
  }

  static constexpr int64_t kScratchRows = 3;

  // One row each, of one range.
  struct Scratch {
    At<V> rows;
    T* zoneout;
    int64_t room, range;

    At<V> row(int n) const { return rows + n * room; }
  };

  // ---------------------------------------------------------------- the chunks

  void run_chunks() {
    start();
    const int64_t steps = seq_.B > 0 ? seq_.length[0] : 0;
    for (int64_t end = steps; end > 0; end -= smaller(chunk_, end)) {
      const int64_t begin = larger(0, end - chunk_);
      base_[0] = 0;
      for (int64_t s = begin; s < end; ++s)
        base_[s - begin + 1] = base_[s - begin] + seq_.active(0, seq_.B, s);
      rows_ = base_[end - begin];
      parallel_for(threads_, ranges_,
                   [&](int64_t i) { recurrence(first_[i], first_[i + 1], begin, end, i); });
      if (a_.dx.present) input_gradient(begin, end);
      weight_gradients(begin, end);
      sum_biases();
    }
    parallel_for(threads_, ranges_, [&](int64_t i) { initial_state(first_[i], first_[i + 1]); });
    if (dw_hh_ && a_.dw_hh.present) add_kept_weights();
    add_biases();
    add_sums_of_rows();
  }

  void start() {
    const int64_t GH = G * n_.H;
    seq_.split(ranges_, first_);
    clear(zeros_, flow_width_);
    clear(db_, shape_.slots * bias_width_);
    if (dpeephole_) clear(dpeephole_, seq_.B * kMaxPeepholes * n_.width);
    if constexpr (kUnit) pack_for_unit();
    for (int i = 0; i < kParts<V>; ++i) {
      if (w_hh_) pack_transposed(threads_, weights_[i], n_.P, GH, part(w_hh_, i));
      if (w_ih_) pack_transposed(threads_, part(f_.w_ih, i), seq_.I, GH, part(w_ih_, i));
      if (w_hr_) pack_transposed(threads_, part(on_.w_hr, i), n_.H, n_.P, part(w_hr_, i));
    }
    if (n_.has_norm) {
      clear(gain_sums_, seq_.B * flow_width_);
      pad_rows<V>(on_.gain_ih, G, n_.H, n_.width, gain_ih_);
      pad_rows<V>(on_.gain_hh, G, n_.H, n_.width, gain_hh_);
    }
    if (gain_c_) {
      clear(c_sums_, seq_.B * 2 * n_.width);
      pad_rows<V>(on_.gain_c, 1, n_.H, n_.width, gain_c_);
      pad_rows<V>(on_.bias_c, 1, n_.H, n_.width, bias_c_);
    }
    if (peepholes_) pad_rows<V>(on_.peephole, shape_.peepholes, n_.H, n_.width, peepholes_);
    for (int64_t u = 0; u < n_.width; ++u) valid_[u] = u < n_.H ? T(1) : T(0);
    for (int64_t r = 0; r < seq_.B; ++r) {
      const int64_t b = seq_.batch[r];
      load_state<V>(a_.dh_n, b, n_.P, n_.h_width, dh_ + r * n_.h_width);
      if (n_.has_c) load_state<V>(a_.dc_n, b, n_.H, n_.width, dc_ + r * n_.width);
      if (drops_) recurrent_dropout_row(on_, b, n_.P, n_.h_width, kept_ + r * n_.h_width);
      for (int64_t t = seq_.length[r]; t < seq_.room(r); ++t) {
        if (a_.dx.present) clear(row_at<V>(a_.dx, t, b), seq_.I);
        if (a_.step_norms.present) *row_of<T>(a_.step_norms, t, b) = T(0);
      }
    }
    if (dw_hh_) clear(dw_hh_, GH * n_.P);
    if (a_.accumulate) return;
    const Tensor* const sums[] = {&a_.dw_ih,   &a_.dw_hh,     &a_.db_ih,    &a_.db_hh,
                                  &a_.dw_hr,   &a_.dpeephole, &a_.dgain_ih, &a_.dgain_hh,
                                  &a_.dgain_c, &a_.dbias_c};
    for (const Tensor* d : sums) {
      if (!d->present) continue;
      clear(data_of<V>(*d), d->rank == 2 ? d->shape[0] * d->shape[1] : d->shape[0]);
    }
  }

  // ---------------------------------------------------------------- 1. recurrence

  int64_t place(int64_t s, int64_t row, int64_t begin) const { return base_[s - begin] + row; }

  // Of the row at `at`; where nobody reads them later, all rows of a range have one place.
  At<V> dgates_row(int64_t at, const Scratch& scratch) const {
    return dgates_ + (keeps_dgates_ ? at : scratch.range) * dgates_width_;
  }
  At<V> flow_row(int64_t at, const Scratch& scratch) const {
    if (!n_.has_norm) return dgates_row(at, scratch);
    return flow_ + (by_unit_.recurrence ? scratch.range : at) * flow_width_;
  }

  // what flows through W_hh from step s + 1 into step s; zeros where nothing does
  At<V> incoming(int64_t s, int64_t row, int64_t begin, int64_t end) const {
    if (s + 1 >= seq_.length[row] || seq_.resets(row, s + 1)) return zeros_;
    return s + 1 < end ? flow_ + place(s + 1, row, begin) * flow_width_
                       : carry_ + row * flow_width_;
  }

  // gates whose product has h itself
  int direct() const { return E > 0 ? E : G; }
  GateRange gates_x() const { return {0, G, n_.H, flow_x_}; }
  GateRange gates_h(int first, int last) const { return {first, last, n_.H, flow_h_}; }
  GateRange gates_of_h() const {  // of the projection, which has one
    static constexpr int64_t kNoOffset = 0;
    return {0, 1, n_.P, &kNoOffset};
  }

  void incoming_product(int64_t first, int64_t rows, int64_t s, int64_t begin, int64_t end) const {
    const At<V> to = incoming_ + first * n_.h_width;
    if (by_unit_.recurrence) {
      if constexpr (kUnit) incoming_of_unit(first, rows, s, begin, end, to);
    } else {
      for (int64_t r = first; r < first + rows; ++r) incoming_rows_[r] = incoming(s, r, begin, end);
      Products<V>::transposed({{}, 0, incoming_rows_ + first}, rows, gates_h(0, direct()), G, w_hh_,
                              zeros_, n_.h_blocks, to, n_.h_width);
    }
    for (int64_t i = 0; drops_ && i < rows * n_.h_width; i += kLanes) {
      (V::load(to + i) * Lanes<V>::load(kept_ + (first * n_.h_width + i))).store(to + i);
    }
  }

  // Steps [begin, end) of rows [first, last), backwards.
  void recurrence(int64_t first, int64_t last, int64_t begin, int64_t end, int64_t index) const {
    const Scratch scratch{scratch_ + index * kScratchRows * room_, zoneout_ + index * room_, room_,
                          index};
    for (int64_t s = smaller(end, last > first ? seq_.length[first] : 0) - 1; s >= begin; --s) {
      const int64_t rows = seq_.active(first, last, s);
      incoming_product(first, rows, s, begin, end);
      for (int64_t r = first; r < first + rows; ++r) hidden_gradient(r, s, scratch);
      if (n_.projected) output_gradient(first, rows, s, begin);
      for (int64_t r = first; r < first + rows; ++r) {
        cell_backward(r, s, begin, scratch);
        if (E == 0) finish_row(r, s, begin, scratch);
      }
      if (E == 0) continue;
      Products<V>::transposed({flow_ + place(s, first, begin) * flow_width_, flow_width_}, rows,
                              gates_h(E, G), G, w_hh_, {}, n_.h_blocks,
                              doperand_ + first * n_.width, n_.width);
      for (int64_t r = first; r < first + rows; ++r) {
        early_backward(r, s, begin, scratch);
        finish_row(r, s, begin, scratch);
      }
    }
  }

  // of the projection: doutput_ = W_hr^T dnew_
  void output_gradient(int64_t first, int64_t rows, int64_t s, int64_t begin) const {
    const At<V> to = doutput_ + first * n_.width;
    for (int64_t r = first; r < first + rows; ++r) keep_hidden(r, place(s, r, begin));
    if (by_unit_.recurrence) {
      if constexpr (kUnit) {
        transposed_by_unit(dnew_gradients().from(place(s, first, begin)), rows, 1, &kOneSlot,
                           w_hr_of_unit_, {0, n_.blocks}, to, n_.width);
      }
    } else {
      Products<V>::transposed({dnew_ + first * n_.h_width, n_.h_width}, rows, gates_of_h(), 1,
                              w_hr_, {}, n_.blocks, to, n_.width);
    }
  }

  // dL/d(h and c) of the step: what comes from outside is added, and of dL/dh what goes on to the
  // new h (dnew), and past it to the h before (dh_)
  void hidden_gradient(int64_t row, int64_t s, const Scratch& scratch) const {
    const int64_t t = seq_.time(row, s), b = seq_.batch[row];
    if (a_.dc.present && n_.has_c) {
      const ConstAt<V> of_step = row_at<V>(a_.dc, t, b);
      const At<V> dc = dc_ + row * n_.width;
      for (int64_t j = 0; j < n_.blocks; ++j)
        (V::load(dc + j * kLanes) + load_block(of_step, j, n_.H)).store(dc + j * kLanes);
    }
    const At<V> dy = a_.dy.present ? row_at<V>(a_.dy, t, b) : At<V>{};
    const bool masked = seq_.masked(row, s);
    if (!masked) {  // what comes after the other rows' gradients, in time from memory
      if (f_.reserve.present) fetch<V>(reserve_row(row, s), f_.reserve.shape[2]);
      if (n_.has_norm) fetch<V>(norms_row(row, s), n_.layout.size);
    }
    const T* z = masked ? nullptr : zoneout_row(on_, 0, t, b, n_.P, n_.h_width, scratch.zoneout);
    const At<V> dh = dh_ + row * n_.h_width, dnew = dnew_ + row * n_.h_width;
    Lanes<V> squares = Lanes<V>::set(0);
    for (int64_t j = 0; j < n_.h_blocks; ++j) {
      const int64_t at = j * kLanes;
      V d = V::load(incoming_ + (row * n_.h_width + at)) + V::load(dh + at);
      if (dy) d = d + load_block(dy, j, n_.P);
      squares = fma(value_of(d), value_of(d), squares);
      const Lanes<V> share = z ? Lanes<V>::load(z + at) : Lanes<V>::set(0);
      (masked ? d : z ? d * share : V::set(0)).store(dh + at);
      (masked ? V::set(0) : z ? d * (Lanes<V>::set(1) - share) : d).store(dnew + at);
    }
    if (a_.step_norms.present) {
      T sum[kLanes];
      sum_of(squares).store(sum);
      *row_of<T>(a_.step_norms, t, b) = square_root(sum[0]);
    }
  }

  ConstAt<V> reserve_row(int64_t row, int64_t s) const {
    const int64_t t = seq_.time(row, s), b = seq_.batch[row];
    return row_at<V>(f_.reserve.present ? f_.reserve : f_.y, t, b);  // the plain RNN keeps h alone
  }

  ConstAt<V> norms_row(int64_t row, int64_t s) const {
    return row_at<V>(on_.norms, seq_.time(row, s), seq_.batch[row]);
  }

  ConstAt<V> h_before(int64_t row, int64_t s) const {
    return previous<V>(seq_, f_.y, f_.h0, row, s);
  }
  ConstAt<V> c_before(int64_t row, int64_t s) const {
    return previous<V>(seq_, f_.c, f_.c0, row, s);
  }

  // dL/d(the gates' values) from outside; null: none
  ConstAt<V> outside(int64_t row, int64_t s) const {
    return a_.dgates.present ? row_at<V>(a_.dgates, seq_.time(row, s), seq_.batch[row]) : At<V>{};
  }

  void cell_backward(int64_t row, int64_t s, int64_t begin, const Scratch& scratch) const {
    const int64_t at = place(s, row, begin);
    const At<V> dgates = dgates_row(at, scratch);
    if (seq_.masked(row, s)) {
      clear(dgates, dgates_width_);
      if (n_.has_norm) clear(flow_row(at, scratch), flow_width_);
      return;
    }
    BackwardRow<V> r{gates_,
                     n_.blocks,
                     n_.H,
                     n_.width,
                     reserve_row(row, s),
                     outside(row, s),
                     n_.has_c ? c_before(row, s) : h_before(row, s),
                     n_.projected ? doutput_ + row * n_.width : dnew_ + row * n_.h_width};
    if (n_.has_c) {
      r.dc = dc_ + row * n_.width;
      r.z =
          zoneout_row(on_, 1, seq_.time(row, s), seq_.batch[row], n_.H, n_.width, scratch.zoneout);
    }
    r.dgates = dgates;
    r.bypass = dh_ + row * n_.h_width;
    if (dpeephole_) r.dpeephole = dpeephole_ + row * kMaxPeepholes * n_.width;
    if (on_.norm_of_c != NormOfC::kNone) {
      const ConstAt<V> norms = norms_row(row, s);
      r.norms = norms + n_.layout.c;
      r.factor = norms + (n_.layout.factors + kOfC);
      r.norm = {on_.norm_of_c, valid_,         static_cast<T>(on_.eps),         gain_c_,
                bias_c_,       scratch.row(0), {scratch.row(1), scratch.row(2)}};
      r.dgain = c_sums_ + row * 2 * n_.width;
      r.dbias = r.dgain + n_.width;
    }
    cell_.backward(r);
    if (n_.has_norm) {
      norm_backward(row, s, at, E, G, kOfLate, scratch);
      if (E == 0) norm_backward_x(row, s, at, scratch);
    }
  }

  // gradients of gates [first, last) of gh -> those of their products
  void norm_backward(int64_t row, int64_t s, int64_t at, int first, int last, NormFactor which,
                     const Scratch& scratch) const {
    scaled_back(row, s, first, last, n_.layout.gh, which, gain_hh_, shape_.slot_h,
                dgates_row(at, scratch), flow_row(at, scratch), flow_h_[first]);
  }
  void norm_backward_x(int64_t row, int64_t s, int64_t at, const Scratch& scratch) const {
    scaled_back(row, s, 0, G, n_.layout.gx, kOfX, gain_ih_, shape_.slot_x, dgates_row(at, scratch),
                flow_row(at, scratch), 0);
  }

  void scaled_back(int64_t row, int64_t s, int first, int last, int64_t offset, NormFactor which,
                   At<V> gain, const int* slots, At<V> dgates, At<V> flow,
                   int64_t to_in_row) const {
    const ConstAt<V> norms = norms_row(row, s), normed = norms + (offset + first * n_.H);
    const At<V> dgain = gain_sums_ + (row * flow_width_ + to_in_row);
    const RowNorm<V> norm{n_.H,     n_.blocks, last - first,           kLanes,
                          n_.width, valid_,    static_cast<T>(on_.eps)};
    norm.backward(
        [&](int64_t j, int g) {
          const int64_t at = g * n_.width + j * kLanes;
          const V d = V::load(dgates + (slots[first + g] * n_.width + j * kLanes));
          fma(d, load_block(normed + g * n_.H, j, n_.H), V::load(dgain + at)).store(dgain + at);
          return d * V::load(gain + (first * n_.width + at));
        },
        [&](int64_t j, int g) { return load_block(normed + g * n_.H, j, n_.H); },
        broadcast<V>(norms + (n_.layout.factors + which)), flow + to_in_row);
  }

  void early_backward(int64_t row, int64_t s, int64_t begin, const Scratch& scratch) const {
    if (seq_.masked(row, s)) return;
    const int64_t at = place(s, row, begin);
    cell_.backward_early({gates_, G, n_.blocks, n_.H, reserve_row(row, s), outside(row, s),
                          h_before(row, s), drops_ ? kept_ + row * n_.h_width : nullptr,
                          doperand_ + row * n_.width, dgates_ + at * dgates_width_,
                          dh_ + row * n_.h_width});
    if (n_.has_norm) {
      norm_backward(row, s, at, 0, E, kOfEarly, scratch);
      norm_backward_x(row, s, at, scratch);
    }
  }

  // Nothing flows on from a step before which the state was reset; the first step of the chunk is
  // what the chunk before it begins from.
  void finish_row(int64_t row, int64_t s, int64_t begin, const Scratch& scratch) const {
    if (seq_.resets(row, s)) {
      clear(dh_ + row * n_.h_width, n_.h_width);
      if (n_.has_c) clear(dc_ + row * n_.width, n_.width);
    }
    const int64_t at = place(s, row, begin);
    const At<V> flow = flow_row(at, scratch);
    if constexpr (kUnit) {
      if (by_unit_.weights) to_gradients(flow, flow_slots_, n_.width, gradients().from(at));
      if (by_unit_.recurrence && s == begin)
        gradients().from(at).copy(flow_slots_, {0, n_.blocks}, carry_gradients().from(row));
    }
    if (!by_unit_.recurrence && s == begin) copy(carry_ + row * flow_width_, flow, flow_width_);
    if (!by_unit_.weights) to_columns(flow, flow_width_, at, columns_);
  }

  // the gradient of what the projection gave, for that of its weights
  void keep_hidden(int64_t row, int64_t at) const {
    const At<V> dnew = dnew_ + row * n_.h_width;
    if constexpr (kUnit) {
      if (by_unit_.weights) return to_gradients(dnew, 1, n_.h_width, dnew_gradients().from(at));
    }
    to_columns(dnew, n_.h_width, at, dnew_columns_);
  }

  void to_columns(At<V> row, int64_t width, int64_t at, At<V> columns) const {
    for (int i = 0; i < kParts<V>; ++i) {
      const Columns<T> to(part(columns, i), rows_);
      const T* const from = part(row, i);
      for (int64_t j = 0; j < width; j += kLanes)
        Lanes<V>::load(from + j).store(to.place(j / kLanes, at));
    }
  }

  void initial_state(int64_t first, int64_t last) const {
    if (a_.dh0.present) {
      incoming_product(first, last - first, -1, 0, 0);
      for (int64_t r = first; r < last; ++r) {
        const At<V> dh0 = row_at<V>(a_.dh0, seq_.batch[r]);
        for (int64_t j = 0; j < n_.h_blocks; ++j) {
          const int64_t at = r * n_.h_width + j * kLanes;
          store_block(dh0, j, n_.P, V::load(incoming_ + at) + V::load(dh_ + at));
        }
      }
    }
    for (int64_t r = first; n_.has_c && a_.dc0.present && r < last; ++r)
      copy(row_at<V>(a_.dc0, seq_.batch[r]), dc_ + r * n_.width, n_.H);
  }

  // ---------------------------------------------------------------- 2. dx

  void input_gradient(int64_t begin, int64_t end) const {
    const int64_t count = rows_, width = input_blocks_ * kLanes;
    const int64_t tasks = threads_ == 1 ? 1 : smaller(count, 4 * threads_);
    parallel_for(threads_, tasks, [&](int64_t task) {
      const int64_t first = count * task / tasks, last = count * (task + 1) / tasks;
      const At<V> to = dx_ + first * width;
      if (by_unit_.inputs) {
        if constexpr (kUnit) {
          transposed_by_unit(gradients().from(first), last - first, G, slot_x_, w_ih_of_unit_,
                             {0, input_blocks_}, to, width);
        }
      } else {
        Products<V>::transposed({flow_ + first * flow_width_, flow_width_}, last - first, gates_x(),
                                G, w_ih_, {}, input_blocks_, to, width);
      }
    });
    for_each_row(begin, end, [&](int64_t r, int64_t s, int64_t index) {
      const At<V> dx = row_at<V>(a_.dx, seq_.time(r, s), seq_.batch[r]);
      if (seq_.masked(r, s)) {
        clear(dx, seq_.I);
      } else {
        copy(dx, dx_ + index * width, seq_.I);
      }
    });
  }

  template <class Body>
  void for_each_row(int64_t begin, int64_t end, const Body& body) const {
    int64_t index = 0;
    for (int64_t s = begin; s < end; ++s) {
      for (int64_t r = 0; r < base_[s - begin + 1] - base_[s - begin]; ++r) body(r, s, index++);
    }
  }

  // ---------------------------------------------------------------- 3. weights, biases, gains

  // row_list_[k] = row(r, s) for the k-th row of the chunk, null (zeros) for a masked one
  template <class Row>
  void list_rows(int64_t begin, int64_t end, const Row& row) const {
    for_each_row(begin, end, [&](int64_t r, int64_t s, int64_t index) {
      row_list_[index] = seq_.masked(r, s) ? ConstAt<V>{} : ConstAt<V>(row(r, s));
    });
  }

  // dw += the columns of `left` times the rows of row_list_
  void weight_gradient(At<V> left, const GateRange& gates, int64_t width, At<V> dw) const {
    for (int i = 0; i < kParts<V>; ++i) {
      pack_all_rows(
          threads_, [&](int64_t k) { return part(row_list_[k], i); }, rows_, width,
          part(packed_, i));
    }
    Products<V>::weights(threads_, left, gates, rows_, packed_, width, dw);
  }

  void list_inputs(int64_t begin, int64_t end) const {
    list_rows(begin, end, [&](int64_t r, int64_t s) {
      return row_at<V>(f_.x, seq_.time(r, s), seq_.batch[r]);
    });
  }
  void list_hidden(int64_t begin, int64_t end) const {
    list_rows(begin, end, [&](int64_t r, int64_t s) { return hidden_row(r, s, begin); });
  }
  void list_outputs(int64_t begin, int64_t end) const {
    list_rows(begin, end, [&](int64_t r, int64_t s) {
      return row_at<V>(on_.output, seq_.time(r, s), seq_.batch[r]);
    });
  }

  At<V> dw_hh() const { return dw_hh_ ? dw_hh_ : data_of<V>(a_.dw_hh); }

  void weight_gradients(int64_t begin, int64_t end) const {
    if constexpr (kUnit) {
      if (by_unit_.weights) return weights_of_unit(begin, end);
    }
    if (a_.dw_ih.present) {
      list_inputs(begin, end);
      weight_gradient(columns_, gates_x(), seq_.I, data_of<V>(a_.dw_ih));
    }
    if (a_.dw_hh.present) {
      list_hidden(begin, end);
      weight_gradient(columns_, gates_h(0, direct()), n_.P, dw_hh());
      if (E > 0) {
        list_rows(begin, end, [&](int64_t r, int64_t s) { return operand_row(r, s, begin); });
        weight_gradient(columns_, gates_h(E, G), n_.P, dw_hh());
      }
    }
    if (a_.dw_hr.present) {
      list_outputs(begin, end);
      weight_gradient(dnew_columns_, gates_of_h(), n_.H, data_of<V>(a_.dw_hr));
    }
  }

  // what W_hh multiplied
  ConstAt<V> hidden_row(int64_t row, int64_t s, int64_t begin) const {
    const ConstAt<V> before = h_before(row, s);
    if (!drops_ || !before) return before;
    const At<V> hidden = hidden_ + place(s, row, begin) * n_.h_width;
    for (int64_t j = 0; j < n_.h_blocks; ++j) {
      (load_block(before, j, n_.P) * Lanes<V>::load(kept_ + (row * n_.h_width + j * kLanes)))
          .store(hidden + j * kLanes);
    }
    return hidden;
  }

  ConstAt<V> operand_row(int64_t row, int64_t s, int64_t begin) const {
    const ConstAt<V> hidden = hidden_row(row, s, begin);
    if (!hidden) return {};
    const At<V> operand = operands_ + place(s, row, begin) * n_.width;
    cell_.operand({gates_, n_.blocks, n_.H, reserve_row(row, s), hidden, operand});
    return operand;
  }

  // to[j] += sum over the rows of the chunk of value(row, j)
  template <class Value>
  void sum_rows(int64_t blocks, const Value& value, At<V> to) const {
    constexpr int64_t kAtOnce = 8;
    const int64_t tasks = (blocks + kAtOnce - 1) / kAtOnce;
    parallel_for(threads_for(threads_, rows_ * blocks * kLanes), tasks, [&](int64_t task) {
      const int64_t first = task * kAtOnce, n = smaller(kAtOnce, blocks - first);
      V sums[kAtOnce];
      for (int64_t j = 0; j < n; ++j) sums[j] = V::load(to + (first + j) * kLanes);
      for (int64_t row = 0; row < rows_; ++row) {
        for (int64_t j = 0; j < n; ++j) sums[j] = sums[j] + value(row, first + j);
      }
      for (int64_t j = 0; j < n; ++j) sums[j].store(to + (first + j) * kLanes);
    });
  }

  // of gains and peepholes, whose rows are kept apart until the end: the same bits for any number
  // of threads
  void add_sums_of_rows() const {
    const auto add = [&](At<V> rows, int64_t width, int64_t offset, const Tensor& d, int64_t at) {
      if (!d.present) return;
      const At<V> out = data_of<V>(d) + at;
      for (int64_t j = 0; j < n_.blocks; ++j) {
        V sum = load_block(out, j, n_.H);
        for (int64_t r = 0; r < seq_.B; ++r)
          sum = sum + V::load(rows + (r * width + offset + j * kLanes));
        store_block(out, j, n_.H, sum);
      }
    };
    for (int n = 0; n < shape_.peepholes; ++n)
      add(dpeephole_, kMaxPeepholes * n_.width, n * n_.width, a_.dpeephole, n * n_.H);
    for (int g = 0; g < G; ++g) {
      add(gain_sums_, flow_width_, flow_x_[g], a_.dgain_ih, g * n_.H);
      add(gain_sums_, flow_width_, flow_h_[g], a_.dgain_hh, g * n_.H);
    }
    if (gain_c_) {
      add(c_sums_, 2 * n_.width, 0, a_.dgain_c, 0);
      add(c_sums_, 2 * n_.width, n_.width, a_.dbias_c, 0);
    }
  }

  void sum_biases() const {
    if (sums_by_unit() || !(a_.db_ih.present || a_.db_hh.present)) return;
    const auto gradient = [&](int64_t row, int64_t block) {
      return V::load(dgates_ + (row * dgates_width_ + block * kLanes));
    };
    sum_rows(shape_.slots * n_.blocks, gradient, db_);
  }

  void add_biases() const {
    const auto add = [&](const Tensor& d, int g, int slot) {
      if (!d.present) return;
      const At<V> to = data_of<V>(d) + g * n_.H, from = db_ + slot * bias_width_;
      for (int64_t j = 0; j < n_.blocks; ++j)
        store_block(to, j, n_.H, load_block(to, j, n_.H) + V::load(from + j * kLanes));
    };
    for (int g = 0; g < G; ++g) {
      add(a_.db_ih, g, shape_.slot_x[g]);
      add(a_.db_hh, g, shape_.slot_h[g]);
    }
  }

  // the gradient of the weights that DropConnect kept
  void add_kept_weights() const {
    const Events<T> mask(fastrnn::kept_weights<T>(on_));
    for (int i = 0; i < kParts<V>; ++i) {
      T* const from = part(dw_hh_, i);
      T* const to = part(data_of<V>(a_.dw_hh), i);
      parallel_for(threads_, G * n_.H, [&](int64_t row) {
        T* d = from + row * n_.P;
        mask.multiply(0, row, n_.P, d);
        for (int64_t k = 0; k < n_.P; ++k) to[row * n_.P + k] += d[k];
      });
    }
  }

  // ---------------------------------------------------------------- by the matrix unit

  static constexpr int kOneSlot = 0;

  UnitGradients<Unit> gradients() const { return {gradients_, n_.H, rows_}; }
  UnitGradients<Unit> carry_gradients() const { return {carry_gradients_, n_.H, seq_.B}; }
  UnitGradients<Unit> dnew_gradients() const { return {dnew_gradients_, n_.P, rows_}; }

  // The sums of the gates' gradients, where they are what the products take.
  bool sums_by_unit() const { return by_unit_.weights && !n_.has_norm; }

  void take_for_unit(Arena& arena, int64_t rows) {
    if (!by_unit_.weights) return;
    const int64_t of_gates = G * Unit::groups_of(n_.H), of_h = Unit::groups_of(n_.P);
    const auto take = [&](bool wanted, int64_t columns, int64_t groups) {
      return wanted ? arena.take<uint32_t>(right_factor<Unit>(columns, groups)) : nullptr;
    };
    gradients_ = UnitGradients<Unit>::take(arena, flow_slots_, n_.H, rows);
    if (by_unit_.recurrence) {
      carry_gradients_ = UnitGradients<Unit>::take(arena, flow_slots_, n_.H, seq_.B);
      w_hh_of_unit_ = take(true, n_.P, of_gates);
      w_hr_of_unit_ = take(n_.projected, n_.H, of_h);
    }
    w_ih_of_unit_ = take(by_unit_.inputs && a_.dx.present, seq_.I, of_gates);
    weight_product_ = {arena, threads_, flow_slots_, n_.H, rows};
    if (n_.projected) {
      dnew_gradients_ = UnitGradients<Unit>::take(arena, 1, n_.P, rows);
      projection_product_ = {arena, threads_, 1, n_.P, rows};
    }
    const int64_t widest = larger(n_.P, n_.H), row_groups = Unit::groups_of(rows);
    x_of_unit_ = take(a_.dw_ih.present, seq_.I, row_groups);
    h_of_unit_ = take(a_.dw_hh.present || a_.dw_hr.present, widest, row_groups);
  }

  void pack_for_unit() const {
    const auto pack = [&](const Tensor& w, int gates, int64_t units, uint32_t* packed) {
      if (packed) pack_weights_for_unit<Unit>(threads_, w, gates, units, packed);
    };
    pack(weights_[0], G, n_.H, w_hh_of_unit_);
    pack(f_.w_ih, G, n_.H, w_ih_of_unit_);
    pack(on_.w_hr, 1, n_.P, w_hr_of_unit_);
  }

  // `slots` of `width` values each
  void to_gradients(At<V> row, int64_t slots, int64_t width, const UnitGradients<Unit>& to) const {
    for (int64_t slot = 0; slot < slots; ++slot, row = row + width) {
      for (int64_t at = 0; at < width; at += 2 * kLanes) {
        const bool two = at + kLanes < width;
        to.store(slot, at / kLanes, V::load(row + at),
                 two ? V::load(row + (at + kLanes)) : V::set(0));
      }
    }
  }

  void incoming_of_unit(int64_t first, int64_t rows, int64_t s, int64_t begin, int64_t end,
                        At<V> to) const {
    const UnitGradients<Unit> left =
        s + 1 < end ? gradients().from(place(s + 1, first, begin)) : carry_gradients().from(first);
    const auto stops = [&](int64_t r) { return seq_.resets(first + r, s + 1); };
    incoming_by_unit(left, seq_.active(first, first + rows, s + 1), rows, G, slot_h_, w_hh_of_unit_,
                     {0, n_.h_blocks}, stops, to, n_.h_width);
  }

  void weights_of_unit(int64_t begin, int64_t end) const {
    const auto pack = [&](int64_t columns, uint32_t* packed) {
      pack_rows_for_unit<Unit>(
          threads_, [&](int64_t k) { return row_list_[k]; }, rows_, columns, packed);
    };
    UnitWeights weights[2];
    int number = 0;
    if (a_.dw_ih.present) {
      list_inputs(begin, end);
      pack(seq_.I, x_of_unit_);
      weights[number++] = {data_of<V>(a_.dw_ih), G, slot_x_, x_of_unit_, seq_.I, false};
    }
    if (a_.dw_hh.present) {
      list_hidden(begin, end);
      pack(n_.P, h_of_unit_);
      weights[number++] = {dw_hh(), G, slot_h_, h_of_unit_, n_.P, false};
    }
    const bool has_sums = sums_by_unit() && (a_.db_ih.present || a_.db_hh.present);
    if (number > 0 || has_sums) {
      weight_product_.run(threads_, gradients(), rows_, has_sums ? db_ : nullptr, weights, number);
    }
    if (a_.dw_hr.present) {
      list_outputs(begin, end);
      pack(n_.H, h_of_unit_);
      weights[0] = {data_of<V>(a_.dw_hr), 1, &kOneSlot, h_of_unit_, n_.H, false};
      projection_product_.run(threads_, dnew_gradients(), rows_, nullptr, weights, 1);
    }
  }

  const CellKernels<V>& cell_;
  const CellShape& shape_;
  int G, E;  // gates: all, early
  const BackwardArgs& a_;
  const ForwardArgs& f_;
  const Family& on_;
  Sizes n_;
  Sequence seq_;
  int threads_;
  At<V> peepholes_;
  GatesOf<V> gates_;
  int ranges_;
  int64_t chunk_, dgates_width_, flow_width_, input_blocks_, room_;
  bool drops_;
  int64_t flow_slots_;
  ByUnit by_unit_;
  int slot_x_[kMaxGates], slot_h_[kMaxGates];      // of the flow
  int64_t flow_x_[kMaxGates], flow_h_[kMaxGates];  // where the products' gradients lie in a flow
  Tensor weights_[kParts<V>];
  At<V> w_hh_{}, w_ih_{}, w_hr_{}, gain_ih_{}, gain_hh_{}, gain_c_{}, bias_c_{};
  T* valid_;
  int64_t *first_, *base_;
  int64_t rows_ = 0;  // of the chunk
  At<V> zeros_{}, dgates_{}, flow_{}, carry_{}, dh_{}, dc_{}, incoming_{}, dnew_{}, doutput_{};
  bool keeps_dgates_;
  At<V> columns_{}, dnew_columns_{}, gain_sums_{}, c_sums_{}, db_{}, dpeephole_{};
  int64_t bias_width_;
  At<V> doperand_{}, operands_{}, hidden_{};
  T* kept_ = nullptr;
  ConstAt<V>* incoming_rows_;
  ConstAt<V>* row_list_;
  At<V> packed_{}, dx_{}, dw_hh_{}, scratch_{};
  T* zoneout_;
  uint32_t *gradients_ = nullptr, *carry_gradients_ = nullptr, *dnew_gradients_ = nullptr,
           *w_hh_of_unit_ = nullptr, *w_ih_of_unit_ = nullptr, *w_hr_of_unit_ = nullptr,
           *x_of_unit_ = nullptr, *h_of_unit_ = nullptr;
  UnitWeightProduct<Unit> weight_product_, projection_product_;
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
