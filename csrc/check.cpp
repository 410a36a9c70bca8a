// Every check of what a caller passes, once, in argument order. A message names the function, the
// argument, the wanted shape in symbols and numbers, and what came.
#include <initializer_list>
#include <string>
#include <tuple>
#include <vector>

#include "errors.hpp"
#include "fastrnn.hpp"

namespace fastrnn {
namespace {

// No memory is asked for unless something is wrong: a call of one step is checked in every
// argument.
struct Size {
  const char* symbol;  // null: the number alone
  int64_t value;
  int times = 1;  // that the symbol stands for

  std::string text() const {
    if (!symbol) return std::to_string(value);
    return times == 1 ? symbol : std::to_string(times) + "*" + symbol;
  }
};
using Shape = std::initializer_list<Size>;

std::string tuple_of(const std::vector<std::string>& items) {
  std::string text = "(";
  for (size_t i = 0; i < items.size(); ++i) text += (i ? ", " : "") + items[i];
  return text + (items.size() == 1 ? ",)" : ")");
}

std::string shape_of(const Tensor& tensor) {
  std::vector<std::string> sizes;
  for (int i = 0; i < tensor.rank; ++i)
    sizes.push_back(i < kMaxRank ? std::to_string(tensor.shape[i]) : "...");
  return tuple_of(sizes);
}

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kInt64:
      return "int64";
    default:
      return "bool";
  }
}

class Check {
 public:
  Check(const char* function, Layout layout) : function_(function), layout_(layout) {}

  [[noreturn]] void fail(const char* argument, const std::string& wanted,
                         const std::string& got) const {
    throw ValueError(text(argument, wanted, got));
  }

  void required(const char* argument, const Tensor& tensor) const {
    if (!tensor.present) throw TypeError(text(argument, "an array", "None"));
  }

  void dtype(const char* argument, const Tensor& tensor, DType wanted, const char* as = "") const {
    if (tensor.present && tensor.dtype != wanted) {
      throw TypeError(
          text(argument, std::string("of dtype ") + name_of(wanted) + as, name_of(tensor.dtype)));
    }
  }

  void compute_dtype(const char* argument, const Tensor& tensor, const KernelTable& backend,
                     int cell) const {
    const KernelTable::Kernel(&kernels)[kFloatDTypes] = backend.kernels[cell].of;
    if (static_cast<int>(tensor.dtype) < kFloatDTypes &&
        kernels[static_cast<int>(tensor.dtype)].forward) {
      return;
    }
    const bool small = kernels[static_cast<int>(DType::kFloat16)].forward;
    throw TypeError(text(
        argument,
        small ? "of dtype float16, bfloat16, float32 or float64" : "of dtype float32 or float64",
        name_of(tensor.dtype)));
  }

  void device(const char* argument, const Tensor& tensor, const Tensor& x) const {
    const auto name = [](const Tensor& of) {
      return of.device == kHost ? "the CPU" : "cuda:" + std::to_string(of.device);
    };
    if (tensor.present && tensor.device != x.device)
      throw TypeError(text(argument, "on " + name(x) + " as x is", name(tensor)));
  }

  // c is in the dtype of the computation
  void state_dtype(const char* argument, const Tensor& tensor, DType x) const {
    const DType wanted = fastrnn::compute_dtype(x);
    dtype(argument, tensor, wanted, wanted == x ? " as x is" : ", in which x is computed");
  }

  // a view of [T, B, ...] (or a permutation in the caller's eyes): `sizes` come time-major and are
  // shown as laid out
  void sequence(const char* argument, const Tensor& tensor, Shape sizes) const {
    shape(argument, tensor, sizes, true);
  }

  void shape(const char* argument, const Tensor& tensor, Shape sizes,
             bool is_sequence = false) const {
    if (!tensor.present) return;
    bool right = tensor.rank == static_cast<int>(sizes.size());
    const int64_t* came = tensor.shape;
    for (const Size& size : sizes) {
      right = right && (size.value == kAny || *came == size.value);
      ++came;
    }
    if (right) return;
    std::vector<Size> shown = sizes;
    Tensor seen = tensor;
    if (is_sequence && layout_ == Layout::kBatchFirst) {
      std::swap(shown[0], shown[1]);
      if (seen.rank >= 2) std::swap(seen.shape[0], seen.shape[1]);
    }
    if (is_sequence && layout_ == Layout::kStep) {
      shown.erase(shown.begin());
      seen.rank -= 1;
      for (int i = 0; i + 1 < kMaxRank; ++i) seen.shape[i] = seen.shape[i + 1];
    }
    std::vector<std::string> symbols, numbers;
    bool known = true;
    for (const Size& size : shown) {
      symbols.push_back(size.text());
      known = known && size.value != kAny;
      numbers.push_back(size.value == kAny ? size.text() : std::to_string(size.value));
    }
    fail(argument, "of shape " + tuple_of(symbols) + (known ? " = " + tuple_of(numbers) : ""),
         "shape " + shape_of(seen));
  }

  void positive(const char* argument, const Size& size, const Tensor& tensor) const {
    if (size.value < 1) fail(argument, size.text() + " >= 1", "shape " + shape_of(tensor));
  }

  static constexpr int64_t kAny = -1;

 private:
  std::string text(const char* argument, const std::string& wanted, const std::string& got) const {
    return std::string(function_) + ": argument '" + argument + "' must be " + wanted + ", got " +
           got;
  }

  const char* function_;
  Layout layout_;
};

struct Sizes {
  Size T, B, I, H, P, GH;

  Sizes(const ForwardArgs& a, int64_t input)
      : T{"T", a.x.shape[0]},
        B{"B", a.x.shape[1]},
        I{"I", input},
        H{"H", a.family.w_hr.present ? a.family.w_hr.shape[1] : a.w_hh.shape[1]},
        P{a.family.w_hr.present ? "P" : "H", a.w_hh.shape[1]} {
    const int gates = cell_info(a.cell)->gates;
    GH = {"H", 0, gates};
    if (__builtin_mul_overflow(H.value, int64_t{gates}, &GH.value)) GH.value = INT64_MAX;
  }

  // No product of sizes that the kernels or the allocation of results form may come near the end of
  // int64.
  bool addressable() const {
    const auto wide = [](const Size& size, int more) {
      return static_cast<long double>(size.value) + more;
    };
    return wide(T, 0) * wide(B, 0) * (wide(I, 64) + 10 * wide(H, 64)) +
               16 * wide(H, 64) * (wide(I, 64) + wide(H, 64) + wide(P, 64)) +
               wide(T, 0) * wide(B, 0) * 10 * wide(P, 64) <
           0x1p56L;
  }
};

void check_weights(const Check& check, const ForwardArgs& a, const Sizes& n, const char* as) {
  if (a.x.present) check.dtype("w_ih", a.w_ih, a.x.dtype, as);
  const DType dtype = a.w_ih.dtype;
  check.dtype("w_hh", a.w_hh, dtype, as);
  const Tensor& w_hr = a.family.w_hr;
  check.shape("w_hh", a.w_hh, {{"H", Check::kAny, n.GH.times}, {n.P.symbol, Check::kAny}});
  check.positive("w_hh", n.P, a.w_hh);
  check.dtype("w_hr", w_hr, dtype, as);
  check.shape("w_hr", w_hr, {{"P", Check::kAny}, {"H", Check::kAny}});
  if (w_hr.present) check.positive("w_hr", n.H, w_hr);
  if (!n.addressable()) {
    check.fail("x", "small enough for T*B*(I + H) and H*(I + H) elements to be addressed",
               "T = " + std::to_string(n.T.value) + ", B = " + std::to_string(n.B.value) +
                   ", I = " + std::to_string(n.I.value) + ", H = " + std::to_string(n.H.value));
  }
  check.shape("w_ih", a.w_ih, {n.GH, n.I});
  check.shape("w_hh", a.w_hh, {n.GH, n.P});
  check.dtype("b_ih", a.b_ih, dtype, as);
  check.shape("b_ih", a.b_ih, {n.GH});
  check.dtype("b_hh", a.b_hh, dtype, as);
  check.shape("b_hh", a.b_hh, {n.GH});
  check.shape("w_hr", w_hr, {n.P, n.H});
  const Family& f = a.family;
  const int peepholes = cell_info(a.cell)->peepholes;
  check.dtype("peephole", f.peephole, dtype, as);
  check.shape("peephole", f.peephole, {{nullptr, peepholes}, n.H});
  for (const auto& [name, gain, size] :
       {std::tuple{"gain_ih", &f.gain_ih, n.GH}, std::tuple{"gain_hh", &f.gain_hh, n.GH},
        std::tuple{"gain_c", &f.gain_c, n.H}, std::tuple{"bias_c", &f.bias_c, n.H}}) {
    check.dtype(name, *gain, dtype, as);
    check.shape(name, *gain, {size});
  }
}

}  // namespace

void check_weights(const char* function, const KernelTable& backend, const ForwardArgs& a) {
  const Check check(function, Layout::kTimeMajor);
  check.required("w_ih", a.w_ih);
  check.required("w_hh", a.w_hh);
  check.compute_dtype("w_ih", a.w_ih, backend, a.cell);
  check.shape("w_ih", a.w_ih, {{"G*H", Check::kAny}, {"I", Check::kAny}});
  const Sizes n(a, a.w_ih.shape[1]);
  check.positive("w_ih", n.I, a.w_ih);
  check_weights(check, a, n, " as w_ih is");
}

void check_forward(const char* function, const KernelTable& backend, const ForwardArgs& a,
                   Layout layout) {
  const Check check(function, layout);
  const Sizes n(a, a.x.shape[2]);
  const bool step = layout == Layout::kStep;

  check.required("x", a.x);
  check.required("w_ih", a.w_ih);
  check.required("w_hh", a.w_hh);
  check.compute_dtype("x", a.x, backend, a.cell);
  check.sequence("x", a.x, {{"T", Check::kAny}, {"B", Check::kAny}, {"I", Check::kAny}});
  check.positive("x", n.I, a.x);
  check_weights(check, a, n, " as x is");
  check.dtype(step ? "h" : "h0", a.h0, a.x.dtype, " as x is");
  check.shape(step ? "h" : "h0", a.h0, {n.B, n.P});
  check.state_dtype(step ? "c" : "c0", a.c0, a.x.dtype);
  check.shape(step ? "c" : "c0", a.c0, {n.B, n.H});
  for (const auto& [name, tensor] :
       {std::pair{"w_ih", &a.w_ih}, std::pair{"w_hh", &a.w_hh}, std::pair{"b_ih", &a.b_ih},
        std::pair{"b_hh", &a.b_hh}, std::pair{step ? "h" : "h0", &a.h0},
        std::pair{step ? "c" : "c0", &a.c0}, std::pair{"mask", &a.mask},
        std::pair{"reset", &a.reset}, std::pair{"w_hr", &a.family.w_hr},
        std::pair{"peephole", &a.family.peephole}, std::pair{"gain_ih", &a.family.gain_ih},
        std::pair{"gain_hh", &a.family.gain_hh}, std::pair{"gain_c", &a.family.gain_c},
        std::pair{"bias_c", &a.family.bias_c}}) {
    check.device(name, *tensor, a.x);
  }
  if (a.lengths.present) {
    check.dtype("lengths", a.lengths, DType::kInt64);
    check.shape("lengths", a.lengths, {n.B});
    const int64_t* lengths = static_cast<const int64_t*>(a.lengths.data);
    const bool readable = a.lengths.device == kHost;  // else nobody waits for the device
    for (int64_t b = 0; readable && b < n.B.value; ++b) {
      if (lengths[b] < 0 || lengths[b] > n.T.value) {
        check.fail("lengths", "between 0 and T = " + std::to_string(n.T.value),
                   "lengths[" + std::to_string(b) + "] = " + std::to_string(lengths[b]));
      }
    }
  }
  for (const auto& [name, flags] : {std::pair{"mask", &a.mask}, std::pair{"reset", &a.reset}}) {
    check.dtype(name, *flags, DType::kBool);
    check.sequence(name, *flags, {n.T, n.B});
  }
}

void check_directions(const char* function, const ForwardArgs& first, const ForwardArgs& second) {
  const Check check(function, Layout::kTimeMajor);
  const Tensor &w_hh = first.w_hh, &other = second.w_hh;
  if (w_hh.shape[0] == other.shape[0] && w_hh.shape[1] == other.shape[1]) return;
  check.fail("w_hh", "of one shape for both directions, " + shape_of(w_hh),
             "shape " + shape_of(other));
}

// state [L, B, H] of a stack of layers that x, one step [1, B, I], goes through
void check_stacked_state(const char* function, const char* argument, const Tensor& state,
                         const Tensor& x, int64_t layers, int64_t hidden) {
  const Check check(function, Layout::kStep);
  check.dtype(argument, state, x.dtype, " as x is");
  check.shape(argument, state, {{"L", layers}, {"B", x.shape[1]}, {"H", hidden}});
}

void check_backward(const char* function, const BackwardArgs& a, Layout layout) {
  const Check check(function, layout);
  const Sizes n(a.forward, a.forward.x.shape[2]);
  const DType dtype = a.forward.x.dtype;
  check.dtype("dy", a.dy, dtype, " as x is");
  check.sequence("dy", a.dy, {n.T, n.B, n.P});
  check.dtype("dh_n", a.dh_n, dtype, " as x is");
  check.shape("dh_n", a.dh_n, {n.B, n.P});
  check.state_dtype("dc_n", a.dc_n, dtype);
  check.shape("dc_n", a.dc_n, {n.B, n.H});
  check.state_dtype("dc", a.dc, dtype);
  check.sequence("dc", a.dc, {n.T, n.B, n.H});
  check.dtype("dgates", a.dgates, dtype, " as x is");
  for (const auto& [name, tensor] :
       {std::pair{"dy", &a.dy}, std::pair{"dh_n", &a.dh_n}, std::pair{"dc_n", &a.dc_n},
        std::pair{"dc", &a.dc}, std::pair{"dgates", &a.dgates}}) {
    check.device(name, *tensor, a.forward.x);
  }
  const int64_t gates = cell_info(a.forward.cell)->gates;
  check.sequence("dgates", a.dgates, {n.T, n.B, {"G", gates}, n.H});
}

void check_tangent(const char* function, const char* argument, const Tensor& tangent,
                   const Tensor& of, const char* name) {
  const Check check(function, Layout::kTimeMajor);
  const std::string as = std::string(" as ") + name + " is";
  check.dtype(argument, tangent, of.dtype, as.c_str());
  bool right = tangent.rank == of.rank;
  for (int i = 0; right && i < of.rank; ++i) right = tangent.shape[i] == of.shape[i];
  if (!right) {
    check.fail(argument, std::string("of the shape of ") + name + ", " + shape_of(of),
               "shape " + shape_of(tangent));
  }
}

}  // namespace fastrnn
