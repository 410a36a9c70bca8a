// Matrices in the order in which multiply() reads its right factor: panels of P vectors (gemm.hpp).
#pragma once

#include "cpu/gemm.hpp"
#include "cpu/sequence.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// V vectors of V values: rows become columns, in log2(V) rounds of perfect shuffles. Unrolled, or
// every round goes through memory, which takes four times as long.
template <class V>
__attribute__((always_inline)) inline void transpose(V* rows) {
#pragma GCC unroll 4
  for (int round = 1; round < V::kLanes; round *= 2) {
    V next[V::kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < V::kLanes / 2; ++i) {
      next[2 * i] = zip_low(rows[i], rows[i + V::kLanes / 2]);
      next[2 * i + 1] = zip_high(rows[i], rows[i + V::kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < V::kLanes; ++i) rows[i] = next[i];
  }
}

// Blocks of a matrix that are packed together: where its units lie side by side, a row of them is
// read along.
constexpr int64_t kPackedAtOnce = 8;

// Rows that lie far apart are no stream to the CPU, so they are fetched before they are read.
constexpr int64_t kRowsAhead = 8;

// body(first, last) for all blocks, so many at once
template <class Body>
void for_packed_blocks(int threads, int64_t blocks, const Body& body) {
  parallel_for(threads, (blocks + kPackedAtOnce - 1) / kPackedAtOnce, [&](int64_t i) {
    body(i * kPackedAtOnce, smaller(blocks, (i + 1) * kPackedAtOnce));
  });
}

// Where block `block` of a matrix lies among the packed: step k of its first gate at `at` + k
// `stride`.
struct Place {
  int64_t at, stride;
};

template <class T>
Place place_of(int64_t block, int64_t blocks, int64_t length, int gates) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  if (gates > 1) return {block * length * gates * kLanes, gates * kLanes};
  const int64_t first = block / kPanelBlocks * kPanelBlocks;
  return {(first * length + block - first) * kLanes,
          smaller(blocks - first, kPanelBlocks) * kLanes};
}

// unit `lane` of a block, gate and step k = source[(block V + lane) * unit_stride + k * k_stride +
// gate * gate_stride] for blocks [first, last), kPackedAtOnce at most, zero beyond the last unit
template <class T>
void pack_blocks(const T* source, int64_t first, int64_t last, int64_t units, int64_t length,
                 int gates, int64_t unit_stride, int64_t k_stride, int64_t gate_stride, T* packed) {
  using V = Vec<T>;
  constexpr int kLanes = V::kLanes;
  const int64_t blocks = blocks_of<T>(units);
  if (unit_stride == 1) {
    Place places[kPackedAtOnce];
    for (int64_t block = first; block < last; ++block)
      places[block - first] = place_of<T>(block, blocks, length, gates);
    for (int g = 0; g < gates; ++g) {
      const T* from = source + g * gate_stride;
      for (int64_t k = 0; k < length; ++k, from += k_stride) {
        const bool fetches = k + kRowsAhead < length;
        for (int64_t block = first; block < last; ++block) {
          const Place& place = places[block - first];
          if (fetches) __builtin_prefetch(from + kRowsAhead * k_stride + block * kLanes);
          load_block(from, block, units).store(packed + place.at + k * place.stride + g * kLanes);
        }
      }
    }
    return;
  }
  for (int64_t block = first; block < last; ++block) {
    const int width = static_cast<int>(smaller(kLanes, units - block * kLanes));
    const Place place = place_of<T>(block, blocks, length, gates);
    const int64_t row = place.stride;
    for (int g = 0; g < gates; ++g) {
      T* to = packed + place.at + g * kLanes;
      const T* from = source + block * kLanes * unit_stride + g * gate_stride;
      int64_t k = 0;
      if constexpr (kLanes > 1) {
        for (; k_stride == 1 && k + kLanes <= length; k += kLanes) {
          V rows[kLanes];
#pragma GCC unroll 16
          for (int lane = 0; lane < kLanes; ++lane) {
            rows[lane] = lane < width ? V::load(from + lane * unit_stride + k) : V::set(0);
          }
          transpose(rows);
#pragma GCC unroll 16
          for (int i = 0; i < kLanes; ++i) rows[i].store(to + (k + i) * row);
        }
      }
      for (; k < length; ++k) {
        for (int lane = 0; lane < kLanes; ++lane) {
          to[k * row + lane] = lane < width ? from[lane * unit_stride + k * k_stride] : T(0);
        }
      }
    }
  }
}

// Gates [gate, gate + count) of w, `units` rows of `length` columns each, or a vector where length
// is 1; zeros where it is absent.
template <class T>
void pack_gates(const Tensor& w, int64_t first, int64_t last, int64_t units, int64_t length,
                int gate, int count, T* packed) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  if (!w.present) {
    const int64_t block = length * count * kLanes;
    copy_or_zero<T>(packed + first * block, nullptr, (last - first) * block);
    return;
  }
  const int64_t gate_stride = units * w.stride[0];
  pack_blocks(static_cast<const T*>(w.data) + gate * gate_stride, first, last, units, length, count,
              w.stride[0], w.rank == 2 ? w.stride[1] : 0, gate_stride, packed);
}

// as pack_blocks of row(k)[column], zero for a null row
template <class T, class Row>
void pack_rows(const Row& row, int64_t count, int64_t columns, int64_t block, T* packed) {
  using V = Vec<T>;
  const int64_t first = block * V::kLanes;
  const int width = static_cast<int>(columns - first < V::kLanes ? columns - first : V::kLanes);
  const Place place = place_of<T>(block, blocks_of<T>(columns), count, 1);
  T* to = packed + place.at;
  for (int64_t k = 0; k < count; ++k, to += place.stride) {
    const T* from = row(k);
    (from ? V::load(from + first, width) : V::set(0)).store(to);
  }
}

// the same for all blocks
template <class T, class Row>
void pack_all_rows(int threads, const Row& row, int64_t count, int64_t columns, T* packed) {
  parallel_for(threads_for(threads, kPacking * count * columns), blocks_of<T>(columns),
               [&](int64_t block) { pack_rows(row, count, columns, block, packed); });
}

// w, `length` rows of `columns`, as the right factor of a product with the transposed weights
template <class T>
void pack_transposed(int threads, const Tensor& w, int64_t columns, int64_t length, T* packed) {
  const T* data = static_cast<const T*>(w.data);
  for_packed_blocks(threads_for(threads, kPacking * columns * length), blocks_of<T>(columns),
                    [&](int64_t first, int64_t last) {
                      pack_blocks(data, first, last, columns, length, 1, w.stride[1], w.stride[0],
                                  0, packed);
                    });
}

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
