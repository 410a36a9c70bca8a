#include "bindings/layer.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "bindings/array.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/weight_cache.hpp"
#include "errors.hpp"
#include "fastrnn.hpp"

namespace fastrnn::bindings {
namespace {

constexpr int64_t kItemSize[] = {4, 8, 8, 1};  // by DType

std::optional<DType> dtype_of(dlpack::DataType dtype) {
  if (dtype.lanes != 1) return {};
  if (dtype.code == dlpack::kFloat && dtype.bits == 32) return DType::kFloat32;
  if (dtype.code == dlpack::kFloat && dtype.bits == 64) return DType::kFloat64;
  if (dtype.code == dlpack::kInt && dtype.bits == 64) return DType::kInt64;
  if (dtype.code == dlpack::kBool && dtype.bits == 8) return DType::kBool;
  return {};
}

// A layer's tensors; `d` is the direction: 0 forward, 1 reverse.
//   x [T, B, I]  y [T, B, D*H]  dx [D, T, B, I]        T and B swapped with batch_first
//   h0, c0, h_n, c_n [D, B, H]   c [D, T, B, H]   reserve [D, T, B, R*H]
//   weights: w_ih, w_hh (, b_ih, b_hh), D times
// One step has x, dx [B, I], states [B, H], reserve [B, R*H]; its y and c are h_n and c_n.
struct Shape {
  int rank;
  int64_t size[kMaxRank];
};

struct Layer {
  const char* function;
  int cell = 0;
  bool batch_first = false;
  bool step = false;
  int directions = 1;
  int threads = 1;
  std::vector<py::object> owners = {};

  const CellInfo& info() const { return *cell_info(cell); }

  Tensor take(const char* name, py::handle object) {
    if (object.is_none()) return {};
    const dlpack::ExchangeAPI* api = dlpack::exchange_api(object);
    if (!api) {  // a framework from before DLPack 1.2
      const py::object plain = py::hasattr(object, "detach")
                                   ? object.attr("detach")()
                                   : py::reinterpret_borrow<py::object>(object);
      const py::array array = to_numpy(function, name, plain);
      owners.push_back(array);
      if (array.dtype().num() == py::dtype::of<int64_t>().num())
        return view_of(array, DType::kInt64);
      return view_of(array, bindings::dtype_of(function, name, array));
    }
    dlpack::Tensor seen;
    if (api->view(object.ptr(), &seen) != 0) throw py::error_already_set();
    const std::optional<DType> dtype = dtype_of(seen.dtype);
    if (!dtype || seen.device.type != dlpack::kCPU) {
      throw TypeError(argument(function, name) + " must be on the CPU and float32 or float64");
    }
    Tensor tensor;
    tensor.data = static_cast<char*>(seen.data) + seen.byte_offset;
    tensor.present = true;
    tensor.dtype = *dtype;
    tensor.rank = seen.ndim;
    int64_t size = 1;
    for (int i = seen.ndim - 1; i >= 0; size *= seen.shape[i--]) {
      if (i >= kMaxRank) continue;
      tensor.shape[i] = seen.shape[i];
      tensor.stride[i] = seen.strides ? seen.strides[i] : size;
    }
    return tensor;
  }

  // a result: its shape is known, it is written densely
  Tensor take(const char* name, py::handle object, const Shape& shape, DType dtype) {
    Tensor tensor = take(name, object);
    if (!tensor.present) return tensor;
    bool right = tensor.dtype == dtype && tensor.rank == shape.rank;
    int64_t size = 1;
    for (int i = shape.rank - 1; right && i >= 0; --i) {
      const int64_t n = shape.size[i];
      right = tensor.shape[i] == n && (n <= 1 || tensor.stride[i] == size);
      size *= std::max<int64_t>(n, 1);
    }
    if (!right)
      throw ValueError(argument(function, name) + " has the wrong shape, strides or dtype");
    return tensor;
  }

  Tensor unit_last_stride(const char* name, const Tensor& tensor) const {
    const int last = tensor.rank - 1;
    if (tensor.present &&
        (last < 0 || last >= kMaxRank || (tensor.shape[last] > 1 && tensor.stride[last] != 1))) {
      throw ValueError(argument(function, name) + " must have a contiguous last axis");
    }
    return tensor;
  }

  // the view [T, B, ..]: of a step [B, ..] it is [1, B, ..]
  Tensor time_major(Tensor tensor) const {
    if (step && tensor.present) {
      for (int i = kMaxRank - 1; i > 0; --i)
        tensor.shape[i] = tensor.shape[i - 1], tensor.stride[i] = tensor.stride[i - 1];
      tensor.shape[0] = 1, tensor.stride[0] = 0;
      tensor.rank += 1;
    } else if (batch_first) {
      swap_first_two(tensor);
    }
    return tensor;
  }

  Shape in_layout(Shape shape) const {
    if (batch_first) std::swap(shape.size[shape.rank - 3], shape.size[shape.rank - 2]);
    return shape;
  }

  // tensor[d], for a tensor whose first axis is the direction
  Tensor at(Tensor tensor, const char* name, int d) const {
    if (!tensor.present || step) return tensor;
    if (tensor.rank < 2 || tensor.rank > kMaxRank || tensor.shape[0] != directions) {
      throw ValueError(argument(function, name) + " must have " + std::to_string(directions) +
                       " on its first axis");
    }
    tensor.data = static_cast<char*>(tensor.data) +
                  d * tensor.stride[0] * kItemSize[static_cast<int>(tensor.dtype)];
    tensor.rank -= 1;
    for (int i = 0; i < tensor.rank; ++i)
      tensor.shape[i] = tensor.shape[i + 1], tensor.stride[i] = tensor.stride[i + 1];
    return tensor;
  }

  // the same of c, reserve and dx, [D, T, B, ..]
  Tensor sequence_at(const Tensor& tensor, const char* name, int d) const {
    return step ? time_major(tensor) : at(tensor, name, d);
  }

  // the columns of direction d in a [T, B, D*H] view
  Tensor columns(Tensor tensor, int64_t H, int d) const {
    if (!tensor.present) return tensor;
    tensor.data =
        static_cast<char*>(tensor.data) + d * H * kItemSize[static_cast<int>(tensor.dtype)];
    tensor.shape[2] = H;
    return tensor;
  }
};

// The tensors of a list or a tuple, borrowed.
struct Tensors {
  PyObject** items;
  size_t count;
};

Tensors tensors_of(const char* function, const char* name, py::handle sequence) {
  if (!PyList_Check(sequence.ptr()) && !PyTuple_Check(sequence.ptr()))
    throw TypeError(argument(function, name) + " must be a list or a tuple of tensors");
  return {PySequence_Fast_ITEMS(sequence.ptr()),
          static_cast<size_t>(PySequence_Fast_GET_SIZE(sequence.ptr()))};
}

struct Inputs {
  Tensor x, h0, c0, lengths, mask, reset;
  std::array<Tensor, 2 * WeightCache::kWeights> weights;
  size_t each;  // of a direction
};

Inputs take_inputs(Layer& layer, py::handle x, Tensors weights, py::handle h0, py::handle c0,
                   py::handle lengths, py::handle mask, py::handle reset) {
  Inputs in;
  in.x = layer.unit_last_stride("x", layer.take("x", x));
  layer.step = in.x.rank == 2;
  in.h0 = layer.unit_last_stride("h0", layer.take("h0", h0));
  in.c0 = layer.unit_last_stride("c0", layer.take("c0", c0));
  in.lengths = layer.unit_last_stride("lengths", layer.take("lengths", lengths));
  in.mask = layer.take("mask", mask);
  in.reset = layer.take("reset", reset);
  const size_t directions = static_cast<size_t>(layer.directions);
  in.each = weights.count / directions;
  if (weights.count % directions != 0 || (in.each != 2 && in.each != WeightCache::kWeights)) {
    throw ValueError(argument(layer.function, "weights") +
                     " must be w_ih, w_hh and perhaps b_ih, b_hh of each direction");
  }
  static const char* const kNames[] = {"w_ih", "w_hh", "b_ih", "b_hh"};
  for (size_t i = 0; i < weights.count; ++i)
    in.weights[i] = layer.take(kNames[i % in.each], weights.items[i]);
  return in;
}

ForwardArgs forward_args(const Layer& layer, const Inputs& in, int d) {
  ForwardArgs a;
  a.cell = layer.cell;
  a.reverse = d == 1;
  a.threads = layer.threads;
  a.x = layer.time_major(in.x);
  const Tensor* w = &in.weights[static_cast<size_t>(d) * in.each];
  a.w_ih = w[0];
  a.w_hh = w[1];
  if (in.each == WeightCache::kWeights) a.b_ih = w[2], a.b_hh = w[3];
  a.h0 = layer.at(in.h0, "h0", d);
  a.c0 = layer.at(in.c0, "c0", d);
  a.lengths = in.lengths;
  a.mask = layer.time_major(in.mask);
  a.reset = layer.time_major(in.reset);
  check_forward(layer.function, a,
                layer.step          ? Layout::kStep
                : layer.batch_first ? Layout::kBatchFirst
                                    : Layout::kTimeMajor);
  return a;
}

int find_cell(const std::string& name) {
  for (int i = 0; cell_info(i); ++i) {
    if (name == cell_info(i)->name) return i;
  }
  throw ValueError("no cell is called '" + name + "'");
}

void layer_forward(const std::string& cell, bool batch_first, bool bidirectional, int threads,
                   py::handle x, py::handle weights, py::handle h0, py::handle c0,
                   py::handle lengths, py::handle mask, py::handle reset, py::handle y,
                   py::handle h_n, py::handle c_n, py::handle c, py::handle reserve,
                   WeightCache* cache) {
  Layer layer{"layer_forward", find_cell(cell), batch_first, false, bidirectional ? 2 : 1, threads};
  const Tensors given = tensors_of(layer.function, "weights", weights);
  const Inputs in = take_inputs(layer, x, given, h0, c0, lengths, mask, reset);
  std::array<ForwardArgs, 2> calls;
  for (int d = 0; d < layer.directions; ++d)
    calls[static_cast<size_t>(d)] = forward_args(layer, in, d);

  const int64_t D = layer.directions, T = calls[0].x.shape[0], B = calls[0].x.shape[1],
                H = calls[0].w_hh.shape[1];
  const DType dtype = in.x.dtype;
  const CellInfo& info = layer.info();
  const auto per_state = [&](int64_t size) {
    return layer.step ? Shape{2, {B, size}} : Shape{3, {D, B, size}};
  };
  const auto per_step = [&](int64_t size) {
    return layer.step ? Shape{2, {B, size}} : Shape{4, {D, T, B, size}};
  };
  const Tensor h_n_ = layer.take("h_n", h_n, per_state(H), dtype),
               c_n_ = layer.take("c_n", c_n, per_state(H), dtype);
  const Tensor y_ = layer.time_major(
      layer.step ? h_n_ : layer.take("y", y, layer.in_layout({3, {T, B, D * H}}), dtype));
  const Tensor c_ = layer.step ? c_n_ : layer.take("c", c, per_step(H), dtype);
  const Tensor reserve_ = layer.take("reserve", reserve, per_step(info.reserve * H), dtype);
  const bool has_c = info.states == 2;
  if (!h_n_.present || !y_.present || has_c != c_n_.present ||
      (reserve_.present && has_c != c_.present)) {
    throw ValueError("layer_forward: a result is missing");
  }
  const KernelTable& backend = find_backend(nullptr);
  std::array<WeightCache::Kept, 2> kept;
  for (int d = 0; d < layer.directions; ++d) {
    const auto i = static_cast<size_t>(d);
    ForwardArgs& a = calls[i];
    a.h_n = layer.at(h_n_, "h_n", d);
    a.c_n = layer.at(c_n_, "c_n", d);
    a.c = layer.sequence_at(c_, "c", d);
    a.reserve = layer.sequence_at(reserve_, "reserve", d);
    a.y = layer.columns(y_, H, d);
    if (cache) kept[i] = cache->find(d, backend, a, given.items + i * in.each);
    if (kept[i]) a.packed = kept[i]->packed.get();
  }
  const py::gil_scoped_release release;
  for (int d = 0; d < layer.directions; ++d) forward(backend, calls[static_cast<size_t>(d)]);
}

void layer_backward(const std::string& cell, bool batch_first, bool bidirectional, int threads,
                    py::handle x, py::handle weights, py::handle h0, py::handle c0,
                    py::handle lengths, py::handle mask, py::handle reset, py::handle y,
                    py::handle c, py::handle reserve, py::handle dy, py::handle dh_n,
                    py::handle dc_n, py::handle dx, py::handle dweights, py::handle dh0,
                    py::handle dc0) {
  Layer layer{"layer_backward",      find_cell(cell), batch_first, false,
              bidirectional ? 2 : 1, threads};
  const Tensors given = tensors_of(layer.function, "weights", weights);
  const Tensors results = tensors_of(layer.function, "dweights", dweights);
  const Inputs in = take_inputs(layer, x, given, h0, c0, lengths, mask, reset);
  const CellInfo& info = layer.info();
  if (results.count != given.count)
    throw ValueError("layer_backward: as many gradients as weights are needed");
  std::vector<BackwardArgs> calls(static_cast<size_t>(layer.directions));
  for (int d = 0; d < layer.directions; ++d)
    calls[static_cast<size_t>(d)].forward = forward_args(layer, in, d);

  const ForwardArgs& f = calls[0].forward;
  const int64_t D = layer.directions, T = f.x.shape[0], B = f.x.shape[1], I = f.x.shape[2],
                H = f.w_hh.shape[1];
  const DType dtype = in.x.dtype;
  const auto per_step = [&](int64_t size) {
    return layer.step ? Shape{2, {B, size}} : Shape{4, {D, T, B, size}};
  };
  const Tensor y_ = layer.time_major(
      layer.take("y", y, layer.step ? per_step(H) : layer.in_layout({3, {T, B, D * H}}), dtype));
  const Tensor c_ = layer.take("c", c, per_step(H), dtype);
  const Tensor reserve_ = layer.take("reserve", reserve, per_step(info.reserve * H), dtype);
  if (!y_.present || (info.states == 2) != c_.present || (info.reserve > 0 && !reserve_.present)) {
    throw ValueError("layer_backward: y, c or reserve is missing");
  }
  const Tensor dy_ = layer.time_major(layer.unit_last_stride("dy", layer.take("dy", dy)));
  if (dy_.present && (dy_.rank != 3 || dy_.shape[2] != D * H)) {
    throw ValueError(argument(layer.function, "dy") + " must have the shape of y");
  }
  const Tensor dh_n_ = layer.unit_last_stride("dh_n", layer.take("dh_n", dh_n));
  const Tensor dc_n_ = layer.unit_last_stride("dc_n", layer.take("dc_n", dc_n));
  const Shape state = layer.step ? Shape{2, {B, H}} : Shape{3, {D, B, H}};
  const Tensor dx_ =
      layer.take("dx", dx, layer.step ? per_step(I) : layer.in_layout({4, {D, T, B, I}}), dtype);
  const Tensor dh0_ = layer.take("dh0", dh0, state, dtype),
               dc0_ = layer.take("dc0", dc0, state, dtype);
  const size_t each = in.each;
  const auto dweight = [&](int d, size_t i, const Shape& shape) {
    return i < each ? layer.take("dweights", results.items[static_cast<size_t>(d) * each + i],
                                 shape, dtype)
                    : Tensor{};
  };
  const int64_t GH = info.gates * H;
  for (int d = 0; d < layer.directions; ++d) {
    BackwardArgs& a = calls[static_cast<size_t>(d)];
    a.forward.y = layer.columns(y_, H, d);
    a.forward.c = layer.sequence_at(c_, "c", d);
    a.forward.reserve = layer.sequence_at(reserve_, "reserve", d);
    a.dy = layer.columns(dy_, H, d);
    a.dh_n = layer.at(dh_n_, "dh_n", d);
    a.dc_n = layer.at(dc_n_, "dc_n", d);
    check_backward(layer.function, a, batch_first ? Layout::kBatchFirst : Layout::kTimeMajor);
    a.dx = layer.time_major(layer.at(dx_, "dx", d));  // at() of a step is the step itself
    a.dw_ih = dweight(d, 0, {2, {GH, I}});
    a.dw_hh = dweight(d, 1, {2, {GH, H}});
    a.db_ih = dweight(d, 2, {1, {GH}});
    a.db_hh = dweight(d, 3, {1, {GH}});
    a.dh0 = layer.at(dh0_, "dh0", d);
    a.dc0 = layer.at(dc0_, "dc0", d);
  }
  const KernelTable& backend = find_backend(nullptr);
  const py::gil_scoped_release release;
  for (const BackwardArgs& a : calls) backward(backend, a);
}

// An uninitialised tensor [rows, columns] of torch, of the dtype of `like`.
py::object new_tensor(py::handle like, const Tensor& view, int64_t rows, int64_t columns) {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> empty_like;
  const bool alike = view.present && view.rank == 2 && view.shape[0] == rows &&
                     view.shape[1] == columns && view.stride[1] == 1 && view.stride[0] == columns;
  if (!alike) return like.attr("new_empty")(rows, columns);  // takes 0.4 us more
  const py::object& function = empty_like
                                   .call_once_and_store_result([] {
                                     return py::module_::import("torch").attr("empty_like");
                                   })
                                   .get_stored();
  return py::reinterpret_steal<py::object>(PyObject_CallOneArg(function.ptr(), like.ptr()));
}

// Python strings for the names that every step looks up; they live as long as the process.
struct Names {
  std::array<PyObject*, WeightCache::kWeights> weights = {
      PyUnicode_InternFromString("weight_ih"), PyUnicode_InternFromString("weight_hh"),
      PyUnicode_InternFromString("bias_ih"), PyUnicode_InternFromString("bias_hh")};
  PyObject* is_neg = PyUnicode_InternFromString("is_neg");
};

const Names& names() {
  static const Names made;
  return made;
}

bool negated(py::handle tensor) {  // DLPack does not tell that the sign is still to be flipped
  if (tensor.is_none()) return false;
  const auto answer =
      py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(tensor.ptr(), names().is_neg));
  if (!answer) throw py::error_already_set();
  return answer.ptr() == Py_True;
}

// One step without gradients, of torch.nn's cells, where a call must cost next to nothing: all in
// one go. None where there is anything unusual about it; the caller then finds out what it is.
py::object cell_step(const std::string& cell, int threads, const py::dict& parameters, py::handle x,
                     py::handle h, py::handle c, WeightCache& cache) try {
  std::array<PyObject*, WeightCache::kWeights> weights;
  for (size_t i = 0; i < weights.size(); ++i) {
    weights[i] = PyDict_GetItemWithError(parameters.ptr(), names().weights[i]);
    if (!weights[i]) return py::none();  // weight_norm, parametrize, pruning: an attribute
  }
  const size_t count = weights[2] == Py_None ? 2 : weights.size();
  if (!dlpack::exchange_api(x) || negated(x) || negated(h) || negated(c)) return py::none();
  Layer layer{"layer_forward", find_cell(cell), false, false, 1, threads};
  const Inputs in =
      take_inputs(layer, x, {weights.data(), count}, h, c, py::none(), py::none(), py::none());
  if (!layer.step) return py::none();
  ForwardArgs a = forward_args(layer, in, 0);
  const int64_t B = a.x.shape[1], H = a.w_hh.shape[1];
  const py::object h_n = new_tensor(in.h0.present ? h : x, in.h0, B, H);
  if (!h_n) throw py::error_already_set();
  a.h_n = layer.take("h_n", h_n);
  py::object c_n = py::none();
  if (layer.info().states == 2) {
    c_n = new_tensor(h_n, a.h_n, B, H);
    if (!c_n) throw py::error_already_set();
    a.c_n = layer.take("c_n", c_n);
  }
  a.y = layer.time_major(a.h_n);
  const KernelTable& backend = find_backend(nullptr);
  const WeightCache::Kept kept = cache.find(0, backend, a, weights.data());
  if (kept) a.packed = kept->packed.get();
  {
    const py::gil_scoped_release release;
    forward(backend, a);
  }
  return c_n.is_none() ? h_n : py::make_tuple(h_n, c_n);
} catch (const TypeError&) {
  return py::none();
} catch (const ValueError&) {
  return py::none();
}

}  // namespace

void register_layer(py::module_& m) {
  py::class_<WeightCache>(m, "WeightCache",
                          "The packed weights of a layer, kept for as long as they stay the same.")
      .def(py::init<>())
      .def("clear", &WeightCache::clear, "Forget them.");
  m.def("layer_forward", &layer_forward, py::arg("cell"), py::arg("batch_first"),
        py::arg("bidirectional"), py::arg("threads"), py::arg("x"), py::arg("weights"),
        py::arg("h0"), py::arg("c0"), py::arg("lengths"), py::arg("mask"), py::arg("reset"),
        py::arg("y"), py::arg("h_n"), py::arg("c_n"), py::arg("c"), py::arg("reserve"),
        py::arg("cache"), "Fills y, h_n, c_n, c, reserve.");
  m.def("cell_step", &cell_step, py::arg("cell"), py::arg("threads"), py::arg("parameters"),
        py::arg("x"), py::arg("h"), py::arg("c"), py::arg("cache"),
        "One step of a cell of torch.nn without gradients -> h | (h, c), or None: ask the others.");
  m.def("layer_backward", &layer_backward, py::arg("cell"), py::arg("batch_first"),
        py::arg("bidirectional"), py::arg("threads"), py::arg("x"), py::arg("weights"),
        py::arg("h0"), py::arg("c0"), py::arg("lengths"), py::arg("mask"), py::arg("reset"),
        py::arg("y"), py::arg("c"), py::arg("reserve"), py::arg("dy"), py::arg("dh_n"),
        py::arg("dc_n"), py::arg("dx"), py::arg("dweights"), py::arg("dh0"), py::arg("dc0"),
        "Fills dx, dweights, dh0 and dc0, as far as they are not None.");
}

}  // namespace fastrnn::bindings
