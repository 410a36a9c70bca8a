// The C++ API: views in, results written into memory that the caller gives. No Python and no
// framework here.
//
// Sizes: T steps, B batch rows, I input, H hidden, G gates of the cell, R saved values a unit.
// Everything a caller passes is checked once by check_forward / check_backward (check.cpp); kernels
// trust it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "family.hpp"

namespace fastrnn {

enum class DType : int { kFloat32, kFloat64, kFloat16, kBFloat16, kInt64, kBool };
constexpr int kFloatDTypes = 4;  // the first ones

constexpr int64_t item_size(DType dtype) {
  constexpr int64_t kBytes[] = {4, 8, 2, 2, 8, 1};
  return kBytes[static_cast<int>(dtype)];
}

// float16 and bfloat16 are storage alone: computed in float32, with c in float32.
constexpr DType compute_dtype(DType dtype) {
  return dtype == DType::kFloat16 || dtype == DType::kBFloat16 ? DType::kFloat32 : dtype;
}

// What sizes of a cell the outside has to know; the equations are in csrc/cells.
struct CellInfo {
  const char* name;
  int gates;    // G
  int states;   // 1: h, 2: h and c
  int reserve;  // R
  int early;    // gates of the early phase
  int peepholes;
  bool mixes;  // h is a mix of h' and something new
};
// The cells are numbered as listed in cells/cells.hpp; null past the last one.
const CellInfo* cell_info(int cell);

constexpr int kMaxRank = 4;
constexpr int kHost = -1;

// A view of somebody else's memory. Strides are in elements and may be zero or negative.
struct Tensor {
  void* data = nullptr;
  bool present = false;  // false: the optional argument was not given
  DType dtype = DType::kFloat32;
  int device = kHost;  // or the number of a CUDA device
  int rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t stride[kMaxRank] = {};
  // A packed sequence [T, B, ..]: step t has rows [starts[t], starts[t + 1]) of the memory, which
  // are stride[1] apart, for the first rows of the batch, and no others. On the host alone.
  const int64_t* starts = nullptr;
  const Tensor* tangent = nullptr;  // of the derivatives alone: as large, with its own strides
};

using Family = FamilyOf<Tensor>;

struct ForwardArgs {
  int cell = 0;
  bool reverse = false;
  int threads = 1;
  void* stream = nullptr;  // the CUDA stream of a call on device arrays
  Tensor x;                // [T, B, I]   unit stride on I
  Tensor w_ih, w_hh;       // [G*H, I], [G*H, H]   any strides
  Tensor b_ih, b_hh;       // [G*H]       optional, any stride
  Tensor h0, c0;           // [B, H]      optional, unit stride on H; all of c in compute_dtype(x)
  Tensor lengths;          // [B] int64   optional, contiguous; falling where x is packed
  Tensor mask;             // [T, B] bool optional: false carries the state over the step
  Tensor reset;            // [T, B] bool optional: true zeroes the state before the step
  const void* packed =
      nullptr;  // the weights and biases as pack() laid them out; null: forward packs them itself

  Tensor y;        // [T, B, H]    h at every step; exactly 0 beyond a row's length
  Tensor h_n;      // [B, H]       h after the last valid step
  Tensor c_n;      // [B, H]       LSTM only
  Tensor c;        // [T, B, H]    LSTM: c at every step; needed by backward
  Tensor reserve;  // [T, B, R*H]  gates for backward; absent for inference

  Family family;  // with a projection: w_hh is [G*H, P], and h0, h_n, y have P units
};

struct BackwardArgs {
  ForwardArgs forward;  // as forward() had it, y, c and reserve included; x, y, c and reserve are
                        // read again
  Tensor dy;            // [T, B, H]   optional, unit stride on H
  Tensor dh_n, dc_n;    // [B, H]      optional

  Tensor dx;                // [T, B, I]   each of these is computed only when present
  Tensor dw_ih, dw_hh;      // [G*H, I], [G*H, H]
  Tensor db_ih, db_hh;      // [G*H]
  Tensor dh0, dc0;          // [B, H]
  bool accumulate = false;  // add to the gradients of weights and biases, and do not clear them

  bool family = false;        // any of what follows, or forward.family.on
  double clip = 0;            // of the gates' gradients at every step; 0: none
  Tensor dc;                  // [T, B, H]  gradients of c at every step
  Tensor dgates;              // [T, B, G*H]  gradients of family.gates
  Tensor dw_hr, dpeephole;    // as what they belong to
  Tensor dgain_ih, dgain_hh;  // [G*H]
  Tensor dgain_c, dbias_c;    // [H]
  Tensor step_norms;          // [T, B]  the norm of dL/dh at every step
};

// One backend: an instruction set of this CPU, or CUDA. The only thing that a backend exports.
struct KernelTable {
  struct Kernel {
    int64_t (*packed_size)(const ForwardArgs&);  // all sizes in bytes, all memory aligned to 64
    void (*pack)(const ForwardArgs&, void* packed);
    int64_t (*forward_workspace)(const ForwardArgs&);
    void (*forward)(const ForwardArgs&, void* workspace);
    int64_t (*backward_workspace)(const BackwardArgs&);
    void (*backward)(const BackwardArgs&, void* workspace);
  };
  struct PerDType {
    Kernel of[kFloatDTypes];  // null: not computed
  };
  struct Probe {  // the limits of one core: loops to be timed, which say how much they have done
    int64_t (*multiply_add)(int64_t rounds);                           // -> flops
    int64_t (*read)(const void* data, int64_t bytes, int64_t rounds);  // -> bytes
  };
  const char* name;
  bool (*supported)();
  const PerDType* kernels;                                      // [cell]; null: not in this build
  const char* unavailable = "this CPU lacks its instructions";  // why supported() is false
  const Probe* probes = nullptr;                                // [dtype]; null for CUDA
  const PerDType* family = nullptr;                             // [cell]; null: has none
  void (*wait)(int device, void* stream) = nullptr;             // until it is done; CUDA alone
  const PerDType* derivatives = nullptr;                        // [cell]; null: has none
  // which way a call goes and why; CUDA alone. Looks at sizes, dtypes and what is present.
  std::string (*path)(const ForwardArgs&, bool backward) = nullptr;
};

// The backends of this build, best first; null past the last one.
const KernelTable* compiled_backend(int index);

// The backend called `name`; for null the one that FASTRNN_BACKEND names, or else the best one that
// runs here. Throws std::invalid_argument when there is none of that name or this machine cannot
// run it.
const KernelTable& find_backend(const char* name);

// How the caller laid out x: decides the words of a message, not what is accepted. Views are
// time-major throughout.
enum class Layout { kTimeMajor, kBatchFirst, kStep };

// Throw ValueError or TypeError (errors.hpp) with a message that names `function`, the argument,
// the wanted shape and what came. lengths must be the core's own copy, or it could change between
// check and use. check_weights is the part of check_forward that needs no x.
void check_weights(const char* function, const KernelTable& backend, const ForwardArgs& args);
void check_forward(const char* function, const KernelTable& backend, const ForwardArgs& args,
                   Layout layout);
// of the two directions of a layer, each of which is right by itself
void check_directions(const char* function, const ForwardArgs& first, const ForwardArgs& second);
void check_stacked_state(const char* function, const char* argument, const Tensor& state,
                         const Tensor& x, int64_t layers, int64_t hidden);
void check_backward(const char* function, const BackwardArgs& args, Layout layout);
void check_tangent(const char* function, const char* argument, const Tensor& tangent,
                   const Tensor& of, const char* name);

// The weights and biases of `args` in the order in which the kernels read them, for
// ForwardArgs::packed.
int64_t packed_size(const KernelTable& backend, const ForwardArgs& args);
void pack(const KernelTable& backend, const ForwardArgs& args, void* packed);

// What a call on device arrays needs beside them: bytes of the same device, aligned to 256. Else 0.
int64_t device_workspace(const KernelTable& backend, const ForwardArgs& args);
int64_t device_workspace(const KernelTable& backend, const BackwardArgs& args);

// Run a checked call whose outputs are allocated; on device arrays it is only put into the stream.
// The workspace of a call on host arrays is allocated once; nothing in the time loop allocates.
void forward(const KernelTable& backend, const ForwardArgs& args, void* workspace = nullptr);
void backward(const KernelTable& backend, const BackwardArgs& args, void* workspace = nullptr);

// The same on dual numbers: of every tensor of real numbers that is present, h0 and c0 included,
// the tangent is there too, and with the results come their derivatives along all the tangents of
// what goes in. `reserve` and what else a call keeps are those of the family; no step_norms.
void forward_derivative(const KernelTable& backend, const ForwardArgs& args);
void backward_derivative(const KernelTable& backend, const BackwardArgs& args);

}  // namespace fastrnn
