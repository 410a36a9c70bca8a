// The packed weights of a layer, kept from call to call for as long as the weights stay the same.
//
// Weights change behind everybody's back (p.data.mul_(..), an array over the same memory, another
// process), so their bytes decide, not their address or version: up to kCompared bytes all of them
// are compared. Above that, and above kComparedByFew for a call of few steps and rows, where
// reading them would cost as much as using them, address, version and a sample of lines have to
// agree.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <memory>
#include <mutex>
#include <vector>

#include "fastrnn.hpp"
#include "memory.hpp"

namespace fastrnn::bindings {

class WeightCache {
 public:
  static constexpr int kWeights = 4;  // w_ih, w_hh, b_ih, b_hh
  static constexpr int64_t kCompared = 512 << 10, kComparedByFew = 32 << 10;
  static constexpr int64_t kFew = 8;  // steps times rows

  using Weights = std::array<const Tensor*, kWeights>;
  using Versions = std::array<int64_t, kWeights>;

  struct Entry {
    const KernelTable* backend = nullptr;
    std::array<Tensor, kWeights> weights;
    Versions versions{};
    std::vector<char> seen;
    bool whole = false;  // seen: all their bytes, not the sample
    Memory packed;       // null until they were seen twice: training changes them every time
  };
  using Kept = std::shared_ptr<const Entry>;

  // The entry of these weights, or null: then the call packs them itself. `objects` are the weights
  // as Python has them.
  Kept find(int direction, const KernelTable& backend, const ForwardArgs& args,
            PyObject* const* objects);
  void clear();
  bool filled();

 private:
  static bool unchanged(const Entry& entry, const Weights& weights, const Versions& versions,
                        bool all);

  std::mutex mutex_;
  std::array<Kept, 2> kept_;  // by direction
};

}  // namespace fastrnn::bindings
