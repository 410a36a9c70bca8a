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
// operands do forward; a block's own goes the way of the others. The gate gradients take turns too:
// that all shares have come does not say that all of the block's own warps have multiplied them,
// some of which send to other blocks alone.
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
  Rows<Value> dgates;         // [T, B, D*H]  zeros where no step works
  Rows<Value> dh0;            // [B, H] or null
  Rows<float> dc0;
  float* db;         // [tiles, D*H]: sums of dgates over the rows of each tile
  Word16* exchange;  // where blocks are in groups; zeros
  // from a step to the next, which is the one after it
  int64_t dy_stride = stride_of(seq, dy), y_stride = stride_of(seq, y),
          c_stride = stride_of(seq, c), reserve_stride = stride_of(seq, reserve),
          dgates_stride = stride_of(seq, dgates);
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
  static constexpr int kTiles = kTiles_;             // of 16 hidden units, a warp
  static constexpr int kParts = kTiles > 4 ? 2 : 1;  // of the product, for the sums' registers
  static constexpr int kRowWarps = kRowWarps_, kDepthWarps = kDepthWarps_;
  static constexpr int kWarps = kRowWarps * kDepthWarps, kThreads = kWarps * kWarp;
  static constexpr int kUnits = kUnits_;                       // a block can have
  static constexpr int kItems = (kUnits + kWarp - 1) / kWarp;  // of them, of a lane
  static constexpr int kMostUnits = kRowWarps * kTiles * 16;   // of a cluster or group
  // of a block: of a group, what it exchanges grows with its blocks
  static constexpr int kLeastUnits = kGrouped ? kUnits / 2 + 8 : 8;
  static constexpr int kMostSteps = steps_of_product<kDepthWarps>(Cell::kGates * kUnits);
  static constexpr int kHeld = steps_held<Mode, kTiles>(kItems > 2 && Mode::kLeft == 4 ? 96
                                                        : kTiles == 6                  ? 144
                                                                                       : 128,
                                                        kMostSteps);
  static constexpr int64_t depth(int units, int) { return int64_t{Cell::kGates} * units; }
  static_assert(kWarps == kColumns, "a warp has one batch row");
  static_assert(Cell::kEarly == 0, "one product a step");
  static_assert(kHeld > 0);
};

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

  char* const operands = memory + shape.gates;
  float* const db = reinterpret_cast<float*>(memory + shape.db) + warp * D * shape.units;

  // -------------------------------------------------------------- before the last step
  shares.begin(thread);
  clear_shared(operands, 2 * shape.operand.bytes, thread, Traits::kThreads);
  for (int i = lane; i < D * shape.units; i += kWarp) db[i] = 0;
  // row: hidden unit that h' is of; k: unit by unit, its gates
  typename BlockShape<Traits>::OwnWeights weights;
  weights.load(lane, shape.steps, memory + shape.rest + warp * shape.rest_of_warp,
               [&](int m, int half, int k) -> Value {
                 const int row =
                     (row_warp * Traits::kTiles + m) * 16 + Shares::row_of(lane / 4, half);
                 const int gate = (first_k + k) % G, own = (first_k + k) / G;
                 const int unit = first_unit + own;
                 if (row >= hidden || own >= shape.units || unit >= hidden) return {};
                 return p.w_hh[(gate * hidden + unit) * hidden + row];
               });

  // --------------------------------------------------------------------- what this thread holds
  // Values stay as they are in memory until a step uses them: a conversion would wait for the load.
  const int steps = steps_of(p.seq, tile), length = length_of(p.seq, b);
  struct State {
    Value h;
    float c;
  };
  float dstate[kItems][S];
  State curr[kItems], prev[kItems];
  Value saved[kItems][R > 0 ? R : 1], dy[kItems];
  auto own_of = [&](int i) { return Shares::unit_of(lane, i); };  // within the block
  auto is_real = [&](int i) { return own_of(i) < shape.units && first_unit + own_of(i) < hidden; };
  auto part_of = [](const State& state, int k) { return k == 0 ? computed(state.h) : state.c; };
  // Where step s lies, and the state before it; kept from step to step where registers allow it
  constexpr bool kHasRoom = Traits::kTiles <= 4 && kItems <= 2;
  struct Place {
    const Value *dy, *reserve, *y;
    const float* c;
  };
  const int lane_unit = first_unit + own_of(0);
  auto place_of = [&](int s) -> Place {
    const int64_t t = time_of(p.seq, length, s), before = time_of(p.seq, length, s - 1);
    return {p.dy.at(t, b) + lane_unit, p.reserve.at(t, b) + lane_unit,
            p.y.at(before, b) + lane_unit, p.c.at(before, b) + lane_unit};
  };
  auto dgates_of = [&](int s) { return p.dgates.at(time_of(p.seq, length, s), b) + lane_unit; };
  Place place = place_of(steps - 1);
  Value* dgates_at = dgates_of(steps - 1);
  // the states after step s, before the first one if s < 0
  auto fetch_states = [&](int s, const Value* y, const float* c, State(&states)[kItems]) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      states[i] = {};
      if (!is_real(i) || b >= B || s >= length) continue;
      if (s >= 0) {
        states[i].h = y[i * kWarp];
        if constexpr (S > 1) states[i].c = c[i * kWarp];
      } else {
        const int unit = first_unit + own_of(i);
        if (p.h0) states[i].h = p.h0.at(0, b)[unit];
        if constexpr (S > 1) {
          if (p.c0) states[i].c = p.c0.at(0, b)[unit];
        }
      }
    }
  };
  Step next;
  auto fetch = [&](int s) {
    next = Step(p.seq, b, length, s);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      dy[i] = {};
      if (!is_real(i) || !next.valid()) continue;
      if (p.dy) dy[i] = place.dy[i * kWarp];
      if (next.masked()) continue;
      const Value* from = place.reserve + i * kWarp;
#pragma unroll
      for (int k = 0; k < R; ++k, from += hidden) saved[i][k] = *from;
    }
    fetch_states(s - 1, place.y, place.c, prev);
  };
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const bool real = is_real(i) && b < B;
    const int unit = first_unit + own_of(i);
    dstate[i][0] = real && p.dh_n ? computed(p.dh_n.at(0, b)[unit]) : 0;
    if constexpr (S > 1) dstate[i][1] = real && p.dc_n ? p.dc_n.at(0, b)[unit] : 0;
  }
  fetch_states(steps - 1, place.y + p.y_stride, place.c + p.c_stride, curr);
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
    const int turn = steps - s;
    char* const operand = operands + turn % 2 * shape.operand.bytes;
    add_incoming(s);
    const Step now = next;
    Value gradients[kItems][D];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int own = own_of(i);
#pragma unroll
      for (int k = 0; k < D; ++k) gradients[i][k] = {};
      if (is_real(i) && now.valid()) {
        dstate[i][0] += computed(dy[i]);
        if (!now.masked()) {
          V before[S], after[S], kept[R > 0 ? R : 1], dcurr[S], dgates[D], dprev[S];
#pragma unroll
          for (int k = 0; k < S; ++k) {
            before[k] = V::set(now.resets() ? 0 : part_of(prev[i], k));
            after[k] = V::set(part_of(curr[i], k));
            dcurr[k] = V::set(dstate[i][k]);
          }
#pragma unroll
          for (int k = 0; k < R; ++k) kept[k] = V::set(computed(saved[i][k]));
          Cell::backward(before, after, kept, dcurr, dgates, dprev);
#pragma unroll
          for (int k = 0; k < S; ++k) dstate[i][k] = dprev[k].v;
#pragma unroll
          for (int k = 0; k < D; ++k) gradients[i][k] = stored<Value>(dgates[k].v);
        }
        if (now.resets()) {
#pragma unroll
          for (int k = 0; k < S; ++k) dstate[i][k] = 0;
        }
      }
      if (own < shape.units) {
#pragma unroll
        for (int g = 0; g < G; ++g) {
          shape.operand.put(operand, warp, own * G + g,
                            now.resets() ? 0 : computed(gradients[i][Cell::slot_h(g)]));
        }
      }
      curr[i] = prev[i];
    }
    auto keep = [&] {
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        if (!is_real(i) || !now.valid()) continue;
        Value* to = (kHasRoom ? dgates_at : dgates_of(s)) + i * kWarp;
#pragma unroll
        for (int k = 0; k < D; ++k, to += hidden) {
          *to = gradients[i][k];
          db[k * shape.units + own_of(i)] += computed(gradients[i][k]);
        }
      }
      dgates_at -= p.dgates_stride;
    };
    if constexpr (kHasRoom) {
      place.dy -= p.dy_stride;
      place.reserve -= p.reserve_stride;
      place.y -= p.y_stride;
      place.c -= p.c_stride;
    } else {
      place = place_of(s - 1);
      keep();
    }
    if (s > 0) fetch(s - 1);
    sync_block();
    constexpr int kOfPart = Traits::kTiles / Traits::kParts;
#pragma unroll
    for (int part = 0; part < Traits::kParts; ++part) {
      const int unit = (row_warp * Traits::kTiles + part * kOfPart) * 16;
      if (unit >= size * shape.units) break;
      float sums[kOfPart][4] = {};
      weights.multiply(operand + shape.operand.lane_offset(lane, first_k), part, sums);
      shares.send(turn, depth_warp, lane, unit, sums);
    }
    if constexpr (kHasRoom) keep();
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
      for (int k = 0; k < D; ++k) p.dgates.at(t, b)[k * H + unit] = stored<Value>(0);
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
