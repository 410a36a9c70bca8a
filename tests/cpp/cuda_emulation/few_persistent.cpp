// Stands in for cuda/persistent.cu with the kernels of one cell and dtype, which compile sooner.
#include "persistent/entry.cuh"

namespace fastrnn {

PersistentTable persistent_table() {
  return [](int cell, DType dtype, bool) -> const PersistentKernels* {
    using namespace cuda;
    const bool is_lstm = std::string_view(cell_info(cell)->name) == Lstm<float>::kName;
    if (!is_lstm || dtype != DType::kBFloat16) return nullptr;
    return &persistent::kKernels<Lstm, Narrow<BFloat16>>;
  };
}

}  // namespace fastrnn
