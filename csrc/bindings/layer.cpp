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
#include "bindings/new_tensor.hpp"
#include "bindings/others_run.hpp"
#include "bindings/plan.hpp"
#include "bindings/weight_cache.hpp"
#include "errors.hpp"
#include "fastrnn.hpp"
#include "memory.hpp"

namespace fastrnn::bindings {
namespace {

bool negated(py::handle tensor) {  // DLPack does not tell that the sign is still to be flipped
  static PyObject* const kIsNeg = PyUnicode_InternFromString("is_neg");
  return !tensor.is_none() && own(PyObject_CallMethodNoArgs(tensor.ptr(), kIsNeg)).ptr() == Py_True;
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
//   h0, h_n [D, B, P]   c0, c_n [D, B, H]   c [D, T, B, H]   reserve [D, T, B, kept]
//   weights: w_ih, w_hh (, b_ih, b_hh) (, w_hr) (, peephole) (, gain_ih, gain_hh (, gain_c,
//   bias_c)), D times
// P = H without w_hr. The parts of reserve (KeptUnits) lie one after the other, [T, B, units] each.
// One step has x, dx [B, I], states [B, H], reserve [B, kept]; its y and c are h_n and c_n.
// A packed sequence has its N rows of all steps in the place of [T, B].
struct Layer {
  const char* function;
  const Plan& plan;
  int threads;
  const KernelTable* backend = nullptr;
  Place place;  // where x lies, and so all others
  bool step = false;
  std::vector<int64_t> starts, lengths;  // of a packed sequence, whose last start is N
  std::vector<py::object> owners;
  const PyTypeObject* type = nullptr;  // of the last tensor, and what there is for it
  const dlpack::ExchangeAPI* api = nullptr;

  Layer(const char* name, const Plan& of, int on) : function(name), plan(of), threads(on) {}

  const CellInfo& info() const { return plan.info(); }

  Tensor take(const char* name, py::handle object) {
    if (object.is_none()) return {};
    if (Py_TYPE(object.ptr()) != type) {
      type = Py_TYPE(object.ptr());
      api = dlpack::exchange_api(object);
    }
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
    const bool visible = api->view(object.ptr(), &seen) == 0;
    if (!visible) PyErr_Clear();  // a tensor without memory: meta
    const std::optional<DType> dtype = visible ? bindings::dtype_of(seen.dtype) : std::nullopt;
    const bool readable = visible && (seen.device.type == dlpack::kCPU ||
                                      (seen.device.type == dlpack::kCUDA && api->current_stream));
    if (!dtype || !readable) {
      throw TypeError(argument(function, name) +
                      " must be on the CPU or a CUDA device, of a dtype that the core knows");
    }
    return view_of(seen, *dtype);
  }

  Tensor take_x(py::handle object) {
    const Tensor x = take("x", object);
    place.device = x.device;
    if (place.on_host()) {
      backend = &find_backend(nullptr);
    } else {
      backend = &cuda_backend(function, place);
      find_stream(object, place);
    }
    return x;
  }

  // A new tensor of the framework of `like`, and its view.
  py::object empty(py::handle like, const Shape& shape, DType dtype, Tensor& view,
                   For whom = For::kUser) {
    NewTensor made = new_tensor(like, shape, dtype, place.device, whom);
    view = made.view.present ? made.view : take("result", made.object);
    return std::move(made.object);
  }
  // of what is kept of c
  py::object empty_c(py::handle like, const Shape& shape, DType dtype, Tensor& view,
                     For whom = For::kUser) {
    if (compute_dtype(dtype) == dtype) return empty(like, shape, dtype, view, whom);
    py::object made = new_like(like, {shape.size, shape.size + shape.rank}, "float32");
    view = take("result", made);
    return made;
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

  bool packed() const { return !starts.empty(); }
  int64_t packed_rows() const { return starts.back(); }
  int64_t rows_of_all(int64_t T, int64_t B) const { return packed() ? packed_rows() : T * B; }

  // `sizes` [T] int64: how many rows take each step
  void take_batch_sizes(const Tensor& sizes, int64_t rows) {
    const auto fail = [&](const std::string& what) {
      throw ValueError(argument(function, "batch_sizes") + " must be " + what);
    };
    if (!place.on_host() || sizes.device != kHost) fail("on the CPU, as x is");
    if (sizes.dtype != DType::kInt64 || sizes.rank != 1 || sizes.shape[0] == 0)
      fail("int64, of shape (T,), T > 0");
    const int64_t T = sizes.shape[0];
    const auto at = [&](int64_t t) {
      return static_cast<const int64_t*>(sizes.data)[t * sizes.stride[0]];
    };
    const int64_t B = at(0);
    if (B <= 0 || B > rows) fail("positive, with no more rows than x has");
    starts.reserve(static_cast<size_t>(T) + 1);
    starts.push_back(0);
    lengths.assign(static_cast<size_t>(B), T);
    for (int64_t t = 0, before = B; t < T; ++t) {
      const int64_t now = at(t);
      if (now <= 0 || now > before) fail("positive and never rising");
      for (; before > now; --before) lengths[static_cast<size_t>(before) - 1] = t;
      starts.push_back(starts.back() + now);
      if (starts.back() > rows) break;
    }
    if (packed_rows() != rows) fail("of as many rows together as x has: " + std::to_string(rows));
  }

  // the view [T, B, ..]: of a step [B, ..] it is [1, B, ..], of packed rows [N, ..] with starts
  Tensor time_major(Tensor tensor) const {
    if (packed() && tensor.present) {
      if (tensor.rank != 2 || tensor.shape[0] != packed_rows())
        throw ValueError(std::string(function) + ": a tensor does not have the rows of x");
      tensor.rank = 3;
      tensor.shape[2] = tensor.shape[1], tensor.stride[2] = tensor.stride[1];
      tensor.shape[1] = static_cast<int64_t>(lengths.size()), tensor.stride[1] = tensor.stride[0];
      tensor.shape[0] = static_cast<int64_t>(starts.size()) - 1, tensor.stride[0] = 0;
      tensor.starts = starts.data();
    } else if (step && tensor.present) {
      for (int i = kMaxRank - 1; i > 0; --i)
        tensor.shape[i] = tensor.shape[i - 1], tensor.stride[i] = tensor.stride[i - 1];
      tensor.shape[0] = 1, tensor.stride[0] = 0;
      tensor.rank += 1;
    } else if (plan.batch_first) {
      swap_first_two(tensor);
    }
    return tensor;
  }

  Shape sequence_shape(int64_t T, int64_t B, int64_t last) const {
    if (step) return {2, {B, last}};
    if (packed()) return {2, {packed_rows(), last}};
    return plan.batch_first ? Shape{3, {B, T, last}} : Shape{3, {T, B, last}};
  }
  Shape state_shape(int64_t B, int64_t H) const {
    return step ? Shape{2, {B, H}} : Shape{3, {plan.directions, B, H}};
  }
  Shape saved_shape(int64_t T, int64_t B, int64_t last) const {
    if (packed()) return {3, {plan.directions, packed_rows(), last}};
    return step ? Shape{2, {B, last}} : Shape{4, {plan.directions, T, B, last}};
  }

  // tensor[d], for a tensor whose first axis is the direction
  Tensor at(Tensor tensor, const char* name, int d) const {
    if (!tensor.present || step) return tensor;
    if (tensor.rank < 2 || tensor.rank > kMaxRank || tensor.shape[0] != plan.directions) {
      throw ValueError(argument(function, name) + " must have " + std::to_string(plan.directions) +
                       " on its first axis");
    }
    tensor.data = static_cast<char*>(tensor.data) + d * tensor.stride[0] * item_size(tensor.dtype);
    tensor.rank -= 1;
    for (int i = 0; i < tensor.rank; ++i)
      tensor.shape[i] = tensor.shape[i + 1], tensor.stride[i] = tensor.stride[i + 1];
    return tensor;
  }

  // the same of c and reserve, [D, T, B, ..]
  Tensor saved_at(const Tensor& tensor, const char* name, int d) const {
    if (packed()) return time_major(at(tensor, name, d));
    return step ? time_major(tensor) : at(tensor, name, d);
  }

  // the columns of direction d in a [T, B, D*H] view
  Tensor columns(Tensor tensor, int64_t H, int d) const {
    if (!tensor.present) return tensor;
    tensor.data = static_cast<char*>(tensor.data) + d * H * item_size(tensor.dtype);
    tensor.shape[2] = H;
    return tensor;
  }
};

constexpr size_t kMaxWeights = 10;

struct Inputs {
  Tensor x, h0, c0, lengths, mask, reset;
  Tensors objects;  // the weights as Python has them
  std::array<Tensor, 2 * kMaxWeights> weights;
  size_t each;  // of a direction
  bool biased, projected;
  std::array<uint64_t, 2> keys = {};  // of the masks, by direction
  bool training = false;              // there are masks
};

void take_weights(Layer& layer, Tensors objects, Inputs& in) {
  const size_t D = static_cast<size_t>(layer.plan.directions), extras = layer.plan.extras();
  in.objects = objects;
  in.each = objects.count / D;
  const size_t plain = in.each - extras;  // w_ih, w_hh, perhaps b_ih, b_hh, perhaps w_hr
  if (objects.count % D != 0 || in.each < extras + 2 || plain > 5) {
    throw ValueError(argument(layer.function, "weights") +
                     " must be w_ih, w_hh and perhaps b_ih, b_hh and w_hr of each direction, "
                     "followed by those of its options");
  }
  in.biased = plain >= 4;
  in.projected = plain % 2 == 1;
  static const char* const kNames[] = {"w_ih", "w_hh", "b_ih", "b_hh"};
  for (size_t i = 0; i < objects.count; ++i) {
    const size_t number = i % in.each;
    const bool named = number + in.projected < plain;
    in.weights[i] = layer.take(named ? kNames[number] : "weights", objects.items[i]);
  }
}

Inputs take_inputs(Layer& layer, py::handle x, py::handle h0, py::handle c0,
                   py::handle batch_sizes = py::none()) {
  Inputs in;
  in.x = layer.unit_last_stride("x", layer.take_x(x));
  layer.step = in.x.rank == 2 && batch_sizes.is_none();
  if (!batch_sizes.is_none())
    layer.take_batch_sizes(layer.take("batch_sizes", batch_sizes), in.x.shape[0]);
  in.h0 = layer.unit_last_stride("h0", layer.take("h0", h0));
  in.c0 = layer.unit_last_stride("c0", layer.take("c0", c0));
  return in;
}

// The family's tensors and masks in direction d.
void set_family(const Layer& layer, const Inputs& in, int d, Family& f) {
  const Plan& plan = layer.plan;
  if (!plan.family.on && !in.projected) return;
  f = plan.family;
  f.on = true;
  f.training = in.training;
  f.seed = in.keys[static_cast<size_t>(d)];
  const Tensor* w = &in.weights[static_cast<size_t>(d + 1) * in.each - plan.extras()];
  if (in.projected) f.w_hr = w[-1];
  if (f.peephole.present) f.peephole = *w++;
  if (plan.norms() >= 2) f.gain_ih = w[0], f.gain_hh = w[1];
  if (plan.norms() == 4) f.gain_c = w[2], f.bias_c = w[3];
}

// Into `a`, which is fresh: it is too large to be handed about in a call of one step.
void set_arguments(const Layer& layer, const Inputs& in, int d, ForwardArgs& a) {
  a.cell = layer.plan.cell;
  a.reverse = d == 1;
  a.threads = layer.threads;
  a.stream = layer.place.stream;
  a.x = layer.time_major(in.x);
  const Tensor* w = &in.weights[static_cast<size_t>(d) * in.each];
  a.w_ih = w[0];
  a.w_hh = w[1];
  if (in.biased) a.b_ih = w[2], a.b_hh = w[3];
  set_family(layer, in, d, a.family);
  a.h0 = layer.at(in.h0, "h0", d);
  a.c0 = layer.at(in.c0, "c0", d);
  a.lengths = in.lengths;
  if (layer.packed()) {
    a.lengths.data = const_cast<int64_t*>(layer.lengths.data());
    a.lengths.present = true;
    a.lengths.dtype = DType::kInt64;
    a.lengths.rank = 1;
    a.lengths.shape[0] = a.x.shape[1], a.lengths.stride[0] = 1;
  }
  a.mask = layer.time_major(in.mask);
  a.reset = layer.time_major(in.reset);
  check_forward(layer.function, *layer.backend, a,
                layer.step               ? Layout::kStep
                : layer.plan.batch_first ? Layout::kBatchFirst
                                         : Layout::kTimeMajor);
}

// A layer's checked calls, one for each direction.
struct Calls {
  std::array<ForwardArgs, 2> of;
  int64_t T, B, H, P;

  Calls(const Layer& layer, const Inputs& in) {
    for (int d = 0; d < layer.plan.directions; ++d)
      set_arguments(layer, in, d, of[static_cast<size_t>(d)]);
    if (layer.plan.directions == 2) check_directions(layer.function, of[0], of[1]);
    T = of[0].x.shape[0], B = of[0].x.shape[1], P = of[0].w_hh.shape[1];
    H = in.projected ? of[0].family.w_hr.shape[1] : P;
  }
};

void set_reserve(const Layer& layer, const Calls& calls, const KeptUnits& kept,
                 const Tensor& reserve, ForwardArgs& a) {
  if (!reserve.present) return;
  const int64_t rows = layer.rows_of_all(calls.T, calls.B);
  int64_t before = 0;
  const auto part = [&](int64_t units) -> Tensor {
    if (units == 0) return {};
    Tensor tensor = reserve;
    tensor.data = static_cast<char*>(reserve.data) + rows * before * item_size(reserve.dtype);
    tensor.shape[2] = units;
    tensor.stride[0] = calls.B * units, tensor.stride[1] = units, tensor.stride[2] = 1;
    before += units;
    return tensor;
  };
  a.reserve = part(kept.reserve);
  a.family.output = part(kept.output);
  a.family.norms = part(kept.norms);
}

struct Outputs {
  Tensor y, h_n, c_n, c, reserve;  // y in the caller's layout
};

// Memory of the device for a call on `x`, empty on the host.
struct DeviceWorkspace {
  py::object owner;
  void* data = nullptr;

  DeviceWorkspace(py::handle x, int64_t bytes) {
    if (bytes == 0) return;
    owner = new_like(x, {bytes}, "uint8");
    dlpack::Tensor seen;
    if (dlpack::exchange_api(owner)->view(owner.ptr(), &seen) != 0) throw py::error_already_set();
    data = seen.data;
  }
};

void run(const Layer& layer, py::handle x, const Inputs& in, Calls& calls, const Outputs& out,
         WeightCache* cache) {
  const KernelTable& backend = *layer.backend;
  const Tensor y = layer.time_major(layer.step ? out.h_n : out.y);
  const KeptUnits units = layer.plan.kept(calls.H, in.projected);
  std::array<WeightCache::Kept, 2> kept;
  for (int d = 0; d < layer.plan.directions; ++d) {
    const auto i = static_cast<size_t>(d);
    ForwardArgs& a = calls.of[i];
    a.y = layer.columns(y, calls.P, d);
    a.h_n = layer.at(out.h_n, "h_n", d);
    a.c_n = layer.at(out.c_n, "c_n", d);
    a.c = layer.saved_at(layer.step ? out.c_n : out.c, "c", d);
    set_reserve(layer, calls, units, layer.saved_at(out.reserve, "reserve", d), a);
    if (cache && !a.family.on && layer.place.on_host())
      kept[i] = cache->find(d, backend, a, in.objects.items + i * in.each);
    if (kept[i]) a.packed = kept[i]->packed.get();
  }
  int64_t bytes = 0;
  for (const ForwardArgs& a : calls.of) {
    if (a.x.present) bytes = std::max(bytes, device_workspace(backend, a));
  }
  const DeviceWorkspace workspace(x, bytes);
  const OthersRun others(calls.of[0]);
  for (int d = 0; d < layer.plan.directions; ++d)
    forward(backend, calls.of[static_cast<size_t>(d)], workspace.data);
}

int find_cell(const std::string& name) {
  for (int i = 0; cell_info(i); ++i) {
    if (name == cell_info(i)->name) return i;
  }
  throw ValueError("no cell is called '" + name + "'");
}

// `settings` as family_of() reads them, or None; its arrays say only which there are
Plan make_plan(const std::string& cell, bool batch_first, bool bidirectional, py::handle settings) {
  Plan plan{find_cell(cell), batch_first, bidirectional ? 2 : 1, {}};
  plan.family = family_of(plan.info(), settings, [](const char*, py::handle object) {
    Tensor tensor;
    tensor.present = !object.is_none();
    return tensor;
  });
  return plan;
}

// The inputs of fastrnn.torch.spec.Inputs, in its order.
Inputs take_inputs(Layer& layer, const py::tuple& inputs, py::handle keys, py::handle batch_sizes) {
  if (inputs.size() != 8) throw ValueError(argument(layer.function, "inputs") + " must be 8");
  const py::handle x = inputs[0], weights = inputs[1], h0 = inputs[2], c0 = inputs[3],
                   lengths = inputs[4], mask = inputs[5], reset = inputs[6];
  Inputs in = take_inputs(layer, x, h0, c0, batch_sizes);
  in.lengths = layer.unit_last_stride("lengths", layer.take("lengths", lengths));
  in.mask = layer.take("mask", mask);
  in.reset = layer.take("reset", reset);
  take_weights(layer, tensors_of(layer.function, "weights", weights), in);
  if (!keys.is_none()) {
    in.training = true;
    const py::tuple each = py::reinterpret_borrow<py::tuple>(keys);
    for (size_t d = 0; d < each.size() && d < in.keys.size(); ++d)
      in.keys[d] = py::cast<uint64_t>(each[d]);
  }
  return in;
}

// -> (y, h_n, c_n, c, reserve), None for what there is not
py::tuple layer_forward(const Plan& plan, int threads, const py::tuple& inputs, py::handle keys,
                        bool save, bool filled, WeightCache* cache, py::handle batch_sizes) {
  Layer layer("layer_forward", plan, threads);
  const Inputs in = take_inputs(layer, inputs, keys, batch_sizes);
  Calls calls(layer, in);
  const int64_t T = calls.T, B = calls.B, H = calls.H, P = calls.P, D = plan.directions;
  const int64_t kept = plan.kept(H, in.projected).all();
  const DType dtype = in.x.dtype;
  const bool has_c = layer.info().states == 2;

  const py::handle x = inputs[0];
  py::object y = py::none(), c_n = py::none(), c = py::none(), reserve = py::none();
  Outputs out;
  if (!layer.step) y = layer.empty(x, layer.sequence_shape(T, B, D * P), dtype, out.y);
  const py::object h_n = layer.empty(x, layer.state_shape(B, P), dtype, out.h_n);
  if (has_c) c_n = layer.empty_c(x, layer.state_shape(B, H), dtype, out.c_n);
  if (has_c && save && !layer.step)
    c = layer.empty_c(x, layer.saved_shape(T, B, H), dtype, out.c, For::kAutograd);
  if (kept > 0 && save)
    reserve = layer.empty(x, layer.saved_shape(T, B, kept), dtype, out.reserve, For::kAutograd);
  if (filled && out.reserve.present && layer.place.on_host()) {  // CUDA fills it itself
    std::memset(out.reserve.data, 0,
                static_cast<size_t>(D * layer.rows_of_all(T, B) * kept * item_size(dtype)));
  }
  run(layer, x, in, calls, out, cache);
  return py::make_tuple(y, h_n, c_n, c, reserve);
}

// -> [dx, dh0, dc0, *dweights], None for what is not wanted; dx [D, T, B, I] for two directions
py::list layer_backward(const Plan& plan, int threads, const py::tuple& inputs, py::handle keys,
                        py::handle y, py::handle c, py::handle reserve, py::handle dy,
                        py::handle dh_n, py::handle dc_n, const std::vector<bool>& wanted,
                        py::handle batch_sizes) {
  Layer layer("layer_backward", plan, threads);
  const Inputs in = take_inputs(layer, inputs, keys, batch_sizes);
  Calls calls(layer, in);
  const KeptUnits kept = plan.kept(calls.H, in.projected);
  const int64_t D = plan.directions, T = calls.T, B = calls.B, I = in.x.shape[in.x.rank - 1],
                H = calls.H, P = calls.P;
  const DType dtype = in.x.dtype;
  if (wanted.size() != 3 + in.objects.count)
    throw ValueError(argument(layer.function, "wanted") + " must be of x, h0, c0 and the weights");

  const Tensor y_ = layer.time_major(layer.take("y", y, layer.sequence_shape(T, B, D * P), dtype));
  const Tensor c_ = layer.take("c", c, layer.saved_shape(T, B, H), compute_dtype(dtype));
  const Tensor reserve_ =
      layer.take("reserve", reserve, layer.saved_shape(T, B, kept.all()), dtype);
  if (!y_.present || (layer.info().states == 2) != c_.present ||
      (kept.all() > 0 && !reserve_.present)) {
    throw ValueError("layer_backward: y, c or reserve is missing");
  }
  const Tensor dy_ = layer.time_major(layer.unit_last_stride("dy", layer.take("dy", dy)));
  if (dy_.present && (dy_.rank != 3 || dy_.shape[2] != D * P)) {
    throw ValueError(argument(layer.function, "dy") + " must have the shape of y");
  }
  const Tensor dh_n_ = layer.unit_last_stride("dh_n", layer.take("dh_n", dh_n));
  const Tensor dc_n_ = layer.unit_last_stride("dc_n", layer.take("dc_n", dc_n));

  py::list gradients(wanted.size());
  const py::handle x = inputs[0];
  const auto gradient = [&](size_t i, const Shape& shape) -> Tensor {
    constexpr size_t kX = 0, kC0 = 2;
    Tensor view;
    if (!wanted[i]) {
      gradients[i] = py::none();
    } else if (i == kC0) {
      gradients[i] = layer.empty_c(x, shape, dtype, view);
    } else {
      gradients[i] = layer.empty(x, shape, dtype, view, i == kX ? For::kAutograd : For::kUser);
    }
    return view;
  };
  const bool two_dx = D == 2;
  Shape dx_shape = layer.sequence_shape(T, B, I);
  if (two_dx) {
    std::copy_backward(dx_shape.size, dx_shape.size + dx_shape.rank,
                       dx_shape.size + dx_shape.rank + 1);
    dx_shape.size[0] = D;
    ++dx_shape.rank;
  }
  const Tensor dx_ = gradient(0, dx_shape);
  const Tensor dh0_ = gradient(1, layer.state_shape(B, P));
  const Tensor dc0_ = gradient(2, layer.state_shape(B, H));

  std::array<BackwardArgs, 2> backward_calls;
  for (int d = 0; d < plan.directions; ++d) {
    BackwardArgs& a = backward_calls[static_cast<size_t>(d)];
    a.forward = calls.of[static_cast<size_t>(d)];
    a.forward.y = layer.columns(y_, P, d);
    a.forward.c = layer.saved_at(c_, "c", d);
    set_reserve(layer, calls, kept, layer.saved_at(reserve_, "reserve", d), a.forward);
    a.dy = layer.columns(dy_, P, d);
    a.dh_n = layer.at(dh_n_, "dh_n", d);
    a.dc_n = layer.at(dc_n_, "dc_n", d);
    check_backward(layer.function, a, plan.batch_first ? Layout::kBatchFirst : Layout::kTimeMajor);
    size_t i = static_cast<size_t>(d) * in.each;
    const auto next = [&] {  // of the next weight
      const Tensor& w = in.weights[i];
      return gradient(3 + i++, {w.rank, {w.shape[0], w.shape[1]}});
    };
    a.dw_ih = next();
    a.dw_hh = next();
    if (in.biased) a.db_ih = next(), a.db_hh = next();
    if (in.projected) a.dw_hr = next();
    if (plan.family.peephole.present) a.dpeephole = next();
    if (plan.norms() >= 2) a.dgain_ih = next(), a.dgain_hh = next();
    if (plan.norms() == 4) a.dgain_c = next(), a.dbias_c = next();
    a.dx = layer.time_major(two_dx ? layer.at(dx_, "dx", d) : dx_);
    a.dh0 = layer.at(dh0_, "dh0", d);
    a.dc0 = layer.at(dc0_, "dc0", d);
  }
  int64_t bytes = 0;
  for (int d = 0; d < plan.directions; ++d) {
    const BackwardArgs& a = backward_calls[static_cast<size_t>(d)];
    bytes = std::max(bytes, device_workspace(*layer.backend, a));
  }
  const DeviceWorkspace workspace(x, bytes);
  {
    const py::gil_scoped_release release;
    for (int d = 0; d < plan.directions; ++d)
      backward(*layer.backend, backward_calls[static_cast<size_t>(d)], workspace.data);
  }
  return gradients;
}

// Rows [first, first + count) of a tensor's first axis.
Tensor rows_of(Tensor tensor, int64_t first, int64_t count) {
  if (!tensor.present) return tensor;
  tensor.data =
      static_cast<char*>(tensor.data) + first * tensor.stride[0] * item_size(tensor.dtype);
  tensor.shape[0] = count;
  return tensor;
}

// A whole stack without gradients and dropout, where a call must cost next to nothing: all in one
// go. None where there is anything unusual about it; the caller then finds out what it is.
//   h0, c0, h_n, c_n [L*D, B, H]   -> (y, h_n) or (y, h_n, c_n)
py::object stack_forward(const Plan& plan, int threads, py::handle x, py::handle weights,
                         py::handle h0, py::handle c0,
                         const std::vector<WeightCache*>& caches) try {
  Layer layer("stack_forward", plan, threads);
  if (!dlpack::exchange_api(x) || negated(x) || negated(h0) || negated(c0)) return py::none();
  Inputs in = take_inputs(layer, x, h0, c0);
  const Tensors all = tensors_of(layer.function, "weights", weights);
  const int64_t D = plan.directions, L = static_cast<int64_t>(caches.size());
  if (!layer.place.on_host() || in.x.rank != 3 || in.x.shape[plan.batch_first ? 1 : 0] == 0 ||
      L == 0)
    return py::none();
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
    const DType dtype = in.x.dtype;
    const Shape shape = layer.sequence_shape(calls.T, calls.B, D * calls.P);
    if (l == 0) {
      y = layer.empty(x, shape, dtype, out.y);
      h_n = layer.empty(x, {3, {L * D, calls.B, calls.P}}, dtype, h_n_);
      if (layer.info().states == 2)
        c_n = layer.empty(x, {3, {L * D, calls.B, calls.H}}, dtype, c_n_);
    } else if (calls.P != h_n_.shape[2] || (c_n && calls.H != c_n_.shape[2])) {
      return py::none();
    }
    const Tensor whole = out.y;
    if (l + 1 < L) {
      Memory& memory = between[static_cast<size_t>(l % 2)];
      if (!memory) {
        memory = allocate(shape.size[0] * shape.size[1] * shape.size[2] * item_size(dtype));
      }
      out.y.data = memory.get();
    }
    out.h_n = rows_of(h_n_, l * D, D);
    out.c_n = rows_of(c_n_, l * D, D);
    run(layer, x, in, calls, out, caches[static_cast<size_t>(l)]);
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

// The weights of a cell of torch.nn among its parameters; fewer where one is not a parameter but an
// attribute (weight_norm, parametrize, pruning).
std::vector<PyObject*> cell_weights(const Plan& plan, const py::dict& parameters) {
  static PyObject* const kNames[] = {
      PyUnicode_InternFromString("weight_ih"), PyUnicode_InternFromString("weight_hh"),
      PyUnicode_InternFromString("bias_ih"),   PyUnicode_InternFromString("bias_hh"),
      PyUnicode_InternFromString("peephole"),  PyUnicode_InternFromString("gain_ih"),
      PyUnicode_InternFromString("gain_hh"),   PyUnicode_InternFromString("gain_c"),
      PyUnicode_InternFromString("bias_c")};
  constexpr size_t kPeephole = 4, kNorms = 5;
  std::vector<PyObject*> weights;
  weights.reserve(std::size(kNames));
  for (size_t i = 0; i < kNorms + plan.norms(); ++i) {
    if (i == kPeephole && !plan.family.peephole.present) continue;
    PyObject* const weight = PyDict_GetItemWithError(parameters.ptr(), kNames[i]);
    if (weight && weight != Py_None) weights.push_back(weight);
    if (!weight) return {};
  }
  return weights;
}

// The same for one step of a cell -> h or (h, c)
py::object cell_step(const Plan& plan, int threads, const py::dict& parameters, py::handle x,
                     py::handle h, py::handle c, WeightCache& cache) try {
  for (const py::handle tensor : {x, h, c}) {
    if (!tensor.is_none() && (!dlpack::exchange_api(tensor) || negated(tensor))) return py::none();
  }
  std::vector<PyObject*> weights = cell_weights(plan, parameters);
  if (weights.empty()) return py::none();
  Layer layer("cell_step", plan, threads);
  Inputs in = take_inputs(layer, x, h, c);
  if (!layer.step || !layer.place.on_host()) return py::none();
  take_weights(layer, {weights.data(), weights.size()}, in);
  Calls calls(layer, in);
  const Shape shape = layer.state_shape(calls.B, calls.H);
  Outputs out;
  py::object h_n = layer.empty(x, shape, in.x.dtype, out.h_n);
  py::object c_n;
  if (layer.info().states == 2) c_n = layer.empty(x, shape, in.x.dtype, out.c_n);
  run(layer, x, in, calls, out, &cache);
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
  py::class_<Plan>(m, "Plan",
                   "What a layer computes, beside its tensors: made once for many calls.")
      .def(py::init(&make_plan), py::arg("cell"), py::arg("batch_first"), py::arg("bidirectional"),
           py::arg("settings"))
      .def(
          "kept",
          [](const Plan& plan, int64_t units, bool projected) {
            return plan.kept(units, projected).all();
          },
          py::arg("units"), py::arg("projected"),
          "Values that a step of a row keeps for backward, beside c.")
      .def("forward", &layer_forward, py::arg("threads"), py::arg("inputs"), py::arg("keys"),
           py::arg("save"), py::arg("filled"), py::arg("cache"),
           py::arg("batch_sizes") = py::none(),
           "-> (y | None, h_n, c_n | None, c | None, reserve | None)")
      .def("backward", &layer_backward, py::arg("threads"), py::arg("inputs"), py::arg("keys"),
           py::arg("y"), py::arg("c"), py::arg("reserve"), py::arg("dy"), py::arg("dh_n"),
           py::arg("dc_n"), py::arg("wanted"), py::arg("batch_sizes") = py::none(),
           "-> [dx, dh0, dc0, *dweights], None if not wanted")
      .def("stack", &stack_forward, py::arg("threads"), py::arg("x"), py::arg("weights"),
           py::arg("h0"), py::arg("c0"), py::arg("caches"),
           "All layers without gradients -> (y, h_n) | (y, h_n, c_n), or None: take the other way.")
      .def("step", &cell_step, py::arg("threads"), py::arg("parameters"), py::arg("x"),
           py::arg("h"), py::arg("c"), py::arg("cache"),
           "One step of a cell without gradients -> h | (h, c), or None: take the other way.");
}

}  // namespace fastrnn::bindings
