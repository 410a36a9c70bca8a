// Launches of clusters or groups of blocks, one to a tile of kColumns batch rows.
#pragma once

#include <algorithm>
#include <vector>

#include "persistent/sizes.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

static_assert(kColumns == kPersistentRows);

struct Device {
  int capability = 0;    // major
  int shared_bytes = 0;  // of a block, at most
  int multiprocessors = 0;

  // the current one
  static const Device& current() {
    static thread_local std::vector<Device> known;
    int device = 0;
    FASTRNN_CUDA_CHECK(cudaGetDevice(&device));
    const auto i = static_cast<size_t>(device);
    if (known.size() <= i) known.resize(i + 1);
    if (known[i].capability == 0) known[i] = Device(device);
    return known[i];
  }

  Device() = default;

 private:
  explicit Device(int device) {
    FASTRNN_CUDA_CHECK(
        cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    FASTRNN_CUDA_CHECK(
        cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
    FASTRNN_CUDA_CHECK(
        cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device));
  }
};

// `blocks`: of a cluster or group
template <class Way, class Traits>
class Launch {
  static constexpr auto kKernel = Way::template kernel<Traits>();

 public:
  using Shape = typename Way::template Shape<Traits>;
  using Data = typename Way::template Data<typename Traits::Mode::Value>;

  Launch(const Shape& shape, int blocks, cudaStream_t stream) : shape_(shape), blocks_(blocks) {
    const auto* const function = reinterpret_cast<const void*>(kKernel);
    // the same for every shape: another thread may launch the same kernel now
    FASTRNN_CUDA_CHECK(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            Device::current().shared_bytes));
    if constexpr (Traits::kGrouped) {
      attribute_.id = cudaLaunchAttributeCooperative;  // all blocks are there at a time
      attribute_.val.cooperative = 1;
    } else {
      FASTRNN_CUDA_CHECK(
          cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
      attribute_.id = cudaLaunchAttributeClusterDimension;
      attribute_.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
    }
    config_.gridDim = dim3(static_cast<unsigned>(blocks));
    config_.blockDim = dim3(Traits::kThreads);
    config_.dynamicSmemBytes = static_cast<size_t>(shape.bytes);
    config_.stream = stream;
    config_.attrs = &attribute_;
    config_.numAttrs = 1;
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  // How many clusters or groups the device runs at a time; 0: not one.
  int active() const {
    const auto* const function = reinterpret_cast<const void*>(kKernel);
    int count = 0;
    if constexpr (Traits::kGrouped) {
      FASTRNN_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
          &count, function, Traits::kThreads, config_.dynamicSmemBytes));
      return count * Device::current().multiprocessors / blocks_;
    } else {
      FASTRNN_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&count, function, &config_));
      return count;
    }
  }

  // `exchange_bytes`: of data.exchange
  void run(Data data, int64_t exchange_bytes) {
    const int64_t tiles = divide_up(data.seq.B, kColumns);
    if constexpr (Traits::kGrouped) {
      const int64_t words_each =
          Way::template GroupExchange<Traits>::group_words(shape_.units, blocks_);
      const int64_t room = exchange_bytes / int64_t{sizeof(Word16)} / words_each;
      const int64_t most = std::min<int64_t>(active(), room);
      data.group = blocks_;
      for (int64_t first = 0; first < tiles; first += most) {
        const int64_t groups = std::min(most, tiles - first);
        data.first_tile = static_cast<int>(first);
        FASTRNN_CUDA_CHECK(cudaMemsetAsync(
            data.exchange, 0, static_cast<size_t>(groups * words_each) * sizeof(Word16),
            config_.stream));
        launch(groups, data);
      }
    } else {
      launch(tiles, data);
    }
  }

 private:
  void launch(int64_t groups, const Data& data) {
    config_.gridDim = dim3(static_cast<unsigned>(groups * blocks_));
    FASTRNN_CUDA_CHECK(cudaLaunchKernelEx(&config_, kKernel, data, shape_));
  }

  const Shape shape_;
  const int blocks_;
  cudaLaunchAttribute attribute_ = {};
  cudaLaunchConfig_t config_ = {};
};

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
