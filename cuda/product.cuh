// Matrix products. A thread holds a tile of kRows x N sums in registers; neighbouring threads hold
// neighbouring columns, so that a warp reads the right factor in whole cache lines and the left one
// by broadcast:
//
//            k                         n, n+1 .. of a warp's threads
//   rows  [ a a a ]        k  [ w w w w ]
//         [ a a a ]           [ w w w w ]      sum[row][n] = sum over k of a[row][k] * w[k][n]
//
// Each sum runs over k in order, in one accumulator: its bits depend on neither the tile nor the
// batch.
#pragma once

#include <cmath>

#include "cublas.cuh"
#include "views.cuh"

namespace fastrnn {
namespace {
namespace cuda {

struct TileTraits {
  static constexpr int kRows = 4;
  static constexpr int kColumns = 4;
  static_assert(kRows * kColumns <= 32, "the sums of double must stay in registers");
};

// out = a b, or out + a b; a is [M, K], b [K, N]
template <class T, class Out>
struct ProductData {
  int64_t M, N, K;
  Matrix<const T> a, b;
  Matrix<Out> out;
  bool accumulate;
};

template <class T, class Out>
__global__ void __launch_bounds__(kThreads, 2) product_kernel(ProductData<T, Out> p) {
  using Sum = Compute<T>;
  constexpr int kRows = TileTraits::kRows, kColumns = TileTraits::kColumns;
  const int64_t stripe = divide_up(p.N, kColumns);  // a thread's columns are a stripe apart
  const int64_t first_row = thread_index() / stripe * kRows, first_column = thread_index() % stripe;
  if (first_row >= p.M) return;
  const T* rows[kRows];
  const T* columns[kColumns];
  Sum sum[kRows][kColumns] = {};
  for (int m = 0; m < kRows; ++m)
    rows[m] = p.a.data + (first_row + m < p.M ? first_row + m : 0) * p.a.row;
  for (int n = 0; n < kColumns; ++n) {
    const int64_t column = first_column + n * stripe < p.N ? first_column + n * stripe : 0;
    columns[n] = p.b.data + column * p.b.column;
  }
#pragma unroll 2  // four, as nvcc has it by itself, spill the sums of double
  for (int64_t k = 0; k < p.K; ++k) {
    Sum left[kRows];
    for (int m = 0; m < kRows; ++m) left[m] = computed(rows[m][k * p.a.column]);
    for (int n = 0; n < kColumns; ++n) {
      const Sum right = computed(columns[n][k * p.b.row]);
      for (int m = 0; m < kRows; ++m) sum[m][n] = std::fma(left[m], right, sum[m][n]);
    }
  }
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      const int64_t row = first_row + m, column = first_column + n * stripe;
      if (row < p.M && column < p.N) {
        Out& out = p.out.data[row * p.out.row + column * p.out.column];
        out = stored<Out>(p.accumulate ? computed(out) + sum[m][n] : sum[m][n]);
      }
    }
  }
}

// A factor as cuBLAS sees it, by columns: its transpose where its rows are packed.
template <class T>
struct ByColumns {
  bool possible;
  int operation;
  int64_t stride;

  ByColumns(const Matrix<const T>& matrix, int64_t rows, int64_t columns)
      : possible(true), operation(CublasTypes::kPlain), stride(matrix.row) {
    if (matrix.column == 1 && matrix.row >= columns) return;
    operation = CublasTypes::kTransposed;
    stride = matrix.column;
    possible = matrix.row == 1 && matrix.column >= rows;
  }
};

// By cuBLAS: out^T = b^T a^T by columns. false: the factors or the result do not lie so that it
// can, or it is not worth it.
template <class T, class Out>
bool multiply_by_cublas(const CublasCall& call, const ProductData<T, Out>& p) {
  constexpr int64_t kWorth = 1 << 14;  // multiply-adds
  if (!call.library() || p.M * p.N * p.K < kWorth) return false;
  const ByColumns<T> a(p.a, p.M, p.K), b(p.b, p.K, p.N);
  if (!a.possible || !b.possible || p.out.column != 1 || p.out.row < p.N) return false;
  using Sum = Compute<T>;
  const Sum one = 1, start = p.accumulate ? 1 : 0;
  Cublas::check(call.library()->gemm(
                    call.library()->handle(), b.operation, a.operation, p.N, p.M, p.K, &one,
                    p.b.data, CublasTypes::of<T>(), b.stride, p.a.data, CublasTypes::of<T>(),
                    a.stride, &start, p.out.data, CublasTypes::of<Out>(), p.out.row,
                    CublasTypes::compute<T>(call.precision()), CublasTypes::kDefaultAlgorithm),
                "cublasGemmEx");
  return true;
}

template <class T, class Out>
void multiply(const CublasCall& cublas, cudaStream_t stream, const ProductData<T, Out>& p) {
  if (multiply_by_cublas(cublas, p)) return;
  launch(stream, product_kernel<T, Out>,
         divide_up(p.M, TileTraits::kRows) * divide_up(p.N, TileTraits::kColumns), p);
}

// packed [rows, columns] = matrix
template <class T>
__global__ void pack_kernel(Matrix<const T> matrix, int64_t rows, int64_t columns, T* packed) {
  const int64_t i = thread_index() / columns, j = thread_index() % columns;
  if (i < rows) packed[thread_index()] = matrix.data[i * matrix.row + j * matrix.column];
}

// A right factor [K, N] as the product reads it fastest: a copy with packed rows where it is not so
// by itself. `dense`: nor may there be gaps between the rows.
template <class T>
class RightFactor {
 public:
  RightFactor(Matrix<const T> matrix, int64_t K, int64_t N, Arena& arena, bool dense = false)
      : given_(matrix),
        K_(K),
        N_(N),
        copied_(matrix.column != 1 || (dense && matrix.row != N)),
        packed_(copied_ ? arena.take<T>(K * N) : nullptr) {}

  // to be called before matrix()
  void pack(cudaStream_t stream) const {
    if (copied_) launch(stream, pack_kernel<T>, K_ * N_, given_, K_, N_, packed_);
  }
  Matrix<const T> matrix() const { return copied_ ? Matrix<const T>{packed_, N_, 1} : given_; }

 private:
  Matrix<const T> given_;
  int64_t K_, N_;
  bool copied_;
  T* packed_;
};

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
