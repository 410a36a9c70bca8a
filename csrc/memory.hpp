// Aligned memory that frees itself. Not for the kernels' files: they get memory and own none.
//
// Large blocks that are freed stay for the next call that wants one of the same size, up to a
// limit: a training step asks for the same ones again and again, and fresh memory costs a page
// fault for every 4 KiB, up to a tenth of the step.
#pragma once

#include <cstdint>
#include <memory>

namespace fastrnn {

constexpr int64_t kLarge = 128 << 10;  // bytes; smaller blocks the C library keeps itself

struct Free {
  int64_t bytes = 0;
  void operator()(void* memory) const;
};
using Memory = std::unique_ptr<void, Free>;

// Throws std::bad_alloc. Contents are undefined.
Memory allocate(int64_t bytes);

}  // namespace fastrnn
