// From a name to a backend, from a call to one kernel: one table look-up a call.
#include <cstdlib>
#include <memory>
#include <new>
#include <string>

#include "cells/cells.hpp"
#include "errors.hpp"
#include "fastrnn.hpp"

namespace fastrnn {

const KernelTable* kernel_table_cuda();
const KernelTable* kernel_table_avx512();
const KernelTable* kernel_table_avx2();
const KernelTable* kernel_table_neon();
const KernelTable* kernel_table_scalar();

namespace {

const KernelTable* (*const kBackends[])() = {
#if FASTRNN_HAVE_AVX512
    kernel_table_avx512,
#endif
#if FASTRNN_HAVE_AVX2
    kernel_table_avx2,
#endif
#if FASTRNN_HAVE_NEON
    kernel_table_neon,
#endif
    kernel_table_scalar,
    kernel_table_cuda,  // last: host arrays go to the GPU only when a caller asks for it
};
constexpr int kBackendCount = static_cast<int>(sizeof kBackends / sizeof *kBackends);

template <template <class> class C>
struct Info {
  using Cell = C<float>;
  static constexpr CellInfo value = {Cell::kName, Cell::kGates, Cell::kStates, Cell::kReserve};
};
constexpr auto kInfo = per_cell<Info>();

struct AlignedDelete {
  void operator()(void* p) const { ::operator delete(p, std::align_val_t{64}); }
};

std::unique_ptr<void, AlignedDelete> allocate(int64_t bytes) {
  return std::unique_ptr<void, AlignedDelete>(::operator new(static_cast<size_t>(bytes), std::align_val_t{64}));
}

const KernelTable::Kernel& kernel_of(const KernelTable& backend, const ForwardArgs& args) {
  return backend.kernels[args.cell].of[static_cast<int>(args.x.dtype)];
}

}  // namespace

const CellInfo* cell_info(int cell) { return cell >= 0 && cell < kInfo.kCount ? &kInfo.of[cell] : nullptr; }

const KernelTable* compiled_backend(int index) {
  return index >= 0 && index < kBackendCount ? kBackends[index]() : nullptr;
}

const KernelTable& find_backend(const char* name) {
  const char* forced = std::getenv("FASTRNN_BACKEND");
  const bool from_environment = !name && forced && *forced;
  if (from_environment) name = forced;
  std::string usable;
  for (int i = 0; const KernelTable* table = compiled_backend(i); ++i) {
    const bool wanted = name && std::string(name) == table->name;
    if (table->supported()) {
      if (!name || wanted) return *table;
      usable += (usable.empty() ? "" : ", ") + std::string(table->name);
    } else if (wanted) {
      throw ValueError("backend '" + std::string(name) + "' cannot run here: " + table->unavailable);
    }
  }
  throw ValueError((from_environment ? "FASTRNN_BACKEND" : "backend") + std::string(" must be one of ") + usable +
                   "; got '" + name + "'");
}

void forward(const KernelTable& backend, const ForwardArgs& args) {
  const KernelTable::Kernel& kernel = kernel_of(backend, args);
  const auto workspace = allocate(kernel.forward_workspace(args));
  kernel.forward(args, workspace.get());
}

void backward(const KernelTable& backend, const BackwardArgs& args) {
  const KernelTable::Kernel& kernel = kernel_of(backend, args.forward);
  const auto workspace = allocate(kernel.backward_workspace(args));
  kernel.backward(args, workspace.get());
}

}  // namespace fastrnn
