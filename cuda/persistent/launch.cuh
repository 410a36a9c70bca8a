// Launches of clusters, one to a tile of kColumns batch rows.
#pragma once

#include "persistent/data.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

struct ClusterLaunch {
  cudaLaunchAttribute attribute = {};
  cudaLaunchConfig_t config = {};

  template <class... Parameters>
  ClusterLaunch(void (*kernel)(Parameters...), int64_t tiles, int cluster, int threads,
                int shared_bytes, cudaStream_t stream) {
    const void* const function = reinterpret_cast<const void*>(kernel);
    FASTRNN_CUDA_CHECK(
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
    FASTRNN_CUDA_CHECK(
        cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
    config.gridDim = dim3(static_cast<unsigned>(tiles * cluster));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
  }
  ClusterLaunch(const ClusterLaunch&) = delete;
  ClusterLaunch& operator=(const ClusterLaunch&) = delete;
};

// How many clusters of this launch the device runs at a time; 0: not one.
template <class... Parameters>
int active_clusters(void (*kernel)(Parameters...), const ClusterLaunch& launch) {
  int clusters = 0;
  FASTRNN_CUDA_CHECK(cudaOccupancyMaxActiveClusters(
      &clusters, reinterpret_cast<const void*>(kernel), &launch.config));
  return clusters;
}

template <class Traits, class Data, class Shape>
void launch_tiles(void (*kernel)(Data, Shape), int cluster, cudaStream_t stream, const Data& data) {
  const int64_t tiles = divide_up(data.seq.B, kColumns);
  if (tiles == 0) return;
  const Shape shape(data.seq.H, cluster);
  const ClusterLaunch launch(kernel, tiles, cluster, Traits::kThreads, shape.bytes, stream);
  FASTRNN_CUDA_CHECK(cudaLaunchKernelEx(&launch.config, kernel, data, shape));
}

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
