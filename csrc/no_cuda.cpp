// Stands in for cuda/ in a build without nvcc: the backend is named and never supported.
#include "fastrnn.hpp"

namespace fastrnn {

const KernelTable* kernel_table_cuda();
const KernelTable* kernel_table_cuda() { return nullptr; }

}  // namespace fastrnn
