// Stands in for the CUDA runtime's header, so that g++ compiles cuda/ as it is and the whole
// backend runs on the host: device memory comes from malloc, and a launch runs its threads one
// after the other in an order that a seed picks. Those of a launch with shared memory or clusters
// can wait for each other (fibers.hpp). What is put into a stream that is being captured runs when
// its graph is launched.
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
  cudaErrorInvalidDevice,
  cudaErrorStreamCaptureUnsupported
};
using cudaStream_t = struct cudaStream*;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension, cudaLaunchAttributeCooperative };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
    int cooperative;
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

// of what may not happen while any stream is being captured
inline cudaError_t outside_captures() {
  return captures.empty() ? cudaSuccess : cudaErrorStreamCaptureUnsupported;
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
                                   "invalid device ordinal",
                                   "operation not permitted when stream is capturing"};
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

enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin
};
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? cuda_emulation::capability
           : attribute == cudaDevAttrMultiProcessorCount  ? cuda_emulation::multiprocessors
                                                          : int{cuda_emulation::kSharedBytes};
  return cuda_emulation::result(cudaSuccess);
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  ++cuda_emulation::waits;
  return cuda_emulation::result(cuda_emulation::outside_captures());
}

enum { cudaStreamNonBlocking = 1 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
using cudaGraph_t = cuda_emulation::Graph*;
struct EmulatedExecutable {
  cuda_emulation::Graph graph;
};
using cudaGraphExec_t = EmulatedExecutable*;

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const cudaError_t status = cuda_emulation::result(cudaSuccess);
  if (status != cudaSuccess) return status;
  ++cuda_emulation::streams;
  *stream = reinterpret_cast<cudaStream_t>(new char);
  return status;
}

inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  --cuda_emulation::streams;
  delete reinterpret_cast<char*>(stream);
  return cudaSuccess;
}

inline cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const bool captures = cuda_emulation::captures.count(stream) > 0;
  *status = captures ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cuda_emulation::result(cudaSuccess);
}

inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const bool possible = stream != nullptr && cuda_emulation::captures.count(stream) == 0;
  const cudaError_t status =
      cuda_emulation::result(possible ? cudaSuccess : cudaErrorStreamCaptureUnsupported);
  if (status == cudaSuccess) cuda_emulation::captures[stream];
  return status;
}

// the capture has ended even if this fails
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const auto capture = cuda_emulation::captures.extract(stream);
  const cudaError_t status = cuda_emulation::result(capture ? cudaSuccess : cudaErrorInvalidValue);
  *graph = nullptr;
  if (status != cudaSuccess) return status;
  ++cuda_emulation::graphs;
  *graph = new cuda_emulation::Graph(std::move(capture.mapped()));
  return status;
}

inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                        unsigned long long) {
  const cudaError_t status = cuda_emulation::result(cudaSuccess);
  if (status != cudaSuccess) return status;
  ++cuda_emulation::graphs;
  *executable = new EmulatedExecutable{*graph};
  return status;
}

inline cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const cudaError_t status = cuda_emulation::result(cudaSuccess);
  if (status != cudaSuccess) return status;
  ++cuda_emulation::graph_launches;
  cuda_emulation::stream = stream;
  cuda_emulation::put(stream, [graph = executable->graph] {
    for (const auto& work : graph) work();
  });
  return status;
}

inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  --cuda_emulation::graphs;
  delete graph;
  return cudaSuccess;
}

inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  --cuda_emulation::graphs;
  delete executable;
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t stream) {
  const cudaError_t status = cuda_emulation::result(cudaSuccess);
  if (status != cudaSuccess) return status;
  cuda_emulation::put(stream, [=] {
    const cuda_emulation::DeviceAccess access;
    std::memcpy(to, from, bytes);
  });
  return status;
}

inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  const cudaError_t status = cuda_emulation::result(cudaSuccess);
  if (status != cudaSuccess) return status;
  cuda_emulation::put(stream, [=] {
    const cuda_emulation::DeviceAccess access;
    std::memset(data, value, bytes);
  });
  return status;
}

inline cudaError_t cudaMalloc(void** data, size_t bytes) {
  ++cuda_emulation::waits;
  if (const cudaError_t status = cuda_emulation::result(cuda_emulation::outside_captures()))
    return status;
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
  *clusters =
      blocks <= cuda_emulation::largest_cluster ? cuda_emulation::multiprocessors / blocks : 0;
  return cuda_emulation::result(cudaSuccess);
}

inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int,
                                                                 size_t shared_bytes) {
  *blocks = shared_bytes <= cuda_emulation::kSharedBytes;
  return cuda_emulation::result(cudaSuccess);
}

namespace cuda_emulation {

// blocks that run at a time; 0: threads that wait for nobody
inline unsigned cluster_of(const cudaLaunchConfig_t& config) {
  if (config.numAttrs == 0) return 0;
  const cudaLaunchAttribute& attribute = config.attrs[0];
  if (attribute.id == cudaLaunchAttributeCooperative) return config.gridDim.x;
  return attribute.val.clusterDim.x;
}

inline bool can_run(const cudaLaunchConfig_t& config) {
  const unsigned cluster = std::max(cluster_of(config), 1u);
  if (static_cast<int>(cluster) > multiprocessors) return false;
  const int64_t blocks = config.gridDim.x, size = config.blockDim.x;
  return blocks > 0 && blocks <= INT32_MAX && size > 0 && size <= 1024 && blocks % cluster == 0 &&
         config.dynamicSmemBytes <= kSharedBytes;
}

// Threads that may wait for each other; cluster: 0 without one.
template <class Kernel>
void run_fibers(const dim3& grid, const dim3& block, unsigned cluster, size_t shared_bytes,
                const Kernel& kernel) {
  const DeviceAccess access;
  gridDim = grid;
  blockDim = block;
  Scheduler::run({grid.x, block.x, cluster > 0 ? cluster : 1, shared_bytes}, order, kernel,
                 [](const Fiber& fiber) {
                   blockIdx.x = fiber.block->index;
                   threadIdx.x = fiber.thread;
                 });
}

// One after the other: they cannot wait for each other.
template <class Kernel>
void run_threads(const dim3& grid, const dim3& block, const Kernel& kernel) {
  const int64_t size = block.x, threads = grid.x * size;
  const DeviceAccess access;
  gridDim = grid;
  blockDim = block;
  int64_t step = order == 0 ? 1 : order * int64_t{7919} % threads + 1;
  while (std::gcd(step, threads) != 1) ++step;
  for (int64_t i = 0, at = 0; i < threads; ++i, at = (at + step) % threads) {
    blockIdx.x = static_cast<unsigned>(at / size);
    threadIdx.x = static_cast<unsigned>(at % size);
    kernel();
  }
}

}  // namespace cuda_emulation

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  const cudaError_t status = cuda_emulation::result(
      cuda_emulation::can_run(*config) ? cudaSuccess : cudaErrorInvalidConfiguration);
  if (status != cudaSuccess) return status;
  ++cuda_emulation::launches;
  cuda_emulation::stream = config->stream;
  cuda_emulation::device_of_launch = cuda_emulation::device;
  const unsigned cluster = cuda_emulation::cluster_of(*config);
  const auto call = [=] { kernel(static_cast<Parameters>(arguments)...); };
  cuda_emulation::put(config->stream, [grid = config->gridDim, block = config->blockDim, cluster,
                                       shared_bytes = config->dynamicSmemBytes, call] {
    if (cluster > 0 || shared_bytes > 0) {
      cuda_emulation::run_fibers(grid, block, cluster, shared_bytes, call);
    } else {
      cuda_emulation::run_threads(grid, block, call);
    }
  });
  return cudaSuccess;
}
