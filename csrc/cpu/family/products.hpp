// The products of cpu/products.hpp on vectors or duals. Of duals the value is one product, and the
// tangent two: (A B)' = A' B + A B'.
#pragma once

#include "cpu/dual.hpp"
#include "cpu/products.hpp"

namespace fastrnn {
namespace {
namespace FASTRNN_ISA {

// Rows of the left factor: those of a list, or each `stride` after the one before.
template <class At>
struct RowsOf {
  At first{};
  int64_t stride = 0;
  const At* list = nullptr;

  At operator()(int64_t r) const { return list ? list[r] : first + r * stride; }
};
template <class V>
using Rows = RowsOf<ConstAt<V>>;

// Part `i` of rows: pointers.
template <class At>
struct PartOf {
  const RowsOf<At>& rows;
  int i;
  auto operator()(int64_t r) const { return part(rows(r), i); }
};

template <class V>
struct Products {
  using T = typename V::Scalar;

  // out[r] = bias + W left(r), rows [blocks, gates, V]; `bias` may be null
  static void forward(int gates, const Rows<V>& left, int64_t rows, int64_t length, ConstAt<V> w,
                      ConstAt<V> bias, int64_t blocks, At<V> out) {
    switch (gates) {
      case 1:
        return of_gates<1>(left, rows, length, w, bias, blocks, out);
      case 2:
        return of_gates<2>(left, rows, length, w, bias, blocks, out);
      case 3:
        return of_gates<3>(left, rows, length, w, bias, blocks, out);
      default:
        return of_gates<4>(left, rows, length, w, bias, blocks, out);
    }
  }

  // all_gates: those of w
  static void transposed(const Rows<V>& left, int64_t rows, const GateRange& gates, int all_gates,
                         ConstAt<V> w, ConstAt<V> zeros, int64_t blocks, At<V> out,
                         int64_t out_stride) {
    for_each([&](int l, int r, int o, bool adds) {
      transposed_product(PartOf<ConstAt<V>>{left, l}, rows, gates, all_gates,
                         Weights<T>{part(w, r)}, part(zeros, l), {0, blocks}, adds, part(out, o),
                         out_stride);
    });
  }

  // left: [blocks, count, V] as in Columns; dw is added to
  static void weights(int threads, At<V> left, const GateRange& gates, int64_t count, At<V> packed,
                      int64_t columns, At<V> dw) {
    for_each([&](int l, int r, int o, bool) {
      weight_product(threads, Columns<T>(part(left, l), count), gates, count, part(packed, r),
                     columns, false, part(dw, o));
    });
  }

 private:
  // body(part of the left factor, of the right one, of the result, whether it is added)
  template <class Body>
  static void for_each(const Body& body) {
    for (int i = 0; i < kParts<V>; ++i) body(i, 0, i, false);
    if (kParts<V> == 2) body(0, 1, 1, true);
  }

  template <int N>
  static void of_gates(const Rows<V>& left, int64_t rows, int64_t length, ConstAt<V> w,
                       ConstAt<V> bias, int64_t blocks, At<V> out) {
    for_each([&](int l, int r, int o, bool adds) {
      const T* const of_bias = bias ? part(bias, o) : nullptr;
      const Start<T> start =
          adds ? Start<T>{part(out, o), blocks * N * V::kLanes} : Start<T>{of_bias, 0};
      product<N>(PartOf<ConstAt<V>>{left, l}, rows, {0, blocks}, length, Weights<T>{part(w, r)},
                 start, blocks, part(out, o));
    });
  }
};

}  // namespace FASTRNN_ISA
}  // namespace
}  // namespace fastrnn
