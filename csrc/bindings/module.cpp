// The only file that Python sees: objects to views, checks, allocation of results, kernels without the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "bindings/array.hpp"
#include "bindings/layer.hpp"
#include "cpu/threads.hpp"
#include "errors.hpp"
#include "fastrnn.hpp"

namespace fastrnn::bindings {
namespace {

int find_cell(const std::string& name) {
  for (int i = 0; cell_info(i); ++i) {
    if (name == cell_info(i)->name) return i;
  }
  throw ValueError("no cell is called '" + name + "'");
}

const KernelTable& backend_of(const std::optional<std::string>& name) {
  return find_backend(name ? name->c_str() : nullptr);
}

// The arrays of one call, and the views of them that the core gets.
struct Call {
  std::string function;
  Layout layout = Layout::kTimeMajor;
  const KernelTable* backend = nullptr;
  ForwardArgs args;
  std::vector<py::object> owners;
  py::object like;  // the caller's x: results are of its kind

  const CellInfo& cell() const { return *cell_info(args.cell); }
  int64_t T() const { return args.x.shape[0]; }
  int64_t B() const { return args.x.shape[1]; }
  int64_t H() const { return args.w_hh.shape[1]; }

  Tensor keep(Held held) {
    owners.push_back(std::move(held.owner));
    return held.tensor;
  }

  Tensor take(const char* name, py::handle object, Access access) {
    return keep(hold(function, name, object, access));
  }

  Tensor time_major(Tensor tensor) const {
    if (layout == Layout::kBatchFirst) swap_first_two(tensor);
    return tensor;
  }

  // a new array [T, B, last] in the caller's layout, and its time-major view
  py::object allocate_sequence(int64_t last, Tensor& view) const {
    Held held = layout == Layout::kBatchFirst ? allocate(args.x.dtype, {B(), T(), last})
                                              : allocate(args.x.dtype, {T(), B(), last});
    view = time_major(held.tensor);
    return held.owner;
  }

  py::object allocate_matrix(int64_t rows, int64_t columns, Tensor& view) const {
    Held held = allocate(args.x.dtype, {rows, columns});
    view = held.tensor;
    return held.owner;
  }

  py::object allocate_vector(int64_t size, Tensor& view) const {
    Held held = allocate(args.x.dtype, {size});
    view = held.tensor;
    return held.owner;
  }

  void run_forward() const {
    const py::gil_scoped_release release;
    forward(*backend, args);
  }
};

// What backward needs of a forward call: views of x, the weights and y, which are the caller's, and c and the gates.
struct Saved {
  Call call;
};

void take_inputs(Call& call, py::handle x, py::handle w_ih, py::handle w_hh, py::handle b_ih, py::handle b_hh,
                 py::handle h0, py::handle c0) {
  const bool step = call.layout == Layout::kStep;
  call.like = py::reinterpret_borrow<py::object>(x);
  ForwardArgs& a = call.args;
  a.x = call.time_major(call.take("x", x, Access::kUnitLastStride));
  if (step && a.x.present) {  // [B, I] is one step of a sequence
    for (int i = kMaxRank - 1; i > 0; --i) a.x.shape[i] = a.x.shape[i - 1], a.x.stride[i] = a.x.stride[i - 1];
    a.x.rank += 1;
    a.x.shape[0] = 1;
    a.x.stride[0] = 0;
  }
  a.w_ih = call.take("w_ih", w_ih, Access::kAnyStride);
  a.w_hh = call.take("w_hh", w_hh, Access::kAnyStride);
  a.b_ih = call.take("b_ih", b_ih, Access::kAnyStride);
  a.b_hh = call.take("b_hh", b_hh, Access::kAnyStride);
  a.h0 = call.take(step ? "h" : "h0", h0, Access::kUnitLastStride);
  a.c0 = call.take(step ? "c" : "c0", c0, Access::kUnitLastStride);
  a.threads = num_threads();
}

// -> (y, h_n, c_n or None, saved or None, c or None)
py::tuple py_forward(const std::string& function, const std::string& cell, py::handle x, py::handle w_ih,
                     py::handle w_hh, py::handle b_ih, py::handle b_hh, py::handle h0, py::handle c0,
                     py::handle lengths, py::handle mask, py::handle reset, bool reverse, bool batch_first, bool save,
                     bool return_cell_sequence, const std::optional<std::string>& backend) {
  Call call;
  call.function = function;
  call.layout = batch_first ? Layout::kBatchFirst : Layout::kTimeMajor;
  call.backend = &backend_of(backend);
  ForwardArgs& a = call.args;
  a.cell = find_cell(cell);
  a.reverse = reverse;
  take_inputs(call, x, w_ih, w_hh, b_ih, b_hh, h0, c0);
  a.lengths = call.keep(copy_lengths(function, lengths));
  a.mask = call.time_major(call.keep(copy_flags(function, "mask", mask)));
  a.reset = call.time_major(call.keep(copy_flags(function, "reset", reset)));
  check_forward(function.c_str(), a, call.layout);

  const CellInfo& info = call.cell();
  const bool has_c = info.states == 2;
  const py::object y = call.allocate_sequence(call.H(), a.y);
  const py::object h_n = call.allocate_matrix(call.B(), call.H(), a.h_n);
  const py::object c_n = has_c ? call.allocate_matrix(call.B(), call.H(), a.c_n) : py::none();
  const py::object c = has_c && (save || return_cell_sequence) ? call.allocate_sequence(call.H(), a.c) : py::none();
  if (save && info.reserve > 0) {
    call.owners.push_back(allocate(a.x.dtype, {call.T(), call.B(), info.reserve * call.H()}).owner);
    a.reserve = view_of(py::reinterpret_borrow<py::array>(call.owners.back()), a.x.dtype);
  }
  call.run_forward();

  const py::object like = call.like;
  py::object saved = py::none();
  if (save) {
    call.owners.push_back(y);
    call.owners.push_back(c);
    saved = py::cast(Saved{std::move(call)});
  }
  return py::make_tuple(to_kind_of(like, y), to_kind_of(like, h_n), to_kind_of(like, c_n), saved,
                        return_cell_sequence ? to_kind_of(like, c) : py::none());
}

// -> (dx, dw_ih, dw_hh, db_ih or None, db_hh or None, dh0, dc0 or None)
py::tuple py_backward(const std::string& function, const std::vector<std::string>& cells, py::handle saved_object,
                      py::handle dy, py::handle dh_n, py::handle dc_n) {
  if (!py::isinstance<Saved>(saved_object)) {
    throw TypeError(argument(function, "saved") + " must be what a forward call with save=True returned, got " +
                    type_name(saved_object));
  }
  const Call& call = py::cast<const Saved&>(saved_object).call;
  const CellInfo& info = call.cell();
  if (std::find(cells.begin(), cells.end(), info.name) == cells.end()) {
    throw TypeError(argument(function, "saved") + " must come from the forward function of the same cell, got one of " +
                    call.function);
  }
  BackwardArgs a;
  a.forward = call.args;
  a.forward.threads = num_threads();
  const Held dy_held = hold(function, "dy", dy, Access::kUnitLastStride);
  const Held dh_n_held = hold(function, "dh_n", dh_n, Access::kUnitLastStride);
  const Held dc_n_held = hold(function, "dc_n", dc_n, Access::kUnitLastStride);
  a.dy = call.time_major(dy_held.tensor);
  a.dh_n = dh_n_held.tensor;
  a.dc_n = dc_n_held.tensor;
  check_backward(function.c_str(), a, call.layout);

  const int64_t B = call.B(), I = call.args.x.shape[2], H = call.H(), GH = info.gates * H;
  const py::object dx = call.allocate_sequence(I, a.dx);
  const py::object dw_ih = call.allocate_matrix(GH, I, a.dw_ih);
  const py::object dw_hh = call.allocate_matrix(GH, H, a.dw_hh);
  const py::object db_ih = call.args.b_ih.present ? call.allocate_vector(GH, a.db_ih) : py::none();
  const py::object db_hh = call.args.b_hh.present ? call.allocate_vector(GH, a.db_hh) : py::none();
  const py::object dh0 = call.allocate_matrix(B, H, a.dh0);
  const py::object dc0 = info.states == 2 ? call.allocate_matrix(B, H, a.dc0) : py::none();
  {
    const py::gil_scoped_release release;
    backward(*call.backend, a);
  }
  const auto out = [&](const py::object& array) { return to_kind_of(call.like, array); };
  return py::make_tuple(out(dx), out(dw_ih), out(dw_hh), out(db_ih), out(db_hh), out(dh0), out(dc0));
}

// -> (h, c or None)
py::tuple py_step(const std::string& function, const std::string& cell, py::handle x, py::handle h, py::handle c,
                  py::handle w_ih, py::handle w_hh, py::handle b_ih, py::handle b_hh,
                  const std::optional<std::string>& backend) {
  Call call;
  call.function = function;
  call.layout = Layout::kStep;
  call.backend = &backend_of(backend);
  call.args.cell = find_cell(cell);
  take_inputs(call, x, w_ih, w_hh, b_ih, b_hh, h, c);
  check_forward(function.c_str(), call.args, call.layout);
  const bool has_c = call.cell().states == 2;
  const py::object h_n = call.allocate_matrix(call.B(), call.H(), call.args.h_n);
  const py::object c_n = has_c ? call.allocate_matrix(call.B(), call.H(), call.args.c_n) : py::none();
  call.args.y = call.args.h_n;  // y of one step is h_n: [1, B, H] over the same memory
  call.args.y.rank = 3;
  call.args.y.shape[0] = 1, call.args.y.shape[1] = call.B(), call.args.y.shape[2] = call.H();
  call.args.y.stride[0] = 0, call.args.y.stride[1] = call.H(), call.args.y.stride[2] = 1;
  call.run_forward();
  return py::make_tuple(to_kind_of(call.like, h_n), to_kind_of(call.like, c_n));
}

std::vector<std::string> backends(bool compiled) {
  std::vector<std::string> names;
  for (int i = 0; const KernelTable* table = compiled_backend(i); ++i) {
    if (compiled || table->supported()) names.emplace_back(table->name);
  }
  return names;
}

void py_set_num_threads(int n) {
  if (n < 1) throw ValueError("set_num_threads: argument 'n' must be >= 1, got " + std::to_string(n));
  set_num_threads(n);
}

std::string describe(const Saved& saved) {
  const Call& call = saved.call;
  return "<saved result of " + call.function + ": T=" + std::to_string(call.T()) + ", B=" + std::to_string(call.B()) +
         ", I=" + std::to_string(call.args.x.shape[2]) + ", H=" + std::to_string(call.H()) +
         ", backend=" + call.backend->name + ">";
}

}  // namespace
}  // namespace fastrnn::bindings

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
  namespace py = pybind11;
  using namespace fastrnn::bindings;
  m.doc() = "The compiled core of fastrnn; its users are fastrnn.functional and the layers.";
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const fastrnn::TypeError& e) {
      py::set_error(PyExc_TypeError, e.what());
    } catch (const fastrnn::ValueError& e) {
      py::set_error(PyExc_ValueError, e.what());
    }
  });

  py::class_<Saved>(m, "Saved", "What backward needs of a forward call.")
      .def("__repr__", &describe)
      .def_property_readonly(
          "backend", [](const Saved& saved) { return saved.call.backend->name; }, "Name of the backend that ran.");
  m.def("forward", &py_forward, py::arg("function"), py::arg("cell"), py::arg("x"), py::arg("w_ih"), py::arg("w_hh"),
        py::arg("b_ih"), py::arg("b_hh"), py::arg("h0"), py::arg("c0"), py::arg("lengths"), py::arg("mask"),
        py::arg("reset"), py::arg("reverse"), py::arg("batch_first"), py::arg("save"), py::arg("return_cell_sequence"),
        py::arg("backend"), "-> (y, h_n, c_n | None, saved | None, c | None)");
  m.def("backward", &py_backward, py::arg("function"), py::arg("cells"), py::arg("saved"), py::arg("dy"),
        py::arg("dh_n"), py::arg("dc_n"), "-> (dx, dw_ih, dw_hh, db_ih | None, db_hh | None, dh0, dc0 | None)");
  m.def("step", &py_step, py::arg("function"), py::arg("cell"), py::arg("x"), py::arg("h"), py::arg("c"),
        py::arg("w_ih"), py::arg("w_hh"), py::arg("b_ih"), py::arg("b_hh"), py::arg("backend"),
        "-> (h, c | None)");
  m.def("backends", &backends, py::arg("compiled"), "Names, best first: of this build, or those that run here.");
  m.def("num_threads", &fastrnn::num_threads);
  m.def("set_num_threads", &py_set_num_threads, py::arg("n"));
  register_layer(m);
}
