// Stands in for cuBLAS: the functions that cuda/cublas.cuh calls, with cuBLAS's checks of the
// leading dimensions and of the types that go together, and its factors of TF32.
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>

#include "values.cuh"

namespace {

using fastrnn::cuda::BFloat16;
using fastrnn::cuda::computed;
using fastrnn::cuda::Float16;
using fastrnn::cuda::stored;

constexpr int kInvalidValue = 7, kNotSupported = 15;
constexpr int kFloat32 = 0, kFloat64 = 1;
constexpr int kCompute32 = 68, kCompute64 = 70, kComputeTf32 = 77;
int handle_of_all = 0;
std::map<int, int64_t> products;  // by what they are computed in
void* stream = nullptr;
// puts what is to be done into a stream
using Defer = void (*)(void* stream, std::function<void()>);
Defer defer = nullptr;

bool go_together(int type, int compute) {
  if (type == kFloat64) return compute == kCompute64;
  return compute == kCompute32 || (compute == kComputeTf32 && type == kFloat32);
}

// rounded to 10 bits of mantissa, halves up
double tf32(double value) {
  const auto bits = std::bit_cast<uint32_t>(static_cast<float>(value));
  return std::bit_cast<float>((bits + 0x1000u) & ~0x1fffu);
}

double value(const void* data, int type, int64_t i) {
  switch (type) {
    case 0:
      return static_cast<const float*>(data)[i];
    case 1:
      return static_cast<const double*>(data)[i];
    case 2:
      return computed(static_cast<const Float16*>(data)[i]);
    default:
      return computed(static_cast<const BFloat16*>(data)[i]);
  }
}

void store(void* data, int type, int64_t i, double value) {
  switch (type) {
    case 0:
      static_cast<float*>(data)[i] = static_cast<float>(value);
      return;
    case 1:
      static_cast<double*>(data)[i] = value;
      return;
    case 2:
      static_cast<Float16*>(data)[i] = stored<Float16>(static_cast<float>(value));
      return;
    default:
      static_cast<BFloat16*>(data)[i] = stored<BFloat16>(static_cast<float>(value));
  }
}

}  // namespace

extern "C" {
int64_t fake_cublas_products(int compute) { return products[compute]; }
int cublasCreate_v2(void** handle) {
  *handle = &handle_of_all;
  return 0;
}
void fake_cublas_defer(Defer into) { defer = into; }
int cublasSetStream_v2(void*, void* to) {
  stream = to;
  return 0;
}
int cublasSetWorkspace_v2(void*, void*, size_t) { return 0; }
int cublasSetMathMode(void*, int) { return 0; }

int cublasGemmEx_64(void*, int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k,
                    const void* alpha, const void* a, int type_a, int64_t lda, const void* b,
                    int type_b, int64_t ldb, const void* beta, void* c, int type_c, int64_t ldc,
                    int compute, int) {
  const int scale = compute == kCompute64 ? kFloat64 : kFloat32;
  if (lda < (transpose_a ? k : m) || ldb < (transpose_b ? n : k) || ldc < m) return kInvalidValue;
  if (type_a != type_b || !go_together(type_a, compute)) return kNotSupported;
  ++products[compute];
  const auto factor = [=](double value) { return compute == kComputeTf32 ? tf32(value) : value; };
  const double by = value(alpha, scale, 0), start = value(beta, scale, 0);
  const auto multiply = [=] {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = 0; i < m; ++i) {
        double sum = 0;
        for (int64_t l = 0; l < k; ++l) {
          sum += factor(value(a, type_a, transpose_a ? l + i * lda : i + l * lda)) *
                 factor(value(b, type_b, transpose_b ? j + l * ldb : l + j * ldb));
        }
        sum *= by;
        if (start != 0) sum += value(c, type_c, i + j * ldc) * start;
        store(c, type_c, i + j * ldc, sum);
      }
    }
  };
  defer ? defer(stream, multiply) : multiply();
  return 0;
}
}
