// What a test sees and sets of the emulated CUDA runtime (cuda_runtime.h beside this file).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <vector>

namespace cuda_emulation {

constexpr size_t kSharedBytes = 227 << 10;  // of a block, at most

inline int multiprocessors = 132;  // with a block each

inline int largest_cluster = 16;
// compute capability, major; 8 has no clusters
inline int capability = std::getenv("EMULATED_CAPABILITY") ? 9 : 8;
inline int devices = 1;
inline int device = 0;            // the current one
inline void* stream = nullptr;    // of the last launch
inline int device_of_launch = 0;  // of the last launch
inline int64_t order = 0;  // 0: a launch runs its threads in order; else a permutation of them
inline int64_t calls_to_failure = -1;  // how many more runtime calls succeed; negative: all
inline int64_t launches = 0;
inline int64_t waits = 0;                    // calls that may wait for the GPU
inline int last_error = 0;                   // what cudaGetLastError would return and clear
inline std::map<char*, size_t> allocations;  // on the device, with their sizes

using Graph = std::vector<std::function<void()>>;
inline std::map<void*, Graph> captures;  // by stream: what it has been given since
inline int64_t graphs = 0;               // that there are, executable ones too
inline int64_t graph_launches = 0;
inline int64_t streams = 0;  // made and not destroyed

// Does what a stream is given, now or in a graph.
inline void put(void* into, std::function<void()> work) {
  const auto capture = captures.find(into);
  if (capture != captures.end()) {
    capture->second.push_back(std::move(work));
  } else {
    work();
  }
}

}  // namespace cuda_emulation
