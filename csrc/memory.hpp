// Aligned memory that frees itself. Not for the kernels' files: they get memory and own none.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace fastrnn {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

// Large blocks ask for huge pages: weights of 16 MiB in pages of 4 KiB are more than the TLB holds.
inline Memory allocate(int64_t bytes) {
  constexpr size_t kCacheLine = 64, kHugePage = 2 << 20;
  const size_t alignment = static_cast<size_t>(bytes) >= 2 * kHugePage ? kHugePage : kCacheLine;
  const size_t size = (static_cast<size_t>(bytes) / alignment + 1) * alignment;
  Memory memory(std::aligned_alloc(alignment, size));
  if (!memory) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (alignment == kHugePage) madvise(memory.get(), size, MADV_HUGEPAGE);
#endif
  return memory;
}

}  // namespace fastrnn
