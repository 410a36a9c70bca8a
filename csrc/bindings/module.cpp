// The only file that Python sees: objects to views, checks, allocation of results, kernels without
// the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "bindings/array.hpp"
#include "bindings/call.hpp"
#include "bindings/derivatives.hpp"
#include "bindings/family.hpp"
#include "bindings/layer.hpp"
#include "bindings/xla_handlers.hpp"
#include "cpu/threads.hpp"
#include "errors.hpp"
#include "fastrnn.hpp"
#include "memory.hpp"
#include "precision.hpp"

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

// The backend of arrays that lie there.
const KernelTable& backend_of(const std::string& function, const std::optional<std::string>& name,
                              const Place& place) {
  if (place.on_host()) return backend_of(name);
  if (name && *name != "cuda") {
    throw ValueError(argument(function, "backend") + " must be cuda for arrays on " + place.name() +
                     ", got " + *name);
  }
  return cuda_backend(function, place);
}

// The same memory as an array of its own: index `i` of the first axis.
Tensor slice(const Tensor& tensor, int64_t i) {
  Tensor part = tensor;
  if (!tensor.present) return part;
  part.data = static_cast<char*>(tensor.data) + i * tensor.stride[0] * item_size(tensor.dtype);
  part.rank -= 1;
  for (int d = 0; d < part.rank; ++d)
    part.shape[d] = tensor.shape[d + 1], part.stride[d] = tensor.stride[d + 1];
  return part;
}

Tensor one_step(const Tensor& rows) {  // [B, n] as [1, B, n]
  Tensor step = rows;
  for (int d = kMaxRank - 1; d > 0; --d)
    step.shape[d] = rows.shape[d - 1], step.stride[d] = rows.stride[d - 1];
  step.rank += 1;
  step.shape[0] = 1;
  step.stride[0] = 0;
  return step;
}

// The weights of one layer, checked and packed once for many calls. Refers to the arrays: they must
// not change.
struct Weights {
  Call call;
  Memory packed;
};

void take_weights(Call& call, py::handle w_ih, py::handle w_hh, py::handle b_ih, py::handle b_hh) {
  call.args.w_ih = call.take("w_ih", w_ih, Access::kAnyStride);
  call.args.w_hh = call.take("w_hh", w_hh, Access::kAnyStride);
  call.args.b_ih = call.take("b_ih", b_ih, Access::kAnyStride);
  call.args.b_hh = call.take("b_hh", b_hh, Access::kAnyStride);
}

void take_family(Call& call, py::handle settings) {
  if (settings.is_none()) return;
  call.args.family = family_of(call.cell(), settings, [&](const char* name, py::handle object) {
    return call.take(name, object, Access::kAnyStride);
  });
}

void take_sequence(Call& call, py::handle x, py::handle h0, py::handle c0) {
  if (!call.place.on_host()) {  // weights may have been taken on another stream
    find_stream(x, call.place);
    call.args.stream = call.place.stream;
  }
  call.like = py::reinterpret_borrow<py::object>(x);
  call.args.x = call.time_major(call.take("x", x, Access::kUnitLastStride));
  call.args.h0 = call.take("h0", h0, Access::kUnitLastStride);
  call.args.c0 = call.take("c0", c0, Access::kUnitLastStride);
  call.args.threads = call.threads > 0 ? call.threads : num_threads();
}

void take_step(Call& call, py::handle x, py::handle h, py::handle c) {
  call.layout = Layout::kStep;
  call.like = py::reinterpret_borrow<py::object>(x);
  call.args.x = one_step(call.take("x", x, Access::kUnitLastStride));
  call.args.h0 = call.take("h", h, Access::kUnitLastStride);
  call.args.c0 = call.take("c", c, Access::kUnitLastStride);
  call.args.threads = num_threads();
}

// `x`, or another array that lies where all others have to
Call new_call(const std::string& function, const std::string& cell,
              const std::optional<std::string>& backend, py::handle x) {
  Call call;
  call.function = function;
  if (!py::isinstance<py::array>(x)) call.place = place_of(x);
  call.backend = &backend_of(function, backend, call.place);
  call.args.stream = call.place.stream;
  call.args.cell = find_cell(cell);
  return call;
}

// -> (y, h_n, c_n or None, saved or None, c or None, gates or None)
py::tuple run_sequence(Call&& call, py::handle x, py::handle h0, py::handle c0, py::handle lengths,
                       py::handle mask, py::handle reset, bool reverse, bool batch_first, bool save,
                       bool return_cell_sequence, bool return_gates = false) {
  ForwardArgs& a = call.args;
  call.layout = batch_first ? Layout::kBatchFirst : Layout::kTimeMajor;
  a.reverse = reverse;
  take_sequence(call, x, h0, c0);
  a.lengths = call.keep(copy_lengths(call.function, lengths, call.place));
  a.mask = call.time_major(call.keep(copy_flags(call.function, "mask", mask, call.place)));
  a.reset = call.time_major(call.keep(copy_flags(call.function, "reset", reset, call.place)));
  check_forward(call.function.c_str(), *call.backend, a, call.layout);

  const CellInfo& info = call.cell();
  const bool has_c = call.has_c();
  const py::object y = call.allocate_sequence(call.P(), a.y);
  const py::object h_n = call.allocate_matrix(call.B(), call.P(), a.h_n);
  const py::object c_n = has_c ? call.allocate_matrix(call.B(), call.H(), a.c_n, true) : py::none();
  const py::object c = has_c && (save || return_cell_sequence)
                           ? call.allocate_sequence(call.H(), a.c, true)
                           : py::none();
  if (save) allocate_kept(call);
  const py::object gates =
      return_gates ? call.allocate_sequence(info.gates * call.H(), a.family.gates) : py::none();
  call.run_forward();

  const py::object like = call.like;
  py::object saved = py::none();
  if (save) {
    call.owners.push_back(y);
    call.owners.push_back(c);
    a.packed = nullptr;
    std::optional<std::string> path;
    if (call.backend->path) path = call.backend->path(a, false);
    saved = py::cast(std::make_unique<Saved>(std::move(call), std::move(path)));
  }
  return py::make_tuple(to_kind_of(like, y), to_kind_of(like, h_n), to_kind_of(like, c_n), saved,
                        return_cell_sequence ? to_kind_of(like, c) : py::none(),
                        to_kind_of(like, gates));
}

py::tuple py_forward(const std::string& function, const std::string& cell, py::handle x,
                     py::handle w_ih, py::handle w_hh, py::handle b_ih, py::handle b_hh,
                     py::handle h0, py::handle c0, py::handle lengths, py::handle mask,
                     py::handle reset, bool reverse, bool batch_first, bool save,
                     bool return_cell_sequence, const std::optional<std::string>& backend,
                     py::handle settings, int threads) {
  Call call = new_call(function, cell, backend, x);
  call.threads = threads;
  take_weights(call, w_ih, w_hh, b_ih, b_hh);
  take_family(call, settings);
  const bool return_gates = !settings.is_none() && py::cast<bool>(settings.attr("return_gates"));
  return run_sequence(std::move(call), x, h0, c0, lengths, mask, reset, reverse, batch_first, save,
                      return_cell_sequence, return_gates);
}

// -> (h, c or None)
py::tuple run_step(Call&& call, py::handle x, py::handle h, py::handle c) {
  take_step(call, x, h, c);
  ForwardArgs& a = call.args;
  check_forward(call.function.c_str(), *call.backend, a, call.layout);
  const py::object h_n = call.allocate_matrix(call.B(), call.P(), a.h_n);
  const py::object c_n =
      call.has_c() ? call.allocate_matrix(call.B(), call.H(), a.c_n, true) : py::none();
  a.y = one_step(a.h_n);  // over the same memory
  call.run_forward();
  return py::make_tuple(to_kind_of(call.like, h_n), to_kind_of(call.like, c_n));
}

py::tuple py_step(const std::string& function, const std::string& cell, py::handle x, py::handle h,
                  py::handle c, py::handle w_ih, py::handle w_hh, py::handle b_ih, py::handle b_hh,
                  const std::optional<std::string>& backend, py::handle settings) {
  Call call = new_call(function, cell, backend, x);
  take_weights(call, w_ih, w_hh, b_ih, b_hh);
  take_family(call, settings);
  return run_step(std::move(call), x, h, c);
}

Weights make_weights(const std::string& function, const std::string& cell, py::handle w_ih,
                     py::handle w_hh, py::handle b_ih, py::handle b_hh,
                     const std::optional<std::string>& backend) {
  Weights weights{new_call(function, cell, backend, w_ih), nullptr};
  Call& call = weights.call;
  take_weights(call, w_ih, w_hh, b_ih, b_hh);
  call.args.threads = num_threads();
  check_weights(function.c_str(), *call.backend, call.args);
  weights.packed = allocate(packed_size(*call.backend, call.args));
  const py::gil_scoped_release release;
  pack(*call.backend, call.args, weights.packed.get());
  call.args.packed = weights.packed.get();
  return weights;
}

py::tuple weights_forward(const Weights& weights, py::handle x, py::handle h0, py::handle c0,
                          py::handle lengths, py::handle mask, py::handle reset, bool reverse,
                          bool batch_first, bool save) {
  return run_sequence(Call(weights.call), x, h0, c0, lengths, mask, reset, reverse, batch_first,
                      save, false);
}

// The halves of a state (h, c), or of one that is h alone.
std::array<py::handle, 2> halves_of(const std::string& function, py::handle state, int states) {
  if (state.is_none()) return {py::none(), py::none()};
  if (states == 1) return {state, py::none()};
  PyObject* const pair = state.ptr();
  if (PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2)
    return {PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1)};
  if (PyList_Check(pair) && PyList_GET_SIZE(pair) == 2)
    return {PyList_GET_ITEM(pair, 0), PyList_GET_ITEM(pair, 1)};
  std::string came = type_name(state);
  if (py::hasattr(state, "shape"))
    came += " " + py::cast<std::string>(py::str(py::tuple(state.attr("shape"))));
  throw TypeError(function + ": state must be a pair (h, c), got " + came);
}

// One step through the stack of a layer of that name; x [B, I], state None, h or (h, c), each
// [L, B, H] -> y [B, H], the next state
py::tuple stack_step(const std::string& name, const py::list& layers, py::handle x,
                     py::handle state) {
  const std::string function = name + ".step";
  const int64_t count = static_cast<int64_t>(layers.size());
  const auto layer_at = [&](int64_t i) -> const Call& {
    return py::cast<const Weights&>(layers[static_cast<size_t>(i)]).call;
  };
  const int states = layer_at(0).cell().states;
  const auto [h, c] = halves_of(function, state, states);
  const Held x_held = hold(function, "x", x, Access::kUnitLastStride);
  const Held h_held = hold(function, "h", h, Access::kUnitLastStride);
  const Held c_held = hold(function, "c", c, Access::kUnitLastStride);
  Held h_next, c_next;
  Tensor input = one_step(x_held.tensor);
  for (int64_t i = 0; i < count; ++i) {
    const Call& layer = layer_at(i);
    ForwardArgs a = layer.args;
    a.threads = num_threads();
    a.x = input;
    check_forward(function.c_str(), *layer.backend, a, Layout::kStep);
    if (i == 0) {
      check_stacked_state(function.c_str(), "h", h_held.tensor, a.x, count, layer.H());
      check_stacked_state(function.c_str(), "c", c_held.tensor, a.x, count, layer.H());
      h_next = new_array(a.x.dtype, {count, a.x.shape[1], layer.H()});
      if (states == 2) c_next = new_array(a.x.dtype, {count, a.x.shape[1], layer.H()});
    }
    a.h0 = slice(h_held.tensor, i);
    a.c0 = slice(c_held.tensor, i);
    a.h_n = slice(h_next.tensor, i);
    a.c_n = slice(c_next.tensor, i);
    a.y = one_step(a.h_n);
    input = a.y;
    const OthersRun others(a);
    forward(*layer.backend, a);
  }
  const py::object y =
      py::reinterpret_borrow<py::sequence>(h_next.owner)[static_cast<size_t>(count - 1)];
  if (states == 1) return py::make_tuple(y, h_next.owner);
  return py::make_tuple(y, py::make_tuple(h_next.owner, c_next.owner));
}

// -> (dx, dw_ih, dw_hh, db_ih or None, db_hh or None, dh0, dc0 or None), and of a call with any
// option of the family (dw_hr, dpeephole, dgain_ih, dgain_hh, dgain_c, dbias_c, step_norms), each
// or None. `wanted`: which of the first 13; others are None and not computed.
py::tuple py_backward(const std::string& function, const std::vector<std::string>& cells,
                      py::handle saved_object, py::handle dy, py::handle dh_n, py::handle dc_n,
                      py::handle dgates, double grad_clip, bool return_step_norms, py::handle dc,
                      const std::optional<std::vector<bool>>& wanted) {
  constexpr size_t kGradients = 13;
  if (wanted && wanted->size() != kGradients)
    throw ValueError(argument(function, "wanted") + " must be of 13 gradients");
  const Call& call = saved_call(function, cells, saved_object);
  const CellInfo& info = call.cell();
  BackwardArgs a;
  a.forward = call.args;
  a.forward.threads = call.threads > 0 ? call.threads : num_threads();
  Place place;  // the stream may be another one now
  if (!call.place.on_host()) place = place_of(call.like);
  a.forward.stream = place.stream;
  const Held dy_held = hold(function, "dy", dy, Access::kUnitLastStride, place);
  const Held dh_n_held = hold(function, "dh_n", dh_n, Access::kUnitLastStride, place);
  const Held dc_n_held = hold(function, "dc_n", dc_n, Access::kUnitLastStride, place);
  a.dy = call.time_major(dy_held.tensor);
  a.dh_n = dh_n_held.tensor;
  a.dc_n = dc_n_held.tensor;
  const Held dgates_held = hold(function, "dgates", dgates, Access::kContiguous, place);
  a.dgates = call.time_major(dgates_held.tensor);
  const Held dc_held = hold(function, "dc", dc, Access::kUnitLastStride, place);
  a.dc = call.time_major(dc_held.tensor);
  a.clip = grad_clip;
  a.family = grad_clip > 0 || return_step_norms || a.dgates.present || a.dc.present;
  check_backward(function.c_str(), a, call.layout);

  const Family& f = call.args.family;
  const int64_t B = call.B(), I = call.args.x.shape[2], H = call.H(), P = call.P(),
                GH = info.gates * H;
  size_t next = 0;
  const auto gradient = [&](bool exists, const auto& allocate) -> py::object {
    const bool asked = !wanted || (*wanted)[next];
    ++next;
    return exists && asked ? allocate() : py::object(py::none());
  };
  const auto matrix = [&](bool exists, int64_t rows, int64_t columns, Tensor& view,
                          bool of_c = false) {
    return gradient(exists, [&] { return call.allocate_matrix(rows, columns, view, of_c); });
  };
  const auto vector = [&](bool exists, int64_t size, Tensor& view) {
    return gradient(exists, [&] { return call.allocate_vector(size, view); });
  };
  const py::object dx = gradient(true, [&] { return call.allocate_sequence(I, a.dx); });
  const py::object dw_ih = matrix(true, GH, I, a.dw_ih), dw_hh = matrix(true, GH, P, a.dw_hh);
  const py::object db_ih = vector(call.args.b_ih.present, GH, a.db_ih);
  const py::object db_hh = vector(call.args.b_hh.present, GH, a.db_hh);
  const py::object dh0 = matrix(true, B, P, a.dh0);
  const py::object dc0 = matrix(call.has_c(), B, H, a.dc0, true);
  const py::object dw_hr = matrix(f.w_hr.present, P, H, a.dw_hr);
  const py::object dpeephole = matrix(f.peephole.present, info.peepholes, H, a.dpeephole);
  const py::object dgain_ih = vector(f.gain_ih.present, GH, a.dgain_ih);
  const py::object dgain_hh = vector(f.gain_hh.present, GH, a.dgain_hh);
  const py::object dgain_c = vector(f.gain_c.present, H, a.dgain_c);
  const py::object dbias_c = vector(f.bias_c.present, H, a.dbias_c);
  py::object step_norms = py::none();
  if (return_step_norms) {
    const bool batch_first = call.layout == Layout::kBatchFirst;
    step_norms = batch_first ? call.allocate_matrix(B, call.T(), a.step_norms)
                             : call.allocate_matrix(call.T(), B, a.step_norms);
    a.step_norms = call.time_major(a.step_norms);
  }
  call.run_backward(a, place);
  const auto out = [&](const py::object& array) { return to_kind_of(call.like, array); };
  if (!a.family && !f.on) {
    return py::make_tuple(out(dx), out(dw_ih), out(dw_hh), out(db_ih), out(db_hh), out(dh0),
                          out(dc0));
  }
  return py::make_tuple(out(dx), out(dw_ih), out(dw_hh), out(db_ih), out(db_hh), out(dh0), out(dc0),
                        out(dw_hr), out(dpeephole), out(dgain_ih), out(dgain_hh), out(dgain_c),
                        out(dbias_c), out(step_norms));
}

std::vector<std::string> backends(bool compiled) {
  std::vector<std::string> names;
  for (int i = 0; const KernelTable* table = compiled_backend(i); ++i) {
    if (compiled ? table->kernels != nullptr : table->supported()) names.emplace_back(table->name);
  }
  return names;
}

const KernelTable::Probe& probe_of(const char* function, const std::optional<std::string>& name,
                                   DType dtype) {
  const KernelTable& backend = backend_of(name);
  if (backend.probes == nullptr)
    throw ValueError(std::string(function) + ": backend '" + backend.name + "' has no probe");
  return backend.probes[dtype == DType::kFloat64];
}

int64_t probe_multiply_add(int64_t rounds, bool is_double,
                           const std::optional<std::string>& backend) {
  const DType dtype = is_double ? DType::kFloat64 : DType::kFloat32;
  const KernelTable::Probe& probe = probe_of("probe_multiply_add", backend, dtype);
  const py::gil_scoped_release release;
  return probe.multiply_add(rounds);
}

// Memory of the kernels' own kind: it asks for huge pages as packed weights do.
struct ProbeMemory {
  Memory memory;
  int64_t bytes;
};

ProbeMemory make_probe_memory(int64_t bytes) {
  if (bytes < 0) throw ValueError("ProbeMemory: argument 'bytes' must be >= 0");
  ProbeMemory made{allocate(bytes), bytes};
  std::memset(made.memory.get(), 0, static_cast<size_t>(bytes));  // pages of its own to read
  return made;
}

int64_t probe_read(const ProbeMemory& memory, int64_t rounds,
                   const std::optional<std::string>& backend) {
  const KernelTable::Probe& probe = probe_of("ProbeMemory.read", backend, DType::kFloat32);
  const py::gil_scoped_release release;
  return probe.read(memory.memory.get(), memory.bytes, rounds);
}

void py_set_num_threads(int n) {
  if (n < 1)
    throw ValueError("set_num_threads: argument 'n' must be >= 1, got " + std::to_string(n));
  set_num_threads(n);
}

void py_set_float32_precision(const std::string& name) {
  set_float32_precision(precision_called("set_float32_precision: argument 'precision'", name));
}

std::string describe(const Saved& saved) {
  const Call& call = saved.call;
  return "<saved result of " + call.function + ": T=" + std::to_string(call.T()) +
         ", B=" + std::to_string(call.B()) + ", I=" + std::to_string(call.args.x.shape[2]) +
         ", H=" + std::to_string(call.H()) + ", backend=" + call.backend->name + ">";
}

// -> (forward, backward) of a call of these sizes
py::tuple py_cuda_path(const std::string& cell, const std::string& dtype, int64_t T, int64_t B,
                       int64_t H, bool reset, int device) {
  const std::string names[] = {"float32", "float64", "float16", "bfloat16"};
  const auto* const found = std::find(std::begin(names), std::end(names), dtype);
  if (found == std::end(names)) {
    throw ValueError(
        "cuda_path: argument 'dtype' must be float32, float64, float16 or bfloat16, "
        "got '" +
        dtype + "'");
  }
  if (T < 0 || B < 0 || H < 1) {
    throw ValueError(
        "cuda_path: arguments 'T' and 'B' must not be negative, and 'H' must be at "
        "least 1, got T=" +
        std::to_string(T) + ", B=" + std::to_string(B) + ", H=" + std::to_string(H));
  }
  const KernelTable& backend = find_backend("cuda");
  ForwardArgs a;
  a.cell = find_cell(cell);
  a.x.device = device;
  a.x.shape[0] = T, a.x.shape[1] = B;
  a.w_hh.shape[0] = cell_info(a.cell)->gates * H, a.w_hh.shape[1] = H;
  a.w_hh.dtype = static_cast<DType>(found - std::begin(names));
  a.reset.present = reset;
  return py::make_tuple(backend.path(a, false), backend.path(a, true));
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
          "backend", [](const Saved& saved) { return saved.call.backend->name; },
          "Name of the backend that ran.")
      .def_property_readonly(
          "path", [](const Saved& saved) { return saved.path; },
          "Which way the backend took, and why; None: it has only one.");
  py::class_<Weights>(m, "Weights",
                      "The weights of one layer, checked and packed once for many calls.")
      .def(py::init(&make_weights), py::arg("function"), py::arg("cell"), py::arg("w_ih"),
           py::arg("w_hh"), py::arg("b_ih"), py::arg("b_hh"), py::arg("backend"))
      .def("forward", &weights_forward, py::arg("x"), py::arg("h0"), py::arg("c0"),
           py::arg("lengths"), py::arg("mask"), py::arg("reset"), py::arg("reverse"),
           py::arg("batch_first"), py::arg("save"),
           "-> (y, h_n, c_n | None, saved | None, None, None)");
  m.def("stack_step", &stack_step, py::arg("name"), py::arg("layers"), py::arg("x"),
        py::arg("state"),
        "One step through layers of Weights: x (B, I), state None, h or (h, c), each (L, B, H) -> "
        "(y, the next state)");
  m.def("forward", &py_forward, py::arg("function"), py::arg("cell"), py::arg("x"), py::arg("w_ih"),
        py::arg("w_hh"), py::arg("b_ih"), py::arg("b_hh"), py::arg("h0"), py::arg("c0"),
        py::arg("lengths"), py::arg("mask"), py::arg("reset"), py::arg("reverse"),
        py::arg("batch_first"), py::arg("save"), py::arg("return_cell_sequence"),
        py::arg("backend"), py::arg("settings") = py::none(), py::arg("threads") = 0,
        "-> (y, h_n, c_n | None, saved | None, c | None, gates | None)");
  m.def("backward", &py_backward, py::arg("function"), py::arg("cells"), py::arg("saved"),
        py::arg("dy"), py::arg("dh_n"), py::arg("dc_n"), py::arg("dgates") = py::none(),
        py::arg("grad_clip") = 0.0, py::arg("return_step_norms") = false,
        py::arg("dc") = py::none(), py::arg("wanted") = py::none(),
        "-> (dx, dw_ih, dw_hh, db_ih | None, db_hh | None, dh0, dc0 | None)");
  m.def("step", &py_step, py::arg("function"), py::arg("cell"), py::arg("x"), py::arg("h"),
        py::arg("c"), py::arg("w_ih"), py::arg("w_hh"), py::arg("b_ih"), py::arg("b_hh"),
        py::arg("backend"), py::arg("settings") = py::none(), "-> (h, c | None)");
  py::class_<ProbeMemory>(m, "ProbeMemory", "Memory to read, as the benchmark's probe does.")
      .def(py::init(&make_probe_memory), py::arg("bytes"))
      .def("read", &probe_read, py::arg("rounds"), py::arg("backend"), "-> bytes read");
  m.def("probe_multiply_add", &probe_multiply_add, py::arg("rounds"), py::arg("is_double"),
        py::arg("backend"), "Multiply-adds and nothing else, on this thread -> flops");
  m.def("backends", &backends, py::arg("compiled"),
        "Names, best first: of this build, or those that run here.");
  m.def("num_threads", &fastrnn::num_threads);
  m.def("set_num_threads", &py_set_num_threads, py::arg("n"));
  m.def("float32_precision", [] { return fastrnn::name_of(fastrnn::float32_precision()); });
  m.def("set_float32_precision", &py_set_float32_precision, py::arg("precision"));
  m.def("cuda_path", &py_cuda_path, py::arg("cell"), py::arg("dtype"), py::arg("T"), py::arg("B"),
        py::arg("H"), py::arg("reset"), py::arg("device"), "-> (forward, backward)");
  m.def("set_least_work", &fastrnn::set_least_work, py::arg("multiply_adds"));
  register_derivatives(m);
  register_layer(m);
  register_xla_handlers(m);
}
