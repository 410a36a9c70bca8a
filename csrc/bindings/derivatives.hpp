// Derivatives along a direction, of forward and of backward.
#pragma once

#include <pybind11/pybind11.h>

namespace fastrnn::bindings {

void register_derivatives(pybind11::module_& m);

}  // namespace fastrnn::bindings
