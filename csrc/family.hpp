// What a layer may have beside the plain one: the options of python/fastrnn/reference/features.py,
// as plain numbers and views. P: units of h, H without a projection.
#pragma once

#include <cstdint>

namespace fastrnn {

// ONNX's activations
enum class Function : int {
  kSigmoid,
  kTanh,
  kRelu,
  kAffine,
  kLeakyRelu,
  kThresholdedRelu,
  kScaledTanh,
  kHardSigmoid,
  kElu,
  kSoftsign,
  kSoftplus
};

struct Activation {
  Function function;
  double alpha, beta;
};

constexpr int kMaxActivations = 5;
constexpr int kMaxPeepholes = 3;

// At the end of what layer norm keeps of a step: its factors, of which there are four, and room, so
// that steps begin with a cache line where H is a multiple of one.
constexpr int kNormFactors = 16;

enum class NormOfC : int { kNone, kOutput, kState };

// The streams of the generator (reference/philox.py)
enum class Stream : int {
  kBetweenLayers,
  kRecurrent,
  kZoneoutH,
  kZoneoutC,
  kWeight,
};

template <class Tensor>
struct FamilyOf {
  bool on = false;       // anything of what follows
  bool chosen = false;   // activations and clip are those here, not the cell's own
  bool training = true;  // false: no dropout, and zoneout takes its expectation
  Activation activations[kMaxActivations] = {};
  double clip = 0;       // of the gates' inputs; with `chosen`
  double cell_clip = 0;  // 0: none
  NormOfC norm_of_c = NormOfC::kNone;
  double eps = 0;
  double zoneout[2] = {};  // of h, of c
  double recurrent_dropout = 0, weight_dropout = 0;
  uint64_t seed = 0;
  int64_t first_step = 0;  // t of step 0, for the masks of zoneout

  Tensor w_hr;              // [P, H]
  Tensor peephole;          // [kPeepholes, H]
  Tensor gain_ih, gain_hh;  // [G*H]
  Tensor gain_c, bias_c;    // [H]

  Tensor output;  // [T, B, H]    with w_hr: the cell's output before it; for backward
  Tensor norms;   // [T, B, ...]  what layer norm keeps for backward (cells/units.hpp)
  Tensor gates;   // [T, B, G*H]  the gates' values, 0 where no step is taken
};

}  // namespace fastrnn
