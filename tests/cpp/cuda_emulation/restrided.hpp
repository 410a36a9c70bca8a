// The arrays of a call in other places: with other strides, and on the emulated device.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "../problem.hpp"
#include "device.cuh"

namespace fastrnn::test {

// Moves a view's elements to memory of its own, with gaps and the first axis backwards; the last
// axis stays the innermost and packed where the core relies on it.
class Restrided {
 public:
  Restrided(Tensor& view, bool unit_rows) : packed_(view) {
    if (!view.present) return;
    size_ = item_size(view.dtype);
    int64_t extent = unit_rows ? 1 : 2;
    auto place = [&](int axis) {
      view.stride[axis] = extent;
      extent = extent * std::max(view.shape[axis], int64_t{1}) + 3;
    };
    if (unit_rows) place(view.rank - 1);
    for (int axis = 0; axis < view.rank - unit_rows; ++axis) place(axis);
    memory_.resize(static_cast<size_t>(extent * size_));
    const int64_t last = std::max(view.shape[0] - 1, int64_t{0});
    view.data = memory_.data() + last * view.stride[0] * size_;
    view.stride[0] *= -1;
    moved_ = view;
    copy(moved_, packed_);
  }
  void copy_back() {
    if (!packed_.present) return;
    if (device_) cudaMemcpy(memory_.data(), device_.get(), memory_.size(), cudaMemcpyDeviceToHost);
    copy(packed_, moved_);
  }
  // from then on the view is of memory of the device
  void to_device(Tensor& view) {
    if (!view.present) return;
    void* memory = nullptr;
    cudaMalloc(&memory, memory_.size());
    device_.reset(static_cast<char*>(memory));
    cudaMemcpy(memory, memory_.data(), memory_.size(), cudaMemcpyHostToDevice);
    view.data = device_.get() + (static_cast<char*>(view.data) - memory_.data());
    view.device = 0;
  }

 private:
  void copy(const Tensor& to, const Tensor& from, int axis = 0, int64_t to_at = 0,
            int64_t from_at = 0) const {
    if (axis == to.rank) {
      std::memcpy(static_cast<char*>(to.data) + to_at * size_,
                  static_cast<char*>(from.data) + from_at * size_, static_cast<size_t>(size_));
      return;
    }
    for (int64_t i = 0; i < to.shape[axis]; ++i) {
      copy(to, from, axis + 1, to_at + i * to.stride[axis], from_at + i * from.stride[axis]);
    }
  }

  struct Free {
    void operator()(void* memory) const { cudaFree(memory); }
  };

  Tensor packed_, moved_;
  int64_t size_ = 0;
  std::vector<char> memory_;
  std::unique_ptr<char, Free> device_;
};

// every array of a call but lengths
inline std::vector<Restrided> restride(BackwardArgs& a, bool to_device) {
  ForwardArgs& f = a.forward;
  std::vector<Restrided> moved;
  const auto move = [&](Tensor& view, bool unit_rows) {
    moved.emplace_back(view, unit_rows);
    if (to_device) moved.back().to_device(view);
  };
  for (Tensor* view : {&f.x, &f.h0, &f.c0, &f.y, &f.h_n, &f.c_n, &f.c, &f.reserve, &a.dy, &a.dh_n,
                       &a.dc_n, &a.dx, &a.dh0, &a.dc0}) {
    move(*view, true);
  }
  for (Tensor* view : {&f.w_ih, &f.w_hh, &f.b_ih, &f.b_hh, &f.mask, &f.reset, &a.dw_ih, &a.dw_hh,
                       &a.db_ih, &a.db_hh})
    move(*view, false);
  return moved;
}

// memory of the device, from the allocator of the caller
class DeviceMemory {
 public:
  explicit DeviceMemory(int64_t bytes) {
    if (bytes > 0) cudaMalloc(&memory_, static_cast<size_t>(bytes));
  }
  ~DeviceMemory() { cudaFree(memory_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  void* get() const { return memory_; }

 private:
  void* memory_ = nullptr;
};

}  // namespace fastrnn::test
