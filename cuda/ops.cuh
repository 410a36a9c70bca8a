// What a thread does together with its warp, its block or its cluster, and what only compute
// capability 9.0 and later can do. Each has two forms: PTX here, and one for the host in
// tests/cpp/cuda_emulation/emulated_ops.hpp, where a kernel's own source runs with a fiber a
// thread.
//
// A cluster's blocks are called by rank. An address of this block's shared memory names the same
// place in every block of the cluster.
#pragma once

#include "device.cuh"
#include "values.cuh"

namespace fastrnn {
namespace {
namespace cuda {

// There are kernels that need them in the code for every architecture, without a body where they
// could not run.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define FASTRNN_HAS_CLUSTERS 1
#else
#define FASTRNN_HAS_CLUSTERS 0
#endif

constexpr int kWarp = 32;

// Counts bytes that arrive, in phases: a phase ends when all that it expects has come. In shared
// memory; the parity of a phase is 0, 1, 0, ...
struct Barrier {
  uint64_t state;
};

struct alignas(16) Word16 {
  uint32_t part[4];
};

// Operands of the tensor cores: what the bits of a register of A and B are, and the depth of one
// instruction.
struct BFloat16Operands {
  static constexpr int kDepth = 16;
};
struct Float16Operands {
  static constexpr int kDepth = 16;
};
struct Tf32Operands {
  static constexpr int kDepth = 8;
};

#if defined(__CUDACC__)

__device__ __forceinline__ char* shared_memory() {
  extern __shared__ __align__(128) char memory[];
  return memory;
}

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

__device__ __forceinline__ uint32_t address_in_block(uint32_t address, int rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}

__device__ __forceinline__ int cluster_rank() {
  int rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ __forceinline__ int cluster_size() {
  int size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}

__device__ __forceinline__ void sync_warp() { __syncwarp(); }
__device__ __forceinline__ void sync_block() { __syncthreads(); }

// `threads` of the block, whole warps, that all name the same group, from 0 on.
__device__ __forceinline__ void sync_group(int group, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "r"(threads) : "memory");
}

__device__ __forceinline__ void sync_cluster() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

__device__ __forceinline__ float shuffle_xor(float value, int lanes) {
  return __shfl_xor_sync(0xffffffffu, value, lanes);
}

// One arrival ends a phase, with the bytes that it expects. Followed by sync_cluster().
__device__ __forceinline__ void init_barrier(Barrier* barrier) {
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;\n"
      "fence.mbarrier_init.release.cluster;" ::"r"(shared_address(barrier))
      : "memory");
}

// The arrival: this phase ends when `bytes` have come.
__device__ __forceinline__ void expect_bytes(Barrier* barrier, int bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

// Returns when a phase of this parity has ended and the next has not. What was written with its
// bytes is there then; of the block's scope, for that of the cluster would throw away the L1 cache,
// and wait for every load under way before it does.
__device__ __forceinline__ void wait_phase(Barrier* barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again_%=;\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Writes `value` at the place of `to` in block `rank`, and counts its bytes in that block's
// barrier.
__device__ __forceinline__ void store_async(void* to, const Word16& value, Barrier* barrier,
                                            int rank) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(address_in_block(shared_address(to), rank)),
      "r"(value.part[0]), "r"(value.part[1]), "r"(value.part[2]), "r"(value.part[3]),
      "r"(address_in_block(shared_address(barrier), rank))
      : "memory");
}

// Writes a word of global memory whole, in no order with other accesses.
__device__ __forceinline__ void store_word(Word16* to, const Word16& value) {
  asm volatile(
      "{\n"
      ".reg .b128 word;\n"
      ".reg .b64 low, high;\n"
      "mov.b64 low, {%1, %2};\n"
      "mov.b64 high, {%3, %4};\n"
      "mov.b128 word, {low, high};\n"
      "st.relaxed.gpu.global.b128 [%0], word;\n"
      "}" ::"l"(to),
      "r"(value.part[0]), "r"(value.part[1]), "r"(value.part[2]), "r"(value.part[3])
      : "memory");
}

__device__ __forceinline__ Word16 load_word(const Word16* from) {
  Word16 value;
  asm volatile(
      "{\n"
      ".reg .b128 word;\n"
      ".reg .b64 low, high;\n"
      "ld.relaxed.gpu.global.b128 word, [%4];\n"
      "mov.b128 {low, high}, word;\n"
      "mov.b64 {%0, %1}, low;\n"
      "mov.b64 {%2, %3}, high;\n"
      "}"
      : "=r"(value.part[0]), "=r"(value.part[1]), "=r"(value.part[2]), "=r"(value.part[3])
      : "l"(from)
      : "memory");
  return value;
}

// Reads words whole, each when it is_there(word); null for none.
template <int N, class IsThere>
__device__ __forceinline__ void wait_words(const Word16* const (&from)[N], Word16 (&words)[N],
                                           const IsThere& is_there) {
  bool missing[N], any;
#pragma unroll
  for (int i = 0; i < N; ++i) missing[i] = from[i] != nullptr;
  do {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (missing[i]) words[i] = load_word(from[i]);
    }
    any = false;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      missing[i] = missing[i] && !is_there(words[i]);
      any |= missing[i];
    }
  } while (any);
}

// Four matrices of 8 rows of 16 bytes; lane 8 m + r has the address of row r of matrix m, and gets
// word lane % 4 of row lane / 4 of each.
__device__ __forceinline__ void load_matrices(const void* row, uint32_t (&words)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(row))
               : "memory");
}

// d[m] += a[m] b for M tiles: a[m] is 16 x depth, from register kFirstA on, b depth x 8, from
// kFirstB on. Layouts as PTX has them for mma.m16n8k16 (and .m16n8k8 for tf32).
template <class Operands, int kFirstA, int kFirstB, int M, int A, int B>
__device__ __forceinline__ void multiply_tiles(const uint32_t (&a)[M][A], const uint32_t (&b)[B],
                                               float (*d)[4]) {
  static_assert(kFirstA + 4 <= A && kFirstB + 2 <= B);
#define FASTRNN_MMA(shape_and_types)                                                 \
  asm volatile("mma.sync.aligned." shape_and_types                                   \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"    \
               : "+f"(d[m][0]), "+f"(d[m][1]), "+f"(d[m][2]), "+f"(d[m][3])          \
               : "r"(a[m][kFirstA]), "r"(a[m][kFirstA + 1]), "r"(a[m][kFirstA + 2]), \
                 "r"(a[m][kFirstA + 3]), "r"(b[kFirstB]), "r"(b[kFirstB + 1]))
#pragma unroll
  for (int m = 0; m < M; ++m) {
    if constexpr (std::is_same_v<Operands, BFloat16Operands>) {
      FASTRNN_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
    } else if constexpr (std::is_same_v<Operands, Float16Operands>) {
      FASTRNN_MMA("m16n8k16.row.col.f32.f16.f16.f32");
    } else {
      FASTRNN_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
    }
  }
#undef FASTRNN_MMA
}

// The same value, of which the compiler knows nothing: what depends on it is not computed ahead.
__device__ __forceinline__ int opaque(int value) {
  asm volatile("mov.u32 %0, %0;" : "+r"(value));
  return value;
}

// tanh with a relative error of 2^-11
__device__ __forceinline__ float approximate_tanh(float value) {
  float result;
  asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}

// to 10 bits of mantissa, ties away from zero
__device__ __forceinline__ uint32_t rounded_to_tf32(float value) {
  uint32_t result;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(value));
  return result;
}

#else
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
#include "emulated_ops.hpp"
namespace fastrnn {
namespace {
namespace cuda {
#endif

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
