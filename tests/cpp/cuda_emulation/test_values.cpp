// The 16-bit floats of the CUDA backend, as the host converts them; ptxas makes the same of them in
// one instruction.
#include <cmath>
#include <cstring>
#include <limits>

#include "../harness.hpp"
#include "values.cuh"

namespace fastrnn::test {
namespace {

using cuda::BFloat16;
using cuda::computed;
using cuda::Float16;
using cuda::stored;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class T>
void check_every_value(uint16_t infinity) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const T value = {static_cast<uint16_t>(bits)};
    const float wide = computed(value);
    const uint16_t magnitude = value.bits & 0x7fff;
    FASTRNN_CHECK(std::isnan(wide) == (magnitude > infinity), std::to_string(bits));
    FASTRNN_CHECK(std::isinf(wide) == (magnitude == infinity), std::to_string(bits));
    const uint16_t back = std::isnan(wide) ? uint16_t{0x7fff} : value.bits;
    FASTRNN_CHECK(stored<T>(wide).bits == back, std::to_string(bits));
  }
}

// between two neighbours: the nearer one, or of two as near the even one; beyond the last: infinity
template <class T>
void check_rounding(uint16_t infinity, double beyond) {
  const auto value_of = [&](uint16_t bits) {
    return bits == infinity ? beyond : static_cast<double>(computed(T{bits}));
  };
  for (uint16_t low = 0; low < infinity; ++low) {
    const double a = value_of(low), b = value_of(static_cast<uint16_t>(low + 1));
    const auto half = static_cast<float>((a + b) / 2);  // exact: a bit more than T has
    const auto high = static_cast<uint16_t>(low + 1), even = low % 2 == 0 ? low : high;
    for (const auto& [value, wanted] :
         {std::pair{half, even}, std::pair{std::nextafter(half, 0.0f), low},
          std::pair{std::nextafter(half, kInfinity), high}}) {
      FASTRNN_CHECK(stored<T>(value).bits == wanted, std::to_string(value));
      FASTRNN_CHECK(stored<T>(-value).bits == (wanted | 0x8000), std::to_string(-value));
    }
  }
}

void float16_comes_back_from_float() { check_every_value<Float16>(0x7c00); }
void bfloat16_comes_back_from_float() { check_every_value<BFloat16>(0x7f80); }
void float16_is_rounded_to_nearest_even() { check_rounding<Float16>(0x7c00, 0x1p16); }
void bfloat16_is_rounded_to_nearest_even() { check_rounding<BFloat16>(0x7f80, 0x1p128); }

void known_values() {
  for (const auto& [value, bits] : {std::pair{1.0f, 0x3c00}, {-2.0f, 0xc000}, {65504.0f, 0x7bff}})
    FASTRNN_CHECK(stored<Float16>(value).bits == bits, std::to_string(value));
  for (const auto& [value, bits] : {std::pair{1.0f, 0x3f80}, {-2.0f, 0xc000}, {0x1p-133f, 0x0001}})
    FASTRNN_CHECK(stored<BFloat16>(value).bits == bits, std::to_string(value));
  FASTRNN_CHECK(stored<float>(0.1f) == 0.1f && stored<double>(0.1) == 0.1, "wider ones stay");
}

}  // namespace
}  // namespace fastrnn::test

int main() {
  using namespace fastrnn::test;
  constexpr Test kTests[] = {
      {"float16 comes back from float", float16_comes_back_from_float},
      {"bfloat16 comes back from float", bfloat16_comes_back_from_float},
      {"float16 is rounded to nearest, ties to even", float16_is_rounded_to_nearest_even},
      {"bfloat16 is rounded to nearest, ties to even", bfloat16_is_rounded_to_nearest_even},
      {"known values", known_values},
  };
  return run_all(kTests);
}
