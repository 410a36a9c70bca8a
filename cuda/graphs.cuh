// A call as a CUDA graph. A step is a few kernels of some microseconds each, and putting them into
// a stream one by one takes the CPU about as long as running them takes the GPU. So a call that
// comes again with all its arrays where they were, as steps of training and of inference do where
// an allocator hands out the same memory again, is captured, and from then on put into the stream
// by one launch. A call that comes once costs a look-up.
//
// Captured on a stream of its own, on which nothing ever runs; launched on the caller's. Inside the
// caller's own capture the kernels become part of the caller's graph, as any do.
// FASTRNN_CUDA_GRAPHS=off: every call kernel by kernel.
#pragma once

#include <cstdlib>
#include <cstring>
#include <list>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "device.cuh"
#include "path.cuh"
#include "precision.hpp"

namespace fastrnn {
namespace {
namespace cuda {

// All that decides what a call puts into its stream, but for the stream: two calls of one key are
// the same kernels with the same arguments.
class CallKey {
 public:
  CallKey(const ForwardArgs& a, const void* kernel, const void* workspace) {
    add(kernel), add(workspace), add(float32_precision());
    const WantedPath path;
    add(path.steps), add(path.persistent), add(path.limit.tile), add(path.limit.cluster);
    add(a);
  }
  CallKey(const BackwardArgs& a, const void* kernel, const void* workspace)
      : CallKey(a.forward, kernel, workspace) {
    for (const Tensor* t : {&a.dy, &a.dh_n, &a.dc_n, &a.dc, &a.dx, &a.dw_ih, &a.dw_hh, &a.db_ih,
                            &a.db_hh, &a.dh0, &a.dc0, &a.dgates, &a.dw_hr, &a.dpeephole,
                            &a.dgain_ih, &a.dgain_hh, &a.dgain_c, &a.dbias_c, &a.step_norms})
      add(*t);
    add(a.accumulate), add(a.family), add(a.clip);
  }

  bool operator==(const CallKey& other) const { return words_ == other.words_; }

 private:
  template <class Word>
  void add(Word word) {
    static_assert(std::is_scalar_v<Word> && sizeof(Word) <= sizeof(uint64_t));
    uint64_t bits = 0;
    std::memcpy(&bits, &word, sizeof word);
    words_.push_back(bits);
  }

  void add(const Tensor& tensor) {
    add(tensor.present);
    if (!tensor.present) return;
    add(tensor.data), add(tensor.dtype), add(tensor.device), add(tensor.rank);
    for (int i = 0; i < tensor.rank; ++i) add(tensor.shape[i]), add(tensor.stride[i]);
  }

  void add(const ForwardArgs& a) {
    for (const Tensor* t : {&a.x, &a.w_ih, &a.w_hh, &a.b_ih, &a.b_hh, &a.h0, &a.c0, &a.lengths,
                            &a.mask, &a.reset, &a.y, &a.h_n, &a.c_n, &a.c, &a.reserve})
      add(*t);
    add(a.cell), add(a.reverse);
    const Family& f = a.family;
    add(f.on);
    if (!f.on) return;
    for (const Tensor* t : {&f.w_hr, &f.peephole, &f.gain_ih, &f.gain_hh, &f.gain_c, &f.bias_c,
                            &f.output, &f.norms, &f.gates})
      add(*t);
    for (const Activation& g : f.activations) add(g.function), add(g.alpha), add(g.beta);
    add(f.chosen), add(f.training), add(f.clip), add(f.cell_clip), add(f.norm_of_c), add(f.eps);
    add(f.zoneout[0]), add(f.zoneout[1]), add(f.recurrent_dropout), add(f.weight_dropout);
    add(f.seed), add(f.first_step);
  }

  std::vector<uint64_t> words_;
};

struct DestroyGraph {
  void operator()(cudaGraph_t graph) const { static_cast<void>(cudaGraphDestroy(graph)); }
};
struct DestroyExecutable {
  void operator()(cudaGraphExec_t graph) const { static_cast<void>(cudaGraphExecDestroy(graph)); }
};
struct DestroyStream {
  void operator()(cudaStream_t stream) const { static_cast<void>(cudaStreamDestroy(stream)); }
};
template <class Handle, class Destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy>;
using Graph = Owned<cudaGraph_t, DestroyGraph>;
using Executable = Owned<cudaGraphExec_t, DestroyExecutable>;
using CaptureStream = Owned<cudaStream_t, DestroyStream>;

// What `record` puts into a stream of the current device.
template <class Record>
Graph captured(const Record& record) {
  cudaStream_t created = nullptr;
  FASTRNN_CUDA_CHECK(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking));
  const CaptureStream stream(created);
  FASTRNN_CUDA_CHECK(cudaStreamBeginCapture(created, cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    record(created);
  } catch (...) {
    static_cast<void>(cudaStreamEndCapture(created, &graph));
    const Graph unfinished(graph);
    cudaGetLastError();
    throw;
  }
  FASTRNN_CUDA_CHECK(cudaStreamEndCapture(created, &graph));
  return Graph(graph);
}

inline bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  FASTRNN_CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

// The latest calls of a thread, and the graphs of those that have come again.
class Graphs {
 public:
  static bool on() {
    static const char* const said = std::getenv("FASTRNN_CUDA_GRAPHS");
    return !said || std::strcmp(said, "off") != 0;
  }

  static Graphs& of_thread() {
    static thread_local Graphs graphs;
    return graphs;
  }

  // record(stream) or what it has recorded before
  template <class Record>
  void run(CallKey key, cudaStream_t stream, const Record& record) {
    auto found = calls_.begin();
    while (found != calls_.end() && !(found->key == key)) ++found;
    if (found == calls_.end()) {
      if (calls_.size() == kMost) calls_.pop_back();
      calls_.push_front({std::move(key), nullptr});
      return record(stream);
    }
    calls_.splice(calls_.begin(), calls_, found);
    Executable& executable = calls_.front().executable;
    if (!executable) {
      const Graph graph = captured(record);
      cudaGraphExec_t created = nullptr;
      FASTRNN_CUDA_CHECK(cudaGraphInstantiate(&created, graph.get(), 0));
      executable.reset(created);
    }
    FASTRNN_CUDA_CHECK(cudaGraphLaunch(executable.get(), stream));
  }

 private:
  static constexpr size_t kMost = 64;  // layers, directions and ways of a model

  struct Call {
    CallKey key;
    Executable executable;
  };
  std::list<Call> calls_;  // the latest first
};

inline const ForwardArgs& forward_of(const ForwardArgs& a) { return a; }
inline const ForwardArgs& forward_of(const BackwardArgs& a) { return a.forward; }
inline void*& stream_of(ForwardArgs& a) { return a.stream; }
inline void*& stream_of(BackwardArgs& a) { return a.forward.stream; }

// Kernel::run, on arrays of the current device.
template <class Kernel, class Args>
void run_on_device(const Args& a, void* workspace) {
  constexpr int64_t kWorth = 8;  // steps: below it a launch of a graph is hardly less work
  const ForwardArgs& forward = forward_of(a);
  const auto stream = static_cast<cudaStream_t>(forward.stream);
  // what is copied from the host lies elsewhere at the next call
  const bool reads_host = forward.lengths.present && forward.lengths.device == kHost;
  if (!Graphs::on() || reads_host || forward.x.shape[0] < kWorth || is_capturing(stream))
    return Kernel::run(a, workspace);
  void (*const kernel)(const Args&, void*) = &Kernel::run;
  const CallKey key(a, reinterpret_cast<const void*>(kernel), workspace);
  Graphs::of_thread().run(key, stream, [&](cudaStream_t into) {
    Args call = a;
    stream_of(call) = into;
    Kernel::run(call, workspace);
  });
}

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
