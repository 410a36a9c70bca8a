// The emulator of cuda/ops.cuh: what each operation does, and that a kernel without a barrier that
// it needs, with one buffer where it needs two, or that waits for the wrong phase does not get by.
#include <vector>

#include "../harness.hpp"
#include "ops.cuh"

namespace fastrnn::test {
namespace {

using namespace cuda;

constexpr int kSeeds = 20;

template <class... Parameters, class... Arguments>
void launch_fibers(int blocks, int threads, int cluster, size_t shared_bytes,
                   void (*kernel)(Parameters...), const Arguments&... arguments) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  FASTRNN_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// ---------------------------------------------------------------------------- a kernel with faults

enum class Fault {
  kNone,
  kNoBarrierBeforeSending,
  kOneBuffer,
  kWrongPhase,
  kNoExpectation,
  kWrongBytes,
  kBarrierInOneWarp,
  kSendsAtTheEnd
};

// Every block has 128 numbers, one a thread. In each step a block's numbers become the sums over
// all blocks of the cluster of the numbers of the thread's neighbour: by way of shared memory
// within a block, and to the others' buffers through barriers.
template <Fault kFault>
__global__ void neighbours_kernel(int steps, float* numbers) {
  constexpr int kThreadsHere = 128, kRoom = 16 * kThreadsHere;
  char* const memory = shared_memory();
  Barrier* const barriers = reinterpret_cast<Barrier*>(memory);
  float* const own = reinterpret_cast<float*>(memory + 16);
  float* const buffers = own + kThreadsHere;
  const int thread = static_cast<int>(threadIdx.x), rank = cluster_rank(), size = cluster_size();
  const int bytes = size * kThreadsHere * 4 + (kFault == Fault::kWrongBytes ? 16 : 0);
  if (thread == 0) {
    for (int i = 0; i < 2; ++i) init_barrier(&barriers[i]);
    for (int i = 0; i < 2; ++i) expect_bytes(&barriers[i], bytes);
  }
  sync_cluster();
  float* const mine = numbers + blockIdx.x * kThreadsHere + thread;
  float value = *mine;
  for (int step = 0; step < steps; ++step) {
    const int buffer = kFault == Fault::kOneBuffer ? 0 : step % 2;
    own[thread] = value;
    if (kFault != Fault::kNoBarrierBeforeSending) sync_block();
    if (kFault == Fault::kBarrierInOneWarp && thread < kWarp) sync_block();
    for (int i = thread; i < size * kThreadsHere / 4; i += kThreadsHere) {
      const int to = i / (kThreadsHere / 4), first = i % (kThreadsHere / 4) * 4;
      Word16 word;
      for (int j = 0; j < 4; ++j) word.part[j] = std::bit_cast<uint32_t>(own[first + j]);
      store_async(buffers + buffer * kRoom + rank * kThreadsHere + first, word, &barriers[step % 2],
                  to);
    }
    const int parity = step / 2 % 2;
    wait_phase(&barriers[step % 2], kFault == Fault::kWrongPhase ? 1 - parity : parity);
    if (thread == 0 && kFault != Fault::kNoExpectation) expect_bytes(&barriers[step % 2], bytes);
    value = 0;
    for (int from = 0; from < size; ++from) {
      value += buffers[buffer * kRoom + from * kThreadsHere + (thread + 1) % kThreadsHere];
    }
    sync_block();
  }
  *mine = value;
  if (kFault == Fault::kSendsAtTheEnd) store_async(buffers, {}, &barriers[0], (rank + 1) % size);
}

// What is wrong with the kernel's answer, over all seeds; empty: nothing.
template <Fault kFault>
std::string what_shows() {
  constexpr int kBlocks = 8, kCluster = 4, kCount = kBlocks * 128, kSteps = 5;
  std::vector<float> start(kCount), want;
  for (size_t i = 0; i < start.size(); ++i) start[i] = static_cast<float>(i * 37 % 101);
  want = start;
  for (int step = 0; step < kSteps; ++step) {
    const std::vector<float> before = want;
    for (size_t i = 0; i < want.size(); ++i) {
      const size_t cluster = i / 128 / kCluster * kCluster, neighbour = (i + 1) % 128;
      want[i] = 0;
      for (size_t from = 0; from < kCluster; ++from)
        want[i] += before[(cluster + from) * 128 + neighbour];
    }
  }
  std::string shows;
  for (int seed = 0; seed < kSeeds; ++seed) {
    std::vector<float> numbers = start;
    cuda_emulation::order = seed;
    try {
      launch_fibers(kBlocks, 128, kCluster, 16 + 128 * 4 + 2 * 16 * 128 * 4,
                    neighbours_kernel<kFault>, kSteps, numbers.data());
      if (numbers != want) shows += "wrong sums. ";
    } catch (const std::runtime_error& error) {
      shows += std::string(error.what()) + ". ";
    }
  }
  cuda_emulation::order = 0;
  return shows;
}

template <Fault kFault>
void check_shows(const char* expected) {
  const std::string shows = what_shows<kFault>();
  FASTRNN_CHECK(shows.find(expected) != std::string::npos, "'" + shows + "'");
}

void a_sound_kernel_passes() {
  FASTRNN_CHECK(what_shows<Fault::kNone>().empty(), what_shows<Fault::kNone>());
}

void a_removed_barrier_is_caught() { check_shows<Fault::kNoBarrierBeforeSending>("wrong sums"); }
void a_single_buffer_is_caught() { check_shows<Fault::kOneBuffer>("wrong sums"); }
void a_wrong_phase_is_caught() {
  const std::string shows = what_shows<Fault::kWrongPhase>();
  FASTRNN_CHECK(!shows.empty(), shows);
}
void a_missing_expectation_is_caught() {
  check_shows<Fault::kNoExpectation>("threads at a phase of a barrier");
}
void bytes_that_never_come_are_caught() {
  check_shows<Fault::kWrongBytes>("deadlock: 512 threads at a phase of a barrier");
}
void a_barrier_that_some_threads_skip_is_caught() {
  const std::string shows = what_shows<Fault::kBarrierInOneWarp>();
  FASTRNN_CHECK(!shows.empty(), shows);
}
void data_for_a_block_that_has_ended_is_caught() {
  check_shows<Fault::kSendsAtTheEnd>("data for a block that has ended");
}

// ------------------------------------------------------------------------------- what operations
// do

constexpr int kDepths = 16;

template <class Operands>
uint32_t word_of(const float* values) {
  if constexpr (std::is_same_v<Operands, Tf32Operands>) {
    return rounded_to_tf32(*values);
  } else {
    using Value = std::conditional_t<std::is_same_v<Operands, BFloat16Operands>, BFloat16, Float16>;
    return stored<Value>(values[0]).bits | uint32_t{stored<Value>(values[1]).bits} << 16;
  }
}

// a [2][16, 16] row by row, b [8, 16] column by column, sums [2][16, 8]
template <class Operands>
__global__ void product_kernel_of_a_warp(const float* a, const float* b, float* sums) {
  constexpr int kParts = Operands::kDepth / 8, kWords = kDepths / kParts;
  const int lane = static_cast<int>(threadIdx.x), row = lane / 4;
  uint32_t* const shared = reinterpret_cast<uint32_t*>(shared_memory());
  for (int i = lane; i < 8 * kWords; i += kWarp) {
    shared[i / kWords * 20 + i % kWords] = word_of<Operands>(b + i * kParts);
  }
  sync_block();
  uint32_t left[2][8], right[4];
  for (int m = 0; m < 2; ++m) {
    for (int i = 0; i < 2 * kWords / 4; ++i) {
      const int word = lane % 4 + i / 2 * 4;
      left[m][i] = word_of<Operands>(a + (m * 16 + row + i % 2 * 8) * kDepths + word * kParts);
    }
  }
  float d[2][4] = {};
  const char* rows = reinterpret_cast<const char*>(shared) + lane % 8 * 80;
  load_matrices(rows + lane / 8 % (4 / kParts) * 16, right);
  multiply_tiles<Operands, 0, 0>(left, right, d);
  if constexpr (kParts == 1) multiply_tiles<Operands, 4, 2>(left, right, d);
  for (int m = 0; m < 2; ++m) {
    for (int i = 0; i < 4; ++i) {
      sums[(m * 16 + row + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[m][i];
    }
  }
}

// Small whole numbers: every format holds them and their sums of products.
template <class Operands>
void check_product() {
  std::vector<float> a(2 * 16 * 16), b(8 * 16), sums(2 * 16 * 8, -1);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i * 29 % 17) - 8;
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i * 31 % 19) - 9;
  launch_fibers(1, kWarp, 1, 8 * 80, product_kernel_of_a_warp<Operands>, a.data(), b.data(),
                sums.data());
  for (size_t row = 0; row < 32; ++row) {
    for (size_t column = 0; column < 8; ++column) {
      float sum = 0;
      for (size_t k = 0; k < 16; ++k) sum += a[row * 16 + k] * b[column * 16 + k];
      FASTRNN_CHECK(sums[row * 8 + column] == sum,
                    std::to_string(row) + ", " + std::to_string(column));
    }
  }
}

void bfloat16_product() { check_product<BFloat16Operands>(); }
void float16_product() { check_product<Float16Operands>(); }
void tf32_product() { check_product<Tf32Operands>(); }

__global__ void shuffle_kernel(float* values) {
  values[threadIdx.x] = shuffle_xor(static_cast<float>(threadIdx.x), 5);
}

void shuffle_exchanges_lanes() {
  std::vector<float> values(64, -1);
  launch_fibers(1, 64, 1, 0, shuffle_kernel, values.data());
  for (size_t i = 0; i < values.size(); ++i) {
    FASTRNN_CHECK(values[i] == static_cast<float>(i / 32 * 32 + (i % 32 ^ 5)), std::to_string(i));
  }
}

void sums_are_cut_off_as_in_the_hardware() {
  FASTRNN_CHECK(truncated(1 + 0x1.8p-24) == 1 && truncated(-1 - 0x1.8p-24) == -1, "");
  FASTRNN_CHECK(truncated(1 + 0x1p-23) == 1 + 0x1p-23f, "");
}

}  // namespace
}  // namespace fastrnn::test

int main() {
  using namespace fastrnn::test;
  constexpr Test kTests[] = {
      {"a sound kernel passes", a_sound_kernel_passes},
      {"a removed barrier is caught", a_removed_barrier_is_caught},
      {"a single buffer is caught", a_single_buffer_is_caught},
      {"a wrong phase is caught", a_wrong_phase_is_caught},
      {"a missing expectation is caught", a_missing_expectation_is_caught},
      {"bytes that never come are caught", bytes_that_never_come_are_caught},
      {"a barrier that some threads skip is caught", a_barrier_that_some_threads_skip_is_caught},
      {"data for a block that has ended is caught", data_for_a_block_that_has_ended_is_caught},
      {"bfloat16 product", bfloat16_product},
      {"float16 product", float16_product},
      {"tf32 product", tf32_product},
      {"shuffle exchanges lanes", shuffle_exchanges_lanes},
      {"sums are cut off as in the hardware", sums_are_cut_off_as_in_the_hardware},
  };
  return run_all(kTests);
}
