#include "cpu/threads.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>

namespace fastrnn {
namespace {

// Between the parallel regions of one call a worker is wanted again within microseconds: it watches
// for that long before it sleeps. Short enough that on a machine with more threads than cores
// little is lost.
constexpr auto kSpin = std::chrono::microseconds(50);

template <class Done>
bool spin_until(const Done& done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

// In cache lines of its own: it lies between what the workers read of the caller's stack, and where
// the caller's own work on the job writes.
struct alignas(128) Job {
  void (*task)(void*, int64_t);
  void* context;
  int64_t count;
  std::atomic<int64_t> next{0};

  void work() {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(context, i);
  }
};

// A region of a running call begins and ends within a microsecond: no lock is taken unless somebody
// sleeps. Who goes to sleep says so before a last look at what it waits for, and who changes that
// looks for sleepers afterwards.
class Pool {
 public:
  // False when another caller has the pool.
  bool run(int helpers, Job& job) {
    if (busy_.exchange(true, std::memory_order_acquire)) return false;
    grow(helpers);
    job_ = &job;
    seats_and_working_ = static_cast<uint64_t>(std::min(helpers, workers_));
    ++generation_;
    if (sleeping_ > 0) {
      const std::lock_guard lock(mutex_);
      wake_.notify_all();
    }
    job.work();
    // A worker that has not taken its seat by now stays out: nobody waits for a thread that never
    // started.
    seats_and_working_ &= ~kSeats;
    const auto done = [this] { return seats_and_working_ == 0; };
    if (!spin_until(done)) {
      std::unique_lock lock(mutex_);
      caller_sleeps_ = true;
      idle_.wait(lock, done);
      caller_sleeps_ = false;
    }
    busy_.store(false, std::memory_order_release);
    return true;
  }

  // Whether a worker is awake, for the next region.
  bool watched() const { return watching_.load(std::memory_order_relaxed) > 0; }

 private:
  static constexpr uint64_t kWorking = uint64_t{1} << 32, kSeats = kWorking - 1;

  void grow(int helpers) {
    try {
      for (; workers_ < helpers; ++workers_) std::thread([this] { loop(); }).detach();
    } catch (const std::system_error&) {
      // no more threads to be had: the caller and the workers that exist do the work
    }
  }

  void loop() {
    uint64_t seen = 0;
    const auto called = [&] { return generation_ != seen; };
    for (;;) {
      ++watching_;
      const bool awake = spin_until(called);
      --watching_;
      if (!awake) {
        std::unique_lock lock(mutex_);
        ++sleeping_;
        wake_.wait(lock, called);
        --sleeping_;
      }
      seen = generation_;
      if (!take_seat()) continue;
      job_->work();
      seats_and_working_ -= kWorking;
      if (caller_sleeps_) {
        const std::lock_guard lock(mutex_);
        idle_.notify_one();
      }
    }
  }

  bool take_seat() {
    uint64_t now = seats_and_working_;
    while (now & kSeats) {
      if (seats_and_working_.compare_exchange_weak(now, now - 1 + kWorking)) return true;
    }
    return false;
  }

  std::atomic<bool> busy_{false}, caller_sleeps_{false};
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<uint64_t> seats_and_working_{0};  // seats that are free; workers at work, times 2^32
  std::atomic<int> watching_{0}, sleeping_{0};
  int workers_ = 0;
  Job* job_ = nullptr;
};

// Leaked on purpose: no join at exit. A forked child has none of the parent's threads and starts
// with a fresh pool.
std::atomic<Pool*> the_pool{nullptr};
std::mutex making_pool;

Pool& pool() {
  if (Pool* made = the_pool.load(std::memory_order_acquire)) return *made;
  const std::lock_guard lock(making_pool);
  if (Pool* made = the_pool.load(std::memory_order_acquire)) return *made;
  [[maybe_unused]] static const int hooked =
      pthread_atfork([] { making_pool.lock(); }, [] { making_pool.unlock(); },
                     [] {
                       the_pool.store(nullptr, std::memory_order_release);
                       making_pool.unlock();
                     });
  Pool* made = new Pool;
  the_pool.store(made, std::memory_order_release);
  return *made;
}

int default_threads() {
  for (const char* name : {"FASTRNN_NUM_THREADS", "OMP_NUM_THREADS"}) {
    const char* value = std::getenv(name);
    const int64_t n = value ? std::strtoll(value, nullptr, 10) : 0;
    if (n > 0) return static_cast<int>(std::min<int64_t>(n, 1 << 16));
  }
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (sched_getaffinity(0, sizeof cpus, &cpus) == 0) return std::max(1, CPU_COUNT(&cpus));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::atomic<int> chosen_threads{0};  // 0: not chosen yet

// Some 40 us on one core with AVX-512; waking a thread, waiting for it and what moves from core to
// core costs half of that.
std::atomic<int64_t> least_work{4'000'000};
// A thread that still watches is there at once: for so many times less.
constexpr int64_t kLessWhenWatched = 16;

}  // namespace

void parallel(int threads, int64_t count, void (*task)(void* context, int64_t i), void* context) {
  if (threads > 1 && count > 1) {
    Job job{task, context, count};
    const int helpers = static_cast<int>(std::min<int64_t>(threads, count)) - 1;
    if (pool().run(helpers, job)) return;
  }
  // without an atomic counter: it would wait for all that a task has written to reach the cache
  for (int64_t i = 0; i < count; ++i) task(context, i);
}

int threads_for(int threads, int64_t multiply_adds) {
  const int64_t least = least_work.load(std::memory_order_relaxed);
  if (multiply_adds >= least) return threads;
  const Pool* const made = the_pool.load(std::memory_order_acquire);
  return multiply_adds >= least / kLessWhenWatched && made && made->watched() ? threads : 1;
}

void set_least_work(int64_t multiply_adds) {
  least_work.store(multiply_adds, std::memory_order_relaxed);
}

int num_threads() {
  int n = chosen_threads.load(std::memory_order_relaxed);
  if (n == 0) {
    n = default_threads();
    int expected = 0;
    if (!chosen_threads.compare_exchange_strong(expected, n)) n = expected;
  }
  return n;
}

void set_num_threads(int n) { chosen_threads.store(n, std::memory_order_relaxed); }

}  // namespace fastrnn
