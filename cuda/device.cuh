// The CUDA runtime as the drivers use it: every call checked, work on the caller's stream and
// device, memory cut from a block that the caller gives, and launches of one thread per item.
#pragma once

#if defined(__CUDACC__)
#pragma nv_diag_suppress 1675  // "unrecognized GCC pragma": math.hpp asks g++ to unroll; nvcc does
                               // so unasked
#endif

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "fastrnn.hpp"
#include "math.hpp"
#include "values.cuh"

#define FASTRNN_CUDA_CHECK(call) ::fastrnn::cuda::check(call, #call)

namespace fastrnn {
namespace {
namespace cuda {

inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the runtime would report it again at the next call
  throw std::runtime_error(std::string("CUDA: ") + call + ": " + cudaGetErrorString(status));
}

// Makes a device the current one for as long as it lives.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    FASTRNN_CUDA_CHECK(cudaGetDevice(&before_));
    if (device != before_) FASTRNN_CUDA_CHECK(cudaSetDevice(device));
  }
  ~OnDevice() {  // may run while an error unwinds
    if (cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
};

FASTRNN_HD int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Cuts arrays from one block of memory; without memory it says how much they take.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <class T>
  T* take(int64_t count) {
    constexpr int64_t kAlignment = 256;
    char* const part = memory_ ? memory_ + used_ : nullptr;
    used_ += divide_up(count * int64_t{sizeof(T)}, kAlignment) * kAlignment;
    return reinterpret_cast<T*>(part);
  }
  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

constexpr int kThreads = 256;  // of a block

__device__ inline int64_t thread_index() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }

// One thread an item, in one dimension: gridDim.y and .z end at 65535. Kernels ignore the threads
// past the last item.
template <class... Parameters, class... Arguments>
void launch(cudaStream_t stream, void (*kernel)(Parameters...), int64_t items,
            const Arguments&... arguments) {
  if (items == 0) return;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(divide_up(items, kThreads)));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  FASTRNN_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
