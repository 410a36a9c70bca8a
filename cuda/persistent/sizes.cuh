// The kernels of both ways, forward and backward, and the sizes of tile that they are compiled for:
// eight warps, of up to 255 registers a thread.
#pragma once

#include "persistent/backward.cuh"
#include "persistent/forward.cuh"
#include "persistent/table.hpp"
// clang-format off: after device.cuh, which tells nvcc what to overlook in it
#include "cells/cells.hpp"
// clang-format on

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

using Tile = PersistentTile;

struct ForwardWay {
  static constexpr const char* kName = "forward";
  template <class Value>
  using Data = ForwardData<Value>;
  template <class Traits>
  using Shape = ForwardShape<Traits>;
  template <class Traits>
  static constexpr auto kernel() {
    return forward_kernel<Traits>;
  }

  // Groups of 8 units a warp (one more where a cell's gates would fill half a tile), row warps x
  // depth warps.
  template <int kGroups, int kRowWarps, int kDepthWarps, bool kGrouped = false>
  struct Size {
    template <template <class> class C, class Mode>
    using Traits = ForwardTraits<C, Mode, kGroups + kGroups * C<float>::kGates % 2, kRowWarps,
                                 kDepthWarps, kGrouped>;
  };
  using Block = Size<2, 8, 1>;   // one block: 128 units
  using Spread = Size<2, 2, 4>;  // 32 units of a block of a cluster
  using Wide = Size<3, 2, 4>;    // 48
  // of a block of a group anywhere on the device
  using Group = Size<2, 2, 4, true>;  // 32 units
  using Large = Size<1, 2, 4, true>;  // 16, for more hidden units in all
};

struct BackwardWay {
  static constexpr const char* kName = "backward";
  template <class Value>
  using Data = BackwardData<Value>;
  template <class Traits>
  using Shape = BackwardShape<Traits>;
  template <class Traits>
  static constexpr auto kernel() {
    return backward_kernel<Traits>;
  }

  // Tiles of 16 hidden units a warp, row warps x depth warps, units of a block by 32.
  template <int kTiles, int kRowWarps, int kDepthWarps, int kItems>
  struct Size {
    template <template <class> class C, class Mode>
    using Traits = BackwardTraits<C, Mode, kTiles, kRowWarps, kDepthWarps, kItems>;
  };
  using Block = Size<4, 2, 4, 4>;   // one block: 128 units
  using Spread = Size<4, 8, 1, 1>;  // 512 units, 32 of a block
  using Wide = Size<6, 8, 1, 2>;    // 768 units, 64 of a block
};

// 48 units a block: for 16 bits alone
template <class Mode>
constexpr bool kHasWide = Mode::kLeft == 4;

// Groups: forward, and for cells whose clusters are soon too small.
template <class Way, template <class> class C, class Mode>
constexpr bool kHasGroups =
    std::is_same_v<Way, ForwardWay> && Mode::kLeft == 4 && C<float>::kGates > 1;

// action<Traits>(Tile) for every size that there is of a way
template <class Way, template <class> class C, class Mode, class Action>
void for_each_size(const Action& action) {
  action.template operator()<typename Way::Block::template Traits<C, Mode>>(Tile::kBlock);
  action.template operator()<typename Way::Spread::template Traits<C, Mode>>(Tile::kSpread);
  if constexpr (kHasWide<Mode>) {
    action.template operator()<typename Way::Wide::template Traits<C, Mode>>(Tile::kWide);
  }
  if constexpr (kHasGroups<Way, C, Mode>) {
    action.template operator()<typename Way::Group::template Traits<C, Mode>>(Tile::kGroup);
    if constexpr (C<float>::kGates % 2 == 0) {  // else it would be the same
      action.template operator()<typename Way::Large::template Traits<C, Mode>>(Tile::kLarge);
    }
  }
}

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
