// Which tile and how large a cluster a call gets: of those that fit the device, the one whose step
// a model says is shortest. It tells how steps of one tile differ; how long they take has been
// measured (measured.cuh).
#pragma once

#include <map>
#include <tuple>

#include "persistent/launch.cuh"
#include "persistent/measured.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

// Clocks, and what a multiprocessor does in one.
struct Model {
  static constexpr double kMegahertz = 1750;
  static constexpr double kHandOff = 1000;       // an asynchronous store until its receiver goes on
  static constexpr double kCacheHandOff = 2600;  // the same through the L2 cache
  static constexpr double kBarrier = 100;        // of a block
  static constexpr double kCell = 400;           // the longest chain of a cell
  static constexpr double kMultiplyAdds = 1288;  // of 16-bit operands by mma.sync
  static constexpr double kSharedBytes = 128;
  static constexpr double kReceivedBytes = 14;  // from other blocks' shared memory
  static constexpr double kCacheBytes = 24;     // from the L2 cache
  static constexpr double kFunctions = 16;      // of the special function unit
};

// what a step does in one block
struct StepWork {
  double multiply_adds, shared_bytes, hand_off, receiving, functions, barriers;

  double clocks() const {
    const double product = multiply_adds / Model::kMultiplyAdds;
    const double shared = shared_bytes / Model::kSharedBytes;
    return hand_off + barriers * Model::kBarrier + Model::kCell +
           (product > shared ? product : shared) + (receiving + functions / Model::kFunctions) / 2;
  }
};

template <class Traits, class Shape>
StepWork work_of_product(const Shape& shape, int cluster) {
  using Mode = typename Traits::Mode;
  const double tiles = Traits::kWarps * Traits::kTiles * shape.steps;
  const double operand_bytes = kDepth * kColumns * Mode::kPlanes * sizeof(typename Mode::Element);
  return {tiles * 16 * kDepth * kColumns * Mode::kPasses,
          Traits::kWarps * (shape.steps * operand_bytes + shape.rest_of_warp),
          Traits::kGrouped ? Model::kCacheHandOff
          : cluster > 1    ? Model::kHandOff
                           : Model::kBarrier,
          0,
          0,
          1};
}

template <class Traits>
StepWork work_of(const ForwardShape<Traits>& shape, int cluster) {
  using Mode = typename Traits::Mode;
  StepWork work = work_of_product<Traits>(shape, cluster);
  const double pairs = kColumns * shape.units;
  work.shared_bytes += 2.0 * ForwardShape<Traits>::kSums;
  const double received = (cluster - 1) * pairs * Mode::kPlanes * sizeof(typename Mode::Element);
  // of a word through the cache a quarter is its number
  work.receiving =
      Traits::kGrouped ? received * 4 / 3 / Model::kCacheBytes : received / Model::kReceivedBytes;
  work.functions = pairs * (Traits::Cell::kGates + Traits::Cell::kStates - 1) * 2;
  work.barriers += Traits::kDepthWarps > 1;
  return work;
}

template <class Traits>
StepWork work_of(const BackwardShape<Traits>& shape, int cluster) {
  StepWork work = work_of_product<Traits>(shape, cluster);
  const double slot_bytes = 4.0 * shape.slots * kColumns * shape.units;
  if (Traits::kGrouped) {
    work.receiving = slot_bytes / Model::kCacheBytes;
  } else {
    work.shared_bytes += (cluster > 1 ? 1 : 2) * slot_bytes;
    work.receiving = cluster > 1 ? slot_bytes / Model::kReceivedBytes : 0;
  }
  work.functions = 2.0 * kColumns * shape.units * (Traits::Cell::kStates - 1);
  return work;
}

// in microseconds, of one round
template <class Way, class Cell, class Traits, class Shape>
double step_of(const Shape& shape, PersistentTile tile, int cluster, int64_t H) {
  const double clocks = work_of(shape, cluster).clocks();
  const Measured* const known =
      nearest_measured<Way, Cell, typename Traits::Mode>(tile, cluster, H);
  if (!known) return clocks / Model::kMegahertz;
  const Shape measured(known->H, known->cluster);
  return known->microseconds * clocks / work_of(measured, known->cluster).clocks();
}

using Choice = PersistentChoice;

// The tile and cluster of those that fit the current device whose step is the shortest.
template <class Way, template <class> class C, class Mode>
Choice search(int64_t H, int64_t B, const PersistentLimit& limit) {
  Choice best;
  const Device& device = Device::current();
  if (device.capability < 9) return best;
  for_each_size<Way, C, Mode>([&]<class Traits>(Tile tile) {
    if (limit.tile != Tile::kNone && limit.tile != tile) return;
    const int least = tile == Tile::kBlock ? 1 : Traits::kGrouped ? 8 : 2;
    const int most = tile == Tile::kBlock ? 1 : Traits::kGrouped ? 128 : 16;
    for (int cluster = least; cluster <= most; cluster *= 2) {
      const typename Way::template Shape<Traits> shape(H, cluster);
      if (limit.cluster > 0 && limit.cluster != cluster) continue;
      if (!shape.fits(cluster, device.shared_bytes)) continue;
      const int64_t active = Launch<Way, Traits>(shape, cluster, nullptr).active();
      if (active == 0) continue;
      const auto rounds = static_cast<double>(divide_up(divide_up(B, kColumns), active));
      const double step = rounds * step_of<Way, C<float>, Traits>(shape, tile, cluster, H);
      if (best.tile == Tile::kNone || step < best.microseconds) best = {tile, cluster, step};
    }
  });
  return best;
}

// The same, from memory: asking the device takes tens of microseconds.
template <class Way, template <class> class C, class Mode>
Choice choose(int64_t H, int64_t B, const PersistentLimit& limit) {
  constexpr size_t kMost = 1024;
  static thread_local std::map<std::tuple<int, int64_t, int64_t, Tile, int>, Choice> known;
  int device = 0;
  FASTRNN_CUDA_CHECK(cudaGetDevice(&device));
  const std::tuple key(device, H, divide_up(B, kColumns), limit.tile, limit.cluster);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  if (known.size() >= kMost) known.clear();
  return known[key] = search<Way, C, Mode>(H, B, limit);
}

// Bytes by which the groups of any choice can exchange: as many of them as have 128 blocks, or as
// there are rows for.
template <class Way, template <class> class C, class Mode>
int64_t most_exchange(int64_t H, int64_t B) {
  constexpr int kBlocks = 128;
  int64_t most = 0;
  for_each_size<Way, C, Mode>([&]<class Traits>(Tile) {
    if constexpr (Traits::kGrouped) {
      for (int blocks = 8; blocks <= kBlocks; blocks *= 2) {
        const typename Way::template Shape<Traits> shape(H, blocks);
        if (!shape.fits(blocks, INT64_MAX)) continue;
        const int64_t groups = std::min<int64_t>(divide_up(B, kColumns), kBlocks / blocks);
        const int64_t words = Way::template GroupExchange<Traits>::group_words(shape.units, blocks);
        most = std::max(most, groups * words * int64_t{sizeof(Word16)});
      }
    }
  });
  return most;
}

// runs a choice that fits
template <class Way, template <class> class C, class Mode>
void run(const Choice& choice, cudaStream_t stream, int64_t exchange_bytes,
         const typename Way::template Data<typename Mode::Value>& data) {
  for_each_size<Way, C, Mode>([&]<class Traits>(Tile tile) {
    if (tile != choice.tile) return;
    const typename Way::template Shape<Traits> shape(data.seq.H, choice.cluster);
    Launch<Way, Traits>(shape, choice.cluster, stream).run(data, exchange_bytes);
  });
}

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
