// What a step of a persistent or a per-step kernel costs at least on this GPU: launches, graph
// nodes, barriers of the grid and of clusters, an all-gather through distributed shared memory.
//
//     nvcc -std=c++20 -O3 -arch=native -o probe gpu_probe.cu && ./probe probe.jsonl
//
// A line of JSON for each, with the median of kRepeats timings by CUDA events. Clusters need a GPU
// of compute capability 9.0; elsewhere their lines are missing.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace cg = cooperative_groups;

namespace {

constexpr int kRepeats = 15, kRounds = 1000, kThreads = 256;
std::FILE* output = nullptr;

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "gpu_probe: %s: %s\n", call, cudaGetErrorString(status));
  std::exit(1);
}
#define CHECK(call) check(call, #call)

// microseconds of a call of `body` by the median, over `rounds`
template <class Body>
double microseconds(cudaStream_t stream, int rounds, const Body& body) {
  cudaEvent_t start, stop;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&stop));
  std::vector<float> times;
  for (int i = 0; i < kRepeats + 2; ++i) {
    CHECK(cudaEventRecord(start, stream));
    body();
    CHECK(cudaEventRecord(stop, stream));
    CHECK(cudaEventSynchronize(stop));
    float ms = 0;
    CHECK(cudaEventElapsedTime(&ms, start, stop));
    if (i >= 2) times.push_back(ms);
  }
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(stop));
  std::nth_element(times.begin(), times.begin() + kRepeats / 2, times.end());
  return 1000.0 * times[kRepeats / 2] / rounds;
}

void report(const char* what, int size, double value, const char* unit) {
  std::fprintf(output, "{\"what\": \"%s\", \"size\": %d, \"%s\": %.4f}\n", what, size, unit, value);
  std::fflush(output);
  std::printf("%-34s %5d  %.4f %s\n", what, size, value, unit);
}

__global__ void empty_kernel() {}

__global__ void grid_barriers_kernel(int rounds) {
  for (int i = 0; i < rounds; ++i) cg::this_grid().sync();
}

void probe_launches(cudaStream_t stream) {
  const auto launches = [&] {
    for (int i = 0; i < kRounds; ++i) empty_kernel<<<1, kThreads, 0, stream>>>();
  };
  report("launch of a kernel", 1, microseconds(stream, kRounds, launches), "us");
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  launches();
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&executable, graph, 0));
  const auto replay = [&] { CHECK(cudaGraphLaunch(executable, stream)); };
  report("node of a graph, one after another", 1, microseconds(stream, kRounds, replay), "us");
  CHECK(cudaGraphExecDestroy(executable));
  CHECK(cudaGraphDestroy(graph));
}

void probe_grid_barriers(cudaStream_t stream, int processors) {
  for (int blocks : {16, 32, 64, 128, processors}) {
    if (blocks > processors) continue;
    int rounds = kRounds;
    void* arguments[] = {&rounds};
    const auto run = [&] {
      CHECK(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(grid_barriers_kernel), dim3(blocks),
                                        dim3(kThreads), arguments, 0, stream));
    };
    report("barrier of the grid, blocks", blocks, microseconds(stream, kRounds, run), "us");
  }
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__global__ void cluster_barriers_kernel(int rounds) {
  for (int i = 0; i < rounds; ++i) cg::this_cluster().sync();
}

// each round every block writes `bytes` to every block of its cluster, 16 bytes a store
__global__ void all_gather_kernel(int rounds, int bytes) {
  extern __shared__ int4 shared[];
  cg::cluster_group cluster = cg::this_cluster();
  const unsigned size = cluster.num_blocks(), rank = cluster.block_rank();
  const int words = bytes / 16;
  for (int i = 0; i < rounds; ++i) {
    int4* const half = shared + (i % 2) * words * size;
    for (int at = threadIdx.x; at < words * static_cast<int>(size); at += blockDim.x) {
      const int to = at / words, word = at % words;
      cluster.map_shared_rank(half, to)[rank * words + word] = make_int4(i, at, to, word);
    }
    cluster.sync();
  }
}
#else
__global__ void cluster_barriers_kernel(int) {}
__global__ void all_gather_kernel(int, int) {}
#endif

void probe_clusters(cudaStream_t stream) {
  CHECK(cudaFuncSetAttribute(cluster_barriers_kernel,
                             cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  CHECK(cudaFuncSetAttribute(all_gather_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  constexpr int kShared = 200 << 10;
  CHECK(cudaFuncSetAttribute(all_gather_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             kShared));
  for (unsigned size : {2u, 4u, 8u, 16u}) {
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {size, 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(size);
    config.blockDim = dim3(kThreads);
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    const auto barriers = [&] {
      CHECK(cudaLaunchKernelEx(&config, cluster_barriers_kernel, kRounds));
    };
    config.dynamicSmemBytes = kShared;
    int clusters = 0;
    CHECK(cudaOccupancyMaxActiveClusters(&clusters, all_gather_kernel, &config));
    report("clusters at once with 200 KiB, of", static_cast<int>(size), clusters, "clusters");
    config.dynamicSmemBytes = 0;
    if (clusters == 0) continue;
    report("barrier of a cluster, blocks", static_cast<int>(size),
           microseconds(stream, kRounds, barriers), "us");
    for (int bytes : {512, 2048, 4096}) {
      config.dynamicSmemBytes = 2 * static_cast<size_t>(bytes) * size;
      const auto gather = [&] {
        CHECK(cudaLaunchKernelEx(&config, all_gather_kernel, kRounds, bytes));
      };
      char what[64];
      std::snprintf(what, sizeof what, "all-gather of %d bytes, blocks", bytes);
      report(what, static_cast<int>(size), microseconds(stream, kRounds, gather), "us");
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: gpu_probe OUTPUT.jsonl\n");
    return 2;
  }
  output = std::fopen(arguments[1], "w");
  if (!output) {
    std::perror(arguments[1]);
    return 2;
  }
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  probe_launches(stream);
  probe_grid_barriers(stream, properties.multiProcessorCount);
  if (properties.major >= 9) probe_clusters(stream);
  return 0;
}
