// The backend "cuda": every cell and dtype, first correct path. Arrays are host memory: each call
// copies its inputs to the current device, runs on the default stream and copies its results back.
#include "backward.cuh"
#include "cells/cells.hpp"
#include "forward.cuh"

namespace fastrnn {
namespace {
namespace cuda {

bool supported() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  cudaGetLastError();  // having no device or no driver is an answer here, not an error of the next
                       // call
  return status == cudaSuccess && devices > 0;
}

// Memory is taken on the device, and weights are read as they are.
template <class Args>
int64_t no_memory(const Args&) {
  return 0;
}

void pack_nothing(const ForwardArgs&, void*) {}

template <template <class> class C, class T>
  requires IsCell<C, Vec<T>>
constexpr KernelTable::Kernel kKernel = {no_memory<ForwardArgs>,  pack_nothing,
                                         no_memory<ForwardArgs>,  run_forward<C, T>,
                                         no_memory<BackwardArgs>, Backward<C, T>::run};

template <template <class> class C>
struct Kernels {
  static constexpr KernelTable::PerDType value = {{kKernel<C, float>, kKernel<C, double>}};
};

constexpr auto kKernels = per_cell<Kernels>();
constexpr KernelTable kTable = {"cuda", supported, kKernels.of, "no CUDA device"};

}  // namespace cuda
}  // namespace

const KernelTable* kernel_table_cuda();
const KernelTable* kernel_table_cuda() { return &cuda::kTable; }

}  // namespace fastrnn
