// What follows the recurrence of back-propagation, over all steps at once: dx = dgates W_ih, dw_ih
// = dgates^T x, dw_hh = dgates^T h', and sums over rows. Every sum has one order; there are no
// atomics.
#pragma once

#include "product.cuh"
#include "sequence.cuh"

namespace fastrnn {
namespace {
namespace cuda {

constexpr int kMaxGates = 4;

// The gradients of the products W_ih x and W_hh h', in the order of time [T*B, width]; zeros where
// no step works. x[g], h[g]: where those of gate g begin in a row.
template <class T>
struct Flow {
  const T* data;
  int64_t width;
  int64_t x[kMaxGates], h[kMaxGates];
};

constexpr int64_t kSumRows = 256;  // of one thread's sum

// partial[i][n] = sum over a stretch of rows [T*B] of values[row * stride + n], times weights[row *
// weights_stride + n] where there are any and the row's step works
template <class X, class W>
__global__ void partial_sum_kernel(Sequence seq, int64_t columns, const X* values, int64_t stride,
                                   const W* weights, int64_t weights_stride, Compute<X>* partial) {
  const Item at(thread_index(), columns);
  const int64_t rows = seq.T * seq.B, first = at.row * kSumRows;
  if (first >= rows) return;
  const int64_t end = first + kSumRows < rows ? first + kSumRows : rows;
  Compute<X> sum = 0;
  for (int64_t row = first; row < end; ++row) {
    const Compute<X> value = computed(values[row * stride + at.unit]);
    if (!weights) {
      sum += value;
    } else if (seq.works(row % seq.B, seq.time(row % seq.B, row / seq.B))) {
      sum = std::fma(value, computed(weights[row * weights_stride + at.unit]), sum);
    }
  }
  partial[thread_index()] = sum;
}

// to[n], or with accumulate to[n] +, the sum over rows of partial[row * stride + n]
template <class T>
__global__ void sum_kernel(int64_t rows, int64_t columns, const Compute<T>* partial, int64_t stride,
                           T* to, int64_t to_stride, bool accumulate) {
  const int64_t n = thread_index();
  if (n >= columns) return;
  T& out = to[n * to_stride];
  Compute<T> sum = accumulate ? computed(out) : Compute<T>(0);
  for (int64_t row = 0; row < rows; ++row) sum += partial[row * stride + n];
  out = stored<T>(sum);
}

template <class T>
class Gradients {
 public:
  using Value = Compute<T>;

  // H: units of a gate; columns: of the widest sum; parts: of sums that others make, or 0
  Gradients(const BackwardArgs& a, const Sequence& seq, const CublasCall& cublas, int gates,
            int64_t H, int64_t columns, Arena& arena, int64_t parts = 0)
      : a_(a),
        seq_(seq),
        cublas_(cublas),
        stream_(static_cast<cudaStream_t>(a.forward.stream)),
        G(gates),
        H_(H),
        rows_(seq.T * seq.B),
        x_is_matrix_(is_matrix(a.forward.x) && !seq.has_idle_steps()),
        dx_is_matrix_(is_matrix(a.dx) && !seq.has_idle_steps()),
        w_ih_(matrix_of<T>(a.forward.w_ih), G * H, seq.I, arena),
        gathered_(arena.take<T>(x_is_matrix_ && dx_is_matrix_ ? 0 : rows_ * seq.I)),
        parts_(parts > 0 ? parts : divide_up(rows_, kSumRows)),
        partial_(arena.take<Value>(parts_ * columns)) {}

  void pack() const { w_ih_.pack(stream_); }

  // dx and dw_ih, those that are wanted
  void of_input(const Flow<T>& flow) const {
    const int64_t I = seq_.I;
    if (a_.dx.present) {
      T* const out = dx_is_matrix_ ? static_cast<T*>(a_.dx.data) : gathered_;
      const int64_t stride = dx_is_matrix_ ? a_.dx.stride[1] : I;
      multiply<T, T>(cublas_, stream_,
                     {rows_,
                      I,
                      G * H_,
                      {flow.data + flow.x[0], flow.width, 1},
                      w_ih_.matrix(),
                      {out, stride, 1},
                      false});
      if (!dx_is_matrix_) {
        launch(stream_, scatter_kernel<T>, rows_ * I, seq_, static_cast<const T*>(gathered_), I,
               rows_of<T>(a_.dx));
      }
    }
    if (a_.dw_ih.present) {
      const Rows<const T> x = rows_of<const T>(a_.forward.x);
      Matrix<const T> right = {x.data, x.batch, 1};
      if (!x_is_matrix_) {
        launch(stream_, gather_kernel<T>, rows_ * I, seq_, x, I, int64_t{0}, seq_.T, true,
               gathered_);
        right = {gathered_, I, 1};
      }
      of_weights<T>(flow, flow.x[0], 0, G, right, I, matrix_in(a_.dw_ih), a_.accumulate);
    }
  }

  // Rows of gates [first, last) of dw_hh = flow^T right, right [T*B, columns]: those of gates that
  // follow each other in the flow at once.
  template <class Out>
  void of_state(const Flow<T>& flow, int first, int last, Matrix<const T> right, int64_t columns,
                Matrix<Out> dw, bool accumulate) const {
    for (int end = first; first < last; first = end) {
      while (end < last && flow.h[end] - flow.h[first] == (end - first) * H_) ++end;
      of_weights<Out>(flow, flow.h[first], first, end, right, columns, dw, accumulate);
    }
  }

  // Sums over all steps of values [T*B, columns]; then `sum` has their parts, from column on.
  template <class X, class W = X>
  void add_up(int64_t columns, const X* values, int64_t stride, const W* weights = nullptr,
              int64_t weights_stride = 0) const {
    launch(stream_, partial_sum_kernel<X, W>, divide_up(rows_, kSumRows) * columns, seq_, columns,
           values, stride, weights, weights_stride, partial_);
  }
  void sum(int64_t columns, int64_t column, int64_t count, T* to, int64_t to_stride) const {
    launch(stream_, sum_kernel<T>, count, parts_, count,
           static_cast<const Value*>(partial_ + column), columns, to, to_stride, a_.accumulate);
  }
  // count of them become d[first] ..
  void sum(int64_t columns, int64_t column, int64_t count, const Tensor& d, int64_t first) const {
    const int64_t stride = d.stride[d.rank - 1];
    sum(columns, column, count, static_cast<T*>(d.data) + first * stride, stride);
  }

  // the parts of sums, [parts, columns], where others make them
  Value* partial() const { return partial_; }

  // of dgates [T*B, slots*H]
  void add_up_biases(const T* dgates, int slots) const {
    if (a_.db_ih.present || a_.db_hh.present) add_up(slots * H_, dgates, slots * H_);
  }
  void of_biases(int slots, const int* slot_x, const int* slot_h) const {
    for (int g = 0; g < G; ++g) {
      if (a_.db_ih.present) sum(slots * H_, slot_x[g] * H_, H_, a_.db_ih, g * H_);
      if (a_.db_hh.present) sum(slots * H_, slot_h[g] * H_, H_, a_.db_hh, g * H_);
    }
  }

  static Matrix<T> matrix_in(const Tensor& tensor) {
    return {static_cast<T*>(tensor.data), tensor.stride[0], tensor.stride[1]};
  }

 private:
  bool is_matrix(const Tensor& sequence) const {
    return sequence.stride[0] == seq_.B * sequence.stride[1] && sequence.stride[2] == 1;
  }

  template <class Out>
  void of_weights(const Flow<T>& flow, int64_t from, int first, int last, Matrix<const T> right,
                  int64_t columns, Matrix<Out> dw, bool accumulate) const {
    multiply<T, Out>(cublas_, stream_,
                     {(last - first) * H_,
                      columns,
                      rows_,
                      {flow.data + from, 1, flow.width},
                      right,
                      dw.from_row(first * H_),
                      accumulate});
  }

  const BackwardArgs& a_;
  const Sequence seq_;
  const CublasCall& cublas_;
  const cudaStream_t stream_;
  const int G;
  const int64_t H_, rows_;
  const bool x_is_matrix_, dx_is_matrix_;
  const RightFactor<T> w_ih_;
  T* const gathered_;
  const int64_t parts_;
  Value* const partial_;
};

// A cell's slots, for what is not compiled for each cell.
template <class Cell>
struct Slots {
  int x[kMaxGates] = {}, h[kMaxGates] = {};

  constexpr Slots() {
    static_assert(Cell::kGates <= kMaxGates);
    for (int g = 0; g < Cell::kGates; ++g) x[g] = Cell::slot_x(g), h[g] = Cell::slot_h(g);
  }

  // of the products where they are the gates' own
  template <class T>
  Flow<T> flow(const T* dgates, int64_t H) const {
    Flow<T> flow = {dgates, Cell::kSlots * H, {}, {}};
    for (int g = 0; g < Cell::kGates; ++g) flow.x[g] = x[g] * H, flow.h[g] = h[g] * H;
    return flow;
  }
};

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
