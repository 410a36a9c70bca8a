#include "bindings/xla_handlers.hpp"

#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/xla_call.hpp"
#include "bindings/xla_derivatives.hpp"

namespace fastrnn::bindings {
namespace xla {
namespace {

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
    if (layer.skips && call.device() == kHost)  // else NaN may lie there: see jax_debug_nans
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
    call.with_scratch(device_workspace(layer.backend, a),
                      [&](void* scratch) { forward(layer.backend, a, scratch); });
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
  for (int d = 0; d < D; ++d) {
    const BackwardArgs& a = calls[static_cast<size_t>(d)];
    call.with_scratch(device_workspace(layer.backend, a),
                      [&](void* scratch) { backward(layer.backend, a, scratch); });
  }
}

Error* error(const CallFrame& frame, const char* message, int code) {
  NewError made{sizeof(NewError), nullptr, message, code};
  return frame.api->new_error(&made);
}

Error* handle(CallFrame* frame, void (*body)(Call&), bool on_device) {
  for (Extension* e = frame->extensions; e; e = e->next) {
    if (e->type != ExtensionType::kMetadata) continue;
    Metadata& metadata = *reinterpret_cast<MetadataExtension*>(e)->metadata;
    metadata.version.major_version = kMajorVersion;
    metadata.version.minor_version = kMinorVersion;
    metadata.traits = 0;
    return nullptr;
  }
  if (frame->stage != Stage::kExecute) return nullptr;
  try {
    if (frame->api->version.major_version != kMajorVersion ||
        frame->struct_size < sizeof(CallFrame))
      throw ValueError("this XLA speaks another version of its foreign function interface");
    Call call(*frame, on_device);
    body(call);
    return nullptr;
  } catch (const Failed& failed) {
    return failed.error;
  } catch (const std::invalid_argument& e) {
    return error(*frame, e.what(), kInvalidArgument);
  } catch (const std::exception& e) {
    return error(*frame, e.what(), kInternal);
  }
}

template <void (*kBody)(Call&), bool kOnDevice>
Error* handler(CallFrame* frame) {
  return handle(frame, kBody, kOnDevice);
}

}  // namespace
}  // namespace xla

namespace {

template <bool kOnDevice>
pybind11::dict handlers_of() {
  pybind11::dict handlers;
  const auto add = [&]<void (*kBody)(xla::Call&)>(const char* name) {
    auto* const address = reinterpret_cast<void*>(&xla::handler<kBody, kOnDevice>);
    handlers[name] = pybind11::capsule(address);
  };
  add.template operator()<xla::run_forward>("fastrnn_forward");
  add.template operator()<xla::run_backward>("fastrnn_backward");
  add.template operator()<xla::run_jvp>("fastrnn_jvp");
  add.template operator()<xla::run_backward_jvp>("fastrnn_backward_jvp");
  return handlers;
}

pybind11::dict xla_handlers() {
  pybind11::dict handlers;
  handlers["cpu"] = handlers_of<false>();
  handlers["CUDA"] = handlers_of<true>();
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
        "-> {platform: {name: capsule}} of handlers for XLA's foreign function interface 0.1");
  m.def("cells", &cells, "-> [(name, reserve)]: the cells by their numbers, R saved values a unit");
}

}  // namespace fastrnn::bindings
