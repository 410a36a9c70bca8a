// Calls on host arrays: their arrays are copied to the current device, the call runs there on the
// default stream, and its results are copied back.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "device.cuh"

namespace fastrnn {
namespace {
namespace cuda {

struct FreeOnDevice {
  void operator()(void* memory) const { static_cast<void>(cudaFree(memory)); }
};
using DeviceMemory = std::unique_ptr<void, FreeOnDevice>;

inline DeviceMemory allocate_on_device(int64_t bytes) {
  void* memory = nullptr;
  if (bytes > 0) FASTRNN_CUDA_CHECK(cudaMalloc(&memory, static_cast<size_t>(bytes)));
  return DeviceMemory(memory);
}

inline size_t bytes_of(const Tensor& view) {
  int64_t bytes = item_size(view.dtype);
  for (int i = 0; i < view.rank; ++i) bytes *= view.shape[i];
  return static_cast<size_t>(bytes);
}

// the view of the same shape of packed memory
inline Tensor packed_view(Tensor view, void* data) {
  int64_t stride = 1;
  for (int i = view.rank - 1; i >= 0; stride *= view.shape[i--]) view.stride[i] = stride;
  view.data = data;
  return view;
}

inline bool is_packed(const Tensor& view) {
  const Tensor packed = packed_view(view, view.data);
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] != 1 && view.stride[i] != packed.stride[i]) return false;
  }
  return true;
}

// Both on the host, of one shape.
inline void copy_elements(const Tensor& to, const Tensor& from, int axis = 0, int64_t to_at = 0,
                          int64_t from_at = 0) {
  const auto size = static_cast<int64_t>(item_size(to.dtype));
  if (axis == to.rank) {
    std::memcpy(static_cast<char*>(to.data) + to_at * size,
                static_cast<const char*>(from.data) + from_at * size, static_cast<size_t>(size));
    return;
  }
  for (int64_t i = 0; i < to.shape[axis]; ++i)
    copy_elements(to, from, axis + 1, to_at + i * to.stride[axis], from_at + i * from.stride[axis]);
}

// The arrays of one call on the device, packed.
class Staging {
 public:
  // the argument becomes a copy of it on the device
  void in(Tensor& argument) {
    const Tensor host = argument;
    if (!room(argument)) return;
    std::vector<char> buffer;
    const void* source = host.data;
    if (!is_packed(host)) {
      buffer.resize(bytes_of(host));
      copy_elements(packed_view(host, buffer.data()), host);
      source = buffer.data();
    }
    FASTRNN_CUDA_CHECK(cudaMemcpy(argument.data, source, bytes_of(host), cudaMemcpyHostToDevice));
  }

  // the argument becomes room on the device, from where `back` copies
  void out(Tensor& argument) {
    const Tensor host = argument;
    if (room(argument)) results_.push_back({host, argument.data});
  }

  void in_out(Tensor& argument) {
    const Tensor host = argument;
    in(argument);
    if (argument.present && argument.data) results_.push_back({host, argument.data});
  }

  void back() const {
    for (const auto& [host, device] : results_) {
      if (is_packed(host)) {
        FASTRNN_CUDA_CHECK(cudaMemcpy(host.data, device, bytes_of(host), cudaMemcpyDeviceToHost));
        continue;
      }
      std::vector<char> buffer(bytes_of(host));
      FASTRNN_CUDA_CHECK(cudaMemcpy(buffer.data(), device, buffer.size(), cudaMemcpyDeviceToHost));
      copy_elements(host, packed_view(host, buffer.data()));
    }
  }

 private:
  struct Result {
    Tensor host;
    void* device;
  };

  bool room(Tensor& argument) {
    if (!argument.present) return false;
    owned_.push_back(allocate_on_device(static_cast<int64_t>(bytes_of(argument))));
    argument = packed_view(argument, owned_.back().get());
    return argument.data != nullptr;
  }

  std::vector<DeviceMemory> owned_;
  std::vector<Result> results_;
};

inline void stage_inputs(Staging& staging, ForwardArgs& a) {
  for (Tensor* argument : {&a.x, &a.w_ih, &a.w_hh, &a.b_ih, &a.b_hh, &a.h0, &a.c0, &a.lengths,
                           &a.mask, &a.reset, &a.family.w_hr, &a.family.peephole, &a.family.gain_ih,
                           &a.family.gain_hh, &a.family.gain_c, &a.family.bias_c}) {
    staging.in(*argument);
  }
}

template <class Kernel>
void forward_from_host(const ForwardArgs& host) {
  ForwardArgs a = host;
  Staging staging;
  stage_inputs(staging, a);
  for (Tensor* result : {&a.y, &a.h_n, &a.c_n, &a.c, &a.reserve, &a.family.output, &a.family.norms,
                         &a.family.gates}) {
    staging.out(*result);
  }
  const DeviceMemory workspace = allocate_on_device(Kernel::workspace(a));
  Kernel::run(a, workspace.get());
  staging.back();
}

template <class Kernel>
void backward_from_host(const BackwardArgs& host) {
  BackwardArgs a = host;
  Staging staging;
  stage_inputs(staging, a.forward);
  for (Tensor* argument : {&a.forward.y, &a.forward.c, &a.forward.reserve, &a.forward.family.output,
                           &a.forward.family.norms, &a.dy, &a.dh_n, &a.dc_n, &a.dc, &a.dgates}) {
    staging.in(*argument);
  }
  for (Tensor* gradient : {&a.dx, &a.dh0, &a.dc0, &a.step_norms}) staging.out(*gradient);
  for (Tensor* gradient : {&a.dw_ih, &a.dw_hh, &a.db_ih, &a.db_hh, &a.dw_hr, &a.dpeephole,
                           &a.dgain_ih, &a.dgain_hh, &a.dgain_c, &a.dbias_c}) {
    if (a.accumulate) {
      staging.in_out(*gradient);
    } else {
      staging.out(*gradient);
    }
  }
  const DeviceMemory workspace = allocate_on_device(Kernel::workspace(a));
  Kernel::run(a, workspace.get());
  staging.back();
}

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
