// What the kernels of the family know of a call's options, and sums over the threads of a block.
#pragma once

#include "cells/family_gates.hpp"
#include "cells/units.hpp"
#include "masks.hpp"
#include "ops.cuh"
#include "scalar.cuh"
#include "sequence.cuh"

namespace fastrnn {
namespace {
namespace cuda {

// not a part of each kernel five times over
template <class T>
__host__ __device__ __attribute__((noinline)) Gate<Vec<T>> activate(Activation f, Vec<T> a) {
  return activated(f, a);
}

// The gates of a cell, and what is loaded for each unit.
template <class T>
class FamilyData {
 public:
  using Value = Compute<T>;
  using Gates = FamilyGates<Vec<Value>>;

  // grad_clip: of the gates' gradients, 0 for none
  FamilyData(const Family& f, int gates, double grad_clip)
      : gates_(Gates::of(f, gates, grad_clip)), peepholes_(static_cast<const T*>(f.peephole.data)) {
    gates_.has_peepholes = f.peephole.present;
    if (f.peephole.present) peephole_ = f.peephole.stride[0], unit_ = f.peephole.stride[1];
    for (int i = 0; i < kMaxActivations; ++i) activations_[i] = f.activations[i];
  }

  // incoming: gradients of the values of the gates of a row [kGates, H], or null
  template <class Cell>
  __device__ Gates at(int64_t unit, const T* incoming = nullptr, int64_t H = 0) const {
    Gates k = gates_;
    k.chosen = activations_;
    for (int n = 0; n < Cell::kPeepholes; ++n) {
      if (k.has_peepholes)
        k.weights[n] = Vec<Value>::set(computed(peepholes_[n * peephole_ + unit * unit_]));
    }
    k.has_incoming = incoming != nullptr;
    for (int g = 0; g < Cell::kGates; ++g) {
      if (incoming) k.incoming_gradients[g] = Vec<Value>::set(computed(incoming[g * H + unit]));
    }
    return k;
  }

 private:
  Gates gates_;
  Activation activations_[kMaxActivations];
  const T* peepholes_;
  int64_t peephole_ = 0, unit_ = 0;  // strides
};

// Values that a cell keeps for backward.
template <class Cell>
constexpr int kKept = Cell::kReserve > 0 ? Cell::kReserve : 1;

constexpr int kBlockBytes = kThreads * 8;  // of shared memory, for block_sum

// over the threads of a block, in one order; in all of them
template <class T>
__device__ T block_sum(T value) {
  static_assert(kThreads % kWarp == 0 && kThreads * sizeof(T) <= kBlockBytes);
  T* const sums = reinterpret_cast<T*>(shared_memory());
  const int thread = static_cast<int>(threadIdx.x);
  sync_block();  // the sums before this one have been read
  sums[thread] = value;
  sync_block();
  if (thread < kWarp) {
    for (int i = thread + kWarp; i < kThreads; i += kWarp) value += sums[i];
    sums[thread] = value;
  }
  sync_block();
  T sum = 0;
  for (int i = 0; i < kWarp; ++i) sum += sums[i];
  return sum;
}

// a block a row
template <class... Parameters, class... Arguments>
void launch_rows(cudaStream_t stream, void (*kernel)(Parameters...), int64_t rows,
                 const Arguments&... arguments) {
  if (rows == 0) return;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(rows));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kBlockBytes;
  config.stream = stream;
  FASTRNN_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// kept [B, units] = what chance keeps of a state for the whole sequence
template <class V>
__global__ void kept_state_kernel(Chance<V> chance, int64_t B, int64_t units, V* kept) {
  const Item at(thread_index(), units);
  if (at.row < B) kept[thread_index()] = chance.at(0, at.row, at.unit);
}

// kept [rows, columns] = w times what chance keeps of it
template <class T>
__global__ void kept_weights_kernel(Chance<Compute<T>> chance, Matrix<const T> w, int64_t rows,
                                    int64_t columns, T* kept) {
  const Item at(thread_index(), columns);
  if (at.row >= rows) return;
  const Compute<T> value = computed(w.data[at.row * w.row + at.unit * w.column]);
  kept[thread_index()] = stored<T>(value * chance.at(0, at.row, at.unit));
}

// w_hh [G*H, P], or what DropConnect keeps of it.
template <class T>
class KeptWeights {
 public:
  KeptWeights(const ForwardArgs& a, Arena& arena)
      : given_(matrix_of<T>(a.w_hh)),
        rows_(a.w_hh.shape[0]),
        columns_(a.w_hh.shape[1]),
        chance_(kept_weights<Compute<T>>(a.family)),
        kept_(has_weight_dropout(a.family) ? arena.take<T>(rows_ * columns_) : nullptr),
        drops_(has_weight_dropout(a.family)) {}

  // to be called before the matrix is read
  void make(cudaStream_t stream) const {
    if (drops_) {
      launch(stream, kept_weights_kernel<T>, rows_ * columns_, chance_, given_, rows_, columns_,
             kept_);
    }
  }
  Matrix<const T> matrix() const { return drops_ ? Matrix<const T>{kept_, columns_, 1} : given_; }
  const Chance<Compute<T>>& chance() const { return chance_; }

 private:
  Matrix<const T> given_;
  int64_t rows_, columns_;
  Chance<Compute<T>> chance_;
  T* kept_;
  bool drops_;
};

// Sizes and which states there are.
struct FamilySizes {
  int64_t H, P;  // units of the cell, and of h
  bool projected, has_c, has_norm;
  NormLayout layout;

  FamilySizes(const ForwardArgs& a, int gates, bool is_lstm, bool mixes)
      : H(a.w_ih.shape[0] / gates),
        P(a.w_hh.shape[1]),
        projected(a.family.w_hr.present),
        has_c(is_lstm || (projected && mixes)),
        has_norm(a.family.gain_ih.present),
        layout(gates, H) {}
};

template <class Cell>
FamilySizes sizes_of(const ForwardArgs& a) {
  return {a, Cell::kGates, Cell::kStates == 2, Cell::kMixes};
}

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
