// Aligned memory that frees itself. Not for the kernels' files: they get memory and own none.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace fastrnn {

constexpr std::align_val_t kAlignment{64};

struct FreeAligned {
  void operator()(void* memory) const { ::operator delete(memory, kAlignment); }
};
using Memory = std::unique_ptr<void, FreeAligned>;

inline Memory allocate(int64_t bytes) {
  return Memory(::operator new(static_cast<size_t>(bytes), kAlignment));
}

}  // namespace fastrnn
