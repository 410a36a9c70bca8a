// What cuda/persistent.cu has for the rest of the backend: the kernels that run all steps in one
// launch, by the plain arguments of a call. They are compiled apart, for the devices alone that can
// run them.
#pragma once

#include "fastrnn.hpp"

namespace fastrnn {

// How a block's warps divide the product among themselves (cuda/persistent/sizes.cuh).
enum class PersistentTile { kNone, kBlock, kSpread, kWide, kGroup, kLarge };
constexpr const char* kPersistentTileNames[] = {"", "block", "spread", "wide", "group", "large"};

struct PersistentChoice {
  PersistentTile tile = PersistentTile::kNone;
  int cluster = 0;          // blocks, or those of a group
  double microseconds = 0;  // of a step of the whole batch, as the model has it
};

// Beside ForwardArgs, on the device.
struct PersistentForward {
  const int64_t* lengths;  // [B] or null
  const void* w_hh;        // [G*H, H]  packed
  const float* gx;         // [last - first, B, G*H]  in the order of the steps, without the bias
  int64_t first, last;     // steps; from step 1 on the states before them are in h_n and c_n
  void* exchange;          // kPersistentExchange bytes for groups of blocks
};

// Beside BackwardArgs, on the device.
struct PersistentBackward {
  const int64_t* lengths;
  const void* w_hh;
  void* dgates;    // [T, B, D*H]  zeros where no step works
  float* db;       // [tiles of kPersistentRows, D*H]: sums of dgates over the rows of each tile
  void* exchange;  // for groups of blocks
  int64_t exchange_bytes;  // PersistentKernels::backward_exchange
};

constexpr int64_t kPersistentRows = 8;  // of the batch, a tile
constexpr int64_t kPersistentExchange = 1 << 20;

// What a choice is limited to: a tile but kNone, a cluster but 0.
struct PersistentLimit {
  PersistentTile tile = PersistentTile::kNone;
  int cluster = 0;
};

struct PersistentKernels {
  // on the current device
  PersistentChoice (*choose_forward)(int64_t H, int64_t B, const PersistentLimit&);
  void (*forward)(const PersistentChoice&, const ForwardArgs&, const PersistentForward&);
  PersistentChoice (*choose_backward)(int64_t H, int64_t B, const PersistentLimit&);
  void (*backward)(const PersistentChoice&, const BackwardArgs&, const PersistentBackward&);
  int64_t (*backward_exchange)(int64_t H, int64_t B);  // bytes that any choice can do with
};

// Null where there are none. `tf32`: of float32 with factors rounded to 10 bits.
using PersistentTable = const PersistentKernels* (*)(int cell, DType dtype, bool tf32);
PersistentTable persistent_table();

}  // namespace fastrnn
