// What has been measured of a tile's step, in microseconds: of one round of clusters or groups, as
// many as the device runs at a time. The model, which knows only how steps differ in what they do,
// takes its scale from the nearest of these. An NVIDIA H200, between 100 and 300 steps
// (benchmarks/gpu_paths.py).
#pragma once

#include <cmath>
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
  double microseconds;
};

// clang-format off
constexpr Measured kMeasured[] = {
    {"forward", "lstm", "bfloat16", PersistentTile::kSpread, 8, 256, 1.26},
    {"forward", "lstm", "bfloat16", PersistentTile::kSpread, 8, 128, 1.03},
    {"forward", "lstm", "bfloat16", PersistentTile::kSpread, 16, 512, 1.77},
    {"forward", "lstm", "bfloat16", PersistentTile::kSpread, 16, 256, 1.20},
    {"forward", "lstm", "bfloat16", PersistentTile::kSpread, 16, 128, 0.94},
    {"forward", "lstm", "bfloat16", PersistentTile::kGroup, 32, 1024, 3.33},
    {"forward", "lstm", "bfloat16", PersistentTile::kGroup, 32, 768, 2.66},
    {"forward", "lstm", "bfloat16", PersistentTile::kLarge, 64, 1024, 2.52},
    {"forward", "lstm", "bfloat16", PersistentTile::kLarge, 64, 768, 2.57},
    {"forward", "lstm", "bfloat16", PersistentTile::kWide, 16, 768, 3.41},
    {"forward", "lstm", "bfloat16", PersistentTile::kWide, 16, 512, 2.36},
    {"forward", "lstm", "bfloat16", PersistentTile::kBlock, 1, 128, 2.22},
    {"forward", "lstm", "bfloat16", PersistentTile::kBlock, 1, 64, 1.43},
    {"forward", "lstm", "bfloat16", PersistentTile::kBlock, 1, 32, 1.28},
    {"forward", "lstm", "bfloat16", PersistentTile::kSpread, 4, 128, 1.07},
    {"forward", "lstm", "bfloat16", PersistentTile::kSpread, 4, 64, 0.75},
    {"forward", "lstm", "bfloat16", PersistentTile::kSpread, 2, 64, 0.77},
    {"forward", "lstm", "bfloat16", PersistentTile::kGroup, 16, 512, 2.30},
    {"forward", "lstm", "bfloat16", PersistentTile::kWide, 8, 384, 1.98},
    {"forward", "lstm", "bfloat16", PersistentTile::kWide, 8, 256, 1.61},
    {"forward", "lstm", "bfloat16", PersistentTile::kLarge, 32, 512, 1.99},
    {"forward", "lstm", "bfloat16", PersistentTile::kGroup, 8, 256, 2.00},
    {"forward", "lstm", "bfloat16", PersistentTile::kLarge, 16, 256, 1.85},
    {"forward", "gru", "bfloat16", PersistentTile::kSpread, 8, 256, 1.17},
    {"forward", "gru", "bfloat16", PersistentTile::kSpread, 16, 512, 1.61},
    {"forward", "gru", "bfloat16", PersistentTile::kWide, 16, 768, 3.21},
    {"forward", "gru", "bfloat16", PersistentTile::kGroup, 32, 1024, 2.69},
    {"forward", "gru", "bfloat16", PersistentTile::kBlock, 1, 128, 1.80},
    {"forward", "gru", "bfloat16", PersistentTile::kSpread, 4, 128, 0.94},
    {"forward", "gru", "bfloat16", PersistentTile::kGroup, 16, 512, 2.11},
    {"forward", "rnn_tanh", "bfloat16", PersistentTile::kSpread, 8, 256, 0.64},
    {"forward", "rnn_tanh", "bfloat16", PersistentTile::kSpread, 16, 512, 1.25},
    {"forward", "rnn_tanh", "bfloat16", PersistentTile::kBlock, 1, 128, 0.73},
    {"forward", "lstm", "split float16", PersistentTile::kSpread, 8, 256, 1.99},
    {"forward", "lstm", "split float16", PersistentTile::kSpread, 16, 512, 3.49},
    {"forward", "lstm", "split float16", PersistentTile::kSpread, 4, 128, 1.55},
    {"forward", "lstm", "split float16", PersistentTile::kBlock, 1, 128, 4.17},
    {"forward", "lstm", "tf32", PersistentTile::kSpread, 8, 256, 1.79},
    {"forward", "lstm", "tf32", PersistentTile::kSpread, 16, 512, 3.25},
    {"forward", "lstm", "tf32", PersistentTile::kSpread, 4, 128, 1.49},
    {"forward", "lstm", "tf32", PersistentTile::kBlock, 1, 128, 3.98},
    {"forward", "gru", "split float16", PersistentTile::kSpread, 8, 256, 1.63},
    {"forward", "gru", "split float16", PersistentTile::kSpread, 16, 512, 2.69},
    {"forward", "gru", "split float16", PersistentTile::kSpread, 4, 128, 1.33},
    {"forward", "gru", "split float16", PersistentTile::kBlock, 1, 128, 3.00},
    {"forward", "gru", "tf32", PersistentTile::kSpread, 8, 256, 1.56},
    {"forward", "gru", "tf32", PersistentTile::kSpread, 16, 512, 2.59},
    {"forward", "gru", "tf32", PersistentTile::kSpread, 4, 128, 1.29},
    {"forward", "gru", "tf32", PersistentTile::kBlock, 1, 128, 2.80},
    {"backward", "lstm", "bfloat16", PersistentTile::kSpread, 8, 256, 1.40},
    {"backward", "lstm", "bfloat16", PersistentTile::kSpread, 8, 128, 1.23},
    {"backward", "lstm", "bfloat16", PersistentTile::kSpread, 16, 512, 1.96},
    {"backward", "lstm", "bfloat16", PersistentTile::kSpread, 16, 256, 1.49},
    {"backward", "lstm", "bfloat16", PersistentTile::kSpread, 16, 128, 1.36},
    {"backward", "lstm", "bfloat16", PersistentTile::kGroup, 32, 1024, 4.72},
    {"backward", "lstm", "bfloat16", PersistentTile::kGroup, 32, 768, 4.39},
    {"backward", "lstm", "bfloat16", PersistentTile::kLarge, 64, 1024, 4.21},
    {"backward", "lstm", "bfloat16", PersistentTile::kLarge, 64, 768, 4.29},
    {"backward", "lstm", "bfloat16", PersistentTile::kWide, 16, 768, 3.62},
    {"backward", "lstm", "bfloat16", PersistentTile::kWide, 16, 512, 2.24},
    {"backward", "lstm", "bfloat16", PersistentTile::kBlock, 1, 128, 3.13},
    {"backward", "lstm", "bfloat16", PersistentTile::kBlock, 1, 64, 2.11},
    {"backward", "lstm", "bfloat16", PersistentTile::kBlock, 1, 32, 1.64},
    {"backward", "lstm", "bfloat16", PersistentTile::kSpread, 4, 128, 1.27},
    {"backward", "lstm", "bfloat16", PersistentTile::kSpread, 4, 64, 1.25},
    {"backward", "lstm", "bfloat16", PersistentTile::kSpread, 2, 64, 1.18},
    {"backward", "lstm", "bfloat16", PersistentTile::kGroup, 16, 512, 4.01},
    {"backward", "lstm", "bfloat16", PersistentTile::kWide, 8, 384, 2.83},
    {"backward", "lstm", "bfloat16", PersistentTile::kWide, 8, 256, 1.91},
    {"backward", "lstm", "bfloat16", PersistentTile::kLarge, 32, 512, 3.92},
    {"backward", "lstm", "bfloat16", PersistentTile::kGroup, 8, 256, 3.55},
    {"backward", "lstm", "bfloat16", PersistentTile::kLarge, 16, 256, 3.61},
    {"backward", "gru", "bfloat16", PersistentTile::kSpread, 8, 256, 1.35},
    {"backward", "gru", "bfloat16", PersistentTile::kSpread, 16, 512, 1.91},
    {"backward", "gru", "bfloat16", PersistentTile::kWide, 16, 768, 3.42},
    {"backward", "gru", "bfloat16", PersistentTile::kGroup, 32, 1024, 4.82},
    {"backward", "gru", "bfloat16", PersistentTile::kBlock, 1, 128, 2.84},
    {"backward", "gru", "bfloat16", PersistentTile::kSpread, 4, 128, 1.17},
    {"backward", "gru", "bfloat16", PersistentTile::kGroup, 16, 512, 4.28},
    {"backward", "rnn_tanh", "bfloat16", PersistentTile::kSpread, 8, 256, 1.14},
    {"backward", "rnn_tanh", "bfloat16", PersistentTile::kSpread, 16, 512, 1.70},
    {"backward", "rnn_tanh", "bfloat16", PersistentTile::kBlock, 1, 128, 1.80},
    {"backward", "lstm", "split bfloat16", PersistentTile::kSpread, 8, 256, 1.89},
    {"backward", "lstm", "split bfloat16", PersistentTile::kSpread, 16, 512, 2.64},
    {"backward", "lstm", "split bfloat16", PersistentTile::kSpread, 4, 128, 1.73},
    {"backward", "lstm", "split bfloat16", PersistentTile::kBlock, 1, 128, 4.11},
    {"backward", "lstm", "tf32", PersistentTile::kSpread, 8, 256, 1.82},
    {"backward", "lstm", "tf32", PersistentTile::kSpread, 16, 512, 2.67},
    {"backward", "lstm", "tf32", PersistentTile::kSpread, 4, 128, 1.61},
    {"backward", "lstm", "tf32", PersistentTile::kBlock, 1, 128, 3.85},
    {"backward", "gru", "split bfloat16", PersistentTile::kSpread, 8, 256, 1.65},
    {"backward", "gru", "split bfloat16", PersistentTile::kSpread, 16, 512, 2.32},
    {"backward", "gru", "split bfloat16", PersistentTile::kSpread, 4, 128, 1.46},
    {"backward", "gru", "split bfloat16", PersistentTile::kBlock, 1, 128, 3.35},
    {"backward", "gru", "tf32", PersistentTile::kSpread, 8, 256, 1.54},
    {"backward", "gru", "tf32", PersistentTile::kSpread, 16, 512, 2.25},
    {"backward", "gru", "tf32", PersistentTile::kSpread, 4, 128, 1.34},
    {"backward", "gru", "tf32", PersistentTile::kBlock, 1, 128, 3.20},
};
// clang-format on

// How far what was measured is from what is asked for: a doubling of H or of the blocks counts 1.
inline double distance(const Measured& m, std::string_view cell, std::string_view mode, int cluster,
                       int64_t H) {
  const bool narrow = mode == "bfloat16" || mode == "float16";
  const double other_mode = m.mode == mode ? 0 : narrow && m.mode == "bfloat16" ? 0.1 : 100;
  const double other_cell = m.cell == cell ? 0 : cell.substr(0, 3) == m.cell.substr(0, 3) ? 0.1 : 2;
  return other_mode + other_cell + std::fabs(std::log2(static_cast<double>(m.cluster) / cluster)) +
         std::fabs(std::log2(static_cast<double>(m.H) / static_cast<double>(H)));
}

// The nearest measurement of this tile; null where none is near.
template <class Way, class Cell, class Mode>
const Measured* nearest_measured(PersistentTile tile, int cluster, int64_t H) {
  const Measured* nearest = nullptr;
  double least = 50;
  for (const Measured& m : kMeasured) {
    if (m.way != Way::kName || m.tile != tile) continue;
    const double far = distance(m, Cell::kName, Mode::kName, cluster, H);
    if (far < least) least = far, nearest = &m;
  }
  return nearest;
}

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
