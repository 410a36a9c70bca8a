// From a name to a backend, from a call to one kernel: one table look-up a call.
#include <cstdlib>
#include <string>

#include "cells/cells.hpp"
#include "cpu/threads.hpp"
#include "errors.hpp"
#include "fastrnn.hpp"
#include "memory.hpp"

namespace fastrnn {

const KernelTable* kernel_table_cuda();
const KernelTable* kernel_table_amx();
const KernelTable* kernel_table_fixed();
const KernelTable* kernel_table_avx512();
const KernelTable* kernel_table_avx2();
const KernelTable* kernel_table_neon();
const KernelTable* kernel_table_scalar();

namespace {

const KernelTable* (*const kBackends[])() = {
#if FASTRNN_HAVE_AMX
    kernel_table_amx,
#endif
#if FASTRNN_HAVE_AVX512
    kernel_table_avx512,
#endif
#if FASTRNN_HAVE_FIXED
    kernel_table_fixed,  // never the best one here: only who asks for it gets it
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
  static constexpr CellInfo value = {Cell::kName,  Cell::kGates,     Cell::kStates, Cell::kReserve,
                                     Cell::kEarly, Cell::kPeepholes, Cell::kMixes};
};
constexpr auto kInfo = per_cell<Info>();

// Scratch of one call; that of a small one lies on the stack.
class Workspace {
 public:
  explicit Workspace(int64_t bytes) {
    if (bytes > int64_t{sizeof local_}) memory_ = allocate(bytes);
  }
  void* data() { return memory_ ? memory_.get() : local_; }

 private:
  alignas(64) char local_[16 << 10];
  Memory memory_;
};

const KernelTable::Kernel& kernel_of(const KernelTable& backend, const ForwardArgs& args,
                                     bool family) {
  const int dtype = static_cast<int>(args.w_ih.dtype);
  return (family ? backend.family : backend.kernels)[args.cell].of[dtype];
}

const KernelTable::Kernel& derivative_of(const KernelTable& backend, const ForwardArgs& args) {
  if (!backend.derivatives) {
    throw ValueError("backend '" + std::string(backend.name) +
                     "' has no forward mode and no second derivatives");
  }
  return backend.derivatives[args.cell].of[static_cast<int>(args.w_ih.dtype)];
}

const KernelTable::Kernel& kernel_of(const KernelTable& backend, const ForwardArgs& args) {
  return kernel_of(backend, args, args.family.on);
}

const KernelTable::Kernel& kernel_of(const KernelTable& backend, const BackwardArgs& args) {
  return kernel_of(backend, args.forward, args.family || args.forward.family.on);
}

// What one core keeps for BPTT and another reads moves from cache to cache: forward and backward
// take the same number, and more than one for larger calls only.
int threads_of(const ForwardArgs& args, bool keeps) {
  const int64_t rows = args.x.shape[0] * args.x.shape[1] + (args.packed ? 0 : kPacking);
  const int64_t multiply_adds =
      rows * args.w_hh.shape[0] * (args.w_ih.shape[1] + args.w_hh.shape[1]);
  return threads_for(args.threads, keeps ? multiply_adds / 4 : multiply_adds);
}

void run_on_host(const KernelTable::Kernel& kernel, const ForwardArgs& args) {
  Workspace workspace(kernel.forward_workspace(args));
  kernel.forward(args, workspace.data());
}

// `device_memory`: the workspace of a call whose arrays are on a device
void run(const KernelTable::Kernel& kernel, const ForwardArgs& args, void* device_memory) {
  if (args.x.device != kHost) return kernel.forward(args, device_memory);
  // a cell without gates to keep does not say what y is wanted for
  const int threads = threads_of(args, args.reserve.present || kInfo.of[args.cell].reserve == 0);
  if (threads == args.threads) return run_on_host(kernel, args);
  ForwardArgs call = args;
  call.threads = threads;
  run_on_host(kernel, call);
}

void run(const KernelTable::Kernel& kernel, const BackwardArgs& args, void* device_memory) {
  if (args.forward.x.device != kHost) return kernel.backward(args, device_memory);
  BackwardArgs call = args;
  call.forward.threads = threads_of(args.forward, true);
  Workspace workspace(kernel.backward_workspace(call));
  kernel.backward(call, workspace.data());
}

}  // namespace

const CellInfo* cell_info(int cell) {
  return cell >= 0 && cell < kInfo.kCount ? &kInfo.of[cell] : nullptr;
}

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
      throw ValueError("backend '" + std::string(name) +
                       "' cannot run here: " + table->unavailable);
    }
  }
  throw ValueError((from_environment ? "FASTRNN_BACKEND" : "backend") +
                   std::string(" must be one of ") + usable + "; got '" + name + "'");
}

int64_t packed_size(const KernelTable& backend, const ForwardArgs& args) {
  return kernel_of(backend, args).packed_size(args);
}

void pack(const KernelTable& backend, const ForwardArgs& args, void* packed) {
  kernel_of(backend, args).pack(args, packed);
}

int64_t device_workspace(const KernelTable& backend, const ForwardArgs& args) {
  return args.x.device == kHost ? 0 : kernel_of(backend, args).forward_workspace(args);
}

int64_t device_workspace(const KernelTable& backend, const BackwardArgs& args) {
  return args.forward.x.device == kHost ? 0 : kernel_of(backend, args).backward_workspace(args);
}

void forward(const KernelTable& backend, const ForwardArgs& args, void* device_memory) {
  run(kernel_of(backend, args), args, device_memory);
}

void backward(const KernelTable& backend, const BackwardArgs& args, void* device_memory) {
  run(kernel_of(backend, args), args, device_memory);
}

void forward_derivative(const KernelTable& backend, const ForwardArgs& args) {
  run(derivative_of(backend, args), args, nullptr);
}

void backward_derivative(const KernelTable& backend, const BackwardArgs& args) {
  run(derivative_of(backend, args.forward), args, nullptr);
}

}  // namespace fastrnn
