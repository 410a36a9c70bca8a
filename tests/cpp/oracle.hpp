// The equations as plain loops in double: one row, one step, one unit at a time. Shares no line
// with csrc/.
#pragma once

#include <cmath>
#include <stdexcept>

#include "problem.hpp"

namespace fastrnn::test {

class Oracle {
 public:
  explicit Oracle(Problem<double>& problem)
      : p_(problem), H_(problem.setup.H), cell_(cell_info(problem.setup.cell)->name) {}

  void forward() {
    const Setup& s = p_.setup;
    for (double& value : p_.y) value = 0;
    for (double& value : p_.c) value = 0;
    for (int64_t b = 0; b < s.B; ++b) {
      std::vector<double> h(size(H_), 0.0), c(size(H_), 0.0);
      for (int64_t u = 0; s.state && u < H_; ++u) h[size(u)] = p_.h0[size(b * H_ + u)];
      for (int64_t u = 0; s.state && u < H_; ++u) c[size(u)] = p_.c0[size(b * H_ + u)];
      const int64_t length = p_.lengths[size(b)];
      for (int64_t k = 0; k < length; ++k) {
        const int64_t t = s.reverse ? length - 1 - k : k;
        if (p_.reset[size(t * s.B + b)]) h.assign(size(H_), 0.0), c.assign(size(H_), 0.0);
        if (p_.mask[size(t * s.B + b)]) step(&p_.x[size((t * s.B + b) * s.I)], h, c);
        for (int64_t u = 0; u < H_; ++u) p_.y[size((t * s.B + b) * H_ + u)] = h[size(u)];
        for (int64_t u = 0; u < H_; ++u) p_.c[size((t * s.B + b) * H_ + u)] = c[size(u)];
      }
      for (int64_t u = 0; u < H_; ++u) p_.h_n[size(b * H_ + u)] = h[size(u)];
      for (int64_t u = 0; u < H_; ++u) p_.c_n[size(b * H_ + u)] = c[size(u)];
    }
  }

  // sum of every result times the gradient that comes into it
  double loss() {
    forward();
    double sum = 0;
    for (size_t i = 0; i < p_.y.size(); ++i) sum += p_.dy[i] * p_.y[i];
    for (size_t i = 0; i < p_.h_n.size(); ++i) sum += p_.dh_n[i] * p_.h_n[i];
    for (size_t i = 0; p_.S == 2 && i < p_.c_n.size(); ++i) sum += p_.dc_n[i] * p_.c_n[i];
    return sum;
  }

 private:
  static size_t size(int64_t n) { return static_cast<size_t>(n); }
  static double sigmoid(double v) { return 1 / (1 + std::exp(-v)); }

  double from_x(int64_t gate, int64_t unit, const double* x) const {
    const int64_t row = gate * H_ + unit, I = p_.setup.I;
    double sum = p_.setup.bias ? p_.b_ih[size(row)] : 0;
    for (int64_t i = 0; i < I; ++i) sum += p_.w_ih[size(row * I + i)] * x[i];
    return sum;
  }
  double from_h(int64_t gate, int64_t unit, const std::vector<double>& h) const {
    const int64_t row = gate * H_ + unit;
    double sum = p_.setup.bias ? p_.b_hh[size(row)] : 0;
    for (int64_t i = 0; i < H_; ++i) sum += p_.w_hh[size(row * H_ + i)] * h[size(i)];
    return sum;
  }

  void step(const double* x, std::vector<double>& h, std::vector<double>& c) const {
    const std::vector<double> before = h;
    auto both = [&](int64_t gate, int64_t unit) {
      return from_x(gate, unit, x) + from_h(gate, unit, before);
    };
    std::vector<double> reset_h = before;
    for (int64_t u = 0; u < H_ && cell_ == "gru_reset_before"; ++u)
      reset_h[size(u)] *= sigmoid(both(0, u));
    for (int64_t u = 0; u < H_; ++u) {
      double& out = h[size(u)];
      if (cell_ == "rnn_tanh") {
        out = std::tanh(both(0, u));
      } else if (cell_ == "rnn_relu") {
        out = std::fmax(0.0, both(0, u));
      } else if (cell_ == "lstm") {
        double& state = c[size(u)];
        state = sigmoid(both(1, u)) * state + sigmoid(both(0, u)) * std::tanh(both(2, u));
        out = sigmoid(both(3, u)) * std::tanh(state);
      } else if (cell_ == "lstm_coupled") {
        double& state = c[size(u)];
        const double i = sigmoid(both(0, u));
        state = (1 - i) * state + i * std::tanh(both(1, u));
        out = sigmoid(both(2, u)) * std::tanh(state);
      } else if (cell_ == "gru" || cell_ == "gru_reset_before") {
        const double recurrent =
            cell_ == "gru" ? sigmoid(both(0, u)) * from_h(2, u, before) : from_h(2, u, reset_h);
        const double z = sigmoid(both(1, u));
        out = (1 - z) * std::tanh(from_x(2, u, x) + recurrent) + z * before[size(u)];
      } else {
        throw std::logic_error("the oracle has no equations for " + cell_);
      }
    }
  }

  Problem<double>& p_;
  int64_t H_;
  std::string cell_;
};

}  // namespace fastrnn::test
