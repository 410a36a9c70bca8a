// The options beside the plain layer's: from the Settings of python/fastrnn/reference/features.py,
// which have checked all that needs no array, to Family.
#pragma once

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>

#include "bindings/array.hpp"

namespace fastrnn::bindings {

inline Function function_of(const std::string& name) {
  constexpr const char* kNames[] = {
      "sigmoid",    "tanh",        "relu", "affine",   "leakyrelu", "thresholdedrelu",
      "scaledtanh", "hardsigmoid", "elu",  "softsign", "softplus"};
  const auto found = std::find(std::begin(kNames), std::end(kNames), name);
  if (found == std::end(kNames)) throw ValueError("no activation is called '" + name + "'");
  return static_cast<Function>(found - std::begin(kNames));
}

// The activations that a cell has by itself, for a clip without a choice of them: the last gate is
// the candidate, but for an LSTM, where the output gate comes after it, and the output's last.
inline void usual_activations(const CellInfo& cell, Family& f) {
  int left = cell.gates;
  const bool is_lstm = cell.states == 2;
  for (Activation& activation : f.activations) {
    --left;
    const bool is_candidate = left == (is_lstm ? 1 : 0), is_output = left < 0;
    activation = {is_candidate || is_output ? Function::kTanh : Function::kSigmoid, 0, 0};
    if (is_candidate && std::string(cell.name) == "rnn_relu") activation.function = Function::kRelu;
  }
}

// Values that a step of a row keeps for backward, beside c: the reserve, with a projection the
// cell's output before it, and what layer norm keeps (NormLayout in cells/units.hpp).
struct KeptUnits {
  int64_t reserve, output, norms;
  int64_t all() const { return reserve + output + norms; }
};

inline KeptUnits kept_units(const CellInfo& cell, bool family, bool projected, bool normed,
                            int64_t units) {
  const int reserve = family ? std::max(cell.reserve, 1) : cell.reserve;
  return {reserve * units, projected ? units : 0,
          normed ? (2 * cell.gates + 1) * units + kNormFactors : 0};
}

// `take` holds an array for the call: take(name, object) -> its view
template <class Take>
Family family_of(const CellInfo& cell, py::handle settings, const Take& take) {
  Family f;
  if (settings.is_none()) return f;
  f.on = true;
  f.training = py::cast<bool>(settings.attr("training"));
  f.seed = py::cast<uint64_t>(settings.attr("seed"));
  f.first_step = py::cast<int64_t>(settings.attr("first_step"));
  f.w_hr = take("w_hr", settings.attr("w_hr"));
  f.peephole = take("peephole", settings.attr("peephole"));
  const double clip = py::cast<double>(settings.attr("clip"));
  const double cell_clip = py::cast<double>(settings.attr("cell_clip"));
  f.cell_clip = std::isinf(cell_clip) ? 0 : cell_clip;
  const py::object chosen = settings.attr("activations");
  f.chosen = !chosen.is_none() || !std::isinf(clip);
  f.clip = clip;
  usual_activations(cell, f);
  if (!chosen.is_none()) {
    size_t n = 0;
    for (const py::handle activation : chosen) {
      if (n == std::size(f.activations)) break;
      f.activations[n++] = {function_of(py::cast<std::string>(activation.attr("name"))),
                            py::cast<double>(activation.attr("alpha")),
                            py::cast<double>(activation.attr("beta"))};
    }
  }
  const py::object norm = settings.attr("layer_norm");
  if (!norm.is_none()) {
    f.eps = py::cast<double>(norm.attr("eps"));
    f.gain_ih = take("gain_ih", norm.attr("gain_ih"));
    f.gain_hh = take("gain_hh", norm.attr("gain_hh"));
    f.gain_c = take("gain_c", norm.attr("gain_c"));
    f.bias_c = take("bias_c", norm.attr("bias_c"));
    if (f.gain_c.present) {
      const bool of_state = py::cast<std::string>(norm.attr("variant")) == "state";
      f.norm_of_c = of_state ? NormOfC::kState : NormOfC::kOutput;
    }
  }
  const py::tuple zoneout = settings.attr("zoneout");
  f.zoneout[0] = py::cast<double>(zoneout[0]);
  f.zoneout[1] = py::cast<double>(zoneout[1]);
  f.recurrent_dropout = py::cast<double>(settings.attr("recurrent_dropout"));
  f.weight_dropout = py::cast<double>(settings.attr("weight_dropout"));
  return f;
}

}  // namespace fastrnn::bindings
