// The family's drivers with one cell, on vectors or on dual numbers, as a row of the kernel table.
#pragma once

#include "cpu/family/backward.hpp"
#include "cpu/family/forward.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

template <template <class> class C, class V, class Unit = NoMatrixUnit>
struct FamilyOfCell {
  static int64_t packed_size(const ForwardArgs& a) {
    return FamilyForward<V>::packed_size(kCell<C, V>.shape, a);
  }
  static void pack(const ForwardArgs& a, void* packed) {
    FamilyForward<V>::pack(kCell<C, V>.shape, a, packed);
  }
  static int64_t forward_workspace(const ForwardArgs& a) {
    return FamilyForward<V>::workspace(kCell<C, V>, a);
  }
  static void forward(const ForwardArgs& a, void* workspace) {
    FamilyForward<V>::run(kCell<C, V>, a, workspace);
  }
  static int64_t backward_workspace(const BackwardArgs& a) {
    return FamilyBackward<V, Unit>::workspace(kCell<C, V>, a);
  }
  static void backward(const BackwardArgs& a, void* workspace) {
    FamilyBackward<V, Unit>::run(kCell<C, V>, a, workspace);
  }
  static constexpr KernelTable::Kernel kKernel = {
      packed_size, pack, forward_workspace, forward, backward_workspace, backward};
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
