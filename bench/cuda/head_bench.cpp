// Linear + log-prob + entropy without the logits, and its backward with the recomputed product. Baseline:
// none, libraries write the logits.
#include <algorithm>
#include <cmath>

#include "bench/cuda/gpu_bench.h"
#include "bench/cuda/weight.h"
#include "cuda/ops.h"
#include "ops/head.h"

namespace contender::bench {
namespace {

constexpr int32_t kSlices = 4, kLeaves = 8;
constexpr int64_t kBlock = 1024;  // rows of the weight that the reference holds

struct Shape {
  int64_t m, h, v;
  std::string text() const { return fmt::format("{}x{}x{}", m, h, v); }
};
// The bar's; DeepSeek-V3, V2-Lite, Qwen-7B.
const std::vector<Shape> kShapes = {
    {8192, 4096, 131072}, {8192, 7168, 129280}, {8192, 2048, 102400}, {8192, 3584, 152064}};
constexpr Shape kSmall = {48, 64, 1024};

struct Operands {
  Shape s;
  DeviceData h;
  Weight w;
  std::vector<int32_t> ids;
  DeviceData targets, partials, stats;
  Scratch scratch;
  explicit Operands(const Shape& s)
      : s(s),
        h(DeviceData::random(kActivation, s.m, s.h, 1)),
        w(s.v, s.h, 1, 6 / std::sqrt(static_cast<float>(s.h))),  // logits of size 2
        ids(random_ids()),
        targets(DeviceData::of(ids)),
        partials(DType::kF32, s.m, kSlices * 4),
        stats(DType::kF32, s.m, 3),
        scratch(head_workspace_bytes(s.h, s.v, kSlices)) {}
  std::vector<int32_t> random_ids() const {
    std::vector<int32_t> all;
    for (int64_t r = 0; r < s.m; ++r) all.push_back(static_cast<int32_t>((r * 7919 + 13) % s.v));
    return all;
  }
  void forward() const {
    cuda::head_partial(scratch.exec(), {.h = h.tensor(),
                                        .w = w.view(),
                                        .targets = targets.as<int32_t>(),
                                        .slices = kSlices,
                                        .partials = partials.as<HeadPartial>()});
    cuda::head_finish(scratch.exec(), {.partials = partials.as<HeadPartial>(),
                                       .rows = s.m,
                                       .slices = kSlices,
                                       .stats = stats.as<HeadStats>()});
  }
  // f(v, z, row of the weight) for each token v of row r.
  template <class F>
  void each_logit(const DeviceData& weight, int64_t r, const F& f) const {
    const std::vector<double> x = h.row(r);
    for (int64_t v0 = 0; v0 < s.v; v0 += kBlock) {
      const int64_t rows = std::min(kBlock, s.v - v0);
      const std::vector<double> block = weight.block(v0, rows, 0, s.h);
      for (int64_t v = 0; v < rows; ++v) {
        const double* row = &block[static_cast<size_t>(v * s.h)];
        double z = 0;
        for (int64_t c = 0; c < s.h; ++c) z += x[c] * row[c];
        f(v0 + v, z, row);
      }
    }
  }
};

void head(const Shape& s) {
  const Operands o(s);
  measure({.cost = head_cost(s.m, s.h, s.v, kActivation, DType::kBF16),
           .call = [&] { o.forward(); },
           .check =
               [&](Check& check) {
                 const DeviceData weight = o.w.rounded();
                 for (const int64_t r : samples(s.m, 2)) {
                   double sum = 0, sum_z = 0, target = 0;
                   o.each_logit(weight, r, [&](int64_t v, double z, const double*) {
                     sum += std::exp(z);
                     sum_z += std::exp(z) * z;
                     if (v == o.ids[static_cast<size_t>(r)]) target = z;
                   });
                   const double lse = std::log(sum), logp = target - lse;
                   const std::vector<double> got = o.stats.row(r);
                   check.near(got[0], lse, 1e-3);
                   check.near(got[1], logp, 1e-3 + 2e-4 * std::abs(logp));
                   check.near(got[2], lse - sum_z / sum, 2e-3);
                 }
               },
           .tensor_rate = 1});
}

void head_bwd(const Shape& s) {
  const Operands o(s);
  const DeviceData dlogp = DeviceData::random(DType::kF32, 1, s.m, 5),
                   dentropy = DeviceData::random(DType::kF32, 1, s.m, 6), dh(kActivation, s.m, s.h),
                   dw(DType::kF32, s.v, s.h);
  const Segments segments(s.m, kLeaves);
  const Scratch scratch(head_bwd_workspace_bytes(s.m, s.h, s.v, kSlices, kLeaves));
  o.forward();
  // d loss / d z.
  const auto gradient = [&](const std::vector<double>& stats, int64_t r, int64_t v, double z) {
    const double p = std::exp(z - stats[0]), hit = v == o.ids[static_cast<size_t>(r)];
    return dlogp.at(0, r) * (hit - p) - dentropy.at(0, r) * p * (z - stats[0] + stats[2]);
  };
  const auto check_dh = [&](Check& check, const DeviceData& weight, int64_t r) {
    const std::vector<double> stats = o.stats.row(r), got = dh.row(r);
    const double a = dlogp.at(0, r), b = dentropy.at(0, r);
    std::vector<double> want(got.size());
    o.each_logit(weight, r, [&](int64_t v, double z, const double* row) {
      const double p = std::exp(z - stats[0]), hit = v == o.ids[static_cast<size_t>(r)],
                   dz = a * (hit - p) - b * p * (z - stats[0] + stats[2]);
      for (size_t c = 0; c < want.size(); ++c) want[c] += dz * row[c];
    });
    for (size_t c = 0; c < want.size(); ++c) check.near(got[c], want[c], 2e-3 + 4e-2 * std::abs(want[c]));
  };
  const auto check_dw = [&](Check& check, const DeviceData& weight, int64_t v) {
    const std::vector<double> row = weight.row(v), got = dw.row(v);
    std::vector<double> want(got.size());
    double size = 0;
    for (int64_t r = 0; r < s.m; ++r) {
      const std::vector<double> x = o.h.row(r);
      double z = 0;
      for (size_t c = 0; c < x.size(); ++c) z += x[c] * row[c];
      const double dz = gradient(o.stats.row(r), r, v, z);
      size += dz * dz;
      for (size_t c = 0; c < x.size(); ++c) want[c] += dz * x[c];
    }
    for (size_t c = 0; c < want.size(); ++c)
      check.near(got[c], want[c], 2e-2 * std::sqrt(size) + 4e-2 * std::abs(want[c]));
  };
  measure({.cost = head_bwd_cost(s.m, s.h, s.v, kActivation, DType::kBF16),
           .call =
               [&] {
                 cuda::head_bwd(scratch.exec(), {.h = o.h.tensor(),
                                                 .w = o.w.view(),
                                                 .targets = o.targets.as<int32_t>(),
                                                 .slices = kSlices,
                                                 .stats = o.stats.as<HeadStats>(),
                                                 .dlogp = dlogp.as<float>(),
                                                 .dentropy = dentropy.as<float>(),
                                                 .dh = dh.tensor(),
                                                 .dw = dw.tensor(),
                                                 .segments = segments.get()});
               },
           .check =
               [&](Check& check) {
                 const DeviceData weight = o.w.rounded();
                 check_dh(check, weight, s.m / 2);
                 check_dw(check, weight, o.ids[0]);
               },
           .tensor_rate = 1});
}

const Family family("head", [] {
  rows("head", kShapes, {kSmall}, head);
  rows("head_bwd", kShapes, {kSmall}, head_bwd);
});

}  // namespace
}  // namespace contender::bench
