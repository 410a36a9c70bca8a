// Back-propagation through time (Werbos 1990):
//   1. a kernel a step, last to first: dh = W_hh^T dgates(s + 1) + dy, the cell's backward, the
//   gate gradients to
//      dgates [T, B, D*H] (D slots); a second kernel for a cell with an early phase
//   2. dx = dgates W_ih, dw_ih = dgates^T x, dw_hh = dgates^T h', db = sum of dgates, over all
//   steps at once
// Where no step works (beyond a row's length, masked) dgates, and the rows that multiply it, are
// zeros. Threads and tiles as in forward.cuh. Every sum has one order; there are no atomics.
#pragma once

#include "forward.cuh"

namespace fastrnn {
namespace {
namespace cuda {

template <class T>
struct BackwardData {
  Sequence seq;
  const T* w_hh;      // [G*H, H]
  const T* zeros;     // [D*H]
  const T* dy;        // [T, B, H] or null
  const T* reserve;   // [T, B, R*H]
  State<T> state[2];  // h, c
  T* dgates;          // [T, B, D*H]
  T* dstate[2];  // [B, H]  gradient of the state after the current step, but for what W_hh brings
};

// sum[m] += W_hh^T dgates for the gates [first_gate, last_gate); rows[m] holds the D*H gate
// gradients of a batch row
template <class Cell, class T>
FASTRNN_HD void recurrent_gradient(const BackwardData<T>& p,
                                   const T* const (&rows)[StepTile::kRows], int first_gate,
                                   int last_gate, int64_t unit, T (&sum)[StepTile::kRows][1]) {
  const int64_t H = p.seq.H;
  for (int g = first_gate; g < last_gate; ++g) {
    const T* gate_rows[StepTile::kRows];
    for (int m = 0; m < StepTile::kRows; ++m) gate_rows[m] = rows[m] + Cell::slot_h(g) * H;
    const T* column[1] = {p.w_hh + g * H * H + unit};
    multiply(gate_rows, 1, column, H, H, sum);
  }
}

// Gates whose left factor is h' itself: all, or the early ones of a cell with an early phase.
template <class Cell>
constexpr int kDirect = Cell::kEarly > 0 ? Cell::kEarly : Cell::kGates;

// what step s + 1 sends back through W_hh
template <class Cell, class T>
FASTRNN_HD void incoming_gradient(const BackwardData<T>& p, const StepTile& tile, int64_t s,
                                  T (&sum)[StepTile::kRows][1]) {
  const T* rows[StepTile::kRows];
  for (int m = 0; m < StepTile::kRows; ++m) {
    const int64_t b = tile.first + m;
    const bool flows = p.seq.works(b, s + 1) && !p.seq.resets(b, s + 1);
    rows[m] = flows ? p.dgates + p.seq.row(b, s + 1) * Cell::kSlots * p.seq.H : p.zeros;
    sum[m][0] = T(0);
  }
  recurrent_gradient<Cell>(p, rows, 0, kDirect<Cell>, tile.unit, sum);
}

template <template <class> class C, class T>
__global__ void backward_step_kernel(BackwardData<T> p, int64_t s) {
  using V = Vec<T>;
  using Cell = C<V>;
  constexpr int S = Cell::kStates, R = Cell::kReserve, D = Cell::kSlots;
  const StepTile tile(p.seq, thread_index());
  if (tile.first >= p.seq.B) return;
  T product[StepTile::kRows][1];
  incoming_gradient<Cell>(p, tile, s, product);
  const int64_t H = p.seq.H, unit = tile.unit;
  for (int m = 0; m < StepTile::kRows; ++m) {
    const int64_t b = tile.first + m;
    if (!p.seq.valid(b, s)) continue;
    const int64_t row = p.seq.row(b, s);
    V prev[S], curr[S], saved[R > 0 ? R : 1], dcurr[S], gradients[D] = {}, dprev[S];
    for (int i = 0; i < S; ++i) dcurr[i] = V::set(p.dstate[i][b * H + unit]);
    dcurr[0] = dcurr[0] + V::set(product[m][0]);
    if (p.dy) dcurr[0] = dcurr[0] + V::set(p.dy[row * H + unit]);
    if (p.seq.masked(b, s)) {
      for (int i = 0; i < S; ++i) dprev[i] = dcurr[i];
    } else {
      for (int i = 0; i < S; ++i) {
        prev[i] = V::set(p.seq.state_before(p.state[i], p.zeros, b, s)[unit]);
        curr[i] = V::set(p.state[i].steps[row * H + unit]);
      }
      for (int i = 0; i < R; ++i) saved[i] = V::set(p.reserve[(row * R + i) * H + unit]);
      Cell::backward(prev, curr, saved, dcurr, gradients, dprev);
      for (int d = 0; d < D; ++d) p.dgates[(row * D + d) * H + unit] = gradients[d].v;
    }
    const bool ends = p.seq.resets(b, s);
    for (int i = 0; i < S; ++i) p.dstate[i][b * H + unit] = ends ? T(0) : dprev[i].v;
  }
}

// the second product of a cell whose late gates act on an operand that the early ones scaled
template <template <class> class C, class T>
__global__ void backward_early_kernel(BackwardData<T> p, int64_t s) {
  using V = Vec<T>;
  using Cell = C<V>;
  constexpr int R = Cell::kReserve, E = Cell::kEarly, D = Cell::kSlots;
  const StepTile tile(p.seq, thread_index());
  if (tile.first >= p.seq.B) return;
  const int64_t H = p.seq.H, unit = tile.unit;
  const T* rows[StepTile::kRows];
  T product[StepTile::kRows][1];
  for (int m = 0; m < StepTile::kRows; ++m) {
    const int64_t b = tile.first + m;
    rows[m] = p.seq.works(b, s) ? p.dgates + p.seq.row(b, s) * D * H : p.zeros;
    product[m][0] = T(0);
  }
  recurrent_gradient<Cell>(p, rows, E, Cell::kGates, unit, product);
  for (int m = 0; m < StepTile::kRows; ++m) {
    const int64_t b = tile.first + m;
    if (!p.seq.works(b, s)) continue;
    const int64_t row = p.seq.row(b, s);
    T* dgates = p.dgates + row * D * H + unit;
    T& dh = p.dstate[0][b * H + unit];
    V saved[R], gradients[D];
    const V prev = V::set(p.seq.state_before(p.state[0], p.zeros, b, s)[unit]);
    V dprev = V::set(dh);
    for (int i = 0; i < R; ++i) saved[i] = V::set(p.reserve[(row * R + i) * H + unit]);
    for (int g = 0; g < E; ++g) gradients[Cell::slot_h(g)] = V::set(dgates[Cell::slot_h(g) * H]);
    Cell::backward_early(&prev, saved, V::set(product[m][0]), gradients, &dprev);
    // the early slots alone: other threads are reading the late ones
    for (int g = 0; g < E; ++g) dgates[Cell::slot_h(g) * H] = gradients[Cell::slot_h(g)].v;
    dh = p.seq.resets(b, s) ? T(0) : dprev.v;
  }
}

// dstate[0] becomes the gradient of h0
template <template <class> class C, class T>
__global__ void initial_state_kernel(BackwardData<T> p) {
  const StepTile tile(p.seq, thread_index());
  if (tile.first >= p.seq.B) return;
  T product[StepTile::kRows][1];
  incoming_gradient<C<Vec<T>>>(p, tile, -1, product);
  for (int m = 0; m < StepTile::kRows; ++m) {
    if (tile.first + m < p.seq.B)
      p.dstate[0][(tile.first + m) * p.seq.H + tile.unit] += product[m][0];
  }
}

// left [T, B, H] = h', or for kLate r h' (r is the first value of the reserve); zeros where no step
// works
template <template <class> class C, bool kLate, class T>
__global__ void left_factor_kernel(BackwardData<T> p, T* left) {
  const int64_t H = p.seq.H, unit = thread_index() % H, row = thread_index() / H;
  if (row >= p.seq.T * p.seq.B) return;
  const int64_t b = row % p.seq.B, s = p.seq.time(b, row / p.seq.B);
  T value = T(0);
  if (p.seq.works(b, s)) {
    value = p.seq.state_before(p.state[0], p.zeros, b, s)[unit];
    if (kLate) value *= p.reserve[row * C<Vec<T>>::kReserve * H + unit];
  }
  left[row * H + unit] = value;
}

// values [T, B, width]: zeros where no step works
template <class T>
__global__ void clear_idle_kernel(Sequence seq, int64_t width, T* values) {
  const int64_t row = thread_index() / width;
  if (row >= seq.T * seq.B) return;
  const int64_t b = row % seq.B;
  if (!seq.works(b, seq.time(b, row / seq.B))) values[thread_index()] = T(0);
}

// sums[n] = sum over rows of values[row * stride + n]
template <class T>
__global__ void column_sum_kernel(int64_t rows, int64_t columns, const T* values, int64_t stride,
                                  T* sums) {
  const int64_t n = thread_index();
  if (n >= columns) return;
  T sum = T(0);
  for (int64_t row = 0; row < rows; ++row) sum += values[row * stride + n];
  sums[n] = sum;
}

template <template <class> class C, class T>
class Backward {
 public:
  static void run(const BackwardArgs& a, void*) {
    Backward backward(a);
    backward.recurrence();
    backward.input_gradient();
    backward.weight_gradients();
    backward.template bias_gradient<Cell::slot_x>(a.db_ih);
    backward.template bias_gradient<Cell::slot_h>(a.db_hh);
  }

 private:
  using Cell = C<Vec<T>>;
  static constexpr int G = Cell::kGates, S = Cell::kStates, R = Cell::kReserve, E = Cell::kEarly,
                       D = Cell::kSlots;

  explicit Backward(const BackwardArgs& a)
      : a_(a),
        f_(a.forward),
        sequence_(a.forward),
        seq_(sequence_.view),
        rows_(seq_.T * seq_.B),
        w_hh_(upload<T>(f_.w_hh)),
        zeros_(zeros<T>(D * seq_.H)),
        dy_(upload<T>(a.dy)),
        reserve_(R > 0 ? upload<T>(f_.reserve) : DeviceArray<T>()),
        dgates_(zeros<T>(rows_ * D * seq_.H)),
        p_{seq_, w_hh_.data(), zeros_.data(), dy_.data(), reserve_.data(), {}, dgates_.data(), {}} {
    const Tensor* initial_views[] = {&f_.h0, &f_.c0};
    const Tensor* step_views[] = {&f_.y, &f_.c};
    const Tensor* last_gradient_views[] = {&a.dh_n, &a.dc_n};
    for (int i = 0; i < S; ++i) {
      initial_[i] = upload_or_zeros<T>(*initial_views[i], seq_.B * seq_.H);
      steps_[i] = upload<T>(*step_views[i]);
      dstate_[i] = upload_or_zeros<T>(*last_gradient_views[i], seq_.B * seq_.H);
      p_.state[i] = {steps_[i].data(), initial_[i].data()};
      p_.dstate[i] = dstate_[i].data();
    }
  }

  void recurrence() {
    for (int64_t s = sequence_.steps - 1; s >= 0; --s) {
      launch(backward_step_kernel<C, T>, StepTile::count(seq_), p_, s);
      if constexpr (E > 0) launch(backward_early_kernel<C, T>, StepTile::count(seq_), p_, s);
    }
    launch(initial_state_kernel<C, T>, StepTile::count(seq_), p_);
    const Tensor* views[] = {&a_.dh0, &a_.dc0};
    for (int i = 0; i < S; ++i) download(dstate_[i], *views[i]);
  }

  void input_gradient() {
    if (!a_.dx.present) return;
    const int64_t H = seq_.H, I = seq_.I;
    const DeviceArray<T> w_ih = upload<T>(f_.w_ih);
    const DeviceArray<T> dx(rows_ * I);
    for (int g = 0; g < G; ++g) {
      launch_product<T>({rows_,
                         I,
                         H,
                         {gate_gradients(Cell::slot_x(g)), D * H, 1},
                         {w_ih.data() + g * H * I, I, 1},
                         {g > 0 ? dx.data() : nullptr, I, 1},
                         {dx.data(), I, 1}});
    }
    launch(clear_idle_kernel<T>, rows_ * I, seq_, I,
           dx.data());  // weights that are not finite gave NaN there
    download(dx, a_.dx);
  }

  void weight_gradients() {
    const int64_t H = seq_.H, I = seq_.I;
    if (a_.dw_ih.present) {
      const DeviceArray<T> x = upload<T>(f_.x);
      launch(clear_idle_kernel<T>, rows_ * I, seq_, I, x.data());  // x may hold anything there
      const DeviceArray<T> dw(G * H * I);
      weight_products<Cell::slot_x>(0, G, x.data(), I, dw.data());
      download(dw, a_.dw_ih);
    }
    if (a_.dw_hh.present) {
      const DeviceArray<T> left(rows_ * H);
      const DeviceArray<T> dw(G * H * H);
      launch(left_factor_kernel<C, false, T>, rows_ * H, p_, left.data());
      weight_products<Cell::slot_h>(0, kDirect<Cell>, left.data(), H, dw.data());
      if constexpr (E > 0) {
        launch(left_factor_kernel<C, true, T>, rows_ * H, p_, left.data());
        weight_products<Cell::slot_h>(E, G, left.data(), H, dw.data());
      }
      download(dw, a_.dw_hh);
    }
  }

  // dw [G*H, width] = dgates^T left, for the gates [first_gate, last_gate)
  template <int (*slot)(int)>
  void weight_products(int first_gate, int last_gate, const T* left, int64_t width, T* dw) const {
    const int64_t H = seq_.H;
    for (int g = first_gate; g < last_gate; ++g) {
      launch_product<T>({H,
                         width,
                         rows_,
                         {gate_gradients(slot(g)), 1, D * H},
                         {left, width, 1},
                         {},
                         {dw + g * H * width, width, 1}});
    }
  }

  template <int (*slot)(int)>
  void bias_gradient(const Tensor& view) const {
    if (!view.present) return;
    const DeviceArray<T> db(G * seq_.H);
    for (int g = 0; g < G; ++g) {
      launch(column_sum_kernel<T>, seq_.H, rows_, seq_.H, gate_gradients(slot(g)), D * seq_.H,
             db.data() + g * seq_.H);
    }
    download(db, view);
  }

  const T* gate_gradients(int slot) const { return dgates_.data() + slot * seq_.H; }

  const BackwardArgs& a_;
  const ForwardArgs& f_;
  const SequenceOnDevice sequence_;
  const Sequence& seq_;
  const int64_t rows_;
  const DeviceArray<T> w_hh_, zeros_, dy_, reserve_, dgates_;
  DeviceArray<T> initial_[S], steps_[S], dstate_[S];
  BackwardData<T> p_;
};

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
