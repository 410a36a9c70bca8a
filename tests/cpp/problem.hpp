// A random problem for one cell with room for its results, in float or double. The input values are
// the same for both types. Results start as NaN, and so does x beyond a row's length: what is left
// out or read by mistake shows.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "fastrnn.hpp"

namespace fastrnn::test {

inline int cell_count() {
  int n = 0;
  while (cell_info(n)) ++n;
  return n;
}

struct Setup {
  int cell = 0;  // index in the list of cells
  int64_t T = 3, B = 2, I = 3, H = 4;
  bool bias = true, state = true, lengths = false, mask = false, reset = false, reverse = false;
  int threads = 1;
  unsigned seed = 0;

  std::string text() const {
    std::string s = cell_info(cell)->name;
    s += " T" + std::to_string(T) + " B" + std::to_string(B) + " I" + std::to_string(I) + " H" +
         std::to_string(H);
    if (!bias) s += " no bias";
    if (!state) s += " no state";
    if (lengths) s += " lengths";
    if (mask) s += " mask";
    if (reset) s += " reset";
    if (reverse) s += " reverse";
    return s + " threads " + std::to_string(threads) + " seed " + std::to_string(seed);
  }
};

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  bool coin() { return below(2) == 0; }
  // multiples of 2^-10 in (-scale, scale): exact in float
  double value(double scale) { return scale * static_cast<double>(below(2047) - 1023) / 1024; }

 private:
  std::mt19937 engine_;  // the same numbers in every standard library; its distributions are not
};

template <class T>
constexpr DType kDType = sizeof(T) == 4 ? DType::kFloat32 : DType::kFloat64;

template <class T>
T from_double(double value) {
  return static_cast<T>(value);
}

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

template <class T>
Tensor view(std::vector<T>& data, const std::vector<int64_t>& shape, DType dtype) {
  Tensor tensor;
  tensor.data = data.data();
  tensor.present = true;
  tensor.dtype = dtype;
  tensor.rank = static_cast<int>(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0; stride *= shape[i]) {
    tensor.shape[i] = shape[i];
    tensor.stride[i] = stride;
  }
  return tensor;
}

// State: what c is in.
template <class T, class State = T>
struct Problem {
  Setup setup;
  int64_t G, S, R;
  std::vector<int64_t> lengths;
  std::vector<uint8_t> mask, reset;
  std::vector<T> x, w_ih, w_hh, b_ih, b_hh, h0, dy, dh_n;  // given
  std::vector<State> c0, dc_n;
  std::vector<T> y, h_n, reserve;  // forward
  std::vector<State> c_n, c;
  std::vector<T> dx, dw_ih, dw_hh, db_ih, db_hh, dh0;  // backward
  std::vector<State> dc0;

  explicit Problem(const Setup& s)
      : setup(s),
        G(cell_info(s.cell)->gates),
        S(cell_info(s.cell)->states),
        R(cell_info(s.cell)->reserve) {
    Random random(s.seed);
    auto fill = [&]<class V>(std::vector<V>& v, int64_t count, double scale) {
      v.resize(static_cast<size_t>(count));
      for (V& value : v) value = from_double<V>(random.value(scale));
    };
    for (int64_t b = 0; b < s.B; ++b) lengths.push_back(s.lengths ? random.below(s.T + 1) : s.T);
    for (int64_t i = 0; i < s.T * s.B; ++i) {
      mask.push_back(!s.mask || random.below(4) != 0);
      reset.push_back(s.reset && random.below(4) == 0);
    }
    fill(x, s.T * s.B * s.I, 1);
    fill(w_ih, G * s.H * s.I, 0.5);
    fill(w_hh, G * s.H * s.H, s.H < 16 ? 0.5 : 0.25);
    fill(b_ih, G * s.H, 0.5);
    fill(b_hh, G * s.H, 0.5);
    fill(h0, s.B * s.H, 1);
    fill(c0, s.B * s.H, 1);
    fill(dy, s.T * s.B * s.H, 1);
    fill(dh_n, s.B * s.H, 1);
    fill(dc_n, s.B * s.H, 1);
    for (int64_t t = 0; t < s.T; ++t) {
      for (int64_t b = 0; b < s.B; ++b) {
        if (t < lengths[static_cast<size_t>(b)]) continue;
        for (int64_t i = 0; i < s.I; ++i)
          x[static_cast<size_t>((t * s.B + b) * s.I + i)] = from_double<T>(kNaN);
      }
    }
    auto room = []<class V>(std::vector<V>& v, int64_t count) {
      v.assign(static_cast<size_t>(count), from_double<V>(kNaN));
    };
    room(y, s.T * s.B * s.H), room(h_n, s.B * s.H), room(c_n, s.B * s.H), room(c, s.T * s.B * s.H);
    room(reserve, s.T * s.B * R * s.H);
    room(dx, s.T * s.B * s.I), room(dw_ih, G * s.H * s.I), room(dw_hh, G * s.H * s.H);
    room(db_ih, G * s.H), room(db_hh, G * s.H), room(dh0, s.B * s.H), room(dc0, s.B * s.H);
  }

  ForwardArgs forward_args() {
    const int64_t T_ = setup.T, B = setup.B, I = setup.I, H = setup.H;
    constexpr DType kType = kDType<T>;
    ForwardArgs a;
    a.cell = setup.cell;
    a.reverse = setup.reverse;
    a.threads = setup.threads;
    a.x = view(x, {T_, B, I}, kType);
    a.w_ih = view(w_ih, {G * H, I}, kType);
    a.w_hh = view(w_hh, {G * H, H}, kType);
    if (setup.bias) {
      a.b_ih = view(b_ih, {G * H}, kType);
      a.b_hh = view(b_hh, {G * H}, kType);
    }
    if (setup.state) a.h0 = view(h0, {B, H}, kType);
    if (setup.state && S == 2) a.c0 = view(c0, {B, H}, kDType<State>);
    if (setup.lengths) a.lengths = view(lengths, {B}, DType::kInt64);
    if (setup.mask) a.mask = view(mask, {T_, B}, DType::kBool);
    if (setup.reset) a.reset = view(reset, {T_, B}, DType::kBool);
    a.y = view(y, {T_, B, H}, kType);
    a.h_n = view(h_n, {B, H}, kType);
    if (S == 2) {
      a.c_n = view(c_n, {B, H}, kDType<State>);
      a.c = view(c, {T_, B, H}, kDType<State>);
    }
    if (R > 0) a.reserve = view(reserve, {T_, B, R * H}, kType);
    return a;
  }

  BackwardArgs backward_args() {
    const int64_t T_ = setup.T, B = setup.B, I = setup.I, H = setup.H;
    constexpr DType kType = kDType<T>;
    BackwardArgs a;
    a.forward = forward_args();
    a.dy = view(dy, {T_, B, H}, kType);
    a.dh_n = view(dh_n, {B, H}, kType);
    a.dx = view(dx, {T_, B, I}, kType);
    a.dw_ih = view(dw_ih, {G * H, I}, kType);
    a.dw_hh = view(dw_hh, {G * H, H}, kType);
    if (setup.bias) {
      a.db_ih = view(db_ih, {G * H}, kType);
      a.db_hh = view(db_hh, {G * H}, kType);
    }
    a.dh0 = view(dh0, {B, H}, kType);
    if (S == 2) {
      a.dc_n = view(dc_n, {B, H}, kDType<State>);
      a.dc0 = view(dc0, {B, H}, kDType<State>);
    }
    return a;
  }

  void run(const KernelTable& backend) {
    forward(backend, forward_args());
    backward(backend, backward_args());
  }

  struct Named {
    const char* name;
    const std::vector<T>* values;
  };
  std::vector<Named> forward_results() const {
    std::vector<Named> all = {{"y", &y}, {"h_n", &h_n}};
    if (S == 2) all.insert(all.end(), {{"c_n", &c_n}, {"c", &c}});
    return all;
  }
  std::vector<Named> results() const {
    std::vector<Named> all = forward_results();
    all.insert(all.end(), {{"dx", &dx}, {"dw_ih", &dw_ih}, {"dw_hh", &dw_hh}, {"dh0", &dh0}});
    if (setup.bias) all.insert(all.end(), {{"db_ih", &db_ih}, {"db_hh", &db_hh}});
    if (S == 2) all.insert(all.end(), {{"dc0", &dc0}});
    return all;
  }
};

// Every option drawn at random; sizes around vector widths and tile heights.
inline Setup random_setup(unsigned seed) {
  constexpr int64_t kHidden[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 40};
  Random random(seed * 7919u + 1u);
  Setup s;
  s.cell = static_cast<int>(random.below(cell_count()));
  s.T = random.below(7);
  s.B = random.below(12);
  s.I = 1 + random.below(19);
  s.H = kHidden[random.below(std::size(kHidden))];
  s.bias = random.coin();
  s.state = random.coin();
  s.lengths = random.coin();
  s.mask = random.below(3) == 0;
  s.reset = random.below(3) == 0;
  s.reverse = random.coin();
  s.threads = 1 + static_cast<int>(random.below(3));
  s.seed = seed;
  return s;
}

inline std::vector<const KernelTable*> cpu_backends() {
  std::vector<const KernelTable*> here;
  for (int i = 0; const KernelTable* table = compiled_backend(i); ++i) {
    if (std::string(table->name) != "cuda" && table->supported()) here.push_back(table);
  }
  return here;
}

}  // namespace fastrnn::test
