// Forward over a sequence: one product for gx of all steps, then a kernel a step (two for a cell
// with an early phase). A thread of a step has one unit of TileTraits::kRows batch rows: the sums
// of its gates stay in registers and the cell runs on them there. Every array lies in global
// memory; the end of a kernel is the barrier between two steps.
#pragma once

#include "product.cuh"
#include "scalar.cuh"
#include "sequence.cuh"

namespace fastrnn {
namespace {
namespace cuda {

template <class T>
struct ForwardData {
  Sequence seq;
  const T* w_hh;   // [H, G*H]  transposed: neighbouring threads read neighbouring weights
  const T* b_hh;   // [G*H]
  const T* zeros;  // [H]
  T* gx;           // [T, B, G*H]  the early phase puts its gates in place of theirs
  T* operand;      // [B, H]  left factor of the late gates' product, for a cell with an early phase
  T* reserve;      // [T, B, R*H] or null
  State<T> state[2];  // h, c
};

// The threads of a step: unit `unit` of the batch rows [first, first + kRows)
struct StepTile {
  static constexpr int kRows = TileTraits::kRows;
  int64_t first, unit;

  static int64_t count(const Sequence& seq) { return divide_up(seq.B, kRows) * seq.H; }
  FASTRNN_HD StepTile(const Sequence& seq, int64_t index)
      : first(index / seq.H * kRows), unit(index % seq.H) {}
};

// gh[m][g] = b_hh + rows[m] W_hh^T for the gates [kFirst, kFirst + kCount)
template <int kFirst, int kCount, int kGates, class T>
FASTRNN_HD void recurrent_product(const ForwardData<T>& p, const T* const (&rows)[StepTile::kRows],
                                  int64_t unit, T (&gh)[StepTile::kRows][kCount]) {
  const int64_t H = p.seq.H;
  const T* columns[kCount];
  for (int g = 0; g < kCount; ++g) {
    columns[g] = p.w_hh + (kFirst + g) * H + unit;
    for (int m = 0; m < StepTile::kRows; ++m) gh[m][g] = p.b_hh[(kFirst + g) * H + unit];
  }
  multiply(rows, 1, columns, kGates * H, H, gh);
}

template <template <class> class C, class T>
__global__ void forward_early_kernel(ForwardData<T> p, int64_t s) {
  using V = Vec<T>;
  using Cell = C<V>;
  constexpr int G = Cell::kGates, E = Cell::kEarly;
  const StepTile tile(p.seq, thread_index());
  if (tile.first >= p.seq.B) return;
  const int64_t H = p.seq.H, unit = tile.unit;
  const T* rows[StepTile::kRows];
  for (int m = 0; m < StepTile::kRows; ++m) {
    const int64_t b = tile.first + m;
    rows[m] = p.seq.works(b, s) ? p.seq.state_before(p.state[0], p.zeros, b, s) : p.zeros;
  }
  T gh[StepTile::kRows][E];
  recurrent_product<0, E, G>(p, rows, unit, gh);
  for (int m = 0; m < StepTile::kRows; ++m) {
    const int64_t b = tile.first + m;
    if (!p.seq.works(b, s)) continue;
    T* gx = p.gx + p.seq.row(b, s) * G * H + unit;
    V x_gates[E], h_gates[E], early[E], operand;
    for (int g = 0; g < E; ++g) {
      x_gates[g] = V::set(gx[g * H]);
      h_gates[g] = V::set(gh[m][g]);
    }
    const V prev = V::set(rows[m][unit]);
    Cell::forward_early(x_gates, h_gates, &prev, early, operand);
    for (int g = 0; g < E; ++g) gx[g * H] = early[g].v;
    p.operand[b * H + unit] = operand.v;
  }
}

template <template <class> class C, class T>
__global__ void forward_step_kernel(ForwardData<T> p, int64_t s) {
  using V = Vec<T>;
  using Cell = C<V>;
  constexpr int G = Cell::kGates, S = Cell::kStates, R = Cell::kReserve, E = Cell::kEarly,
                L = G - E;
  const StepTile tile(p.seq, thread_index());
  if (tile.first >= p.seq.B) return;
  const int64_t H = p.seq.H, unit = tile.unit;
  const T* rows[StepTile::kRows];
  for (int m = 0; m < StepTile::kRows; ++m) {
    const int64_t b = tile.first + m;
    if (!p.seq.works(b, s)) {
      rows[m] = p.zeros;
    } else {
      rows[m] = E > 0 ? p.operand + b * H : p.seq.state_before(p.state[0], p.zeros, b, s);
    }
  }
  T gh[StepTile::kRows][L];
  recurrent_product<E, L, G>(p, rows, unit, gh);
#pragma unroll  // or gh, indexed by m, would lie in local memory
  for (int m = 0; m < StepTile::kRows; ++m) {
    const int64_t b = tile.first + m;
    if (!p.seq.valid(b, s)) continue;
    const int64_t row = p.seq.row(b, s);
    V x_gates[G], h_gates[L], prev[S], curr[S], saved[R > 0 ? R : 1];
    for (int i = 0; i < S; ++i)
      prev[i] = V::set(p.seq.state_before(p.state[i], p.zeros, b, s)[unit]);
    if (p.seq.masked(b, s)) {
      for (int i = 0; i < S; ++i) p.state[i].steps[row * H + unit] = prev[i].v;
      continue;
    }
    for (int g = 0; g < G; ++g) x_gates[g] = V::set(p.gx[(row * G + g) * H + unit]);
    for (int g = 0; g < L; ++g) h_gates[g] = V::set(gh[m][g]);
    Cell::forward(x_gates, h_gates, prev, curr, saved);
    for (int i = 0; i < S; ++i) p.state[i].steps[row * H + unit] = curr[i].v;
    for (int i = 0; p.reserve && i < R; ++i) p.reserve[(row * R + i) * H + unit] = saved[i].v;
  }
}

// last[b] = the state after the last valid step of row b
template <class T>
__global__ void last_state_kernel(Sequence seq, State<T> state, T* last) {
  const int64_t b = thread_index() / seq.H, unit = thread_index() % seq.H;
  if (b < seq.B) last[b * seq.H + unit] = seq.state_after(state, b, seq.length[b] - 1)[unit];
}

template <class T>
DeviceArray<T> input_product(const ForwardArgs& a, const Sequence& seq, int64_t gate_units) {
  const DeviceArray<T> x = upload<T>(a.x);
  const DeviceArray<T> w_ih = upload<T>(transposed(a.w_ih));
  const DeviceArray<T> b_ih = upload<T>(a.b_ih);
  DeviceArray<T> gx(seq.T * seq.B * gate_units);
  launch_product<T>({seq.T * seq.B,
                     gate_units,
                     seq.I,
                     {x.data(), seq.I, 1},
                     {w_ih.data(), gate_units, 1},
                     {b_ih.data(), 0, 1},
                     {gx.data(), gate_units, 1}});
  return gx;
}

template <template <class> class C, class T>
void run_forward(const ForwardArgs& a, void*) {
  using Cell = C<Vec<T>>;
  constexpr int G = Cell::kGates, S = Cell::kStates, E = Cell::kEarly;
  const SequenceOnDevice sequence(a);
  const Sequence& seq = sequence.view;
  const int64_t H = seq.H, units = seq.B * H;
  const DeviceArray<T> gx = input_product<T>(a, seq, G * H);
  const DeviceArray<T> w_hh = upload<T>(transposed(a.w_hh));
  const DeviceArray<T> b_hh = upload_or_zeros<T>(a.b_hh, G * H);
  const DeviceArray<T> zero_row = zeros<T>(H);
  const DeviceArray<T> operand(E > 0 ? units : 0);
  const DeviceArray<T> reserve(count_of(a.reserve));
  const Tensor* initial_views[] = {&a.h0, &a.c0};
  const Tensor* step_views[] = {&a.y, &a.c};
  const Tensor* last_views[] = {&a.h_n, &a.c_n};
  DeviceArray<T> initial[S], steps[S];
  ForwardData<T> p = {seq,       w_hh.data(),    b_hh.data(),    zero_row.data(),
                      gx.data(), operand.data(), reserve.data(), {}};
  for (int i = 0; i < S; ++i) {
    initial[i] = upload_or_zeros<T>(*initial_views[i], units);
    steps[i] = zeros<T>(seq.T * units);  // and so they stay beyond a row's length
    p.state[i] = {steps[i].data(), initial[i].data()};
  }
  for (int64_t s = 0; s < sequence.steps; ++s) {
    if constexpr (E > 0) launch(forward_early_kernel<C, T>, StepTile::count(seq), p, s);
    launch(forward_step_kernel<C, T>, StepTile::count(seq), p, s);
  }
  download(reserve, a.reserve);
  for (int i = 0; i < S; ++i) {
    const DeviceArray<T> last(units);
    launch(last_state_kernel<T>, units, seq, p.state[i], last.data());
    download(steps[i], *step_views[i]);
    download(last, *last_views[i]);
  }
}

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
