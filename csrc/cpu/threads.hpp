// A pool of threads of our own: lazily made, safe across fork, never joined at exit.
#pragma once

#include <cstdint>

namespace fastrnn {

// Calls task(context, i) once for every i in [0, count), on at most `threads` threads, the caller's
// among them. Tasks are taken from a shared counter, so a thread that the machine has descheduled
// delays only its own task. When the pool is already at work for another caller, the tasks run on
// the caller's thread.
void parallel(int threads, int64_t count, void (*task)(void* context, int64_t i), void* context);

// How many of `threads` are worth waking for so many multiply-adds: one alone is done with a small
// task before another has begun.
int threads_for(int threads, int64_t multiply_adds);
void set_least_work(int64_t multiply_adds);  // of a task that is shared; for tests
constexpr int64_t kPacking = 16;             // packing a weight takes the time of so many

int num_threads();
void set_num_threads(int n);  // n >= 1

}  // namespace fastrnn
