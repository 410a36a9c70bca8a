// The pool: every task once, nested and concurrent calls, fork. Small, because it runs under
// ThreadSanitizer too.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "cpu/threads.hpp"
#include "harness.hpp"
#include "problem.hpp"

namespace fastrnn::test {
namespace {

template <class F>
void parallel_for(int threads, int64_t count, F body) {
  parallel(threads, count, [](void* context, int64_t i) { (*static_cast<F*>(context))(i); }, &body);
}

void every_task_runs_exactly_once() {
  for (int64_t count = 0; count < 50; ++count) {
    for (int threads = 1; threads < 6; ++threads) {
      std::vector<int> runs(static_cast<size_t>(count),
                            0);  // plain ints: the pool must order them with its return
      parallel_for(threads, count, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
      for (const int n : runs) FASTRNN_CHECK(n == 1, std::to_string(n) + " runs of one task");
    }
  }
}

void a_task_may_call_the_pool() {
  std::atomic<int> runs = 0;
  parallel_for(3, 5, [&](int64_t) { parallel_for(3, 7, [&](int64_t) { ++runs; }); });
  FASTRNN_CHECK(runs == 35, std::to_string(runs));
}

void several_callers_at_once_each_get_their_own_result() {
  const KernelTable& backend = find_backend(nullptr);
  Setup setup;
  setup.cell = cell_count() - 1, setup.B = 6, setup.H = 17, setup.lengths = true, setup.threads = 3;
  Problem<float> want(setup);
  want.run(backend);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int i = 0; i < 25; ++i) {
        Problem<float> got(setup);
        got.run(backend);
        if (got.y != want.y || got.dw_hh != want.dw_hh || got.dx.size() != want.dx.size()) ++wrong;
      }
    });
  }
  callers.emplace_back([] {
    for (int i = 0; i < 100; ++i) set_num_threads(1 + i % 4);
  });
  for (std::thread& caller : callers) caller.join();
  FASTRNN_CHECK(wrong == 0, std::to_string(wrong) + " wrong results");
}

void a_forked_child_has_a_working_pool() {
  if (std::getenv("FASTRNN_EMULATED"))
    return;  // qemu-user does not follow threads that are started after fork
#if defined(__SANITIZE_THREAD__)
  return;  // ThreadSanitizer does not follow threads that are started after fork
#else
  parallel_for(3, 9, [](int64_t) {});
  for (int i = 0; i < 10; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);  // a child that hangs dies, and the test fails
      std::atomic<int> runs = 0;
      parallel_for(3, 9, [&](int64_t) { ++runs; });
      _exit(runs == 9 ? 0 : 1);
    }
    int status = 0;
    FASTRNN_CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0,
                  std::to_string(status));
  }
#endif
}

}  // namespace
}  // namespace fastrnn::test

int main() {
  using namespace fastrnn::test;
  constexpr Test kTests[] = {
      {"every task runs exactly once", every_task_runs_exactly_once},
      {"a task may call the pool", a_task_may_call_the_pool},
      {"several callers at once each get their own result",
       several_callers_at_once_each_get_their_own_result},
      {"a forked child has a working pool", a_forked_child_has_a_working_pool},
  };
  return run_all(kTests);
}
