// What has been measured of a tile's step, which overrides the model: its clocks over the model's,
// for a size near the one that is asked for. Nothing has been measured yet.
#pragma once

#include <array>
#include <cstdlib>
#include <string_view>

#include "persistent/sizes.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

struct Measured {
  std::string_view way, cell, mode;
  PersistentTile tile;
  int cluster;
  int64_t H;
  double ratio;
};

constexpr std::array<Measured, 0> kMeasured = {};

// 1 where nothing of the kind has been measured
template <class Way, class Cell, class Mode>
double measured_ratio(PersistentTile tile, int cluster, int64_t H) {
  double ratio = 1;
  int64_t nearest = -1;
  for (const Measured& m : kMeasured) {
    if (m.way != Way::kName || m.cell != Cell::kName || m.mode != Mode::kName) continue;
    if (m.tile != tile || m.cluster != cluster) continue;
    const int64_t distance = std::abs(m.H - H);
    if (nearest >= 0 && distance >= nearest) continue;
    nearest = distance;
    ratio = m.ratio;
  }
  return ratio;
}

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
