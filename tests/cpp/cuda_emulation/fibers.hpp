// Threads of an emulated launch that can wait for each other: a fiber each, one cluster after the
// other. Each round runs the fibers that can go on, in an order that a seed picks; some warps are
// held back until nothing else can move, and data under way between blocks arrives whenever the
// seed likes: what a missing barrier lets happen, happens. A fiber runs until it has to wait.
// Shared memory starts as NaN. When nobody can go on, the launch fails.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_emulation {

constexpr int kLanes = 32;

// Where a fixed number of fibers wait for each other.
struct Meeting {
  int arrived = 0;
  uint64_t turns = 0;
  const char* instruction = nullptr;
};

struct Warp {
  Meeting meeting;
  void* operands[kLanes][3];
  bool held = false;
};

struct Cluster;

struct Block {
  Cluster* cluster;
  int rank;
  unsigned index;
  std::vector<char> memory;
  std::vector<Warp> warps;
  Meeting meeting;
  std::array<Meeting, 8> groups;  // of its warps
};

struct BarrierState {
  int pending = 1;
  int64_t bytes = 0;
  uint64_t phases = 0;
};

struct Message {
  char* to;
  char data[16];
  void* barrier;  // null for a word of global memory
};

struct Cluster {
  std::vector<Block> blocks;
  std::map<void*, BarrierState> barriers;
  std::vector<Message> messages;
  uint64_t deliveries = 0;
  Meeting meeting;
};

struct Fiber {
  ucontext_t context;
  char* stack;
  unsigned thread;
  Block* block;
  const uint64_t* counter = nullptr;  // goes on when this is no longer `seen`
  uint64_t seen = 0;
  bool done = false;

  Warp& warp() const { return block->warps[thread / kLanes]; }
  int lane() const { return static_cast<int>(thread % kLanes); }
  bool can_run() const { return !done && (!counter || *counter != seen); }
};

class Scheduler {
 public:
  struct Shape {
    unsigned blocks, threads, cluster;
    size_t shared_bytes;
  };

  // enter(fiber) is called whenever a fiber is about to run.
  static void run(const Shape& shape, int64_t seed, const std::function<void()>& kernel,
                  const std::function<void(const Fiber&)>& enter) {
    for (unsigned first = 0; first < shape.blocks; first += shape.cluster) {
      Scheduler scheduler(shape, first, seed, kernel, enter);
      current_ = &scheduler;
      scheduler.run_cluster();
      current_ = nullptr;
    }
  }

  static Fiber& fiber() { return *current_->running_; }

  static void wait_until_changed(const uint64_t& counter) {
    Fiber& self = fiber();
    self.counter = &counter;
    self.seen = counter;
    current_->leave(self, false);
    self.counter = nullptr;
  }

  // The last of `size` fibers runs action() and lets the others go on.
  template <class Action>
  static void meet(Meeting& meeting, int size, const char* instruction, const Action& action) {
    if (meeting.arrived == 0) meeting.instruction = instruction;
    if (meeting.instruction != instruction) fail(instruction, "where others are in another one");
    if (++meeting.arrived < size) return wait_until_changed(meeting.turns);
    action();
    meeting.arrived = 0;
    ++meeting.turns;
  }

  [[noreturn]] static void fail(const char* instruction, const char* problem) {
    Fiber& self = fiber();
    current_->fail_in(self, instruction, problem);
    current_->leave(self, true);  // no destructor of the fiber's frames will run
    std::abort();
  }

  static BarrierState& barrier(void* address) {
    auto& barriers = fiber().block->cluster->barriers;
    const auto found = barriers.find(address);
    if (found == barriers.end()) fail("barrier", "not initialised");
    return found->second;
  }

  static void* in_block(const void* address, int rank) {
    const Block& own = *fiber().block;
    const char* at = static_cast<const char*>(address);
    if (at < own.memory.data() || at >= own.memory.data() + own.memory.size()) {
      fail("address", "not of shared memory");
    }
    if (rank < 0 || rank >= static_cast<int>(own.cluster->blocks.size()))
      fail("rank", "beyond the cluster");
    return own.cluster->blocks[static_cast<size_t>(rank)].memory.data() + (at - own.memory.data());
  }

  static void end_phase_if_complete(BarrierState& barrier) {
    if (barrier.pending > 0 || barrier.bytes != 0) return;
    ++barrier.phases;
    barrier.pending = 1;
  }

 private:
  static constexpr size_t kStack = 128 << 10;

  Scheduler(const Shape& shape, unsigned first, int64_t seed, const std::function<void()>& kernel,
            const std::function<void(const Fiber&)>& enter)
      : kernel_(kernel), enter_(enter), random_(static_cast<unsigned>(seed) * 7919u + first) {
    cluster_.blocks.resize(shape.cluster);
    fibers_.resize(size_t{shape.cluster} * shape.threads);
    char* stack = stacks(fibers_.size() * kStack);
    for (unsigned rank = 0; rank < shape.cluster; ++rank) {
      Block& block = cluster_.blocks[rank];
      block.cluster = &cluster_;
      block.rank = static_cast<int>(rank);
      block.index = first + rank;
      block.memory.assign(shape.shared_bytes, '\xff');
      block.warps.resize((shape.threads + kLanes - 1) / kLanes);
      for (unsigned thread = 0; thread < shape.threads; ++thread, stack += kStack) {
        Fiber& fiber = fibers_[size_t{rank} * shape.threads + thread];
        fiber.thread = thread;
        fiber.block = &block;
        fiber.stack = stack;
        prepare(fiber);
      }
    }
    for (size_t i = 0; i < fibers_.size(); i += kLanes) order_.push_back(i);
  }

  static void prepare(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, start, 0);
  }

  // memory for the stacks of the largest launch so far
  static char* stacks(size_t bytes) {
    static size_t size = 0;
    static char* memory = nullptr;
    if (bytes > size) {
      if (memory) munmap(memory, size);
      memory = static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      size = bytes;
    }
    return memory;
  }

  static void start() {
    current_->entered(nullptr);
    current_->kernel_();
    Fiber& self = fiber();
    self.done = true;
    current_->leave(self, true);
  }

  void run_cluster() {
    size_t left = fibers_.size();
    while (left > 0) {
      if (random_() % 8 == 0) {
        for (Block& block : cluster_.blocks) {
          const bool slow = random_() % 4 == 0;
          for (Warp& warp : block.warps) warp.held = slow || random_() % 4 == 0;
        }
      }
      bool moved = run_round(left);
      moved |= deliver(!moved);
      if (!failure_.empty()) throw std::runtime_error(failure_);
      if (!moved && !release()) throw std::runtime_error("deadlock: " + waiting());
    }
    for (const Message& message : cluster_.messages) {
      if (message.barrier) throw std::runtime_error("data for a block that has ended");
    }
  }

  bool run_round(size_t& left) {
    bool moved = false;
    std::shuffle(order_.begin(), order_.end(), random_);
    for (const size_t first : order_) {
      if (fibers_[first].warp().held) continue;
      const size_t lanes = std::min<size_t>(kLanes, fibers_.size() - first), turn = random_();
      for (size_t i = 0; i < lanes; ++i) {
        Fiber& fiber = fibers_[first + (i + turn) % lanes];
        if (!fiber.can_run()) continue;
        moved = true;
        resume(fiber);
        if (!failure_.empty()) return true;
        left -= fiber.done;
      }
    }
    return moved;
  }

  // some of the data under way arrives, or all of it
  bool deliver(bool all) {
    std::vector<Message> late;
    std::shuffle(cluster_.messages.begin(), cluster_.messages.end(), random_);
    bool moved = false;
    for (const Message& message : cluster_.messages) {
      if (!all && random_() % 4 != 0) {
        late.push_back(message);
        continue;
      }
      moved = true;
      std::memcpy(message.to, message.data, sizeof message.data);
      ++cluster_.deliveries;
      if (!message.barrier) continue;
      BarrierState& barrier = cluster_.barriers.at(message.barrier);
      barrier.bytes -= int64_t{sizeof message.data};
      end_phase_if_complete(barrier);
    }
    cluster_.messages.swap(late);
    return moved;
  }

  bool release() {
    bool any = false;
    for (Block& block : cluster_.blocks) {
      for (Warp& warp : block.warps) any |= std::exchange(warp.held, false);
    }
    return any;
  }

  std::string waiting() const {
    std::map<std::string, int> places;
    for (const Fiber& fiber : fibers_) {
      if (fiber.done) continue;
      const Block& block = *fiber.block;
      const Meeting* meeting = nullptr;
      const auto look = [&](const Meeting& m) {
        if (fiber.counter == &m.turns) meeting = &m;
      };
      look(block.meeting), look(cluster_.meeting), look(fiber.warp().meeting);
      for (const Meeting& group : block.groups) look(group);
      const bool word = fiber.counter == &cluster_.deliveries;
      ++places[meeting ? meeting->instruction : word ? "a word" : "a phase of a barrier"];
    }
    std::string text;
    for (const auto& [place, count] : places) {
      text += (text.empty() ? "" : ", ") + std::to_string(count) + " threads at " + place;
    }
    return text;
  }

  void fail_in(const Fiber& fiber, const char* instruction, const char* problem) {
    failure_ = "block " + std::to_string(fiber.block->index) + ", thread " +
               std::to_string(fiber.thread) + ", " + instruction + ": " + problem;
  }

  void resume(Fiber& fiber) {
    running_ = &fiber;
    enter_(fiber);
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, fiber.stack, kStack);
#endif
    swapcontext(&main_, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  void leave([[maybe_unused]] Fiber& fiber, [[maybe_unused]] bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, main_stack_, main_stack_size_);
#endif
    swapcontext(&fiber.context, &main_);
#if defined(__SANITIZE_ADDRESS__)
    entered(fake);
#endif
  }

  void entered([[maybe_unused]] void* fake) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, &main_stack_, &main_stack_size_);
#endif
  }

  static inline Scheduler* current_ = nullptr;
  const std::function<void()>& kernel_;
  const std::function<void(const Fiber&)>& enter_;
  std::mt19937 random_;
  Cluster cluster_;
  std::vector<Fiber> fibers_;
  std::vector<size_t> order_;  // first fibers of warps
  ucontext_t main_;
  [[maybe_unused]] const void* main_stack_ = nullptr;
  [[maybe_unused]] size_t main_stack_size_ = 0;
  Fiber* running_ = nullptr;
  std::string failure_;
};

}  // namespace cuda_emulation
