// One call of a function: the arrays that Python gave and views of them; and what a forward call
// leaves to its backward call.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "bindings/array.hpp"
#include "bindings/family.hpp"
#include "bindings/others_run.hpp"
#include "fastrnn.hpp"

namespace fastrnn::bindings {

// The arrays of one call, and the views of them that the core gets.
struct Call {
  std::string function;
  Layout layout = Layout::kTimeMajor;
  const KernelTable* backend = nullptr;
  int threads = 0;  // 0: num_threads()
  ForwardArgs args;
  std::vector<py::object> owners;
  py::object like;  // the caller's x: results are of its kind
  Place place;      // of all arrays

  const CellInfo& cell() const { return *cell_info(args.cell); }
  int64_t T() const { return args.x.shape[0]; }
  int64_t B() const { return args.x.shape[1]; }
  int64_t P() const { return args.w_hh.shape[1]; }  // units of h
  int64_t H() const { return projected() ? args.family.w_hr.shape[1] : P(); }
  bool projected() const { return args.family.w_hr.present; }
  bool has_c() const { return cell().states == 2 || (projected() && cell().mixes); }

  Tensor keep(Held held) {
    owners.push_back(std::move(held.owner));
    return held.tensor;
  }

  Tensor take(const char* name, py::handle object, Access access) {
    return keep(hold(function, name, object, access, place));
  }

  Tensor time_major(Tensor tensor) const {
    if (layout == Layout::kBatchFirst) swap_first_two(tensor);
    return tensor;
  }

  // a new array [T, B, last] in the caller's layout, and its time-major view
  py::object allocate_sequence(int64_t last, Tensor& view, bool of_c = false) const {
    const bool batch_first = layout == Layout::kBatchFirst;
    Held held = batch_first ? allocate({B(), T(), last}, of_c) : allocate({T(), B(), last}, of_c);
    view = time_major(held.tensor);
    return held.owner;
  }

  py::object allocate_matrix(int64_t rows, int64_t columns, Tensor& view, bool of_c = false) const {
    Held held = allocate({rows, columns}, of_c);
    view = held.tensor;
    return held.owner;
  }

  py::object allocate_vector(int64_t size, Tensor& view) const {
    Held held = allocate({size});
    view = held.tensor;
    return held.owner;
  }

  Held allocate(const std::vector<py::ssize_t>& shape, bool of_c = false) const {
    const DType x = args.x.dtype;
    return new_array(of_c ? compute_dtype(x) : x, shape, place, like, x);
  }

  void run_forward() const {
    run(args, place, [](const auto&... all) { forward(all...); });
  }
  void run_backward(const BackwardArgs& a, const Place& now) const {
    run(a, now, [](const auto&... all) { backward(all...); });
  }

 private:
  template <class Args, class Body>
  void run(const Args& a, const Place& now, const Body& body) const {
    Held workspace;
    if (const int64_t bytes = device_workspace(*backend, a)) {
      workspace.owner = new_like(like, {bytes}, "uint8");
      workspace.tensor.data = tensor_in(capsule_of(workspace.owner, now)).data;
    }
    const OthersRun others(args);
    body(*backend, a, workspace.tensor.data);
    if (!now.stream_is_known) backend->wait(now.device, now.stream);
  }
};

// What backward needs of a forward call: views of x, the weights and y, which are the caller's, and
// c and the gates.
struct Saved {
  Call call;
  std::optional<std::string> path = std::nullopt;  // that forward took, where there are several
};

// What a call keeps for backward, beside c.
inline void allocate_kept(Call& call) {
  ForwardArgs& a = call.args;
  const KeptUnits kept =
      kept_units(call.cell(), a.family.on, call.projected(), a.family.gain_ih.present, call.H());
  const auto allocate = [&](int64_t units, Tensor& view) {
    if (units > 0) view = call.keep(call.allocate({call.T(), call.B(), units}));
  };
  allocate(kept.reserve, a.reserve);
  allocate(kept.output, a.family.output);
  allocate(kept.norms, a.family.norms);
}

// The call that `saved` is of, which must be one of these cells.
inline const Call& saved_call(const std::string& function, const std::vector<std::string>& cells,
                              py::handle saved) {
  if (!py::isinstance<Saved>(saved)) {
    throw TypeError(argument(function, "saved") +
                    " must be what a forward call with save=True returned, got " +
                    type_name(saved));
  }
  const Call& call = py::cast<const Saved&>(saved).call;
  if (std::find(cells.begin(), cells.end(), call.cell().name) == cells.end()) {
    throw TypeError(argument(function, "saved") +
                    " must come from the forward function of the same cell, got one of " +
                    call.function);
  }
  return call;
}

}  // namespace fastrnn::bindings
