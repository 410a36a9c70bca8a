// The CUDA backend without a GPU: cuda/ as it is, compiled for the host against the cuda_runtime.h
// beside this file, and compared with the scalar CPU backend. What it cannot show: timing, and what
// only concurrent threads can break.
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "device.cuh"
#include "narrow.hpp"
#include "precision.hpp"
#include "restrided.hpp"

namespace fastrnn::test {
namespace {

unsigned problems = 300;

const KernelTable& cuda() { return find_backend("cuda"); }
const KernelTable& scalar() { return find_backend("scalar"); }

// Largest difference over the largest value (or 1).
template <class T>
void check_against_scalar_double(double tolerance) {
  for (unsigned seed = 0; seed < problems; ++seed) {
    ProblemOf<T> problem(random_setup(seed));
    Problem<double> want = widened<T>(problem);
    spoil_masked_x<T>(problem);
    want.run(scalar());
    problem.run(cuda());
    const Problem<double> got = widened<T>(problem);
    // the derivative of relu jumps where a sum, rounded to 8 bits, changes its sign
    const bool jumps =
        std::is_same_v<T, BFloat16> && std::string(cell_info(got.setup.cell)->name) == "rnn_relu";
    const size_t count = jumps ? want.forward_results().size() : want.results().size();
    for (size_t i = 0; i < count; ++i) {
      const std::string name = want.results()[i].name;
      const std::vector<double>& values = *want.results()[i].values;
      const std::vector<double>& ours = *got.results()[i].values;
      double largest = 1, difference = 0;
      for (size_t j = 0; j < values.size(); ++j) {
        FASTRNN_CHECK(!std::isnan(ours[j]), name + " of " + got.setup.text());
        largest = std::fmax(largest, std::fabs(values[j]));
        difference = std::fmax(difference, std::fabs(ours[j] - values[j]));
      }
      FASTRNN_CHECK(
          difference <= tolerance * largest,
          name + " of " + got.setup.text() + " differs by " + std::to_string(difference / largest));
    }
  }
}

void float_matches_scalar_double() { check_against_scalar_double<float>(2e-5); }
void double_matches_scalar_double() { check_against_scalar_double<double>(1e-13); }
void float16_matches_scalar_double() { check_against_scalar_double<Float16>(2e-3); }
void bfloat16_matches_scalar_double() { check_against_scalar_double<BFloat16>(1e-2); }

void bits_do_not_depend_on_the_order_of_threads() {
  for (unsigned seed = 0; seed < problems; ++seed) {
    Problem<float> in_order(random_setup(seed)), permuted(in_order.setup);
    in_order.run(cuda());
    cuda_emulation::order = seed + 1;
    permuted.run(cuda());
    cuda_emulation::order = 0;
    check_results_have_same_bits(in_order, permuted, " of " + in_order.setup.text());
  }
}

void strided_views_give_the_bits_of_packed_ones() {
  for (unsigned seed = 0; seed < problems; ++seed) {
    Problem<float> packed(random_setup(seed)), strided(packed.setup);
    packed.run(cuda());
    BackwardArgs a = strided.backward_args();
    std::vector<Restrided> moved = restride(a, false);
    forward(cuda(), a.forward);
    backward(cuda(), a);
    for (Restrided& view : moved) view.copy_back();
    check_results_have_same_bits(packed, strided, " of " + packed.setup.text());
  }
}

template <class T>
void check_device_arrays() {
  for (unsigned seed = 0; seed < problems; ++seed) {
    ProblemOf<T> host(random_setup(seed)), device(host.setup);
    host.run(cuda());
    BackwardArgs a = device.backward_args();
    int stream = 0;
    a.forward.stream = &stream;
    std::vector<Restrided> moved = restride(a, true);
    Tensor& lengths = a.forward.lengths;
    const auto bytes = static_cast<int64_t>(device.lengths.size() * sizeof(int64_t));
    const DeviceMemory lengths_memory(bytes);
    if (lengths.present && bytes > 0) {
      cudaMemcpy(lengths_memory.get(), lengths.data, static_cast<size_t>(bytes),
                 cudaMemcpyHostToDevice);
      lengths.data = lengths_memory.get();
      lengths.device = 0;
    }
    const DeviceMemory forward_memory(device_workspace(cuda(), a.forward));
    const DeviceMemory backward_memory(device_workspace(cuda(), a));
    const int64_t waits = cuda_emulation::waits;
    forward(cuda(), a.forward, forward_memory.get());
    backward(cuda(), a, backward_memory.get());
    FASTRNN_CHECK(cuda_emulation::waits == waits, "waits for the GPU: " + host.setup.text());
    FASTRNN_CHECK(cuda_emulation::stream == &stream, "another stream: " + host.setup.text());
    for (Restrided& view : moved) view.copy_back();
    const Problem<double> want = widened<T>(host), got = widened<T>(device);
    check_results_have_same_bits(want, got, " of " + host.setup.text());
  }
}

void device_arrays_give_the_bits_of_host_arrays_and_nothing_waits() {
  check_device_arrays<float>();
  check_device_arrays<BFloat16>();
}

// A problem of enough steps for a graph, its arrays on the device, lengths among them.
struct OnTheDevice {
  Problem<float> problem;
  BackwardArgs args;
  std::vector<Restrided> moved;
  DeviceMemory lengths, forward_memory, backward_memory;
  int stream = 0;

  static Setup setup(int cell, int64_t H) {
    Setup s;
    s.cell = cell;
    s.T = 9, s.H = H;
    s.lengths = s.mask = s.reset = s.reverse = true;
    return s;
  }

  explicit OnTheDevice(int cell, int64_t H = 4)
      : problem(setup(cell, H)),
        args(problem.backward_args()),
        moved(restride(args, true)),
        lengths(problem.setup.B * int64_t{sizeof(int64_t)}),
        forward_memory(device_workspace(cuda(), args.forward)),
        backward_memory(device_workspace(cuda(), args)) {
    args.forward.stream = &stream;
    Tensor& on_host = args.forward.lengths;
    cudaMemcpy(lengths.get(), on_host.data, problem.lengths.size() * sizeof(int64_t),
               cudaMemcpyHostToDevice);
    on_host.data = lengths.get();
    on_host.device = 0;
  }

  void run() {
    forward(cuda(), args.forward, forward_memory.get());
    backward(cuda(), args, backward_memory.get());
  }

  // results as they are now; then they are spoiled
  std::vector<std::vector<float>> take() {
    for (Restrided& view : moved) view.copy_back();
    std::vector<std::vector<float>> all;
    for (const auto& result : problem.results()) all.push_back(*result.values);
    for (const Tensor* t : {&args.forward.y, &args.dx, &args.dw_hh, &args.dw_ih})
      cudaMemset(static_cast<char*>(t->data), 0xff, sizeof(float));
    return all;
  }
};

void a_call_that_comes_again_is_one_launch_of_a_graph() {
  for (int cell = 0; cell < cell_count(); ++cell) {
    OnTheDevice p(cell);
    p.run();
    const auto first = p.take();
    p.run();  // captured now
    FASTRNN_CHECK(p.take() == first, "other bits from the graph");
    const int64_t launches = cuda_emulation::launches, waits = cuda_emulation::waits;
    const int64_t graph_launches = cuda_emulation::graph_launches;
    p.run();
    FASTRNN_CHECK(cuda_emulation::launches == launches, "launched kernel by kernel");
    FASTRNN_CHECK(cuda_emulation::graph_launches == graph_launches + 2, "no graph");
    FASTRNN_CHECK(cuda_emulation::waits == waits, "waits for the GPU");
    FASTRNN_CHECK(cuda_emulation::stream == &p.stream, "another stream");
    FASTRNN_CHECK(p.take() == first, "other bits from the second launch");
    // what lies in the arrays is read anew
    cudaMemset(p.args.forward.w_hh.data, 0, sizeof(float));
    p.run();
    const bool dead = std::string(cell_info(cell)->name) == "rnn_relu";  // a unit that is always 0
    FASTRNN_CHECK(dead || p.take() != first, "the graph has values in it");
  }
}

void a_graph_is_of_one_call_alone() {
  OnTheDevice p(2);
  for (int i = 0; i < 2; ++i) p.run(), p.take();
  const auto runs_by_itself = [&](const char* what, const auto& change) {
    const BackwardArgs before = p.args;
    const int64_t graph_launches = cuda_emulation::graph_launches;
    change(p.args);
    p.run();
    p.args = before;
    FASTRNN_CHECK(cuda_emulation::graph_launches == graph_launches, what);
  };
  runs_by_itself("dy and dx", [](BackwardArgs& a) { a.forward.reverse = false; });
  runs_by_itself("a stride", [](BackwardArgs& a) { a.forward.h0.stride[0] = 0; });
  runs_by_itself("fewer results",
                 [](BackwardArgs& a) { a.forward.x.shape[0] = a.forward.y.shape[0] = 8; });
  set_float32_precision(Float32Precision::kTf32);
  runs_by_itself("the precision", [](BackwardArgs&) {});
  set_float32_precision(Float32Precision::kStrict);
  const int64_t graph_launches = cuda_emulation::graph_launches;
  int other_stream = 0;
  p.args.forward.stream = &other_stream;  // may be another one
  p.run();
  FASTRNN_CHECK(cuda_emulation::graph_launches == graph_launches + 2, "not on another stream");
}

void a_capture_of_the_caller_gets_the_kernels_themselves() {
  OnTheDevice p(2);
  p.run();
  const auto expected = p.take();
  p.run();
  p.take();
  const auto stream = reinterpret_cast<cudaStream_t>(&p.stream);
  const int64_t graph_launches = cuda_emulation::graph_launches;
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  p.run();
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(stream, &graph);
  FASTRNN_CHECK(cuda_emulation::graph_launches == graph_launches, "a graph in a graph");
  FASTRNN_CHECK(graph->size() > 2 * 9, "not in the caller's graph");
  FASTRNN_CHECK(p.take() != expected, "run while it was captured");
  cudaGraphExec_t executable = nullptr;
  cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphLaunch(executable, stream);
  FASTRNN_CHECK(p.take() == expected, "other bits from the caller's graph");
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

void a_capture_that_fails_throws_and_leaves_nothing_behind() {
  OnTheDevice p(4);
  p.run();
  const auto expected = p.take();
  const int64_t graphs = cuda_emulation::graphs;
  const KernelTable& backend = cuda();
  int64_t call = 0;
  for (bool failed = true; failed; ++call) {
    failed = false;
    cuda_emulation::calls_to_failure = call;
    try {
      forward(backend, p.args.forward, p.forward_memory.get());
    } catch (const std::runtime_error&) {
      failed = true;
    }
    cuda_emulation::calls_to_failure = -1;
    FASTRNN_CHECK(cuda_emulation::captures.empty(), "still capturing: " + std::to_string(call));
    FASTRNN_CHECK(cuda_emulation::streams == 0, "a stream is left: " + std::to_string(call));
    FASTRNN_CHECK(cuda_emulation::last_error == 0, "sticky error: " + std::to_string(call));
    FASTRNN_CHECK(cuda_emulation::graphs <= graphs + 1, "a graph is left: " + std::to_string(call));
  }
  FASTRNN_CHECK(call > 30, std::to_string(call));
  p.run();
  FASTRNN_CHECK(p.take() == expected, "other bits after it");
}

void a_call_runs_on_the_device_of_its_arrays_and_leaves_the_current_one() {
  cuda_emulation::devices = 3;
  cudaSetDevice(1);
  Problem<float> p((Setup()));
  BackwardArgs a = p.backward_args();
  std::vector<Restrided> moved = restride(a, true);
  a.forward.x.device = 2;
  const DeviceMemory memory(device_workspace(cuda(), a.forward));
  forward(cuda(), a.forward, memory.get());
  FASTRNN_CHECK(cuda_emulation::device_of_launch == 2, "launched elsewhere");
  FASTRNN_CHECK(cuda_emulation::device == 1, "the current device changed");
  cuda_emulation::devices = 1;
  cuda_emulation::device = 0;
}

void bits_do_not_depend_on_batch_split_or_streaming() {
  for (unsigned seed = 0; seed < problems; ++seed) {
    Setup setup = random_setup(seed);
    setup.lengths = setup.reverse = false;
    Problem<float> whole(setup), stepped(setup);
    forward(cuda(), whole.forward_args());
    const ForwardArgs all = stepped.forward_args();
    for (int64_t b = 0; b < setup.B; ++b) {
      for (int64_t t = 0; t < setup.T; ++t) {
        ForwardArgs a = all;
        auto cut = [](Tensor& view, int axis, int64_t at) {
          if (!view.present) return;
          const int64_t size = view.dtype == DType::kBool ? 1 : int64_t{sizeof(float)};
          view.data = static_cast<char*>(view.data) + at * view.stride[axis] * size;
          view.shape[axis] = 1;
        };
        for (Tensor* view : {&a.x, &a.y, &a.c, &a.reserve, &a.mask, &a.reset})
          cut(*view, 0, t), cut(*view, 1, b);
        for (Tensor* view : {&a.h0, &a.c0, &a.h_n, &a.c_n}) cut(*view, 0, b);
        if (t > 0) a.h0 = a.h_n, a.c0 = a.c_n;
        forward(cuda(), a);
      }
    }
    check_same_bits(whole.y, stepped.y, "y of " + setup.text());
    check_same_bits(whole.c, stepped.c, "c of " + setup.text());
  }
}

void inference_gives_the_bits_of_training() {
  for (unsigned seed = 0; seed < problems; ++seed) {
    Problem<float> training(random_setup(seed)), inference(training.setup);
    forward(cuda(), training.forward_args());
    ForwardArgs a = inference.forward_args();
    a.c.present = a.reserve.present = false;
    forward(cuda(), a);
    check_same_bits(training.y, inference.y, "y of " + training.setup.text());
    check_same_bits(training.h_n, inference.h_n, "h_n of " + training.setup.text());
    if (training.S == 2)
      check_same_bits(training.c_n, inference.c_n, "c_n of " + training.setup.text());
  }
}

void a_gradient_does_not_depend_on_which_others_are_wanted() {
  for (unsigned seed = 0; seed < problems; ++seed) {
    Problem<float> all(random_setup(seed)), one(all.setup);
    all.run(cuda());
    forward(cuda(), one.forward_args());
    const BackwardArgs every = one.backward_args();
    for (Tensor BackwardArgs::* wanted :
         {&BackwardArgs::dx, &BackwardArgs::dw_ih, &BackwardArgs::dw_hh, &BackwardArgs::db_ih,
          &BackwardArgs::db_hh, &BackwardArgs::dh0, &BackwardArgs::dc0}) {
      BackwardArgs a = every;
      for (Tensor* view : {&a.dx, &a.dw_ih, &a.dw_hh, &a.db_ih, &a.db_hh, &a.dh0, &a.dc0})
        view->present = false;
      (a.*wanted).present = (every.*wanted).present;
      backward(cuda(), a);
    }
    check_results_have_same_bits(all, one, " of " + all.setup.text());
  }
}

void absent_incoming_gradients_count_as_zeros() {
  for (unsigned seed = 0; seed < problems; ++seed) {
    Problem<float> zeros(random_setup(seed)), absent(zeros.setup);
    for (std::vector<float>* values : {&zeros.dy, &zeros.dh_n, &zeros.dc_n}) {
      std::fill(values->begin(), values->end(), 0.0f);
    }
    zeros.run(cuda());
    forward(cuda(), absent.forward_args());
    BackwardArgs a = absent.backward_args();
    a.dy.present = a.dh_n.present = a.dc_n.present = false;
    backward(cuda(), a);
    check_results_have_same_bits(zeros, absent, " of " + zeros.setup.text());
  }
}

void dx_of_an_idle_step_is_zero_though_weights_are_infinite() {
  Setup setup;
  setup.lengths = setup.mask = true;
  setup.T = 6;
  Problem<float> p(setup);
  std::fill(p.w_ih.begin(), p.w_ih.end(), std::numeric_limits<float>::infinity());
  p.run(cuda());
  for (int64_t t = 0; t < setup.T; ++t) {
    for (int64_t b = 0; b < setup.B; ++b) {
      const size_t row = static_cast<size_t>(t * setup.B + b);
      if (t < p.lengths[static_cast<size_t>(b)] && p.mask[row]) continue;
      FASTRNN_CHECK(p.dx[row * static_cast<size_t>(setup.I)] == 0,
                    std::to_string(t) + ", " + std::to_string(b));
    }
  }
}

void a_failing_call_throws_and_leaks_nothing() {
  Setup setup;
  setup.cell = 4;
  int64_t call = 0;
  for (bool failed = true; failed; ++call) {
    Problem<float> p(setup);
    failed = false;
    const KernelTable& backend = cuda();
    cuda_emulation::calls_to_failure = call;
    try {
      p.run(backend);
    } catch (const std::runtime_error& error) {
      failed = std::string(error.what()).find("out of memory") != std::string::npos;
    }
    cuda_emulation::calls_to_failure = -1;
    FASTRNN_CHECK(cuda_emulation::allocations.empty(), "call " + std::to_string(call));
    FASTRNN_CHECK(cuda_emulation::last_error == 0, "call " + std::to_string(call));
  }
  FASTRNN_CHECK(call > 50, std::to_string(call));
}

void the_gpu_is_used_only_when_asked_for() {
  FASTRNN_CHECK(std::string(find_backend(nullptr).name) == "scalar", find_backend(nullptr).name);
  FASTRNN_CHECK(std::string(cuda().name) == "cuda", cuda().name);
  setenv("FASTRNN_BACKEND", "cuda", 1);
  const std::string chosen = find_backend(nullptr).name;
  unsetenv("FASTRNN_BACKEND");
  FASTRNN_CHECK(chosen == "cuda", chosen);
}

void without_a_device_the_message_says_so() {
  cuda_emulation::devices = 0;
  std::string message;
  try {
    cuda();
  } catch (const std::invalid_argument& error) {
    message = error.what();
  }
  cuda_emulation::devices = 1;
  FASTRNN_CHECK(message == "backend 'cuda' cannot run here: no CUDA device", message);
  FASTRNN_CHECK(cuda_emulation::last_error == 0, "sticky error");
}

// the stand-in for cuBLAS, or null
void* fake_cublas = nullptr;

constexpr int kCompute32 = 68, kCompute64 = 70, kComputeTf32 = 77;  // cublasComputeType_t

int64_t products_in(int compute) {
  static const auto count =
      reinterpret_cast<int64_t (*)(int)>(dlsym(fake_cublas, "fake_cublas_products"));
  return count(compute);
}

void large_products_are_made_by_cublas_where_there_is_one() {
  for (const int compute : {kCompute32, kCompute64})
    FASTRNN_CHECK(products_in(compute) > 30, std::to_string(products_in(compute)));
}

void products_by_cublas_are_part_of_a_graph() {
  using Defer = void (*)(void*, std::function<void()>);
  reinterpret_cast<void (*)(Defer)>(dlsym(fake_cublas, "fake_cublas_defer"))(cuda_emulation::put);
  OnTheDevice p(2, 60);
  int64_t before = products_in(kCompute32);
  p.run();
  FASTRNN_CHECK(products_in(kCompute32) >= before + 9, "too small for cuBLAS");
  const auto first = p.take();
  p.run();
  FASTRNN_CHECK(p.take() == first, "other bits from the graph");
  before = products_in(kCompute32);
  p.run();
  FASTRNN_CHECK(p.take() == first, "other bits from the second launch");
  FASTRNN_CHECK(products_in(kCompute32) == before, "not in the graph");
}

void tf32_is_used_for_float32_alone_and_only_when_asked_for() {
  FASTRNN_CHECK(products_in(kComputeTf32) == 0, "unasked");
  set_float32_precision(Float32Precision::kTf32);
  check_against_scalar_double<double>(1e-13);
  check_against_scalar_double<BFloat16>(1e-2);
  FASTRNN_CHECK(products_in(kComputeTf32) == 0, "of other dtypes");
  const int64_t strict = products_in(kCompute32);
  check_against_scalar_double<float>(1e-3);
  set_float32_precision(Float32Precision::kStrict);
  FASTRNN_CHECK(products_in(kComputeTf32) > 10, std::to_string(products_in(kComputeTf32)));
  FASTRNN_CHECK(products_in(kCompute32) == strict, "some in float32");
}

void kernels_ran() {
  FASTRNN_CHECK(cuda_emulation::launches > 10000, std::to_string(cuda_emulation::launches));
}

}  // namespace
}  // namespace fastrnn::test

int main() {
  using namespace fastrnn::test;
  unsetenv("FASTRNN_BACKEND");
  if (const char* path = std::getenv("FAKE_CUBLAS")) {
    fake_cublas = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!fake_cublas) return 2;
    problems = 60;  // it is slow
    constexpr Test kWithCublas[] = {
        {"float matches scalar double", float_matches_scalar_double},
        {"double matches scalar double", double_matches_scalar_double},
        {"float16 matches scalar double", float16_matches_scalar_double},
        {"bfloat16 matches scalar double", bfloat16_matches_scalar_double},
        {"bits do not depend on the order of threads", bits_do_not_depend_on_the_order_of_threads},
        {"inference gives the bits of training", inference_gives_the_bits_of_training},
        {"large products are made by cuBLAS where there is one",
         large_products_are_made_by_cublas_where_there_is_one},
        {"products by cuBLAS are part of a graph", products_by_cublas_are_part_of_a_graph},
        {"TF32 is used for float32 alone and only when asked for",
         tf32_is_used_for_float32_alone_and_only_when_asked_for},
    };
    return run_all(kWithCublas);
  }
  constexpr Test kTests[] = {
      {"float matches scalar double", float_matches_scalar_double},
      {"double matches scalar double", double_matches_scalar_double},
      {"float16 matches scalar double", float16_matches_scalar_double},
      {"bfloat16 matches scalar double", bfloat16_matches_scalar_double},
      {"bits do not depend on the order of threads", bits_do_not_depend_on_the_order_of_threads},
      {"strided views give the bits of packed ones", strided_views_give_the_bits_of_packed_ones},
      {"device arrays give the bits of host arrays, and nothing waits",
       device_arrays_give_the_bits_of_host_arrays_and_nothing_waits},
      {"a call that comes again is one launch of a graph",
       a_call_that_comes_again_is_one_launch_of_a_graph},
      {"a graph is of one call alone", a_graph_is_of_one_call_alone},
      {"a capture of the caller gets the kernels themselves",
       a_capture_of_the_caller_gets_the_kernels_themselves},
      {"a capture that fails throws and leaves nothing behind",
       a_capture_that_fails_throws_and_leaves_nothing_behind},
      {"a call runs on the device of its arrays and leaves the current one",
       a_call_runs_on_the_device_of_its_arrays_and_leaves_the_current_one},
      {"bits do not depend on batch split or streaming",
       bits_do_not_depend_on_batch_split_or_streaming},
      {"inference gives the bits of training", inference_gives_the_bits_of_training},
      {"a gradient does not depend on which others are wanted",
       a_gradient_does_not_depend_on_which_others_are_wanted},
      {"absent incoming gradients count as zeros", absent_incoming_gradients_count_as_zeros},
      {"dx of an idle step is zero though weights are infinite",
       dx_of_an_idle_step_is_zero_though_weights_are_infinite},
      {"a failing call throws and leaks nothing", a_failing_call_throws_and_leaks_nothing},
      {"the GPU is used only when asked for", the_gpu_is_used_only_when_asked_for},
      {"without a device the message says so", without_a_device_the_message_says_so},
      {"kernels ran", kernels_ran},
  };
  return run_all(kTests);
}
