// Which tile and how large a cluster a call gets: of those that fit the device, the one whose step
// a model says is shortest. The model's constants are estimates from what others have published of
// compute capability 9.0; no measurement of these kernels stands behind them.
#pragma once

#include "persistent/launch.cuh"
#include "persistent/sizes.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

// Clocks, and what a multiprocessor does in one.
struct Model {
  static constexpr double kMegahertz = 1750;
  static constexpr double kHandOff = 250;        // an asynchronous store until its receiver goes on
  static constexpr double kBarrier = 40;         // of a block
  static constexpr double kCell = 140;           // the longest chain of a cell
  static constexpr double kMultiplyAdds = 1288;  // of 16-bit operands by mma.sync
  static constexpr double kSharedBytes = 128;
  static constexpr double kReceivedBytes = 14;  // from other blocks' shared memory
  static constexpr double kFunctions = 16;      // of the special function unit
};

// what a step does in one block
struct StepWork {
  double multiply_adds, shared_bytes, received_bytes, functions, barriers;

  double clocks(int cluster) const {
    const double product = multiply_adds / Model::kMultiplyAdds;
    const double shared = shared_bytes / Model::kSharedBytes;
    return (cluster > 1 ? Model::kHandOff : Model::kBarrier) + barriers * Model::kBarrier +
           Model::kCell + (product > shared ? product : shared) +
           (received_bytes / Model::kReceivedBytes + functions / Model::kFunctions) / 2;
  }
};

template <class Traits, class Shape>
StepWork work_of_product(const Shape& shape) {
  using Mode = typename Traits::Mode;
  const double tiles = Traits::kWarps * Traits::kTiles * shape.steps;
  const double operand_bytes = kDepth * kColumns * Mode::kPlanes * sizeof(typename Mode::Element);
  return {tiles * 16 * kDepth * kColumns * Mode::kPasses,
          Traits::kWarps * (shape.steps * operand_bytes + shape.rest_of_warp), 0, 0, 1};
}

template <class Traits>
StepWork work_of(const ForwardShape<Traits>& shape, int cluster) {
  using Mode = typename Traits::Mode;
  StepWork work = work_of_product<Traits>(shape);
  const double pairs = kColumns * shape.units;
  work.shared_bytes += 2.0 * (shape.rest - shape.sums);
  work.received_bytes = (cluster - 1) * pairs * Mode::kPlanes * sizeof(typename Mode::Element);
  work.functions = pairs * (Traits::Cell::kGates + Traits::Cell::kStates - 1) * 2;
  work.barriers += Traits::kDepthWarps > 1;
  return work;
}

template <class Traits>
StepWork work_of(const BackwardShape<Traits>& shape, int cluster) {
  StepWork work = work_of_product<Traits>(shape);
  const double slot_bytes = 4.0 * shape.slots * kColumns * shape.units;
  work.shared_bytes += (cluster > 1 ? 1 : 2) * slot_bytes;
  work.received_bytes = cluster > 1 ? slot_bytes : 0;
  work.functions = 2.0 * kColumns * shape.units * (Traits::Cell::kStates - 1);
  return work;
}

enum class Tile { kNone, kBlock, kSpread, kWide };

struct Choice {
  Tile tile = Tile::kNone;  // none: nothing fits
  int cluster = 0;
  double microseconds = 0;  // of a step of the whole batch, as the model has it
};

// Takes the tile for the choice if it fits and its step is shorter.
template <class Traits, class Data, class Shape>
void consider(void (*kernel)(Data, Shape), Tile tile, int64_t H, int64_t B, Choice& best) {
  constexpr int64_t kSharedBytes = 227 << 10;
  for (int cluster = tile == Tile::kBlock ? 1 : 2; cluster <= (tile == Tile::kBlock ? 1 : 16);
       cluster *= 2) {
    const Shape shape(H, cluster);
    if (!shape.fits(H, cluster, kSharedBytes)) continue;
    const ClusterLaunch launch(kernel, 1, cluster, Traits::kThreads, shape.bytes, nullptr);
    const int active = active_clusters(kernel, launch);
    if (active == 0) continue;
    const double rounds = static_cast<double>(divide_up(divide_up(B, kColumns), int64_t{active}));
    const double step = rounds * work_of(shape, cluster).clocks(cluster) / Model::kMegahertz;
    if (best.tile == Tile::kNone || step < best.microseconds) best = {tile, cluster, step};
  }
}

// 48 units a block: for 16 bits alone, and not for the LSTM with coupled gates, which would spill
template <template <class> class C, class Mode>
constexpr bool kHasWide = Mode::kLeft == 4 && C<float>::kStates + C<float>::kGates != 5;

template <template <class> class C, class Mode>
Choice choose_forward(int64_t H, int64_t B) {
  using Block = typename ForwardBlock::template Traits<C, Mode>;
  using Spread = typename ForwardSpread::template Traits<C, Mode>;
  Choice best;
  consider<Block>(forward_kernel<Block>, Tile::kBlock, H, B, best);
  consider<Spread>(forward_kernel<Spread>, Tile::kSpread, H, B, best);
  if constexpr (kHasWide<C, Mode>) {
    using Wide = typename ForwardWide::template Traits<C, Mode>;
    consider<Wide>(forward_kernel<Wide>, Tile::kWide, H, B, best);
  }
  return best;
}

template <template <class> class C, class Mode>
Choice choose_backward(int64_t H, int64_t B) {
  using Block = typename BackwardBlock::template Traits<C, Mode>;
  using Spread = typename BackwardSpread::template Traits<C, Mode>;
  Choice best;
  consider<Block>(backward_kernel<Block>, Tile::kBlock, H, B, best);
  consider<Spread>(backward_kernel<Spread>, Tile::kSpread, H, B, best);
  if constexpr (kHasWide<C, Mode>) {
    using Wide = typename BackwardWide::template Traits<C, Mode>;
    consider<Wide>(backward_kernel<Wide>, Tile::kWide, H, B, best);
  }
  return best;
}

// runs a choice that fits
template <template <class> class C, class Mode>
void run_forward(const Choice& choice, cudaStream_t stream,
                 const ForwardData<typename Mode::Value>& data) {
  using Block = typename ForwardBlock::template Traits<C, Mode>;
  using Spread = typename ForwardSpread::template Traits<C, Mode>;
  if (choice.tile == Tile::kBlock) {
    launch_tiles<Block>(forward_kernel<Block>, choice.cluster, stream, data);
  } else if (choice.tile == Tile::kSpread) {
    launch_tiles<Spread>(forward_kernel<Spread>, choice.cluster, stream, data);
  } else if constexpr (kHasWide<C, Mode>) {
    using Wide = typename ForwardWide::template Traits<C, Mode>;
    launch_tiles<Wide>(forward_kernel<Wide>, choice.cluster, stream, data);
  }
}

template <template <class> class C, class Mode>
void run_backward(const Choice& choice, cudaStream_t stream,
                  const BackwardData<typename Mode::Value>& data) {
  using Block = typename BackwardBlock::template Traits<C, Mode>;
  using Spread = typename BackwardSpread::template Traits<C, Mode>;
  if (choice.tile == Tile::kBlock) {
    launch_tiles<Block>(backward_kernel<Block>, choice.cluster, stream, data);
  } else if (choice.tile == Tile::kSpread) {
    launch_tiles<Spread>(backward_kernel<Spread>, choice.cluster, stream, data);
  } else if constexpr (kHasWide<C, Mode>) {
    using Wide = typename BackwardWide::template Traits<C, Mode>;
    launch_tiles<Wide>(backward_kernel<Wide>, choice.cluster, stream, data);
  }
}

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
