#include "bindings/layer.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "bindings/array.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/weight_cache.hpp"
#include "errors.hpp"
#include "fastrnn.hpp"
#include "memory.hpp"

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

struct Shape {
  int rank;
  int64_t size[kMaxRank];
};

// Python strings for the names that every call looks up; they live as long as the process.
struct Names {
  std::array<PyObject*, WeightCache::kWeights> weights = {
      PyUnicode_InternFromString("weight_ih"), PyUnicode_InternFromString("weight_hh"),
      PyUnicode_InternFromString("bias_ih"), PyUnicode_InternFromString("bias_hh")};
  PyObject* is_neg = PyUnicode_InternFromString("is_neg");
  PyObject* new_empty = PyUnicode_InternFromString("new_empty");
};

const Names& names() {
  static const Names made;
  return made;
}

py::object own(PyObject* result) {
  if (!result) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

// An uninitialised tensor of the dtype of `like`.
py::object new_tensor(py::handle like, const Shape& shape) {
  py::tuple sizes(shape.rank);
  for (int i = 0; i < shape.rank; ++i)
    PyTuple_SET_ITEM(sizes.ptr(), i, PyLong_FromLongLong(shape.size[i]));
  return own(PyObject_CallMethodOneArg(like.ptr(), names().new_empty, sizes.ptr()));
}

// The same of the shape of `like`, which is dense: half the time.
py::object tensor_like(py::handle like) {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> empty_like;
  const py::object& function = empty_like
                                   .call_once_and_store_result([] {
                                     return py::module_::import("torch").attr("empty_like");
                                   })
                                   .get_stored();
  return own(PyObject_CallOneArg(function.ptr(), like.ptr()));
}

bool negated(py::handle tensor) {  // DLPack does not tell that the sign is still to be flipped
  return !tensor.is_none() &&
         own(PyObject_CallMethodNoArgs(tensor.ptr(), names().is_neg)).ptr() == Py_True;
}

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

// A layer's tensors; `d` is the direction: 0 forward, 1 reverse.
//   x [T, B, I]  y [T, B, D*P]  dx [D, T, B, I]        T and B swapped with batch_first
//   h0, h_n [D, B, P]   c0, c_n [D, B, H]   c [D, T, B, H]   reserve [D, T, B, R*H]
//   weights: w_ih, w_hh (, b_ih, b_hh) (, w_hr), D times
// P = H without w_hr. With it, reserve is [D, T, B, R*H + H]: first [T, B, R*H], then the cell's
// output before the projection, [T, B, H].
// One step has x, dx [B, I], states [B, H], reserve [B, R*H]; its y and c are h_n and c_n.
struct Layer {
  const char* function = nullptr;
  int cell = 0;
  bool batch_first = false;
  bool step = false;
  int directions = 1;
  int threads = 1;
  std::vector<py::object> owners;

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

  // what a forward call returned: its shape is known, it was written densely
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

  Shape sequence_shape(int64_t T, int64_t B, int64_t last) const {
    if (step) return {2, {B, last}};
    return batch_first ? Shape{3, {B, T, last}} : Shape{3, {T, B, last}};
  }
  Shape state_shape(int64_t B, int64_t H) const {
    return step ? Shape{2, {B, H}} : Shape{3, {directions, B, H}};
  }
  Shape saved_shape(int64_t T, int64_t B, int64_t last) const {
    return step ? Shape{2, {B, last}} : Shape{4, {directions, T, B, last}};
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

  // the same of c and reserve, [D, T, B, ..]
  Tensor saved_at(const Tensor& tensor, const char* name, int d) const {
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

constexpr size_t kMaxWeights = 5;

struct Inputs {
  Tensor x, h0, c0, lengths, mask, reset;
  Tensors objects;  // the weights as Python has them
  std::array<Tensor, 2 * kMaxWeights> weights;
  size_t each;  // of a direction

  bool biased() const { return each >= 4; }
  bool projected() const { return each % 2 == 1; }
};

void take_weights(Layer& layer, Tensors objects, Inputs& in) {
  in.objects = objects;
  const size_t directions = static_cast<size_t>(layer.directions);
  in.each = objects.count / directions;
  if (objects.count % directions != 0 || in.each < 2 || in.each > kMaxWeights) {
    throw ValueError(argument(layer.function, "weights") +
                     " must be w_ih, w_hh and perhaps b_ih, b_hh and w_hr of each direction");
  }
  static const char* const kNames[] = {"w_ih", "w_hh", "b_ih", "b_hh"};
  for (size_t i = 0; i < objects.count; ++i) {
    const size_t number = i % in.each;
    const bool last = in.projected() && number + 1 == in.each;
    in.weights[i] = layer.take(last ? "w_hr" : kNames[number], objects.items[i]);
  }
}

Inputs take_inputs(Layer& layer, py::handle x, py::handle h0, py::handle c0) {
  Inputs in;
  in.x = layer.unit_last_stride("x", layer.take("x", x));
  layer.step = in.x.rank == 2;
  in.h0 = layer.unit_last_stride("h0", layer.take("h0", h0));
  in.c0 = layer.unit_last_stride("c0", layer.take("c0", c0));
  return in;
}

void take_marks(Layer& layer, py::handle lengths, py::handle mask, py::handle reset, Inputs& in) {
  in.lengths = layer.unit_last_stride("lengths", layer.take("lengths", lengths));
  in.mask = layer.take("mask", mask);
  in.reset = layer.take("reset", reset);
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
  if (in.biased()) a.b_ih = w[2], a.b_hh = w[3];
  if (in.projected()) {
    a.family.on = true;
    a.family.w_hr = w[in.each - 1];
  }
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

// A layer's checked calls, one for each direction.
struct Calls {
  std::array<ForwardArgs, 2> of;
  int64_t T, B, H, P;

  Calls(const Layer& layer, const Inputs& in) {
    for (int d = 0; d < layer.directions; ++d)
      of[static_cast<size_t>(d)] = forward_args(layer, in, d);
    T = of[0].x.shape[0], B = of[0].x.shape[1], P = of[0].w_hh.shape[1];
    H = in.projected() ? of[0].family.w_hr.shape[1] : P;
  }
};

// Units of what is kept for backward at every step.
int64_t reserve_of(const Layer& layer, const Inputs& in, const Calls& calls) {
  return (layer.info().reserve + in.projected()) * calls.H;
}

void set_reserve(const Layer& layer, const Calls& calls, const Tensor& reserve, ForwardArgs& a) {
  a.reserve = reserve;
  if (!reserve.present || !a.family.on) return;
  const auto part = [&](int64_t before, int64_t units) {
    Tensor tensor = reserve;
    tensor.data = static_cast<char*>(reserve.data) +
                  calls.T * calls.B * before * kItemSize[static_cast<int>(reserve.dtype)];
    tensor.shape[2] = units;
    tensor.stride[0] = calls.B * units, tensor.stride[1] = units, tensor.stride[2] = 1;
    return tensor;
  };
  const int64_t own = layer.info().reserve * calls.H;
  a.reserve = part(0, own);
  a.family.output = part(own, calls.H);
}

struct Outputs {
  Tensor y, h_n, c_n, c, reserve;  // y in the caller's layout
};

void run(const Layer& layer, const Inputs& in, Calls& calls, const Outputs& out,
         WeightCache* cache) {
  const KernelTable& backend = find_backend(nullptr);
  const Tensor y = layer.time_major(layer.step ? out.h_n : out.y);
  std::array<WeightCache::Kept, 2> kept;
  for (int d = 0; d < layer.directions; ++d) {
    const auto i = static_cast<size_t>(d);
    ForwardArgs& a = calls.of[i];
    a.y = layer.columns(y, calls.P, d);
    a.h_n = layer.at(out.h_n, "h_n", d);
    a.c_n = layer.at(out.c_n, "c_n", d);
    a.c = layer.saved_at(layer.step ? out.c_n : out.c, "c", d);
    set_reserve(layer, calls, layer.saved_at(out.reserve, "reserve", d), a);
    if (cache && !in.projected())
      kept[i] = cache->find(d, backend, a, in.objects.items + i * in.each);
    if (kept[i]) a.packed = kept[i]->packed.get();
  }
  const py::gil_scoped_release release;
  for (int d = 0; d < layer.directions; ++d) forward(backend, calls.of[static_cast<size_t>(d)]);
}

int find_cell(const std::string& name) {
  for (int i = 0; cell_info(i); ++i) {
    if (name == cell_info(i)->name) return i;
  }
  throw ValueError("no cell is called '" + name + "'");
}

Layer new_layer(const char* function, const std::string& cell, bool batch_first, bool bidirectional,
                int threads) {
  Layer layer;
  layer.function = function;
  layer.cell = find_cell(cell);
  layer.batch_first = batch_first;
  layer.directions = bidirectional ? 2 : 1;
  layer.threads = threads;
  return layer;
}

// -> (y, h_n, c_n, c, reserve), None for what there is not
py::tuple layer_forward(const std::string& cell, bool batch_first, bool bidirectional, int threads,
                        py::handle x, py::handle weights, py::handle h0, py::handle c0,
                        py::handle lengths, py::handle mask, py::handle reset, bool save,
                        bool filled, WeightCache* cache) {
  Layer layer = new_layer("layer_forward", cell, batch_first, bidirectional, threads);
  Inputs in = take_inputs(layer, x, h0, c0);
  take_marks(layer, lengths, mask, reset, in);
  take_weights(layer, tensors_of(layer.function, "weights", weights), in);
  Calls calls(layer, in);
  const int64_t T = calls.T, B = calls.B, H = calls.H, P = calls.P;
  const int64_t kept = reserve_of(layer, in, calls);
  const CellInfo& info = layer.info();
  const bool has_c = info.states == 2;

  py::object y = py::none(), c_n = py::none(), c = py::none(), reserve = py::none();
  if (!layer.step) y = new_tensor(x, layer.sequence_shape(T, B, layer.directions * P));
  const py::object h_n = new_tensor(x, layer.state_shape(B, P));
  if (has_c) c_n = P == H ? tensor_like(h_n) : new_tensor(x, layer.state_shape(B, H));
  if (has_c && save && !layer.step) c = new_tensor(x, layer.saved_shape(T, B, H));
  if (kept > 0 && save) reserve = new_tensor(x, layer.saved_shape(T, B, kept));
  const Outputs out = {layer.take("y", y), layer.take("h_n", h_n), layer.take("c_n", c_n),
                       layer.take("c", c), layer.take("reserve", reserve)};
  if (filled && out.reserve.present) {
    const int64_t count = layer.directions * T * B * kept;
    std::memset(out.reserve.data, 0,
                static_cast<size_t>(count * kItemSize[static_cast<int>(in.x.dtype)]));
  }
  run(layer, in, calls, out, cache);
  return py::make_tuple(y, h_n, c_n, c, reserve);
}

// -> [dx, dh0, dc0, *dweights], None for what is not wanted; dx [D, T, B, I] for two directions
py::list layer_backward(const std::string& cell, bool batch_first, bool bidirectional, int threads,
                        py::handle x, py::handle weights, py::handle h0, py::handle c0,
                        py::handle lengths, py::handle mask, py::handle reset, py::handle y,
                        py::handle c, py::handle reserve, py::handle dy, py::handle dh_n,
                        py::handle dc_n, const std::vector<bool>& wanted) {
  Layer layer = new_layer("layer_backward", cell, batch_first, bidirectional, threads);
  Inputs in = take_inputs(layer, x, h0, c0);
  take_marks(layer, lengths, mask, reset, in);
  take_weights(layer, tensors_of(layer.function, "weights", weights), in);
  Calls calls(layer, in);
  const int64_t D = layer.directions, T = calls.T, B = calls.B, I = in.x.shape[in.x.rank - 1],
                H = calls.H, P = calls.P, kept = reserve_of(layer, in, calls);
  const CellInfo& info = layer.info();
  const DType dtype = in.x.dtype;
  if (wanted.size() != 3 + in.objects.count)
    throw ValueError(argument(layer.function, "wanted") + " must be of x, h0, c0 and the weights");

  const Tensor y_ = layer.time_major(layer.take("y", y, layer.sequence_shape(T, B, D * P), dtype));
  const Tensor c_ = layer.take("c", c, layer.saved_shape(T, B, H), dtype);
  const Tensor reserve_ = layer.take("reserve", reserve, layer.saved_shape(T, B, kept), dtype);
  if (!y_.present || (info.states == 2) != c_.present || (kept > 0 && !reserve_.present)) {
    throw ValueError("layer_backward: y, c or reserve is missing");
  }
  const Tensor dy_ = layer.time_major(layer.unit_last_stride("dy", layer.take("dy", dy)));
  if (dy_.present && (dy_.rank != 3 || dy_.shape[2] != D * P)) {
    throw ValueError(argument(layer.function, "dy") + " must have the shape of y");
  }
  const Tensor dh_n_ = layer.unit_last_stride("dh_n", layer.take("dh_n", dh_n));
  const Tensor dc_n_ = layer.unit_last_stride("dc_n", layer.take("dc_n", dc_n));

  py::list gradients(wanted.size());
  const auto gradient = [&](size_t i, const Shape& shape) -> Tensor {
    if (!wanted[i]) return {};
    gradients[i] = new_tensor(x, shape);
    return layer.take("gradient", gradients[i]);
  };
  for (size_t i = 0; i < wanted.size(); ++i) gradients[i] = py::none();
  const bool two_dx = D == 2;
  Shape dx_shape = layer.sequence_shape(T, B, I);
  if (two_dx) dx_shape = {4, {D, dx_shape.size[0], dx_shape.size[1], I}};
  const Tensor dx_ = gradient(0, dx_shape);
  const Tensor dh0_ = gradient(1, layer.state_shape(B, P));
  const Tensor dc0_ = gradient(2, layer.state_shape(B, H));

  std::array<BackwardArgs, 2> backward_calls;
  const int64_t GH = info.gates * H;
  for (int d = 0; d < layer.directions; ++d) {
    BackwardArgs& a = backward_calls[static_cast<size_t>(d)];
    a.forward = calls.of[static_cast<size_t>(d)];
    a.forward.y = layer.columns(y_, P, d);
    a.forward.c = layer.saved_at(c_, "c", d);
    set_reserve(layer, calls, layer.saved_at(reserve_, "reserve", d), a.forward);
    a.dy = layer.columns(dy_, P, d);
    a.dh_n = layer.at(dh_n_, "dh_n", d);
    a.dc_n = layer.at(dc_n_, "dc_n", d);
    check_backward(layer.function, a, batch_first ? Layout::kBatchFirst : Layout::kTimeMajor);
    const size_t w = 3 + static_cast<size_t>(d) * in.each;
    a.dw_ih = gradient(w, {2, {GH, I}});
    a.dw_hh = gradient(w + 1, {2, {GH, P}});
    if (in.projected()) a.dw_hr = gradient(w + in.each - 1, {2, {P, H}});
    if (in.biased()) {
      a.db_ih = gradient(w + 2, {1, {GH}});
      a.db_hh = gradient(w + 3, {1, {GH}});
    }
    a.dx = layer.time_major(two_dx ? layer.at(dx_, "dx", d) : dx_);
    a.dh0 = layer.at(dh0_, "dh0", d);
    a.dc0 = layer.at(dc0_, "dc0", d);
  }
  const KernelTable& backend = find_backend(nullptr);
  {
    const py::gil_scoped_release release;
    for (int d = 0; d < layer.directions; ++d) {
      backward(backend, backward_calls[static_cast<size_t>(d)]);
    }
  }
  return gradients;
}

// Rows [first, first + count) of a tensor's first axis.
Tensor rows_of(Tensor tensor, int64_t first, int64_t count) {
  if (!tensor.present) return tensor;
  tensor.data = static_cast<char*>(tensor.data) +
                first * tensor.stride[0] * kItemSize[static_cast<int>(tensor.dtype)];
  tensor.shape[0] = count;
  return tensor;
}

// A whole stack without gradients and dropout, where a call must cost next to nothing: all in one
// go. None where there is anything unusual about it; the caller then finds out what it is.
//   h0, c0, h_n, c_n [L*D, B, H]   -> (y, h_n) or (y, h_n, c_n)
py::object stack_forward(const std::string& cell, bool batch_first, bool bidirectional, int threads,
                         py::handle x, py::handle weights, py::handle h0, py::handle c0,
                         const std::vector<WeightCache*>& caches) try {
  Layer layer = new_layer("stack_forward", cell, batch_first, bidirectional, threads);
  if (!dlpack::exchange_api(x) || negated(x) || negated(h0) || negated(c0)) return py::none();
  Inputs in = take_inputs(layer, x, h0, c0);
  const Tensors all = tensors_of(layer.function, "weights", weights);
  const int64_t D = layer.directions, L = static_cast<int64_t>(caches.size());
  if (in.x.rank != 3 || in.x.shape[batch_first ? 1 : 0] == 0 || L == 0) return py::none();
  const Tensor h0_ = in.h0, c0_ = in.c0;
  for (const Tensor* state : {&h0_, &c0_}) {
    if (state->present && (state->rank != 3 || state->shape[0] != L * D)) return py::none();
  }
  py::object y, h_n, c_n;
  Outputs out;
  Tensor h_n_, c_n_;
  std::array<Memory, 2> between;  // y of a layer that is x of the next one
  for (int64_t l = 0; l < L; ++l) {
    const size_t each = all.count / static_cast<size_t>(L), at = static_cast<size_t>(l) * each;
    take_weights(layer, {all.items + at, each}, in);
    in.h0 = rows_of(h0_, l * D, D);
    in.c0 = rows_of(c0_, l * D, D);
    Calls calls(layer, in);
    const Shape shape = layer.sequence_shape(calls.T, calls.B, D * calls.P);
    if (l == 0) {
      y = new_tensor(x, shape);
      h_n = new_tensor(x, {3, {L * D, calls.B, calls.P}});
      h_n_ = layer.take("h_n", h_n);
      if (layer.info().states == 2) {
        c_n = in.projected() ? new_tensor(x, {3, {L * D, calls.B, calls.H}}) : tensor_like(h_n);
        c_n_ = layer.take("c_n", c_n);
      }
      out.y = layer.take("y", y);
    }
    const Tensor whole = out.y;
    if (l + 1 < L) {
      Memory& memory = between[static_cast<size_t>(l % 2)];
      if (!memory) {
        memory = allocate(shape.size[0] * shape.size[1] * shape.size[2] *
                          kItemSize[static_cast<int>(in.x.dtype)]);
      }
      out.y.data = memory.get();
    }
    out.h_n = rows_of(h_n_, l * D, D);
    out.c_n = rows_of(c_n_, l * D, D);
    run(layer, in, calls, out, caches[static_cast<size_t>(l)]);
    in.x = out.y;
    out.y = whole;
  }
  if (!c_n) return py::make_tuple(y, h_n);
  return py::make_tuple(y, h_n, c_n);
} catch (const TypeError&) {
  return py::none();
} catch (const ValueError&) {
  return py::none();
}

// The same for one step of a cell of torch.nn -> h or (h, c)
py::object cell_step(const std::string& cell, int threads, const py::dict& parameters, py::handle x,
                     py::handle h, py::handle c, WeightCache& cache) try {
  std::array<PyObject*, WeightCache::kWeights> weights;
  for (size_t i = 0; i < weights.size(); ++i) {
    weights[i] = PyDict_GetItemWithError(parameters.ptr(), names().weights[i]);
    if (!weights[i]) return py::none();  // weight_norm, parametrize, pruning: an attribute
  }
  if (!dlpack::exchange_api(x) || negated(x) || negated(h) || negated(c)) return py::none();
  Layer layer = new_layer("cell_step", cell, false, false, threads);
  Inputs in = take_inputs(layer, x, h, c);
  if (!layer.step) return py::none();
  take_weights(layer, {weights.data(), weights[2] == Py_None ? 2 : weights.size()}, in);
  Calls calls(layer, in);
  const Tensor& like = in.h0;
  const bool dense = like.present && like.stride[1] == 1 && like.stride[0] == calls.H;
  py::object h_n = dense ? tensor_like(h) : new_tensor(x, layer.state_shape(calls.B, calls.H));
  Outputs out;
  out.h_n = layer.take("h_n", h_n);
  py::object c_n;
  if (layer.info().states == 2) {
    c_n = tensor_like(h_n);
    out.c_n = layer.take("c_n", c_n);
  }
  run(layer, in, calls, out, &cache);
  if (!c_n) return h_n;
  return py::make_tuple(h_n, c_n);
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
      .def("clear", &WeightCache::clear, "Forget them.")
      .def_property_readonly("filled", &WeightCache::filled, "Whether there are any.");
  m.def("layer_forward", &layer_forward, py::arg("cell"), py::arg("batch_first"),
        py::arg("bidirectional"), py::arg("threads"), py::arg("x"), py::arg("weights"),
        py::arg("h0"), py::arg("c0"), py::arg("lengths"), py::arg("mask"), py::arg("reset"),
        py::arg("save"), py::arg("filled"), py::arg("cache"),
        "-> (y | None, h_n, c_n | None, c | None, reserve | None)");
  m.def("layer_backward", &layer_backward, py::arg("cell"), py::arg("batch_first"),
        py::arg("bidirectional"), py::arg("threads"), py::arg("x"), py::arg("weights"),
        py::arg("h0"), py::arg("c0"), py::arg("lengths"), py::arg("mask"), py::arg("reset"),
        py::arg("y"), py::arg("c"), py::arg("reserve"), py::arg("dy"), py::arg("dh_n"),
        py::arg("dc_n"), py::arg("wanted"), "-> [dx, dh0, dc0, *dweights], None if not wanted");
  m.def("stack_forward", &stack_forward, py::arg("cell"), py::arg("batch_first"),
        py::arg("bidirectional"), py::arg("threads"), py::arg("x"), py::arg("weights"),
        py::arg("h0"), py::arg("c0"), py::arg("caches"),
        "All layers without gradients -> (y, h_n) | (y, h_n, c_n), or None: take the other way.");
  m.def("cell_step", &cell_step, py::arg("cell"), py::arg("threads"), py::arg("parameters"),
        py::arg("x"), py::arg("h"), py::arg("c"), py::arg("cache"),
        "One step of a cell without gradients -> h | (h, c), or None: take the other way.");
}

}  // namespace fastrnn::bindings
