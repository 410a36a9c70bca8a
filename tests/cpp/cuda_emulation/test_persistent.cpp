// Calls by the persistent kernels: the whole backend, on emulated clusters or, with FASTRNN_ON_GPU,
// on a GPU. Compared with the scalar CPU backend in double on the same inputs.
#include <chrono>
#include <cstdlib>
#include <string>

#include "narrow.hpp"
#include "precision.hpp"
#if !defined(FASTRNN_ON_GPU)
#include "restrided.hpp"
#endif

namespace fastrnn::test {
namespace {

const KernelTable& cuda() { return find_backend("cuda"); }
const KernelTable& scalar() { return find_backend("scalar"); }

bool verbose = false, few = false, exhaustive = false;

// FASTRNN_CUDA_PATH while it lives
class ByPath {
 public:
  explicit ByPath(const std::string& text) { setenv("FASTRNN_CUDA_PATH", text.c_str(), 1); }
  ~ByPath() { unsetenv("FASTRNN_CUDA_PATH"); }
  ByPath(const ByPath&) = delete;
  ByPath& operator=(const ByPath&) = delete;
};

std::string path_of(const ForwardArgs& a, bool backward = false) {
  return cuda().path(a, backward);
}
bool is_persistent(const ForwardArgs& a) { return path_of(a).starts_with("persistent"); }

void schedule([[maybe_unused]] unsigned seed) {
#if !defined(FASTRNN_ON_GPU)
  cuda_emulation::order = seed;
#endif
}

class InTf32 {
 public:
  InTf32() { set_float32_precision(Float32Precision::kTf32); }
  ~InTf32() { set_float32_precision(Float32Precision::kStrict); }
  InTf32(const InTf32&) = delete;
  InTf32& operator=(const InTf32&) = delete;
};

// relative to the largest entry, and for gradients to that of dy, which is near 1
template <class T>
double tolerance(bool gradient) {
  if (sizeof(T) == 2) return 1e-2;
  if (float32_precision() == Float32Precision::kTf32) return 1e-3;
  return gradient ? 2e-5 : 4e-6;
}

template <class T>
constexpr const char* kTypeName = "bfloat16";
template <>
constexpr const char* kTypeName<float> = "float32";
template <>
constexpr const char* kTypeName<Float16> = "float16";

void check_close(const std::vector<double>& want, const std::vector<double>& got, double tolerance,
                 const std::string& name, double size = 0) {
  double largest = size, difference = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    FASTRNN_CHECK(!std::isnan(got[i]), name);
    largest = std::fmax(largest, std::fabs(want[i]));
    difference = std::fmax(difference, std::fabs(got[i] - want[i]));
  }
  const double relative = largest > 0 ? difference / largest : difference;
  if (verbose) std::printf("  %.2e of %.0e  %s\n", relative, tolerance, name.c_str());
  FASTRNN_CHECK(relative <= tolerance, name + " differs by " + std::to_string(relative));
}

// weights of the recurrence so small that sums stay near 1
template <class T>
void shrink(ProblemOf<T>& p) {
  const double by = 4 / std::sqrt(static_cast<double>(std::max<int64_t>(p.setup.H, 16)));
  for (T& w : p.w_hh) w = from_double<T>(static_cast<double>(cuda::computed(w)) * by);
}

// `forward_path`, `backward_path`: FASTRNN_CUDA_PATH of each
template <class T>
void check(const Setup& setup, const std::string& forward_path, const std::string& backward_path) {
  constexpr int64_t kManyUnits = 200;  // dw_hh would take the emulator and the oracle long
  ProblemOf<T> problem(setup);
  shrink<T>(problem);
  Problem<double> want = widened<T>(problem);
  spoil_masked_x<T>(problem);
  const bool all_weights = setup.H <= kManyUnits;
  BackwardArgs expected = want.backward_args(), args = problem.backward_args();
  expected.dw_hh.present = args.dw_hh.present = all_weights;
  forward(scalar(), expected.forward);
  backward(scalar(), expected);
  const std::string text =
      " of " + setup.text() + ", " + kTypeName<T> + ", " + forward_path + ", " + backward_path;
  if (verbose) std::printf("results%s\n", text.c_str());
  schedule(setup.seed + 1);
  {
    const ByPath path(forward_path);
    forward(cuda(), args.forward);
  }
  {
    const ByPath path(backward_path);
    backward(cuda(), args);
  }
  schedule(0);
  const Problem<double> got = widened<T>(problem);
  const size_t of_forward = want.forward_results().size();
  // the derivative of relu jumps where a sum, rounded to 8 bits, changes its sign
  const bool jumps =
      std::is_same_v<T, BFloat16> && std::string(cell_info(setup.cell)->name) == "rnn_relu";
  const size_t count = jumps ? of_forward : want.results().size();
  for (size_t i = 0; i < count; ++i) {
    const std::string name = want.results()[i].name;
    if (name == "dw_hh" && !all_weights) continue;
    const bool gradient = i >= of_forward;
    check_close(*want.results()[i].values, *got.results()[i].values, tolerance<T>(gradient),
                name + text, gradient);
  }
}

int number_of(const std::string& cell) {
  int number = 0;
  while (cell_info(number)->name != cell) ++number;
  return number;
}

struct Case {
  const char* tile;
  int64_t H;
  int cluster;
  int64_t T = 0;  // 0: a few steps, with options that the seed draws; else all options
};

// A random problem of H units.
Setup setup_for(const std::string& cell, const Case& test, unsigned seed) {
  Random random(seed * 977u + 3u);
  Setup s = random_setup(seed);
  s.cell = number_of(cell);
  s.T = 1 + random.below(3);  // bfloat16's roundings of what is saved add up, 2^-9 a step
  s.B = 1 + random.below(11);
  s.I = 2;
  s.H = test.H;
  if (test.T > 0) {
    s.T = test.T;
    s.state = s.lengths = s.mask = s.reset = true;
  }
  return s;
}

using Names = std::vector<const char*>;

// One of the cases for each cell, drawn by the seed; all of them when asked for.
template <class T>
void check_cells(const Names& cells, const std::vector<Case>& cases, unsigned seed) {
  for (const char* cell : cells) {
    for (size_t i = 0; i < cases.size(); ++i) {
      const Case& test = cases[i];
      if (!exhaustive && i != seed % cases.size()) continue;
      const std::string path =
          std::string("persistent ") + test.tile + " " + std::to_string(test.cluster);
      check<T>(setup_for(cell, test, seed), path, path);
    }
    ++seed;
  }
}

void check_narrow(const std::vector<Case>& cases, unsigned seed) {
  check_cells<BFloat16>({"lstm"}, cases, seed);
  if (few) return;
  check_cells<BFloat16>({"gru", "rnn_tanh", "rnn_relu"}, cases, seed + 1);
  check_cells<Float16>({"lstm", "gru"}, cases, seed + 4);
  if (exhaustive) check_cells<Float16>({"rnn_tanh", "rnn_relu"}, cases, seed + 6);
}

void check_float(const std::vector<Case>& cases, unsigned seed) {
  if (few) return;
  check_cells<float>({"lstm", "gru", "rnn_tanh"}, cases, seed);
  const InTf32 precision;
  check_cells<float>({"lstm", "gru"}, cases, seed + 3);
  if (exhaustive) check_cells<float>({"rnn_tanh", "rnn_relu"}, cases, seed + 5);
}

void one_block() {
  const std::vector<Case> all = {{"block", 1, 1},  {"block", 7, 1},   {"block", 33, 1},
                                 {"block", 64, 1}, {"block", 100, 1}, {"block", 128, 1}};
  check_narrow(all, 1);
  check_float(all, 2);
}

void clusters_of_narrow_blocks() {
  const std::vector<Case> all = {{"spread", 40, 2},   {"spread", 64, 4},   {"spread", 100, 8},
                                 {"spread", 200, 16}, {"spread", 300, 16}, {"spread", 512, 16}};
  check_narrow(all, 3);
  check_float(all, 4);
}

void clusters_of_wide_blocks() {
  if (few) return;
  check_narrow(
      {{"wide", 90, 2}, {"wide", 160, 4}, {"wide", 320, 8}, {"wide", 500, 16}, {"wide", 768, 16}},
      5);
}

// Through the L2 cache, and several launches where a device is too small for all groups at a time.
void groups_of_blocks() {
  unsigned seed = 60;
  const std::vector<Case> all = {
      {"group", 150, 8}, {"group", 256, 8}, {"large", 90, 8}, {"large", 128, 8}};
#if !defined(FASTRNN_ON_GPU)
  cuda_emulation::devices = 4;
  cuda_emulation::device = 3;
  cuda_emulation::multiprocessors = 17;  // two groups of 8
#endif
  // units of a block that are too few for one back
  check<BFloat16>(setup_for("lstm", {"group", 100, 8}, seed++), "persistent group 8", "steps");
  for (const Case& test : all) {
    const std::string path = std::string("persistent ") + test.tile + " 8";
    for (const int64_t B : {3, 20}) {
      Setup setup = setup_for("lstm", test, seed++);
      setup.B = B;
      setup.T += 3;
      check<BFloat16>(setup, path, path);
    }
    if (few) continue;
    check<Float16>(setup_for("lstm", test, seed++), path, path);
    check<BFloat16>(setup_for("gru", test, seed++), "steps", path);
    const bool is_large = std::string(test.tile) == "large";
    if (!is_large) check<BFloat16>(setup_for("gru", test, seed++), path, "steps");
  }
#if !defined(FASTRNN_ON_GPU)
  cuda_emulation::multiprocessors = 132;
  cuda_emulation::device = 0;
  cuda_emulation::devices = 1;
#endif
  if (!exhaustive) return;
  for (const char* cell : {"lstm", "gru"}) {
    const std::string path = "persistent group 32";
    check<BFloat16>(setup_for(cell, {"group", 1024, 32}, seed++), path, path);
    check<Float16>(setup_for(cell, {"large", 1024, 64}, seed++), "steps", "persistent large 64");
  }
  check<BFloat16>(setup_for("lstm", {"large", 2048, 128}, seed++), "persistent large 128", "steps");
}

void many_steps() {
  unsigned seed = 7;
  for (int i = 0; i < 3; ++i) {
    check_cells<BFloat16>({"lstm"}, {{"block", 24, 1, 7}}, seed++);
    check_cells<BFloat16>({"lstm"}, {{"spread", 40, 2, 7}}, seed++);
  }
  // warps that send to other blocks alone
  for (seed = 43; seed < 46; ++seed) check_cells<BFloat16>({"lstm"}, {{"spread", 128, 4, 7}}, seed);
  if (few) return;
  check_cells<Float16>({"lstm"}, {{"wide", 90, 2, 12}}, seed++);
  check_cells<float>({"lstm", "gru", "rnn_tanh"}, {{"spread", 40, 2, 12}}, seed);
}

void weights_that_do_not_fit_the_registers() {
  if (few) return;
  check_cells<BFloat16>({"lstm"}, {{"wide", 320, 8}}, 5);
  check_cells<float>({"lstm"}, {{"spread", 280, 16}}, 6);
  check_cells<float>({"lstm"}, {{"block", 128, 1}}, 7);
}

// every option, no steps and no rows among the sizes
template <class T>
void check_random(unsigned first, unsigned count) {
  int persistent = 0;
  for (unsigned seed = first; seed < first + count; ++seed) {
    Setup setup = random_setup(seed);
    const std::string cell = cell_info(setup.cell)->name;
    if (few && cell != "lstm") continue;
    ProblemOf<T> problem(setup);
    persistent += is_persistent(problem.forward_args());
    check<T>(setup, "", "");
  }
  FASTRNN_CHECK(few || persistent > static_cast<int>(count) / 3, std::to_string(persistent));
}

void the_path_that_a_call_takes_by_itself_is_right_for_every_option() {
  const unsigned count = few ? 0 : 24;
  check_random<float>(0, count);
  check_random<Float16>(100, count);
  check_random<BFloat16>(200, count);
}

void either_path_reads_what_the_other_kept() {
  if (few) return;
  unsigned seed = 40;
  for (const char* cell : {"lstm", "gru", "rnn_tanh"}) {
    for (const Case& test : {Case{"", 20, 1, 3}, Case{"", 70, 4, 3}}) {
      check<float>(setup_for(cell, test, seed++), "persistent", "steps");
      check<float>(setup_for(cell, test, seed++), "steps", "persistent");
    }
  }
}

#if !defined(FASTRNN_ON_GPU)

void strides_and_places_leave_the_bits_and_nothing_waits() {
  for (unsigned seed = 0; seed < (few ? 0 : 16); ++seed) {
    Setup setup = random_setup(seed);
    setup.T += 2;
    ProblemOf<float> host(setup), device(setup);
    host.run(cuda());
    BackwardArgs a = device.backward_args();
    int stream = 0;
    a.forward.stream = &stream;
    std::vector<Restrided> moved = restride(a, true);
    const DeviceMemory forward_memory(device_workspace(cuda(), a.forward));
    const DeviceMemory backward_memory(device_workspace(cuda(), a));
    const int64_t waits = cuda_emulation::waits;
    forward(cuda(), a.forward, forward_memory.get());
    backward(cuda(), a, backward_memory.get());
    FASTRNN_CHECK(cuda_emulation::waits == waits, "waits for the GPU: " + setup.text());
    FASTRNN_CHECK(cuda_emulation::stream == &stream, "another stream: " + setup.text());
    for (Restrided& view : moved) view.copy_back();
    check_results_have_same_bits(host, device, " of " + setup.text());
  }
}

void inference_gives_the_bits_of_training() {
  for (unsigned seed = 0; seed < (few ? 0 : 12); ++seed) {
    ProblemOf<BFloat16> training(random_setup(seed)), inference(training.setup);
    forward(cuda(), training.forward_args());
    ForwardArgs a = inference.forward_args();
    a.c.present = a.reserve.present = false;
    forward(cuda(), a);
    check_same_bits(training.y, inference.y, "y of " + training.setup.text());
    check_same_bits(training.h_n, inference.h_n, "h_n of " + training.setup.text());
  }
}

// sizes and dtypes alone
ForwardArgs sizes(const char* cell, DType dtype, int64_t T, int64_t B, int64_t H) {
  ForwardArgs a;
  a.cell = number_of(cell);
  a.x.shape[0] = T, a.x.shape[1] = B, a.x.shape[2] = H;
  a.w_hh.shape[0] = cell_info(a.cell)->gates * H, a.w_hh.shape[1] = H;
  a.w_hh.dtype = a.w_ih.dtype = a.x.dtype = dtype;
  return a;
}

void check_path(const std::string& begins, const char* cell, DType dtype, int64_t T, int64_t B,
                int64_t H) {
  for (const bool backward : {false, true}) {
    const std::string path = path_of(sizes(cell, dtype, T, B, H), backward);
    FASTRNN_CHECK(path.starts_with(begins), path + ", wanted " + begins);
  }
}

std::string refusal(const char* cell, DType dtype, int64_t H) {
  try {
    return path_of(sizes(cell, dtype, 9, 16, H));
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

void a_path_says_which_it_is_and_why() {
  constexpr DType kBFloat = DType::kBFloat16, kFloat = DType::kFloat32;
  check_path("persistent: block 1; by the model a step of ", "lstm", kBFloat, 9, 2048, 64);
  check_path("persistent: ", "lstm", kBFloat, 100, 16, 768);
  check_path("persistent: large 64; ", "lstm", kBFloat, 100, 16, 769);
  check_path("persistent: group 32; ", "lstm", kBFloat, 100, 64, 1024);
  const auto check_forward_path = [&](const char* begins, const char* cell, int64_t H) {
    const std::string path = path_of(sizes(cell, kBFloat, 100, 16, H));
    FASTRNN_CHECK(path.starts_with(begins), path);
  };
  const std::string beyond = path_of(sizes("lstm", kBFloat, 100, 16, 1025), true);
  FASTRNN_CHECK(beyond.starts_with("steps: no cluster or group"), beyond);
  check_forward_path("persistent: large 128; ", "lstm", 2048);
  check_forward_path("steps: no cluster or group", "lstm", 2049);
  if (!few) {
    check_forward_path("persistent: group 64; ", "gru", 1536);
    check_forward_path("steps: no cluster or group", "gru", 1537);
  }
  check_path("steps: there are none", "lstm", kBFloat, 0, 16, 64);
  check_path("steps: there are none", "lstm", kBFloat, 9, 0, 64);
  check_path("steps: spread ", "lstm", kBFloat, 1, 1, 64);
  check_path("steps: gru_reset_before has no persistent kernel", "gru_reset_before", kFloat, 9, 1,
             64);
  check_path("steps: rnn_relu has no persistent kernel", "rnn_relu", kFloat, 9, 1, 64);
  check_path("steps: lstm_coupled has no persistent kernel", "lstm_coupled", kFloat, 9, 1, 64);
  check_path("steps: lstm has no persistent kernel", "lstm", DType::kFloat64, 9, 1, 64);
  if (!few) {
    check_path("persistent: spread 16; ", "gru", kFloat, 100, 64, 512);
    check_path("steps: no cluster or group", "gru", kFloat, 100, 64, 513);
  }
  // another device has its own answers
  cuda_emulation::devices = 2;
  cuda_emulation::device = 1;
  cuda_emulation::largest_cluster = 8;
  if (!few) check_path("steps: no cluster or group", "lstm", DType::kFloat32, 100, 16, 512);
  check_path("persistent: ", "lstm", kBFloat, 100, 16, 256);
  cuda_emulation::largest_cluster = 16;
  cuda_emulation::device = 0;
  cuda_emulation::devices = 1;
}

void a_path_can_be_asked_for_and_forbidden() {
  constexpr DType kBFloat = DType::kBFloat16;
  {
    const ByPath path("steps");
    check_path("steps: FASTRNN_CUDA_PATH says so", "lstm", kBFloat, 9, 16, 64);
  }
  {
    const ByPath path("persistent spread 8");
    check_path("persistent: spread 8; ", "lstm", kBFloat, 9, 16, 64);
    const std::string said = refusal("lstm", kBFloat, 900);
    FASTRNN_CHECK(said.starts_with("FASTRNN_CUDA_PATH is 'persistent spread 8', but no cluster or"),
                  said);
  }
  for (const char* wrong : {"step", "persistent 3", "steps 2", "persistent spread twice"}) {
    const ByPath path(wrong);
    const std::string said = refusal("lstm", kBFloat, 64);
    FASTRNN_CHECK(said.starts_with("FASTRNN_CUDA_PATH must be 'steps', or 'persistent'"), said);
  }
}

void a_device_without_clusters_takes_a_kernel_a_step() {
  cuda_emulation::devices = 3;
  cuda_emulation::device = 2;
  cuda_emulation::capability = 8;
  check_path("steps: no cluster or group", "lstm", DType::kBFloat16, 100, 16, 64);
  cuda_emulation::capability = 9;
  cuda_emulation::device = 0;
  cuda_emulation::devices = 1;
}

void a_failing_call_throws_and_leaks_nothing() {
  Setup setup;
  setup.cell = number_of("lstm");
  int64_t call = 0;
  for (bool failed = true; failed && !few; ++call) {
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
  FASTRNN_CHECK(few || call > 50, std::to_string(call));
}

#endif

}  // namespace
}  // namespace fastrnn::test

// Arguments: verbose; few: the claims about one cell and dtype that are the quickest; all; another
// is in the claims that are to be tested
int main(int count, char** arguments) {
  using namespace fastrnn::test;
  unsetenv("FASTRNN_BACKEND");
  unsetenv("FASTRNN_CUDA_PATH");
#if !defined(FASTRNN_ON_GPU)
  cuda_emulation::capability = 9;
#endif
  std::string only;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "verbose") {
      verbose = true;
    } else if (argument == "few") {
      few = true;
    } else if (argument == "all") {
      exhaustive = true;
    } else {
      only = argument;
    }
  }
  constexpr Test kTests[] = {
      {"one block", one_block},
      {"clusters of narrow blocks", clusters_of_narrow_blocks},
      {"clusters of wide blocks", clusters_of_wide_blocks},
      {"groups of blocks", groups_of_blocks},
      {"many steps", many_steps},
      {"weights that do not fit the registers", weights_that_do_not_fit_the_registers},
      {"the path that a call takes by itself is right for every option",
       the_path_that_a_call_takes_by_itself_is_right_for_every_option},
      {"either path reads what the other kept", either_path_reads_what_the_other_kept},
#if !defined(FASTRNN_ON_GPU)
      {"strides and places leave the bits, and nothing waits",
       strides_and_places_leave_the_bits_and_nothing_waits},
      {"inference gives the bits of training", inference_gives_the_bits_of_training},
      {"a path says which it is and why", a_path_says_which_it_is_and_why},
      {"a path can be asked for and forbidden", a_path_can_be_asked_for_and_forbidden},
      {"a device without clusters takes a kernel a step",
       a_device_without_clusters_takes_a_kernel_a_step},
      {"a failing call throws and leaks nothing", a_failing_call_throws_and_leaks_nothing},
#endif
  };
  return run_all(kTests, only);
}
