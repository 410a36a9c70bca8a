// Back-propagation through time with any feature of the family; the order of things is that of
// cpu/backward.hpp, which does the plain layer:
//   1. recurrence, each thread on its own rows, a step at a time and row by row
//   2. dx     3. the gradients of weights, biases and gains, each thread on its own part of them
//
// dgates [rows of the chunk, slots, width]: the gates' gradients before their activation. With
// layer norm there is a second panel, flow [rows, 2 G, width]: the gradients of the products W_ih x
// (G gates) and W_hh h (G gates); without it the products' gradients are those of the gates.
#pragma once

#include "cpu/backward.hpp"
#include "cpu/family/products.hpp"
#include "cpu/family/sizes.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

template <template <class> class C, class T>
// the gates hold vectors, which are aligned
class FamilyBackward {  // NOLINT(clang-analyzer-optin.performance.Padding)
 public:
  using V = Vec<T>;
  using Cell = C<V>;
  using N = Sizes<Cell, T>;
  static constexpr int G = Cell::kGates;
  static constexpr int K = N::K;
  static constexpr int E = Cell::kEarly;
  static constexpr int D = Cell::kSlots;
  static constexpr bool kIsLstm = Cell::kStates == 2;
  static constexpr int kLanes = V::kLanes;

  static int64_t workspace(const BackwardArgs& a) {
    Arena arena{nullptr};
    FamilyBackward plan(a, arena);
    return arena.used;
  }

  static void run(const BackwardArgs& a, void* memory) {
    Arena arena{static_cast<char*>(memory)};
    FamilyBackward backward(a, arena);
    backward.run_chunks();
  }

 private:
  FamilyBackward(const BackwardArgs& a, Arena& arena)
      : a_(a),
        f_(a.forward),
        on_(f_.family),
        n_(f_),
        seq_(f_, arena),
        weights_(kept_weights<T>(f_, arena)),
        threads_(f_.threads),
        peepholes_(on_.peephole.present ? arena.take<T>(kMaxPeepholes * n_.width) : nullptr),
        gates_(on_, G, peepholes_, Cell::kPeepholes, n_.width, a.clip),
        ranges_(static_cast<int>(smaller(threads_, larger(seq_.B, 1)))),
        chunk_(larger(1, smaller(seq_.T, kBackwardChunkRows / larger(seq_.B, 1)))),
        dgates_width_(D * n_.width + kLanes),
        flow_width_(n_.has_norm ? 2 * G * n_.width + kLanes : dgates_width_),
        input_blocks_(blocks_of<T>(seq_.I)) {
    const int64_t B = seq_.B, rows = B * chunk_, GH = G * n_.H;
    const int64_t widest = larger(input_blocks_ * kLanes, larger(n_.width, n_.h_width));
    w_hh_ = arena.take<T>(n_.h_width * GH);
    w_ih_ = a.dx.present ? arena.take<T>(input_blocks_ * kLanes * GH) : nullptr;
    w_hr_ = n_.projected ? arena.take<T>(n_.width * n_.P) : nullptr;
    gain_ih_ = n_.has_norm ? arena.take<T>(G * n_.width) : nullptr;
    gain_hh_ = n_.has_norm ? arena.take<T>(G * n_.width) : nullptr;
    gain_c_ = on_.gain_c.present ? arena.take<T>(n_.width) : nullptr;
    bias_c_ = on_.gain_c.present ? arena.take<T>(n_.width) : nullptr;
    valid_ = arena.take<T>(n_.width);
    first_ = arena.take<int64_t>(ranges_ + 1);
    base_ = arena.take<int64_t>(chunk_ + 1);
    zeros_ = arena.take<T>(flow_width_);
    dgates_ = arena.take<T>(rows * dgates_width_);
    flow_ = n_.has_norm ? arena.take<T>(rows * flow_width_) : dgates_;
    carry_ = arena.take<T>(B * flow_width_);
    dh_ = arena.take<T>(B * n_.h_width);
    dc_ = n_.has_c ? arena.take<T>(B * n_.width) : nullptr;
    incoming_ = arena.take<T>(B * n_.h_width);
    dnew_ = arena.take<T>((n_.projected ? rows : B) * n_.h_width);
    doutput_ = n_.projected ? arena.take<T>(B * n_.width) : nullptr;
    doperand_ = E > 0 ? arena.take<T>(B * n_.width) : nullptr;
    drops_ = has_recurrent_dropout(on_);
    kept_ = drops_ ? arena.take<T>(B * n_.h_width) : nullptr;
    hidden_ = drops_ ? arena.take<T>(rows * n_.h_width) : nullptr;
    operands_ = E > 0 ? arena.take<T>(rows * n_.width) : nullptr;
    c_of_output_ = on_.peephole.present ? arena.take<T>(rows * n_.width) : nullptr;
    dnormed_ = on_.gain_c.present ? arena.take<T>(rows * n_.width) : nullptr;
    row_list_ = arena.take<const T*>(rows);
    packed_ = arena.take<T>(rows * widest);
    dx_ = a.dx.present ? arena.take<T>(rows * input_blocks_ * kLanes) : nullptr;
    dw_hh_ = has_weight_dropout(on_) ? arena.take<T>(GH * n_.P) : nullptr;
    room_ = larger(n_.width, n_.h_width);
    scratch_ = arena.take<T>(ranges_ * (kScratchRows + G) * room_);
  }

  static constexpr int64_t kScratchRows = 6;

  // ---------------------------------------------------------------- the chunks

  void run_chunks() {
    start();
    const int64_t steps = seq_.B > 0 ? seq_.length[0] : 0;
    for (int64_t end = steps; end > 0; end -= smaller(chunk_, end)) {
      const int64_t begin = larger(0, end - chunk_);
      base_[0] = 0;
      for (int64_t s = begin; s < end; ++s)
        base_[s - begin + 1] = base_[s - begin] + seq_.active(0, seq_.B, s);
      parallel_for(threads_, ranges_,
                   [&](int64_t i) { recurrence(first_[i], first_[i + 1], begin, end, i); });
      if (a_.dx.present) input_gradient(begin, end);
      weight_gradients(begin, end);
      sums(begin, end);
    }
    parallel_for(threads_, ranges_, [&](int64_t i) { initial_state(first_[i], first_[i + 1]); });
    if (dw_hh_ && a_.dw_hh.present) add_kept_weights();
  }

  void start() {
    const int64_t GH = G * n_.H;
    seq_.split(ranges_, first_);
    copy_or_zero<T>(zeros_, nullptr, flow_width_);
    pack_transposed(threads_, weights_, n_.P, GH, w_hh_);
    if (w_ih_) pack_transposed(threads_, f_.w_ih, seq_.I, GH, w_ih_);
    if (w_hr_) pack_transposed(threads_, on_.w_hr, n_.H, n_.P, w_hr_);
    if (n_.has_norm) {
      pad_rows(on_.gain_ih, G, n_.H, n_.width, gain_ih_);
      pad_rows(on_.gain_hh, G, n_.H, n_.width, gain_hh_);
    }
    if (gain_c_) {
      pad_rows(on_.gain_c, 1, n_.H, n_.width, gain_c_);
      pad_rows(on_.bias_c, 1, n_.H, n_.width, bias_c_);
    }
    if (peepholes_) pad_rows(on_.peephole, Cell::kPeepholes, n_.H, n_.width, peepholes_);
    for (int64_t u = 0; u < n_.width; ++u) valid_[u] = u < n_.H ? T(1) : T(0);
    for (int64_t r = 0; r < seq_.B; ++r) {
      const int64_t b = seq_.batch[r];
      load_state(a_.dh_n, b, n_.P, n_.h_width, dh_ + r * n_.h_width);
      if (n_.has_c) load_state(a_.dc_n, b, n_.H, n_.width, dc_ + r * n_.width);
      if (drops_) {
        T* kept = kept_ + r * n_.h_width;
        fill(kept, n_.h_width, T(0));
        kept_units<T>(on_.seed, Stream::kRecurrent, on_.recurrent_dropout).fill(0, b, n_.P, kept);
      }
      for (int64_t t = seq_.length[r]; t < seq_.T; ++t) {
        if (a_.dx.present) copy_or_zero<T>(row_of<T>(a_.dx, t, b), nullptr, seq_.I);
        if (a_.step_norms.present) *row_of<T>(a_.step_norms, t, b) = T(0);
      }
    }
    if (dw_hh_) copy_or_zero<T>(dw_hh_, nullptr, GH * n_.P);
    if (a_.accumulate) return;
    const Tensor* const sums[] = {&a_.dw_ih,   &a_.dw_hh,     &a_.db_ih,    &a_.db_hh,
                                  &a_.dw_hr,   &a_.dpeephole, &a_.dgain_ih, &a_.dgain_hh,
                                  &a_.dgain_c, &a_.dbias_c};
    for (const Tensor* d : sums) {
      if (!d->present) continue;
      const int64_t count = d->rank == 2 ? d->shape[0] * d->shape[1] : d->shape[0];
      copy_or_zero<T>(static_cast<T*>(d->data), nullptr, count);
    }
  }

  static void load_state(const Tensor& state, int64_t b, int64_t units, int64_t width, T* panel) {
    copy_or_zero<T>(panel, nullptr, width);
    if (state.present) copy_or_zero<T>(panel, row_of<T>(state, b), units);
  }

  // ---------------------------------------------------------------- 1. recurrence

  int64_t place(int64_t s, int64_t row, int64_t begin) const { return base_[s - begin] + row; }
  T* flow_row(int64_t s, int64_t row, int64_t begin) const {
    return flow_ + place(s, row, begin) * flow_width_;
  }
  int64_t flow_x(int gate) const { return (n_.has_norm ? gate : Cell::slot_x(gate)) * n_.width; }
  int64_t flow_h(int gate) const {
    return (n_.has_norm ? G + gate : Cell::slot_h(gate)) * n_.width;
  }

  // what flows through W_hh from step s + 1 into step s; zeros where nothing does
  const T* incoming(int64_t s, int64_t row, int64_t begin, int64_t end) const {
    if (s + 1 >= seq_.length[row] || seq_.resets(row, s + 1)) return zeros_;
    return s + 1 < end ? flow_row(s + 1, row, begin) : carry_ + row * flow_width_;
  }

  static constexpr int kDirect = E > 0 ? E : G;

  void incoming_product(int64_t first, int64_t rows, int64_t s, int64_t begin, int64_t end) const {
    T* to = incoming_ + first * n_.h_width;
    transposed_product<T>([&](int64_t r) { return incoming(s, first + r, begin, end); }, rows, 0,
                          kDirect, G, [&](int g) { return flow_h(g); }, n_.H, w_hh_, n_.h_blocks,
                          to, n_.h_width);
    for (int64_t i = 0; drops_ && i < rows * n_.h_width; i += kLanes)
      (V::load(to + i) * V::load(kept_ + first * n_.h_width + i)).store(to + i);
  }

  T* dnew_row(int64_t s, int64_t row, int64_t begin) const {
    return dnew_ + (n_.projected ? place(s, row, begin) : row) * n_.h_width;
  }

  // Steps [begin, end) of rows [first, last), backwards.
  void recurrence(int64_t first, int64_t last, int64_t begin, int64_t end, int64_t index) const {
    T* scratch = scratch_ + index * (kScratchRows + G) * room_;
    for (int64_t s = smaller(end, last > first ? seq_.length[first] : 0) - 1; s >= begin; --s) {
      const int64_t rows = seq_.active(first, last, s);
      incoming_product(first, rows, s, begin, end);
      for (int64_t r = first; r < first + rows; ++r) hidden_gradient(r, s, begin, scratch);
      if (n_.projected) {
        transposed_product<T>([&](int64_t r) { return dnew_row(s, first + r, begin); }, rows, 0, 1,
                              1, [](int) { return 0; }, n_.P, w_hr_, n_.blocks,
                              doutput_ + first * n_.width, n_.width);
      }
      for (int64_t r = first; r < first + rows; ++r) cell_backward(r, s, begin, scratch);
      if constexpr (E > 0) {
        transposed_product<T>([&](int64_t r) { return flow_row(s, first + r, begin); }, rows, E, G,
                              G, [&](int g) { return flow_h(g); }, n_.H, w_hh_, n_.h_blocks,
                              doperand_ + first * n_.width, n_.width);
        for (int64_t r = first; r < first + rows; ++r) early_backward(r, s, begin, scratch);
      }
      for (int64_t r = first; r < first + rows; ++r) finish_row(r, s, begin);
    }
  }

  // dL/dh of the step -> what goes on to the new h (dnew), and past it to the h before (dh_)
  void hidden_gradient(int64_t row, int64_t s, int64_t begin, T* scratch) const {
    const int64_t t = seq_.time(row, s), b = seq_.batch[row];
    const T* dy = a_.dy.present ? row_of<const T>(a_.dy, t, b) : nullptr;
    const bool masked = seq_.masked(row, s);
    const T* z = masked ? nullptr : zoneout_row(on_, 0, t, b, n_.P, scratch);
    if (z) fill(scratch + n_.P, n_.h_width - n_.P, T(0));
    T* dh = dh_ + row * n_.h_width;
    T* dnew = dnew_row(s, row, begin);
    V squares = V::set(0);
    for (int64_t j = 0; j < n_.h_blocks; ++j) {
      V d = V::load(incoming_ + row * n_.h_width + j * kLanes) + V::load(dh + j * kLanes);
      if (dy) d = d + load_block(dy, j, n_.P);
      squares = fma(d, d, squares);
      const V share = z ? V::load(z + j * kLanes) : V::set(masked ? T(1) : T(0));
      (z || masked ? share * d : V::set(0)).store(dh + j * kLanes);
      (masked ? V::set(0) : z ? (V::set(1) - share) * d : d).store(dnew + j * kLanes);
    }
    if (a_.step_norms.present) {
      const T sum = sum_of(squares);
      *row_of<T>(a_.step_norms, t, b) =
          sizeof(T) == 4 ? static_cast<T>(__builtin_sqrtf(static_cast<float>(sum)))
                         : static_cast<T>(__builtin_sqrt(sum));
    }
  }

  const T* reserve_row(int64_t row, int64_t s) const {
    const int64_t t = seq_.time(row, s), b = seq_.batch[row];
    return f_.reserve.present ? row_of<const T>(f_.reserve, t, b)
                              : row_of<const T>(f_.y, t, b);  // the plain RNN keeps h alone
  }

  const T* norms_row(int64_t row, int64_t s) const {
    return row_of<const T>(on_.norms, seq_.time(row, s), seq_.batch[row]);
  }

  void cell_backward(int64_t row, int64_t s, int64_t begin, T* scratch) const {
    const int64_t t = seq_.time(row, s), b = seq_.batch[row], H = n_.H;
    const int64_t at = place(s, row, begin);
    T* dgates = dgates_ + at * dgates_width_;
    if (seq_.masked(row, s)) {
      copy_or_zero<T>(dgates, nullptr, dgates_width_);
      if (n_.has_norm) copy_or_zero<T>(flow_ + at * flow_width_, nullptr, flow_width_);
      return;
    }
    const T* reserve = reserve_row(row, s);
    const T* outside = a_.dgates.present ? row_of<const T>(a_.dgates, t, b) : nullptr;
    const T* dh = n_.projected ? doutput_ + row * n_.width : dnew_row(s, row, begin);
    T* dc = n_.has_c ? dc_ + row * n_.width : nullptr;
    const T* c_prev = n_.has_c ? seq_.previous<T>(f_.c, f_.c0, row, s) : nullptr;
    const T* z = n_.has_c ? zoneout_row(on_, 1, t, b, H, scratch) : nullptr;
    if (z) fill(scratch + H, n_.width - H, T(0));
    const auto share = [&](int64_t j) { return z ? V::load(z + j * kLanes) : V::set(0); };
    const auto new_c_gradient = [&](int64_t j) {
      const V d = V::load(dc + j * kLanes);
      return z ? (V::set(1) - share(j)) * d : d;
    };
    const auto set_c_gradient = [&](int64_t j, V d) {
      (z ? fma(share(j), V::load(dc + j * kLanes), d) : d).store(dc + j * kLanes);
    };
    const auto store = [&](int64_t j, const V* gradients) {
      for (int d = 0; d < D; ++d) gradients[d].store(dgates + d * n_.width + j * kLanes);
    };
    if constexpr (kIsLstm) {
      if (on_.norm_of_c != NormOfC::kNone) {
        lstm_backward_normalised(row, s, at, outside, dh, c_prev, scratch, new_c_gradient,
                                 set_c_gradient, store);
      } else {
        for (int64_t j = 0; j < n_.blocks; ++j) {
          V kept[K], gradients[D];
          for (int i = 0; i < K; ++i) kept[i] = load_block(reserve + i * H, j, H);
          const auto k = gates_.at(j, outside, G, H);
          const V before = c_prev ? load_block(c_prev, j, H) : V::set(0);
          const V raw = Cell::state_again(k, kept, before), state = k.clipped(raw);
          V d = Cell::backward_output(k, kept[Cell::kO], state, V::load(dh + j * kLanes),
                                      new_c_gradient(j), gradients[Cell::kO]);
          d = k.inside(raw, k.peep_back(Cell::kPeepO, gradients[Cell::kO], d));
          set_c_gradient(j, Cell::backward_state(k, kept, before, d, gradients));
          store(j, gradients);
          if (c_of_output_) state.store(c_of_output_ + at * n_.width + j * kLanes);
        }
      }
    } else {
      const T* h_prev = seq_.previous<T>(f_.y, f_.h0, row, s);
      const T* before_row = n_.has_c ? c_prev : h_prev;
      T* dh_row = dh_ + row * n_.h_width;
      for (int64_t j = 0; j < n_.blocks; ++j) {
        V kept[K], gradients[D];
        for (V& gradient : gradients) gradient = V::set(0);
        for (int i = 0; i < K; ++i) kept[i] = load_block(reserve + i * H, j, H);
        const V before = before_row ? load_block(before_row, j, H) : V::set(0);
        V d = V::load(dh + j * kLanes);
        if (n_.has_c) d = d + new_c_gradient(j);
        const V bypass = Cell::backward(gates_.at(j, outside, G, H), before, kept, d, gradients);
        if (n_.has_c) {
          set_c_gradient(j, bypass);
        } else if (Cell::kMixes) {
          (V::load(dh_row + j * kLanes) + bypass).store(dh_row + j * kLanes);
        }
        store(j, gradients);
      }
    }
    if (n_.has_norm) {
      norm_backward(row, s, at, E, G, scratch, kOfLate);
      if constexpr (E == 0) norm_backward_x(row, s, at, scratch);
    }
  }

  template <class NewC, class SetC, class Store>
  void lstm_backward_normalised(int64_t row, int64_t s, int64_t at, const T* outside, const T* dh,
                                const T* c_prev, T* scratch, const NewC& new_c_gradient,
                                const SetC& set_c_gradient, const Store& store) const {
    const int64_t H = n_.H;
    const bool of_state = on_.norm_of_c == NormOfC::kState;
    const T* reserve = reserve_row(row, s);
    T *normed = scratch + room_, *d_row = scratch + 2 * room_, *do_row = scratch + 3 * room_;
    const T* norms = norms_row(row, s);
    copy_or_zero<T>(normed, nullptr, n_.width);
    copy_or_zero(normed, norms + n_.layout.c, H);
    const T factor = norms[n_.layout.factors + kOfC];
    const RowNorm<T> norm{H, n_.blocks, 1, kLanes, 0, valid_, static_cast<T>(on_.eps)};
    T* dnormed = dnormed_ + at * n_.width;
    const auto through_norm = [&] {
      for (int64_t j = 0; j < n_.blocks; ++j) {
        const V d = V::load(d_row + j * kLanes);
        d.store(dnormed + j * kLanes);
        (d * V::load(gain_c_ + j * kLanes)).store(d_row + j * kLanes);
      }
      norm.backward(d_row, normed, factor);
    };
    for (int64_t j = 0; j < n_.blocks; ++j) {
      V kept[K];
      for (int i = 0; i < K; ++i) kept[i] = load_block(reserve + i * H, j, H);
      const auto k = gates_.at(j, outside, G, H);
      const V u = fma(V::load(normed + j * kLanes), V::load(gain_c_ + j * kLanes),
                      V::load(bias_c_ + j * kLanes));
      V gate;
      const V d =
          Cell::backward_output(k, kept[Cell::kO], u, V::load(dh + j * kLanes), V::set(0), gate);
      gate.store(do_row + j * kLanes);
      (d * V::load(valid_ + j * kLanes)).store(d_row + j * kLanes);
    }
    if (!of_state) through_norm();
    for (int64_t j = 0; j < n_.blocks; ++j) {
      const auto k = gates_.at(j);
      const V d = V::load(d_row + j * kLanes) + new_c_gradient(j);
      const V all = k.peep_back(Cell::kPeepO, V::load(do_row + j * kLanes), d);
      (all * V::load(valid_ + j * kLanes)).store(d_row + j * kLanes);
    }
    if (of_state) through_norm();
    for (int64_t j = 0; j < n_.blocks; ++j) {
      V kept[K], gradients[D];
      for (int i = 0; i < K; ++i) kept[i] = load_block(reserve + i * H, j, H);
      const auto k = gates_.at(j, outside, G, H);
      const V before = c_prev ? load_block(c_prev, j, H) : V::set(0);
      const V raw = Cell::state_again(k, kept, before);
      const V d = k.inside(raw, V::load(d_row + j * kLanes));
      gradients[Cell::kO] = V::load(do_row + j * kLanes);
      set_c_gradient(j, Cell::backward_state(k, kept, before, d, gradients));
      store(j, gradients);
      if (c_of_output_) {
        const V u = fma(V::load(normed + j * kLanes), V::load(gain_c_ + j * kLanes),
                        V::load(bias_c_ + j * kLanes));
        (of_state ? u : k.clipped(raw)).store(c_of_output_ + at * n_.width + j * kLanes);
      }
    }
  }

  // gradients of gates [first, last) of gh -> those of their products
  void norm_backward(int64_t row, int64_t s, int64_t at, int first, int last, T* scratch,
                     NormFactor which) const {
    const T* dgates = dgates_ + at * dgates_width_;
    scaled_back(
        row, s, first, last, n_.layout.gh, which, gain_hh_,
        [&](int g) { return dgates + Cell::slot_h(g) * n_.width; },
        flow_ + at * flow_width_ + flow_h(first), scratch);
  }
  void norm_backward_x(int64_t row, int64_t s, int64_t at, T* scratch) const {
    const T* dgates = dgates_ + at * dgates_width_;
    scaled_back(
        row, s, 0, G, n_.layout.gx, kOfX, gain_ih_,
        [&](int g) { return dgates + Cell::slot_x(g) * n_.width; }, flow_ + at * flow_width_,
        scratch);
  }

  template <class Source>
  void scaled_back(int64_t row, int64_t s, int first, int last, int64_t offset, NormFactor which,
                   const T* gain, const Source& source, T* to, T* scratch) const {
    const T* norms = norms_row(row, s);
    T* normed = scratch + kScratchRows * room_;
    for (int g = first; g < last; ++g) {
      T* gate = normed + (g - first) * n_.width;
      copy_or_zero<T>(gate, nullptr, n_.width);
      copy_or_zero(gate, norms + offset + g * n_.H, n_.H);
      for (int64_t j = 0; j < n_.width; j += kLanes) {
        (V::load(source(g) + j) * V::load(gain + g * n_.width + j))
            .store(to + (g - first) * n_.width + j);
      }
    }
    const RowNorm<T> norm{n_.H,     n_.blocks, last - first,           kLanes,
                          n_.width, valid_,    static_cast<T>(on_.eps)};
    norm.backward(to, normed, norms[n_.layout.factors + which]);
  }

  void early_backward(int64_t row, int64_t s, int64_t begin, T* scratch) const {
    if (seq_.masked(row, s)) return;
    const int64_t H = n_.H, at = place(s, row, begin), t = seq_.time(row, s), b = seq_.batch[row];
    const T* reserve = reserve_row(row, s);
    const T* h_prev = seq_.previous<T>(f_.y, f_.h0, row, s);
    const T* outside = a_.dgates.present ? row_of<const T>(a_.dgates, t, b) : nullptr;
    T* dgates = dgates_ + at * dgates_width_;
    T* dh = dh_ + row * n_.h_width;
    for (int64_t j = 0; j < n_.blocks; ++j) {
      V kept[K];
      for (int i = 0; i < K; ++i) kept[i] = load_block(reserve + i * H, j, H);
      const V mask = drops_ ? V::load(kept_ + row * n_.h_width + j * kLanes) : V::set(1);
      const V before = (h_prev ? load_block(h_prev, j, H) : V::set(0)) * mask;
      const V d = V::load(doperand_ + row * n_.width + j * kLanes);
      if constexpr (E > 0) {
        const auto k = gates_.at(j, outside, G, H);
        Cell::early_gradient(k, before, kept, d).store(dgates + j * kLanes);
        fma(d * Cell::reset_gate(k, kept), mask, V::load(dh + j * kLanes)).store(dh + j * kLanes);
      }
    }
    if (n_.has_norm) {
      norm_backward(row, s, at, 0, E, scratch, kOfEarly);
      norm_backward_x(row, s, at, scratch);
    }
  }

  // Nothing flows on from a step before which the state was reset; the first step of the chunk is
  // what the chunk before it begins from.
  void finish_row(int64_t row, int64_t s, int64_t begin) const {
    if (seq_.resets(row, s)) {
      copy_or_zero<T>(dh_ + row * n_.h_width, nullptr, n_.h_width);
      if (n_.has_c) copy_or_zero<T>(dc_ + row * n_.width, nullptr, n_.width);
    }
    if (s == begin) copy_or_zero(carry_ + row * flow_width_, flow_row(s, row, begin), flow_width_);
  }

  void initial_state(int64_t first, int64_t last) const {
    if (a_.dh0.present) {
      incoming_product(first, last - first, -1, 0, 0);
      for (int64_t r = first; r < last; ++r) {
        T* dh0 = row_of<T>(a_.dh0, seq_.batch[r]);
        for (int64_t j = 0; j < n_.h_blocks; ++j) {
          const int64_t at = r * n_.h_width + j * kLanes;
          store_block(dh0, j, n_.P, V::load(incoming_ + at) + V::load(dh_ + at));
        }
      }
    }
    for (int64_t r = first; n_.has_c && a_.dc0.present && r < last; ++r)
      copy_or_zero(row_of<T>(a_.dc0, seq_.batch[r]), dc_ + r * n_.width, n_.H);
  }

  // ---------------------------------------------------------------- 2. dx

  void input_gradient(int64_t begin, int64_t end) const {
    const int64_t count = base_[end - begin], width = input_blocks_ * kLanes;
    const int64_t tasks = threads_ == 1 ? 1 : smaller(count, 4 * threads_);
    parallel_for(threads_, tasks, [&](int64_t task) {
      const int64_t first = count * task / tasks, last = count * (task + 1) / tasks;
      transposed_product<T>([&](int64_t r) { return flow_ + (first + r) * flow_width_; },
                            last - first, 0, G, G, [&](int g) { return flow_x(g); }, n_.H, w_ih_,
                            input_blocks_, dx_ + first * width, width);
    });
    for_each_row(begin, end, [&](int64_t r, int64_t s, int64_t index) {
      copy_or_zero(row_of<T>(a_.dx, seq_.time(r, s), seq_.batch[r]),
                   seq_.masked(r, s) ? nullptr : dx_ + index * width, seq_.I);
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
      row_list_[index] = seq_.masked(r, s) ? nullptr : row(r, s);
    });
  }

  // dw[g H + u][n] += sum over k of flow[k][offset(g) + u] row_list_[k][n], gates [first, last)
  template <class Offset>
  void weight_products(int64_t count, int64_t columns, int first, int last, const Offset& offset,
                       T* dw) const {
    pack_list(count, columns);
    const int64_t tasks = (n_.H + kWeightRowsPerTask - 1) / kWeightRowsPerTask;
    parallel_for(threads_, tasks * (last - first), [&](int64_t task) {
      const int gate = first + static_cast<int>(task / tasks);
      const int64_t unit = task % tasks * kWeightRowsPerTask;
      weight_product(flow_ + offset(gate), flow_width_, count, packed_, columns, unit,
                     smaller(kWeightRowsPerTask, n_.H - unit), dw + gate * n_.H * columns);
    });
  }

  void pack_list(int64_t count, int64_t columns) const {
    parallel_for(threads_, blocks_of<T>(columns),
                 [&](int64_t block) { pack_rows(row_list_, count, columns, block, packed_); });
  }

  void weight_gradients(int64_t begin, int64_t end) const {
    const int64_t count = base_[end - begin];
    if (a_.dw_ih.present) {
      list_rows(begin, end, [&](int64_t r, int64_t s) {
        return row_of<const T>(f_.x, seq_.time(r, s), seq_.batch[r]);
      });
      weight_products(
          count, seq_.I, 0, G, [&](int g) { return flow_x(g); }, static_cast<T*>(a_.dw_ih.data));
    }
    if (a_.dw_hh.present) {
      T* dw = dw_hh_ ? dw_hh_ : static_cast<T*>(a_.dw_hh.data);
      list_rows(begin, end, [&](int64_t r, int64_t s) { return hidden_row(r, s, begin); });
      weight_products(count, n_.P, 0, kDirect, [&](int g) { return flow_h(g); }, dw);
      if constexpr (E > 0) {
        list_rows(begin, end, [&](int64_t r, int64_t s) { return operand_row(r, s, begin); });
        weight_products(count, n_.P, E, G, [&](int g) { return flow_h(g); }, dw);
      }
    }
    if (a_.dw_hr.present) {
      list_rows(begin, end, [&](int64_t r, int64_t s) {
        return row_of<const T>(on_.output, seq_.time(r, s), seq_.batch[r]);
      });
      pack_list(count, n_.H);
      const int64_t tasks = (n_.P + kWeightRowsPerTask - 1) / kWeightRowsPerTask;
      parallel_for(threads_, tasks, [&](int64_t task) {
        const int64_t unit = task * kWeightRowsPerTask;
        weight_product(dnew_, n_.h_width, count, packed_, n_.H, unit,
                       smaller(kWeightRowsPerTask, n_.P - unit), static_cast<T*>(a_.dw_hr.data));
      });
    }
  }

  // what W_hh multiplied
  const T* hidden_row(int64_t row, int64_t s, int64_t begin) const {
    const T* h_prev = seq_.previous<T>(f_.y, f_.h0, row, s);
    if (!drops_ || !h_prev) return h_prev;
    T* hidden = hidden_ + place(s, row, begin) * n_.h_width;
    for (int64_t j = 0; j < n_.h_blocks; ++j) {
      (load_block(h_prev, j, n_.P) * V::load(kept_ + row * n_.h_width + j * kLanes))
          .store(hidden + j * kLanes);
    }
    return hidden;
  }

  const T* operand_row(int64_t row, int64_t s, int64_t begin) const {
    const T* hidden = hidden_row(row, s, begin);
    if (!hidden) return nullptr;
    const T* reserve = reserve_row(row, s);
    T* operand = operands_ + place(s, row, begin) * n_.width;
    for (int64_t j = 0; j < n_.blocks; ++j) {
      V kept[K];
      for (int i = 0; i < K; ++i) kept[i] = load_block(reserve + i * n_.H, j, n_.H);
      if constexpr (E > 0) {
        (Cell::reset_gate(gates_.at(j), kept) * load_block(hidden, j, n_.H))
            .store(operand + j * kLanes);
      }
    }
    return operand;
  }

  // out[u] += sum over k of left[k * stride + u] row_list_[k][offset + u]; without rows, of left
  void column_sum(int64_t count, const T* left, int64_t stride, bool rows, int64_t offset,
                  T* out) const {
    parallel_for(threads_, n_.blocks, [&](int64_t j) {
      V sum = V::set(0);
      for (int64_t k = 0; k < count; ++k) {
        const V value = V::load(left + k * stride + j * kLanes);
        if (!rows) {
          sum = sum + value;
        } else if (row_list_[k]) {
          sum = fma(value, load_block(row_list_[k] + offset, j, n_.H), sum);
        }
      }
      store_block(out, j, n_.H, load_block(out, j, n_.H) + sum);
    });
  }

  static T* part(const Tensor& d, int64_t offset) { return static_cast<T*>(d.data) + offset; }

  void sums(int64_t begin, int64_t end) const {
    const int64_t count = base_[end - begin], H = n_.H;
    const auto slot = [&](int n) { return dgates_ + n * n_.width; };
    for (int g = 0; g < G; ++g) {
      if (a_.db_ih.present)
        column_sum(count, slot(Cell::slot_x(g)), dgates_width_, false, 0, part(a_.db_ih, g * H));
      if (a_.db_hh.present)
        column_sum(count, slot(Cell::slot_h(g)), dgates_width_, false, 0, part(a_.db_hh, g * H));
    }
    if (n_.has_norm) {
      list_rows(begin, end, [&](int64_t r, int64_t s) { return norms_row(r, s); });
      for (int g = 0; g < G; ++g) {
        column_sum(count, slot(Cell::slot_x(g)), dgates_width_, true, n_.layout.gx + g * H,
                   part(a_.dgain_ih, g * H));
        column_sum(count, slot(Cell::slot_h(g)), dgates_width_, true, n_.layout.gh + g * H,
                   part(a_.dgain_hh, g * H));
      }
      if (dnormed_) {
        column_sum(count, dnormed_, n_.width, true, n_.layout.c, part(a_.dgain_c, 0));
        list_rows(begin, end, [&](int64_t, int64_t) { return valid_; });
        column_sum(count, dnormed_, n_.width, true, 0, part(a_.dbias_c, 0));
      }
    }
    if constexpr (kIsLstm) {
      if (!a_.dpeephole.present) return;
      list_rows(begin, end,
                [&](int64_t r, int64_t s) { return seq_.previous<T>(f_.c, f_.c0, r, s); });
      for (int n = 0; n < Cell::kPeepO; ++n)
        column_sum(count, slot(n), dgates_width_, true, 0, part(a_.dpeephole, n * H));
      for_each_row(begin, end, [&](int64_t r, int64_t s, int64_t index) {
        row_list_[index] = seq_.masked(r, s) ? nullptr : c_of_output_ + index * n_.width;
      });
      column_sum(count, slot(Cell::kO), dgates_width_, true, 0,
                 part(a_.dpeephole, Cell::kPeepO * H));
    }
  }

  // the gradient of the weights that DropConnect kept
  void add_kept_weights() const {
    const auto mask = kept_units<T>(on_.seed, Stream::kWeight, on_.weight_dropout);
    parallel_for(threads_, G * n_.H, [&](int64_t row) {
      T* d = dw_hh_ + row * n_.P;
      T* to = static_cast<T*>(a_.dw_hh.data) + row * n_.P;
      mask.multiply(0, row, n_.P, d);
      for (int64_t k = 0; k < n_.P; ++k) to[k] += d[k];
    });
  }

  const BackwardArgs& a_;
  const ForwardArgs& f_;
  const Family& on_;
  N n_;
  Sequence seq_;
  Tensor weights_;
  int threads_;
  T* peepholes_;
  GatesOf<T> gates_;
  int ranges_;
  int64_t chunk_, dgates_width_, flow_width_, input_blocks_, room_;
  bool drops_;
  T *w_hh_, *w_ih_, *w_hr_, *gain_ih_, *gain_hh_, *gain_c_, *bias_c_, *valid_;
  int64_t *first_, *base_;
  T *zeros_, *dgates_, *flow_, *carry_, *dh_, *dc_, *incoming_, *dnew_, *doutput_, *doperand_;
  T *kept_, *hidden_, *operands_, *c_of_output_, *dnormed_;
  const T** row_list_;
  T *packed_, *dx_, *dw_hh_, *scratch_;
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
