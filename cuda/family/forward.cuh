// Forward over a sequence with any feature of the family, in the order of cpu/family/forward.hpp. A
// step is what it is in cuda/forward.cuh, and what the options add:
//   1. h as W_hh sees it (recurrent dropout)          2. gh, by one product, or two
//   3. layer norm of gh; gx has had it with its block  4. the cell; with layer norm of c in two
//   parts
//   5. the projection, by a product                    6. zoneout of h, y
#pragma once

#include "../forward.cuh"
#include "family/norm.cuh"

namespace fastrnn {
namespace {
namespace cuda {

template <class T>
struct FamilyForwardData {
  using Value = Compute<T>;
  using V = Vec<Value>;

  Sequence seq;  // of h: its H is P
  int64_t H;     // units of the cell
  int gates;
  bool projected;
  FamilyData<T> family;
  Vector<T> b_ih, b_hh;  // [G*H]  null with layer norm, which adds them
  Zoneout<Value> z_h, z_c;
  NormOfC norm_of_c;
  Rows<T> h;                      // [B, P]  running
  Rows<Value> c;                  // [B, H]  or null
  Rows<T> y;                      // [T, B, P]
  Rows<Value> cells;              // [T, B, H], and what follows: null where it is not wanted
  Rows<T> reserve, values, outs;  // [T, B, kept*H], [T, B, G*H], [T, B, H]
  const Value* gh;                // [B, G*H]
  const T* hidden;                // [B, P]  h as W_hh sees it; null: h itself
  T* operand;                     // [B, H]  left factor of the late gates' product
  T* out;                         // [B, H]  with a projection: the cell's output
  Value *states, *normed;         // [B, H]  with layer norm of c: before and after it

  // c', or h' of a cell without c; the vanilla RNN, which alone has a P of its own then, uses none
  __device__ V before(int64_t b, int64_t unit) const {
    if (c) return V::set(c.at(0, b)[unit]);
    return V::set(projected ? Value(0) : computed(h.at(0, b)[unit]));
  }

  template <class Cell>
  __device__ void load(int64_t b, int64_t unit, const Value* gx, V* x_gates, V* h_gates) const {
    constexpr int G = Cell::kGates, E = Cell::kEarly;
    for (int g = 0; g < G; ++g) {
      const Value value = gx[(b * G + g) * H + unit];
      x_gates[g] = V::set(g < E ? value : value + b_ih.at(g * H + unit));
    }
    for (int g = E; g < G; ++g)
      h_gates[g - E] = V::set(gh[(b * G + g) * H + unit] + b_hh.at(g * H + unit));
  }

  template <class Cell, class Gates>
  __device__ void keep(int64_t t, int64_t b, int64_t unit, const Gates& k, const V* kept) const {
    for (int i = 0; i < kKept<Cell>; ++i) {
      if (reserve) reserve.at(t, b)[i * H + unit] = stored<T>(kept[i].v);
    }
    for (int g = 0; g < Cell::kGates; ++g) {
      if (values) values.at(t, b)[g * H + unit] = stored<T>(Cell::gate_value(k, g, kept).v);
    }
  }

  // the cell's state and output go their ways
  __device__ void finish_cell(int64_t b, int64_t s, int64_t unit, V state, V output) const {
    const int64_t t = seq.time(b, s);
    if (c) {
      Value& running = c.at(0, b)[unit];
      if (z_c.on) state = mixed(V::set(z_c.at(t, b, unit)), V::set(running), state);
      running = state.v;
      if (cells) cells.at(t, b)[unit] = state.v;
    }
    if (!projected) return finish(b, s, unit, output);
    out[b * H + unit] = stored<T>(output.v);
    if (outs) outs.at(t, b)[unit] = stored<T>(output.v);
  }

  // a step that does nothing
  __device__ void skip(int64_t b, int64_t s, int64_t unit) const {
    const int64_t t = seq.time(b, s);
    for (int g = 0; values && g < gates; ++g) values.at(t, b)[g * H + unit] = T{};
    if (cells) cells.at(t, b)[unit] = seq.valid(b, s) ? c.at(0, b)[unit] : Value(0);
    if (!projected) return finish(b, s, unit, V::set(0));
    out[b * H + unit] = T{};
    if (outs) outs.at(t, b)[unit] = T{};
  }

  // y, and the new h from `fresh`
  __device__ void finish(int64_t b, int64_t s, int64_t unit, V fresh) const {
    const int64_t t = seq.time(b, s);
    T& running = h.at(0, b)[unit];
    if (seq.works(b, s)) {
      if (z_h.on) fresh = mixed(V::set(z_h.at(t, b, unit)), V::set(computed(running)), fresh);
      running = stored<T>(fresh.v);
    }
    y.at(t, b)[unit] = seq.valid(b, s) ? running : T{};
  }
};

// hidden [B, P] = h kept
template <class T>
__global__ void hidden_kernel(Sequence seq, Rows<const T> h, const Compute<T>* kept, T* hidden) {
  const Item at(thread_index(), seq.H);
  if (at.row >= seq.B) return;
  hidden[thread_index()] = stored<T>(computed(h.at(0, at.row)[at.unit]) * kept[thread_index()]);
}

// as forward_early_kernel
template <template <class> class C, class T>
__global__ void family_early_kernel(FamilyForwardData<T> p, Compute<T>* gx, int64_t s) {
  using V = Vec<Compute<T>>;
  using Cell = C<V>;
  constexpr int G = Cell::kGates, E = Cell::kEarly;
  const Item at(thread_index(), p.H);
  if (at.row >= p.seq.B) return;
  const int64_t b = at.row, unit = at.unit;
  if (!p.seq.works(b, s)) {
    p.operand[thread_index()] = T{};
    return;
  }
  V x_gates[E], h_gates[E], early[E];
  for (int g = 0; g < E; ++g) {
    const int64_t i = g * p.H + unit, of_row = b * G * p.H + i;
    x_gates[g] = V::set(gx[of_row] + p.b_ih.at(i));
    h_gates[g] = V::set(p.gh[of_row] + p.b_hh.at(i));
  }
  const T hidden = p.hidden ? p.hidden[thread_index()] : p.h.at(0, b)[unit];
  const V operand = Cell::forward_early(p.family.template at<Cell>(unit), x_gates, h_gates,
                                        V::set(computed(hidden)), early);
  for (int g = 0; g < E; ++g) gx[(b * G + g) * p.H + unit] = early[g].v;
  p.operand[thread_index()] = stored<T>(operand.v);
}

template <template <class> class C, class T>
__global__ void family_cell_kernel(FamilyForwardData<T> p, const Compute<T>* gx, int64_t s) {
  using V = Vec<Compute<T>>;
  using Cell = C<V>;
  const Item at(thread_index(), p.H);
  if (at.row >= p.seq.B) return;
  const int64_t b = at.row, unit = at.unit;
  if (!p.seq.works(b, s)) return p.skip(b, s, unit);
  V x_gates[Cell::kGates], h_gates[Cell::kGates - Cell::kEarly], kept[kKept<Cell>], state;
  p.template load<Cell>(b, unit, gx, x_gates, h_gates);
  const auto k = p.family.template at<Cell>(unit);
  const V out = Units<Cell>::forward(k, x_gates, h_gates, p.before(b, unit), kept, state);
  p.template keep<Cell>(p.seq.time(b, s), b, unit, k, kept);
  p.finish_cell(b, s, unit, state, out);
}

// With layer norm of c, before it: what is normalised.
template <template <class> class C, class T>
__global__ void family_state_kernel(FamilyForwardData<T> p, const Compute<T>* gx, int64_t s) {
  using V = Vec<Compute<T>>;
  using Cell = C<V>;
  const Item at(thread_index(), p.H);
  if (at.row >= p.seq.B || !p.seq.works(at.row, s)) return;
  V x_gates[Cell::kGates], h_gates[Cell::kGates], kept[kKept<Cell>];
  p.template load<Cell>(at.row, at.unit, gx, x_gates, h_gates);
  const V state = Units<Cell>::state(p.family.template at<Cell>(at.unit), x_gates, h_gates,
                                     p.before(at.row, at.unit), kept);
  p.states[thread_index()] = p.normed[thread_index()] = state.v;
}

// And after it.
template <template <class> class C, class T>
__global__ void family_output_kernel(FamilyForwardData<T> p, const Compute<T>* gx, int64_t s) {
  using V = Vec<Compute<T>>;
  using Cell = C<V>;
  const Item at(thread_index(), p.H);
  if (at.row >= p.seq.B) return;
  const int64_t b = at.row, unit = at.unit;
  if (!p.seq.works(b, s)) return p.skip(b, s, unit);
  V x_gates[Cell::kGates], h_gates[Cell::kGates], kept[kKept<Cell>];
  V state = V::set(p.states[thread_index()]);
  p.template load<Cell>(b, unit, gx, x_gates, h_gates);
  const auto k = p.family.template at<Cell>(unit);
  const V out = Units<Cell>::output_of_norm(k, p.norm_of_c, x_gates, h_gates, p.before(b, unit),
                                            V::set(p.normed[thread_index()]), kept, state);
  p.template keep<Cell>(p.seq.time(b, s), b, unit, k, kept);
  p.finish_cell(b, s, unit, state, out);
}

// After the projection; fresh [B, P].
template <class T>
__global__ void family_finish_kernel(FamilyForwardData<T> p, const Compute<T>* fresh, int64_t s) {
  const Item at(thread_index(), p.seq.H);
  if (at.row < p.seq.B) p.finish(at.row, s, at.unit, Vec<Compute<T>>::set(fresh[thread_index()]));
}

template <template <class> class C, class T>
class FamilyForward {
 public:
  static int64_t workspace(const ForwardArgs& a) {
    Arena arena(nullptr);
    static_cast<void>(FamilyForward(a, arena));
    return arena.used();
  }

  static void run(const ForwardArgs& a, void* memory) {
    Arena arena(memory);
    FamilyForward(a, arena).run();
  }

 private:
  using Value = Compute<T>;
  using Cell = C<Vec<Value>>;
  static constexpr int G = Cell::kGates, E = Cell::kEarly;

  FamilyForward(const ForwardArgs& a, Arena& arena)
      : a_(a),
        on_(a.family),
        n_(sizes_of<Cell>(a)),
        stream_(static_cast<cudaStream_t>(a.stream)),
        cublas_(arena),
        lengths_(a, arena),
        seq_(a, lengths_.copy()),
        of_c_(seq_),
        input_(a, seq_, G * n_.H, arena),
        weights_(a, arena),
        w_hh_(weights_.matrix().transposed(), n_.P, G * n_.H, arena),
        w_hr_(n_.projected ? matrix_of<T>(on_.w_hr).transposed() : Matrix<const T>{nullptr, 0, 1},
              n_.H, n_.P, arena),
        drops_(has_recurrent_dropout(on_)),
        gh_(arena.take<Value>(input_.step())),
        kept_(drops_ ? arena.take<Value>(seq_.B * n_.P) : nullptr),
        hidden_(drops_ ? arena.take<T>(seq_.B * n_.P) : nullptr),
        fresh_(n_.projected ? arena.take<Value>(seq_.B * n_.P) : nullptr),
        p_{seq_,
           n_.H,
           G,
           n_.projected,
           FamilyData<T>(on_, G, 0),
           n_.has_norm ? Vector<T>{} : vector_of<T>(a.b_ih),
           n_.has_norm ? Vector<T>{} : vector_of<T>(a.b_hh),
           Zoneout<Value>(on_, 0),
           Zoneout<Value>(on_, 1),
           on_.norm_of_c,
           rows_of<T>(a.h_n),
           n_.has_c ? rows_of<Value>(a.c_n) : Rows<Value>{},
           rows_of<T>(a.y),
           n_.has_c ? rows_of<Value>(a.c) : Rows<Value>{},
           rows_of<T>(a.reserve),
           rows_of<T>(on_.gates),
           rows_of<T>(on_.output),
           gh_,
           hidden_,
           E > 0 ? arena.take<T>(seq_.B * n_.H) : nullptr,
           n_.projected ? arena.take<T>(seq_.B * n_.H) : nullptr,
           normalises_c() ? arena.take<Value>(seq_.B * n_.H) : nullptr,
           normalises_c() ? arena.take<Value>(seq_.B * n_.H) : nullptr} {
    of_c_.H = n_.H;
  }

  bool normalises_c() const { return on_.norm_of_c != NormOfC::kNone; }

  void run() const {
    cublas_.begin(stream_);
    lengths_.send(stream_);
    input_.pack(stream_);
    weights_.make(stream_);
    w_hh_.pack(stream_);
    if (n_.projected) w_hr_.pack(stream_);
    if (drops_) {
      launch(stream_, kept_state_kernel<Value>, seq_.B * n_.P, kept_state<Value>(on_), seq_.B, n_.P,
             kept_);
    }
    launch(stream_, first_state_kernel<T>, seq_.B * n_.P, seq_, rows_of<const T>(a_.h0), p_.h);
    if (n_.has_c) {
      launch(stream_, first_state_kernel<Value>, seq_.B * n_.H, of_c_, rows_of<const Value>(a_.c0),
             p_.c);
    }
    for (int64_t first = 0; first < seq_.T; first += input_.block()) {
      const int64_t steps = std::min(input_.block(), seq_.T - first);
      Value* const gx = input_.of(cublas_, stream_, first, steps);
      if (n_.has_norm) {
        normalise(gx, G * n_.H, G * n_.H, vector_of<T>(on_.gain_ih), vector_of<T>(a_.b_ih),
                  n_.layout.gx, kOfX, first, steps);
      }
      for (int64_t s = first; s < first + steps; ++s) step(s, gx + (s - first) * input_.step());
    }
  }

  void normalise(Value* values, int64_t stride, int64_t n, Vector<T> gain, Vector<T> bias,
                 int64_t at, NormFactor which, int64_t first, int64_t steps) const {
    launch_rows(stream_, normalise_kernel<T>, steps * seq_.B, seq_,
                NormRows<T>{values, stride, n, gain, bias, rows_of<T>(on_.norms), at,
                            n_.layout.factors + which, static_cast<Value>(on_.eps)},
                first);
  }

  // gh of gates [first, last)
  void gates(int64_t s, Matrix<const T> left, int first, int last, NormFactor which) const {
    const int64_t H = n_.H, from_gate = first * H;
    product_of_gates<T>(cublas_, stream_, seq_.B, left, n_.P, w_hh_.matrix(), H, G, first, last,
                        gh_);
    if (!n_.has_norm) return;
    normalise(gh_ + from_gate, G * H, (last - first) * H,
              from(vector_of<T>(on_.gain_hh), from_gate), from(vector_of<T>(a_.b_hh), from_gate),
              n_.layout.gh + from_gate, which, s, 1);
  }

  void step(int64_t s, Value* gx) const {
    const int64_t of_h = seq_.B * n_.P, units = seq_.B * n_.H;
    if (seq_.reset) {
      launch(stream_, reset_kernel<T>, of_h, seq_, p_.h, s);
      if (n_.has_c) launch(stream_, reset_kernel<Value>, units, of_c_, p_.c, s);
    }
    Matrix<const T> h = {p_.h.data, p_.h.batch, 1};
    if (drops_) {
      launch(stream_, hidden_kernel<T>, of_h, seq_, Rows<const T>{p_.h.data, 0, p_.h.batch},
             static_cast<const Value*>(kept_), hidden_);
      h = {hidden_, n_.P, 1};
    }
    if constexpr (E > 0) {
      gates(s, h, 0, E, kOfEarly);
      launch(stream_, family_early_kernel<C, T>, units, p_, gx, s);
      h = {p_.operand, n_.H, 1};
    }
    gates(s, h, E, G, kOfLate);
    cell(s, gx);
    if (!n_.projected) return;
    multiply<T, Value>(
        cublas_, stream_,
        {seq_.B, n_.P, n_.H, {p_.out, n_.H, 1}, w_hr_.matrix(), {fresh_, n_.P, 1}, false});
    launch(stream_, family_finish_kernel<T>, of_h, p_, static_cast<const Value*>(fresh_), s);
  }

  void cell(int64_t s, const Value* gx) const {
    const int64_t units = seq_.B * n_.H;
    if constexpr (Cell::kStates == 2) {
      if (normalises_c()) {
        launch(stream_, family_state_kernel<C, T>, units, p_, gx, s);
        normalise(p_.normed, n_.H, n_.H, vector_of<T>(on_.gain_c), vector_of<T>(on_.bias_c),
                  n_.layout.c, kOfC, s, 1);
        launch(stream_, family_output_kernel<C, T>, units, p_, gx, s);
        return;
      }
    }
    launch(stream_, family_cell_kernel<C, T>, units, p_, gx, s);
  }

  const ForwardArgs& a_;
  const Family& on_;
  const FamilySizes n_;
  const cudaStream_t stream_;
  const CublasCall cublas_;
  const LengthsFromHost lengths_;
  const Sequence seq_;
  Sequence of_c_;  // its H is that of c
  const InputProduct<T> input_;
  const KeptWeights<T> weights_;
  const RightFactor<T> w_hh_, w_hr_;
  const bool drops_;
  Value *const gh_, *const kept_;
  T* const hidden_;
  Value* const fresh_;
  const FamilyForwardData<T> p_;
};

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
