// Products of float32 in 24-bit fixed point, on AMX tiles and VNNI.
//
// Each row of the left factor and each unit of the weights has one exponent, that of its largest
// value; a value is an integer of 24 bits beside it, and that three bytes, s0 2^16 + s1 2^8 + s2.
// Of the nine products of bytes the six with i + j <= 2 are summed in 32-bit integers: exactly, so
// that no order of the sum, no tile and no batch can change a bit of the result. What is left out,
// and the rounding to 24 bits, is as much as float32 rounds in a sum of some hundred terms
// (docs/numerics.md).
//
// The left factor's bytes are stored with 128 added, as unsigned ones: AMX and VNNI both multiply
// unsigned by signed. The sums begin with what that adds, subtracted.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "cpu/products.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

constexpr int kSlices = 3;
constexpr int64_t kStep = 64;                 // terms of a tile
constexpr int64_t kQuadBytes = kSlices * 64;  // four terms of 16 units
constexpr int64_t kTileBytes = 16 * kStep;
constexpr int64_t kStepBytes = kSlices * kTileBytes;
constexpr int64_t kPieceSteps = 256;  // 16384 terms: three products of bytes fit 32 bits
constexpr int kTileRows = 16;
constexpr int kMostRows = 2 * kTileRows;
constexpr int64_t kStarts = kSlices * 16;  // of a column and piece
constexpr float kUnit = 30;  // 2^-30 of both exponents: what the least sum of products counts in

inline int64_t steps_of(int64_t terms) { return (terms + kStep - 1) / kStep; }
inline __mmask16 first_of(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffffu : (1u << n) - 1u);
}

// The exponent e for which all x 2^(23 - e) round to three signed bytes, of the largest |x| as
// bits; NaN where there is none, for infinities and NaN.
inline float fixed_exponent(int32_t largest) {
  if (largest >= 0x7f800000) return __builtin_nanf("");
  const int32_t exponent = largest >> 23, mantissa = (largest & 0x7fffff) | 0x800000;
  if (exponent == 0) return -125;
  return static_cast<float>(exponent - 126 + (mantissa > 0xfefefe ? 1 : 0));
}

// The larger magnitudes, as bits, which are in the order of the values.
inline __m512i larger_bits(__m512i bits, __m512 values) {
  return _mm512_max_epi32(
      bits, _mm512_and_si512(_mm512_castps_si512(values), _mm512_set1_epi32(INT32_MAX)));
}

// Three bytes in an int32, 128 added to each; without the latter they are signed ones.
inline __m512i to_fixed(__m512 values, __m512 shift) {
  return _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_scalef_ps(values, shift)),
                          _mm512_set1_epi32(0x808080));
}
inline __m512i as_signed(__m512i fixed) {
  return _mm512_xor_si512(fixed, _mm512_set1_epi32(0x808080));
}

// Slice i of four vectors, side by side in each lane.
inline __m512i four_of_slice(const __m512i* fixed, int i) {
  __m512i four = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int t = 0; t < 4; ++t) {
    const __m512i byte = _mm512_and_si512(_mm512_srl_epi32(fixed[t], _mm_cvtsi32_si128(16 - 8 * i)),
                                          _mm512_set1_epi32(255));
    four = _mm512_or_si512(four, _mm512_sll_epi32(byte, _mm_cvtsi32_si128(8 * t)));
  }
  return four;
}

// Left factor, by tiles of 16 rows: [rows / 16][terms / 64][slices][16 rows][64] unsigned bytes.
// Groups of rows that begin anywhere have their own tiles.
struct FixedRows {
  uint8_t* bytes;
  float* exponents;
  const float** source;
  int64_t length, steps;

  FixedRows(Arena& arena, int64_t rows, int64_t terms, int64_t groups)
      : bytes(arena.take<uint8_t>(tiles(rows, groups) * steps_of(terms) * kStepBytes)),
        exponents(arena.take<float>(tiles(rows, groups) * kTileRows)),
        source(arena.take<const float*>(tiles(rows, groups) * kTileRows)),
        length(terms),
        steps(steps_of(terms)) {}

  // from row `row` on, the first one of group `group`
  FixedRows from(int64_t row, int64_t group) const { return from_tile(row / kTileRows + group); }

  FixedRows from_tile(int64_t tile) const {
    FixedRows rest = *this;
    rest.bytes += tile * steps * kStepBytes;
    rest.exponents += tile * kTileRows;
    rest.source += tile * kTileRows;
    return rest;
  }

  // term k of a row, a multiple of 16
  uint8_t* at(int64_t row, int64_t k) const {
    return bytes + (row / kTileRows * steps + k / kStep) * kStepBytes + row % kTileRows * kStep +
           k % kStep;
  }

  void set(int64_t row, const float* values) const {
    source[row] = values;
    __m512i largest = _mm512_setzero_si512();
    for (int64_t k = 0; k < length; k += 16) {
      largest = larger_bits(largest, _mm512_maskz_loadu_ps(first_of(length - k), values + k));
    }
    const float exponent = fixed_exponent(_mm512_reduce_max_epi32(largest));
    exponents[row] = exponent;
    const __m512 shift = _mm512_set1_ps(23 - exponent);
    for (int64_t k = 0; k < length; k += 16) {
      const __m512i fixed =
          to_fixed(_mm512_maskz_loadu_ps(first_of(length - k), values + k), shift);
      uint8_t* to = at(row, k);
      store(to, _mm512_srli_epi32(fixed, 16));
      store(to + kTileBytes, _mm512_srli_epi32(fixed, 8));
      store(to + 2 * kTileBytes, fixed);
    }
  }

 private:
  static int64_t tiles(int64_t rows, int64_t groups) {
    return rows / kTileRows + groups + kMostRows / kTileRows;
  }

  static void store(uint8_t* to, __m512i values) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(values));
  }
};

// Right factor: `gates` gates of w with `units` units each, from gate `first_gate` on. A gate of a
// block of 16 units is a column: [columns][terms / 4][slices][16 units][4]; what the sums begin
// with [columns][pieces][slices][16]; exponents [columns][16].
struct FixedWeights {
  const Tensor& w;
  int64_t units, length, steps, pieces;
  int first_gate, gates;
  int8_t* slices;
  int32_t* starts;
  float* exponents;

  FixedWeights(Arena& arena, const Tensor& tensor, int64_t hidden, int first, int count, bool)
      : w(tensor),
        units(hidden),
        length(tensor.shape[1]),
        steps(steps_of(length)),
        pieces((steps + kPieceSteps - 1) / kPieceSteps),
        first_gate(first),
        gates(count) {
    const int64_t columns = blocks_of<float>(units) * gates;
    slices = arena.take<int8_t>(columns * steps * kStepBytes);
    starts = arena.take<int32_t>(columns * pieces * kStarts);
    exponents = arena.take<float>(columns * 16);
  }

  int8_t* column(int64_t c) const { return slices + c * steps * kStepBytes; }

  // the terms of lane i % 16 of column i / 16, null beyond the last unit
  const float* row(int64_t i) const {
    const int64_t column = i / 16, gate = column % gates, unit = column / gates * 16 + i % 16;
    if (unit >= units) return nullptr;
    return static_cast<const float*>(w.data) + ((first_gate + gate) * units + unit) * w.stride[0];
  }

  void fill(int64_t first_block, int64_t last_block) const {
    for (int64_t c = first_block * gates; c < last_block * gates; ++c) {
      set_exponents(c);
      int8_t* to = column(c);
      for (int64_t piece = 0; piece < pieces; ++piece) set_piece(c, piece, to);
    }
  }

 private:
  // terms k to k + 15 of a column's units, zeros beyond the last
  void block(int64_t c, int64_t k, Vec<float>* terms) const {
    for (int lane = 0; lane < 16; ++lane) terms[lane].v = load(row(c * 16 + lane), k);
    transpose(terms);
  }

  __m512 load(const float* from, int64_t k) const {
    if (!from || k >= length) return _mm512_setzero_ps();
    if (w.stride[1] == 1) return _mm512_maskz_loadu_ps(first_of(length - k), from + k);
    alignas(64) float values[16] = {};
    for (int64_t i = 0; i < 16 && k + i < length; ++i) values[i] = from[(k + i) * w.stride[1]];
    return _mm512_load_ps(values);
  }

  void set_exponents(int64_t c) const {
    __m512i largest = _mm512_setzero_si512();
    for (int64_t k = 0; k < length; k += 16) {
      Vec<float> terms[16];
      block(c, k, terms);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) largest = larger_bits(largest, terms[i].v);
    }
    alignas(64) int32_t bits[16];
    _mm512_store_si512(bits, largest);
    for (int lane = 0; lane < 16; ++lane) exponents[c * 16 + lane] = fixed_exponent(bits[lane]);
  }

  void set_piece(int64_t c, int64_t piece, int8_t*& to) const {
    const __m512 shift = _mm512_sub_ps(_mm512_set1_ps(23), _mm512_loadu_ps(exponents + c * 16));
    __m512i sums[kSlices];
    for (int i = 0; i < kSlices; ++i) sums[i] = _mm512_setzero_si512();
    const int64_t end = smaller(steps, (piece + 1) * kPieceSteps);
    for (int64_t k = piece * kPieceSteps * kStep; k < end * kStep; k += 16) {
      Vec<float> terms[16];
      __m512i fixed[16];
      block(c, k, terms);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) fixed[i] = as_signed(to_fixed(terms[i].v, shift));
#pragma GCC unroll 4
      for (int quad = 0; quad < 4; ++quad) {
#pragma GCC unroll 3
        for (int i = 0; i < kSlices; ++i, to += 64) {
          const __m512i four = four_of_slice(fixed + 4 * quad, i);
          sums[i] = _mm512_dpbusd_epi32(sums[i], _mm512_set1_epi32(0x01010101), four);
          _mm512_storeu_si512(to, four);
        }
      }
    }
    __m512i start = _mm512_setzero_si512();
    for (int i = 0; i < kSlices; ++i) {
      start = _mm512_sub_epi32(start, _mm512_slli_epi32(sums[i], 7));
      _mm512_storeu_si512(starts + (c * pieces + piece) * kStarts + i * 16, start);
    }
  }
};

// AMX is switched on for a thread as long as this lives.
struct Tiles {
  Tiles() {
    alignas(64) uint8_t configuration[64] = {1};
    for (int i = 0; i < 8; ++i) {
      configuration[16 + 2 * i] = 64;
      configuration[48 + i] = kTileRows;
    }
    asm volatile("ldtilecfg (%0)" : : "r"(configuration) : "memory");
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
  ~Tiles() { asm volatile("tilerelease"); }
};

template <int Tile>
void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(Tile) : "memory");
}

template <int Tile>
void store_tile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(Tile) : "memory");
}

// tile Sum += tile Left (unsigned bytes) * tile Right (signed bytes)
template <int Sum, int Left, int Right>
void multiply_tiles() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(Left), "i"(Right));
}

// The three sums of one output tile, by i + j: [slices][16][16].
struct Sums {
  alignas(64) int32_t of[kSlices * 256];
};

// Where a factor's tiles lie: that of slice i at `at` + i * slice, the next step's `step` further.
struct Factor {
  const char* at;
  int64_t slice, step, stride;
};

// N output tiles at once, two where there are two, so that a sum need not wait for itself: of one
// factor that they share and one that each has for itself, the left one where kSharesWeights.
// Tiles 0 to 5 are sums.
template <int N, bool kSharesWeights>
void multiply_steps(Factor shared, const Factor* own, const int32_t* const* starts, int64_t steps,
                    Sums* to) {
  const char* at[N];
  const auto each = [](const auto& body) __attribute__((always_inline)) {
    body.template operator()<0>();
    if constexpr (N > 1) body.template operator()<1>();
  };
  each([&]<int n> {
    at[n] = own[n].at;
    load_tile<3 * n>(starts[n], 0);
    load_tile<3 * n + 1>(starts[n] + 16, 0);
    load_tile<3 * n + 2>(starts[n] + 32, 0);
  });
  const int64_t slice = own[0].slice, step = own[0].step, stride = own[0].stride;
  const auto product = [&]<int i, int j>() __attribute__((always_inline)) {
    if constexpr (j == 0) load_tile<7>(shared.at + i * shared.slice, shared.stride);
    each([&]<int n>() __attribute__((always_inline)) {
      load_tile<6>(at[n] + j * slice, stride);
      if constexpr (kSharesWeights) {
        multiply_tiles<3 * n + i + j, 6, 7>();
      } else {
        multiply_tiles<3 * n + i + j, 7, 6>();
      }
    });
  };
  for (int64_t s = 0; s < steps; ++s, shared.at += shared.step) {
    product.template operator()<0, 0>();
    product.template operator()<0, 1>();
    product.template operator()<0, 2>();
    product.template operator()<1, 0>();
    product.template operator()<1, 1>();
    product.template operator()<2, 0>();
    each([&]<int n> { at[n] += step; });
  }
  each([&]<int n> {
    store_tile<3 * n>(to[n].of, 64);
    store_tile<3 * n + 1>(to[n].of + 256, 64);
    store_tile<3 * n + 2>(to[n].of + 512, 64);
  });
}

// By hand, so that the sum stays in its register.
inline void add_products(__m512i& sum, __m512i left, __m512i right) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(left), "v"(right));
}

// The sums of one row and one column: several terms at once, so that a sum need not wait for
// itself, and the weights in the order in which they lie.
__attribute__((noinline)) void multiply_row(const uint8_t* a, const int8_t* w,
                                            const int32_t* starts, int64_t steps, int32_t* to) {
  constexpr int kAtOnce = 2;
  __m512i sums[kAtOnce][6];
#pragma GCC unroll 4
  for (int q = 0; q < kAtOnce; ++q) {
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) sums[q][i] = _mm512_setzero_si512();
  }
  for (int64_t s = 0; s < steps; ++s, a += kStepBytes) {
    for (const uint8_t* at = a; at < a + kStep; at += 4 * kAtOnce, w += kQuadBytes * kAtOnce) {
#pragma GCC unroll 4
      for (int q = 0; q < kAtOnce; ++q) {
        __m512i left[kSlices], right[kSlices];
#pragma GCC unroll 3
        for (int i = 0; i < kSlices; ++i) {
          int32_t four;
          __builtin_memcpy(&four, at + i * kTileBytes + 4 * q, 4);
          left[i] = _mm512_set1_epi32(four);
          right[i] = _mm512_loadu_si512(w + kQuadBytes * q + 64 * i);
        }
        add_products(sums[q][0], left[0], right[0]);
        add_products(sums[q][1], left[0], right[1]);
        add_products(sums[q][2], left[1], right[0]);
        add_products(sums[q][3], left[0], right[2]);
        add_products(sums[q][4], left[1], right[1]);
        add_products(sums[q][5], left[2], right[0]);
      }
    }
  }
#pragma GCC unroll 4
  for (int q = 1; q < kAtOnce; ++q) {
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) sums[0][i] = _mm512_add_epi32(sums[0][i], sums[q][i]);
  }
  const __m512i total[kSlices] = {
      sums[0][0], _mm512_add_epi32(sums[0][1], sums[0][2]),
      _mm512_add_epi32(_mm512_add_epi32(sums[0][3], sums[0][4]), sums[0][5])};
#pragma GCC unroll 3
  for (int i = 0; i < kSlices; ++i)
    _mm512_storeu_si512(to + i * 16,
                        _mm512_add_epi32(_mm512_loadu_si512(starts + i * 16), total[i]));
}

// out[m][c][unit] = init[m][c][unit] + sum over k of left[row + m][k] * w[column + c][unit][k]
//   init: row m at init + m * init_stride;  out: row m at out + m * out_stride
struct FixedTile {
  const FixedRows& left;
  const FixedWeights& w;
  const float* init;
  int64_t init_stride;
  float* out;
  int64_t out_stride;
  bool finite = true;

  // `rows` rows, kMostRows at most. False: some factor is not finite, and its sums are NaN.
  bool run(int rows, int64_t column, int columns) {
    for (int64_t piece = 0; piece < w.pieces; ++piece) {
      if (piece == 1) {
        init = out;
        init_stride = out_stride;
      }
      run_piece(rows, column, columns, piece);
    }
    return finite;
  }

 private:
  void run_piece(int rows, int64_t column, int columns, int64_t piece) {
    const int64_t first = piece * kPieceSteps;
    const int64_t steps = smaller(w.steps - first, kPieceSteps);
    const auto rows_from = [&](int64_t m) {
      return Factor{reinterpret_cast<const char*>(left.at(m, first * kStep)), kTileBytes,
                    kStepBytes, kStep};
    };
    const auto weights = [&](int c) { return w.column(column + c) + first * kStepBytes; };
    const auto weights_from = [&](int c) {
      return Factor{reinterpret_cast<const char*>(weights(c)), 64, kStepBytes, kQuadBytes};
    };
    const auto starts = [&](int c) {
      return w.starts + ((column + c) * w.pieces + piece) * kStarts;
    };
    Sums sums[2];
    if (rows > kTileRows) {
      const Factor own[] = {rows_from(0), rows_from(kTileRows)};
      for (int c = 0; c < columns; ++c) {
        const int32_t* begin[] = {starts(c), starts(c)};
        multiply_steps<2, true>(weights_from(c), own, begin, steps, sums);
        store(sums[0].of, 256, 0, kTileRows, column, c);
        store(sums[1].of, 256, kTileRows, rows - kTileRows, column, c);
      }
    } else if (rows > 2) {
      for (int c = 0; c < columns; c += 2) {
        const int next = c + 1 < columns ? c + 1 : c;
        const Factor own[] = {weights_from(c), weights_from(next)};
        const int32_t* begin[] = {starts(c), starts(next)};
        if (next > c)
          multiply_steps<2, false>(rows_from(0), own, begin, steps, sums);
        else
          multiply_steps<1, false>(rows_from(0), own, begin, steps, sums);
        for (int i = c; i <= next; ++i) store(sums[i - c].of, 256, 0, rows, column, i);
      }
    } else {
      for (int m = 0; m < rows; ++m) {
        for (int c = 0; c < columns; ++c) {
          multiply_row(left.at(m, first * kStep), weights(c), starts(c), steps, sums[0].of);
          store(sums[0].of, 16, m, 1, column, c);
        }
      }
    }
  }

  // from integers to float; `sums` of row m at sums[i * slice + m * 16]
  void store(const int32_t* sums, int64_t slice, int first_row, int rows, int64_t column, int c) {
    const __m512 of_units =
        _mm512_sub_ps(_mm512_loadu_ps(w.exponents + (column + c) * 16), _mm512_set1_ps(kUnit));
    const __m512 byte = _mm512_set1_ps(256);
    __mmask16 missing = 0;
    const auto part = [&](const int32_t* at) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(at)); };
    for (int m = first_row; m < first_row + rows; ++m, sums += 16) {
      const __m512 exponent = _mm512_add_ps(_mm512_set1_ps(left.exponents[m]), of_units);
      __m512 sum = _mm512_fmadd_ps(part(sums), byte, part(sums + slice));
      sum = _mm512_fmadd_ps(sum, byte, part(sums + 2 * slice));
      const __m512 before =
          init ? _mm512_loadu_ps(init + m * init_stride + c * 16) : _mm512_setzero_ps();
      _mm512_storeu_ps(out + m * out_stride + c * 16,
                       _mm512_add_ps(before, _mm512_scalef_ps(sum, exponent)));
      missing |= _mm512_cmp_ps_mask(exponent, exponent, _CMP_UNORD_Q);
    }
    if (missing) finite = false;
  }
};

// As PlainProduct.
struct FixedProduct {
  using Unit = Tiles;
  using Rows = FixedRows;
  using Matrix = FixedWeights;
  static constexpr int kColumns = 6;  // of a tile, at most
  template <int N>
  static constexpr int kTileBlocks = kTileRows * (kColumns / N > 2 ? kColumns / N : 2);
  static constexpr int64_t kSums = kColumns * 16;

  template <int N, class Place, class Body>
  static void each_tile(const Rows& left, int64_t rows, const Matrix& w, const float* bias,
                        const BlockRange& range, const Place& place, const Body& body) {
    Tile tile{};
    tile.first_piece = tile.last_piece = true;
    for (tile.block = range.first; tile.block < range.last; tile.block += tile.blocks) {
      const int64_t most = rows > kTileRows ? 1 : kColumns / N / 2 * 2;
      tile.blocks = static_cast<int>(smaller(larger(1, most), range.last - tile.block));
      for (tile.row = 0; tile.row < rows; tile.row += tile.rows) {
        tile.rows = static_cast<int>(smaller(kMostRows, rows - tile.row));
        const Out<float> out = place(tile);
        const Rows factor = left.from_tile(tile.row / kTileRows);
        const int64_t first = tile.block * N;
        const float* init = bias + first * 16;
        FixedTile product{factor, w, init, 0, out.at, out.row_stride};
        if (!product.run(tile.rows, first, tile.blocks * N))
          repair(factor, tile.rows, w, first, tile.blocks * N, init, out);
        body(tile, out.at);
      }
    }
  }

 private:
  // The sums in which an infinity or NaN takes part, as float32 has them.
  __attribute__((noinline)) static void repair(const Rows& left, int rows, const Matrix& w,
                                               int64_t first, int columns, const float* init,
                                               const Out<float>& out) {
    for (int m = 0; m < rows; ++m) {
      for (int64_t i = 0; i < columns * 16; ++i) {
        const float exponent = left.exponents[m] + w.exponents[first * 16 + i];
        if (exponent == exponent) continue;
        const float* row = w.row(first * 16 + i);
        float sum = init[i];
        for (int64_t k = 0; row && k < w.length; ++k)
          sum = __builtin_fmaf(left.source[m][k], row[k * w.w.stride[1]], sum);
        out.at[m * out.row_stride + i] = sum;
      }
    }
  }
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
