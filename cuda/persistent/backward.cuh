// Back-propagation through time over all steps in one launch. A block has the rows of W_hh of its
// own units, transposed:
//
//            K = its gates                    its gate gradients of step s
//   hidden [ W W W W ]                        [ d ]
//   units  [ W W W W ]             x          [ d ]       kRowWarps x kDepthWarps warps
//   (all)  [ W W W W ]                        [ d ]
//                                             kColumns
//
// so that its product is its share of dh of all units, which it sends, 16 bytes at a time, to the
// blocks that have these units (shares.cuh): a cluster, or a group of blocks anywhere. Each sums
// what comes in, one share a sender (and depth warp). A warp has one batch row, a lane `kItems` of
// the block's units: what a step is, is the same for a whole warp. Shares take turns in two, as the
// operands do forward; a block's own goes the way of the others. That all have come does not say
// that all of the block's own warps have read the gate gradients, some of which send to other
// blocks alone: they meet before the next are written, while shares are under way.
#pragma once

#include "persistent/data.cuh"
#include "persistent/shares.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

template <class Value>
struct BackwardData {
  Sequence seq;
  const Value* w_hh;       // [G*H, H]
  Rows<const Value> dy;    // [T, B, H] or null
  Rows<const Value> dh_n;  // [B, H] or null
  Rows<const float> dc_n;
  Rows<const Value> h0;  // [B, H] or null
  Rows<const float> c0;
  Rows<const Value> y;        // [T, B, H]
  Rows<const float> c;        // [T, B, H]
  Rows<const Value> reserve;  // [T, B, R*H]
  Value* dgates;              // [T, B, D*H]  zeros where no step works
  Rows<Value> dh0;            // [B, H] or null
  Rows<float> dc0;
  float* db;           // [tiles, D*H]: sums of dgates over the rows of each tile
  Word16* exchange;    // where blocks are in groups; zeros
  int first_tile = 0;  // of this launch
  int group = 0;       // blocks
};

template <template <class> class C, class Mode_, int kTiles_, int kRowWarps_, int kDepthWarps_,
          int kUnits_, bool kGrouped_>
struct BackwardTraits {
  static constexpr bool kGrouped = kGrouped_;  // and not clusters
  using Mode = Mode_;
  using V = typename Mode::V;
  using Cell = C<V>;
  static constexpr int kTiles = kTiles_;  // of 16 hidden units, a warp
  static constexpr int kRowWarps = kRowWarps_, kDepthWarps = kDepthWarps_;
  static constexpr int kWarps = kRowWarps * kDepthWarps, kThreads = kWarps * kWarp;
  static constexpr int kWeightRegisters = 128;
  static constexpr int kUnits = kUnits_;                       // a block can have
  static constexpr int kItems = (kUnits + kWarp - 1) / kWarp;  // of them, of a lane
  static constexpr int kMostUnits = kRowWarps * kTiles * 16;   // of a cluster or group
  // of a block: of a group, what it exchanges grows with its blocks
  static constexpr int kLeastUnits = kGrouped ? kUnits / 2 + 8 : 8;
  static constexpr int kFit = kWeightRegisters / (kTiles * Mode::kLeft);
  static constexpr int kMostSteps =
      (Cell::kGates * kUnits + kDepth * kDepthWarps - 1) / (kDepth * kDepthWarps);
  static constexpr int kHeld = kFit < kMostSteps ? kFit : kMostSteps;
  static constexpr int64_t depth(int units, int) { return int64_t{Cell::kGates} * units; }
  static_assert(kWarps == kColumns, "a warp has one batch row");
  static_assert(Cell::kEarly == 0, "one product a step");
  static_assert(kHeld > 0);
};

// values[i] of lanes 4 apart: the lane with lane / 4 % 4 == r gets value r of the four lanes, in
// order.
__device__ inline void transpose_rows(int lane, float (&values)[4]) {
#pragma unroll
  for (int distance = 1; distance < 4; distance *= 2) {
    const bool upper = lane / 4 & distance;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & distance) continue;
      const float got = shuffle_xor(upper ? values[i] : values[i + distance], 4 * distance);
      values[i] = upper ? got : values[i];
      values[i + distance] = upper ? values[i + distance] : got;
    }
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, 1)
    backward_kernel(BackwardData<typename Traits::Mode::Value> p, BackwardShape<Traits> shape) {
#if FASTRNN_HAS_CLUSTERS
  using Mode = typename Traits::Mode;
  using Value = typename Mode::Value;
  using V = typename Traits::V;
  using Cell = typename Traits::Cell;
  constexpr int G = Cell::kGates, S = Cell::kStates, R = Cell::kReserve, D = Cell::kSlots;
  constexpr int kItems = Traits::kItems;
  const int64_t B = p.seq.B, H = p.seq.H;
  const int hidden = static_cast<int>(H);  // shared memory bounds it: 32 bits for W_hh
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int row_warp = warp % Traits::kRowWarps, depth_warp = warp / Traits::kRowWarps;
  using Shares = std::conditional_t<Traits::kGrouped, CacheShares<Traits>, ClusterShares<Traits>>;
  char* const memory = shared_memory();
  const Shares shares(shape, memory, p.group, p.exchange);
  const int rank = shares.rank, size = shares.size;
  const int64_t tile = p.first_tile + static_cast<int>(blockIdx.x) / size;
  const int64_t b = tile * kColumns + warp;
  const int first_unit = rank * shape.units, first_k = depth_warp * shape.steps * kDepth;

  char* const operand = memory + shape.gates;
  float* const db = reinterpret_cast<float*>(memory + shape.db) + warp * D * shape.units;

  // -------------------------------------------------------------- before the last step
  shares.begin(thread);
  clear_shared(operand, shape.operand.bytes, thread, Traits::kThreads);
  for (int i = lane; i < D * shape.units; i += kWarp) db[i] = 0;
  // row: hidden unit that h' is of; k: unit by unit, its gates
  typename BlockShape<Traits>::OwnWeights weights;
  weights.load(lane, shape.steps, memory + shape.rest + warp * shape.rest_of_warp,
               [&](int m, int half, int k) -> Value {
                 const int row = (row_warp * Traits::kTiles + m) * 16 + half * 8 + lane / 4;
                 const int gate = (first_k + k) % G, own = (first_k + k) / G;
                 const int unit = first_unit + own;
                 if (row >= hidden || own >= shape.units || unit >= hidden) return {};
                 return p.w_hh[(gate * hidden + unit) * hidden + row];
               });

  // --------------------------------------------------------------------- what this thread holds
  const int steps = steps_of(p.seq, tile), length = length_of(p.seq, b);
  float dstate[kItems][S], curr[kItems][S], prev[kItems][S], saved[kItems][R > 0 ? R : 1],
      dy[kItems];
  auto own_of = [&](int i) { return Shares::unit_of(lane, i); };  // within the block
  auto is_real = [&](int i) { return own_of(i) < shape.units && first_unit + own_of(i) < hidden; };
  // the states after step s, before the first one if s < 0
  auto fetch_states = [&](int s, float (&states)[kItems][S]) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
#pragma unroll
      for (int k = 0; k < S; ++k) states[i][k] = 0;
      if (!is_real(i) || b >= B || s >= length) continue;
      const int unit = first_unit + own_of(i);
      if (s >= 0) {
        const int t = time_of(p.seq, length, s);
        states[i][0] = computed(p.y.at(t, b)[unit]);
        if constexpr (S > 1) states[i][1] = p.c.at(t, b)[unit];
      } else {
        if (p.h0) states[i][0] = computed(p.h0.at(0, b)[unit]);
        if constexpr (S > 1) {
          if (p.c0) states[i][1] = p.c0.at(0, b)[unit];
        }
      }
    }
  };
  Step next;
  auto fetch = [&](int s) {
    next = Step(p.seq, b, length, s);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      dy[i] = 0;
      if (!is_real(i) || !next.valid) continue;
      const int unit = first_unit + own_of(i);
      if (p.dy) dy[i] = computed(p.dy.at(next.t, b)[unit]);
      if (next.masked) continue;
      const Value* const from = p.reserve.at(next.t, b) + unit;
#pragma unroll
      for (int k = 0; k < R; ++k) saved[i][k] = computed(from[k * H]);
    }
    fetch_states(s - 1, prev);
  };
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const bool real = is_real(i) && b < B;
    const int unit = first_unit + own_of(i);
    dstate[i][0] = real && p.dh_n ? computed(p.dh_n.at(0, b)[unit]) : 0;
    if constexpr (S > 1) dstate[i][1] = real && p.dc_n ? p.dc_n.at(0, b)[unit] : 0;
  }
  fetch_states(steps - 1, curr);
  fetch(steps - 1);
  shares.meet();

  // what the gate gradients of step s + 1 send back through W_hh
  auto add_incoming = [&](int s) {
    const int turn = steps - 1 - s;  // 1, 2, ...
    if (turn == 0) return;
    shares.wait(thread, turn);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      dstate[i][0] += shares.incoming(turn, warp, lane, i, is_real(i));
    }
  };

  // ----------------------------------------------------------------------------------- the steps
  for (int s = steps - 1; s >= 0; --s) {
    add_incoming(s);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int own = own_of(i);
      float gradients[D] = {};
      if (is_real(i) && next.valid) {
        const int unit = first_unit + own;
        dstate[i][0] += dy[i];
        if (!next.masked) {
          V before[S], after[S], kept[R > 0 ? R : 1], dcurr[S], dgates[D], dprev[S];
#pragma unroll
          for (int k = 0; k < S; ++k) {
            before[k] = V::set(next.resets ? 0 : prev[i][k]);
            after[k] = V::set(curr[i][k]);
            dcurr[k] = V::set(dstate[i][k]);
          }
#pragma unroll
          for (int k = 0; k < R; ++k) kept[k] = V::set(saved[i][k]);
          Cell::backward(before, after, kept, dcurr, dgates, dprev);
#pragma unroll
          for (int k = 0; k < S; ++k) dstate[i][k] = dprev[k].v;
#pragma unroll
          for (int k = 0; k < D; ++k) {
            const Value stored_gradient = stored<Value>(dgates[k].v);
            gradients[k] = computed(stored_gradient);
            db[k * shape.units + own] += gradients[k];
          }
        }
        Value* const to = p.dgates + (int64_t{next.t} * B + b) * D * H + unit;
#pragma unroll
        for (int k = 0; k < D; ++k) to[k * H] = stored<Value>(gradients[k]);
        if (next.resets) {
#pragma unroll
          for (int k = 0; k < S; ++k) dstate[i][k] = 0;
        }
      }
      if (own < shape.units) {
#pragma unroll
        for (int g = 0; g < G; ++g) {
          shape.operand.put(operand, warp, own * G + g,
                            next.resets ? 0 : gradients[Cell::slot_h(g)]);
        }
      }
#pragma unroll
      for (int k = 0; k < S; ++k) curr[i][k] = prev[i][k];
    }
    sync_block();
    fetch(s - 1);
    float sums[Traits::kTiles][4] = {};
    if (row_warp * Traits::kTiles * 16 < size * shape.units) {
      weights.multiply(operand + shape.operand.lane_offset(lane, first_k), sums);
    }
    const int turn = steps - s;
#pragma unroll
    for (int m = 0; m < Traits::kTiles; ++m) {
      // four units of one batch row: of rows lane / 4 (+ 8), columns lane % 4 * 2 (+ 1)
      transpose_rows(lane, sums[m]);
      const int which = lane / 4 % 4, column = lane % 4 * 2 + which % 2;
      const int unit = (row_warp * Traits::kTiles + m) * 16 + which / 2 * 8 + lane / 16 * 4;
      const int to = unit / shape.units;
      if (to >= size) continue;
      shares.send(turn, depth_warp, to, column, unit % shape.units, sums[m]);
    }
    sync_block();
  }
  add_incoming(-1);

  // ------------------------------- the first state; sums; zeros where no step of the row is
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (!is_real(i) || b >= B) continue;
    const int64_t unit = first_unit + own_of(i);
    if (p.dh0) p.dh0.at(0, b)[unit] = stored<Value>(dstate[i][0]);
    if constexpr (S > 1) {
      if (p.dc0) p.dc0.at(0, b)[unit] = dstate[i][1];
    }
    for (int64_t t = length; t < p.seq.T; ++t) {
      for (int k = 0; k < D; ++k) p.dgates[((t * B + b) * D + k) * H + unit] = stored<Value>(0);
    }
  }
  sync_block();
  for (int i = thread; i < D * shape.units; i += Traits::kThreads) {
    const int64_t unit = first_unit + i % shape.units;
    if (unit >= H) continue;
    float sum = 0;
    for (int n = 0; n < kColumns; ++n) sum += (db + (n - warp) * D * shape.units)[i];
    p.db[(tile * D + i / shape.units) * H + unit] = sum;
  }
#endif
}

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
