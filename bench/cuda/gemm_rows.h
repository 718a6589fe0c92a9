// The rows of the benches of cuda/gemm: shapes of the models over M, experts with even and with skewed
// routing. Names say the mode: `exact`, a row's bits do not depend on M or on the batch; or `fast`, they may,
// where there are products of that mode.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "bench/cuda/gpu_bench.h"
#include "cuda/gemm/schedule.h"
#include "cuda/gemm/shapes.h"
#include "cuda/gemm/split.h"

namespace contender::bench {

// `m` rows, dealt out to the experts where the shape has some. Skewed: the busiest expert gets 1, the next
// 1/2, 1/3, ... of that, in no order of the experts; the last may get none.
struct GemmRow {
  cuda::GemmShape shape;
  int64_t m = 0;
  bool skewed = false;
  std::vector<int32_t> offsets;  // [groups + 1]

  GemmRow(const cuda::GemmShape& shape, int64_t m, bool skewed) : shape(shape), m(m), skewed(skewed) {
    std::vector<double> up_to = {0};
    for (int64_t g = 0; g < shape.groups; ++g)
      up_to.push_back(up_to.back() + (skewed ? 1.0 / static_cast<double>(1 + g * 7 % shape.groups) : 1));
    for (const double share : up_to)
      offsets.push_back(static_cast<int32_t>(std::floor(static_cast<double>(m) * share / up_to.back())));
  }
  bool grouped() const { return shape.groups > 1; }
  int64_t begin(int64_t g) const { return offsets[static_cast<size_t>(g)]; }
  int64_t rows_of(int64_t g) const { return begin(g + 1) - begin(g); }
  int64_t busy_groups() const {
    int64_t n = 0;
    for (int64_t g = 0; g < shape.groups; ++g) n += rows_of(g) > 0;
    return n;
  }
  int64_t group_of(int64_t row) const {
    return std::upper_bound(offsets.begin(), offsets.end(), row) - offsets.begin() - 1;
  }
  std::string text() const {
    const std::string size = fmt::format("{}/{}x{}x{}", shape.name, m, shape.n, shape.k);
    return grouped() ? fmt::format("{}x{}_{}", size, shape.groups, skewed ? "skewed" : "balanced") : size;
  }
};

// Which rows a product has: experts or not, over which M. --all takes every M of shapes.h from `least` on.
struct GemmSweep {
  bool experts = false;
  std::vector<int64_t> usual;
  int64_t least = 1;
};
inline const GemmSweep kDenseForward = {false, {64, 128, 4096}}, kExpertsForward = {true, {128, 4096, 16384}},
                       kDenseTraining = {false, {4096}, 512}, kExpertsTraining = {true, {16384}, 512};

inline const char* name_of(cuda::Mode mode) { return mode == cuda::Mode::kExact ? "exact" : "fast"; }

// Workspace for partial products; what needs more is not split.
inline int64_t split_space(cuda::Mode mode, int64_t m, int64_t n) {
  return mode == cuda::Mode::kExact ? 0
                                    : std::min<int64_t>(cuda::split_bytes(cuda::kMaxSplits, m, n), 256 << 20);
}

using RunRow = std::function<void(const GemmRow&)>;
using ExplainRow = std::function<std::string(const GemmRow&)>;

// A row NAME/MODE/SHAPE.
inline void gemm_row(const std::string& name, const GemmRow& row, const RunRow& run,
                     const ExplainRow& explain = {}, cuda::Mode mode = cuda::Mode::kExact) {
  register_row(
      fmt::format("{}/{}/{}", name, name_of(mode), row.text()), [run, row] { run(row); },
      explain ? [explain, row] { return explain(row); } : std::function<std::string()>());
}

inline void gemm_rows(const std::string& name, const GemmSweep& sweep, const RunRow& run,
                      const ExplainRow& explain = {}, cuda::Mode mode = cuda::Mode::kExact) {
  const auto add = [&](const cuda::GemmShape& shape, int64_t m) {
    gemm_row(name, {shape, m, false}, run, explain, mode);
    if (shape.groups > 1) gemm_row(name, {shape, m, true}, run, explain, mode);
  };
  if (small_shapes()) return add({"small", 144, 208, sweep.experts ? 3 : 1}, 96);
  for (const cuda::GemmShape& shape : cuda::kModelShapes) {
    if ((shape.groups > 1) != sweep.experts) continue;
    if (std::string(shape.name).starts_with("square")) {
      add(shape, shape.n);
    } else if (every_shape()) {
      for (const int64_t m : cuda::kModelRows)
        if (m >= sweep.least) add(shape, m);
    } else {
      for (const int64_t m : sweep.usual) add(shape, m);
    }
  }
}

inline double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace contender::bench
