// The backend "cuda": every cell, dtype and option. Arrays of a device are read and written where
// they lie, on the caller's stream and in the caller's workspace, and nothing waits for the GPU;
// host arrays are copied there and back.
#include "backward.cuh"
#include "cells/cells.hpp"
#include "family/backward.cuh"
#include "family/forward.cuh"
#include "forward.cuh"
#include "graphs.cuh"
#include "host.cuh"

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

// weights are read as they are
int64_t nothing_to_pack(const ForwardArgs&) { return 0; }
void pack_nothing(const ForwardArgs&, void*) {}

template <class Kernel, class Args>
int64_t workspace(const Args& a) {
  return forward_of(a).x.device == kHost ? 0 : Kernel::workspace(a);
}

template <class Kernel>
void forward(const ForwardArgs& a, void* memory) {
  if (a.x.device == kHost) return forward_from_host<Kernel>(a);
  const OnDevice guard(a.x.device);
  run_on_device<Kernel>(a, memory);
}

template <class Kernel>
void backward(const BackwardArgs& a, void* memory) {
  if (a.forward.x.device == kHost) return backward_from_host<Kernel>(a);
  const OnDevice guard(a.forward.x.device);
  run_on_device<Kernel>(a, memory);
}

void wait(int device, void* stream) {
  const OnDevice guard(device);
  FASTRNN_CUDA_CHECK(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
}

std::string path(const ForwardArgs& a, bool backward) {
  const Path::Way way = backward ? Path::Way::kBackward : Path::Way::kForward;
  if (a.x.device == kHost) return Path(a, way).text();
  const OnDevice guard(a.x.device);
  return Path(a, way).text();
}

template <class AnyForward, class AnyBackward>
constexpr KernelTable::Kernel kKernel = {nothing_to_pack,
                                         pack_nothing,
                                         workspace<AnyForward, ForwardArgs>,
                                         forward<AnyForward>,
                                         workspace<AnyBackward, BackwardArgs>,
                                         backward<AnyBackward>};

template <template <class> class C, class T>
  requires IsCell<C, Vec<Compute<T>>>
constexpr KernelTable::Kernel kPlain = kKernel<Forward<C, T>, Backward<C, T>>;
template <template <class> class C, class T>
constexpr KernelTable::Kernel kFamily = kKernel<FamilyForward<C, T>, FamilyBackward<C, T>>;

template <template <class> class C>
struct Plain {
  static constexpr KernelTable::PerDType value = {
      {kPlain<C, float>, kPlain<C, double>, kPlain<C, Float16>, kPlain<C, BFloat16>}};
};
template <template <class> class C>
struct WithOptions {
  static constexpr KernelTable::PerDType value = {
      {kFamily<C, float>, kFamily<C, double>, kFamily<C, Float16>, kFamily<C, BFloat16>}};
};

constexpr auto kKernels = per_cell<Plain>();
constexpr auto kFamilyKernels = per_cell<WithOptions>();
constexpr KernelTable kTable = {.name = "cuda",
                                .supported = supported,
                                .kernels = kKernels.of,
                                .unavailable = "no CUDA device",
                                .family = kFamilyKernels.of,
                                .wait = wait,
                                .path = path};

}  // namespace cuda
}  // namespace

const KernelTable* kernel_table_cuda();
const KernelTable* kernel_table_cuda() { return &cuda::kTable; }

}  // namespace fastrnn
