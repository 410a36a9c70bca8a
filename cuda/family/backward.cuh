// Back-propagation through time with any feature of the family, in the order of
// cpu/family/backward.hpp. A step, last to first, is what it is in cuda/backward.cuh, and what the
// options add:
//   1. the norm of dL/dh            2. zoneout of h; the projection, by a product
//   3. the cell; with layer norm of c in two parts          4. layer norm of gh
//   5. dh += dgates W_hh, where recurrent dropout kept it
// Then over all steps at once layer norm of gx, and the gradients of everything.
#pragma once

#include "../backward.cuh"
#include "family/forward.cuh"

namespace fastrnn {
namespace {
namespace cuda {

template <class T>
struct FamilyBackwardData {
  using Value = Compute<T>;
  using V = Vec<Value>;

  Sequence seq;  // of h: its H is P
  int64_t H;
  bool projected;
  FamilyData<T> family;
  Zoneout<Value> z_h, z_c;
  NormOfC norm_of_c;
  Vector<T> gain_c, bias_c;
  int64_t of_c;                  // where normalised c lies in a row of norms
  Rows<const T> dy, outside;     // [T, B, P], [T, B, G*H]  or null
  Rows<const T> h0, y;           // [B, P] or null, [T, B, P]
  Rows<const Value> c0, c;       // [B, H], [T, B, H]  or null
  Rows<const T> reserve, norms;  // [T, B, kept*H], [T, B, ..]
  T* dgates;                     // [T, B, D*H]  by slots, in the order of time
  T* step;                       // [B, G*H]  of this step, with respect to gh; null: layer norm's
  Value* doperand;               // [B, H]
  Value *dh, *dc;                // [B, P], [B, H] or null: running
  T *dfresh, *step_dfresh;       // [T, B, P], [B, P]  with a projection: of what it gives
  const Value* doutput;          // [B, H]             and of the cell's output
  Value *c_of_output, *dnormed;  // [T, B, H]  the c of the output's peephole, dL/du; or null
  Value *du, *doutput_gate;      // [B, H]  with layer norm of c
  const Value* kept;             // [B, P]  by recurrent dropout; null: all

  __device__ int64_t place(int64_t t, int64_t b) const { return t * seq.B + b; }
  __device__ Value h_before(int64_t b, int64_t s, int64_t unit) const {
    const Value h = seq.state_before(y, h0, b, s, unit);
    return kept ? h * kept[b * seq.H + unit] : h;
  }
  __device__ Value c_before(int64_t b, int64_t s, int64_t unit) const {
    return seq.state_before(c, c0, b, s, unit);
  }
  // c', or h' as the cell itself sees it
  __device__ V before(int64_t b, int64_t s, int64_t unit) const {
    if (dc) return V::set(c_before(b, s, unit));
    return V::set(projected ? Value(0) : seq.state_before(y, h0, b, s, unit));
  }
  __device__ const T* outside_of(int64_t t, int64_t b) const {
    return outside ? outside.at(t, b) : nullptr;
  }

  template <class Cell>
  __device__ void load(int64_t t, int64_t b, int64_t unit, V* kept_values) const {
    for (int i = 0; i < kKept<Cell>; ++i)
      kept_values[i] = V::set(computed(reserve.at(t, b)[i * H + unit]));
  }

  __device__ V dh_of_step(int64_t b, int64_t s, int64_t unit) const {
    const Value d = dh[b * seq.H + unit];
    return V::set(dy ? d + computed(dy.at(seq.time(b, s), b)[unit]) : d);
  }
  // dL/dh of the step -> of what became h; what goes past that to the h before stays in dh
  __device__ V fresh_gradient(int64_t b, int64_t s, int64_t unit) const {
    if (!seq.valid(b, s)) return V::set(0);
    const V d = dh_of_step(b, s, unit);
    Value& past = dh[b * seq.H + unit];
    past = d.v;
    if (seq.masked(b, s)) return V::set(0);
    const Value share = z_h.on ? z_h.at(seq.time(b, s), b, unit) : Value(0);
    past = (d * V::set(share)).v;
    return z_h.on ? d * (V::set(1) - V::set(share)) : d;
  }
  __device__ V output_gradient(int64_t b, int64_t s, int64_t unit) const {
    return projected ? V::set(doutput[b * H + unit]) : fresh_gradient(b, s, unit);
  }

  // of the state that zoneout mixes into c, and back to that of c'
  __device__ V state_gradient(int64_t b, int64_t s, int64_t unit) const {
    const V d = V::set(dc[b * H + unit]);
    return z_c.on ? d * (V::set(1) - V::set(z_c.at(seq.time(b, s), b, unit))) : d;
  }
  __device__ void set_c_gradient(int64_t b, int64_t s, int64_t unit, V d) const {
    Value& running = dc[b * H + unit];
    if (z_c.on) d = fma(V::set(z_c.at(seq.time(b, s), b, unit)), V::set(running), d);
    running = d.v;
  }

  template <class Cell>
  __device__ void store(int64_t t, int64_t b, int64_t unit, const V* gradients) const {
    constexpr int G = Cell::kGates, D = Cell::kSlots;
    for (int d = 0; d < D; ++d)
      dgates[(place(t, b) * D + d) * H + unit] = stored<T>(gradients[d].v);
    for (int g = 0; g < G; ++g) {
      if (step) step[(b * G + g) * H + unit] = stored<T>(gradients[Cell::slot_h(g)].v);
    }
  }
  // u of a row: normalised c with its gain and bias
  __device__ V u(int64_t t, int64_t b, int64_t unit) const {
    const Value normed = computed(norms.at(t, b)[of_c + unit]);
    return fma(V::set(normed), V::set(gain_c.at(unit)), V::set(bias_c.at(unit)));
  }
};

// norms [T, B] of dL/dh at every step; 0 where there is none
template <class T>
__global__ void step_norm_kernel(FamilyBackwardData<T> p, Rows<T> norms, int64_t s) {
  using Value = Compute<T>;
  const int64_t b = blockIdx.x;
  Value squares = 0;
  for (int64_t unit = threadIdx.x; unit < p.seq.H; unit += kThreads) {
    const Value d = p.seq.valid(b, s) ? p.dh_of_step(b, s, unit).v : Value(0);
    squares = std::fma(d, d, squares);
  }
  squares = block_sum(squares);
  if (threadIdx.x == 0) *norms.at(p.seq.time(b, s), b) = stored<T>(std::sqrt(squares));
}

// dc += what comes from outside at this step
template <class T>
__global__ void outside_c_kernel(FamilyBackwardData<T> p, Rows<const Compute<T>> outside,
                                 int64_t s) {
  const Item at(thread_index(), p.H);
  if (at.row >= p.seq.B || !p.seq.valid(at.row, s)) return;
  p.dc[thread_index()] += outside.at(p.seq.time(at.row, s), at.row)[at.unit];
}

template <class T>
__global__ void fresh_gradient_kernel(FamilyBackwardData<T> p, int64_t s) {
  const int64_t P = p.seq.H;
  const Item at(thread_index(), P);
  if (at.row >= p.seq.B) return;
  const T d = stored<T>(p.fresh_gradient(at.row, s, at.unit).v);
  p.dfresh[p.place(p.seq.time(at.row, s), at.row) * P + at.unit] = d;
  p.step_dfresh[thread_index()] = d;
}

template <template <class> class C, class T>
__global__ void family_cell_gradient_kernel(FamilyBackwardData<T> p, int64_t s) {
  using V = Vec<Compute<T>>;
  using Cell = C<V>;
  constexpr bool kIsLstm = Cell::kStates == 2;
  const Item at(thread_index(), p.H);
  if (at.row >= p.seq.B) return;
  const int64_t b = at.row, unit = at.unit, t = p.seq.time(b, s);
  V d = p.output_gradient(b, s, unit), gradients[Cell::kSlots], state = V::set(0);
  for (V& gradient : gradients) gradient = V::set(0);
  if (p.seq.works(b, s)) {
    V kept[kKept<Cell>], dc = V::set(0);
    p.template load<Cell>(t, b, unit, kept);
    if (kIsLstm) {
      dc = p.state_gradient(b, s, unit);
    } else if (p.dc) {
      d = d + p.state_gradient(b, s, unit);
    }
    const auto k = p.family.template at<Cell>(unit, p.outside_of(t, b), p.H);
    const V past = Units<Cell>::backward(k, kept, p.before(b, s, unit), d, dc, gradients, state);
    if (p.dc) {
      p.set_c_gradient(b, s, unit, past);
    } else if (Cell::kMixes) {
      p.dh[b * p.seq.H + unit] += past.v;
    }
  }
  p.template store<Cell>(t, b, unit, gradients);
  if (kIsLstm && p.c_of_output) p.c_of_output[p.place(t, b) * p.H + unit] = state.v;
}

// With layer norm of c, before it: what goes through it.
template <template <class> class C, class T>
__global__ void family_output_gradient_kernel(FamilyBackwardData<T> p, int64_t s) {
  using V = Vec<Compute<T>>;
  using Cell = C<V>;
  const Item at(thread_index(), p.H);
  if (at.row >= p.seq.B) return;
  const int64_t b = at.row, unit = at.unit, t = p.seq.time(b, s);
  V d = p.output_gradient(b, s, unit), gate = V::set(0), du = V::set(0);
  if (p.seq.works(b, s)) {
    V kept[kKept<Cell>];
    p.template load<Cell>(t, b, unit, kept);
    const auto k = p.family.template at<Cell>(unit, p.outside_of(t, b), p.H);
    du = Units<Cell>::backward_output(k, kept, p.u(t, b, unit), d, gate);
    if (p.norm_of_c == NormOfC::kState)
      du = Units<Cell>::backward_c(k, gate, du, p.state_gradient(b, s, unit));
  }
  p.du[thread_index()] = p.dnormed[p.place(t, b) * p.H + unit] = du.v;
  p.doutput_gate[thread_index()] = gate.v;
}

// And after it.
template <template <class> class C, class T>
__global__ void family_state_gradient_kernel(FamilyBackwardData<T> p, int64_t s) {
  using V = Vec<Compute<T>>;
  using Cell = C<V>;
  const Item at(thread_index(), p.H);
  if (at.row >= p.seq.B) return;
  const int64_t b = at.row, unit = at.unit, t = p.seq.time(b, s);
  const bool of_state = p.norm_of_c == NormOfC::kState;
  V gradients[Cell::kSlots], state = V::set(0);
  for (V& gradient : gradients) gradient = V::set(0);
  if (p.seq.works(b, s)) {
    V kept[kKept<Cell>];
    p.template load<Cell>(t, b, unit, kept);
    const auto k = p.family.template at<Cell>(unit, p.outside_of(t, b), p.H);
    const V gate = V::set(p.doutput_gate[thread_index()]);
    V d = V::set(p.du[thread_index()]);
    if (!of_state) d = Units<Cell>::backward_c(k, gate, d, p.state_gradient(b, s, unit));
    const V past =
        Units<Cell>::backward_state(k, kept, p.before(b, s, unit), d, gate, gradients, state);
    p.set_c_gradient(b, s, unit, past);
    if (of_state) state = p.u(t, b, unit);
  }
  p.template store<Cell>(t, b, unit, gradients);
  if (p.c_of_output) p.c_of_output[p.place(t, b) * p.H + unit] = state.v;
}

// as backward_early_kernel
template <template <class> class C, class T>
__global__ void family_early_gradient_kernel(FamilyBackwardData<T> p, int64_t s) {
  using V = Vec<Compute<T>>;
  using Cell = C<V>;
  constexpr int G = Cell::kGates, E = Cell::kEarly, D = Cell::kSlots;
  const Item at(thread_index(), p.H);
  if (at.row >= p.seq.B || !p.seq.works(at.row, s)) return;
  const int64_t b = at.row, unit = at.unit, t = p.seq.time(b, s);
  V kept[kKept<Cell>];
  p.template load<Cell>(t, b, unit, kept);
  const auto k = p.family.template at<Cell>(unit, p.outside_of(t, b), p.H);
  const V d = V::set(p.doperand[thread_index()]);
  const V mask = V::set(p.kept ? p.kept[thread_index()] : Compute<T>(1));
  const T gradient = stored<T>(Cell::early_gradient(k, V::set(p.h_before(b, s, unit)), kept, d).v);
  Compute<T>& past = p.dh[thread_index()];
  past = fma(mask, d * Cell::reset_gate(k, kept), V::set(past)).v;
  static_assert(E == 2 && Cell::slot_h(0) == 0, "r alone has its gradient from here");
  p.dgates[p.place(t, b) * D * p.H + unit] = gradient;
  if (p.step) p.step[b * G * p.H + unit] = gradient;
}

// to += product kept, [B, P]
template <class V>
__global__ void add_kept_kernel(int64_t items, const V* product, const V* kept, V* to) {
  const int64_t i = thread_index();
  if (i < items) to[i] = std::fma(product[i], kept[i], to[i]);
}

// left [T, B, P] = what W_hh multiplied; zeros where no step works
template <class T>
__global__ void family_left_factor_kernel(FamilyBackwardData<T> p, T* left) {
  const Item at(thread_index(), p.seq.H);
  if (at.row >= p.seq.T * p.seq.B) return;
  const int64_t b = at.row % p.seq.B, s = p.seq.time(b, at.row / p.seq.B);
  left[thread_index()] = p.seq.works(b, s) ? stored<T>(p.h_before(b, s, at.unit)) : T{};
}

// and for the late gates of a cell with early ones
template <template <class> class C, class T>
__global__ void family_operand_kernel(FamilyBackwardData<T> p, T* left) {
  using V = Vec<Compute<T>>;
  using Cell = C<V>;
  const Item at(thread_index(), p.H);
  if (at.row >= p.seq.T * p.seq.B) return;
  const int64_t t = at.row / p.seq.B, b = at.row % p.seq.B, s = p.seq.time(b, t);
  V operand = V::set(0);
  if (p.seq.works(b, s)) {
    V kept[kKept<Cell>];
    p.template load<Cell>(t, b, at.unit, kept);
    operand = Cell::reset_gate(p.family.template at<Cell>(at.unit), kept) *
              V::set(p.h_before(b, s, at.unit));
  }
  left[thread_index()] = stored<T>(operand.v);
}

// left [T, B, H] = c'
template <class T>
__global__ void c_before_kernel(FamilyBackwardData<T> p, Compute<T>* left) {
  const Item at(thread_index(), p.H);
  if (at.row >= p.seq.T * p.seq.B) return;
  const int64_t b = at.row % p.seq.B, s = p.seq.time(b, at.row / p.seq.B);
  left[thread_index()] = p.seq.works(b, s) ? p.c_before(b, s, at.unit) : Compute<T>(0);
}

// to = d kept, or with accumulate to + d kept: the gradient of weights of which chance kept some
template <class T>
__global__ void kept_gradient_kernel(Chance<Compute<T>> chance, const Compute<T>* d, int64_t rows,
                                     int64_t columns, Matrix<T> to, bool accumulate) {
  const Item at(thread_index(), columns);
  if (at.row >= rows) return;
  T& out = to.data[at.row * to.row + at.unit * to.column];
  const Compute<T> gradient = d[thread_index()] * chance.at(0, at.row, at.unit);
  out = stored<T>(accumulate ? computed(out) + gradient : gradient);
}

template <template <class> class C, class T>
class FamilyBackward {
 public:
  static int64_t workspace(const BackwardArgs& a) {
    Arena arena(nullptr);
    static_cast<void>(FamilyBackward(a, arena));
    return arena.used();
  }

  static void run(const BackwardArgs& a, void* memory) {
    Arena arena(memory);
    FamilyBackward(a, arena).run();
  }

 private:
  using Value = Compute<T>;
  using Cell = C<Vec<Value>>;
  static constexpr int G = Cell::kGates, S = Cell::kStates, E = Cell::kEarly, D = Cell::kSlots;
  static constexpr int kDirect = E > 0 ? E : G;
  static constexpr Slots<Cell> kSlots = {};

  FamilyBackward(const BackwardArgs& a, Arena& arena)
      : a_(a),
        f_(a.forward),
        on_(f_.family),
        n_(sizes_of<Cell>(f_)),
        stream_(static_cast<cudaStream_t>(f_.stream)),
        cublas_(arena),
        lengths_(f_, arena),
        seq_(f_, lengths_.copy()),
        of_c_(seq_),
        rows_(seq_.T * seq_.B),
        gradients_(a, seq_, cublas_, G, n_.H, std::max(D, G) * n_.H, arena),
        weights_(f_, arena),
        w_hh_(weights_.matrix(), G * n_.H, n_.P, arena),
        w_hr_(n_.projected ? matrix_of<T>(on_.w_hr) : Matrix<const T>{nullptr, 0, 1}, n_.P, n_.H,
              arena),
        drops_(has_recurrent_dropout(on_)),
        kept_(drops_ ? arena.take<Value>(seq_.B * n_.P) : nullptr),
        product_(drops_ ? arena.take<Value>(seq_.B * n_.P) : nullptr),
        step_(arena.take<T>(seq_.B * G * n_.H)),
        left_(arena.take<T>(rows_ * n_.P)),
        doutput_(n_.projected ? arena.take<Value>(seq_.B * n_.H) : nullptr),
        flow_(n_.has_norm ? arena.take<T>(rows_ * 2 * G * n_.H) : nullptr),
        dw_hh_(has_weight_dropout(on_) ? arena.take<Value>(G * n_.H * n_.P) : nullptr),
        c_before_(on_.peephole.present ? arena.take<Value>(rows_ * n_.H) : nullptr),
        p_{seq_,
           n_.H,
           n_.projected,
           FamilyData<T>(on_, G, a.clip),
           Zoneout<Value>(on_, 0),
           Zoneout<Value>(on_, 1),
           on_.norm_of_c,
           vector_of<T>(on_.gain_c),
           vector_of<T>(on_.bias_c),
           n_.layout.c,
           rows_of<const T>(a.dy),
           rows_of<const T>(a.dgates),
           rows_of<const T>(f_.h0),
           rows_of<const T>(f_.y),
           rows_of<const Value>(f_.c0),
           rows_of<const Value>(f_.c),
           rows_of<const T>(f_.reserve.present ? f_.reserve : f_.y),  // the plain RNN keeps h alone
           rows_of<const T>(on_.norms),
           arena.take<T>(rows_ * D * n_.H),
           n_.has_norm ? nullptr : step_,
           E > 0 ? arena.take<Value>(seq_.B * n_.H) : nullptr,
           arena.take<Value>(seq_.B * n_.P),
           n_.has_c ? arena.take<Value>(seq_.B * n_.H) : nullptr,
           n_.projected ? arena.take<T>(rows_ * n_.P) : nullptr,
           n_.projected ? arena.take<T>(seq_.B * n_.P) : nullptr,
           doutput_,
           on_.peephole.present ? arena.take<Value>(rows_ * n_.H) : nullptr,
           normalises_c() ? arena.take<Value>(rows_ * n_.H) : nullptr,
           normalises_c() ? arena.take<Value>(seq_.B * n_.H) : nullptr,
           normalises_c() ? arena.take<Value>(seq_.B * n_.H) : nullptr,
           kept_} {
    of_c_.H = n_.H;
  }

  bool normalises_c() const { return on_.norm_of_c != NormOfC::kNone; }

  void run() const {
    cublas_.begin(stream_);
    lengths_.send(stream_);
    gradients_.pack();
    weights_.make(stream_);
    w_hh_.pack(stream_);
    if (n_.projected) w_hr_.pack(stream_);
    if (drops_) {
      launch(stream_, kept_state_kernel<Value>, seq_.B * n_.P, kept_state<Value>(on_), seq_.B, n_.P,
             kept_);
    }
    recurrence();
    const Flow<T> flow = products();
    gradients_.of_input(flow);
    if (a_.dw_hh.present) state_weights(flow);
    if (a_.dw_hr.present) projection();
    gradients_.add_up_biases(p_.dgates, D);
    gradients_.of_biases(D, kSlots.x, kSlots.h);
    gains();
    if (a_.dpeephole.present) peepholes();
  }

  void recurrence() const {
    const int64_t of_h = seq_.B * n_.P, units = seq_.B * n_.H;
    const Rows<Value> dh = {p_.dh, 0, n_.P}, dc = {p_.dc, 0, n_.H};
    launch(stream_, convert_kernel<T, Value>, of_h, seq_, rows_of<const T>(a_.dh_n), dh);
    if (dc) {
      launch(stream_, convert_kernel<Value, Value>, units, of_c_, rows_of<const Value>(a_.dc_n),
             dc);
    }
    for (int64_t s = seq_.T - 1; s >= 0; --s) {
      if (a_.step_norms.present) {
        const Rows<T> norms = {static_cast<T*>(a_.step_norms.data), a_.step_norms.stride[0],
                               a_.step_norms.stride[1]};
        launch_rows(stream_, step_norm_kernel<T>, seq_.B, p_, norms, s);
      }
      if (dc && a_.dc.present) {
        launch(stream_, outside_c_kernel<T>, units, p_, rows_of<const Value>(a_.dc), s);
      }
      step(s);
      if (seq_.reset) {
        launch(stream_, reset_kernel<Value>, of_h, seq_, dh, s);
        if (dc) launch(stream_, reset_kernel<Value>, units, of_c_, dc, s);
      }
    }
    if (a_.dh0.present) {
      launch(stream_, convert_kernel<Value, T>, of_h, seq_, Rows<const Value>{p_.dh, 0, n_.P},
             rows_of<T>(a_.dh0));
    }
    if (dc && a_.dc0.present) {
      launch(stream_, convert_kernel<Value, Value>, units, of_c_, Rows<const Value>{p_.dc, 0, n_.H},
             rows_of<Value>(a_.dc0));
    }
  }

  void step(int64_t s) const {
    const int64_t units = seq_.B * n_.H;
    if (n_.projected) {
      launch(stream_, fresh_gradient_kernel<T>, seq_.B * n_.P, p_, s);
      multiply<T, Value>(cublas_, stream_,
                         {seq_.B,
                          n_.H,
                          n_.P,
                          {p_.step_dfresh, n_.P, 1},
                          w_hr_.matrix(),
                          {doutput_, n_.H, 1},
                          false});
    }
    cell(s);
    if (n_.has_norm) of_norm(s, E, G, kOfLate);
    if constexpr (E > 0) {
      gate_product(E, G, p_.doperand, false);
      launch(stream_, family_early_gradient_kernel<C, T>, units, p_, s);
      if (n_.has_norm) of_norm(s, 0, E, kOfEarly);
    }
    if (!drops_) return gate_product(0, kDirect, p_.dh, true);
    gate_product(0, kDirect, product_, false);
    launch(stream_, add_kept_kernel<Value>, seq_.B * n_.P, seq_.B * n_.P,
           static_cast<const Value*>(product_), static_cast<const Value*>(kept_), p_.dh);
  }

  void cell(int64_t s) const {
    const int64_t units = seq_.B * n_.H;
    if constexpr (S == 2) {
      if (normalises_c()) {
        launch(stream_, family_output_gradient_kernel<C, T>, units, p_, s);
        launch_rows(stream_, norm_gradient_kernel<T, Value>, seq_.B, seq_,
                    NormGradients<T, Value>{p_.du,
                                            n_.H,
                                            p_.du,
                                            n_.H,
                                            nullptr,
                                            0,
                                            false,
                                            1,
                                            n_.H,
                                            {},
                                            vector_of<T>(on_.gain_c),
                                            rows_of<const T>(on_.norms),
                                            n_.layout.c,
                                            n_.layout.factors + kOfC},
                    s);
        launch(stream_, family_state_gradient_kernel<C, T>, units, p_, s);
        return;
      }
    }
    launch(stream_, family_cell_gradient_kernel<C, T>, units, p_, s);
  }

  // layer norm of gates [first, last) of gh
  void of_norm(int64_t s, int first, int last, NormFactor which) const {
    const int64_t H = n_.H, gate = first * H;
    NormGradients<T, T> p = {p_.dgates,
                             D * H,
                             flow_ + G * H + gate,
                             2 * G * H,
                             step_ + gate,
                             G * H,
                             true,
                             last - first,
                             H,
                             {},
                             from(vector_of<T>(on_.gain_hh), gate),
                             rows_of<const T>(on_.norms),
                             n_.layout.gh + gate,
                             n_.layout.factors + which};
    for (int g = first; g < last; ++g) p.slot[g - first] = kSlots.h[g] * H;
    launch_rows(stream_, norm_gradient_kernel<T, T>, seq_.B, seq_, p, s);
  }

  // the gradients of the products; with layer norm those of gx are made now, for all steps at once
  Flow<T> products() const {
    if (!n_.has_norm) return kSlots.flow(static_cast<const T*>(p_.dgates), n_.H);
    const int64_t H = n_.H;
    NormGradients<T, T> p = {p_.dgates,
                             D * H,
                             flow_,
                             2 * G * H,
                             nullptr,
                             0,
                             true,
                             G,
                             H,
                             {},
                             vector_of<T>(on_.gain_ih),
                             rows_of<const T>(on_.norms),
                             n_.layout.gx,
                             n_.layout.factors + kOfX};
    Flow<T> flow = {flow_, 2 * G * H, {}, {}};
    for (int g = 0; g < G; ++g) {
      p.slot[g] = kSlots.x[g] * H;
      flow.x[g] = g * H, flow.h[g] = (G + g) * H;
    }
    launch_rows(stream_, norm_gradient_kernel<T, T>, rows_, seq_, p, int64_t{0});
    return flow;
  }

  // out [B, P] from gates [first, last) of this step
  void gate_product(int first, int last, Value* out, bool accumulate) const {
    const int64_t H = n_.H;
    multiply<T, Value>(cublas_, stream_,
                       {seq_.B,
                        n_.P,
                        (last - first) * H,
                        {step_ + first * H, G * H, 1},
                        w_hh_.matrix().from_row(first * H),
                        {out, n_.P, 1},
                        accumulate});
  }

  void state_weights(const Flow<T>& flow) const {
    if (!dw_hh_) return state_weights_into(flow, Gradients<T>::matrix_in(a_.dw_hh), a_.accumulate);
    state_weights_into(flow, Matrix<Value>{dw_hh_, n_.P, 1}, false);
    launch(stream_, kept_gradient_kernel<T>, G * n_.H * n_.P, weights_.chance(),
           static_cast<const Value*>(dw_hh_), G * n_.H, n_.P, Gradients<T>::matrix_in(a_.dw_hh),
           a_.accumulate);
  }

  template <class Out>
  void state_weights_into(const Flow<T>& flow, Matrix<Out> dw, bool accumulate) const {
    const Matrix<const T> left = {left_, n_.P, 1};
    launch(stream_, family_left_factor_kernel<T>, rows_ * n_.P, p_, left_);
    gradients_.of_state(flow, 0, kDirect, left, n_.P, dw, accumulate);
    if constexpr (E > 0) {
      launch(stream_, family_operand_kernel<C, T>, rows_ * n_.P, p_, left_);
      gradients_.of_state(flow, E, G, left, n_.P, dw, accumulate);
    }
  }

  void projection() const {
    const Rows<const T> output = rows_of<const T>(on_.output);
    multiply<T, T>(cublas_, stream_,
                   {n_.P,
                    n_.H,
                    rows_,
                    {p_.dfresh, 1, n_.P},
                    {output.data, output.batch, 1},
                    Gradients<T>::matrix_in(a_.dw_hr),
                    a_.accumulate});
  }

  void gains() const {
    const int64_t H = n_.H;
    const T* const norms = rows_of<const T>(on_.norms).data;
    for (int g = 0; a_.dgain_ih.present && g < G; ++g) {
      weighted_sum(kSlots.x[g], norms + n_.layout.gx + g * H, n_.layout.size);
      gradients_.sum(H, 0, H, a_.dgain_ih, g * H);
      weighted_sum(kSlots.h[g], norms + n_.layout.gh + g * H, n_.layout.size);
      gradients_.sum(H, 0, H, a_.dgain_hh, g * H);
    }
    if (!a_.dgain_c.present) return;
    const Value* const d = p_.dnormed;
    gradients_.add_up(H, d, H, norms + n_.layout.c, n_.layout.size);
    gradients_.sum(H, 0, H, a_.dgain_c, 0);
    gradients_.add_up(H, d, H);
    gradients_.sum(H, 0, H, a_.dbias_c, 0);
  }

  // of a slot's gradients times weights [T*B, H]
  template <class W>
  void weighted_sum(int slot, const W* weights, int64_t stride) const {
    gradients_.add_up(n_.H, static_cast<const T*>(p_.dgates) + slot * n_.H, D * n_.H, weights,
                      stride);
  }

  void peepholes() const {
    const int64_t H = n_.H;
    const Matrix<T> d = Gradients<T>::matrix_in(a_.dpeephole);
    launch(stream_, c_before_kernel<T>, rows_ * H, p_, c_before_);
    for (int n = 0; n < Cell::kPeepholes; ++n) {
      const bool of_output = n == Cell::kPeepholes - 1;  // which is the last gate too
      const Value* const c = of_output ? p_.c_of_output : c_before_;
      weighted_sum(of_output ? G - 1 : n, c, H);
      gradients_.sum(H, 0, H, d.data + n * d.row, d.column);
    }
  }

  const BackwardArgs& a_;
  const ForwardArgs& f_;
  const Family& on_;
  const FamilySizes n_;
  const cudaStream_t stream_;
  const CublasCall cublas_;
  const LengthsFromHost lengths_;
  const Sequence seq_;
  Sequence of_c_;  // its H is that of c
  const int64_t rows_;
  const Gradients<T> gradients_;
  const KeptWeights<T> weights_;
  const RightFactor<T> w_hh_, w_hr_;
  const bool drops_;
  Value *const kept_, *const product_;
  T *const step_, *const left_;
  Value* const doutput_;
  T* const flow_;
  Value *const dw_hh_, *const c_before_;
  const FamilyBackwardData<T> p_;
};

}  // namespace cuda
}  // namespace
}  // namespace fastrnn
