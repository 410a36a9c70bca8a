// How values become operands of the tensor cores. Each way has
//
//   Value        of the arrays in global memory
//   V            what the cells are instantiated with
//   Element      of an operand in shared memory; kPlanes of them stand for one value
//   kLeft        words a lane holds of 16 x 16 weights, kRight of an operand's 16 x 8, which it
//                reads four at a time
//
// An operand lies in shared memory as kPlanes planes of kColumns rows (a batch row each) of K
// elements, `pitch` bytes apart: an odd number of 16 bytes, so that the rows of a matrix lie in
// different banks.
#pragma once

#include "ops.cuh"
#include "scalar.cuh"

namespace fastrnn {
namespace {
namespace cuda {

constexpr int kColumns = 8;  // batch rows of a tile
constexpr int kDepth = 16;   // of a step of the product

// tanh and the sigmoid by the hardware's tanh, to a relative error of 2^-11
struct Approximate : Vec<float> {
  Approximate() = default;
  FASTRNN_HD Approximate(Vec<float> value) : Vec<float>(value) {}
  FASTRNN_HD static Approximate set(float value) { return Vec<float>{value}; }
};

__device__ inline Approximate tanh(Approximate a) {
  return Approximate::set(approximate_tanh(a.v));
}
__device__ inline Approximate sigmoid(Approximate a) {
  return Approximate::set(std::fma(0.5f, approximate_tanh(0.5f * a.v), 0.5f));
}

template <int N>
struct WordsOf {
  uint32_t words[N];
};

template <class Value>
using OperandsOf =
    std::conditional_t<std::is_same_v<Value, BFloat16>, BFloat16Operands, Float16Operands>;

template <class Value>
FASTRNN_HD uint32_t pair(float first, float second) {
  return stored<Value>(first).bits | uint32_t{stored<Value>(second).bits} << 16;
}

// what a rounding to 16 bits leaves
template <class Value>
FASTRNN_HD float remainder(float value) {
  return value - computed(stored<Value>(value));
}

// BFloat16 or Float16 as they are
template <class T>
struct Narrow {
  static constexpr const char* kName = std::is_same_v<T, BFloat16> ? "bfloat16" : "float16";
  using Value = T;
  using V = Approximate;
  using Element = uint16_t;
  static constexpr int kPlanes = 1, kLeft = 4, kRight = 2, kPasses = 1;
  using Right = WordsOf<kRight>;
  static constexpr bool kScaled = false;

  FASTRNN_HD static void put(Element* at, int64_t, float value) { *at = stored<T>(value).bits; }
  FASTRNN_HD static int lane_offset(int lane, int) { return lane / 8 * 16; }

  // element(half, k): row lane / 4 + 8 half
  template <class ElementAt>
  FASTRNN_HD static void left(int lane, const ElementAt& element, uint32_t (&words)[kLeft]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int k = lane % 4 * 2 + i / 2 * 8;
      words[i] = element(i % 2, k).bits | uint32_t{element(i % 2, k + 1).bits} << 16;
    }
  }

  template <int M>
  __device__ static void multiply(const uint32_t (&left)[M][kLeft], const Right& right,
                                  float (*sums)[4]) {
    multiply_tiles<OperandsOf<T>, 0, 0>(left, right.words, sums);
  }
};

// float as the sum of two 16-bit values: high high + high low + low high. What is left out is 2^-18
// of the product for BFloat16, and 2^-22 for Float16, whose range asks for scaled operands.
template <class Half>
struct Split {
  static constexpr const char* kName =
      std::is_same_v<Half, BFloat16> ? "split bfloat16" : "split float16";
  using Value = float;
  using V = Vec<float>;
  using Element = uint16_t;
  static constexpr int kPlanes = 2, kLeft = 8, kRight = 4, kPasses = 3;
  using Right = WordsOf<kRight>;
  static constexpr bool kScaled = std::is_same_v<Half, Float16>;

  FASTRNN_HD static void put(Element* at, int64_t plane, float value) {
    at[0] = stored<Half>(value).bits;
    at[plane] = stored<Half>(remainder<Half>(value)).bits;
  }
  FASTRNN_HD static int lane_offset(int lane, int plane) {
    return lane / 8 % 2 * 16 + lane / 16 * plane;
  }

  template <class ElementAt>
  FASTRNN_HD static void left(int lane, const ElementAt& element, uint32_t (&words)[kLeft]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int k = lane % 4 * 2 + i / 2 * 8;
      const float first = element(i % 2, k), second = element(i % 2, k + 1);
      words[i] = pair<Half>(first, second);
      words[4 + i] = pair<Half>(remainder<Half>(first), remainder<Half>(second));
    }
  }

  template <int M>
  __device__ static void multiply(const uint32_t (&left)[M][kLeft], const Right& right,
                                  float (*sums)[4]) {
    multiply_tiles<OperandsOf<Half>, 4, 0>(left, right.words, sums);
    multiply_tiles<OperandsOf<Half>, 0, 2>(left, right.words, sums);
    multiply_tiles<OperandsOf<Half>, 0, 0>(left, right.words, sums);
  }
};

// float rounded to 10 bits of mantissa
struct Tf32 {
  static constexpr const char* kName = "tf32";
  using Value = float;
  using V = Vec<float>;
  using Element = uint32_t;
  static constexpr int kPlanes = 1, kLeft = 8, kRight = 4, kPasses = 2;
  using Right = WordsOf<kRight>;
  static constexpr bool kScaled = false;

  __device__ static void put(Element* at, int64_t, float value) { *at = rounded_to_tf32(value); }
  FASTRNN_HD static int lane_offset(int lane, int) { return lane / 8 * 16; }

  template <class ElementAt>
  __device__ static void left(int lane, const ElementAt& element, uint32_t (&words)[kLeft]) {
#pragma unroll
    for (int i = 0; i < kLeft; ++i) {
      words[i] = rounded_to_tf32(element(i % 2, lane % 4 + i / 2 * 4));
    }
  }

  template <int M>
  __device__ static void multiply(const uint32_t (&left)[M][kLeft], const Right& right,
                                  float (*sums)[4]) {
    multiply_tiles<Tf32Operands, 0, 0>(left, right.words, sums);
    multiply_tiles<Tf32Operands, 4, 2>(left, right.words, sums);
  }
};

// The operand of a product of depth 16 `steps`
template <class Mode>
struct OperandShape {
  using Element = typename Mode::Element;
  int pitch, plane, bytes;

  explicit OperandShape(int steps)
      : pitch(steps * kDepth * int{sizeof(Element)} + 16),
        plane(kColumns * pitch),
        bytes(Mode::kPlanes * plane) {}

  __device__ void put(char* operand, int column, int k, float value) const {
    Mode::put(reinterpret_cast<Element*>(operand + column * pitch) + k,
              plane / int{sizeof(Element)}, value);
  }
  // where the lane reads in the step that starts at k
  FASTRNN_HD int lane_offset(int lane, int k) const {
    return lane % 8 * pitch + Mode::lane_offset(lane, plane) + k * int{sizeof(Element)};
  }
};

constexpr int kStepsAtATime = 2;  // of the product

// A warp's part of the weights, kTiles x 16 rows, 16 deep a step, kMost steps at most: kHeld steps
// in registers, the others in shared memory. Steps go in twos. The product can be made in kParts,
// of kTiles / kParts tiles each, so that there are fewer sums at a time.
template <class Mode, int kTiles, int kHeld, int kMost, int kParts>
class Weights {
  static constexpr int kOfPart = kTiles / kParts;
  static_assert(kHeld % kStepsAtATime == 0 && kTiles % kParts == 0);

 public:
  static constexpr int kWords16 = kTiles * Mode::kLeft / 4;  // of a lane and step

  static int shared_bytes(int steps) {
    return steps > kHeld ? (steps - kHeld) * kWords16 * kWarp * 16 : 0;
  }

  // element(tile, half, k), k counted from this warp's first
  template <class ElementAt>
  __device__ void load(int lane, int steps, char* shared, const ElementAt& element) {
    steps_ = steps;
    rest_ = reinterpret_cast<Word16*>(shared) + lane;
    // Each step's words push the others one place down, in a loop that is not unrolled: else
    // addresses and words of several steps would take registers beside what is held.
#pragma unroll 1
    for (int step = 0; step < kHeld; ++step) {
      const int zero = opaque(0);  // or registers for what is the same in every step
#pragma unroll
      for (int i = 0; i + 1 < kHeld; ++i) {
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
          for (int word = 0; word < Mode::kLeft; ++word) {
            tile_of(i, tile)[word] = tile_of(i + 1, tile)[word];
          }
        }
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        Mode::left(
            lane, [&](int half, int k) { return element(zero + tile, half, step * kDepth + k); },
            tile_of(kHeld - 1, tile));
      }
    }
    if constexpr (kHeld < kMost) {
#pragma unroll 1
      for (int step = kHeld; step < steps; ++step) {
#pragma unroll 1
        for (int tile = 0; tile < kTiles; ++tile) {
          uint32_t words[Mode::kLeft];
          Mode::left(
              lane, [&](int half, int k) { return element(tile, half, step * kDepth + k); }, words);
#pragma unroll
          for (int i = 0; i < Mode::kLeft / 4; ++i) {
            rest_[index(step, tile, i)] = {
                {words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]}};
          }
        }
      }
    }
  }

  // sums += a part of the weights x operand; `operand` is where the lane reads in the first step
  __device__ void multiply(const char* operand, int part, float (&sums)[kOfPart][4]) const {
    uint32_t right[2][kLoads][4];
    load(operand, 0, right[0]);
#pragma unroll
    for (int step = 0; step < kHeld; step += kStepsAtATime) {
      if (step >= steps_) break;
      const int turn = step / kStepsAtATime % 2;
      if (step + kStepsAtATime < steps_) {
        load(operand, step + kStepsAtATime, right[1 - turn]);
      }
#pragma unroll
      for (int i = 0; i < kStepsAtATime; ++i) {
        Mode::multiply(held_[step + i][part], words_of(right[turn], i), sums);
      }
    }
    if constexpr (kHeld < kMost) {
#pragma unroll 1  // or registers for several steps' words
      for (int step = kHeld; step < steps_; step += kStepsAtATime) {
        load(operand, step, right[0]);
#pragma unroll
        for (int i = 0; i < kStepsAtATime; ++i) {
#pragma unroll
          for (int tile = 0; tile < kOfPart; ++tile) {
            uint32_t left[1][Mode::kLeft];
#pragma unroll
            for (int j = 0; j < Mode::kLeft; j += 4) {
              const Word16 word = rest_[index(step + i, part * kOfPart + tile, j / 4)];
#pragma unroll
              for (int k = 0; k < 4; ++k) left[0][j + k] = word.part[k];
            }
            Mode::multiply(left, words_of(right[0], i), sums + tile);
          }
        }
      }
    }
  }

 private:
  static constexpr int kLoads = kStepsAtATime * Mode::kRight / 4;

  __device__ static void load(const char* operand, int step, uint32_t (&words)[kLoads][4]) {
    constexpr int kStride = kDepth * int{sizeof(typename Mode::Element)};
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      load_matrices(operand + (step + i * kStepsAtATime / kLoads) * kStride, words[i]);
    }
  }

  // the words of step i
  __device__ static typename Mode::Right words_of(const uint32_t (&words)[kLoads][4], int i) {
    typename Mode::Right right;
#pragma unroll
    for (int j = 0; j < Mode::kRight; ++j) {
      right.words[j] = words[(i * Mode::kRight + j) / 4][(i * Mode::kRight + j) % 4];
    }
    return right;
  }

  FASTRNN_HD static int index(int step, int tile, int part) {
    return ((step - kHeld) * kWords16 + tile * (Mode::kLeft / 4) + part) * kWarp;
  }

  using Tile = uint32_t[Mode::kLeft];
  __device__ Tile& tile_of(int step, int tile) {
    return held_[step][tile / kOfPart][tile % kOfPart];
  }

  Tile held_[kHeld][kParts][kOfPart] = {};
  Word16* rest_;
  int steps_;
};

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
