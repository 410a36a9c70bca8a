// The CUDA runtime as the drivers use it: every call checked, memory that frees itself, copies
// between strided views of host memory and packed arrays on the device, and launches of one thread
// per item.
#pragma once

#if defined(__CUDACC__)
#pragma nv_diag_suppress 1675  // "unrecognized GCC pragma": math.hpp asks g++ to unroll; nvcc does
                               // so unasked
#endif

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fastrnn.hpp"
#include "math.hpp"

#define FASTRNN_CUDA_CHECK(call) ::fastrnn::cuda::check(call, #call)

namespace fastrnn {
namespace {
namespace cuda {

inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the runtime would report it again at the next call
  throw std::runtime_error(std::string("CUDA: ") + call + ": " + cudaGetErrorString(status));
}

template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(int64_t count) : count_(count) {
    if (count > 0) FASTRNN_CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&data_), bytes()));
  }
  DeviceArray(DeviceArray&& other) noexcept { *this = std::move(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~DeviceArray() { static_cast<void>(cudaFree(data_)); }  // may run while an error unwinds

  T* data() const { return data_; }
  size_t bytes() const { return static_cast<size_t>(count_) * sizeof(T); }

 private:
  T* data_ = nullptr;
  int64_t count_ = 0;
};

template <class T>
DeviceArray<T> zeros(int64_t count) {
  DeviceArray<T> array(count);
  if (count > 0) FASTRNN_CUDA_CHECK(cudaMemset(array.data(), 0, array.bytes()));
  return array;
}

inline int64_t count_of(const Tensor& view) {
  int64_t count = view.present ? 1 : 0;
  for (int i = 0; i < view.rank; ++i) count *= view.shape[i];
  return count;
}

inline bool is_packed(const Tensor& view) {
  int64_t stride = 1;
  for (int i = view.rank - 1; i >= 0; stride *= view.shape[i--]) {
    if (view.shape[i] != 1 && view.stride[i] != stride) return false;
  }
  return true;
}

// body(element) for every element of the view, the last axis fastest
template <class T, class Body>
void for_each_element(const Tensor& view, const Body& body) {
  constexpr int kAxes = 3;  // no array of a call has more
  int64_t shape[kAxes] = {1, 1, 1}, stride[kAxes] = {};
  for (int i = 0; i < view.rank; ++i) {
    shape[kAxes - view.rank + i] = view.shape[i];
    stride[kAxes - view.rank + i] = view.stride[i];
  }
  T* data = static_cast<T*>(view.data);
  for (int64_t i = 0; i < shape[0]; ++i) {
    for (int64_t j = 0; j < shape[1]; ++j) {
      T* row = data + i * stride[0] + j * stride[1];
      for (int64_t k = 0; k < shape[2]; ++k) body(row[k * stride[2]]);
    }
  }
}

template <class T>
DeviceArray<T> upload(const T* packed, int64_t count) {
  DeviceArray<T> array(count);
  if (count > 0)
    FASTRNN_CUDA_CHECK(cudaMemcpy(array.data(), packed, array.bytes(), cudaMemcpyHostToDevice));
  return array;
}

// An absent view gives an empty array, whose data() is null.
template <class T>
DeviceArray<T> upload(const Tensor& view) {
  const int64_t count = count_of(view);
  if (count == 0 || is_packed(view)) return upload(static_cast<const T*>(view.data), count);
  std::vector<T> packed;
  packed.reserve(static_cast<size_t>(count));
  for_each_element<const T>(view, [&](const T& element) { packed.push_back(element); });
  return upload(packed.data(), count);
}

template <class T>
DeviceArray<T> upload_or_zeros(const Tensor& view, int64_t count) {
  return view.present ? upload<T>(view) : zeros<T>(count);
}

template <class T>
void download(const DeviceArray<T>& array, const Tensor& view) {
  const int64_t count = count_of(view);
  if (count == 0) return;
  if (is_packed(view)) {
    FASTRNN_CUDA_CHECK(cudaMemcpy(view.data, array.data(), array.bytes(), cudaMemcpyDeviceToHost));
    return;
  }
  std::vector<T> packed(static_cast<size_t>(count));
  FASTRNN_CUDA_CHECK(
      cudaMemcpy(packed.data(), array.data(), array.bytes(), cudaMemcpyDeviceToHost));
  const T* next = packed.data();
  for_each_element<T>(view, [&](T& element) { element = *next++; });
}

inline Tensor transposed(Tensor matrix) {
  std::swap(matrix.shape[0], matrix.shape[1]);
  std::swap(matrix.stride[0], matrix.stride[1]);
  return matrix;
}

constexpr int kThreads = 256;  // of a block

FASTRNN_HD int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

__device__ inline int64_t thread_index() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }

// One thread an item, in one dimension: gridDim.y and .z end at 65535. Kernels ignore the threads
// past the last item.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t items, const Arguments&... arguments) {
  if (items == 0) return;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(divide_up(items, kThreads)));
  config.blockDim = dim3(kThreads);
  FASTRNN_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
