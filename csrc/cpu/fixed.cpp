// The backend fixed: forward of plain float32 layers with products in fixed point; everything else,
// BPTT too, is that of amx.
#include FASTRNN_ISA_HEADER

#include "cpu/fixed.hpp"

#include "cells/cells.hpp"
#include "cpu/forward.hpp"

namespace fastrnn {

const KernelTable* kernel_table_amx();

namespace {
namespace FASTRNN_ISA {

template <template <class> class C>
struct FloatForward {
  using Kernel = Forward<C, float, FixedProduct>;
  static constexpr KernelTable::Kernel value = {
      Kernel::packed_size, Kernel::pack, Kernel::workspace, Kernel::run, nullptr, nullptr};
};
constexpr auto kForward = per_cell<FloatForward>();

struct Table {
  KernelTable::PerDType kernels[kForward.kCount];
  KernelTable table;

  FASTRNN_EARLY Table() : table(*kernel_table_amx()) {
    for (int cell = 0; cell < kForward.kCount; ++cell) {
      kernels[cell] = table.kernels[cell];
      KernelTable::Kernel& kernel = kernels[cell].of[static_cast<int>(DType::kFloat32)];
      kernel.packed_size = kForward.of[cell].packed_size;
      kernel.pack = kForward.of[cell].pack;
      kernel.forward_workspace = kForward.of[cell].forward_workspace;
      kernel.forward = kForward.of[cell].forward;
    }
    table.name = "fixed";
    table.supported = bytes_supported;
    table.kernels = kernels;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace

const KernelTable* kernel_table_fixed();
FASTRNN_EARLY const KernelTable* kernel_table_fixed() {
  static const FASTRNN_ISA::Table table;
  return &table.table;
}

}  // namespace fastrnn
