// Forward over a sequence. Per block of steps one product, gx = x W_ih^T; then per step
//   1. gh = h' W_hh^T for all rows of the batch
//   2. a kernel of one thread per unit of a row that runs the cell
// and both twice for a cell with an early phase. The running state lies in h_n and c_n themselves;
// the end of a kernel is the barrier between two steps. Or, by the other path (path.cuh), one
// kernel for the steps of a block. Workspace does not grow with T beyond kBlock.
#pragma once

#include <algorithm>

#include "path.cuh"
#include "product.cuh"
#include "scalar.cuh"
#include "sequence.cuh"

#if !defined(FASTRNN_CUDA_BLOCK)
#define FASTRNN_CUDA_BLOCK 64 << 20  // tests have several blocks in a short sequence
#endif

namespace fastrnn {
namespace {
namespace cuda {

template <class T>
struct ForwardData {
  Sequence seq;
  Vector<T> b_ih, b_hh;    // [G*H]
  Rows<T> h;               // [B, H]  running
  Rows<Compute<T>> c;      // [B, H]
  Rows<T> y;               // [T, B, H]
  Rows<Compute<T>> cells;  // [T, B, H] or null
  Rows<T> reserve;         // [T, B, R*H] or null
  const Compute<T>* gh;    // [B, G*H]  without the bias
  T* operand;              // [B, H]  left factor of the late gates' product
};

// gx [B, G*H] of this step; the early gates are put in the place of theirs
template <template <class> class C, class T>
__global__ void forward_early_kernel(ForwardData<T> p, Compute<T>* gx, int64_t s) {
  using V = Vec<Compute<T>>;
  using Cell = C<V>;
  constexpr int G = Cell::kGates, E = Cell::kEarly;
  const int64_t H = p.seq.H;
  const Item at(thread_index(), H);
  if (at.row >= p.seq.B) return;
  if (!p.seq.works(at.row, s)) {
    p.operand[thread_index()] = T{};
    return;
  }
  V x_gates[E], h_gates[E], early[E], operand;
  for (int g = 0; g < E; ++g) {
    const int64_t i = g * H + at.unit, of_row = at.row * G * H + i;
    x_gates[g] = V::set(gx[of_row] + p.b_ih.at(i));
    h_gates[g] = V::set(p.gh[of_row] + p.b_hh.at(i));
  }
  const V prev = V::set(computed(p.h.at(0, at.row)[at.unit]));
  Cell::forward_early(x_gates, h_gates, &prev, early, operand);
  for (int g = 0; g < E; ++g) gx[(at.row * G + g) * H + at.unit] = early[g].v;
  p.operand[thread_index()] = stored<T>(operand.v);
}

template <template <class> class C, class T>
__global__ void forward_cell_kernel(ForwardData<T> p, const Compute<T>* gx, int64_t s) {
  using V = Vec<Compute<T>>;
  using Cell = C<V>;
  constexpr int G = Cell::kGates, S = Cell::kStates, R = Cell::kReserve, E = Cell::kEarly,
                L = G - E;
  const int64_t H = p.seq.H;
  const Item at(thread_index(), H);
  if (at.row >= p.seq.B) return;
  const int64_t b = at.row, unit = at.unit, t = p.seq.time(b, s);
  T& h = p.h.at(0, b)[unit];
  V prev[S], curr[S], saved[R > 0 ? R : 1] = {};
  prev[0] = V::set(computed(h));
  if constexpr (S > 1) prev[1] = V::set(p.c.at(0, b)[unit]);
  for (int i = 0; i < S; ++i) curr[i] = prev[i];
  if (p.seq.works(b, s)) {
    V x_gates[G], h_gates[L];
    for (int g = 0; g < G; ++g) {
      const Compute<T> value = gx[(b * G + g) * H + unit];
      x_gates[g] = V::set(g < E ? value : value + p.b_ih.at(g * H + unit));
    }
    for (int g = E; g < G; ++g)
      h_gates[g - E] = V::set(p.gh[(b * G + g) * H + unit] + p.b_hh.at(g * H + unit));
    Cell::forward(x_gates, h_gates, prev, curr, saved);
  }
  if (p.seq.valid(b, s)) {
    h = stored<T>(curr[0].v);
    if constexpr (S > 1) p.c.at(0, b)[unit] = curr[1].v;
  } else {
    for (int i = 0; i < S; ++i) curr[i] = V::set(0);
  }
  p.y.at(t, b)[unit] = stored<T>(curr[0].v);
  if constexpr (S > 1) {
    if (p.cells) p.cells.at(t, b)[unit] = curr[1].v;
  }
  for (int i = 0; p.reserve && i < R; ++i) p.reserve.at(t, b)[i * H + unit] = stored<T>(saved[i].v);
}

// gx of a block of steps at a time.
template <class T>
class InputProduct {
 public:
  using Value = Compute<T>;

  // width: of a row of gx
  InputProduct(const ForwardArgs& a, const Sequence& seq, int64_t width, Arena& arena)
      : seq_(seq),
        width_(width),
        x_(rows_of<const T>(a.x)),
        x_is_matrix_(!a.reverse && x_.time == seq_.B * x_.batch && a.x.stride[2] == 1),
        w_ih_(matrix_of<T>(a.w_ih).transposed(), seq_.I, width, arena),
        block_(std::clamp<int64_t>(kBlock / std::max<int64_t>(step() * int64_t{sizeof(Value)}, 1),
                                   1, std::max<int64_t>(seq_.T, 1))),
        gathered_(x_is_matrix_ ? nullptr : arena.take<T>(block_ * seq_.B * seq_.I)),
        gx_(arena.take<Value>(block_ * step())) {}

  void pack(cudaStream_t stream) const { w_ih_.pack(stream); }

  int64_t block() const { return block_; }          // steps
  int64_t step() const { return seq_.B * width_; }  // values of a step

  // of steps first, first + 1 ..
  Value* of(const CublasCall& cublas, cudaStream_t stream, int64_t first, int64_t steps) const {
    const int64_t I = seq_.I;
    Matrix<const T> x = {x_.data + first * x_.time, x_.batch, 1};
    if (!x_is_matrix_) {
      launch(stream, gather_kernel<T>, steps * seq_.B * I, seq_, x_, I, first, steps, false,
             gathered_);
      x = {gathered_, I, 1};
    }
    multiply<T, Value>(cublas, stream,
                       {steps * seq_.B, width_, I, x, w_ih_.matrix(), {gx_, width_, 1}, false});
    return gx_;
  }

 private:
  static constexpr int64_t kBlock = FASTRNN_CUDA_BLOCK;  // bytes of gx

  const Sequence seq_;
  const int64_t width_;
  const Rows<const T> x_;
  const bool x_is_matrix_;
  const RightFactor<T> w_ih_;
  const int64_t block_;
  T* const gathered_;
  Value* const gx_;
};

// The columns of gates [first, last), of H units each, of gh [B, G*H] = left w.
template <class T>
void product_of_gates(const CublasCall& cublas, cudaStream_t stream, int64_t B,
                      Matrix<const T> left, int64_t length, Matrix<const T> w, int64_t H, int G,
                      int first, int last, Compute<T>* gh) {
  multiply<T, Compute<T>>(cublas, stream,
                          {B,
                           (last - first) * H,
                           length,
                           left,
                           w.from_column(first * H),
                           {gh + first * H, G * H, 1},
                           false});
}

template <template <class> class C, class T>
class Forward {
 public:
  // of either path: nothing says that both calls find the same one
  static int64_t workspace(const ForwardArgs& a) {
    Arena steps(nullptr), persistent(nullptr);
    static_cast<void>(Forward(a, false, steps));
    static_cast<void>(Forward(a, true, persistent));
    return std::max(steps.used(), persistent.used());
  }

  static void run(const ForwardArgs& a, void* memory) {
    const Path path(a, Path::Way::kForward);
    Arena arena(memory);
    Forward(a, path.is_persistent(), arena).run(path);
  }

 private:
  using Value = Compute<T>;
  using Cell = C<Vec<Value>>;
  static constexpr int G = Cell::kGates, S = Cell::kStates, E = Cell::kEarly;

  Forward(const ForwardArgs& a, bool persistent, Arena& arena)
      : a_(a),
        stream_(static_cast<cudaStream_t>(a.stream)),
        cublas_(arena),
        lengths_(a, arena),
        seq_(a, lengths_.copy()),
        h0_(rows_of<const T>(a.h0)),
        c0_(rows_of<const Value>(a.c0)),
        input_(a, seq_, G * seq_.H, arena),
        w_hh_(persistent
                  ? RightFactor<T>(matrix_of<T>(a.w_hh), G * seq_.H, seq_.H, arena, true)
                  : RightFactor<T>(matrix_of<T>(a.w_hh).transposed(), seq_.H, G * seq_.H, arena)),
        gh_(arena.take<Value>(persistent ? 0 : input_.step())),
        exchange_(persistent ? arena.take<char>(kPersistentExchange) : nullptr),
        p_{seq_,
           vector_of<T>(a.b_ih),
           vector_of<T>(a.b_hh),
           rows_of<T>(a.h_n),
           rows_of<Value>(a.c_n),
           rows_of<T>(a.y),
           rows_of<Value>(a.c),
           rows_of<T>(a.reserve),
           gh_,
           E > 0 ? arena.take<T>(seq_.B * seq_.H) : nullptr} {}

  void run(const Path& path) const {
    cublas_.begin(stream_);
    lengths_.send(stream_);
    input_.pack(stream_);
    w_hh_.pack(stream_);
    if (!path.is_persistent()) first_states();
    for (int64_t first = 0; first < seq_.T; first += input_.block()) {
      const int64_t last = std::min(first + input_.block(), seq_.T);
      Value* const gx = input_.of(cublas_, stream_, first, last - first);
      if constexpr (std::is_same_v<Value, float>) {
        if (path.is_persistent()) {
          path.forward(a_, {lengths_.copy(), w_hh_.matrix().data, gx, first, last, exchange_});
          continue;
        }
      }
      for (int64_t s = first; s < last; ++s) step(s, gx + (s - first) * input_.step());
    }
  }

  void first_states() const {
    const int64_t units = seq_.B * seq_.H;
    launch(stream_, first_state_kernel<T>, units, seq_, h0_, p_.h);
    if (S > 1) launch(stream_, first_state_kernel<Value>, units, seq_, c0_, p_.c);
  }

  void step(int64_t s, Value* gx) const {
    const int64_t H = seq_.H, units = seq_.B * H;
    if (seq_.reset) {
      launch(stream_, reset_kernel<T>, units, seq_, p_.h, s);
      if (S > 1) launch(stream_, reset_kernel<Value>, units, seq_, p_.c, s);
    }
    const Matrix<const T> h = {p_.h.data, p_.h.batch, 1};
    if constexpr (E > 0) {
      recurrent_product(h, 0, E);
      launch(stream_, forward_early_kernel<C, T>, units, p_, gx, s);
      recurrent_product({p_.operand, H, 1}, E, G);
    } else {
      recurrent_product(h, 0, G);
    }
    launch(stream_, forward_cell_kernel<C, T>, units, p_, static_cast<const Value*>(gx), s);
  }

  // of the gates [first, last)
  void recurrent_product(Matrix<const T> left, int first, int last) const {
    product_of_gates<T>(cublas_, stream_, seq_.B, left, seq_.H, w_hh_.matrix(), seq_.H, G, first,
                        last, gh_);
  }

  const ForwardArgs& a_;
  const cudaStream_t stream_;
  const CublasCall cublas_;
  const LengthsFromHost lengths_;
  const Sequence seq_;
  const Rows<const T> h0_;
  const Rows<const Value> c0_;
  const InputProduct<T> input_;
  const RightFactor<T> w_hh_;
  Value* const gh_;
  void* const exchange_;
  const ForwardData<T> p_;
};

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
