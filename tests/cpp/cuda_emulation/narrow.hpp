// Problems in the dtypes of the CUDA backend, and beside them the same problem in double.
#pragma once

#include <cstring>
#include <vector>

#include "../harness.hpp"
#include "../problem.hpp"
#include "values.cuh"

namespace fastrnn::test {

using cuda::BFloat16;
using cuda::Float16;

template <>
constexpr DType kDType<Float16> = DType::kFloat16;
template <>
constexpr DType kDType<BFloat16> = DType::kBFloat16;
template <>
inline Float16 from_double(double value) {
  return cuda::stored<Float16>(static_cast<float>(value));
}
template <>
inline BFloat16 from_double(double value) {
  return cuda::stored<BFloat16>(static_cast<float>(value));
}

template <class T>
using ProblemOf = Problem<T, cuda::Compute<T>>;

template <class T>
std::vector<double> widened(const std::vector<T>& values) {
  std::vector<double> wide;
  for (const T& value : values) wide.push_back(static_cast<double>(cuda::computed(value)));
  return wide;
}

// its arrays as doubles
template <class T>
Problem<double> widened(const ProblemOf<T>& p) {
  Problem<double> wide(p.setup);
  wide.x = widened(p.x), wide.w_ih = widened(p.w_ih), wide.w_hh = widened(p.w_hh);
  wide.b_ih = widened(p.b_ih), wide.b_hh = widened(p.b_hh), wide.h0 = widened(p.h0);
  wide.c0 = widened(p.c0), wide.dy = widened(p.dy), wide.dh_n = widened(p.dh_n);
  wide.dc_n = widened(p.dc_n);
  wide.y = widened(p.y), wide.h_n = widened(p.h_n), wide.c_n = widened(p.c_n);
  wide.c = widened(p.c), wide.dx = widened(p.dx), wide.dw_ih = widened(p.dw_ih);
  wide.dw_hh = widened(p.dw_hh), wide.db_ih = widened(p.db_ih), wide.db_hh = widened(p.db_hh);
  wide.dh0 = widened(p.dh0), wide.dc0 = widened(p.dc0);
  return wide;
}

// x of a masked step may be anything
template <class T>
void spoil_masked_x(ProblemOf<T>& p) {
  for (size_t row = 0; row < p.mask.size(); ++row) {
    if (p.mask[row]) continue;
    for (size_t i = 0; i < static_cast<size_t>(p.setup.I); ++i) {
      p.x[row * static_cast<size_t>(p.setup.I) + i] = from_double<T>(kNaN);
    }
  }
}

template <class T>
void check_same_bits(const std::vector<T>& a, const std::vector<T>& b, const std::string& what) {
  FASTRNN_CHECK(a.size() == b.size(), what);
  FASTRNN_CHECK(a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0, what);
}

template <class T>
void check_results_have_same_bits(const Problem<T>& a, const Problem<T>& b,
                                  const std::string& what) {
  for (size_t i = 0; i < a.results().size(); ++i) {
    check_same_bits(*a.results()[i].values, *b.results()[i].values, a.results()[i].name + what);
  }
}

}  // namespace fastrnn::test
