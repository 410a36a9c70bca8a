#include "bindings/xla_derivatives.hpp"

#include <array>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <string>
#include <vector>

#include "bindings/family.hpp"
#include "memory.hpp"

namespace fastrnn::bindings::xla {
namespace {

// Memory of this call, and pairs of a tensor and its tangent.
class Duals {
 public:
  explicit Duals(DType dtype) : dtype_(dtype) {}

  Tensor with(Tensor value, const Tensor& tangent) {
    value.tangent = &tangents_.emplace_back(tangent);
    return value;
  }

  // an argument that is there has the tangent that comes
  Tensor of(const Tensor& value, const Tensor& tangent) {
    if (!value.present) return value;
    std::array<int64_t, 4> shape{};
    for (int i = 0; i < value.rank; ++i) shape[static_cast<size_t>(i)] = value.shape[i];
    expect(tangent, value, shape, value.rank);
    return with(value, tangent);
  }

  // new ones; what they hold is not said
  Tensor made(std::initializer_list<int64_t> shape) { return with(room(shape), room(shape)); }
  // a new value of a tangent that is a result
  Tensor value_of(const Tensor& tangent) {
    Tensor value = room({tangent.shape, tangent.shape + tangent.rank});
    return with(value, tangent);
  }
  // both zero
  Tensor zeros(std::initializer_list<int64_t> shape) {
    Tensor zero = room(shape);
    std::memset(zero.data, 0, static_cast<size_t>(count(zero) * item_size(dtype_)));
    return with(zero, zero);
  }

 private:
  Tensor room(const std::vector<int64_t>& shape) {
    Tensor tensor;
    tensor.present = true;
    tensor.dtype = dtype_;
    tensor.rank = static_cast<int>(shape.size());
    int64_t size = 1;
    for (int i = tensor.rank - 1; i >= 0; --i) {
      tensor.shape[i] = shape[static_cast<size_t>(i)];
      tensor.stride[i] = size;
      size *= tensor.shape[i];
    }
    tensor.data = memory_.emplace_back(allocate(size * item_size(dtype_))).get();
    return tensor;
  }

  DType dtype_;
  std::vector<Memory> memory_;
  std::deque<Tensor> tangents_;  // never moved
};

// The arguments of backward, or their tangents.
struct Cotangents {
  Tensor dy, dh_n, dc_n;

  Cotangents(Call& call, const Tensor& x, int64_t hidden) {
    const int D = call.directions();
    const int64_t T = x.shape[0], B = x.shape[1];
    expect(dy = call.time_major(call.argument()), x, {T, B, D * hidden}, 3);
    expect(dh_n = call.argument(), x, {D, B, hidden}, 3);
    if (call.info().states == 2) expect(dc_n = call.argument(), x, {D, B, hidden}, 3);
  }
};

// The forward call of each direction on dual numbers. `save`: backward follows.
struct DualLayer {
  Duals duals;
  std::array<ForwardArgs, 2> of;
  int D;
  int64_t T, B, H;

  DualLayer(Call& call, const Layer& layer, bool save)
      : duals(layer.of[0].x.dtype),
        of(layer.of),
        D(call.directions()),
        T(of[0].x.shape[0]),
        B(of[0].x.shape[1]),
        H(layer.hidden) {
    const bool has_c = call.info().states == 2;
    const Tensor x = call.time_major(call.argument());
    const Tensor h0 = call.given(kH0) ? call.argument() : Tensor{};
    const Tensor c0 = call.given(kC0) ? call.argument() : Tensor{};
    const KeptUnits kept = kept_units(call.info(), true, false, false, H);
    for (int d = 0; d < D; ++d) {
      ForwardArgs& a = of[static_cast<size_t>(d)];
      a.x = duals.of(a.x, x);
      a.h0 = a.h0.present ? duals.of(a.h0, at(h0, d, D)) : duals.zeros({B, H});
      if (has_c) a.c0 = a.c0.present ? duals.of(a.c0, at(c0, d, D)) : duals.zeros({B, H});
      a.w_ih = duals.of(a.w_ih, call.weights());
      a.w_hh = duals.of(a.w_hh, call.weights());
      if (call.given(kBias)) {
        a.b_ih = duals.of(a.b_ih, call.argument());
        a.b_hh = duals.of(a.b_hh, call.argument());
      }
      if (!save) continue;
      if (has_c) a.c = duals.made({T, B, H});
      a.reserve = duals.made({T, B, kept.reserve});
    }
  }

  // its results' tangents are the call's next results
  void take_results(Call& call) {
    const Tensor y = call.time_major(call.result()), h_n = call.result();
    const bool has_c = call.info().states == 2;
    const Tensor c_n = has_c ? call.result() : Tensor{};
    expect(y, of[0].x, {T, B, D * H}, 3);
    expect(h_n, of[0].x, {D, B, H}, 3);
    if (has_c) expect(c_n, of[0].x, {D, B, H}, 3);
    for (int d = 0; d < D; ++d) {
      ForwardArgs& a = of[static_cast<size_t>(d)];
      a.y = duals.value_of(columns(y, H, d, D));
      a.h_n = duals.value_of(at(h_n, d, D));
      if (has_c) a.c_n = duals.value_of(at(c_n, d, D));
    }
  }
};

void expect_derivatives(const KernelTable& backend) {
  if (backend.derivatives) return;
  throw ValueError(std::string("fastrnn.jax: backend '") + backend.name +
                   "' has no forward mode and no second derivatives; backend=\"scan\" has");
}

}  // namespace

void run_jvp(Call& call) {
  const Layer layer = take_layer(call);
  expect_derivatives(layer.backend);
  DualLayer dual(call, layer, false);
  dual.take_results(call);
  call.finish();
  for (int d = 0; d < dual.D; ++d)
    forward_derivative(layer.backend, dual.of[static_cast<size_t>(d)]);
}

void run_backward_jvp(Call& call) {
  const Layer layer = take_layer(call);
  expect_derivatives(layer.backend);
  const Cotangents given(call, layer.of[0].x, layer.hidden);
  DualLayer dual(call, layer, true);
  const Cotangents moved(call, layer.of[0].x, layer.hidden);
  Duals& duals = dual.duals;
  const int D = dual.D;
  const int64_t T = dual.T, B = dual.B, H = dual.H, GH = call.info().gates * H;
  const Tensor& x = dual.of[0].x;
  const int64_t I = x.shape[2];

  const Tensor dx = call.result();
  const Tensor dh0 = call.given(kH0) ? call.result() : Tensor{};
  const Tensor dc0 = call.given(kC0) ? call.result() : Tensor{};
  std::array<BackwardArgs, 2> calls;
  for (int d = 0; d < D; ++d) {
    BackwardArgs& a = calls[static_cast<size_t>(d)];
    const Tensor dx_here = call.time_major(D == 2 ? at(dx, d, D) : dx);
    expect(dx_here, x, {T, B, I}, 3);
    a.dx = duals.value_of(dx_here);
    const auto of_result = [&](const Tensor& result, std::array<int64_t, 4> shape, int rank) {
      expect(result, x, shape, rank);
      return duals.value_of(result);
    };
    if (dh0.present) a.dh0 = of_result(at(dh0, d, D), {B, H}, 2);
    if (dc0.present) a.dc0 = of_result(at(dc0, d, D), {B, H}, 2);
    a.dw_ih = of_result(call.result(), {GH, I}, 2);
    a.dw_hh = of_result(call.result(), {GH, H}, 2);
    if (call.given(kBias)) {
      a.db_ih = of_result(call.result(), {GH}, 1);
      a.db_hh = of_result(call.result(), {GH}, 1);
    }
    a.dy = duals.with(columns(given.dy, H, d, D), columns(moved.dy, H, d, D));
    a.dh_n = duals.with(at(given.dh_n, d, D), at(moved.dh_n, d, D));
    if (given.dc_n.present) a.dc_n = duals.with(at(given.dc_n, d, D), at(moved.dc_n, d, D));
    a.family = true;
  }
  dual.take_results(call);
  call.finish();
  for (int d = 0; d < D; ++d) {
    BackwardArgs& a = calls[static_cast<size_t>(d)];
    a.forward = dual.of[static_cast<size_t>(d)];
    forward_derivative(layer.backend, a.forward);
    backward_derivative(layer.backend, a);
  }
}

}  // namespace fastrnn::bindings::xla
