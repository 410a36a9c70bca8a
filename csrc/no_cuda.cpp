// Stands in for cuda/ in a build without nvcc: the backend is named and never supported.
#include "fastrnn.hpp"

namespace fastrnn {
namespace {

constexpr KernelTable kTable = {"cuda", [] { return false; }, nullptr,
                                "fastrnn was built without CUDA"};

}  // namespace

const KernelTable* kernel_table_cuda();
const KernelTable* kernel_table_cuda() { return &kTable; }

}  // namespace fastrnn
