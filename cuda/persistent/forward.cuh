// Forward over all steps in one launch, the recurrent weights in registers (and, where they do not
// fit, in shared memory) from the first step to the last.
//
//   block `rank` of a cluster: `units` hidden units, all their gates, for kColumns batch rows
//
//            K = all hidden units            the cluster's h', in every block
//   gates  [ W W W W | W W W W ]             [ h ]
//   of     [ W W W W | W W W W ]      x      [ h ]       kRowWarps x kDepthWarps warps
//   units  [ W W W W | W W W W ]             [ h ]
//                                              kColumns
//
// The rows of a warp's 16 x 16 tiles are permuted so that a lane gets all gates of a unit: half a
// tile is one gate of 8 units. Sums over K of warps side by side meet in shared memory. Then the
// cell, on registers; h goes to the operand of the next step, of two that take turns, in every
// block that shares the batch rows, by an exchange (exchange.cuh): a cluster, or a group of blocks
// anywhere. Nothing else holds the blocks together: who sends h(s + 1) has had all of h(s), so
// every other warp with units has done with h(s - 1), whose place h(s + 1) takes, and with its sums
// of before.
#pragma once

#include "persistent/data.cuh"
#include "persistent/exchange.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

template <class Value>
struct ForwardData {
  Sequence seq;
  int first, last;            // steps of this launch
  const Value* w_hh;          // [G*H, H]
  Vector<Value> b_ih, b_hh;   // [G*H]
  Rows<const float> gx;       // [last - first, B, G*H]  in the order of the steps
  Rows<const Value> h_first;  // [B, H] or null
  Rows<const float> c_first;
  Rows<Value> y;        // [T, B, H]
  Rows<float> c;        // [T, B, H] or null
  Rows<Value> reserve;  // [T, B, R*H] or null
  Rows<Value> h_n;      // [B, H]
  Rows<float> c_n;
  Word16* exchange;  // where blocks are in groups; zeros
  // from a step to the next
  int64_t y_stride = stride_of(seq, y), c_stride = stride_of(seq, c),
          reserve_stride = stride_of(seq, reserve);
  int first_tile = 0;  // of this launch
  int group = 0;       // blocks
};

template <template <class> class C, class Mode_, int kGroups_, int kRowWarps_, int kDepthWarps_,
          bool kGrouped_>
struct ForwardTraits {
  static constexpr bool kGrouped = kGrouped_;  // and not clusters
  using Mode = Mode_;
  using V = typename Mode::V;
  using Cell = C<V>;
  static constexpr int kGroups = kGroups_;  // of 8 units, a warp
  static constexpr int kRowWarps = kRowWarps_, kDepthWarps = kDepthWarps_;
  static constexpr int kWarps = kRowWarps * kDepthWarps, kThreads = kWarps * kWarp;
  static constexpr int kTiles = kGroups * Cell::kGates / 2, kParts = 1;
  static constexpr int kUnits = kRowWarps * kGroups * 8;  // a block can have
  static constexpr int kMostSteps = 1 << 20;
  static constexpr int kPairs = 2 * kGroups;  // (unit, column) of a lane, over all depth warps
  static constexpr int kItems = (kPairs + kDepthWarps - 1) / kDepthWarps;  // of them, of one warp
  static constexpr int kOwnColumns = kItems < 2 ? kItems : 2;
  static constexpr int kHeld = steps_held<Mode, kTiles>(kItems > 2        ? 96
                                                        : kTiles % 3 == 0 ? 144
                                                                          : 128,
                                                        kGrouped || kTiles == 2 ? 16 : 8);
  static constexpr int kMostUnits = 1 << 30;  // of a cluster or group
  static constexpr int kLeastUnits = 8;       // of a block
  static constexpr int64_t depth(int units, int cluster) { return int64_t{units} * cluster; }
  // of a warp: its first pair, and that pair's first unit of the block
  FASTRNN_HD static int first_pair(int warp) { return warp / kRowWarps * kItems; }
  FASTRNN_HD static int first_unit(int warp) {
    return (warp % kRowWarps * kGroups + first_pair(warp) / 2) * 8;
  }
  static_assert(kItems == 1 || kItems % 2 == 0, "item i is of column i % kOwnColumns");
  static_assert(kGroups * Cell::kGates % 2 == 0, "a tile is two gates of 8 units");
  static_assert(Cell::kEarly == 0, "one product a step");
  static_assert(kHeld > 0);
};

// A warp's sums of all gates of a unit and column, as they are stored
template <int kGates>
struct alignas(kGates == 3 ? 16 : 4 * kGates) GateSums {
  float of[kGates == 3 ? 4 : kGates];
};

template <class Traits>
struct ForwardShape : BlockShape<Traits> {
  using Mode = typename Traits::Mode;
  static constexpr int kGates = Traits::Cell::kGates;
  static constexpr int kSums = Traits::kDepthWarps > 1 ? Traits::kWarps * Traits::kPairs * kWarp *
                                                             int{sizeof(GateSums<kGates>)}
                                                       : 0;
  int operands, bias, scale, sums;  // offsets in shared memory

  ForwardShape(int64_t H, int cluster) : BlockShape<Traits>(H, cluster) {
    operands = this->take(2 * this->operand.bytes);
    bias = this->take(2 * kGates * this->units * 4);
    scale = this->take(Mode::kScaled ? (kGates * this->units + kColumns) * 4 : 0);
    sums = this->take(kSums);
    this->take_weights();
  }
};

// The power of two that brings `largest` to [2^8, 2^9): there Float16 and its remainder are normal
// numbers.
FASTRNN_HD float power_to_scale(float largest) {
  const uint32_t exponent = std::bit_cast<uint32_t>(largest) >> 23 & 255;
  if (exponent == 255 || exponent < 32) return 1;
  return std::bit_cast<float>((127 + 8 + 127 - exponent) << 23);
}

__device__ inline float largest_of_warp(float value) {
  for (int lanes = 1; lanes < kWarp; lanes *= 2) {
    value = std::fmax(value, shuffle_xor(value, lanes));
  }
  return value;
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, 1)
    forward_kernel(ForwardData<typename Traits::Mode::Value> p, ForwardShape<Traits> shape) {
#if FASTRNN_HAS_CLUSTERS
  using Mode = typename Traits::Mode;
  using Value = typename Mode::Value;
  using V = typename Traits::V;
  using Cell = typename Traits::Cell;
  constexpr int G = Cell::kGates, S = Cell::kStates, R = Cell::kReserve;
  constexpr int kItems = Traits::kItems, kPairs = Traits::kPairs;
  const int64_t B = p.seq.B, H = p.seq.H;
  const int hidden = static_cast<int>(H);  // shared memory bounds it: 32 bits for W_hh
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int row_warp = warp % Traits::kRowWarps, depth_warp = warp / Traits::kRowWarps;
  using Exchange =
      std::conditional_t<Traits::kGrouped, CacheExchange<Traits>, ClusterExchange<Traits>>;
  char* const memory = shared_memory();
  const Exchange exchange(shape, memory, warp, lane, p.group, p.exchange);
  const int rank = exchange.rank, size = exchange.size;
  const int tile = p.first_tile + static_cast<int>(blockIdx.x) / size;
  const int first_unit = rank * shape.units, first_k = depth_warp * shape.steps * kDepth;

  char* const operands = memory + shape.operands;
  float* const bias = reinterpret_cast<float*>(memory + shape.bias);
  float* const scale = reinterpret_cast<float*>(memory + shape.scale);
  float* const column_scale = scale + G * shape.units;
  auto* const partial = reinterpret_cast<GateSums<G>*>(memory + shape.sums);

  // -------------------------------------------------------------- before the first step
  exchange.begin(thread);
  clear_shared(operands, 2 * shape.operand.bytes, thread, Traits::kThreads);
  for (int i = thread; i < G * shape.units; i += Traits::kThreads) {
    const int64_t unit = first_unit + i / G;
    bias[2 * i] = unit < H ? p.b_ih.at(i % G * H + unit) : 0;
    bias[2 * i + 1] = unit < H ? p.b_hh.at(i % G * H + unit) : 0;
  }
  if constexpr (Mode::kScaled) {
    for (int row = warp; row < G * shape.units + kColumns; row += Traits::kWarps) {
      const int column = row - G * shape.units;
      const int64_t unit = first_unit + row / G, b = int64_t{tile} * kColumns + column;
      const Value* values = nullptr;
      if (column < 0 && unit < H) values = p.w_hh + (row % G * H + unit) * H;
      if (column >= 0 && b < B && p.h_first) values = p.h_first.at(0, b);
      float largest = column < 0 ? 0.0f : 1.0f;  // the bound of h itself
      for (int64_t k = lane; values && k < H; k += kWarp) {
        largest = std::fmax(largest, std::fabs(computed(values[k])));
      }
      scale[row] = power_to_scale(largest_of_warp(largest));
    }
  }
  sync_block();
  for (int64_t i = thread; p.h_first && i < kColumns * H; i += Traits::kThreads) {
    const int column = static_cast<int>(i / H), k = static_cast<int>(i % H);
    const int64_t b = int64_t{tile} * kColumns + column;
    if (b >= B) break;
    const float scaled = Mode::kScaled ? column_scale[column] : 1.0f;
    shape.operand.put(operands, column, k, computed(p.h_first.at(0, b)[k]) * scaled);
  }
  typename BlockShape<Traits>::OwnWeights weights;
  weights.load(lane, shape.steps, memory + shape.rest + warp * shape.rest_of_warp,
               [&](int m, int half, int k) -> Value {
                 const int group = (2 * m + half) / G, gate = (2 * m + half) % G;
                 const int own = (row_warp * Traits::kGroups + group) * 8 + lane / 4;
                 const int unit = first_unit + own, column = first_k + k;
                 if (own >= shape.units || unit >= hidden || column >= hidden) return {};
                 const Value weight = p.w_hh[(gate * hidden + unit) * hidden + column];
                 if constexpr (Mode::kScaled) return weight * scale[own * G + gate];
                 return weight;
               });

  // ------------------------------------------------------- the units and columns of this thread
  // Item i: column 2 (lane % 4) + (depth_warp kItems + i) % 2, and unit first_own + i / 2 * 8 of
  // the block. Beside each of the columns stands where the next step of its first item lies.
  constexpr int kOwnColumns = Traits::kOwnColumns;
  const int first_pair = Traits::first_pair(warp);
  const int first_own = Traits::first_unit(warp) + lane / 4;
  auto own = [&](int item) { return first_own + item / 2 * 8; };
  auto exists = [&](int item) { return first_pair + item < kPairs && own(item) < shape.units; };
  auto is_real = [&](int item) { return exists(item) && first_unit + own(item) < hidden; };
  auto column_of = [&](int item) { return lane % 4 * 2 + (first_pair + item) % 2; };
  auto row_of = [&](int item) { return int64_t{tile} * kColumns + column_of(item); };

  float state[kItems][S], unscale[kItems][G];
  float column_scale_of[kOwnColumns], column_unscale[kOwnColumns];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const bool real = is_real(i) && row_of(i) < B;
    const int unit = first_unit + own(i);
    state[i][0] = real && p.h_first ? computed(p.h_first.at(0, row_of(i))[unit]) : 0;
    if constexpr (S > 1) state[i][1] = real && p.c_first ? p.c_first.at(0, row_of(i))[unit] : 0;
    if constexpr (Mode::kScaled) {
#pragma unroll
      for (int g = 0; g < G; ++g) unscale[i][g] = exists(i) ? 1 / scale[own(i) * G + g] : 1;
    }
  }
  struct Place {
    Value *y, *reserve;
    float* c;
    const float* gx;
  } place[kOwnColumns];
  int length[kOwnColumns];
#pragma unroll
  for (int j = 0; j < kOwnColumns; ++j) {
    length[j] = length_of(p.seq, row_of(j));
    const int64_t t = time_of(p.seq, length[j], p.first), unit = first_unit + first_own;
    place[j] = {p.y.at(t, row_of(j)) + unit, p.reserve.at(t, row_of(j)) + unit,
                p.c.at(t, row_of(j)) + unit, p.gx.at(0, row_of(j)) + unit};
    if constexpr (Mode::kScaled) {
      column_scale_of[j] = column_scale[column_of(j)];
      column_unscale[j] = 1 / column_scale_of[j];
    }
  }
  Step next[kOwnColumns];
  float gx[kItems][G];
  auto fetch = [&](int s) {
#pragma unroll
    for (int j = 0; j < kOwnColumns; ++j) next[j] = Step(p.seq, row_of(j), length[j], s);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int j = i % kOwnColumns;
      if (!is_real(i) || !next[j].works()) continue;
      const float* from = place[j].gx + i / 2 * 8;
#pragma unroll
      for (int g = 0; g < G; ++g, from += hidden) gx[i][g] = *from;
    }
  };
  fetch(p.first);
  exchange.meet(thread);

  // ---------------------------------------------------------------------------------- the steps
  const int longest = steps_of(p.seq, tile);
  const int last = longest < p.last ? longest : p.last;
  // Warps without units: nobody would wait for them, nor they for anybody in their block.
  const bool idle = row_warp * Traits::kGroups * 8 >= shape.units && exchange.is_by_warps();
  const int steps = idle ? 0 : last - p.first;
  for (int turn = 0; turn < steps; ++turn) {
    char* const operand = operands + turn % 2 * shape.operand.bytes;
    char* const next_operand = operands + (turn + 1) % 2 * shape.operand.bytes;
    if (turn > 0) exchange.receive(thread, turn, operand);
    float sums[Traits::kTiles][4] = {};
    weights.multiply(operand + shape.operand.lane_offset(lane, first_k), 0, sums);

    // of (pair, gate): half tile pair / 2 * G + gate, column pair % 2
    GateSums<G> gh[kItems] = {};
    auto sums_of = [&](int pair) {
      GateSums<G> of = {};
#pragma unroll
      for (int g = 0; g < G; ++g) {
        const int half = pair / 2 * G + g;
        of.of[g] = sums[half / 2][half % 2 * 2 + pair % 2];
      }
      return of;
    };
    float bias_x[kItems][G], bias_h[kItems][G];
    auto load_bias = [&] {
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const float* const from = bias + 2 * G * (exists(i) ? own(i) : 0);
#pragma unroll
        for (int g = 0; g < G; ++g) bias_x[i][g] = from[2 * g], bias_h[i][g] = from[2 * g + 1];
      }
    };
    if constexpr (Traits::kDepthWarps > 1) {
      GateSums<G>* const of_row_warp =
          partial + row_warp * kPairs * Traits::kDepthWarps * kWarp + lane;
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        of_row_warp[(pair * Traits::kDepthWarps + depth_warp) * kWarp] = sums_of(pair);
      }
      load_bias();
      sync_group(row_warp, Traits::kDepthWarps * kWarp);
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        if (!exists(i)) continue;
#pragma unroll
        for (int k = 0; k < Traits::kDepthWarps; ++k) {
          const GateSums<G> part =
              of_row_warp[((first_pair + i) * Traits::kDepthWarps + k) * kWarp];
#pragma unroll
          for (int g = 0; g < G; ++g) gh[i].of[g] = k == 0 ? part.of[g] : gh[i].of[g] + part.of[g];
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < kItems; ++i) gh[i] = sums_of(i);
      load_bias();
    }

    V saved[kItems][R > 0 ? R : 1];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int j = i % kOwnColumns;
      const Step& step = next[j];
      if (is_real(i) && step.valid()) {
        V prev[S], curr[S];
#pragma unroll
        for (int k = 0; k < S; ++k) {
          if (step.resets()) state[i][k] = 0;
          curr[k] = prev[k] = V::set(state[i][k]);
        }
        if (!step.masked()) {
          V from_x[G], from_h[G];
#pragma unroll
          for (int g = 0; g < G; ++g) {
            float sum = step.resets() ? 0 : gh[i].of[g];
            if constexpr (Mode::kScaled) sum = sum * unscale[i][g] * column_unscale[j];
            from_x[g] = V::set(gx[i][g] + bias_x[i][g]);
            from_h[g] = V::set(sum + bias_h[i][g]);
          }
          Cell::forward(from_x, from_h, prev, curr, saved[i]);
        }
        state[i][0] = computed(stored<Value>(curr[0].v));
        if constexpr (S > 1) state[i][1] = curr[1].v;
      }
      if (exists(i)) {
        const float scaled = Mode::kScaled ? column_scale_of[j] : 1.0f;
        shape.operand.put(next_operand, column_of(i), first_unit + own(i), state[i][0] * scaled);
      }
    }
    exchange.send(turn + 1, next_operand, turn + 1 < steps);

#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int j = i % kOwnColumns, beside = i / 2 * 8;
      const Step& step = next[j];
      if (!is_real(i) || !step.valid()) continue;
      place[j].y[beside] = stored<Value>(state[i][0]);
      if constexpr (S > 1) {
        if (p.c) place[j].c[beside] = state[i][1];
      }
      if (step.masked() || !p.reserve) continue;
      Value* to = place[j].reserve + beside;
#pragma unroll
      for (int k = 0; k < R; ++k, to += hidden) *to = stored<Value>(saved[i][k].v);
    }
#pragma unroll
    for (int j = 0; j < kOwnColumns; ++j) {
      place[j].y += p.y_stride;
      place[j].reserve += p.reserve_stride;
      place[j].c += p.c_stride;
      place[j].gx += p.gx.time;
    }
    if (turn + 1 < steps) fetch(p.first + turn + 1);
  }

  // ----------------------------------------------------- the last state; zeros beyond the lengths
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (!is_real(i) || row_of(i) >= B) continue;
    const int unit = first_unit + own(i);
    p.h_n.at(0, row_of(i))[unit] = stored<Value>(state[i][0]);
    if constexpr (S > 1) p.c_n.at(0, row_of(i))[unit] = state[i][1];
    if (p.last < p.seq.T) continue;
    for (int t = length[i % kOwnColumns]; t < p.seq.T; ++t) {
      p.y.at(t, row_of(i))[unit] = stored<Value>(0);
      if constexpr (S > 1) {
        if (p.c) p.c.at(t, row_of(i))[unit] = 0;
      }
    }
  }
#endif
}

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
