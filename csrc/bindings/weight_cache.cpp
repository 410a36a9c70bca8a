#include "bindings/weight_cache.hpp"

#include <algorithm>
#include <cstring>

namespace py = pybind11;

namespace fastrnn::bindings {
namespace {

constexpr int64_t kLine = 64, kLines = 64;  // of each weight, when a sample has to do

using Weights = std::array<const Tensor*, WeightCache::kWeights>;

int64_t bytes_of(const Tensor& w) {
  int64_t count = w.present ? (w.dtype == DType::kFloat32 ? 4 : 8) : 0;
  for (int i = 0; i < w.rank; ++i) count *= w.shape[i];
  return count;
}

bool dense(const Tensor& w) {
  int64_t size = 1;
  for (int i = w.rank - 1; i >= 0; size *= w.shape[i--]) {
    if (w.shape[i] > 1 && w.stride[i] != size) return false;
  }
  return true;
}

bool same_shape(const Tensor& a, const Tensor& b) {
  return a.present == b.present && a.dtype == b.dtype && a.rank == b.rank &&
         std::equal(a.shape, a.shape + a.rank, b.shape);
}

// f(bytes, count) for each piece that is compared, until it says no
template <class F>
bool every_piece(const Weights& weights, bool all, const F& f) {
  for (const Tensor* w : weights) {
    const auto* data = static_cast<const char*>(w->data);
    const int64_t size = bytes_of(*w);
    const int64_t apart = all ? size : std::max(kLine, size / kLines / kLine * kLine);
    const int64_t piece = all ? size : kLine;
    for (int64_t at = 0; at < size; at += apart) {
      if (!f(data + at, static_cast<size_t>(std::min(piece, size - at)))) return false;
    }
  }
  return true;
}

// Counted by torch for every change that it knows of; -1 for what has no such count.
int64_t version_of(PyObject* weight) {
  PyObject* version = PyObject_GetAttrString(weight, "_version");
  const int64_t count = version ? PyLong_AsLongLong(version) : -1;
  Py_XDECREF(version);
  PyErr_Clear();
  return count;
}

bool unchanged(const WeightCache::Entry& entry, const Weights& weights, bool all) {
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor &now = *weights[i], &then = entry.weights[i];
    if (!same_shape(now, then) || !(all || now.data == then.data)) return false;
  }
  const char* then = entry.seen.data();
  return every_piece(weights, all, [&](const char* now, size_t count) {
    const bool equal = std::memcmp(now, then, count) == 0;
    then += count;
    return equal;
  });
}

}  // namespace

WeightCache::Kept WeightCache::find(int direction, const KernelTable& backend,
                                    const ForwardArgs& args, PyObject* const* objects) {
  const Weights weights = {&args.w_ih, &args.w_hh, &args.b_ih, &args.b_hh};
  int64_t size = 0;
  for (const Tensor* w : weights) {
    if (!dense(*w)) return nullptr;
    size += bytes_of(*w);
  }
  const bool all = size <= kCompared;
  Versions versions{};
  for (size_t i = 0; !all && i < kWeights; ++i) {
    if (!weights[i]->present) continue;
    versions[i] = version_of(objects[i]);
    if (versions[i] < 0) return nullptr;
  }
  Kept& slot = kept_[static_cast<size_t>(direction)];
  Kept last;
  {
    const std::lock_guard lock(mutex_);
    last = slot;
  }
  const bool same = last && last->backend == &backend && last->versions == versions &&
                    unchanged(*last, weights, all);
  if (same && last->packed) return last;

  const auto entry = std::make_shared<Entry>();
  entry->backend = &backend;
  entry->weights = {args.w_ih, args.w_hh, args.b_ih, args.b_hh};
  entry->versions = versions;
  every_piece(weights, all, [&](const char* now, size_t count) {
    entry->seen.insert(entry->seen.end(), now, now + count);
    return true;
  });
  if (same) {
    entry->packed = allocate(packed_size(backend, args));
    const py::gil_scoped_release release;
    pack(backend, args, entry->packed.get());
  }
  {
    const std::lock_guard lock(mutex_);
    slot = entry;
  }
  return same ? entry : nullptr;
}

void WeightCache::clear() {
  const std::lock_guard lock(mutex_);
  kept_ = {};
}

bool WeightCache::filled() {
  const std::lock_guard lock(mutex_);
  return kept_[0] && kept_[0]->packed;
}

}  // namespace fastrnn::bindings
