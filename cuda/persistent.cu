// The persistent kernels behind plain functions. Only for devices with clusters: compute capability
// 9.0 and later.
#include "persistent/entry.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

struct PerMode {
  const PersistentKernels *float32, *tf32, *float16, *bfloat16;
};

// relu has no bound, which Split<Float16> asks for
template <template <class> class C>
constexpr const PersistentKernels* split_kernels() {
  if constexpr (std::string_view(C<float>::kName) == RnnRelu<float>::kName) {
    return nullptr;
  } else {
    return &kKernels<C, Split<Float16>, Split<BFloat16>>;
  }
}

template <template <class> class C>
struct Kernels {
  static constexpr PerMode value = {split_kernels<C>(), &kKernels<C, Tf32>,
                                    &kKernels<C, Narrow<Float16>>, &kKernels<C, Narrow<BFloat16>>};
};

template <>
struct Kernels<GruResetBefore> {  // its step has two products
  static constexpr PerMode value = {};
};
template <>
struct Kernels<LstmCoupled> {
  static constexpr PerMode value = {};
};

constexpr auto kPerCell = per_cell<Kernels>();

const PersistentKernels* kernels_of(int cell, DType dtype, bool tf32) {
  const PerMode& of = kPerCell.of[cell];
  switch (dtype) {
    case DType::kFloat32:
      return tf32 ? of.tf32 : of.float32;
    case DType::kFloat16:
      return of.float16;
    case DType::kBFloat16:
      return of.bfloat16;
    default:
      return nullptr;
  }
}

}  // namespace persistent
}  // namespace cuda
}  // namespace

PersistentTable persistent_table() { return cuda::persistent::kernels_of; }

}  // namespace fastrnn
