#include "bindings/derivatives.hpp"

#include <pybind11/stl.h>

#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "bindings/call.hpp"
#include "cpu/threads.hpp"

namespace fastrnn::bindings {
namespace {

// Tensors and their tangents: those that come from Python by the names of arguments, zeros for the
// others, and new ones for results.
class Tangents {
 public:
  Tangents(const std::string& function, const Call& call, const py::dict& given)
      : function_(function), call_(call), given_(given) {
    if (!call.backend->derivatives) {
      throw ValueError(function + ": backend '" + call.backend->name +
                       "' has no forward mode and no second derivatives");
    }
    const int64_t longest =
        std::max({call.cell().gates * call.H(), call.args.x.shape[2], call.P(), call.H()});
    zeros_ = keep(new_array(dtype(), {longest}));
    std::memset(zeros_.data, 0, static_cast<size_t>(longest * item_size(dtype())));
  }

  // a tensor and its tangent; of an optional argument that is not there, nothing
  Tensor of(const char* name, const Tensor& value, Access access = Access::kAnyStride) {
    if (!value.present) return value;
    names_.emplace_back(name);
    const py::object given = given_of(name);
    if (given.is_none()) return with_tangent(value, zeros(value));
    const std::string label = "tangents[" + std::string(name) + "]";
    const Tensor tangent = keep(hold(function_, label.c_str(), given, access));
    const bool sequence = value.rank > 2;
    check_tangent(function_.c_str(), label.c_str(), tangent, sequence ? in_layout(value) : value,
                  name);
    return with_tangent(value, sequence ? call_.time_major(tangent) : tangent);
  }

  // The same of one that is zero where it is not there.
  Tensor of_zero(const char* name, const Tensor& value, std::initializer_list<int64_t> shape) {
    if (value.present) return of(name, value, Access::kUnitLastStride);
    Tensor zero;
    zero.present = true;
    zero.dtype = dtype();
    for (const int64_t size : shape) zero.shape[zero.rank++] = size;
    return of(name, zeros(zero), Access::kUnitLastStride);
  }

  bool has(const char* name) const { return !given_of(name).is_none(); }

  // A new one [T, B, last], [T, B, G, H], [rows, columns] or [size]: its tangent is a result, as an
  // array of Python's.
  Tensor sequence(int64_t last, py::object& tangent) {
    Tensor value, view;
    owners_.push_back(call_.allocate_sequence(last, value));
    tangent = call_.allocate_sequence(last, view);
    return with_tangent(value, view);
  }
  Tensor gates(py::object& tangent) {
    std::vector<py::ssize_t> shape = {call_.T(), call_.B(), call_.cell().gates, call_.H()};
    if (call_.layout == Layout::kBatchFirst) std::swap(shape[0], shape[1]);
    const Held held = new_array(dtype(), shape);
    tangent = held.owner;
    return with_tangent(call_.time_major(keep(new_array(dtype(), shape))),
                        call_.time_major(held.tensor));
  }
  Tensor array(const std::vector<py::ssize_t>& shape, py::object& tangent) {
    const Held held = new_array(dtype(), shape);
    tangent = held.owner;
    return with_tangent(keep(new_array(dtype(), shape)), held.tensor);
  }
  Tensor like(const Tensor& of, py::object& tangent) {
    tangent = py::none();
    if (!of.present) return of;
    return of.rank == 1 ? array({of.shape[0]}, tangent)
                        : array({of.shape[0], of.shape[1]}, tangent);
  }
  // one that no one sees
  Tensor hidden(int64_t units) {
    if (units == 0) return {};
    py::object tangent;
    const Tensor tensor = array({call_.T(), call_.B(), units}, tangent);
    owners_.push_back(tangent);
    return tensor;
  }

  // every name must be one of an argument
  void check_names() const {
    std::string all;
    for (const std::string& name : names_) all.append(all.empty() ? "" : ", ").append(name);
    for (const auto& [key, value] : given_) {
      const std::string name = py::cast<std::string>(py::str(key));
      if (std::find(names_.begin(), names_.end(), name) == names_.end()) {
        throw ValueError(argument(function_, "tangents")
                             .append(" must be of arguments (")
                             .append(all)
                             .append("), got '")
                             .append(name)
                             .append("'"));
      }
    }
  }

 private:
  DType dtype() const { return call_.args.x.dtype; }

  py::object given_of(const char* name) const {
    return given_.contains(name) ? py::object(given_[name]) : py::object(py::none());
  }

  Tensor keep(Held held) {
    owners_.push_back(std::move(held.owner));
    return held.tensor;
  }

  Tensor in_layout(Tensor tensor) const { return call_.time_major(tensor); }  // its own inverse

  Tensor zeros(Tensor shape) const {
    shape.data = zeros_.data;
    for (int i = 0, outer = std::min(shape.rank - 1, 2); i < shape.rank; ++i)
      shape.stride[i] = i < outer ? 0 : i + 1 < shape.rank ? shape.shape[i + 1] : 1;
    return shape;
  }

  Tensor with_tangent(Tensor value, const Tensor& tangent) {
    value.tangent = &tangents_.emplace_back(tangent);
    return value;
  }

  const std::string& function_;
  const Call& call_;
  const py::dict& given_;
  Tensor zeros_;
  std::deque<Tensor> tangents_;  // never moved
  std::vector<py::object> owners_;
  std::vector<std::string> names_;
};

// The tangents of a forward call's results.
struct Results {
  py::object y, h_n, c_n = py::none(), gates = py::none();
};

// The saved call on dual numbers, its results new.
ForwardArgs dual_forward(const Call& call, Tangents& tangents, bool save, Results& results) {
  ForwardArgs a = call.args;
  a.threads = call.threads > 0 ? call.threads : num_threads();
  a.packed = nullptr;
  a.x = tangents.of("x", a.x, Access::kUnitLastStride);
  a.w_ih = tangents.of("w_ih", a.w_ih);
  a.w_hh = tangents.of("w_hh", a.w_hh);
  a.b_ih = tangents.of("b_ih", a.b_ih);
  a.b_hh = tangents.of("b_hh", a.b_hh);
  a.h0 = tangents.of_zero("h0", a.h0, {call.B(), call.P()});
  if (call.has_c()) a.c0 = tangents.of_zero("c0", a.c0, {call.B(), call.H()});
  Family& f = a.family;
  f.w_hr = tangents.of("w_hr", f.w_hr);
  f.peephole = tangents.of("peephole", f.peephole);
  f.gain_ih = tangents.of("gain_ih", f.gain_ih);
  f.gain_hh = tangents.of("gain_hh", f.gain_hh);
  f.gain_c = tangents.of("gain_c", f.gain_c);
  f.bias_c = tangents.of("bias_c", f.bias_c);

  a.y = tangents.sequence(call.P(), results.y);
  a.h_n = tangents.array({call.B(), call.P()}, results.h_n);
  if (call.has_c()) a.c_n = tangents.array({call.B(), call.H()}, results.c_n);
  if (f.gates.present) f.gates = tangents.gates(results.gates);
  const KeptUnits kept =
      kept_units(call.cell(), true, call.projected(), f.gain_ih.present, save ? call.H() : 0);
  a.c = tangents.hidden(save && call.has_c() ? call.H() : 0);
  a.reserve = tangents.hidden(kept.reserve);
  f.output = tangents.hidden(kept.output);
  f.norms = tangents.hidden(save ? kept.norms : 0);
  return a;
}

// -> the tangents of y, h_n, c_n or None, gates or None
py::tuple py_jvp(const std::string& function, const std::vector<std::string>& cells,
                 py::handle saved, const py::dict& given) {
  const Call& call = saved_call(function, cells, saved);
  Tangents tangents(function, call, given);
  Results results;
  const ForwardArgs a = dual_forward(call, tangents, false, results);
  tangents.check_names();
  {
    const py::gil_scoped_release release;
    forward_derivative(*call.backend, a);
  }
  const auto out = [&](const py::object& array) { return to_kind_of(call.like, array); };
  return py::make_tuple(out(results.y), out(results.h_n), out(results.c_n), out(results.gates));
}

// -> the tangents of dx, dw_ih, dw_hh, db_ih or None, db_hh or None, dh0, dc0 or None, with any
// option of the family also of dw_hr, dpeephole, dgain_ih, dgain_hh, dgain_c, dbias_c, each or
// None; and what jvp returns
py::tuple py_backward_jvp(const std::string& function, const std::vector<std::string>& cells,
                          py::handle saved, const py::dict& given, py::handle dy, py::handle dh_n,
                          py::handle dc_n, py::handle dgates, double grad_clip) {
  const Call& call = saved_call(function, cells, saved);
  const int64_t T = call.T(), B = call.B(), H = call.H(), P = call.P(), G = call.cell().gates;
  const Held dy_held = hold(function, "dy", dy, Access::kUnitLastStride);
  const Held dh_n_held = hold(function, "dh_n", dh_n, Access::kUnitLastStride);
  const Held dc_n_held = hold(function, "dc_n", dc_n, Access::kUnitLastStride);
  const Held dgates_held = hold(function, "dgates", dgates, Access::kContiguous);
  Tangents tangents(function, call, given);
  Results results;
  BackwardArgs a;
  a.forward = dual_forward(call, tangents, true, results);
  a.dy = call.time_major(dy_held.tensor);
  a.dh_n = dh_n_held.tensor;
  a.dc_n = dc_n_held.tensor;
  a.dgates = call.time_major(dgates_held.tensor);
  a.clip = grad_clip;
  a.family = true;
  check_backward(function.c_str(), a, call.layout);
  a.dy = tangents.of_zero("dy", a.dy, {T, B, P});
  a.dh_n = tangents.of_zero("dh_n", a.dh_n, {B, P});
  if (call.has_c()) a.dc_n = tangents.of_zero("dc_n", a.dc_n, {B, H});
  if (a.dgates.present || tangents.has("dgates"))
    a.dgates = tangents.of_zero("dgates", a.dgates, {T, B, G, H});
  tangents.check_names();

  const ForwardArgs& f = a.forward;
  py::object dx, dw_ih, dw_hh, db_ih, db_hh, dh0, dc0, dw_hr, dpeephole, dgain_ih, dgain_hh;
  py::object dgain_c, dbias_c;
  a.dx = tangents.sequence(f.x.shape[2], dx);
  a.dw_ih = tangents.like(f.w_ih, dw_ih);
  a.dw_hh = tangents.like(f.w_hh, dw_hh);
  a.db_ih = tangents.like(f.b_ih, db_ih);
  a.db_hh = tangents.like(f.b_hh, db_hh);
  a.dh0 = tangents.like(f.h0, dh0);
  a.dc0 = tangents.like(f.c0, dc0);
  a.dw_hr = tangents.like(f.family.w_hr, dw_hr);
  a.dpeephole = tangents.like(f.family.peephole, dpeephole);
  a.dgain_ih = tangents.like(f.family.gain_ih, dgain_ih);
  a.dgain_hh = tangents.like(f.family.gain_hh, dgain_hh);
  a.dgain_c = tangents.like(f.family.gain_c, dgain_c);
  a.dbias_c = tangents.like(f.family.bias_c, dbias_c);
  {
    const py::gil_scoped_release release;
    forward_derivative(*call.backend, a.forward);
    backward_derivative(*call.backend, a);
  }
  const auto out = [&](const py::object& array) { return to_kind_of(call.like, array); };
  py::list gradients;
  for (const py::object* g : {&dx, &dw_ih, &dw_hh, &db_ih, &db_hh, &dh0, &dc0})
    gradients.append(out(*g));
  if (f.family.on || grad_clip > 0 || dgates_held.tensor.present) {
    for (const py::object* g : {&dw_hr, &dpeephole, &dgain_ih, &dgain_hh, &dgain_c, &dbias_c})
      gradients.append(out(*g));
  }
  return py::make_tuple(py::tuple(gradients), py::make_tuple(out(results.y), out(results.h_n),
                                                             out(results.c_n), out(results.gates)));
}

}  // namespace

void register_derivatives(py::module_& m) {
  m.def("jvp", &py_jvp, py::arg("function"), py::arg("cells"), py::arg("saved"),
        py::arg("tangents"), "-> tangents of (y, h_n, c_n | None, gates | None)");
  m.def("backward_jvp", &py_backward_jvp, py::arg("function"), py::arg("cells"), py::arg("saved"),
        py::arg("tangents"), py::arg("dy"), py::arg("dh_n"), py::arg("dc_n"), py::arg("dgates"),
        py::arg("grad_clip"), "-> (tangents of the gradients, what jvp returns)");
}

}  // namespace fastrnn::bindings
