// Compiled once for each instruction set (FASTRNN_ISA). Everything but the one table lives in an
// unnamed namespace and is instantiated with this ISA's Vec alone: an inline function that the
// linker could merge with another ISA's copy would put, say, AVX-512 code into the baseline path.
// Hence no standard library here either.
#include FASTRNN_ISA_HEADER

#include "cpu/family/kernels.hpp"

#include "cells/cells.hpp"
#include "cpu/backward.hpp"
#include "cpu/forward.hpp"
#include "cpu/probe.hpp"

#define FASTRNN_STRING_OF(name) #name
#define FASTRNN_STRING(name) FASTRNN_STRING_OF(name)
#define FASTRNN_JOIN_OF(a, b) a##b
#define FASTRNN_JOIN(a, b) FASTRNN_JOIN_OF(a, b)

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

template <template <class> class C, class T>
  requires IsCell<C, Vec<T>>
constexpr KernelTable::Kernel kKernel = {Forward<C, T>::packed_size, Forward<C, T>::pack,
                                         Forward<C, T>::workspace,   Forward<C, T>::run,
                                         Backward<C, T>::workspace,  Backward<C, T>::run};

template <template <class> class C>
struct Kernels {
  static constexpr KernelTable::PerDType value = {{kKernel<C, float>, kKernel<C, double>}};
};

template <template <class> class C>
struct FamilyKernels {
  static constexpr KernelTable::PerDType value = {
      {FamilyOfCell<C, Vec<float>>::kKernel, FamilyOfCell<C, Vec<double>>::kKernel}};
};

template <template <class> class C>
struct Derivatives {
  static constexpr KernelTable::PerDType value = {
      {FamilyOfCell<C, Dual<Vec<float>>>::kKernel, FamilyOfCell<C, Dual<Vec<double>>>::kKernel}};
};

constexpr auto kKernels = per_cell<Kernels>();
constexpr auto kFamilyKernels = per_cell<FamilyKernels>();
constexpr auto kDerivatives = per_cell<Derivatives>();
constexpr KernelTable::Probe kProbes[2] = {{Probe<float>::multiply_add, Probe<float>::read},
                                           {Probe<double>::multiply_add, Probe<double>::read}};
constexpr KernelTable kTable = {.name = FASTRNN_STRING(FASTRNN_ISA),
                                .supported = supported,
                                .kernels = kKernels.of,
                                .probes = kProbes,
                                .family = kFamilyKernels.of,
                                .derivatives = kDerivatives.of};

}  // namespace FASTRNN_ISA
}  // namespace

const KernelTable* FASTRNN_JOIN(kernel_table_, FASTRNN_ISA)();
const KernelTable* FASTRNN_JOIN(kernel_table_, FASTRNN_ISA)() { return &FASTRNN_ISA::kTable; }

}  // namespace fastrnn
