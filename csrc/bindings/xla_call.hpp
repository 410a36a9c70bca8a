// One call by XLA: its arguments and results as views, one layer of them as the core takes it.
#pragma once

#include <array>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

#include "bindings/xla_ffi.hpp"
#include "cpu/threads.hpp"
#include "errors.hpp"
#include "fastrnn.hpp"

namespace fastrnn::bindings::xla {

// Arguments, in this order, those in brackets where the bit says so; D directions:
//   x [T, B, I], [h0], [c0] [D, B, H], [lengths] [B, 2], [mask], [reset] [T, B],
//   D times: w_ih, w_hh (, b_ih, b_hh)
// and of backward: y [T, B, D*H], c [D, T, B, H] and reserve [D, T, B, R*H] where the cell has
// them,
//   dy, dh_n, dc_n.
// Results of forward: y, h_n, c_n where the cell has it, and with kSave c and reserve; of backward:
//   dx ([D, T, B, I] for two directions), [dh0], [dc0], the gradients of the weights.
// lengths are of 64 bits, which JAX seldom has: int32, the lower half first.
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

inline Tensor dense(const Buffer& buffer, int device) {
  Tensor tensor;
  tensor.data = buffer.data;
  tensor.device = device;
  tensor.present = true;
  tensor.rank = static_cast<int>(buffer.rank);
  if (tensor.rank > kMaxRank) throw ValueError("an array has too many axes");
  switch (buffer.dtype) {
    case ElementType::kFloat32:
      tensor.dtype = DType::kFloat32;
      break;
    case ElementType::kFloat64:
      tensor.dtype = DType::kFloat64;
      break;
    case ElementType::kInt32:  // lengths, whose two halves are the last axis
      if (tensor.rank != 2 || buffer.dims[1] != 2) throw ValueError("lengths must be (B, 2)");
      tensor.dtype = DType::kInt64;
      tensor.rank = 1;
      break;
    case ElementType::kBool:
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

inline int64_t count(const Tensor& tensor) {
  int64_t n = 1;
  for (int i = 0; i < tensor.rank; ++i) n *= tensor.shape[i];
  return n;
}

inline char* byte_address(const Tensor& tensor) { return static_cast<char*>(tensor.data); }

// What XLA itself answered to a request.
struct Failed : std::exception {
  Error* error;
  explicit Failed(Error* of_xla) : error(of_xla) {}
};

// One call: takes its arguments and results in order. On a device it has a stream and scratch.
class Call {
 public:
  Call(const CallFrame& frame, bool on_device) : frame_(frame) {
    if (on_device) {
      if (frame.api->struct_size < sizeof(Api))
        throw ValueError("this XLA is too old to tell a handler its device");
      GetStream stream{sizeof(GetStream), nullptr, frame.context, nullptr};
      GetDevice device{sizeof(GetDevice), nullptr, frame.context, 0};
      expect_done(frame.api->get_stream(&stream));
      expect_done(frame.api->get_device(&device));
      stream_ = stream.stream;
      device_ = device.device;
    }
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

  int device() const { return device_; }
  void* stream() const { return stream_; }

  Tensor argument() { return dense(next(frame_.arguments, argument_++), device_); }
  Tensor result() { return dense(next(frame_.results, result_++), device_); }

  Tensor weights() {
    Tensor w = argument();
    if (given(kTransposed) && w.rank == 2) {
      std::swap(w.shape[0], w.shape[1]);
      std::swap(w.stride[0], w.stride[1]);
    }
    return w;
  }

  // run(memory) with so many bytes on the device; the stream has its turn before they are used
  // again
  template <class Run>
  void with_scratch(int64_t bytes, const Run& run) const {
    if (bytes == 0) return run(nullptr);
    constexpr size_t kAlignment = 256;
    const auto size = static_cast<size_t>(bytes);
    Allocate got{sizeof(Allocate), nullptr, frame_.context, size, kAlignment, nullptr};
    expect_done(frame_.api->allocate(&got));
    struct Scratch {
      const Api* api;
      Release release;
      ~Scratch() { api->release(&release); }
    };
    const Scratch scratch{frame_.api, {sizeof(Release), nullptr, frame_.context, size, got.data}};
    run(got.data);
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
  // an error of XLA's own is the call's
  static void expect_done(Error* error) {
    if (error) throw Failed(error);
  }

  static const Buffer& next(const Buffers& buffers, int64_t i) {
    if (i >= buffers.size || buffers.kinds[i] != Kind::kBuffer)
      throw ValueError("wrong number of arguments or results");
    return *static_cast<const Buffer*>(buffers.items[i]);
  }

  int64_t attribute(std::string_view name) const {
    const Attributes& all = frame_.attributes;
    for (int64_t i = 0; i < all.size; ++i) {
      if (std::string_view(all.names[i]->data, all.names[i]->size) != name) continue;
      if (all.kinds[i] != AttributeKind::kScalar) break;
      const auto& scalar = *static_cast<const Scalar*>(all.items[i]);
      if (scalar.dtype != ElementType::kInt32) break;
      return *static_cast<const int32_t*>(scalar.value);
    }
    throw ValueError("attribute '" + std::string(name) + "' must be there, an int32");
  }

  const CallFrame& frame_;
  int device_ = kHost;
  void* stream_ = nullptr;
  int cell_ = 0;
  int32_t given_ = 0;
  int64_t argument_ = 0, result_ = 0;
};

// tensor[d], for a tensor whose first axis is the direction
inline Tensor at(Tensor tensor, int d, int directions) {
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
inline Tensor columns(Tensor tensor, int64_t hidden, int d, int directions) {
  if (tensor.rank != 3 || tensor.shape[2] != directions * hidden)
    throw ValueError("y must be (T, B, D*H)");
  tensor.data = byte_address(tensor) + d * hidden * item_size(tensor.dtype);
  tensor.shape[2] = hidden;
  return tensor;
}

struct Layer {
  const KernelTable& backend;
  std::array<ForwardArgs, 2> of;
  bool skips = false;  // there are steps that a row does not take
  int64_t hidden = 0;
};

inline void expect(const Tensor& tensor, const Tensor& like, std::array<int64_t, 4> shape,
                   int rank) {
  bool right = tensor.rank == rank && tensor.dtype == like.dtype;
  for (int i = 0; right && i < rank; ++i) right = tensor.shape[i] == shape[static_cast<size_t>(i)];
  if (!right) throw ValueError("an array has the wrong shape or dtype");
}

inline Layer take_layer(Call& call) {
  Layer layer{find_backend(call.device() == kHost ? nullptr : "cuda"), {}};
  ForwardArgs shared;
  shared.cell = call.cell();
  shared.stream = call.stream();
  shared.threads = num_threads();
  shared.x = call.argument();
  if (shared.x.rank != 3) throw ValueError("x must be (T, B, I)");
  shared.x = call.time_major(shared.x);
  const Tensor h0 = call.given(kH0) ? call.argument() : Tensor{};
  const Tensor c0 = call.given(kC0) ? call.argument() : Tensor{};
  if (call.given(kLengths)) shared.lengths = call.argument();
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
  if (call.directions() == 2) check_directions("fastrnn.jax", layer.of[0], layer.of[1]);
  layer.hidden = layer.of[0].w_hh.shape[1];
  return layer;
}

}  // namespace fastrnn::bindings::xla
