// What a layer computes, beside its tensors: made once for many calls.
#pragma once

#include "bindings/family.hpp"
#include "fastrnn.hpp"

namespace fastrnn::bindings {

struct Plan {
  int cell;
  bool batch_first;
  int directions;
  Family family;  // its numbers; its tensors come with a call

  const CellInfo& info() const { return *cell_info(cell); }
  // weights of a direction after w_ih, w_hh, b_ih, b_hh and w_hr
  size_t norms() const { return !family.gain_ih.present ? 0 : family.gain_c.present ? 4 : 2; }
  size_t extras() const { return family.peephole.present + norms(); }
  KeptUnits kept(int64_t units, bool projected) const {
    return kept_units(info(), family.on || projected, projected, norms() > 0, units);
  }
};

}  // namespace fastrnn::bindings
