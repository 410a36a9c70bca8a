// Which way a call goes: a kernel a step (forward.cuh, backward.cuh), or one kernel for all steps
// (persistent/): the one that a model says is the shorter. The model's constants fit what was
// measured on an NVIDIA H200.
//
// FASTRNN_CUDA_PATH decides it instead: "steps" or "persistent", the latter also with a tile and a
// cluster, as in "persistent spread 8".
#pragma once

#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <sstream>
#include <string>

#include "cublas.cuh"
#include "errors.hpp"
#include "persistent/table.hpp"
#include "precision.hpp"

namespace fastrnn {
namespace {
namespace cuda {

struct StepModel {
  static constexpr double kLaunch = 2.9;  // us of a kernel that waits for the one before it
  static constexpr double kStart = 6;     // us until a persistent kernel has its weights
  // multiply-adds a us
  static constexpr double kTensorCores = 1e8, kFloat32 = 6e6, kOwnKernel = 2e6;
  static constexpr double kCacheBytes = 5.5e6;  // a us

  // of a kernel a step
  static double microseconds(const ForwardArgs& a) {
    const auto weights = static_cast<double>(a.w_hh.shape[0] * a.w_hh.shape[1]);
    const bool narrow = item_size(a.w_hh.dtype) == 2;
    const double rate = !Cublas::find() ? kOwnKernel : narrow ? kTensorCores : kFloat32;
    const double product = weights * static_cast<double>(a.x.shape[1]) / rate;
    const double reading = weights * static_cast<double>(item_size(a.w_hh.dtype)) / kCacheBytes;
    const int resets = a.reset.present ? cell_info(a.cell)->states : 0;
    return (2 + resets) * kLaunch + (product > reading ? product : reading);
  }
};

// What FASTRNN_CUDA_PATH says.
struct WantedPath {
  bool steps = false, persistent = false;
  PersistentLimit limit;
  std::string text;

  WantedPath() {
    const char* const given = std::getenv("FASTRNN_CUDA_PATH");
    if (!given || !*given) return;
    text = given;
    std::istringstream words(text);
    std::string word;
    if (!(words >> word)) return;
    steps = word == "steps";
    persistent = word == "persistent";
    bool known = steps || persistent;
    while (known && words >> word) known = persistent && take(word);
    if (!known) {
      throw ValueError(
          "FASTRNN_CUDA_PATH must be 'steps', or 'persistent' and a tile (block, spread, wide, "
          "group, large) and its blocks (1, 2, 4 .. 128) if it likes, got '" +
          text + "'");
    }
  }

 private:
  bool take(const std::string& word) {
    for (int cluster = 1; cluster <= 128; cluster *= 2) {
      if (word == std::to_string(cluster)) return limit.cluster = cluster, true;
    }
    for (size_t i = 1; i < std::size(kPersistentTileNames); ++i) {
      if (word == kPersistentTileNames[i]) return limit.tile = static_cast<PersistentTile>(i), true;
    }
    return false;
  }
};

class Path {
 public:
  enum class Way { kForward, kBackward };

  // on the current device; throws ValueError where FASTRNN_CUDA_PATH asks for what cannot be
  Path(const ForwardArgs& a, Way way) {
    const WantedPath wanted;
    const auto T = static_cast<double>(a.x.shape[0]);
    if (a.x.shape[0] == 0 || a.x.shape[1] == 0) {
      why_ = "there are none";
      return;
    }
    if (wanted.steps) {
      why_ = "FASTRNN_CUDA_PATH says so";
      return;
    }
    find_kernels(a, way, wanted.limit);
    if (wanted.persistent) {
      if (!kernels_) throw ValueError("FASTRNN_CUDA_PATH is '" + wanted.text + "', but " + why_);
      return;
    }
    if (!kernels_) return;
    const double step = StepModel::microseconds(a);
    why_ += ", and of " + number(step) + " with kernels a step";
    if (step * T < StepModel::kStart + choice_.microseconds * T) kernels_ = nullptr;
  }

  bool is_persistent() const { return kernels_ != nullptr; }
  std::string text() const { return (kernels_ ? "persistent: " : "steps: ") + why_; }

  // bytes that backward needs for its blocks to exchange shares, whichever way it goes
  static int64_t backward_exchange(const ForwardArgs& a) {
    const PersistentKernels* const found = kernels_of(a);
    return found ? found->backward_exchange(a.w_hh.shape[1], a.x.shape[1]) : 0;
  }

  void forward(const ForwardArgs& a, const PersistentForward& call) const {
    kernels_->forward(choice_, a, call);
  }
  void backward(const BackwardArgs& a, const PersistentBackward& call) const {
    kernels_->backward(choice_, a, call);
  }

 private:
  static const PersistentKernels* kernels_of(const ForwardArgs& a) {
    const bool tf32 = float32_precision() == Float32Precision::kTf32;
    return persistent_table()(a.cell, a.w_hh.dtype, tf32);
  }

  // kernels_ and choice_, or why there are none
  void find_kernels(const ForwardArgs& a, Way way, const PersistentLimit& limit) {
    if (a.x.shape[0] > INT32_MAX) {
      why_ = "there are more of them than 32 bits count";
      return;
    }
    const PersistentKernels* const found = kernels_of(a);
    if (!found) {
      why_ = std::string(cell_info(a.cell)->name) + " has no persistent kernel in this precision";
      return;
    }
    const int64_t H = a.w_hh.shape[1], B = a.x.shape[1];
    choice_ = (way == Way::kForward ? found->choose_forward : found->choose_backward)(H, B, limit);
    if (choice_.tile == PersistentTile::kNone) {
      why_ =
          "no cluster or group of this device has room for the weights of H=" + std::to_string(H);
      return;
    }
    kernels_ = found;
    why_ = std::string(kPersistentTileNames[static_cast<int>(choice_.tile)]) + " " +
           std::to_string(choice_.cluster) + "; by the model a step of " +
           number(choice_.microseconds) + " us";
  }

  static std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2f", value);
    return text;
  }

  const PersistentKernels* kernels_ = nullptr;
  PersistentChoice choice_;
  std::string why_;
};

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
