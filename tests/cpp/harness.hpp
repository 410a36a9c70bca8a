// A test is a function that returns; it fails by CHECK. main() runs a list of them and says which
// claims do not hold.
#pragma once

#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>

#include "cpu/threads.hpp"

namespace fastrnn::test {

struct Test {
  const char* claim;
  void (*run)();
};

inline void check(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

#define FASTRNN_CHECK(condition, what) \
  ::fastrnn::test::check((condition), std::string(#condition ": ") + (what))

// `only`: what is in the claims to be tested
template <int N>
int run_all(const Test (&tests)[N], const std::string& only = "") {
  set_least_work(0);                              // the threads are to be tested on small problems
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // what was said before a hang is to be seen
  int failed = 0;
  for (const Test& test : tests) {
    if (std::string(test.claim).find(only) == std::string::npos) continue;
    std::string problem;
    try {
      test.run();
    } catch (const std::exception& error) {
      problem = error.what();
      ++failed;
    }
    std::printf("%s  %s%s%s\n", problem.empty() ? "ok    " : "FAILED", test.claim,
                problem.empty() ? "" : "\n        ", problem.c_str());
  }
  return failed == 0 ? 0 : 1;
}

}  // namespace fastrnn::test
