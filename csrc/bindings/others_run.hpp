// Python's other threads during a call.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>

#include "fastrnn.hpp"

namespace fastrnn::bindings {

// They run for as long as this lives, where letting them does not cost as much as the call.
class OthersRun {
 public:
  explicit OthersRun(const ForwardArgs& a) {
    constexpr int64_t kWorth = 1 << 17;
    const int64_t terms = a.w_ih.shape[1] + a.w_hh.shape[1];
    const int64_t products = a.x.shape[0] * a.x.shape[1] * a.w_ih.shape[0] * terms;
    if (products >= kWorth || a.x.device != kHost) release_.emplace();
  }

 private:
  std::optional<pybind11::gil_scoped_release> release_;
};

}  // namespace fastrnn::bindings
