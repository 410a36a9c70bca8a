#include "memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <new>
#include <utility>

namespace fastrnn {
namespace {

constexpr int64_t kCacheLine = 64;
constexpr int64_t kHugePage = 2 << 20;

#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t kKept = 0;  // blocks that come back would hide what it looks for
#else
constexpr int64_t kKept = 256 << 20;  // bytes, of all threads
#endif

struct Block {
  void* memory = nullptr;
  int64_t bytes = 0;
};

// The blocks that nobody uses, the latest first. Whoever finds it taken does without: nobody waits,
// and a child that was forked meanwhile does not hang.
class Unused {
 public:
  void* take(int64_t bytes) {
    if (taken_.test_and_set(std::memory_order_acquire)) return nullptr;
    void* found = nullptr;
    for (int i = 0; i < count_ && !found; ++i) {
      if (blocks_[i].bytes == bytes) found = remove(i);
    }
    taken_.clear(std::memory_order_release);
    return found;
  }

  // false: not kept
  bool put(Block block) {
    if (block.bytes > kKept || taken_.test_and_set(std::memory_order_acquire)) return false;
    while (count_ == kMost || bytes_ + block.bytes > kKept) std::free(remove(count_ - 1));
    std::move_backward(blocks_, blocks_ + count_, blocks_ + count_ + 1);
    blocks_[0] = block;
    ++count_;
    bytes_ += block.bytes;
    taken_.clear(std::memory_order_release);
    return true;
  }

 private:
  static constexpr int kMost = 32;

  void* remove(int i) {
    const Block block = blocks_[i];
    std::move(blocks_ + i + 1, blocks_ + count_, blocks_ + i);
    --count_;
    bytes_ -= block.bytes;
    return block.memory;
  }

  std::atomic_flag taken_;
  int count_ = 0;
  int64_t bytes_ = 0;
  Block blocks_[kMost];
};
Unused unused;

// Sizes of large blocks come in eight steps from one power of two to the next.
int64_t rounded(int64_t bytes) {
  const bool is_small = bytes < kLarge || kKept == 0;
  const int64_t step =
      is_small ? kCacheLine : int64_t{1} << (std::bit_width(static_cast<uint64_t>(bytes)) - 4);
  return (bytes / step + 1) * step;
}

}  // namespace

void Free::operator()(void* memory) const {
  if (bytes < kLarge || !unused.put({memory, bytes})) std::free(memory);
}

// Large ones ask for huge pages: weights of 16 MiB in pages of 4 KiB are more than the TLB holds.
Memory allocate(int64_t bytes) {
  const int64_t size = rounded(bytes);
  if (size >= kLarge) {
    if (void* kept = unused.take(size)) return Memory(kept, Free{size});
  }
  const bool huge = size >= kHugePage / 2;
  const int64_t alignment = huge ? kHugePage : kCacheLine;
  const size_t whole = static_cast<size_t>((size + alignment - 1) / alignment * alignment);
  Memory memory(std::aligned_alloc(static_cast<size_t>(alignment), whole), Free{size});
  if (!memory) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (huge) madvise(memory.get(), whole, MADV_HUGEPAGE);
#endif
  return memory;
}

}  // namespace fastrnn
