#pragma once

#include "bindings/xla_call.hpp"

namespace fastrnn::bindings::xla {

// After the arguments of forward come the tangents of x, [h0], [c0] and the weights, as they are.
// Results: the tangents of y, h_n and, where the cell has it, c_n.
void run_jvp(Call& call);

// After the arguments of forward come dy, dh_n and dc_n, then the tangents as for run_jvp, then
// those of dy, dh_n and dc_n. Results: the tangents of the results of backward, and those of
// run_jvp.
void run_backward_jvp(Call& call);

}  // namespace fastrnn::bindings::xla
