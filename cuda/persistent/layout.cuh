// A block's share of the hidden units and of a step's product, and its shared memory.
#pragma once

#include "persistent/operands.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

// n / divisor of numbers below 2^10, without a division
struct Divisor {
  int value, factor;

  FASTRNN_HD explicit Divisor(int divisor) : value(divisor), factor((1 << 20) / divisor + 1) {}
  FASTRNN_HD int quotient(int n) const { return (n * factor) >> 20; }
};

// Steps of a product of this depth, for each of kDepthWarps warps.
template <int kDepthWarps>
constexpr int steps_of_product(int64_t depth) {
  constexpr int64_t kAtATime = int64_t{kDepth} * kStepsAtATime * kDepthWarps;
  return static_cast<int>((depth + kAtATime - 1) / kAtATime) * kStepsAtATime;
}

// Steps of the product whose weights are in that many registers.
template <class Mode, int kTiles>
constexpr int steps_held(int registers, int most) {
  const int fit = registers / (kTiles * Mode::kLeft);
  return (fit < most ? fit : most) / kStepsAtATime * kStepsAtATime;
}

template <class Traits>
struct BlockShape {
  using Mode = typename Traits::Mode;
  using OwnWeights =
      Weights<Mode, Traits::kTiles, Traits::kHeld, Traits::kMostSteps, Traits::kParts>;
  static constexpr int kBarriers = 16;  // bytes
  int units;                            // of this block; 8 of them are half a tile
  int steps;                            // of the product, a warp
  OperandShape<Mode> operand;
  int rest = 0, rest_of_warp = 0;  // weights beside the registers
  int bytes = kBarriers;

  BlockShape(int64_t H, int cluster)
      : units(static_cast<int>(divide_up(H, int64_t{8} * cluster) * 8)),
        steps(steps_of_product<Traits::kDepthWarps>(Traits::depth(units, cluster))),
        operand(steps * Traits::kDepthWarps) {}

  bool fits(int cluster, int64_t shared_bytes) const {
    return units >= Traits::kLeastUnits && units <= Traits::kUnits &&
           int64_t{units} * cluster <= Traits::kMostUnits && steps <= Traits::kMostSteps &&
           bytes <= shared_bytes;
  }

 protected:
  int take(int size) {
    const int at = bytes;
    bytes += (size + 15) / 16 * 16;
    return at;
  }
  void take_weights() {
    rest_of_warp = OwnWeights::shared_bytes(steps);
    rest = take(Traits::kWarps * rest_of_warp);
  }
};

// Two barriers that take turns, each armed for `bytes`.
__device__ inline void arm_barriers(Barrier* barriers, int bytes) {
  for (int i = 0; i < 2; ++i) init_barrier(&barriers[i]);
  for (int i = 0; i < 2; ++i) expect_bytes(&barriers[i], bytes);
}

__device__ inline void clear_shared(char* memory, int bytes, int thread, int threads) {
  for (int i = thread; i < bytes / 16; i += threads) reinterpret_cast<Word16*>(memory)[i] = {};
}

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
