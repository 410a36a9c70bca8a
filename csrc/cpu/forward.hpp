// Forward over a sequence: per chunk of steps one input product for gx, then step by step the
// recurrent product of a tile of rows x units, with the cell run on the tile while it is in
// registers and L1.
//
//   gx [rows of the chunk, blocks, G, V]   h, c: panels [B, padded H] of the current state
//
// Rows are independent: each thread takes its own rows through the whole sequence and there is no
// barrier.
#pragma once

#include "cpu/bundle.hpp"
#include "cpu/products.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// Rows of one input product: w_ih is read once for them, and gx stays in L2 or close.
constexpr int64_t kForwardChunkRows = 256;
constexpr int64_t kForwardChunkBytes = 2 * 1024 * 1024;

// Where all weights stay in L2, but not what a step reads and writes of all rows too, a few rows at
// a time go through the sequence.
constexpr int64_t kAllRowsBytes = 512 * 1024, kFewRowsBytes = 128 * 1024;

// Steps of an input product whose rows are `width` wide.
template <class T>
int64_t forward_chunk(const Sequence& seq, int64_t width, int ranges,
                      int64_t bytes = kForwardChunkBytes) {
  const int64_t row_bytes = width * int64_t{sizeof(T)};
  const int64_t rows = smaller(kForwardChunkRows, bytes / row_bytes);
  return larger(1, smaller(seq.T, rows / larger(1, seq.B / ranges)));
}

template <template <class> class C, class T, class Product = PlainProduct<T>>
class Forward {
 public:
  using V = Vec<T>;
  using Cell = C<V>;
  static constexpr int G = Cell::kGates;
  static constexpr int S = Cell::kStates;
  static constexpr int R = Cell::kReserve;
  static constexpr int E = Cell::kEarly;
  static constexpr int L =
      G - E;  // gates of the late phase: all of them but for a cell with two products
  static constexpr int kLanes = V::kLanes;
  using Rows = typename Product::Rows;
  using Matrix = typename Product::Matrix;

  static int64_t packed_size(const ForwardArgs& a) {
    Arena arena{nullptr};
    Packed packed(a, arena);
    return arena.used;
  }

  static void pack(const ForwardArgs& a, void* memory) {
    Arena arena{static_cast<char*>(memory)};
    Packed(a, arena).fill(a);
  }

  static int64_t workspace(const ForwardArgs& a) {
    Arena arena{nullptr};
    Forward plan(a, arena);
    return arena.used;
  }

  static void run(const ForwardArgs& a, void* memory) {
    Arena arena{static_cast<char*>(memory)};
    Forward forward(a, arena);
    if (!a.packed) forward.w_.fill(a);
    if (forward.parts_ > 1) {
      Team::clear(forward.counters_, forward.parts_);
      parallel_for(a.threads, forward.parts_, [&](int64_t member) {
        forward.run_rows(0, forward.seq_.B, Team(forward.counters_, forward.parts_, member));
      });
    } else {
      forward.seq_.split(forward.ranges_, forward.first_);
      parallel_for(a.threads, forward.ranges_, [&](int64_t i) {
        forward.run_rows(forward.first_[i], forward.first_[i + 1], Team(nullptr, 1, 0));
      });
    }
  }

 private:
  // the weights by Product, the biases [blocks, gates, V]; the gates of a phase lie together
  struct Packed {
    int64_t H;
    Matrix w_ih, w_early, w_late;
    T *b_ih, *b_early, *b_late;

    // without `packs`, a product may take the weights as they are
    Packed(const ForwardArgs& a, Arena& arena, bool packs = true)
        : H(a.w_hh.shape[1]),
          w_ih(arena, a.w_ih, H, 0, G, packs),
          w_early(arena, a.w_hh, H, 0, E, packs),
          w_late(arena, a.w_hh, H, E, L, packs),
          b_ih(arena.take<T>(padded<T>(H) * G)),
          b_early(arena.take<T>(padded<T>(H) * E)),
          b_late(arena.take<T>(padded<T>(H) * L)) {}

    void fill(const ForwardArgs& a) const {
      for_packed_blocks(a.threads, blocks_of<T>(H), [&](int64_t first, int64_t last) {
        w_ih.fill(first, last);
        w_early.fill(first, last);
        w_late.fill(first, last);
        pack_gates(a.b_ih, first, last, H, 1, 0, G, b_ih);
        pack_gates(a.b_hh, first, last, H, 1, 0, E, b_early);
        pack_gates(a.b_hh, first, last, H, 1, E, L, b_late);
      });
    }
  };

  static Packed packed_weights(const ForwardArgs& a, Arena& workspace) {
    if (!a.packed) return Packed(a, workspace, !takes_unpacked(a));
    Arena packed{
        static_cast<char*>(const_cast<void*>(a.packed))};  // only read: fill() is not called
    return Packed(a, packed);
  }

  Forward(const ForwardArgs& a, Arena& arena)
      : a_(a),
        seq_(a, arena),
        w_(packed_weights(a, arena)),
        blocks_(blocks_of<T>(seq_.H)),
        width_(padded<T>(seq_.H)),
        parts_(hidden_parts(a.threads, seq_.B, G * seq_.H * seq_.H * int64_t{sizeof(T)})),
        ranges_(parts_ > 1 ? 1 : ranges(a.threads)),
        chunk_(forward_chunk<T>(seq_, G * width_, ranges_,
                                ranges_ > a.threads ? kFewRowsBytes : kForwardChunkBytes)),
        x_rows_(arena, seq_.B * chunk_, seq_.I, ranges_),
        h_rows_(arena, parts_ * seq_.B, seq_.H, parts_ * ranges_) {
    counters_ = Team::take_counters(arena, parts_);
    first_ = arena.take<int64_t>(ranges_ + 1);
    sums_ = arena.take<T>(parts_ * seq_.B * Product::kSums);
    outputs_ = arena.take<Outputs>(parts_ * seq_.B);
    gx_ = arena.take<T>(seq_.B * chunk_ * G * width_);
    h_ = arena.take<T>(seq_.B * width_);
    h_next_ = arena.take<T>(seq_.B * width_);
    c_ = S == 2 ? arena.take<T>(seq_.B * width_) : nullptr;
    operand_ = E > 0 ? arena.take<T>(seq_.B * width_) : nullptr;
  }

  // of the batch: one for each thread, or more
  int ranges(int threads) const {
    const int64_t row_bytes = (G + S + 1) * width_ * int64_t{sizeof(T)};  // gx, the states, h_next
    const int64_t weight_bytes = G * width_ * (seq_.I + seq_.H) * int64_t{sizeof(T)};
    int64_t count = smaller(threads, larger(seq_.B, 1));
    if (weight_bytes <= kWeightsInL2 && seq_.B / count * row_bytes > kAllRowsBytes)
      count = seq_.B * row_bytes / kFewRowsBytes;
    return static_cast<int>(count);
  }

  // Rows [first, last), through the whole sequence; every member of the team comes here.
  void run_rows(int64_t first, int64_t last, Team team) {
    [[maybe_unused]] const typename Product::Unit unit;
    T* h = h_ + first * width_;
    T* h_next = h_next_ + first * width_;
    T* c = S == 2 ? c_ + first * width_ : nullptr;
    team.once([&] { start_rows(first, last, h, c); });
    const int64_t steps = last > first ? seq_.length[first] : 0;
    for (int64_t start = 0; start < steps; start += chunk_) {
      const int64_t end = smaller(start + chunk_, steps);
      T* gx = input_product(first, last, start, end, team);
      for (int64_t s = start; s < end; ++s) {
        const int64_t rows = seq_.active(first, last, s);
        if (a_.reset.present) team.once([&] { reset_rows(first, rows, s, h, c); });
        step(first, rows, s, gx, h, h_next, c, team);
        gx += rows * G * width_;
        T* done = h;
        h = h_next;
        h_next = done;
      }
    }
  }

  void start_rows(int64_t first, int64_t last, T* h, T* c) const {
    for (int64_t r = first; r < last; ++r, h += width_) {
      const int64_t b = seq_.batch[r];
      load_state(a_.h0, r, h);
      if (S == 2) load_state(a_.c0, r, c);
      if (seq_.length[r] == 0) {
        copy_or_zero(row_of<T>(a_.h_n, b), h, seq_.H);
        if (S == 2) copy_or_zero(row_of<T>(a_.c_n, b), c, seq_.H);
      }
      for (int64_t t = seq_.length[r]; t < seq_.room(r); ++t) {
        copy_or_zero<T>(row_of<T>(a_.y, t, b), nullptr, seq_.H);
        if (S == 2 && a_.c.present) copy_or_zero<T>(row_of<T>(a_.c, t, b), nullptr, seq_.H);
      }
      if (S == 2) c += width_;
    }
  }

  // gx of steps [start, end), active rows one after the other
  T* input_product(int64_t first, int64_t last, int64_t start, int64_t end, Team& team) {
    const Rows x = x_rows_.from(first * chunk_, seq_.range_of(first_, first));
    T* gx = gx_ + first * chunk_ * G * width_;
    int64_t count = 0;
    for (int64_t s = start; s < end; ++s) count += seq_.active(first, last, s);
    team.once([&] {
      int64_t next = 0;
      for (int64_t s = start; s < end; ++s) {
        const int64_t rows = seq_.active(first, last, s);
        for (int64_t r = first; r < first + rows; ++r)
          x.set(next++, row_of<T>(a_.x, seq_.time(r, s), seq_.batch[r]));
      }
    });
    team.each_part([&](int64_t part) {
      const BlockRange range(blocks_, kGrain<G>, team, part);
      const auto place = [&](const Tile& tile) {
        return Out<T>{gx + (tile.row * blocks_ + tile.block) * G * kLanes, G * width_};
      };
      Product::template each_tile<G>(x, count, w_.w_ih, w_.b_ih, range, place,
                                     [](const Tile&, const T*) {});
    });
    return gx;
  }

  void step(int64_t first, int64_t rows, int64_t s, T* gx, const T* h, T* h_next, T* c,
            Team& team) {
    if constexpr (E > 0) step_early(first, rows, gx, h, team);
    const T* operand = E > 0 ? operand_ + first * width_ : h;
    team.each_part([&](int64_t part) {
      const BlockRange range(blocks_, kGrain<L>, team, part);
      Outputs* outputs = outputs_ + part * seq_.B + first;
      for (int64_t r = 0; r < rows; ++r) outputs[r] = outputs_of(first + r, s);
      const auto finish_tile = [&](const Tile& tile, const T* gh) {
        Block blocks[Product::template kTileBlocks<L>];
        int n = 0;
        for (int64_t r = tile.row; r < tile.row + tile.rows; ++r) {
          for (int64_t j = tile.block; j < tile.block + tile.blocks; ++j, gh += L * kLanes) {
            const int64_t at = r * width_ + j * kLanes;
            blocks[n++] = {outputs + r,
                           j,
                           gx + (r * blocks_ + j) * G * kLanes,
                           gh,
                           h + at,
                           h_next + at,
                           S == 2 ? c + at : nullptr};
          }
        }
        const Block* block = blocks;
        for (; n >= 3 && n != 4; n -= 3, block += 3) finish<3>(block);
        for (; n >= 2; n -= 2, block += 2) finish<2>(block);
        if (n == 1) finish<1>(block);
      };
      recurrent_product<L>(operand, first, rows, w_.w_late, w_.b_late, range, part, finish_tile);
    });
  }

  // Where the results of one row's step go; null for what nobody wants.
  struct Outputs {
    T *y, *c, *reserve, *h_n, *c_n;
    bool masked;
  };

  Outputs outputs_of(int64_t row, int64_t s) const {
    const int64_t t = seq_.time(row, s), b = seq_.batch[row];
    const bool last = s + 1 == seq_.length[row];
    return {row_of<T>(a_.y, t, b),
            S == 2 && a_.c.present ? row_of<T>(a_.c, t, b) : nullptr,
            R > 0 && a_.reserve.present ? row_of<T>(a_.reserve, t, b) : nullptr,
            last ? row_of<T>(a_.h_n, b) : nullptr,
            S == 2 && last ? row_of<T>(a_.c_n, b) : nullptr,
            seq_.masked(row, s)};
  }

  // V units of a row: block j, what the cell gets and where its states go
  struct Block {
    const Outputs* to;
    int64_t j;
    const T *gx, *gh, *h;
    T *h_next, *c;
  };

  // the cell on N blocks at once
  template <int N>
  void finish(const Block* blocks) const {
    using W = Bundle<V, N>;
    W x_gates[G], h_gates[L], prev[2], curr[2], saved[R > 0 ? R : 1];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g)
      x_gates[g] = W::of([&](int i) { return V::load(blocks[i].gx + g * kLanes); });
#pragma GCC unroll 4
    for (int g = 0; g < L; ++g)
      h_gates[g] = W::of([&](int i) { return V::load(blocks[i].gh + g * kLanes); });
    prev[0] = W::of([&](int i) { return V::load(blocks[i].h); });
    if (S == 2) prev[1] = W::of([&](int i) { return V::load(blocks[i].c); });
    C<W>::forward(x_gates, h_gates, prev, curr, saved);
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      const Block& b = blocks[i];
      const Outputs& to = *b.to;
      const int64_t H = seq_.H;
      const V h = to.masked ? prev[0].v[i] : curr[0].v[i];
      h.store(b.h_next);
      store_block(to.y, b.j, H, h);
      if (to.h_n) store_block(to.h_n, b.j, H, h);
      if (S == 2) {
        const V c = to.masked ? prev[1].v[i] : curr[1].v[i];
        c.store(b.c);
        if (to.c) store_block(to.c, b.j, H, c);
        if (to.c_n) store_block(to.c_n, b.j, H, c);
      }
      if (to.reserve) {
#pragma GCC unroll 4
        for (int k = 0; k < R; ++k) store_block(to.reserve + k * H, b.j, H, saved[k].v[i]);
      }
    }
  }

  // the early gates take the place of their gx; operand_ gets the left factor of the second product
  void step_early(int64_t first, int64_t rows, T* gx, const T* h, Team& team) {
    constexpr int N = larger_of_one(E);
    team.each_part([&](int64_t part) {
      const BlockRange range(blocks_, kGrain<N>, team, part);
      const auto finish_tile = [&](const Tile& tile, const T* gh) {
        for (int64_t r = tile.row; r < tile.row + tile.rows; ++r) {
          for (int64_t j = tile.block; j < tile.block + tile.blocks; ++j, gh += E * kLanes) {
            V x_gates[N], h_gates[N], early[N], operand;
            T* gx_block = gx + (r * blocks_ + j) * G * kLanes;
            for (int g = 0; g < E; ++g) {
              x_gates[g] = V::load(gx_block + g * kLanes);
              h_gates[g] = V::load(gh + g * kLanes);
            }
            const V prev = V::load(h + r * width_ + j * kLanes);
            if constexpr (E > 0) Cell::forward_early(x_gates, h_gates, &prev, early, operand);
            for (int g = 0; g < E; ++g) early[g].store(gx_block + g * kLanes);
            operand.store(operand_ + (first + r) * width_ + j * kLanes);
          }
        }
      };
      recurrent_product<N>(h, first, rows, w_.w_early, w_.b_early, range, part, finish_tile);
    });
  }

  static constexpr int larger_of_one(int n) { return n > 1 ? n : 1; }

  // body(tile, gh) for every tile of rows [0, rows) of the panel; all rows' sums are kept from one
  // piece of the terms to the next, those of a tile with one piece at one place, which stays in L1.
  template <int N, class Body>
  void recurrent_product(const T* panel, int64_t first, int64_t rows, const Matrix& w, const T* b,
                         const BlockRange& range, int64_t part, const Body& body) const {
    const int64_t at = part * seq_.B + first;
    const Rows left = h_rows_.from(at, part + seq_.range_of(first_, first));
    for (int64_t r = 0; r < rows; ++r) left.set(r, panel + r * width_);
    T* sums = sums_ + at * Product::kSums;
    const auto place = [&](const Tile& tile) {
      const int64_t stride = tile.blocks * N * kLanes;
      return Out<T>{sums + (tile.first_piece && tile.last_piece ? 0 : tile.row * stride), stride};
    };
    Product::template each_tile<N>(left, rows, w, b, range, place, body);
  }

  void reset_rows(int64_t first, int64_t rows, int64_t s, T* h, T* c) const {
    for (int64_t r = 0; r < rows; ++r) {
      if (!seq_.resets(first + r, s)) continue;
      copy_or_zero<T>(h + r * width_, nullptr, width_);
      if (S == 2) copy_or_zero<T>(c + r * width_, nullptr, width_);
    }
  }

  void load_state(const Tensor& state, int64_t row, T* panel) const {
    copy_or_zero<T>(panel, nullptr, width_);
    if (state.present) copy_or_zero<T>(panel, row_of<T>(state, seq_.batch[row]), seq_.H);
  }

  const ForwardArgs& a_;
  Sequence seq_;
  Packed w_;
  int64_t blocks_, width_;
  int64_t parts_;  // of the hidden units; ranges of the batch
  int ranges_;
  int64_t chunk_;
  Rows x_rows_, h_rows_;  // of a chunk; of a step, for each part
  int64_t* counters_;
  int64_t* first_;
  Outputs* outputs_;
  T *sums_, *gx_, *h_, *h_next_, *c_, *operand_;
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
