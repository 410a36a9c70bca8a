// Every CPU backend that runs here: forward against plain loops, backward against their finite
// differences, the others against the scalar double path, and the promise that bits depend on
// neither threads, batch split nor streaming.
#include <cstring>

#include "harness.hpp"
#include "oracle.hpp"
#include "problem.hpp"

namespace fastrnn::test {
namespace {

constexpr unsigned kProblems = 400;

// Largest difference over the largest value (or 1). Not a number anywhere in `got` fails.
template <class T>
void check_close(const std::vector<T>& got, const std::vector<double>& want, double tolerance,
                 const std::string& what) {
  double largest = 1, difference = 0;
  for (const double value : want) largest = std::fmax(largest, std::fabs(value));
  for (size_t i = 0; i < want.size(); ++i) {
    FASTRNN_CHECK(!std::isnan(static_cast<double>(got[i])), what);
    difference = std::fmax(difference, std::fabs(static_cast<double>(got[i]) - want[i]));
  }
  FASTRNN_CHECK(difference <= tolerance * largest,
                what + " differs by " + std::to_string(difference / largest));
}

template <class T>
void check_same_bits(const std::vector<T>& a, const std::vector<T>& b, const std::string& what) {
  FASTRNN_CHECK(a.size() == b.size(), what);
  if (!a.empty()) FASTRNN_CHECK(std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0, what);
}

const KernelTable& scalar() { return find_backend("scalar"); }

void scalar_forward_matches_plain_loops() {
  for (unsigned seed = 0; seed < kProblems; ++seed) {
    Problem<double> got(random_setup(seed)), want(got.setup);
    forward(scalar(), got.forward_args());
    Oracle(want).forward();
    for (size_t i = 0; i < want.forward_results().size(); ++i) {
      const auto [name, values] = want.forward_results()[i];
      check_close(*got.forward_results()[i].values, *values, 1e-13,
                  name + (" of " + got.setup.text()));
    }
  }
}

void scalar_backward_matches_finite_differences() {
  for (unsigned seed = 0; seed < kProblems; ++seed) {
    Problem<double> got(random_setup(seed)), moved(got.setup);
    got.run(scalar());
    auto check_direction = [&](std::vector<double>& values, const std::vector<double>& gradient,
                               const char* name) {
      constexpr double kStep = 1e-6;
      Random random(seed + 1);
      const std::vector<double> start = values;
      std::vector<double> direction(values.size());
      double along = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        direction[i] = random.value(1);
        along += gradient[i] * direction[i];
      }
      auto loss_at = [&](double step) {
        for (size_t i = 0; i < values.size(); ++i) values[i] = start[i] + step * direction[i];
        return Oracle(moved).loss();
      };
      const double difference = (loss_at(kStep) - loss_at(-kStep)) / (2 * kStep);
      values = start;
      FASTRNN_CHECK(std::fabs(along - difference) <= 1e-6 * (1 + std::fabs(difference)),
                    name + (" of " + got.setup.text() + ": ") + std::to_string(along) +
                        " against " + std::to_string(difference));
    };
    check_direction(moved.x, got.dx, "dx");
    check_direction(moved.w_ih, got.dw_ih, "dw_ih");
    check_direction(moved.w_hh, got.dw_hh, "dw_hh");
    if (got.setup.bias) {
      check_direction(moved.b_ih, got.db_ih, "db_ih");
      check_direction(moved.b_hh, got.db_hh, "db_hh");
    }
    if (got.setup.state) {
      check_direction(moved.h0, got.dh0, "dh0");
      if (got.S == 2) check_direction(moved.c0, got.dc0, "dc0");
    }
  }
}

template <class T>
void check_against_scalar_double(double tolerance) {
  for (const KernelTable* backend : cpu_backends()) {
    for (unsigned seed = 0; seed < kProblems; ++seed) {
      Problem<double> want(random_setup(seed));
      Problem<T> got(want.setup);
      want.run(scalar());
      got.run(*backend);
      for (size_t i = 0; i < want.results().size(); ++i) {
        const auto [name, values] = want.results()[i];
        check_close(*got.results()[i].values, *values, tolerance,
                    name + (std::string(" of ") + backend->name + " " + want.setup.text()));
      }
    }
  }
}

void every_backend_in_float_matches_scalar_double() { check_against_scalar_double<float>(2e-5); }
void every_backend_in_double_matches_scalar_double() { check_against_scalar_double<double>(1e-13); }

void bits_do_not_depend_on_threads() {
  for (const KernelTable* backend : cpu_backends()) {
    for (unsigned seed = 0; seed < kProblems; ++seed) {
      Setup setup = random_setup(seed);
      setup.threads = 1;
      Problem<float> one(setup);
      setup.threads = 4;
      Problem<float> four(setup);
      one.run(*backend);
      four.run(*backend);
      for (size_t i = 0; i < one.results().size(); ++i) {
        const auto [name, values] = one.results()[i];
        check_same_bits(*values, *four.results()[i].values,
                        name + (std::string(" of ") + backend->name + " " + setup.text()));
      }
    }
  }
}

void bits_do_not_depend_on_batch_split_or_streaming() {
  for (const KernelTable* backend : cpu_backends()) {
    for (unsigned seed = 0; seed < kProblems; ++seed) {
      Setup setup = random_setup(seed);
      setup.lengths = setup.reverse = false;
      Problem<float> whole(setup), stepped(setup);
      forward(*backend, whole.forward_args());
      // one row and one time step a call, the state handed on
      for (int64_t b = 0; b < setup.B; ++b) {
        ForwardArgs all = stepped.forward_args();
        for (int64_t t = 0; t < setup.T; ++t) {
          ForwardArgs a = all;
          auto cut = [](Tensor& tensor, int axis, int64_t at) {
            if (!tensor.present) return;
            const int64_t size =
                tensor.dtype == DType::kBool ? 1 : static_cast<int64_t>(sizeof(float));
            tensor.data = static_cast<char*>(tensor.data) + at * tensor.stride[axis] * size;
            tensor.shape[axis] = 1;
          };
          for (Tensor* tensor : {&a.x, &a.y, &a.c, &a.reserve, &a.mask, &a.reset})
            cut(*tensor, 0, t), cut(*tensor, 1, b);
          for (Tensor* tensor : {&a.h0, &a.c0, &a.h_n, &a.c_n}) cut(*tensor, 0, b);
          if (t > 0) a.h0 = a.h_n, a.c0 = a.c_n;
          forward(*backend, a);
        }
      }
      const std::string what = std::string(" of ") + backend->name + " " + setup.text();
      check_same_bits(whole.y, stepped.y, "y" + what);
      if (whole.S == 2) check_same_bits(whole.c, stepped.c, "c" + what);
    }
  }
}

}  // namespace
}  // namespace fastrnn::test

int main() {
  using namespace fastrnn::test;
  constexpr Test kTests[] = {
      {"scalar forward matches plain loops", scalar_forward_matches_plain_loops},
      {"scalar backward matches finite differences", scalar_backward_matches_finite_differences},
      {"every backend in float matches scalar double",
       every_backend_in_float_matches_scalar_double},
      {"every backend in double matches scalar double",
       every_backend_in_double_matches_scalar_double},
      {"bits do not depend on threads", bits_do_not_depend_on_threads},
      {"bits do not depend on batch split or streaming",
       bits_do_not_depend_on_batch_split_or_streaming},
  };
  for (const fastrnn::KernelTable* backend : cpu_backends())
    std::printf("runs here: %s\n", backend->name);
  return run_all(kTests);
}
