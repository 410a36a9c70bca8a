// Stands in for cuda/persistent.cu where the kernels a step are to be tested: there are no others.
#include "persistent/table.hpp"

namespace fastrnn {

PersistentTable persistent_table() {
  return [](int, DType, bool) -> const PersistentKernels* { return nullptr; };
}

}  // namespace fastrnn
