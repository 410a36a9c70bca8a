// What the core throws; the bindings turn them into Python's ValueError and TypeError.
#pragma once

#include <stdexcept>

namespace fastrnn {

struct ValueError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

struct TypeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

}  // namespace fastrnn
