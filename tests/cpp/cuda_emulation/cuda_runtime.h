// Stands in for the CUDA runtime's header, so that g++ compiles cuda/ as it is and the whole
// backend runs on the host: device memory comes from malloc, and a launch runs its threads one
// after the other in an order that a seed picks. Those of a launch with shared memory or clusters
// can wait for each other (fibers.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <utility>

#include "controls.hpp"
#include "fibers.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(data, bytes) (static_cast<void>(data), static_cast<void>(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(data, bytes) (static_cast<void>(data), static_cast<void>(bytes))
#endif

#define __host__
#define __device__
#define __global__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 gridDim, blockDim, blockIdx, threadIdx;

enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue,
  cudaErrorMemoryAllocation,
  cudaErrorInvalidConfiguration,
  cudaErrorNoDevice,
  cudaErrorInvalidDevice
};
using cudaStream_t = struct cudaStream*;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace cuda_emulation {

inline cudaError_t result(cudaError_t status) {
  if (calls_to_failure >= 0 && calls_to_failure-- == 0) status = cudaErrorMemoryAllocation;
  if (status != cudaSuccess) last_error = status;
  return status;
}

inline bool on_device(const void* data, size_t bytes) {
  char* first = static_cast<char*>(const_cast<void*>(data));
  auto after = allocations.upper_bound(first);
  if (after == allocations.begin()) return false;
  const auto& [start, size] = *--after;
  return first + bytes <= start + size;
}

// Device memory can be touched inside a launch or a copy only, if AddressSanitizer watches.
struct DeviceAccess {
  DeviceAccess() {
    for (const auto& [data, bytes] : allocations) ASAN_UNPOISON_MEMORY_REGION(data, bytes);
  }
  ~DeviceAccess() {
    for (const auto& [data, bytes] : allocations) ASAN_POISON_MEMORY_REGION(data, bytes);
  }
};

}  // namespace cuda_emulation

inline cudaError_t cudaGetLastError() {
  return static_cast<cudaError_t>(std::exchange(cuda_emulation::last_error, 0));
}

inline const char* cudaGetErrorString(cudaError_t status) {
  constexpr const char* kText[] = {"no error",
                                   "invalid argument",
                                   "out of memory",
                                   "invalid configuration argument",
                                   "no CUDA-capable device is detected",
                                   "invalid device ordinal"};
  return kText[status];
}

inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = cuda_emulation::devices;
  return cuda_emulation::result(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = cuda_emulation::device;
  return cuda_emulation::result(cudaSuccess);
}

inline cudaError_t cudaSetDevice(int device) {
  const bool exists = device >= 0 && device < cuda_emulation::devices;
  if (exists) cuda_emulation::device = device;
  return cuda_emulation::result(exists ? cudaSuccess : cudaErrorInvalidDevice);
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  ++cuda_emulation::waits;
  return cuda_emulation::result(cudaSuccess);
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  const cudaError_t status = cuda_emulation::result(cudaSuccess);
  const cuda_emulation::DeviceAccess access;
  if (status == cudaSuccess) std::memcpy(to, from, bytes);
  return status;
}

inline cudaError_t cudaMalloc(void** data, size_t bytes) {
  ++cuda_emulation::waits;
  if (const cudaError_t status = cuda_emulation::result(cudaSuccess)) return status;
  char* memory = static_cast<char*>(std::malloc(bytes));
  std::memset(memory, 0xff, bytes);  // not a number, in float and in double
  ASAN_POISON_MEMORY_REGION(memory, bytes);
  cuda_emulation::allocations[memory] = bytes;
  *data = memory;
  return cudaSuccess;
}

inline cudaError_t cudaFree(void* data) {
  ++cuda_emulation::waits;
  if (data && cuda_emulation::allocations.erase(static_cast<char*>(data)) == 0) {
    return cuda_emulation::result(cudaErrorInvalidValue);
  }
  std::free(data);
  return cudaSuccess;
}

inline cudaError_t cudaMemset(void* data, int value, size_t bytes) {
  const cudaError_t status = cuda_emulation::result(
      cuda_emulation::on_device(data, bytes) ? cudaSuccess : cudaErrorInvalidValue);
  const cuda_emulation::DeviceAccess access;
  if (status == cudaSuccess) std::memset(data, value, bytes);
  return status;
}

inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  ++cuda_emulation::waits;
  const bool right = cuda_emulation::on_device(to, bytes) == (kind == cudaMemcpyHostToDevice) &&
                     cuda_emulation::on_device(from, bytes) == (kind == cudaMemcpyDeviceToHost);
  const cudaError_t status = cuda_emulation::result(right ? cudaSuccess : cudaErrorInvalidValue);
  const cuda_emulation::DeviceAccess access;
  if (status == cudaSuccess) std::memcpy(to, from, bytes);
  return status;
}

enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributeNonPortableClusterSizeAllowed
};
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute attribute, int value) {
  const bool possible = attribute != cudaFuncAttributeMaxDynamicSharedMemorySize ||
                        static_cast<size_t>(value) <= cuda_emulation::kSharedBytes;
  return cuda_emulation::result(possible ? cudaSuccess : cudaErrorInvalidValue);
}

inline cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void*,
                                                  const cudaLaunchConfig_t* config) {
  const int blocks = static_cast<int>(config->attrs[0].val.clusterDim.x);
  *clusters = blocks <= cuda_emulation::largest_cluster ? cuda_emulation::kBlocks / blocks : 0;
  return cuda_emulation::result(cudaSuccess);
}

namespace cuda_emulation {

template <class Kernel>
cudaError_t run_fibers(const cudaLaunchConfig_t& config, const Kernel& kernel) {
  const unsigned cluster = config.numAttrs > 0 ? config.attrs[0].val.clusterDim.x : 1;
  if (config.gridDim.x % cluster != 0 || config.dynamicSmemBytes > kSharedBytes) {
    return result(cudaErrorInvalidConfiguration);
  }
  Scheduler::run({config.gridDim.x, config.blockDim.x, cluster, config.dynamicSmemBytes}, order,
                 kernel, [](const Fiber& fiber) {
                   blockIdx.x = fiber.block->index;
                   threadIdx.x = fiber.thread;
                 });
  return cudaSuccess;
}

}  // namespace cuda_emulation

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  const int64_t blocks = config->gridDim.x, size = config->blockDim.x, threads = blocks * size;
  const bool possible = blocks > 0 && blocks <= INT32_MAX && size > 0 && size <= 1024;
  const cudaError_t status =
      cuda_emulation::result(possible ? cudaSuccess : cudaErrorInvalidConfiguration);
  if (status != cudaSuccess) return status;
  ++cuda_emulation::launches;
  cuda_emulation::stream = config->stream;
  cuda_emulation::device_of_launch = cuda_emulation::device;
  const cuda_emulation::DeviceAccess access;
  int64_t step = cuda_emulation::order * int64_t{7919} % threads + 1;
  if (cuda_emulation::order == 0) step = 1;
  while (std::gcd(step, threads) != 1) ++step;
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  if (config->dynamicSmemBytes > 0 || config->numAttrs > 0) {
    return cuda_emulation::run_fibers(*config,
                                      [&] { kernel(static_cast<Parameters>(arguments)...); });
  }
  for (int64_t i = 0, at = 0; i < threads; ++i, at = (at + step) % threads) {
    blockIdx.x = static_cast<unsigned>(at / size);
    threadIdx.x = static_cast<unsigned>(at % size);
    kernel(static_cast<Parameters>(arguments)...);
  }
  return cudaSuccess;
}
