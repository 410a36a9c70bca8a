// AMX: the kernels of AVX-512, but for the products of BPTT in float32, which the matrix unit
// makes. Forward stays with the vectors: there a row's bits may not depend on the rows beside it,
// and one row is no work for a unit that takes 16.
#include FASTRNN_ISA_HEADER

#include "cpu/bf16x3.hpp"
#include "cpu/derived_table.hpp"
#include "cpu/family/kernels.hpp"

namespace fastrnn {

const KernelTable* kernel_table_avx512();

namespace {
namespace FASTRNN_ISA {

template <template <class> class C>
struct PlainBackward {
  using Kernel = Backward<C, float, Bf16x3>;
  static constexpr KernelTable::Kernel value = {nullptr, nullptr,           nullptr,
                                                nullptr, Kernel::workspace, Kernel::run};
};

template <template <class> class C>
struct OptionsBackward {
  using Kernel = FamilyOfCell<C, Vec<float>, Bf16x3>;
  static constexpr KernelTable::Kernel value = {
      nullptr, nullptr, nullptr, nullptr, Kernel::backward_workspace, Kernel::backward};
};

constexpr FloatKernels kPlain = per_cell<PlainBackward>();
constexpr FloatKernels kFamily = per_cell<OptionsBackward>();

struct Table : DerivedTable {
  FASTRNN_EARLY Table() : DerivedTable("amx", unit_supported, *kernel_table_avx512()) {
    replace(plain, kPlain);
    replace(family, kFamily);
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
