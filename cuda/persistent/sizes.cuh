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
  using GroupExchange = CacheExchange<Traits>;
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
  using Block = Size<2, 8, 1>;  // one block: 128 units
  // 32 units of a block of a cluster; the fewer warps share a product, the fewer sums are exchanged
  struct Spread {
    template <template <class> class C, class Mode>
    using Traits =
        std::conditional_t<C<float>::kGates % 2 == 0, ForwardTraits<C, Mode, 1, 4, 2, false>,
                           ForwardTraits<C, Mode, 2, 2, 4, false>>;
  };
  using Wide = Size<3, 2, 4>;  // 48
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
  using GroupExchange = CacheShares<Traits>;
  template <class Traits>
  static constexpr auto kernel() {
    return backward_kernel<Traits>;
  }

  // Tiles of 16 hidden units a warp, row warps x depth warps, units of a block.
  template <int kTiles, int kRowWarps, int kDepthWarps, int kUnits, bool kGrouped = false>
  struct Size {
    template <template <class> class C, class Mode>
    using Traits = BackwardTraits<C, Mode, kTiles, kRowWarps, kDepthWarps, kUnits, kGrouped>;
  };
  using Block = Size<4, 2, 4, 128>;  // one block: 128 units
  using Spread = Size<4, 8, 1, 32>;  // 512 units
  using Wide = Size<6, 8, 1, 64>;    // 768 units
  // of a block of a group anywhere on the device: 1024 units in all
  using Group = Size<8, 8, 1, 32, true>;
  using Large = Size<8, 8, 1, 16, true>;
};

// 48 units a block: for 16 bits alone
template <class Mode>
constexpr bool kHasWide = Mode::kLeft == 4;

// Groups: for cells whose clusters are soon too small.
template <template <class> class C, class Mode>
constexpr bool kHasGroups = Mode::kLeft == 4 && C<float>::kGates > 1;

// Forward it would be the same as Group for an odd number of gates.
template <class Way, template <class> class C>
constexpr bool kHasLarge = std::is_same_v<Way, BackwardWay> || C<float>::kGates % 2 == 0;

// action<Traits>(Tile) for every size that there is of a way
template <class Way, template <class> class C, class Mode, class Action>
void for_each_size(const Action& action) {
  action.template operator()<typename Way::Block::template Traits<C, Mode>>(Tile::kBlock);
  action.template operator()<typename Way::Spread::template Traits<C, Mode>>(Tile::kSpread);
  if constexpr (kHasWide<Mode>) {
    action.template operator()<typename Way::Wide::template Traits<C, Mode>>(Tile::kWide);
  }
  if constexpr (kHasGroups<C, Mode>) {
    action.template operator()<typename Way::Group::template Traits<C, Mode>>(Tile::kGroup);
    if constexpr (kHasLarge<Way, C>) {
      action.template operator()<typename Way::Large::template Traits<C, Mode>>(Tile::kLarge);
    }
  }
}

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
