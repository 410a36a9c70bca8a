// What a test sees and sets of the emulated CUDA runtime (cuda_runtime.h beside this file).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace cuda_emulation {

constexpr size_t kSharedBytes = 227 << 10;  // of a block, at most
constexpr int kBlocks = 128;                // that run at a time

inline int largest_cluster = 16;
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

}  // namespace cuda_emulation
