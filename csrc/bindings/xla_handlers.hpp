// One layer, forward and backward, as functions that XLA calls on its own buffers.
#pragma once

#include <pybind11/pybind11.h>

namespace fastrnn::bindings {

void register_xla_handlers(pybind11::module_& m);

}  // namespace fastrnn::bindings
