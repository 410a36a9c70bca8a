// The products of BPTT on a matrix unit (bf16x3.hpp), for the plain driver and the family's.
//
// The gradients of gates are kept as its left factor, by slots of `units` each:
//
//   [slots, units / 32][part][rows, an odd number][16 pairs]
//
// Weights, and rows of x and h, are its right factor: [columns / 16][k / 32][part][16 pairs][16].
// Which products are the unit's depends on the shapes alone: same bits for any number of threads.
#pragma once

#include "cpu/products.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// Where there is no unit for products of matrices beside the vectors.
struct NoMatrixUnit {
  static constexpr bool kPresent = false;
  static constexpr int kParts = 1;
  static int64_t groups_of(int64_t) { return 0; }
};

// At a batch below 8 the recurrence stays with the vectors, and more units make the rest worth it.
constexpr int64_t kLeastUnitRows = 96, kLeastUnitBatch = 8, kLeastUnitsAlone = 128;
constexpr int64_t kLeastUnitInputRows = 128;  // of dx alone, to be worth another packing of w_ih

struct ByUnit {
  bool weights, inputs, recurrence;

  // rows: of a chunk
  ByUnit(bool present, int64_t rows, int64_t batch, int64_t units)
      : weights(present && rows >= kLeastUnitRows &&
                (batch >= kLeastUnitBatch || units >= kLeastUnitsAlone)),
        inputs(weights && (batch >= kLeastUnitBatch || rows >= kLeastUnitInputRows)),
        recurrence(weights && batch >= kLeastUnitBatch) {}
};

// As hidden_parts. Fewer rows than a tile has take as long as a tile: then it is the units that are
// split.
template <class Unit>
int64_t parts_of_units(int threads, int64_t batch, int64_t weight_bytes) {
  constexpr int64_t kWorthTheWait = 128 * 1024;
  return batch < Unit::kRows * threads && weight_bytes >= kWorthTheWait ? threads : 1;
}

template <class Unit>
struct UnitGradients {
  static constexpr int64_t kPairs = 16;  // of a row of a group

  uint32_t* at = nullptr;
  int64_t groups = 0, part = 0;  // groups of a slot; pairs of a part

  UnitGradients() = default;
  UnitGradients(uint32_t* memory, int64_t units, int64_t rows)
      : at(memory), groups(Unit::groups_of(units)), part(part_of(rows)) {}

  static uint32_t* take(Arena& arena, int64_t slots, int64_t units, int64_t rows) {
    return arena.take<uint32_t>(slots * Unit::groups_of(units) * Unit::kParts * part_of(rows));
  }

  UnitGradients from(int64_t row) const {
    UnitGradients rest = *this;
    rest.at += row * kPairs;
    return rest;
  }
  uint32_t* group(int64_t slot, int64_t n) const {
    return at + (slot * groups + n) * Unit::kParts * part;
  }

  // blocks j, an even one, and j + 1 of the first row
  template <class V>
  void store(int64_t slot, int64_t j, V first, V second) const {
    Unit::store_pairs(group(slot, j / 2), part, first, second);
  }

  // the first row of `to`, of the units of some blocks
  void copy(int64_t slots, const BlockRange& range, const UnitGradients& to) const {
    for (int64_t slot = 0; slot < slots; ++slot) {
      for (int64_t n = range.first / 2; n < (range.last + 1) / 2; ++n) {
        for (int i = 0; i < Unit::kParts; ++i)
          copy_or_zero(to.group(slot, n) + i * to.part, group(slot, n) + i * part, kPairs);
      }
    }
  }

 private:
  // of an odd number of rows, for the reason of Columns
  static int64_t part_of(int64_t rows) { return (rows | 1) * kPairs; }
};

// Pairs of a right factor of `columns` columns and `groups` of k.
template <class Unit>
int64_t right_factor(int64_t columns, int64_t groups) {
  return blocks_of<float>(columns) * groups * Unit::kGroupOfTiles;
}

// w, `gates` of `units` rows each, as right factor: k runs over the units of one gate after the
// other
template <class Unit>
void pack_weights_for_unit(int threads, const Tensor& w, int64_t gates, int64_t units,
                           uint32_t* packed) {
  using V = Vec<float>;
  constexpr int64_t kLanes = V::kLanes;
  const int64_t columns = w.shape[1], groups = Unit::groups_of(units);
  const int workers = threads_for(threads, kPacking * columns * gates * units);
  for_packed_blocks(workers, blocks_of<float>(columns), [&](int64_t first, int64_t last) {
    for (int64_t group = 0; group < gates * groups; ++group) {
      const int64_t unit = group % groups * Unit::kGroup;
      const float* rows =
          static_cast<const float*>(w.data) + (group / groups * units + unit) * w.stride[0];
      for (int64_t block = first; block < last; ++block) {
        const auto row = [&](int64_t i) {
          if (unit + i >= units) return V::set(0);
          const float* at = rows + i * w.stride[0] + block * kLanes * w.stride[1];
          const int width = static_cast<int>(smaller(kLanes, columns - block * kLanes));
          if (w.stride[1] == 1) return V::load(at, width);
          alignas(kAlignment) float side_by_side[kLanes] = {};
          for (int lane = 0; lane < width; ++lane) side_by_side[lane] = at[lane * w.stride[1]];
          return V::load(side_by_side);
        };
        Unit::pack_group(row, packed + (block * gates * groups + group) * Unit::kGroupOfTiles);
      }
    }
  });
}

// `count` rows, row(k) or zeros where it is null, as right factor: k runs over them
template <class Unit, class Row>
void pack_rows_for_unit(int threads, const Row& row, int64_t count, int64_t columns,
                        uint32_t* packed) {
  const int64_t blocks = blocks_of<float>(columns), groups = Unit::groups_of(count);
  parallel_for(threads_for(threads, kPacking * count * columns), groups, [&](int64_t group) {
    for (int64_t block = 0; block < blocks; ++block) {
      const auto block_of_row = [&](int64_t i) {
        const int64_t k = group * Unit::kGroup + i;
        const float* from = k < count ? row(k) : nullptr;
        return from ? load_block(from, block, columns) : Vec<float>::set(0);
      };
      Unit::pack_group(block_of_row, packed + (block * groups + group) * Unit::kGroupOfTiles);
    }
  });
}

// as transposed_product, of the first `rows` rows and all gates: out = sum over them of w[gate]^T
// left(slot[gate])
template <class Unit>
void transposed_by_unit(const UnitGradients<Unit>& left, int64_t rows, int gates, const int* slot,
                        const uint32_t* w, const BlockRange& range, float* out,
                        int64_t out_stride) {
  constexpr int64_t kLanes = Vec<float>::kLanes;
  const int64_t groups = left.groups;
  for (int gate = 0, end; gate < gates; gate = end) {
    end = gate + 1;  // gates whose gradients lie one after the other are one sum
    while (end < gates && slot[end] == slot[end - 1] + 1) ++end;
    Unit::multiply(
        {left.group(slot[gate], 0), Unit::kRows * left.kPairs, Unit::kParts * left.part, left.part},
        {w + (range.first * gates + gate) * groups * Unit::kGroupOfTiles,
         gates * groups * Unit::kGroupOfTiles, Unit::kGroupOfTiles, Unit::kTile},
        rows, (range.last - range.first) * kLanes, (end - gate) * groups,
        out + range.first * kLanes, out_stride, gate == 0);
  }
}

// The same for a step of the recurrence, whose first `flowing` rows have gradients of the step
// after it; zeros for the others and where the sequence stops(row).
template <class Unit, class Stops>
void incoming_by_unit(const UnitGradients<Unit>& left, int64_t flowing, int64_t rows, int gates,
                      const int* slot, const uint32_t* w, const BlockRange& range,
                      const Stops& stops, float* out, int64_t out_stride) {
  constexpr int64_t kLanes = Vec<float>::kLanes;
  if (flowing > 0) transposed_by_unit(left, flowing, gates, slot, w, range, out, out_stride);
  for (int64_t r = 0; r < rows; ++r) {
    if (r < flowing && !stops(r)) continue;
    copy_or_zero<float>(out + r * out_stride + range.first * kLanes, nullptr,
                        (range.last - range.first) * kLanes);
  }
}

// The gradient of a weight: dw[gate] (+)= the gradients of slot[gate] times rows. Null: not wanted.
struct UnitWeights {
  float* dw;
  int gates;
  const int* slot;
  const uint32_t* rows;  // pack_rows_for_unit
  int64_t columns;
  bool sets;
};

// The gradients of all weights whose left factor is that of the gates, and of biases. Each task is
// some units of a slot, whose part of the left factor, turned, stays in its thread's L2; there are
// as many tasks as threads.
template <class Unit>
struct UnitWeightProduct {
  static constexpr int64_t kUnitsOfTask = 256;

  int64_t slots, units, units_of_task, tasks_of_slot;
  uint32_t* turned;

  UnitWeightProduct() = default;
  UnitWeightProduct(Arena& arena, int threads, int64_t slot_count, int64_t unit_count, int64_t rows)
      : slots(slot_count),
        units(unit_count),
        units_of_task(smaller(padded_units(smaller(units, (units * slots + threads - 1) / threads)),
                              kUnitsOfTask)),
        tasks_of_slot((units + units_of_task - 1) / units_of_task),
        turned(arena.take<uint32_t>(threads * room(rows))) {}

  // a bias's sums are of so many units a slot
  static int64_t padded_units(int64_t units) { return Unit::groups_of(units) * Unit::kGroup; }

  // sums: [slots, padded units], added to, or null
  void run(int threads, const UnitGradients<Unit>& left, int64_t count, float* sums,
           const UnitWeights* weights, int number) const {
    int64_t columns = 0;
    for (int i = 0; i < number; ++i) columns += weights[i].columns;
    const int64_t stride = Unit::groups_of(count) * Unit::kGroupOfTiles,
                  tasks = slots * tasks_of_slot;
    const int64_t workers = smaller(threads_for(threads, count * slots * units * columns), tasks);
    parallel_for(threads, workers, [&](int64_t member) {
      uint32_t* to = turned + member * room(count);
      for (int64_t task = member; task < tasks; task += workers) {
        const int64_t slot = task / tasks_of_slot, first = task % tasks_of_slot * units_of_task;
        const int64_t some = smaller(units_of_task, units - first);
        Unit::transpose_rows(left.group(slot, first / Unit::kGroup), count, left.part,
                             Unit::groups_of(some), to,
                             sums ? sums + slot * padded_units(units) + first : nullptr);
        for (int i = 0; i < number; ++i) {
          const UnitWeights& w = weights[i];
          for (int gate = 0; w.dw && gate < w.gates; ++gate) {
            if (w.slot[gate] != slot) continue;
            Unit::multiply({to, stride, Unit::kGroupOfTiles, Unit::kTile},
                           {w.rows, stride, Unit::kGroupOfTiles, Unit::kTile}, some, w.columns,
                           Unit::groups_of(count), w.dw + (gate * units + first) * w.columns,
                           w.columns, w.sets);
          }
        }
      }
    });
  }

 private:
  int64_t room(int64_t rows) const {
    return units_of_task / Unit::kRows * Unit::groups_of(rows) * Unit::kGroupOfTiles;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
