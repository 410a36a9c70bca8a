// What chance decides, by Philox4x32-10 (Salmon et al. 2011): python/fastrnn/reference/philox.py
// says what decides over an element. The same bits on every backend.
#pragma once

#include "family.hpp"
#include "math.hpp"

namespace fastrnn {

constexpr int kPhiloxRounds = 10;

FASTRNN_HD void philox_round(uint32_t& c0, uint32_t& c1, uint32_t& c2, uint32_t& c3, uint32_t k0,
                             uint32_t k1) {
  const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
  c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
  c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
  c1 = static_cast<uint32_t>(p1);
  c3 = static_cast<uint32_t>(p0);
}
FASTRNN_HD void next_philox_key(uint32_t& k0, uint32_t& k1) {
  k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
}

// What an element gets where an event of probability p happens, and elsewhere. The words of a
// counter (unit / 4, b, t, stream) decide over four units.
template <class T>
struct Chance {
  uint64_t key = 0;
  uint32_t stream = 0, last = 0;  // an event is a word of at most `last`
  T yes = 0, no = 0;

  Chance() = default;
  __attribute__((always_inline)) Chance(uint64_t with_key, Stream of, double p, T if_yes, T if_no)
      : key(with_key), stream(static_cast<uint32_t>(of)), yes(if_yes), no(if_no) {
    const uint64_t threshold = static_cast<uint64_t>(__builtin_llrint(p * 4294967296.0));
    last = static_cast<uint32_t>(threshold - 1);
    if (threshold == 0) last = 0, yes = no;
  }

  FASTRNN_HD T of(uint32_t word) const { return word <= last ? yes : no; }

  FASTRNN_HD T at(int64_t t, int64_t b, int64_t unit) const {
    uint32_t c0 = static_cast<uint32_t>(unit / 4), c1 = static_cast<uint32_t>(b),
             c2 = static_cast<uint32_t>(t), c3 = stream;
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      philox_round(c0, c1, c2, c3, k0, k1);
      next_philox_key(k0, k1);
    }
    const int64_t word = unit % 4;
    return of(word == 0 ? c0 : word == 1 ? c1 : word == 2 ? c2 : c3);
  }
};

// Inverted dropout.
template <class T>
__attribute__((always_inline)) inline Chance<T> kept_units(uint64_t key, Stream stream, double p) {
  return Chance<T>(key, stream, p, T(0), p < 1 ? static_cast<T>(1 / (1 - p)) : T(0));
}

// DropConnect: at(0, row, column) of w_hh
template <class T, class Tensor>
__attribute__((always_inline)) inline Chance<T> kept_weights(const FamilyOf<Tensor>& f) {
  return kept_units<T>(f.seed, Stream::kWeight, f.weight_dropout);
}
// recurrent dropout: at(0, b, unit) of h
template <class T, class Tensor>
__attribute__((always_inline)) inline Chance<T> kept_state(const FamilyOf<Tensor>& f) {
  return kept_units<T>(f.seed, Stream::kRecurrent, f.recurrent_dropout);
}

template <class Tensor>
FASTRNN_HD bool has_weight_dropout(const FamilyOf<Tensor>& f) {
  return f.weight_dropout > 0 && f.training;
}
template <class Tensor>
FASTRNN_HD bool has_recurrent_dropout(const FamilyOf<Tensor>& f) {
  return f.recurrent_dropout > 0 && f.training;
}

// The share of its old value that each unit of a state keeps (zoneout): 1 or 0 by chance in
// training, else the expectation.
template <class T>
struct Zoneout {
  bool on = false, training = false;
  T expectation = 0;
  int64_t first_step = 0;
  Chance<T> chance;

  Zoneout() = default;
  template <class Tensor>
  __attribute__((always_inline)) Zoneout(const FamilyOf<Tensor>& f, int state)
      : on(f.zoneout[state] != 0),
        training(f.training),
        expectation(static_cast<T>(f.zoneout[state])),
        first_step(f.first_step),
        chance(f.seed, state == 0 ? Stream::kZoneoutH : Stream::kZoneoutC, f.zoneout[state], T(1),
               T(0)) {}

  FASTRNN_HD T at(int64_t t, int64_t b, int64_t unit) const {
    return training ? chance.at(first_step + t, b, unit) : expectation;
  }
};

}  // namespace fastrnn
