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
// cell, on registers; h goes to the operand of the next step, of two that take turns: by plain
// stores in the own block, and by asynchronous ones into the other blocks of the cluster, which
// count in a barrier there. Nothing else holds the blocks together: a block that sends h(s + 1) has
// had all of h(s), so every other block has done with h(s - 1), whose place h(s + 1) takes.
#pragma once

#include "persistent/data.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

template <template <class> class C, class Mode_, int kGroups_, int kRowWarps_, int kDepthWarps_,
          int kMostHeld>
struct ForwardTraits {
  using Mode = Mode_;
  using V = typename Mode::V;
  using Cell = C<V>;
  static constexpr int kGroups = kGroups_;  // of 8 units, a warp
  static constexpr int kRowWarps = kRowWarps_, kDepthWarps = kDepthWarps_;
  static constexpr int kWarps = kRowWarps * kDepthWarps, kThreads = kWarps * kWarp;
  static constexpr int kTiles = kGroups * Cell::kGates / 2;
  static constexpr int kWeightRegisters = 128;
  static constexpr int kFit = kWeightRegisters / (kTiles * Mode::kLeft);
  static constexpr int kHeld = kFit < kMostHeld ? kFit : kMostHeld;
  static constexpr int kPairs = 2 * kGroups;  // (unit, column) of a lane, over all depth warps
  static constexpr int kItems = (kPairs + kDepthWarps - 1) / kDepthWarps;  // of them, of one warp
  static constexpr int kOwnColumns = kItems < 2 ? kItems : 2;
  static constexpr int kUnits = kRowWarps * kGroups * 8;  // a block can have
  static_assert(kItems == 1 || kItems % 2 == 0, "item i is of column i % kOwnColumns");
  static_assert(kGroups * Cell::kGates % 2 == 0, "a tile is two gates of 8 units");
  static_assert(Cell::kEarly == 0, "one product a step");
  static_assert(kHeld > 0);
};

template <class Traits>
struct ForwardShape {
  using Mode = typename Traits::Mode;
  static constexpr int kGates = Traits::Cell::kGates;
  int units, steps;  // of this block; of the product, a warp
  OperandShape<Mode> operand;
  int bias, scale, sums, rest, rest_of_warp, bytes;  // offsets in shared memory

  ForwardShape(int64_t H, int cluster)
      : units(units_of(H, cluster)),
        steps(static_cast<int>(
            divide_up(int64_t{units} * cluster, int64_t{kDepth} * Traits::kDepthWarps))),
        operand(steps * Traits::kDepthWarps) {
    constexpr int kBarriers = 16;
    bias = kBarriers + 2 * operand.bytes;
    scale = bias + kGates * units * 4;
    sums = scale + (Mode::kScaled ? (kGates * units + kColumns) * 4 : 0);
    rest =
        sums + Traits::kRowWarps * Traits::kPairs * (Traits::kDepthWarps - 1) * kGates * kWarp * 4;
    rest_of_warp = Weights<Mode, Traits::kTiles, Traits::kHeld>::shared_bytes(steps);
    bytes = rest + Traits::kWarps * rest_of_warp;
  }
  bool fits(int64_t, int, int64_t shared_bytes) const {
    return units <= Traits::kUnits && bytes <= shared_bytes;
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
  const int rank = cluster_rank(), size = cluster_size();
  const int64_t tile = blockIdx.x / static_cast<unsigned>(size);
  const int first_unit = rank * shape.units, first_k = depth_warp * shape.steps * kDepth;

  char* const memory = shared_memory();
  Barrier* const barriers = reinterpret_cast<Barrier*>(memory);
  char* const operands = memory + 16;
  float* const bias = reinterpret_cast<float*>(memory + shape.bias);
  float* const scale = reinterpret_cast<float*>(memory + shape.scale);
  float* const column_scale = scale + G * shape.units;
  float* const partial = reinterpret_cast<float*>(memory + shape.sums);

  // -------------------------------------------------------------- before the first step
  const int bytes_of_others =
      (size - 1) * Mode::kPlanes * kColumns * shape.units * int{sizeof(typename Mode::Element)};
  if (thread == 0) {
    for (int i = 0; i < 2; ++i) init_barrier(&barriers[i]);
    for (int i = 0; i < 2; ++i) expect_bytes(&barriers[i], bytes_of_others);
  }
  for (int i = thread; i < 2 * shape.operand.bytes / 16; i += Traits::kThreads) {
    reinterpret_cast<Word16*>(operands)[i] = {};
  }
  for (int i = thread; i < G * shape.units; i += Traits::kThreads) {
    const int64_t unit = first_unit + i / G;
    const bool real = p.b_hh && unit < H;
    bias[i] = real ? computed(p.b_hh[i % G * H + unit]) : 0;
  }
  if constexpr (Mode::kScaled) {
    for (int row = warp; row < G * shape.units + kColumns; row += Traits::kWarps) {
      const int column = row - G * shape.units;
      const int64_t unit = first_unit + row / G, b = tile * kColumns + column;
      const Value* values = nullptr;
      if (column < 0 && unit < H) values = p.w_hh + (row % G * H + unit) * H;
      if (column >= 0 && b < B && p.h0) values = p.h0 + b * H;
      float largest = column < 0 ? 0.0f : 1.0f;  // the bound of h itself
      for (int64_t k = lane; values && k < H; k += kWarp) {
        largest = std::fmax(largest, std::fabs(computed(values[k])));
      }
      scale[row] = power_to_scale(largest_of_warp(largest));
    }
  }
  sync_block();
  for (int64_t i = thread; p.h0 && i < kColumns * H; i += Traits::kThreads) {
    const int column = static_cast<int>(i / H), k = static_cast<int>(i % H);
    const int64_t b = tile * kColumns + column;
    if (b >= B) break;
    const float scaled = Mode::kScaled ? column_scale[column] : 1.0f;
    shape.operand.put(operands, column, k, computed(p.h0[b * H + k]) * scaled);
  }
  Weights<Mode, Traits::kTiles, Traits::kHeld> weights;
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
  int own[kItems] = {};  // unit within the block; the column is 2 (lane % 4) + item % 2
  float state[kItems][S];
  auto column_of = [&](int item) { return lane % 4 * 2 + (depth_warp * kItems + item) % 2; };
  auto row_of = [&](int item) { return tile * kColumns + column_of(item); };
  auto is_real = [&](int item) { return own[item] >= 0 && first_unit + own[item] < H; };
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int pair = depth_warp * kItems + i;
    own[i] = (row_warp * Traits::kGroups + pair / 2) * 8 + lane / 4;
    if (pair >= kPairs || own[i] >= shape.units) own[i] = -1;
    const bool real = is_real(i) && row_of(i) < B;
    const int64_t at = row_of(i) * H + first_unit + own[i];
    state[i][0] = real && p.h0 ? computed(p.h0[at]) : 0;
    if constexpr (S > 1) state[i][1] = real && p.c0 ? p.c0[at] : 0;
  }
  int64_t length[Traits::kOwnColumns];
  for (int j = 0; j < Traits::kOwnColumns; ++j) length[j] = length_of(p.seq, row_of(j));
  Step next[Traits::kOwnColumns];
  float gx[kItems][G];
  auto fetch = [&](int64_t s) {
#pragma unroll
    for (int j = 0; j < Traits::kOwnColumns; ++j) next[j] = Step(p.seq, row_of(j), length[j], s);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const Step& step = next[i % Traits::kOwnColumns];
      if (!is_real(i) || !step.works()) continue;
      const float* const from = p.gx + step.row * G * H + first_unit + own[i];
      for (int g = 0; g < G; ++g) gx[i][g] = from[g * H];
    }
  };
  fetch(0);
  sync_cluster();

  // ---------------------------------------------------------------------------------- the steps
  const int64_t steps = steps_of(p.seq, tile);
  for (int64_t s = 0; s < steps; ++s) {
    const char* const operand = operands + s % 2 * shape.operand.bytes;
    char* const next_operand = operands + (s + 1) % 2 * shape.operand.bytes;
    if (s > 0 && size > 1) {
      Barrier* const barrier = &barriers[s % 2];
      wait_phase(barrier, phase_parity(s));
      if (thread == 0) expect_bytes(barrier, bytes_of_others);  // of step s + 2
    }
    float sums[Traits::kTiles][4] = {};
    weights.multiply(operand + shape.operand.lane_offset(lane, first_k), sums);

    // sums of (pair, gate): half tile pair / 2 * G + gate, column pair % 2
    float gh[kItems][G] = {};
    if constexpr (Traits::kDepthWarps > 1) {
      float* const of_row_warp =
          partial + row_warp * kPairs * (Traits::kDepthWarps - 1) * G * kWarp;
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        const int owner = pair / kItems;
        if (owner == depth_warp) continue;
        const int slot = pair * (Traits::kDepthWarps - 1) + depth_warp - (depth_warp > owner);
#pragma unroll
        for (int g = 0; g < G; ++g) {
          const int half = pair / 2 * G + g;
          of_row_warp[(slot * G + g) * kWarp + lane] = sums[half / 2][half % 2 * 2 + pair % 2];
        }
      }
      sync_block();
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        if (pair / kItems != depth_warp) continue;
#pragma unroll
        for (int g = 0; g < G; ++g) {
          const int half = pair / 2 * G + g;
          float sum = sums[half / 2][half % 2 * 2 + pair % 2];
#pragma unroll
          for (int i = 0; i < Traits::kDepthWarps - 1; ++i) {
            sum += of_row_warp[((pair * (Traits::kDepthWarps - 1) + i) * G + g) * kWarp + lane];
          }
          gh[pair % kItems][g] = sum;
        }
      }
    } else {
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
        for (int g = 0; g < G; ++g) {
          const int half = pair / 2 * G + g;
          gh[pair][g] = sums[half / 2][half % 2 * 2 + pair % 2];
        }
      }
    }

#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const Step& step = next[i % Traits::kOwnColumns];
      if (is_real(i) && step.valid) {
        V prev[S], curr[S];
#pragma unroll
        for (int k = 0; k < S; ++k) {
          if (step.resets) state[i][k] = 0;
          curr[k] = prev[k] = V::set(state[i][k]);
        }
        const int64_t at = step.row * H + first_unit + own[i];
        if (!step.masked) {
          V from_x[G], from_h[G], saved[R > 0 ? R : 1];
#pragma unroll
          for (int g = 0; g < G; ++g) {
            float sum = step.resets ? 0 : gh[i][g];
            if constexpr (Mode::kScaled) {
              sum = sum / scale[own[i] * G + g] / column_scale[column_of(i)];
            }
            from_x[g] = V::set(gx[i][g]);
            from_h[g] = V::set(sum + bias[own[i] * G + g]);
          }
          Cell::forward(from_x, from_h, prev, curr, saved);
          Value* const to = p.reserve + step.row * R * H + first_unit + own[i];
          for (int k = 0; p.reserve && k < R; ++k) to[k * H] = stored<Value>(saved[k].v);
        }
        const Value h = stored<Value>(curr[0].v);
        p.y[at] = h;
        state[i][0] = computed(h);
        if constexpr (S > 1) {
          state[i][1] = curr[1].v;
          if (p.c) p.c[at] = curr[1].v;
        }
      }
      if (own[i] >= 0) {
        const float scaled = Mode::kScaled ? column_scale[column_of(i)] : 1.0f;
        shape.operand.put(next_operand, column_of(i), first_unit + own[i], state[i][0] * scaled);
      }
    }
    sync_block();
    fetch(s + 1);
    if (size > 1 && s + 1 < steps) {
      // 16 bytes of the own part of the operand to one of the others
      const int words = shape.units * int{sizeof(typename Mode::Element)} / 16;
      const int all = Mode::kPlanes * kColumns * words;
      for (int i = thread; i < (size - 1) * all; i += Traits::kThreads) {
        const int to = (rank + 1 + i / all) % size, row = i % all / words, word = i % words;
        char* const from = next_operand + row * shape.operand.pitch +
                           first_unit * int{sizeof(typename Mode::Element)} + word * 16;
        store_async(from, *reinterpret_cast<const Word16*>(from), &barriers[(s + 1) % 2], to);
      }
    }
  }

  // ----------------------------------------------------- the last state; zeros beyond the lengths
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (!is_real(i) || row_of(i) >= B) continue;
    const int64_t unit = first_unit + own[i], at = row_of(i) * H + unit;
    if (p.h_n) p.h_n[at] = stored<Value>(state[i][0]);
    if constexpr (S > 1) {
      if (p.c_n) p.c_n[at] = state[i][1];
    }
    for (int64_t t = length[i % Traits::kOwnColumns]; t < p.seq.T; ++t) {
      p.y[(t * B + row_of(i)) * H + unit] = stored<Value>(0);
      if (S > 1 && p.c) p.c[(t * B + row_of(i)) * H + unit] = 0;
    }
  }
}

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
