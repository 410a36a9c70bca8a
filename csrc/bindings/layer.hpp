// One layer, in one direction or both, on tensors of a framework: results go into tensors that the
// caller gives.
#pragma once

#include <pybind11/pybind11.h>

namespace fastrnn::bindings {

void register_layer(pybind11::module_& m);

}  // namespace fastrnn::bindings
