// Back-propagation through time (Werbos 1990), last step to first:
//   1. a kernel of one thread per unit of a row: the cell's backward from dh + dy
//   2. dh += dgates W_hh for all rows of the batch
// and both twice for a cell with an early phase; or, by the other path (path.cuh), all of it in one
// kernel. Then over all steps at once dx = dgates W_ih,
// dw_ih = dgates^T x, dw_hh = dgates^T h', db = sum of dgates. Where no step works (beyond a row's
// length, masked) dgates, and the rows that multiply it, are zeros. Every sum has one order; there
// are no atomics.
#pragma once

#include "forward.cuh"
#include "gradients.cuh"

namespace fastrnn {
namespace {
namespace cuda {

template <class T>
struct BackwardData {
  Sequence seq;
  Rows<const T> dy;     // [T, B, H] or null
  Rows<const T> h0, y;  // [B, H] or null, [T, B, H]
  Rows<const Compute<T>> c0, c;
  Rows<const T> reserve;  // [T, B, R*H]
  T* dgates;              // [T, B, D*H]  by slots, in the order of time
  T* dgates_h;            // [B, G*H]  of this step, with respect to gh
  Compute<T>* d_operand;  // [B, H]  gradient of what the late gates' product is of
  Compute<T>* dstate[2];  // [B, H]  running

  FASTRNN_HD Compute<T> h_before(int64_t b, int64_t s, int64_t unit) const {
    return seq.state_before(y, h0, b, s, unit);
  }
  FASTRNN_HD Compute<T> c_before(int64_t b, int64_t s, int64_t unit) const {
    return seq.state_before(c, c0, b, s, unit);
  }
  FASTRNN_HD const T* reserve_at(int64_t b, int64_t s) const {
    return reserve.at(seq.time(b, s), b);
  }
};

template <template <class> class C, class T>
__global__ void backward_cell_kernel(BackwardData<T> p, int64_t s) {
  using V = Vec<Compute<T>>;
  using Cell = C<V>;
  constexpr int G = Cell::kGates, S = Cell::kStates, R = Cell::kReserve, D = Cell::kSlots;
  const int64_t H = p.seq.H;
  const Item at(thread_index(), H);
  if (at.row >= p.seq.B) return;
  const int64_t b = at.row, unit = at.unit, t = p.seq.time(b, s);
  V dgates[D];
  for (int d = 0; d < D; ++d) dgates[d] = V::set(0);
  if (p.seq.valid(b, s)) {
    V dcurr[S];
    for (int i = 0; i < S; ++i) dcurr[i] = V::set(p.dstate[i][thread_index()]);
    if (p.dy) dcurr[0] = dcurr[0] + V::set(computed(p.dy.at(t, b)[unit]));
    V dprev[S];
    for (int i = 0; i < S; ++i) dprev[i] = dcurr[i];
    if (!p.seq.masked(b, s)) {
      V prev[S], curr[S], saved[R > 0 ? R : 1];
      prev[0] = V::set(p.h_before(b, s, unit));
      curr[0] = V::set(computed(p.y.at(t, b)[unit]));
      if constexpr (S > 1) {
        prev[1] = V::set(p.c_before(b, s, unit));
        curr[1] = V::set(p.c.at(t, b)[unit]);
      }
      for (int i = 0; i < R; ++i) saved[i] = V::set(computed(p.reserve.at(t, b)[i * H + unit]));
      Cell::backward(prev, curr, saved, dcurr, dgates, dprev);
    }
    for (int i = 0; i < S; ++i) p.dstate[i][thread_index()] = dprev[i].v;
  }
  for (int d = 0; d < D; ++d)
    p.dgates[((t * p.seq.B + b) * D + d) * H + unit] = stored<T>(dgates[d].v);
  for (int g = 0; g < G; ++g)
    p.dgates_h[(b * G + g) * H + unit] = stored<T>(dgates[Cell::slot_h(g)].v);
}

template <template <class> class C, class T>
__global__ void backward_early_kernel(BackwardData<T> p, int64_t s) {
  using V = Vec<Compute<T>>;
  using Cell = C<V>;
  constexpr int G = Cell::kGates, R = Cell::kReserve, E = Cell::kEarly, D = Cell::kSlots;
  const int64_t H = p.seq.H;
  const Item at(thread_index(), H);
  if (at.row >= p.seq.B || !p.seq.works(at.row, s)) return;
  const int64_t b = at.row, unit = at.unit, t = p.seq.time(b, s);
  T* const dgates = p.dgates + (t * p.seq.B + b) * D * H + unit;
  V saved[R], gradients[D];
  for (int i = 0; i < R; ++i) saved[i] = V::set(computed(p.reserve.at(t, b)[i * H + unit]));
  for (int d = 0; d < D; ++d) gradients[d] = V::set(computed(dgates[d * H]));
  const V prev = V::set(p.h_before(b, s, unit));
  V dprev = V::set(p.dstate[0][thread_index()]);
  Cell::backward_early(&prev, saved, V::set(p.d_operand[thread_index()]), gradients, &dprev);
  p.dstate[0][thread_index()] = dprev.v;
  for (int g = 0; g < E; ++g) {
    const T value = stored<T>(gradients[Cell::slot_h(g)].v);
    dgates[Cell::slot_h(g) * H] = value;
    p.dgates_h[(b * G + g) * H + unit] = value;
  }
}

// to = from, both [B, H]; zeros for null
template <class From, class To>
__global__ void convert_kernel(Sequence seq, Rows<const From> from, Rows<To> to) {
  const Item at(thread_index(), seq.H);
  if (at.row >= seq.B) return;
  to.at(0, at.row)[at.unit] =
      stored<To>(from ? computed(from.at(0, at.row)[at.unit]) : Compute<From>(0));
}

// left [T, B, H] = h', or for kLate r h' (r is the first value of the reserve); zeros where no step
// works
template <template <class> class C, bool kLate, class T>
__global__ void left_factor_kernel(BackwardData<T> p, T* left) {
  const Item at(thread_index(), p.seq.H);
  if (at.row >= p.seq.T * p.seq.B) return;
  const int64_t b = at.row % p.seq.B, s = p.seq.time(b, at.row / p.seq.B);
  Compute<T> value = 0;
  if (p.seq.works(b, s)) {
    value = p.h_before(b, s, at.unit);
    if (kLate) value *= computed(p.reserve_at(b, s)[at.unit]);
  }
  left[thread_index()] = stored<T>(value);
}

template <template <class> class C, class T>
class Backward {
 public:
  // of either path: nothing says that both calls find the same one
  static int64_t workspace(const BackwardArgs& a) {
    Arena steps(nullptr), persistent(nullptr);
    static_cast<void>(Backward(a, false, steps));
    static_cast<void>(Backward(a, true, persistent));
    return std::max(steps.used(), persistent.used());
  }

  static void run(const BackwardArgs& a, void* memory) {
    const Path path(a.forward, Path::Way::kBackward);
    Arena arena(memory);
    Backward(a, path.is_persistent(), arena).run(path);
  }

 private:
  using Value = Compute<T>;
  using Cell = C<Vec<Value>>;
  static constexpr int G = Cell::kGates, S = Cell::kStates, E = Cell::kEarly, D = Cell::kSlots;
  static constexpr int kDirect = E > 0 ? E : G;  // gates whose left factor is h' itself
  static constexpr Slots<Cell> kSlots = {};

  Backward(const BackwardArgs& a, bool persistent, Arena& arena)
      : a_(a),
        stream_(static_cast<cudaStream_t>(a.forward.stream)),
        cublas_(arena),
        lengths_(a.forward, arena),
        seq_(a.forward, lengths_.copy()),
        gradients_(a, seq_, cublas_, G, seq_.H, D * seq_.H, arena,
                   persistent ? divide_up(seq_.B, kPersistentRows) : 0),
        w_hh_(matrix_of<T>(a.forward.w_hh), G * seq_.H, seq_.H, arena, persistent),
        exchange_bytes_(persistent ? Path::backward_exchange(a.forward) : 0),
        left_(reinterpret_cast<T*>(arena.take<char>(
            std::max(seq_.T * seq_.B * seq_.H * int64_t{sizeof(T)}, exchange_bytes_)))),
        p_{seq_,
           rows_of<const T>(a.dy),
           rows_of<const T>(a.forward.h0),
           rows_of<const T>(a.forward.y),
           rows_of<const Value>(a.forward.c0),
           rows_of<const Value>(a.forward.c),
           rows_of<const T>(a.forward.reserve),
           arena.take<T>(seq_.T * seq_.B * D * seq_.H),
           arena.take<T>(persistent ? 0 : G * seq_.B * seq_.H),
           arena.take<Value>(persistent || E == 0 ? 0 : seq_.B * seq_.H),
           {arena.take<Value>(persistent ? 0 : seq_.B * seq_.H),
            arena.take<Value>(persistent || S == 1 ? 0 : seq_.B * seq_.H)}} {}

  void run(const Path& path) const {
    cublas_.begin(stream_);
    lengths_.send(stream_);
    gradients_.pack();
    w_hh_.pack(stream_);
    recurrence(path);
    const Flow<T> flow = kSlots.flow(static_cast<const T*>(p_.dgates), seq_.H);
    gradients_.of_input(flow);
    if (a_.dw_hh.present) state_weights(flow);
    if (!path.is_persistent()) gradients_.add_up_biases(p_.dgates, D);
    gradients_.of_biases(D, kSlots.x, kSlots.h);
  }

  void recurrence(const Path& path) const {
    if constexpr (std::is_same_v<Value, float>) {
      if (path.is_persistent()) {
        return path.backward(a_, {lengths_.copy(), w_hh_.matrix().data, p_.dgates,
                                  gradients_.partial(), left_, exchange_bytes_});
      }
    }
    const int64_t H = seq_.H, units = seq_.B * H;
    const Rows<Value> dh = {p_.dstate[0], 0, H}, dc = {p_.dstate[1], 0, H};
    launch(stream_, convert_kernel<T, Value>, units, seq_, rows_of<const T>(a_.dh_n), dh);
    if (S > 1)
      launch(stream_, convert_kernel<Value, Value>, units, seq_, rows_of<const Value>(a_.dc_n), dc);
    for (int64_t s = seq_.T - 1; s >= 0; --s) {
      launch(stream_, backward_cell_kernel<C, T>, units, p_, s);
      if constexpr (E > 0) {
        recurrent_product(E, G, p_.d_operand, false);
        launch(stream_, backward_early_kernel<C, T>, units, p_, s);
        recurrent_product(0, E, dh.data, true);
      } else {
        recurrent_product(0, G, dh.data, true);
      }
      if (seq_.reset) {
        launch(stream_, reset_kernel<Value>, units, seq_, dh, s);
        if (S > 1) launch(stream_, reset_kernel<Value>, units, seq_, dc, s);
      }
    }
    if (a_.dh0.present) {
      launch(stream_, convert_kernel<Value, T>, units, seq_, Rows<const Value>{dh.data, 0, H},
             rows_of<T>(a_.dh0));
    }
    if (S > 1 && a_.dc0.present) {
      launch(stream_, convert_kernel<Value, Value>, units, seq_, Rows<const Value>{dc.data, 0, H},
             rows_of<Value>(a_.dc0));
    }
  }

  // out [B, H] from the gates [first, last)
  void recurrent_product(int first, int last, Value* out, bool accumulate) const {
    const int64_t H = seq_.H;
    multiply<T, Value>(cublas_, stream_,
                       {seq_.B,
                        H,
                        (last - first) * H,
                        {p_.dgates_h + first * H, G * H, 1},
                        w_hh_.matrix().from_row(first * H),
                        {out, H, 1},
                        accumulate});
  }

  void state_weights(const Flow<T>& flow) const {
    const int64_t H = seq_.H, items = seq_.T * seq_.B * H;
    const Matrix<const T> left = {left_, H, 1};
    const Matrix<T> dw = Gradients<T>::matrix_in(a_.dw_hh);
    launch(stream_, left_factor_kernel<C, false, T>, items, p_, left_);
    gradients_.of_state(flow, 0, kDirect, left, H, dw, a_.accumulate);
    if constexpr (E > 0) {
      launch(stream_, left_factor_kernel<C, true, T>, items, p_, left_);
      gradients_.of_state(flow, E, G, left, H, dw, a_.accumulate);
    }
  }

  const BackwardArgs& a_;
  const cudaStream_t stream_;
  const CublasCall cublas_;
  const LengthsFromHost lengths_;
  const Sequence seq_;
  const Gradients<T> gradients_;
  const RightFactor<T> w_hh_;
  const int64_t exchange_bytes_;
  T* const left_;  // and before the products over all steps what groups exchange by
  const BackwardData<T> p_;
};

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
