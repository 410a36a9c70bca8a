// The list of backends, the choice among them and its override.
#include <cstdlib>
#include <stdexcept>

#include "harness.hpp"
#include "problem.hpp"

namespace fastrnn::test {
namespace {

void scalar_is_the_last_resort_and_runs_everywhere() {
  const auto here = cpu_backends();
  FASTRNN_CHECK(!here.empty() && std::string(here.back()->name) == "scalar", "list of backends");
}

void the_vector_unit_of_this_architecture_is_built() {
#if defined(__aarch64__)
  const std::string wanted = "neon";
#else
  const std::string wanted = "avx2";
#endif
  bool found = false;
  for (int i = 0; const KernelTable* table = compiled_backend(i); ++i)
    found |= table->name == wanted;
  FASTRNN_CHECK(found, wanted);
}

void the_best_backend_that_runs_here_is_chosen() {
  const std::string chosen = find_backend(nullptr).name;
  FASTRNN_CHECK(chosen == cpu_backends().front()->name || chosen == "cuda", chosen);
}

void the_environment_overrides_the_choice() {
  for (const KernelTable* backend : cpu_backends()) {
    setenv("FASTRNN_BACKEND", backend->name, 1);
    const std::string chosen = find_backend(nullptr).name;
    unsetenv("FASTRNN_BACKEND");
    FASTRNN_CHECK(chosen == backend->name, chosen);
  }
}

void an_unknown_name_throws_and_lists_what_there_is() {
  std::string message;
  try {
    find_backend("abacus");
  } catch (const std::invalid_argument& error) {
    message = error.what();
  }
  FASTRNN_CHECK(
      message.find("abacus") != std::string::npos && message.find("scalar") != std::string::npos,
      message);
}

}  // namespace
}  // namespace fastrnn::test

int main() {
  using namespace fastrnn::test;
  unsetenv("FASTRNN_BACKEND");
  constexpr Test kTests[] = {
      {"scalar is the last resort and runs everywhere",
       scalar_is_the_last_resort_and_runs_everywhere},
      {"the vector unit of this architecture is built",
       the_vector_unit_of_this_architecture_is_built},
      {"the best backend that runs here is chosen", the_best_backend_that_runs_here_is_chosen},
      {"FASTRNN_BACKEND overrides the choice", the_environment_overrides_the_choice},
      {"an unknown name throws and lists what there is",
       an_unknown_name_throws_and_lists_what_there_is},
  };
  return run_all(kTests);
}
