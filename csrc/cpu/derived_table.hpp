// The table of a backend that has the kernels of another, but for some of those of float32.
#pragma once

#include "cells/cells.hpp"
#include "fastrnn.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

using FloatKernels = PerCell<const KernelTable::Kernel>;  // null where they stay as they are

struct DerivedTable {
  KernelTable::PerDType plain[FloatKernels::kCount], family[FloatKernels::kCount];
  KernelTable table;

  FASTRNN_EARLY DerivedTable(const char* name, bool (*supported)(), const KernelTable& from)
      : table(from) {
    for (int cell = 0; cell < FloatKernels::kCount; ++cell)
      plain[cell] = from.kernels[cell], family[cell] = from.family[cell];
    table.name = name;
    table.supported = supported;
    table.kernels = plain;
    table.family = family;
  }
  DerivedTable(const DerivedTable&) = delete;
  DerivedTable& operator=(const DerivedTable&) = delete;

  FASTRNN_EARLY static void replace(KernelTable::PerDType* kernels, const FloatKernels& by) {
    for (int cell = 0; cell < FloatKernels::kCount; ++cell) {
      const KernelTable::Kernel& other = by.of[cell];
      KernelTable::Kernel& kernel = kernels[cell].of[static_cast<int>(DType::kFloat32)];
      if (other.forward) {
        kernel.packed_size = other.packed_size;
        kernel.pack = other.pack;
        kernel.forward_workspace = other.forward_workspace;
        kernel.forward = other.forward;
      }
      if (other.backward) {
        kernel.backward_workspace = other.backward_workspace;
        kernel.backward = other.backward;
      }
    }
  }
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
