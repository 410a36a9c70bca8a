// cuBLAS for large products, where it is found at run time: loaded by somebody already (torch,
// CuPy, JAX), beside this module in site-packages (the wheel nvidia-cublas), or on the system's
// path. Declared by hand, from cuBLAS 12's and 13's ABI. float32 is multiplied in float32, or where
// that is asked for in TF32 (precision.hpp). A thread has a handle for each device, for the life of
// the process: a call that is being captured in a graph needs one from before.
#pragma once

#include <dlfcn.h>

#include <string>
#include <type_traits>
#include <vector>

#include "device.cuh"
#include "precision.hpp"

namespace fastrnn {
namespace {
namespace cuda {

struct CublasTypes {
  static constexpr int kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 14;  // cudaDataType
  static constexpr int kCompute32 = 68, kCompute64 = 70, kComputeTf32 = 77;  // cublasComputeType_t
  static constexpr int kPlain = 0, kTransposed = 1;                          // cublasOperation_t
  static constexpr int kDefaultAlgorithm = -1;
  static constexpr int kNoReducedSums = 16;  // cublasMath_t: 16-bit products summed in float32

  template <class T>
  static constexpr int of() {
    if constexpr (sizeof(T) == 8) return kFloat64;
    if constexpr (sizeof(T) == 4) return kFloat32;
    return std::is_same_v<T, Float16> ? kFloat16 : kBFloat16;
  }

  // what sums of products of T are made in
  template <class T>
  static constexpr int compute(Float32Precision precision) {
    if constexpr (sizeof(T) == 8) return kCompute64;
    const bool is_float32 = sizeof(T) == 4;
    return is_float32 && precision == Float32Precision::kTf32 ? kComputeTf32 : kCompute32;
  }
};

class Cublas {
 public:
  using Handle = void*;
  using Create = int (*)(Handle*);
  using SetStream = int (*)(Handle, cudaStream_t);
  using SetWorkspace = int (*)(Handle, void*, size_t);
  using SetMathMode = int (*)(Handle, int);
  using Gemm = int (*)(Handle, int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k,
                       const void* alpha, const void* a, int type_a, int64_t lda, const void* b,
                       int type_b, int64_t ldb, const void* beta, void* c, int type_c, int64_t ldc,
                       int compute, int algorithm);

  // null where there is none
  static const Cublas* find() {
    static const Cublas found;
    return found.gemm ? &found : nullptr;
  }

  // of this thread and the current device
  Handle handle() const {
    static thread_local std::vector<Handle> handles;
    int device = 0;
    FASTRNN_CUDA_CHECK(cudaGetDevice(&device));
    const auto i = static_cast<size_t>(device);
    if (handles.size() <= i) handles.resize(i + 1);
    if (!handles[i]) {
      check(create(&handles[i]), "cublasCreate");
      check(set_math_mode(handles[i], CublasTypes::kNoReducedSums), "cublasSetMathMode");
    }
    return handles[i];
  }

  static void check(int status, const char* call) {
    if (status != 0)
      throw std::runtime_error(std::string("cuBLAS: ") + call + ": status " +
                               std::to_string(status));
  }

  Create create = nullptr;
  SetStream set_stream = nullptr;
  SetWorkspace set_workspace = nullptr;
  SetMathMode set_math_mode = nullptr;
  Gemm gemm = nullptr;

 private:
  Cublas() {
    void* const library = load();
    if (!library) return;
    const auto symbol = [&](auto& function, const char* name) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    if (!symbol(create, "cublasCreate_v2") || !symbol(set_stream, "cublasSetStream_v2") ||
        !symbol(set_workspace, "cublasSetWorkspace_v2") ||
        !symbol(set_math_mode, "cublasSetMathMode") || !symbol(gemm, "cublasGemmEx_64"))
      gemm = nullptr;
  }

  static void* load() {
    constexpr const char* kNames[] = {"libcublas.so.13", "libcublas.so.12"};
    for (const char* name : kNames) {
      if (void* found = dlopen(name, RTLD_NOW | RTLD_NOLOAD)) return found;
    }
    Dl_info self;
    if (dladdr(reinterpret_cast<void*>(&load), &self) != 0 && self.dli_fname) {
      std::string site(self.dli_fname);  // .../site-packages/fastrnn/_core.so
      for (int i = 0; i < 2; ++i) site.resize(site.find('/') == site.npos ? 0 : site.rfind('/'));
      for (const char* path :
           {"/nvidia/cu13/lib/libcublas.so.13", "/nvidia/cublas/lib/libcublas.so.12"}) {
        if (void* found = dlopen((site + path).c_str(), RTLD_NOW)) return found;
      }
    }
    for (const char* name : kNames) {
      if (void* found = dlopen(name, RTLD_NOW)) return found;
    }
    return nullptr;
  }
};

// cuBLAS in one call of the core: on its stream, in its workspace.
class CublasCall {
 public:
  static constexpr int64_t kWorkspace = 8 << 20;  // bytes

  explicit CublasCall(Arena& arena)
      : library_(Cublas::find()),
        workspace_(library_ ? arena.take<char>(kWorkspace) : nullptr),
        precision_(float32_precision()) {}

  // before the first product
  void begin(cudaStream_t stream) const {
    if (!library_) return;
    const Cublas::Handle handle = library_->handle();
    Cublas::check(library_->set_stream(handle, stream), "cublasSetStream");
    Cublas::check(library_->set_workspace(handle, workspace_, kWorkspace), "cublasSetWorkspace");
  }
  const Cublas* library() const { return library_; }
  Float32Precision precision() const { return precision_; }

 private:
  const Cublas* library_;
  char* workspace_;
  Float32Precision precision_;
};

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
