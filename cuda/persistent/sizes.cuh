// The sizes of tile that the kernels are compiled for. Eight warps, of up to 255 registers a
// thread.
#pragma once

#include "persistent/backward.cuh"
#include "persistent/forward.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

// Groups of 8 units a warp (one more where a cell's gates would fill half a tile), row warps x
// depth warps, most steps in registers.
template <int kGroups_, int kRowWarps_, int kDepthWarps_, int kMostHeld_>
struct ForwardSize {
  template <template <class> class C, class Mode>
  using Traits = ForwardTraits<C, Mode, kGroups_ + kGroups_ * C<float>::kGates % 2, kRowWarps_,
                               kDepthWarps_, kMostHeld_>;
};

using ForwardBlock = ForwardSize<2, 8, 1, 8>;   // one block: 128 units
using ForwardSpread = ForwardSize<2, 2, 4, 8>;  // 32 units of a block of a cluster
using ForwardWide = ForwardSize<3, 2, 4, 8>;    // 48

// Tiles of 16 hidden units a warp, row warps x depth warps, units of a block by 32.
template <int kTiles_, int kRowWarps_, int kDepthWarps_, int kItems_>
struct BackwardSize {
  template <template <class> class C, class Mode>
  using Traits = BackwardTraits<C, Mode, kTiles_, kRowWarps_, kDepthWarps_, kItems_>;
};

using BackwardBlock = BackwardSize<4, 2, 4, 4>;   // one block: 128 units
using BackwardSpread = BackwardSize<4, 8, 1, 1>;  // 512 units, 32 of a block
using BackwardWide = BackwardSize<6, 8, 1, 2>;    // 768 units, 64 of a block

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
