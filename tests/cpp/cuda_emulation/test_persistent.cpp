// The persistent kernels on emulated clusters, or, compiled by nvcc, on a GPU. FASTRNN_ALL: all
// cells with all modes, FASTRNN_FEW: few of them, which compile sooner. Compared with the scalar
// CPU backend in double on the same inputs, which are rounded as the kernel's arrays have them.
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../harness.hpp"
#include "../problem.hpp"
#include "cells/cells.hpp"
#include "controls.hpp"
#include "persistent/choice.cuh"
#include "persistent/launch.cuh"
#include "persistent/sizes.cuh"

namespace fastrnn::test {
namespace {

using namespace cuda;
using namespace cuda::persistent;

// Memory that kernels and this program share.
#if defined(__CUDACC__)
template <class T>
struct Managed {
  using value_type = T;
  Managed() = default;
  template <class U>
  Managed(const Managed<U>&) {}
  T* allocate(size_t count) {
    void* memory = nullptr;
    FASTRNN_CUDA_CHECK(cudaMallocManaged(&memory, count * sizeof(T)));
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, size_t) { cudaFree(memory); }
  bool operator==(const Managed&) const { return true; }
};
template <class T>
using Array = std::vector<T, Managed<T>>;
void wait_for_device() { FASTRNN_CUDA_CHECK(cudaDeviceSynchronize()); }
#else
template <class T>
using Array = std::vector<T>;
void wait_for_device() {}
#endif

template <class Value>
Array<Value> stored_as(const std::vector<double>& values) {
  Array<Value> all;
  for (const double value : values) all.push_back(stored<Value>(static_cast<float>(value)));
  return all;
}

template <class Value>
void round_to(std::vector<double>& values) {
  for (double& value : values)
    value = static_cast<double>(computed(stored<Value>(static_cast<float>(value))));
}

template <class Value>
const Value* data_or_null(const Array<Value>& values, bool present) {
  return present ? values.data() : nullptr;
}

// The arrays of a persistent kernel, from a problem whose values Value can hold.
template <class Value>
struct Arrays {
  Problem<double>& problem;
  const Setup& setup = problem.setup;
  Array<int64_t> lengths;
  Array<uint8_t> mask, reset;
  Array<Value> w_hh, b_hh, h0, y, h_n, reserve, dy, dh_n, dgates, dh0;
  Array<float> gx, c0, c, c_n, dc_n, dc0, db;

  Arrays(Problem<double>& p, int slots)
      : problem(p),
        lengths(p.lengths.begin(), p.lengths.end()),
        mask(p.mask.begin(), p.mask.end()),
        reset(p.reset.begin(), p.reset.end()),
        w_hh(stored_as<Value>(p.w_hh)),
        b_hh(stored_as<Value>(p.b_hh)),
        h0(stored_as<Value>(p.h0)),
        y(p.y.size(), Value(stored<Value>(static_cast<float>(kNaN)))),
        h_n(p.h_n.size(), y[0]),
        reserve(p.reserve.size(), y[0]),
        dy(stored_as<Value>(p.dy)),
        dh_n(stored_as<Value>(p.dh_n)),
        dgates(p.y.size() * static_cast<size_t>(slots), h_n[0]),
        dh0(h_n),
        gx(p.y.size() * static_cast<size_t>(p.G), static_cast<float>(kNaN)),
        c0(stored_as<float>(p.c0)),
        c(p.c.size(), static_cast<float>(kNaN)),
        c_n(p.c_n.size(), static_cast<float>(kNaN)),
        dc_n(stored_as<float>(p.dc_n)),
        dc0(c_n) {
    const size_t I = static_cast<size_t>(setup.I), N = static_cast<size_t>(p.G * setup.H);
    for (size_t i = 0; i < gx.size(); ++i) {
      double sum = setup.bias ? p.b_ih[i % N] : 0;
      for (size_t k = 0; k < I; ++k) sum += p.x[i / N * I + k] * p.w_ih[i % N * I + k];
      gx[i] = static_cast<float>(sum);
    }
  }

  BackwardData<Value> backward_data() {
    const bool cell_state = problem.S == 2;
    const size_t slots = dgates.size() / y.size();
    db.assign(static_cast<size_t>(divide_up(setup.B, kColumns) * setup.H) * slots,
              static_cast<float>(kNaN));
    return {sequence(),
            w_hh.data(),
            dy.data(),
            dh_n.data(),
            dc_n.data(),
            data_or_null(h0, setup.state),
            data_or_null(c0, setup.state && cell_state),
            y.data(),
            c.data(),
            reserve.data(),
            dgates.data(),
            dh0.data(),
            dc0.data(),
            db.data()};
  }

  // dx [T, B, I], of the gates' gradients
  Array<float> dx(int (*slot)(int)) const {
    const size_t I = static_cast<size_t>(setup.I), H = static_cast<size_t>(setup.H);
    const size_t slots = dgates.size() / y.size(), gates = static_cast<size_t>(problem.G);
    Array<float> all;
    for (size_t at = 0; at < problem.dx.size(); ++at) {
      double sum = 0;
      for (size_t i = 0; i < gates * H; ++i) {
        const size_t d = static_cast<size_t>(slot(static_cast<int>(i / H)));
        sum += static_cast<double>(computed(dgates[(at / I * slots + d) * H + i % H])) *
               problem.w_ih[i * I + at % I];
      }
      all.push_back(static_cast<float>(sum));
    }
    return all;
  }

  // db [G*H], of the sums of the tiles
  Array<float> db_of(int (*slot)(int)) const {
    const size_t H = static_cast<size_t>(setup.H), slots = dgates.size() / y.size();
    Array<float> all;
    for (size_t i = 0; i < static_cast<size_t>(problem.G) * H; ++i) {
      double sum = 0;
      for (size_t at = static_cast<size_t>(slot(static_cast<int>(i / H))) * H + i % H;
           at < db.size(); at += slots * H) {
        sum += static_cast<double>(db[at]);
      }
      all.push_back(static_cast<float>(sum));
    }
    return all;
  }

  Sequence sequence() {
    ForwardArgs args = problem.forward_args();
    args.lengths.data = lengths.data();
    args.mask.data = mask.data();
    args.reset.data = reset.data();
    return Sequence(args);
  }

  ForwardData<Value> forward_data() {
    const bool cell_state = problem.S == 2;
    return {sequence(),
            w_hh.data(),
            data_or_null(b_hh, setup.bias),
            gx.data(),
            data_or_null(h0, setup.state),
            data_or_null(c0, setup.state && cell_state),
            y.data(),
            cell_state ? c.data() : nullptr,
            h_n.data(),
            cell_state ? c_n.data() : nullptr,
            reserve.empty() ? nullptr : reserve.data()};
  }
};

struct Case {
  const char* size;
  int64_t H;
  int cluster;
  int64_t T = 0;  // 0: a few steps, with options that the seed draws; else all options
};

// A random problem of H units whose inputs Value holds; weights so small that sums stay near 1.
template <class Value>
Problem<double> problem_for(int cell, const Case& test, unsigned seed) {
  Random random(seed * 977u + 3u);
  Setup s = random_setup(seed);
  s.cell = cell;
  s.T = 1 + random.below(3);  // bfloat16's roundings of what is saved add up, 2^-9 a step
  s.B = 1 + random.below(11);
  s.I = 2;
  s.H = test.H;
  if (test.T > 0) {
    s.T = test.T;
    s.state = s.lengths = s.mask = s.reset = true;
  }
  Problem<double> p(s);
  const double shrink = 4 / std::sqrt(static_cast<double>(test.H < 16 ? 16 : test.H));
  for (double& w : p.w_hh) w *= shrink;
  for (auto* values : {&p.w_hh, &p.b_hh, &p.h0, &p.dy, &p.dh_n}) round_to<Value>(*values);
  for (auto* values : {&p.c0, &p.dc_n}) round_to<float>(*values);
  return p;
}

template <class Value>
double largest_difference(const std::vector<double>& want, const Array<Value>& got, double size,
                          const std::string& name) {
  double largest = size, difference = 0;
  FASTRNN_CHECK(want.size() == got.size(), name);
  for (size_t i = 0; i < want.size(); ++i) {
    const double ours = static_cast<double>(computed(got[i]));
    if (std::isnan(want[i])) continue;  // of a step that saves nothing
    FASTRNN_CHECK(!std::isnan(ours), name);
    largest = std::fmax(largest, std::fabs(want[i]));
    difference = std::fmax(difference, std::fabs(ours - want[i]));
  }
  return largest > 0 ? difference / largest : difference;
}

// relative to the largest entry
template <class Mode>
constexpr double kForwardTolerance = 1e-2;
template <class Half>
constexpr double kForwardTolerance<Split<Half>> = 4e-6;
template <>
constexpr double kForwardTolerance<Tf32> = 1e-3;

bool verbose = false;

template <class Value>
void check_close(const std::vector<double>& want, const Array<Value>& got, double tolerance,
                 const std::string& name, double size = 0) {
  const double difference = largest_difference(want, got, size, name);
  if (verbose) std::printf("  %.2e of %.0e  %s\n", difference, tolerance, name.c_str());
  FASTRNN_CHECK(difference <= tolerance, name + " differs by " + std::to_string(difference));
}

template <class Mode>
std::string name_of() {
  if constexpr (std::is_same_v<Mode, Tf32>)
    return "tf32";
  else
    return std::string(Mode::kPlanes == 2 ? "split " : "") +
           (std::is_same_v<Mode, Narrow<BFloat16>> || std::is_same_v<Mode, Split<BFloat16>>
                ? "bfloat16"
                : "float16");
}

template <template <class> class C>
int number_of() {
  int cell = 0;
  while (std::string(cell_info(cell)->name) != C<float>::kName) ++cell;
  return cell;
}

// values [T, B, n] of steps that save nothing: not a number
void forget_idle_steps(const Sequence& seq, std::vector<double>& values) {
  const size_t rows = static_cast<size_t>(seq.T * seq.B), n = values.size() / rows;
  for (size_t row = 0; row < rows; ++row) {
    const int64_t b = static_cast<int64_t>(row) % seq.B, t = static_cast<int64_t>(row) / seq.B;
    if (t < seq.length(b) && seq.works(b, seq.time(b, t))) continue;
    std::fill_n(values.begin() + static_cast<int64_t>(row * n), n, kNaN);
  }
}

// relative to the largest entry or that of dy, which is near 1
constexpr double kOfDy = 1;
template <class Mode>
constexpr double kGradientTolerance = 1e-2;
template <class Half>
constexpr double kGradientTolerance<Split<Half>> = 2e-5;
template <>
constexpr double kGradientTolerance<Tf32> = 1e-3;

// The mode of backward: gradients have no bound, which Split<Float16> needs.
template <class Mode>
struct BackwardModeOf {
  using Type = Mode;
};
template <>
struct BackwardModeOf<Split<Float16>> {
  using Type = Split<BFloat16>;
};

template <class Forward, class Backward>
void check_kernels(const Case& test, unsigned seed) {
  using Mode = typename Forward::Mode;
  using Value = typename Mode::Value;
  using Cell = typename Forward::Cell;
  int cell = 0;
  while (std::string(cell_info(cell)->name) != Cell::kName) ++cell;
  Problem<double> want = problem_for<Value>(cell, test, seed);
  const std::string text = want.setup.text() + ", " + name_of<Mode>() + ", " + test.size +
                           ", cluster " + std::to_string(test.cluster);
  const ForwardShape<Forward> forward_shape(test.H, test.cluster);
  const BackwardShape<Backward> backward_shape(test.H, test.cluster);
  FASTRNN_CHECK(forward_shape.fits(test.H, test.cluster, cuda_emulation::kSharedBytes),
                text + ": " + std::to_string(forward_shape.bytes) + " bytes");
  FASTRNN_CHECK(backward_shape.fits(test.H, test.cluster, cuda_emulation::kSharedBytes),
                text + ": " + std::to_string(backward_shape.bytes) + " bytes");
  Arrays<Value> got(want, Cell::kSlots);
  want.run(find_backend("scalar"));
  cuda_emulation::order = seed;
  launch_tiles<Forward>(forward_kernel<Forward>, test.cluster, nullptr, got.forward_data());
  wait_for_device();
  const double tolerance = kForwardTolerance<Mode>;
  check_close(want.y, got.y, tolerance, "y of " + text);
  check_close(want.h_n, got.h_n, tolerance, "h_n of " + text);
  check_close(want.c, got.c, tolerance, "c of " + text);
  check_close(want.c_n, got.c_n, tolerance, "c_n of " + text);
  forget_idle_steps(got.sequence(), want.reserve);
  check_close(want.reserve, got.reserve, tolerance, "reserve of " + text);
  // the derivative of relu jumps where a sum, rounded to 8 bits, changes its sign
  if (std::is_same_v<Value, BFloat16> && std::string(Cell::kName) == "rnn_relu") return;
  launch_tiles<Backward>(backward_kernel<Backward>, test.cluster, nullptr, got.backward_data());
  wait_for_device();
  const double of_gradients = kGradientTolerance<Mode>;
  check_close(want.dx, got.dx(Cell::slot_x), of_gradients, "dx of " + text, kOfDy);
  check_close(want.db_ih, got.db_of(Cell::slot_x), of_gradients, "db_ih of " + text, kOfDy);
  check_close(want.db_hh, got.db_of(Cell::slot_h), of_gradients, "db_hh of " + text, kOfDy);
  check_close(want.dh0, got.dh0, of_gradients, "dh0 of " + text, kOfDy);
  if (want.S == 2) check_close(want.dc0, got.dc0, of_gradients, "dc0 of " + text, kOfDy);
}

template <class Mode, class Size, template <class> class... Cells>
void check_cells(const Case& test, unsigned& seed) {
  using BackwardMode = typename BackwardModeOf<Mode>::Type;
  (check_kernels<typename Size::Forward::template Traits<Cells, Mode>,
                 typename Size::Backward::template Traits<Cells, BackwardMode>>(test, seed++),
   ...);
}

struct Block {
  using Forward = ForwardBlock;
  using Backward = BackwardBlock;
};
struct Spread {
  using Forward = ForwardSpread;
  using Backward = BackwardSpread;
};
struct Wide {
  using Forward = ForwardWide;
  using Backward = BackwardWide;
};

bool exhaustive = false;

// One of the cases for each mode, drawn by the seed; all of them when asked for.
template <class Mode, class Size, template <class> class... Cells>
void check_mode(const std::vector<Case>& cases, unsigned& seed) {
  for (size_t i = 0; i < cases.size(); ++i) {
    if (exhaustive || i == seed % cases.size()) check_cells<Mode, Size, Cells...>(cases[i], seed);
  }
}

template <class Size>
void check_narrow(const std::vector<Case>& cases, unsigned seed) {
  check_mode<Narrow<BFloat16>, Size, Lstm>(cases, seed);
#if !defined(FASTRNN_FEW)
  check_mode<Narrow<BFloat16>, Size, Gru, RnnTanh, RnnRelu>(cases, seed);
  check_mode<Narrow<Float16>, Size, Lstm>(cases, seed);
  if constexpr (!std::is_same_v<Size, Wide>) {
    check_mode<Narrow<BFloat16>, Size, LstmCoupled>(cases, seed);
  }
#endif
#if defined(FASTRNN_ALL)
  check_mode<Narrow<Float16>, Size, Gru, RnnTanh, RnnRelu>(cases, seed);
#endif
}

template <class Size>
void check_float([[maybe_unused]] const std::vector<Case>& cases, [[maybe_unused]] unsigned seed) {
#if !defined(FASTRNN_FEW)
  check_mode<Split<Float16>, Size, Lstm, Gru, RnnTanh>(cases, seed);
  check_mode<Tf32, Size, Lstm, Gru>(cases, seed);
#endif
#if defined(FASTRNN_ALL)
  check_mode<Split<Float16>, Size, LstmCoupled>(cases, seed);
  check_mode<Tf32, Size, RnnTanh, RnnRelu, LstmCoupled>(cases, seed);
#endif
}

std::vector<Case> cases(const char* size, const std::vector<std::pair<int64_t, int>>& shapes) {
  std::vector<Case> all;
  for (const auto& [H, cluster] : shapes) all.push_back({size, H, cluster, 0});
  return all;
}

void one_block() {
  const auto all = cases("block", {{1, 1}, {7, 1}, {33, 1}, {64, 1}, {100, 1}, {128, 1}});
  check_narrow<Block>(all, 1);
  check_float<Block>(all, 2);
}

void clusters_of_narrow_blocks() {
  const auto all = cases("spread", {{40, 2}, {64, 4}, {100, 8}, {200, 16}, {300, 16}, {512, 16}});
  check_narrow<Spread>(all, 3);
  check_float<Spread>(all, 4);
}

void clusters_of_wide_blocks() {
#if !defined(FASTRNN_FEW)
  check_narrow<Wide>(cases("wide", {{90, 2}, {160, 4}, {320, 8}, {500, 16}, {768, 16}}), 5);
#endif
}

void many_steps() {
  unsigned seed = 7;
  for (int i = 0; i < 3; ++i) {
    check_cells<Narrow<Float16>, Block, Lstm>({"block", 24, 1, 12}, seed);
    check_cells<Narrow<Float16>, Spread, Lstm>({"spread", 40, 2, 12}, seed);
  }
#if !defined(FASTRNN_FEW)
  check_cells<Narrow<Float16>, Wide, Lstm>({"wide", 90, 2, 12}, seed);
  check_cells<Split<Float16>, Spread, Lstm, Gru, RnnTanh>({"spread", 40, 2, 12}, seed);
#endif
}

void weights_that_do_not_fit_the_registers() {
#if !defined(FASTRNN_FEW)
  unsigned seed = 5;
  check_cells<Narrow<BFloat16>, Wide, Lstm>({"wide", 320, 8, 0}, seed);
  check_cells<Split<Float16>, Spread, Lstm>({"spread", 280, 16, 0}, seed);
  check_cells<Split<Float16>, Block, Lstm>({"block", 128, 1, 0}, seed);
#endif
}

const char* text_of(Tile tile) {
  constexpr const char* kText[] = {"none", "block", "spread", "wide"};
  return kText[static_cast<int>(tile)];
}

template <template <class> class C, class Mode>
void check_choice(int64_t H, int64_t B, const char* tile, int largest_cluster) {
  const int before = std::exchange(cuda_emulation::largest_cluster, largest_cluster);
  const Choice forward = choose_forward<C, Mode>(H, B);
  const Choice backward = choose_backward<C, typename BackwardModeOf<Mode>::Type>(H, B);
  cuda_emulation::largest_cluster = before;
  for (const Choice& choice : {forward, backward}) {
    const std::string text = std::string(C<float>::kName) + " " + name_of<Mode>() + " H" +
                             std::to_string(H) + " B" + std::to_string(B) + ": " +
                             text_of(choice.tile) + ", cluster " + std::to_string(choice.cluster);
    FASTRNN_CHECK(std::string(tile) == "any" || std::string(tile) == text_of(choice.tile), text);
    FASTRNN_CHECK(choice.cluster <= largest_cluster, text);
    FASTRNN_CHECK((choice.microseconds > 0) == (choice.tile != Tile::kNone), text);
  }
}

#if !defined(__CUDACC__)
void a_choice_is_one_that_fits_and_runs() {
  check_choice<Lstm, Narrow<BFloat16>>(768, 16, "wide", 16);
  check_choice<Lstm, Narrow<BFloat16>>(769, 16, "none", 16);
  check_choice<Lstm, Narrow<BFloat16>>(768, 16, "none", 8);  // a device without clusters of 16
  check_choice<Lstm, Narrow<BFloat16>>(64, 1, "block", 1);
  check_choice<Lstm, Narrow<BFloat16>>(129, 1, "none", 1);
#if !defined(FASTRNN_FEW)
  check_choice<LstmCoupled, Narrow<BFloat16>>(512, 64, "spread", 16);
  check_choice<LstmCoupled, Narrow<BFloat16>>(513, 64, "none", 16);
  check_choice<Gru, Split<Float16>>(512, 64, "spread", 16);
  check_choice<Gru, Split<Float16>>(513, 64, "none", 16);
  check_choice<Gru, Tf32>(256, 100, "any", 16);
#endif
}

#endif

// -------------------------------------------------------------------------------------- time

#if defined(__CUDACC__)
constexpr int64_t kTimedSteps = 512;
constexpr int kRepeats = 5;
#else
constexpr int64_t kTimedSteps = 1;
constexpr int kRepeats = 1;
#endif

// us a step, the shortest of the repeats
template <class Run>
double microseconds(const Run& run) {
  double shortest = 0;
  for (int i = 0; i < kRepeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    wait_for_device();
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    if (i == 0 || took.count() < shortest) shortest = took.count();
  }
  return shortest / static_cast<double>(kTimedSteps);
}

template <template <class> class C, class Mode>
void time_case(int64_t H, int64_t B) {
  using Value = typename Mode::Value;
  using BackwardMode = typename BackwardModeOf<Mode>::Type;
  using Cell = C<float>;
  const Choice forward = choose_forward<C, Mode>(H, B);
  const Choice backward = choose_backward<C, BackwardMode>(H, B);
  if (forward.tile == Tile::kNone || backward.tile == Tile::kNone) return;
  const size_t units = static_cast<size_t>(kTimedSteps * B * H), G = Cell::kGates;
  Array<Value> w_hh(G * static_cast<size_t>(H * H)), y(units), reserve(units * 4),
      dgates(units * Cell::kSlots);
  Array<float> gx(units * G), c(units);
  ForwardArgs args;
  args.x.shape[0] = kTimedSteps, args.x.shape[1] = B, args.x.shape[2] = 1;
  args.w_hh.shape[1] = H;
  ForwardData<Value> f = {Sequence(args), w_hh.data(), nullptr, gx.data(), nullptr,       nullptr,
                          y.data(),       c.data(),    nullptr, nullptr,   reserve.data()};
  BackwardData<Value> b = {Sequence(args), w_hh.data(), y.data(), nullptr,  nullptr,
                           nullptr,        nullptr,     y.data(), c.data(), reserve.data(),
                           dgates.data(),  nullptr,     nullptr,  nullptr};
  const double forward_us = microseconds([&] { run_forward<C, Mode>(forward, nullptr, f); });
  const double backward_us =
      microseconds([&] { run_backward<C, BackwardMode>(backward, nullptr, b); });
  std::printf("{\"cell\": \"%s\", \"mode\": \"%s\", \"H\": %d, \"B\": %d, ", Cell::kName,
              name_of<Mode>().c_str(), static_cast<int>(H), static_cast<int>(B));
  const auto print = [](const char* way, const Choice& choice, double us) {
    std::printf("\"%s\": {\"tile\": \"%s\", \"cluster\": %d, \"model_us\": %.3f, \"us\": %.3f}",
                way, text_of(choice.tile), choice.cluster, choice.microseconds, us);
  };
  print("forward", forward, forward_us);
  std::printf(", ");
  print("backward", backward, backward_us);
  std::printf("}\n");
}

void time_all() {
#if !defined(FASTRNN_FEW)
  for (const auto& [H, B] : {std::pair{128, 64}, {256, 64}, {512, 64}, {768, 16}, {512, 8}}) {
    time_case<Lstm, Narrow<BFloat16>>(H, B);
    time_case<Lstm, Narrow<Float16>>(H, B);
    time_case<Lstm, Split<Float16>>(H, B);
    time_case<Lstm, Tf32>(H, B);
    time_case<Gru, Narrow<BFloat16>>(H, B);
    time_case<Gru, Split<Float16>>(H, B);
    time_case<RnnTanh, Narrow<BFloat16>>(H, B);
  }
#endif
}

}  // namespace
}  // namespace fastrnn::test

// Arguments: verbose; all; time: us a step in place of the claims, a line of JSON a case
int main(int count, char** arguments) {
  using namespace fastrnn::test;
  unsetenv("FASTRNN_BACKEND");
  for (int i = 1; i < count; ++i) {
    verbose |= std::strcmp(arguments[i], "verbose") == 0;
    exhaustive |= std::strcmp(arguments[i], "all") == 0;
    if (std::strcmp(arguments[i], "time") == 0) return time_all(), 0;
  }
  constexpr Test kTests[] = {
      {"one block", one_block},
      {"clusters of narrow blocks", clusters_of_narrow_blocks},
      {"clusters of wide blocks", clusters_of_wide_blocks},
      {"many steps", many_steps},
#if !defined(__CUDACC__)
      {"a choice is one that fits and runs", a_choice_is_one_that_fits_and_runs},
#endif
      {"weights that do not fit the registers", weights_that_do_not_fit_the_registers},
  };
  return run_all(kTests);
}
