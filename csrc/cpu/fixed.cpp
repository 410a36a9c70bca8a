// The backend fixed: forward of plain float32 layers with products in fixed point; everything else,
// BPTT too, is that of amx.
#include FASTRNN_ISA_HEADER

#include "cpu/fixed.hpp"

#include "cpu/derived_table.hpp"
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
constexpr FloatKernels kPlain = per_cell<FloatForward>();

struct Table : DerivedTable {
  FASTRNN_EARLY Table() : DerivedTable("fixed", bytes_supported, *kernel_table_amx()) {
    replace(plain, kPlain);
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
