#include "precision.hpp"

#include <atomic>
#include <cstdlib>

#include "errors.hpp"

namespace fastrnn {
namespace {

constexpr int kUnset = -1;
std::atomic<int> chosen{kUnset};

}  // namespace

const char* name_of(Float32Precision precision) {
  return precision == Float32Precision::kTf32 ? "tf32" : "strict";
}

Float32Precision precision_called(const char* source, const std::string& name) {
  for (const Float32Precision precision : {Float32Precision::kStrict, Float32Precision::kTf32}) {
    if (name == name_of(precision)) return precision;
  }
  throw ValueError(std::string(source) + " must be 'strict' or 'tf32', got '" + name + "'");
}

Float32Precision float32_precision() {
  const int set = chosen.load(std::memory_order_relaxed);
  if (set != kUnset) return static_cast<Float32Precision>(set);
  const char* const name = std::getenv("FASTRNN_FLOAT32_PRECISION");
  if (!name || !*name) return Float32Precision::kStrict;
  return precision_called("FASTRNN_FLOAT32_PRECISION", name);
}

void set_float32_precision(Float32Precision precision) {
  chosen.store(static_cast<int>(precision), std::memory_order_relaxed);
}

}  // namespace fastrnn
