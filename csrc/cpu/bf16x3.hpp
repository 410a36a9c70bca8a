// Products of float32 matrices on a matrix unit that multiplies bfloat16 and adds in float32: AMX,
// 16 times the multiply-adds of a core's vectors.
//
// A float32 is the sum of three bfloat16, exactly: x = high + middle + low, of 8 bits each. Of the
// nine products of the parts of two numbers, six are taken; the others are below 2^-23 of the
// whole, the last bit of a float32. Parts below 2^-126 count as zero, so what is smaller than
// 2^-110 (1e-33) is known less well.
//
//   out[m][n] (+)= sum over k of left[m][k] * right[n][k]
//
// k goes in groups of 32, in pairs (k, k + 16) of one lane of 32 bits, so that both factors are
// made of whole vectors. A tile holds 16 rows of 16 pairs:
//
//   left   [k / 32][part][m][16 pairs]            right   [n / 16][k / 32][part][16 pairs][16 n]
//
// Every sum is made group by group, whatever the rows beside it: same bits.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "cpu/bundle.hpp"
#include "cpu/pack.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

struct Bf16x3 {
  static constexpr bool kPresent = true;
  using V = Vec<float>;
  using Pair = uint32_t;

  static constexpr int kParts = 3;
  static constexpr int64_t kGroup = 32;  // of k
  static constexpr int64_t kRows = 16;   // of a tile; pairs of a row
  static constexpr int64_t kTile = kRows * 16;
  static constexpr int64_t kGroupOfTiles = kParts * kTile;

  static int64_t groups_of(int64_t k) { return (k + kGroup - 1) / kGroup; }

  // Strides in pairs: from 16 rows to the next, from a group to the next, from a part to the next.
  struct Factor {
    const Pair* at;
    int64_t tile, group, part;
  };

  // ---------------------------------------------------------------- making the factors

  // each in the upper half of its lane
  struct Parts {
    __m512i of[kParts];
  };

  static Parts parts_of(V x) {
    constexpr int kInfinite = 0x18;
    const __m512i upper = _mm512_set1_epi32(INT32_MIN >> 15);
    const __m512i bits = _mm512_castps_si512(x.v);
    __m512i high = nearest(bits);
    // the largest are not rounded up to infinity
    high = _mm512_mask_and_epi32(high, _mm512_fpclass_ps_mask(_mm512_castsi512_ps(high), kInfinite),
                                 bits, upper);
    // infinity has no other parts; of NaN each is NaN, or one that counts
    const __mmask16 has_more = static_cast<__mmask16>(~_mm512_fpclass_ps_mask(x.v, kInfinite));
    const __m512 rest = _mm512_maskz_sub_ps(has_more, x.v, _mm512_castsi512_ps(high));
    const __m512i middle = nearest(_mm512_castps_si512(rest));
    const __m512 low = _mm512_sub_ps(rest, _mm512_castsi512_ps(middle));
    return {{high, middle, _mm512_castps_si512(low)}};
  }

  // 16 pairs (first[i], second[i]); a part's 16 at to + part * part_stride
  static void store_pairs(Pair* to, int64_t part_stride, V first, V second) {
    const Parts a = parts_of(first), b = parts_of(second);
#pragma GCC unroll 3
    for (int part = 0; part < kParts; ++part) {
      _mm512_storeu_si512(to + part * part_stride,
                          _mm512_or_si512(_mm512_srli_epi32(a.of[part], 16), b.of[part]));
    }
  }

  // a group of the right factor: row(i) is its k-th row, 16 columns
  template <class Row>
  static void pack_group(const Row& row, Pair* to) {
    for (int i = 0; i < kRows; ++i, to += 16) store_pairs(to, kTile, row(i), row(i + kRows));
  }

  // `unit_groups` groups of `from`, a left factor of `row_count` rows, as the tiles of a left
  // factor whose k are those rows: [unit / 16][row / 32][part][16 units][16 pairs]. The sums of all
  // rows are added to `sums`, unless it is null.
  static void transpose_rows(const Pair* from, int64_t row_count, int64_t part_stride,
                             int64_t unit_groups, Pair* to, float* sums) {
    const int64_t groups = groups_of(row_count);
    for (int64_t unit_group = 0; unit_group < unit_groups; ++unit_group) {
      __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
      Pair* even = to + 2 * unit_group * groups * kGroupOfTiles;
      Pair* odd = even + groups * kGroupOfTiles;
      for (int64_t group = 0; group < groups; ++group) {
        for (int part = 0; part < kParts; ++part, even += kTile, odd += kTile) {
          const Pair* row =
              from + (unit_group * kParts + part) * part_stride + group * kGroup * kRows;
          const int64_t left = row_count - group * kGroup;
          sum[0] = _mm512_add_ps(sum[0], transpose_pairs<false>(row, left, even));
          sum[1] = _mm512_add_ps(sum[1], transpose_pairs<true>(row, left, odd));
        }
      }
      if (sums) {
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) {
          float* at = sums + (2 * unit_group + n) * 16;
          _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), sum[n]));
        }
      }
    }
  }

  // ---------------------------------------------------------------- the product

  // rows x columns of out, row m at out + m * out_stride; `begins`: out is set, else added to
  static void multiply(const Factor& left, const Factor& right, int64_t rows, int64_t columns,
                       int64_t groups, float* out, int64_t out_stride, bool begins) {
    for (int64_t k = 0; k < groups; k += kGroupsAtOnce) {
      const int64_t length = smaller(groups - k, kGroupsAtOnce);
      for (int64_t m = 0; m < rows; m += kRowsAtOnce) {
        multiply_piece(
            {left.at + m / kRows * left.tile + k * left.group, left.tile, left.group, left.part},
            {right.at + k * right.group, right.tile, right.group, right.part},
            smaller(rows - m, kRowsAtOnce), columns, length, out + m * out_stride, out_stride,
            begins && k == 0);
      }
    }
    asm volatile("tilerelease");
  }

 private:
  // So much of the left factor, 768 KiB, stays in L2 while the right one passes.
  static constexpr int64_t kGroupsAtOnce = 16, kRowsAtOnce = 256;

  static __m512i nearest(__m512i bits) {
    return _mm512_and_si512(_mm512_add_epi32(bits, _mm512_set1_epi32(0x8000)),
                            _mm512_set1_epi32(INT32_MIN >> 15));
  }

  // The tile of 16 units, first or second of their pairs, by the 32 rows at `row`, of which only
  // `left` may be there; returns the sums of the tile's rows.
  template <bool second>
  static __m512 transpose_pairs(const Pair* row, int64_t left, Pair* to) {
    const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    const __m512i upper = _mm512_set1_epi32(INT32_MIN >> 15);
    const auto load = [&](int64_t i) __attribute__((always_inline)) {
      return i < left ? _mm512_loadu_si512(row + i * kRows) : _mm512_setzero_si512();
    };
    V pairs[kRows];
    __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const __m512i a = load(i), b = load(i + kRows);
      const __m512i of_unit =
          second ? _mm512_or_si512(_mm512_srli_epi32(a, 16), _mm512_and_si512(b, upper))
                 : _mm512_or_si512(_mm512_andnot_si512(upper, a), _mm512_slli_epi32(b, 16));
      sum = _mm512_dpbf16_ps(sum, (__m512bh)of_unit, ones);
      pairs[i].v = _mm512_castsi512_ps(of_unit);
    }
    transpose(pairs);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) _mm512_storeu_ps(to + i * 16, pairs[i].v);
    return sum;
  }

  // Where the sums of a block of tiles go.
  struct Out {
    float* at;
    int64_t stride;
    int64_t rows, columns;
    bool begins;
  };

  static void multiply_piece(const Factor& left, const Factor& right, int64_t rows, int64_t columns,
                             int64_t groups, float* out, int64_t out_stride, bool begins) {
    int64_t configured = 0;
    const auto run = [&](int64_t m, int64_t n, int64_t width) {
      const int64_t height = smaller(rows - m, 2 * kRows);
      if (height != configured) configure(static_cast<int>(configured = height));
      const Factor a{left.at + m / kRows * left.tile, left.tile, left.group, left.part};
      const Factor b{right.at + n / 16 * right.tile, right.tile, right.group, right.part};
      const Out to{out + m * out_stride + n, out_stride, height, smaller(columns - n, width),
                   begins};
      const int64_t tiles = (to.columns + 15) / 16;
      if (height > kRows) {
        if (tiles == 2) return block<2, 2>(a, b, groups, to);
        return block<2, 1>(a, b, groups, to);
      }
      if (tiles == 4) return block<1, 4>(a, b, groups, to);
      if (tiles == 3) return block<1, 3>(a, b, groups, to);
      if (tiles == 2) return block<1, 2>(a, b, groups, to);
      block<1, 1>(a, b, groups, to);
    };
    const int64_t last = (rows - 1) % (2 * kRows) < kRows ? (rows - 1) / kRows * kRows : rows;
    for (int64_t n = 0; n < columns; n += 32) {
      for (int64_t m = 0; m < last; m += 2 * kRows) run(m, n, 32);
    }
    for (int64_t n = 0; last < rows && n < columns; n += 64) run(last, n, 64);
  }

  // Registers: sums 0 to 3, row tile m and column tile n at 2 m + n, or n of one row tile; left 4
  // (and 5), right 6 and 7 (or 5 to 7).
  static void configure(int height) {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    const int first = height < kRows ? height : static_cast<int>(kRows);
    const int second = height - first;
    const int with_second[8] = {first, first, second, second, first, second, 16, 16};
    const int alone[8] = {first, first, first, first, first, 16, 16, 16};
    for (int i = 0; i < 8; ++i) {
      shape.bytes[i] = 64;
      shape.rows[i] = static_cast<uint8_t>(second ? with_second[i] : alone[i]);
    }
    asm volatile("ldtilecfg %0" ::"m"(shape));
  }

  template <int R>
  static void load(const void* at, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(at), "r"(stride), "i"(R) : "memory");
  }
  template <int R>
  static void store(void* at, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(at), "r"(stride), "i"(R) : "memory");
  }
  template <int R>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(R));
  }
  template <int Sum, int A, int B>
  static void add_products() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(A), "i"(B));
  }

  template <int M, int N>
  static void block(const Factor& left, const Factor& right, int64_t groups, const Out& out) {
    each_sum<M, N>(out, [&]<int R>(float* at, int64_t rows, int64_t width) {
      if (out.begins) {
        zero<R>();
      } else if (width == 16) {
        load<R>(at, out.stride * 4);
      } else {
        alignas(64) float whole[kTile];
        for (int64_t m = 0; m < rows; ++m)
          V::load(at + m * out.stride, static_cast<int>(width)).store(whole + m * 16);
        load<R>(whole, 64);
      }
    });
    if constexpr (M == 2 && N == 2) {
      add_groups(left, right, groups);
    } else {
      const Pair *a = left.at, *b = right.at;
      for (int64_t k = 0; k < groups; ++k, a += left.group, b += right.group) {
#pragma GCC unroll 6
        for (int i = 0; i < kProducts; ++i) {
          if (i == 0 || kLeftPart[i] != kLeftPart[i - 1]) {
            const Pair* part = a + kLeftPart[i] * left.part;
            load<4>(part, 64);
            if constexpr (M == 2) load<5>(part + left.tile, 64);
          }
          add_part<M, N>(b + kRightPart[i] * right.part, right.tile);
        }
      }
    }
    each_sum<M, N>(out, [&]<int R>(float* at, int64_t rows, int64_t width) {
      if (width == 16) {
        store<R>(at, out.stride * 4);
      } else {
        alignas(64) float whole[kTile];
        store<R>(whole, 64);
        for (int64_t m = 0; m < rows; ++m)
          V::load(whole + m * 16).store(at + m * out.stride, static_cast<int>(width));
      }
    });
  }

  template <int M, int N, class Body>
  static void each_sum(const Out& out, const Body& body) {
    const auto at = [&]<int R>(int m, int n) {
      body.template operator()<R>(out.at + m * kRows * out.stride + n * 16,
                                  smaller(out.rows - m * kRows, kRows),
                                  smaller(out.columns - n * 16, 16));
    };
    at.template operator()<0>(0, 0);
    if constexpr (N >= 2) at.template operator()<1>(0, 1);
    if constexpr (M == 2) {
      at.template operator()<2>(1, 0);
      if constexpr (N == 2) at.template operator()<3>(1, 1);
    } else {
      if constexpr (N >= 3) at.template operator()<2>(0, 2);
      if constexpr (N >= 4) at.template operator()<3>(0, 3);
    }
  }

  // The products of parts that are taken, small ones first; from one to the next only one of the
  // factors changes, and so it does from the last to the first of the next group.
  static constexpr int kProducts = 6;
  static constexpr int kLeftPart[kProducts] = {2, 1, 1, 0, 0, 0};
  static constexpr int kRightPart[kProducts] = {0, 0, 1, 1, 2, 0};

  template <int M, int N>
  static void add_part(const Pair* b, int64_t b_tile) {
    constexpr int kFirst = M == 2 ? 6 : 5;  // register of the first column tile
    load<kFirst>(b, 64);
    add_products<0, 4, kFirst>();
    if constexpr (M == 2) add_products<2, 5, kFirst>();
    if constexpr (N >= 2) {
      load<kFirst + 1>(b + b_tile, 64);
      add_products<1, 4, kFirst + 1>();
      if constexpr (M == 2) add_products<3, 5, kFirst + 1>();
    }
    if constexpr (N >= 3) {
      load<7>(b + 2 * b_tile, 64);
      add_products<2, 4, 7>();
    }
    if constexpr (N >= 4) {
      load<5>(b + 3 * b_tile, 64);
      add_products<3, 4, 5>();
    }
  }

  // The same of 2 x 2 tiles: each tile is replaced as soon as its last product has begun.
  static void add_groups(const Factor& left, const Factor& right, int64_t groups) {
    const Pair *a = left.at, *b = right.at;
    const auto at_left = [&](int part) { return a + part * left.part; };
    const auto at_right = [&](int part) { return b + part * right.part; };
    load<4>(at_left(2), 64);
    load<5>(at_left(2) + left.tile, 64);
    load<6>(b, 64);
    load<7>(b + right.tile, 64);
    const auto then_left = [&](const Pair* next) __attribute__((always_inline)) {
      add_products<0, 4, 6>();
      add_products<1, 4, 7>();
      load<4>(next, 64);
      add_products<2, 5, 6>();
      add_products<3, 5, 7>();
      load<5>(next + left.tile, 64);
    };
    const auto then_right = [&](const Pair* next) __attribute__((always_inline)) {
      add_products<0, 4, 6>();
      add_products<2, 5, 6>();
      load<6>(next, 64);
      add_products<1, 4, 7>();
      add_products<3, 5, 7>();
      load<7>(next + right.tile, 64);
    };
    for (int64_t k = 0; k < groups; ++k) {
      then_left(at_left(1));
      then_right(at_right(1));
      then_left(at_left(0));
      then_right(at_right(2));
      then_right(at_right(0));
      if (k + 1 < groups) a += left.group, b += right.group;
      then_left(at_left(2));
      load<6>(b, 64);
      load<7>(b + right.tile, 64);
    }
  }
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
