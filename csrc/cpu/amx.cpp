// AMX: the kernels of AVX-512, but for the products of BPTT in float32, which the matrix unit
// makes. Forward stays with the vectors: there a row's bits may not depend on the rows beside it,
// and one row is no work for a unit that takes 16.
#include FASTRNN_ISA_HEADER

#include "cells/cells.hpp"
#include "cpu/backward.hpp"
#include "cpu/bf16x3.hpp"

namespace fastrnn {

const KernelTable* kernel_table_avx512();

namespace {
namespace FASTRNN_ISA {

template <template <class> class C>
struct FloatBackward {
  using Kernel = Backward<C, float, Bf16x3>;
  static constexpr KernelTable::Kernel value = {nullptr, nullptr,           nullptr,
                                                nullptr, Kernel::workspace, Kernel::run};
};
constexpr auto kBackward = per_cell<FloatBackward>();

struct Table {
  KernelTable::PerDType kernels[kBackward.kCount];
  KernelTable table;

  FASTRNN_EARLY Table() : table(*kernel_table_avx512()) {
    for (int cell = 0; cell < kBackward.kCount; ++cell) {
      kernels[cell] = table.kernels[cell];
      KernelTable::Kernel& kernel = kernels[cell].of[static_cast<int>(DType::kFloat32)];
      kernel.backward_workspace = kBackward.of[cell].backward_workspace;
      kernel.backward = kBackward.of[cell].backward;
    }
    table.name = "amx";
    table.supported = unit_supported;
    table.kernels = kernels;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace

const KernelTable* kernel_table_amx();
FASTRNN_EARLY const KernelTable* kernel_table_amx() {
  static const FASTRNN_ISA::Table table;
  return &table.table;
}

}  // namespace fastrnn
