#include "bindings/xla_handlers.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/xla_ffi.hpp"
#include "cpu/threads.hpp"
#include "errors.hpp"
#include "fastrnn.hpp"

namespace fastrnn::bindings {
namespace {

// Arguments, in this order, those in brackets where the bit says so; D directions:
//   x [T, B, I], [h0], [c0] [D, B, H], [lengths] [B], [mask], [reset] [T, B],
//   D times: w_ih, w_hh (, b_ih, b_hh)
// and of backward: y [T, B, D*H], c [D, T, B, H] and reserve [D, T, B, R*H] where the cell has
// them,
//   dy, dh_n, dc_n.
// Results of forward: y, h_n, c_n where the cell has it, and with kSave c and reserve; of backward:
//   dx ([D, T, B, I] for two directions), [dh0], [dc0], the gradients of the weights.
// batch_first swaps T and B of x, y, mask, reset and their gradients. With kTransposed
// w_ih and w_hh come as [I, G*H] and [H, G*H]; their gradients do not.
enum Given : int32_t {
  kBias = 1,
  kH0 = 2,
  kC0 = 4,
  kLengths = 8,
  kMask = 16,
  kReset = 32,
  kSave = 64,
  kBatchFirst = 128,
  kBidirectional = 256,
  kReverse = 512,
  kTransposed = 1024,
};

Tensor dense(const xla::Buffer& buffer) {
  Tensor tensor;
  tensor.data = buffer.data;
  tensor.present = true;
  tensor.rank = static_cast<int>(buffer.rank);
  if (tensor.rank > kMaxRank) throw ValueError("an array has too many axes");
  switch (buffer.dtype) {
    case xla::DType::kFloat32:
      tensor.dtype = DType::kFloat32;
      break;
    case xla::DType::kFloat64:
      tensor.dtype = DType::kFloat64;
      break;
    case xla::DType::kInt32:  // lengths, which are copied
    case xla::DType::kInt64:
      tensor.dtype = DType::kInt64;
      break;
    case xla::DType::kBool:
      tensor.dtype = DType::kBool;
      break;
    default:
      throw TypeError("an array is of a dtype that the kernels do not know");
  }
  int64_t size = 1;
  for (int i = tensor.rank - 1; i >= 0; --i) {
    tensor.shape[i] = buffer.dims[i];
    tensor.stride[i] = size;
    size *= buffer.dims[i];
  }
  return tensor;
}

int64_t count(const Tensor& tensor) {
  int64_t n = 1;
  for (int i = 0; i < tensor.rank; ++i) n *= tensor.shape[i];
  return n;
}

char* byte_address(const Tensor& tensor) { return static_cast<char*>(tensor.data); }

// One call: takes its arguments and results in order.
class Call {
 public:
  explicit Call(const xla::CallFrame& frame) : frame_(frame) {
    const int64_t cell = attribute("cell"), given = attribute("given");
    if (cell < 0 || cell > 1000 || !cell_info(static_cast<int>(cell)))
      throw ValueError("there is no such cell");
    cell_ = static_cast<int>(cell);
    given_ = static_cast<int32_t>(given);
  }

  bool given(Given bit) const { return (given_ & bit) != 0; }
  int directions() const { return given(kBidirectional) ? 2 : 1; }
  const CellInfo& info() const { return *cell_info(cell_); }
  int cell() const { return cell_; }

  Tensor argument() { return dense(next(frame_.arguments, argument_++)); }
  Tensor result() { return dense(next(frame_.results, result_++)); }
  const xla::Buffer& next_argument_buffer() { return next(frame_.arguments, argument_++); }

  Tensor weights() {
    Tensor w = argument();
    if (given(kTransposed) && w.rank == 2) {
      std::swap(w.shape[0], w.shape[1]);
      std::swap(w.stride[0], w.stride[1]);
    }
    return w;
  }

  void finish() const {
    if (argument_ != frame_.arguments.size || result_ != frame_.results.size)
      throw ValueError("wrong number of arguments or results");
  }

  Tensor time_major(Tensor tensor) const {
    if (given(kBatchFirst)) {
      std::swap(tensor.shape[0], tensor.shape[1]);
      std::swap(tensor.stride[0], tensor.stride[1]);
    }
    return tensor;
  }

 private:
  static const xla::Buffer& next(const xla::Buffers& buffers, int64_t i) {
    if (i >= buffers.size || buffers.kinds[i] != xla::Kind::kBuffer)
      throw ValueError("wrong number of arguments or results");
    return *static_cast<const xla::Buffer*>(buffers.items[i]);
  }

  int64_t attribute(std::string_view name) const {
    const xla::Attributes& all = frame_.attributes;
    for (int64_t i = 0; i < all.size; ++i) {
      if (std::string_view(all.names[i]->data, all.names[i]->size) != name) continue;
      if (all.kinds[i] != xla::AttributeKind::kScalar) break;
      const auto& scalar = *static_cast<const xla::Scalar*>(all.items[i]);
      if (scalar.dtype != xla::DType::kInt32) break;
      return *static_cast<const int32_t*>(scalar.value);
    }
    throw ValueError("attribute '" + std::string(name) + "' must be there, an int32");
  }

  const xla::CallFrame& frame_;
  int cell_ = 0;
  int32_t given_ = 0;
  int64_t argument_ = 0, result_ = 0;
};

// tensor[d], for a tensor whose first axis is the direction
Tensor at(Tensor tensor, int d, int directions) {
  if (!tensor.present) return tensor;
  if (tensor.rank < 2 || tensor.shape[0] != directions)
    throw ValueError("an array must have the directions on its first axis");
  tensor.data = byte_address(tensor) + d * tensor.stride[0] * item_size(tensor.dtype);
  tensor.rank -= 1;
  for (int i = 0; i < tensor.rank; ++i)
    tensor.shape[i] = tensor.shape[i + 1], tensor.stride[i] = tensor.stride[i + 1];
  return tensor;
}

// the columns of direction d in a [T, B, D*H] view
Tensor columns(Tensor tensor, int64_t hidden, int d, int directions) {
  if (tensor.rank != 3 || tensor.shape[2] != directions * hidden)
    throw ValueError("y must be (T, B, D*H)");
  tensor.data = byte_address(tensor) + d * hidden * item_size(tensor.dtype);
  tensor.shape[2] = hidden;
  return tensor;
}

struct Layer {
  const KernelTable& backend = find_backend(nullptr);
  std::array<ForwardArgs, 2> of;
  std::vector<int64_t> lengths;
  bool skips = false;  // there are steps that a row does not take
  int64_t hidden = 0;
};

void expect(const Tensor& tensor, const Tensor& like, std::array<int64_t, 4> shape, int rank) {
  bool right = tensor.rank == rank && tensor.dtype == like.dtype;
  for (int i = 0; right && i < rank; ++i) right = tensor.shape[i] == shape[static_cast<size_t>(i)];
  if (!right) throw ValueError("an array has the wrong shape or dtype");
}

Layer take_layer(Call& call) {
  Layer layer;
  ForwardArgs shared;
  shared.cell = call.cell();
  shared.threads = num_threads();
  shared.x = call.argument();
  if (shared.x.rank != 3) throw ValueError("x must be (T, B, I)");
  shared.x = call.time_major(shared.x);
  const Tensor h0 = call.given(kH0) ? call.argument() : Tensor{};
  const Tensor c0 = call.given(kC0) ? call.argument() : Tensor{};
  if (call.given(kLengths)) {
    const xla::Buffer& buffer = call.next_argument_buffer();
    shared.lengths = dense(buffer);
    layer.lengths.resize(static_cast<size_t>(count(shared.lengths)));
    if (buffer.dtype == xla::DType::kInt32) {
      const auto* from = static_cast<const int32_t*>(buffer.data);
      std::copy(from, from + layer.lengths.size(), layer.lengths.begin());
    } else if (buffer.dtype == xla::DType::kInt64) {
      const auto* from = static_cast<const int64_t*>(buffer.data);
      std::copy(from, from + layer.lengths.size(), layer.lengths.begin());
    } else {
      throw TypeError("lengths must be int32 or int64");
    }
    shared.lengths.data = layer.lengths.data();
  }
  if (call.given(kMask)) shared.mask = call.time_major(call.argument());
  if (call.given(kReset)) shared.reset = call.time_major(call.argument());
  layer.skips = call.given(kLengths) || call.given(kMask);
  for (int d = 0; d < call.directions(); ++d) {
    ForwardArgs& a = layer.of[static_cast<size_t>(d)];
    a = shared;
    a.reverse = d == 1 || call.given(kReverse);
    a.h0 = at(h0, d, call.directions());
    a.c0 = at(c0, d, call.directions());
    a.w_ih = call.weights();
    a.w_hh = call.weights();
    if (call.given(kBias)) a.b_ih = call.argument(), a.b_hh = call.argument();
    check_forward("fastrnn.jax", layer.backend, a,
                  call.given(kBatchFirst) ? Layout::kBatchFirst : Layout::kTimeMajor);
  }
  layer.hidden = layer.of[0].w_hh.shape[1];
  return layer;
}

void run_forward(Call& call) {
  Layer layer = take_layer(call);
  const ForwardArgs& first = layer.of[0];
  const int D = call.directions();
  const int64_t T = first.x.shape[0], B = first.x.shape[1], H = layer.hidden;
  const bool has_c = call.info().states == 2, save = call.given(kSave);
  const Tensor y = call.time_major(call.result()), h_n = call.result();
  expect(y, first.x, {T, B, D * H}, 3);
  expect(h_n, first.x, {D, B, H}, 3);
  Tensor c_n, c, reserve;
  if (has_c) expect(c_n = call.result(), first.x, {D, B, H}, 3);
  if (has_c && save) expect(c = call.result(), first.x, {D, T, B, H}, 4);
  if (save && call.info().reserve > 0) {
    reserve = call.result();
    expect(reserve, first.x, {D, T, B, call.info().reserve * H}, 4);
    if (layer.skips)  // else NaN may lie there, which jax_debug_nans would find
      std::memset(reserve.data, 0, static_cast<size_t>(count(reserve) * item_size(reserve.dtype)));
  }
  call.finish();
  for (int d = 0; d < D; ++d) {
    ForwardArgs& a = layer.of[static_cast<size_t>(d)];
    a.y = columns(y, H, d, D);
    a.h_n = at(h_n, d, D);
    a.c_n = at(c_n, d, D);
    a.c = at(c, d, D);
    a.reserve = at(reserve, d, D);
    forward(layer.backend, a);
  }
}

void run_backward(Call& call) {
  const Layer layer = take_layer(call);
  const ForwardArgs& first = layer.of[0];
  const int D = call.directions();
  const int64_t T = first.x.shape[0], B = first.x.shape[1], I = first.x.shape[2], H = layer.hidden;
  const bool has_c = call.info().states == 2;
  const Tensor y = call.time_major(call.argument());
  expect(y, first.x, {T, B, D * H}, 3);
  Tensor c, reserve, dc_n;
  if (has_c) expect(c = call.argument(), first.x, {D, T, B, H}, 4);
  if (call.info().reserve > 0)
    expect(reserve = call.argument(), first.x, {D, T, B, call.info().reserve * H}, 4);
  const Tensor dy = call.time_major(call.argument()), dh_n = call.argument();
  expect(dy, first.x, {T, B, D * H}, 3);
  expect(dh_n, first.x, {D, B, H}, 3);
  if (has_c) expect(dc_n = call.argument(), first.x, {D, B, H}, 3);

  const Tensor dx = call.result();
  const int64_t outer = call.given(kBatchFirst) ? B : T, inner = call.given(kBatchFirst) ? T : B;
  if (D == 2)
    expect(dx, first.x, {D, outer, inner, I}, 4);
  else
    expect(dx, first.x, {outer, inner, I}, 3);
  const Tensor dh0 = call.given(kH0) ? call.result() : Tensor{};
  const Tensor dc0 = call.given(kC0) ? call.result() : Tensor{};
  for (const Tensor* state : {&dh0, &dc0}) {
    if (state->present) expect(*state, first.x, {D, B, H}, 3);
  }
  std::array<BackwardArgs, 2> calls;
  const int64_t GH = call.info().gates * H;
  for (int d = 0; d < D; ++d) {
    BackwardArgs& a = calls[static_cast<size_t>(d)];
    a.forward = layer.of[static_cast<size_t>(d)];
    a.forward.y = columns(y, H, d, D);
    a.forward.c = at(c, d, D);
    a.forward.reserve = at(reserve, d, D);
    a.dy = columns(dy, H, d, D);
    a.dh_n = at(dh_n, d, D);
    a.dc_n = at(dc_n, d, D);
    a.dx = call.time_major(D == 2 ? at(dx, d, D) : dx);
    a.dh0 = at(dh0, d, D);
    a.dc0 = at(dc0, d, D);
    expect(a.dw_ih = call.result(), first.x, {GH, I}, 2);
    expect(a.dw_hh = call.result(), first.x, {GH, H}, 2);
    if (call.given(kBias)) {
      expect(a.db_ih = call.result(), first.x, {GH}, 1);
      expect(a.db_hh = call.result(), first.x, {GH}, 1);
    }
    check_backward("fastrnn.jax", a,
                   call.given(kBatchFirst) ? Layout::kBatchFirst : Layout::kTimeMajor);
  }
  call.finish();
  for (int d = 0; d < D; ++d) backward(layer.backend, calls[static_cast<size_t>(d)]);
}

xla::Error* error(const xla::CallFrame& frame, const char* message, int code) {
  xla::NewError made{sizeof(xla::NewError), nullptr, message, code};
  return frame.api->new_error(&made);
}

xla::Error* handle(xla::CallFrame* frame, void (*body)(Call&)) {
  for (xla::Extension* e = frame->extensions; e; e = e->next) {
    if (e->type != xla::ExtensionType::kMetadata) continue;
    xla::Metadata& metadata = *reinterpret_cast<xla::MetadataExtension*>(e)->metadata;
    metadata.version.major_version = xla::kMajorVersion;
    metadata.version.minor_version = xla::kMinorVersion;
    metadata.traits = 0;
    return nullptr;
  }
  if (frame->stage != xla::Stage::kExecute) return nullptr;
  try {
    if (frame->api->version.major_version != xla::kMajorVersion ||
        frame->struct_size < sizeof(xla::CallFrame))
      throw ValueError("this XLA speaks another version of its foreign function interface");
    Call call(*frame);
    body(call);
    return nullptr;
  } catch (const std::invalid_argument& e) {
    return error(*frame, e.what(), xla::kInvalidArgument);
  } catch (const std::exception& e) {
    return error(*frame, e.what(), xla::kInternal);
  }
}

xla::Error* forward_handler(xla::CallFrame* frame) { return handle(frame, run_forward); }
xla::Error* backward_handler(xla::CallFrame* frame) { return handle(frame, run_backward); }

pybind11::dict xla_handlers() {
  pybind11::dict handlers;
  handlers["fastrnn_forward"] = pybind11::capsule(reinterpret_cast<void*>(&forward_handler));
  handlers["fastrnn_backward"] = pybind11::capsule(reinterpret_cast<void*>(&backward_handler));
  return handlers;
}

std::vector<std::pair<std::string, int>> cells() {
  std::vector<std::pair<std::string, int>> found;
  for (int i = 0; const CellInfo* info = cell_info(i); ++i)
    found.emplace_back(info->name, info->reserve);
  return found;
}

}  // namespace

void register_xla_handlers(pybind11::module_& m) {
  m.def("xla_handlers", &xla_handlers,
        "-> {name: capsule} of handlers on the CPU for XLA's foreign function interface 0.1");
  m.def("cells", &cells, "-> [(name, reserve)]: the cells by their numbers, R saved values a unit");
}

}  // namespace fastrnn::bindings
