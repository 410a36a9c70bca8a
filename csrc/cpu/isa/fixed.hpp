// AVX-512 with VNNI, and a matrix unit for bytes (AMX): vectors are those of AVX-512.
#pragma once

#include "cpu/isa/amx.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

FASTRNN_EARLY bool bytes_supported() {
  constexpr unsigned kBytes = 1u << 25, kVnni = 1u << 11;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return unit_supported() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kBytes) != 0 &&
         (c & kVnni) != 0;
}

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
