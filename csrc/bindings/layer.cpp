#include "bindings/layer.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "bindings/array.hpp"
#include "bindings/dlpack.hpp"
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
// A step has x [B, I], states [B, H], and no y, c and reserve.
struct Layer {
  const char* function;
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

  // a result: its shape is known, it is written densely
  Tensor take(const char* name, py::handle object, const std::vector<int64_t>& shape, DType dtype) {
    Tensor tensor = take(name, object);
    if (!tensor.present) return tensor;
    bool right = tensor.dtype == dtype && tensor.rank == static_cast<int>(shape.size());
    int64_t size = 1;
    for (int i = tensor.rank - 1; right && i >= 0; --i) {
      const auto n = shape[static_cast<size_t>(i)];
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

  Tensor time_major(Tensor tensor) const {
    if (batch_first) swap_first_two(tensor);
    return tensor;
  }

  std::vector<int64_t> in_layout(std::vector<int64_t> shape) const {
    if (batch_first) std::swap(shape[shape.size() - 3], shape[shape.size() - 2]);
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

  // the columns of direction d in a [T, B, D*H] view
  Tensor columns(Tensor tensor, int64_t H, int d) const {
    if (!tensor.present) return tensor;
    tensor.data =
        static_cast<char*>(tensor.data) + d * H * kItemSize[static_cast<int>(tensor.dtype)];
    tensor.shape[2] = H;
    return tensor;
  }
};

struct Inputs {
  Tensor x, h0, c0, lengths, mask, reset;
  std::vector<Tensor> weights;
};

Inputs take_inputs(Layer& layer, py::handle x, const std::vector<py::object>& weights,
                   py::handle h0, py::handle c0, py::handle lengths, py::handle mask,
                   py::handle reset) {
  Inputs in;
  in.x = layer.unit_last_stride("x", layer.take("x", x));
  layer.step = in.x.rank == 2;
  in.h0 = layer.unit_last_stride("h0", layer.take("h0", h0));
  in.c0 = layer.unit_last_stride("c0", layer.take("c0", c0));
  in.lengths = layer.unit_last_stride("lengths", layer.take("lengths", lengths));
  in.mask = layer.take("mask", mask);
  in.reset = layer.take("reset", reset);
  const auto count = static_cast<int>(weights.size());
  if (count != 2 * layer.directions && count != 4 * layer.directions) {
    throw ValueError(argument(layer.function, "weights") +
                     " must be w_ih, w_hh and perhaps b_ih, b_hh of each direction");
  }
  static const char* const kNames[] = {"w_ih", "w_hh", "b_ih", "b_hh"};
  const int each = count / layer.directions;
  for (int i = 0; i < count; ++i)
    in.weights.push_back(layer.take(kNames[i % each], weights[static_cast<size_t>(i)]));
  return in;
}

ForwardArgs forward_args(const Layer& layer, const Inputs& in, int d) {
  ForwardArgs a;
  a.cell = layer.cell;
  a.reverse = d == 1;
  a.threads = layer.threads;
  a.x = layer.time_major(in.x);
  if (layer.step) {  // [B, I] is one step of a sequence
    a.x.rank = 3;
    for (int i = 2; i > 0; --i) a.x.shape[i] = a.x.shape[i - 1], a.x.stride[i] = a.x.stride[i - 1];
    a.x.shape[0] = 1, a.x.stride[0] = 0;
  }
  const size_t each = in.weights.size() / static_cast<size_t>(layer.directions);
  const Tensor* w = &in.weights[static_cast<size_t>(d) * each];
  a.w_ih = w[0];
  a.w_hh = w[1];
  if (each == 4) a.b_ih = w[2], a.b_hh = w[3];
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
                   py::handle x, const std::vector<py::object>& weights, py::handle h0,
                   py::handle c0, py::handle lengths, py::handle mask, py::handle reset,
                   py::handle y, py::handle h_n, py::handle c_n, py::handle c, py::handle reserve) {
  Layer layer{"layer_forward",       find_cell(cell), batch_first, false,
              bidirectional ? 2 : 1, threads,         {}};
  const Inputs in = take_inputs(layer, x, weights, h0, c0, lengths, mask, reset);
  std::vector<ForwardArgs> calls;
  for (int d = 0; d < layer.directions; ++d) calls.push_back(forward_args(layer, in, d));

  const int64_t D = layer.directions, T = calls[0].x.shape[0], B = calls[0].x.shape[1],
                H = calls[0].w_hh.shape[1];
  const DType dtype = in.x.dtype;
  const CellInfo& info = layer.info();
  const std::vector<int64_t> state = layer.step ? std::vector{B, H} : std::vector{D, B, H};
  const Tensor y_ = layer.time_major(layer.take("y", y, layer.in_layout({T, B, D * H}), dtype));
  const Tensor h_n_ = layer.take("h_n", h_n, state, dtype),
               c_n_ = layer.take("c_n", c_n, state, dtype);
  const Tensor c_ = layer.take("c", c, {D, T, B, H}, dtype);
  const Tensor reserve_ = layer.take("reserve", reserve, {D, T, B, info.reserve * H}, dtype);
  const bool has_c = info.states == 2;
  if (!h_n_.present || (!layer.step && !y_.present) || has_c != c_n_.present ||
      (reserve_.present && has_c != c_.present)) {
    throw ValueError("layer_forward: a result is missing");
  }
  for (int d = 0; d < layer.directions; ++d) {
    ForwardArgs& a = calls[static_cast<size_t>(d)];
    a.h_n = layer.at(h_n_, "h_n", d);
    a.c_n = layer.at(c_n_, "c_n", d);
    a.c = layer.at(c_, "c", d);
    a.reserve = layer.at(reserve_, "reserve", d);
    a.y = layer.columns(y_, H, d);
    if (layer.step) {
      a.y = a.h_n;
      a.y.rank = 3;
      a.y.shape[0] = 1, a.y.shape[1] = B, a.y.shape[2] = H;
      a.y.stride[0] = 0, a.y.stride[1] = H, a.y.stride[2] = 1;
    }
  }
  const KernelTable& backend = find_backend(nullptr);
  const py::gil_scoped_release release;
  for (const ForwardArgs& a : calls) forward(backend, a);
}

void layer_backward(const std::string& cell, bool batch_first, bool bidirectional, int threads,
                    py::handle x, const std::vector<py::object>& weights, py::handle h0,
                    py::handle c0, py::handle lengths, py::handle mask, py::handle reset,
                    py::handle y, py::handle c, py::handle reserve, py::handle dy, py::handle dh_n,
                    py::handle dc_n, py::handle dx, const std::vector<py::object>& dweights,
                    py::handle dh0, py::handle dc0) {
  Layer layer{"layer_backward",      find_cell(cell), batch_first, false,
              bidirectional ? 2 : 1, threads,         {}};
  const Inputs in = take_inputs(layer, x, weights, h0, c0, lengths, mask, reset);
  const CellInfo& info = layer.info();
  if (in.x.rank != 3 || dweights.size() != weights.size())
    throw ValueError("layer_backward: wrong number of axes or weights");
  std::vector<BackwardArgs> calls(static_cast<size_t>(layer.directions));
  for (int d = 0; d < layer.directions; ++d)
    calls[static_cast<size_t>(d)].forward = forward_args(layer, in, d);

  const ForwardArgs& f = calls[0].forward;
  const int64_t D = layer.directions, T = f.x.shape[0], B = f.x.shape[1], I = f.x.shape[2],
                H = f.w_hh.shape[1];
  const DType dtype = in.x.dtype;
  const Tensor y_ = layer.time_major(layer.take("y", y, layer.in_layout({T, B, D * H}), dtype));
  const Tensor c_ = layer.take("c", c, {D, T, B, H}, dtype);
  const Tensor reserve_ = layer.take("reserve", reserve, {D, T, B, info.reserve * H}, dtype);
  if (!y_.present || (info.states == 2) != c_.present || (info.reserve > 0 && !reserve_.present)) {
    throw ValueError("layer_backward: y, c or reserve is missing");
  }
  const Tensor dy_ = layer.time_major(layer.unit_last_stride("dy", layer.take("dy", dy)));
  if (dy_.present && (dy_.rank != 3 || dy_.shape[2] != D * H)) {
    throw ValueError(argument(layer.function, "dy") + " must have the shape of y");
  }
  const Tensor dh_n_ = layer.unit_last_stride("dh_n", layer.take("dh_n", dh_n));
  const Tensor dc_n_ = layer.unit_last_stride("dc_n", layer.take("dc_n", dc_n));
  std::vector<int64_t> dx_shape = layer.in_layout({D, T, B, I});
  const Tensor dx_ = layer.take("dx", dx, dx_shape, dtype);
  const Tensor dh0_ = layer.take("dh0", dh0, {D, B, H}, dtype),
               dc0_ = layer.take("dc0", dc0, {D, B, H}, dtype);
  const size_t each = weights.size() / static_cast<size_t>(D);
  const auto dweight = [&](int d, size_t i, const std::vector<int64_t>& shape) {
    return i < each
               ? layer.take("dweights", dweights[static_cast<size_t>(d) * each + i], shape, dtype)
               : Tensor{};
  };
  const int64_t GH = info.gates * H;
  for (int d = 0; d < layer.directions; ++d) {
    BackwardArgs& a = calls[static_cast<size_t>(d)];
    a.forward.y = layer.columns(y_, H, d);
    a.forward.c = layer.at(c_, "c", d);
    a.forward.reserve = layer.at(reserve_, "reserve", d);
    a.dy = layer.columns(dy_, H, d);
    a.dh_n = layer.at(dh_n_, "dh_n", d);
    a.dc_n = layer.at(dc_n_, "dc_n", d);
    check_backward(layer.function, a, batch_first ? Layout::kBatchFirst : Layout::kTimeMajor);
    a.dx = layer.time_major(layer.at(dx_, "dx", d));
    a.dw_ih = dweight(d, 0, {GH, I});
    a.dw_hh = dweight(d, 1, {GH, H});
    a.db_ih = dweight(d, 2, {GH});
    a.db_hh = dweight(d, 3, {GH});
    a.dh0 = layer.at(dh0_, "dh0", d);
    a.dc0 = layer.at(dc0_, "dc0", d);
  }
  const KernelTable& backend = find_backend(nullptr);
  const py::gil_scoped_release release;
  for (const BackwardArgs& a : calls) backward(backend, a);
}

}  // namespace

void register_layer(py::module_& m) {
  m.def("layer_forward", &layer_forward, py::arg("cell"), py::arg("batch_first"),
        py::arg("bidirectional"), py::arg("threads"), py::arg("x"), py::arg("weights"),
        py::arg("h0"), py::arg("c0"), py::arg("lengths"), py::arg("mask"), py::arg("reset"),
        py::arg("y"), py::arg("h_n"), py::arg("c_n"), py::arg("c"), py::arg("reserve"),
        "Fills y, h_n, c_n, c, reserve.");
  m.def("layer_backward", &layer_backward, py::arg("cell"), py::arg("batch_first"),
        py::arg("bidirectional"), py::arg("threads"), py::arg("x"), py::arg("weights"),
        py::arg("h0"), py::arg("c0"), py::arg("lengths"), py::arg("mask"), py::arg("reset"),
        py::arg("y"), py::arg("c"), py::arg("reserve"), py::arg("dy"), py::arg("dh_n"),
        py::arg("dc_n"), py::arg("dx"), py::arg("dweights"), py::arg("dh0"), py::arg("dc0"),
        "Fills dx, dweights, dh0 and dc0, as far as they are not None.");
}

}  // namespace fastrnn::bindings
