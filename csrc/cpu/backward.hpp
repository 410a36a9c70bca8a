// Back-propagation through time (Werbos 1990), in chunks of steps from the last to the first:
//   1. recurrence, each thread on its own rows: dh = W_hh^T dgates(s + 1) + dy, then the cell's
//   backward row by row;
//      the gate gradients of the chunk go to dgates [rows of the chunk, slots, padded H], and once
//      more to columns [slots, blocks of H, rows of the chunk, V], of which 3 reads one unit at a
//      time
//   2. dx = W_ih^T dgates, all rows of the chunk at once
//   3. dw_ih += dgates^T x, dw_hh += dgates^T h', db += sum of dgates, each thread on its own part
//   of the weights
// The size of a chunk does not depend on the threads, nor does the order of any sum: same bits for
// any number of them.
#pragma once

#include "cpu/bundle.hpp"
#include "cpu/unit_products.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// Rows (steps x batch) of a chunk: long enough to amortise reading dw once a chunk, short enough
// for the caches.
constexpr int64_t kBackwardChunkRows = 512;

// With a matrix unit, products of enough rows are its: the gate gradients then go, in place of
// dgates and columns, to its left factor (unit_products.hpp).
template <template <class> class C, class T, class Unit = NoMatrixUnit>
class Backward {
 public:
  using V = Vec<T>;
  using Cell = C<V>;
  static constexpr int G = Cell::kGates;
  static constexpr int S = Cell::kStates;
  static constexpr int R = Cell::kReserve;
  static constexpr int E = Cell::kEarly;
  static constexpr int D = Cell::kSlots;
  static constexpr int kLanes = V::kLanes;
  static constexpr const T* kNone = nullptr;
  static constexpr bool kUnit = Unit::kPresent && E == 0;

  static int64_t workspace(const BackwardArgs& a) {
    Arena arena{nullptr};
    Backward plan(a, arena);
    return arena.used;
  }

  static void run(const BackwardArgs& a, void* memory) {
    Arena arena{static_cast<char*>(memory)};
    Backward backward(a, arena);
    backward.run_chunks();
  }

 private:
  Backward(const BackwardArgs& a, Arena& arena)
      : a_(a),
        f_(a.forward),
        seq_(a.forward, arena),
        threads_(a.forward.threads),
        blocks_(blocks_of<T>(seq_.H)),
        input_blocks_(blocks_of<T>(seq_.I)),
        width_(padded<T>(seq_.H)),
        chunk_(larger(1, smaller(seq_.T, kBackwardChunkRows / larger(seq_.B, 1)))),
        by_unit_(kUnit, seq_.B * chunk_, seq_.B, seq_.H),
        parts_(parts()),
        ranges_(parts_ > 1 ? 1 : static_cast<int>(smaller(threads_, larger(seq_.B, 1)))),
        dgates_width_(D * width_) {
    const int64_t rows = seq_.B * chunk_;
    for (int g = 0; g < G; ++g) {
      slot_x_[g] = Cell::slot_x(g), slot_h_[g] = Cell::slot_h(g);
      offset_x_[g] = slot_x_[g] * width_, offset_h_[g] = slot_h_[g] * width_;
    }
    counters_ = Team::take_counters(arena, parts_);
    first_ = arena.take<int64_t>(ranges_ + 1);
    base_ = arena.take<int64_t>(chunk_ + 1);
    if constexpr (kUnit) take_for_unit(arena, rows);
    if (!by_unit_.recurrence) {
      if (!takes_unpacked(f_)) w_hh_ = arena.take<T>(blocks_ * kLanes * G * seq_.H);
      zeros_ = arena.take<T>(dgates_width_);
      dgates_ = arena.take<T>(rows * dgates_width_);
      carry_ = arena.take<T>(seq_.B * dgates_width_);
    }
    if (a.dx.present && !by_unit_.inputs && !takes_unpacked(f_))
      w_ih_ = arena.take<T>(input_blocks_ * kLanes * G * seq_.H);
    if (wants_weights() && !by_unit_.weights)  // those of one row lie as the row itself
      columns_ = rows == 1 ? dgates_ : arena.take<T>(Columns<T>::size(rows) * D * blocks_);
    product_ = arena.take<T>(seq_.B * width_);
    dh_ = arena.take<T>(seq_.B * width_);
    dc_ = S == 2 ? arena.take<T>(seq_.B * width_) : nullptr;
    row_list_ = arena.take<const T*>(rows);
    dx_ = a.dx.present ? arena.take<T>(rows * input_blocks_ * kLanes) : nullptr;
    if (a.dw_ih.present && !by_unit_.weights)
      x_packed_ = arena.take<T>(rows * input_blocks_ * kLanes);
    if (a.dw_hh.present && !by_unit_.weights) {
      h_packed_ = arena.take<T>(rows * width_);
      if (E > 0) {
        operands_ = arena.take<T>(rows * width_);
        operand_packed_ = arena.take<T>(rows * width_);
      }
    }
    bias_width_ = width_;
    if constexpr (kUnit) {
      if (by_unit_.weights) bias_width_ = UnitWeightProduct<Unit>::padded_units(seq_.H);
    }
    db_ = wants_bias() ? arena.take<T>(D * bias_width_) : nullptr;
  }

  GateRange gates_x() const { return {0, G, seq_.H, offset_x_}; }
  GateRange gates_h(int first, int last) const { return {first, last, seq_.H, offset_h_}; }

  int64_t parts() const {
    const int64_t weight_bytes = G * seq_.H * seq_.H * int64_t{sizeof(T)};
    if constexpr (kUnit) {
      if (by_unit_.recurrence) return parts_of_units<Unit>(threads_, seq_.B, weight_bytes);
    }
    return hidden_parts(threads_, seq_.B, weight_bytes);
  }

  bool wants_bias() const { return a_.db_ih.present || a_.db_hh.present; }
  bool wants_weights() const { return a_.dw_ih.present || a_.dw_hh.present || wants_bias(); }

  // ---------------------------------------------------------------- the chunks

  void run_chunks() {
    start();
    const int64_t steps = seq_.B > 0 ? seq_.length[0] : 0;
    if (steps == 0) {
      clear(a_.dw_ih, seq_.I);
      clear(a_.dw_hh, seq_.H);
    }
    for (int64_t end = steps; end > 0; end -= smaller(chunk_, end)) {
      const int64_t begin = larger(0, end - chunk_);
      base_[0] = 0;
      for (int64_t s = begin; s < end; ++s)
        base_[s - begin + 1] = base_[s - begin] + seq_.active(0, seq_.B, s);
      rows_ = base_[end - begin];
      if (parts_ > 1) {
        Team::clear(counters_, parts_);
        parallel_for(threads_, parts_, [&](int64_t member) {
          recurrence(0, seq_.B, begin, end, Team(counters_, parts_, member));
        });
      } else {
        // who is called for this is there for what follows
        const int threads = threads_for(threads_, 2 * rows_ * G * seq_.H * (seq_.H + seq_.I));
        parallel_for(threads, ranges_, [&](int64_t i) {
          recurrence(first_[i], first_[i + 1], begin, end, Team(nullptr, 1, 0));
        });
      }
      if (a_.dx.present) input_gradient(begin);
      weight_gradients(begin, end, end == steps);
    }
    const int threads = threads_for(threads_, seq_.B * G * seq_.H * seq_.H);
    parallel_for(threads, ranges_, [&](int64_t i) { initial_state(first_[i], first_[i + 1]); });
    if (wants_bias()) {
      store_bias(a_.db_ih, Cell::slot_x);
      store_bias(a_.db_hh, Cell::slot_h);
    }
  }

  void start() {
    const int64_t H = seq_.H;
    seq_.split(ranges_, first_);
    if (db_) copy_or_zero<T>(db_, nullptr, D * bias_width_);
    if constexpr (kUnit) pack_for_unit();
    if (!by_unit_.recurrence) {
      copy_or_zero<T>(zeros_, nullptr, dgates_width_);
      if (w_hh_) pack_transposed(threads_, f_.w_hh, H, G * H, w_hh_);
    }
    if (w_ih_) pack_transposed(threads_, f_.w_ih, seq_.I, G * H, w_ih_);
    for (int64_t r = 0; r < seq_.B; ++r) {
      const int64_t b = seq_.batch[r];
      load_state(a_.dh_n, b, dh_ + r * width_);
      if (S == 2) load_state(a_.dc_n, b, dc_ + r * width_);
      if (a_.dx.present) {
        for (int64_t t = seq_.length[r]; t < seq_.room(r); ++t)
          copy_or_zero<T>(row_of<T>(a_.dx, t, b), nullptr, seq_.I);
      }
    }
  }

  void clear(const Tensor& dw, int64_t columns) const {
    if (dw.present) copy_or_zero<T>(static_cast<T*>(dw.data), nullptr, G * seq_.H * columns);
  }

  void load_state(const Tensor& state, int64_t b, T* panel) const {
    copy_or_zero<T>(panel, nullptr, width_);
    if (state.present) copy_or_zero<T>(panel, row_of<T>(state, b), seq_.H);
  }

  // W^T of `units` columns
  static Weights<T> transposed(const T* packed, const Tensor& w, int64_t units) {
    return {packed, static_cast<const T*>(w.data), w.stride[1], w.stride[0], 0, units};
  }
  Weights<T> transposed_w_ih() const { return transposed(w_ih_, f_.w_ih, seq_.I); }
  Weights<T> transposed_w_hh() const { return transposed(w_hh_, f_.w_hh, seq_.H); }

  // ---------------------------------------------------------------- 1. recurrence

  T* dgates_row(int64_t s, int64_t row, int64_t begin) const {
    return dgates_ + (base_[s - begin] + row) * dgates_width_;
  }

  Columns<T> columns() const { return {columns_, rows_}; }

  // Where the gradients of one row's step go, found once: the compiler cannot know that no store
  // changes it.
  struct GradientRow {
    T *dgates, *columns;
    int64_t slot_stride, slot_of_columns, block_of_columns;
    UnitGradients<Unit> gradients;

    void store(int d, int64_t j, V value) const {
      value.store(dgates + d * slot_stride + j * kLanes);
      if (columns) value.store(columns + d * slot_of_columns + j * block_of_columns);
    }

    // blocks j, ..., j even where there are two
    template <int N>
    void store(int d, int64_t j, const Bundle<V, N>& values) const {
      if constexpr (kUnit) {
        if (gradients.at) gradients.store(d, j, values.v[0], N == 2 ? values.v[N - 1] : V::set(0));
        if (!dgates) return;
      }
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) store(d, j + i, values.v[i]);
    }
  };

  GradientRow gradient_row(int64_t s, int64_t row, int64_t begin) const {
    const int64_t block = columns().block_stride, at = base_[s - begin] + row;
    return {dgates_ ? dgates_row(s, row, begin) : nullptr,
            columns_ && columns_ != dgates_ ? columns().place(0, at) : nullptr,
            width_,
            blocks_ * block,
            block,
            kUnit && gradients_ ? gradients().from(at) : UnitGradients<Unit>()};
  }

  // the gate gradients of step s + 1, which flow through W_hh into step s; zeros where nothing
  // flows
  const T* incoming(int64_t s, int64_t row, int64_t begin, int64_t end) const {
    if (s + 1 >= seq_.length[row] || seq_.resets(row, s + 1)) return zeros_;
    return s + 1 < end ? dgates_row(s + 1, row, begin) : carry_ + row * dgates_width_;
  }

  // Gates whose left factor is h' itself: all, or the early ones of a cell with two products.
  static constexpr int kDirect = E > 0 ? E : G;

  // product_[row] = W_hh^T (gate gradients of step s + 1), the direct gates
  void incoming_product(int64_t first, int64_t rows, int64_t s, int64_t begin, int64_t end,
                        const BlockRange& range) const {
    if constexpr (kUnit) {
      if (by_unit_.recurrence) return incoming_of_unit(first, rows, s, begin, end, range);
    }
    const auto left = [&](int64_t r) { return incoming(s, first + r, begin, end); };
    transposed_product(left, rows, gates_h(0, kDirect), G, transposed_w_hh(), zeros_, range, false,
                       product_ + first * width_, width_);
  }

  // Steps [begin, end) of rows [first, last), backwards; every member of the team comes here.
  void recurrence(int64_t first, int64_t last, int64_t begin, int64_t end, Team team) {
    for (int64_t s = smaller(end, last > first ? seq_.length[first] : 0) - 1; s >= begin; --s) {
      const int64_t rows = seq_.active(first, last, s);
      team.each_part([&](int64_t part) {
        const BlockRange range(blocks_, kGrain<1>, team, part);
        incoming_product(first, rows, s, begin, end, range);
        for (int64_t r = first; r < first + rows; ++r) cell_backward(r, s, begin, range);
        if constexpr (E == 0) finish_step(first, rows, s, begin, range);
      });
      if constexpr (E > 0) {
        team.each_part([&](int64_t part) {
          const BlockRange range(blocks_, kGrain<1>, team, part);
          recurrence_early(first, rows, s, begin, range);
          finish_step(first, rows, s, begin, range);
        });
      }
    }
  }

  // Nothing flows on from a step before which the state was reset; the first step of the chunk is
  // what the chunk before it, which comes next, begins from.
  void finish_step(int64_t first, int64_t rows, int64_t s, int64_t begin, const BlockRange& range) {
    const int64_t at = range.first * kLanes, units = (range.last - range.first) * kLanes;
    for (int64_t r = first; r < first + rows; ++r) {
      if (seq_.resets(r, s)) {
        copy_or_zero<T>(dh_ + r * width_ + at, nullptr, units);
        if (S == 2) copy_or_zero<T>(dc_ + r * width_ + at, nullptr, units);
      }
      if (s != begin) continue;
      if constexpr (kUnit) {
        if (by_unit_.recurrence) {
          gradients().from(base_[0] + r).copy(D, range, carry_gradients().from(r));
          continue;
        }
      }
      for (int d = 0; d < D; ++d) {
        copy_or_zero(carry_ + r * dgates_width_ + d * width_ + at,
                     dgates_row(s, r, begin) + d * width_ + at, units);
      }
    }
  }

  void cell_backward(int64_t row, int64_t s, int64_t begin, const BlockRange& range) {
    const int64_t t = seq_.time(row, s), b = seq_.batch[row], H = seq_.H;
    const bool masked = seq_.masked(row, s);
    const T* product = product_ + row * width_;
    const T* dy = a_.dy.present ? row_of<const T>(a_.dy, t, b) : nullptr;
    const T* h = row_of<const T>(f_.y, t, b);
    const T* c = S == 2 ? row_of<const T>(f_.c, t, b) : nullptr;
    const T* reserve = R > 0 ? row_of<const T>(f_.reserve, t, b) : nullptr;
    const T* h_prev = seq_.previous<T>(f_.y, f_.h0, row, s);
    const T* c_prev = S == 2 ? seq_.previous<T>(f_.c, f_.c0, row, s) : nullptr;
    T* dh_row = dh_ + row * width_;
    T* dc_row = S == 2 ? dc_ + row * width_ : nullptr;
    const GradientRow to = gradient_row(s, row, begin);
    const auto blocks = [&]<int N>(int64_t j) {
      using W = Bundle<V, N>;
      const auto load = [&](const T* panel) {
        return W::of([&](int i) { return V::load(panel + (j + i) * kLanes); });
      };
      const auto load_row = [&](const T* row) {
        return W::of([&](int i) { return load_block(row, j + i, H); });
      };
      const W zero = W::set(0);
      W prev[2], curr[2], saved[R > 0 ? R : 1], dcurr[2], gradients[D], dprev[2];
      dcurr[0] = load(product) + load(dh_row);
      if (dy) dcurr[0] = dcurr[0] + load_row(dy);
      if (S == 2) dcurr[1] = load(dc_row);
      if (masked) {
        for (int d = 0; d < D; ++d) gradients[d] = zero;
        dprev[0] = dcurr[0];
        if (S == 2) dprev[1] = dcurr[1];
      } else {
        prev[0] = h_prev ? load_row(h_prev) : zero;
        curr[0] = load_row(h);
        if (S == 2) {
          prev[1] = c_prev ? load_row(c_prev) : zero;
          curr[1] = load_row(c);
        }
#pragma GCC unroll 4
        for (int k = 0; k < R; ++k) saved[k] = load_row(reserve + k * H);
        C<W>::backward(prev, curr, saved, dcurr, gradients, dprev);
      }
#pragma GCC unroll 4
      for (int d = 0; d < D; ++d) to.store(d, j, gradients[d]);
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) {
        dprev[0].v[i].store(dh_row + (j + i) * kLanes);
        if (S == 2) dprev[1].v[i].store(dc_row + (j + i) * kLanes);
      }
    };
    int64_t j = range.first;
    for (; j + 2 <= range.last; j += 2) blocks.template operator()<2>(j);
    if (j < range.last) blocks.template operator()<1>(j);
  }

  // the second product of a cell whose late gates act on an operand that the early ones scaled
  void recurrence_early(int64_t first, int64_t rows, int64_t s, int64_t begin,
                        const BlockRange& range) {
    const auto left = [&](int64_t r) { return dgates_row(s, first + r, begin); };
    transposed_product(left, rows, gates_h(E, G), G, transposed_w_hh(), kNone, range, false,
                       product_ + first * width_, width_);
    for (int64_t r = first; r < first + rows; ++r) {
      if (!seq_.masked(r, s)) early_backward(r, s, begin, range);
    }
  }

  void early_backward(int64_t row, int64_t s, int64_t begin, const BlockRange& range) {
    const int64_t H = seq_.H;
    const T* product = product_ + row * width_;
    const T* reserve = row_of<const T>(f_.reserve, seq_.time(row, s), seq_.batch[row]);
    const T* h_prev = seq_.previous<T>(f_.y, f_.h0, row, s);
    const T* dgates = dgates_row(s, row, begin);
    const GradientRow to = gradient_row(s, row, begin);
    for (int64_t j = range.first; j < range.last; ++j) {
      V saved[R > 0 ? R : 1], gradients[D], dprev;
      const V prev = h_prev ? load_block(h_prev, j, H) : V::set(0);
      for (int i = 0; i < R; ++i) saved[i] = load_block(reserve + i * H, j, H);
      for (int d = 0; d < D; ++d) gradients[d] = V::load(dgates + d * width_ + j * kLanes);
      dprev = V::load(dh_ + row * width_ + j * kLanes);
      if constexpr (E > 0)
        Cell::backward_early(&prev, saved, V::load(product + j * kLanes), gradients, &dprev);
      // the early gates' alone: other parts still read the late ones of this row
      for (int g = 0; g < E; ++g) to.store(Cell::slot_h(g), j, gradients[Cell::slot_h(g)]);
      dprev.store(dh_ + row * width_ + j * kLanes);
    }
  }

  void initial_state(int64_t first, int64_t last) {
    if (a_.dh0.present) {
      incoming_product(first, last - first, -1, 0, 0, {0, blocks_});
      for (int64_t r = first; r < last; ++r) {
        T* dh0 = row_of<T>(a_.dh0, seq_.batch[r]);
        for (int64_t j = 0; j < blocks_; ++j) {
          const int64_t at = r * width_ + j * kLanes;
          store_block(dh0, j, seq_.H, V::load(product_ + at) + V::load(dh_ + at));
        }
      }
    }
    if (S == 2 && a_.dc0.present) {
      for (int64_t r = first; r < last; ++r) {
        copy_or_zero(row_of<T>(a_.dc0, seq_.batch[r]), dc_ + r * width_, seq_.H);
      }
    }
  }

  // ---------------------------------------------------------------- 2. dx

  void input_gradient(int64_t begin) {
    const int64_t count = rows_;
    const int threads = threads_for(threads_, count * G * seq_.H * seq_.I);
    const int64_t tasks = threads == 1 ? 1 : smaller(count, 4 * threads);
    parallel_for(threads, tasks, [&](int64_t task) {
      const int64_t first = count * task / tasks, last = count * (task + 1) / tasks;
      T* to = dx_ + first * input_blocks_ * kLanes;
      if (by_unit_.inputs) {
        if constexpr (kUnit) {
          transposed_by_unit(gradients().from(first), last - first, G, slot_x_, w_ih_of_unit_,
                             {0, input_blocks_}, to, input_blocks_ * kLanes);
        }
      } else {
        const auto left = [&](int64_t r) { return dgates_ + (first + r) * dgates_width_; };
        transposed_product(left, last - first, gates_x(), G, transposed_w_ih(), kNone,
                           {0, input_blocks_}, false, to, input_blocks_ * kLanes);
      }
      int64_t s = begin;
      for (int64_t i = first; i < last; ++i) {
        while (base_[s - begin + 1] <= i) ++s;
        const int64_t r = i - base_[s - begin];
        copy_or_zero(row_of<T>(a_.dx, seq_.time(r, s), seq_.batch[r]),
                     seq_.masked(r, s) ? nullptr : dx_ + i * input_blocks_ * kLanes, seq_.I);
      }
    });
  }

  // ---------------------------------------------------------------- 3. dw and db

  // The first chunk sets dw, the others add to it.
  void weight_gradients(int64_t begin, int64_t end, bool is_first) {
    const int64_t count = rows_;
    if constexpr (kUnit) {
      if (by_unit_.weights) return weights_of_unit(begin, end, is_first);
    }
    if (a_.dw_ih.present) {
      list_rows(begin, end, [&](int64_t r, int64_t s) {
        return row_of<const T>(f_.x, seq_.time(r, s), seq_.batch[r]);
      });
      weight_gradient(a_.dw_ih, is_first, seq_.I, x_packed_, gates_x());
    }
    if (a_.dw_hh.present) {
      list_rows(begin, end,
                [&](int64_t r, int64_t s) { return seq_.previous<T>(f_.y, f_.h0, r, s); });
      weight_gradient(a_.dw_hh, is_first, seq_.H, h_packed_, gates_h(0, kDirect));
      if constexpr (E > 0) {
        list_rows(begin, end, [&](int64_t r, int64_t s) { return operand_row(r, s, begin); });
        weight_gradient(a_.dw_hh, is_first, seq_.H, operand_packed_, gates_h(E, G));
      }
    }
    if (db_) {
      parallel_for(threads_for(threads_, count * D * width_), D * blocks_, [&](int64_t i) {
        (V::load(db_ + i * kLanes) + columns().sum(i, count)).store(db_ + i * kLanes);
      });
    }
  }

  // row_list_[k] = row(r, s) for the k-th row of the chunk, null (zeros) for a masked one: x there
  // may be anything
  template <class Row>
  void list_rows(int64_t begin, int64_t end, const Row& row) {
    int64_t index = 0;
    for (int64_t s = begin; s < end; ++s) {
      for (int64_t r = 0; r < base_[s - begin + 1] - base_[s - begin]; ++r) {
        row_list_[index++] = seq_.masked(r, s) ? nullptr : row(r, s);
      }
    }
  }

  // r h', the left factor of the late gates, made again from the reserve
  const T* operand_row(int64_t row, int64_t s, int64_t begin) {
    const T* h_prev = seq_.previous<T>(f_.y, f_.h0, row, s);
    if (!h_prev) return nullptr;
    const T* reset_gate = row_of<const T>(f_.reserve, seq_.time(row, s), seq_.batch[row]);
    T* operand = operands_ + (base_[s - begin] + row) * width_;
    for (int64_t j = 0; j < blocks_; ++j) {
      (load_block(reset_gate, j, seq_.H) * load_block(h_prev, j, seq_.H))
          .store(operand + j * kLanes);
    }
    return operand;
  }

  // of the rows of row_list_
  void weight_gradient(const Tensor& dw, bool sets, int64_t width, T* packed,
                       const GateRange& gates) const {
    pack_all_rows(threads_, [&](int64_t k) { return row_list_[k]; }, rows_, width, packed);
    weight_product(threads_, columns(), gates, rows_, packed, width, sets,
                   static_cast<T*>(dw.data));
  }

  // ---------------------------------------------------------------- by the matrix unit

  UnitGradients<Unit> gradients() const { return {gradients_, seq_.H, rows_}; }
  UnitGradients<Unit> carry_gradients() const { return {carry_gradients_, seq_.H, seq_.B}; }

  void take_for_unit(Arena& arena, int64_t rows) {
    if (!by_unit_.weights) return;
    const int64_t groups = Unit::groups_of(seq_.H), row_groups = Unit::groups_of(rows);
    const auto take = [&](int64_t columns, int64_t k_groups) {
      return arena.take<uint32_t>(right_factor<Unit>(columns, k_groups));
    };
    gradients_ = UnitGradients<Unit>::take(arena, D, seq_.H, rows);
    if (by_unit_.recurrence) {
      carry_gradients_ = UnitGradients<Unit>::take(arena, D, seq_.H, seq_.B);
      w_hh_of_unit_ = take(seq_.H, G * groups);
    }
    if (by_unit_.inputs && a_.dx.present) w_ih_of_unit_ = take(seq_.I, G * groups);
    if (wants_weights()) weight_product_ = {arena, threads_, D, seq_.H, rows};
    if (a_.dw_ih.present) x_of_unit_ = take(seq_.I, row_groups);
    if (a_.dw_hh.present) h_of_unit_ = take(seq_.H, row_groups);
  }

  void pack_for_unit() {
    if (w_hh_of_unit_) pack_weights_for_unit<Unit>(threads_, f_.w_hh, G, seq_.H, w_hh_of_unit_);
    if (w_ih_of_unit_) pack_weights_for_unit<Unit>(threads_, f_.w_ih, G, seq_.H, w_ih_of_unit_);
  }

  void incoming_of_unit(int64_t first, int64_t rows, int64_t s, int64_t begin, int64_t end,
                        const BlockRange& range) const {
    const UnitGradients<Unit> left = s + 1 < end ? gradients().from(base_[s + 1 - begin] + first)
                                                 : carry_gradients().from(first);
    const auto stops = [&](int64_t r) { return seq_.resets(first + r, s + 1); };
    incoming_by_unit(left, seq_.active(first, first + rows, s + 1), rows, G, slot_h_, w_hh_of_unit_,
                     range, stops, product_ + first * width_, width_);
  }

  void weights_of_unit(int64_t begin, int64_t end, bool is_first) {
    if (!wants_weights()) return;
    const auto row = [&](int64_t k) { return row_list_[k]; };
    if (a_.dw_ih.present) {
      list_rows(begin, end, [&](int64_t r, int64_t s) {
        return row_of<const T>(f_.x, seq_.time(r, s), seq_.batch[r]);
      });
      pack_rows_for_unit<Unit>(threads_, row, rows_, seq_.I, x_of_unit_);
    }
    if (a_.dw_hh.present) {
      list_rows(begin, end,
                [&](int64_t r, int64_t s) { return seq_.previous<T>(f_.y, f_.h0, r, s); });
      pack_rows_for_unit<Unit>(threads_, row, rows_, seq_.H, h_of_unit_);
    }
    const auto sum = [&](const Tensor& dw, const int* slot, const uint32_t* rows, int64_t columns) {
      return UnitWeights{
          dw.present ? static_cast<T*>(dw.data) : nullptr, G, slot, rows, columns, is_first};
    };
    const UnitWeights weights[] = {sum(a_.dw_ih, slot_x_, x_of_unit_, seq_.I),
                                   sum(a_.dw_hh, slot_h_, h_of_unit_, seq_.H)};
    weight_product_.run(threads_, gradients(), rows_, db_, weights, 2);
  }

  template <class Slot>
  void store_bias(const Tensor& db, const Slot& slot) const {
    if (!db.present) return;
    for (int g = 0; g < G; ++g) {
      copy_or_zero(static_cast<T*>(db.data) + g * seq_.H, db_ + slot(g) * bias_width_, seq_.H);
    }
  }

  const BackwardArgs& a_;
  const ForwardArgs& f_;
  Sequence seq_;
  int threads_;
  int64_t blocks_, input_blocks_, width_;
  int64_t chunk_;
  ByUnit by_unit_;
  int64_t parts_;  // of the hidden units; ranges of the batch
  int ranges_;
  int64_t dgates_width_;
  int64_t offset_x_[G], offset_h_[G];  // where each gate's gradients lie in a row
  int64_t* counters_;
  T *w_hh_ = nullptr, *w_ih_ = nullptr;  // null: taken as they are
  int64_t* first_;
  T* zeros_ = nullptr;
  int64_t* base_;     // [chunk + 1] where the rows of each step of the chunk begin
  int64_t rows_ = 0;  // of the chunk
  T *dgates_ = nullptr, *columns_ = nullptr, *carry_ = nullptr, *product_, *dh_, *dc_;
  const T** row_list_;
  T* dx_;
  T *x_packed_ = nullptr, *h_packed_ = nullptr, *operands_ = nullptr, *operand_packed_ = nullptr;
  int64_t bias_width_;
  T* db_;
  int slot_x_[G], slot_h_[G];
  uint32_t *gradients_ = nullptr, *carry_gradients_ = nullptr, *w_hh_of_unit_ = nullptr,
           *w_ih_of_unit_ = nullptr, *x_of_unit_ = nullptr, *h_of_unit_ = nullptr;
  UnitWeightProduct<Unit> weight_product_;
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
