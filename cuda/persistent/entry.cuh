// A cell's kernels in one precision, by the plain arguments of a call.
#pragma once

#include "persistent/choice.cuh"

namespace fastrnn {
namespace {
namespace cuda {
namespace persistent {

template <template <class> class C, class Mode>
void forward(const Choice& choice, const ForwardArgs& a, const PersistentForward& call) {
  using Value = typename Mode::Value;
  const bool begins = call.first == 0;
  const int64_t B = a.x.shape[1], gates = a.w_hh.shape[0];
  run<ForwardWay, C, Mode>(choice, static_cast<cudaStream_t>(a.stream), kPersistentExchange,
                           {Sequence(a, call.lengths),
                            static_cast<int>(call.first),
                            static_cast<int>(call.last),
                            static_cast<const Value*>(call.w_hh),
                            vector_of<Value>(a.b_ih),
                            vector_of<Value>(a.b_hh),
                            {call.gx, B * gates, gates},
                            rows_of<const Value>(begins ? a.h0 : a.h_n),
                            rows_of<const float>(begins ? a.c0 : a.c_n),
                            rows_of<Value>(a.y),
                            rows_of<float>(a.c),
                            rows_of<Value>(a.reserve),
                            rows_of<Value>(a.h_n),
                            rows_of<float>(a.c_n),
                            static_cast<Word16*>(call.exchange)});
}

template <template <class> class C, class Mode>
void backward(const Choice& choice, const BackwardArgs& a, const PersistentBackward& call) {
  using Value = typename Mode::Value;
  const ForwardArgs& f = a.forward;
  const int64_t B = f.x.shape[1], slots = C<float>::kSlots * f.w_hh.shape[1];
  run<BackwardWay, C, Mode>(choice, static_cast<cudaStream_t>(f.stream), call.exchange_bytes,
                            {Sequence(f, call.lengths),
                             static_cast<const Value*>(call.w_hh),
                             rows_of<const Value>(a.dy),
                             rows_of<const Value>(a.dh_n),
                             rows_of<const float>(a.dc_n),
                             rows_of<const Value>(f.h0),
                             rows_of<const float>(f.c0),
                             rows_of<const Value>(f.y),
                             rows_of<const float>(f.c),
                             rows_of<const Value>(f.reserve),
                             {static_cast<Value*>(call.dgates), B * slots, slots},
                             rows_of<Value>(a.dh0),
                             rows_of<float>(a.dc0),
                             call.db,
                             static_cast<Word16*>(call.exchange)});
}

template <template <class> class C, class ForwardMode, class BackwardMode = ForwardMode>
constexpr PersistentKernels kKernels = {choose<ForwardWay, C, ForwardMode>, forward<C, ForwardMode>,
                                        choose<BackwardWay, C, BackwardMode>,
                                        backward<C, BackwardMode>,
                                        most_exchange<BackwardWay, C, BackwardMode>};

}  // namespace persistent
}  // namespace cuda
}  // namespace
}  // namespace fastrnn
