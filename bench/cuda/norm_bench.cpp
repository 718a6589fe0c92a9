// RMSNorm: plain, with the residual addition, backward, fused with quantisation.
#include <cmath>

#include "bench/cuda/gpu_bench.h"
#include "cuda/ops.h"
#include "ops/norm.h"

namespace contender::bench {
namespace {

constexpr int32_t kLeaves = 8;
constexpr float kEps = 1e-6f;
// DeepSeek-V3, V2-Lite, Qwen-7B; V3's latent; a batch of decode.
const std::vector<RowsShape> kShapes = {
    {16384, 7168}, {16384, 2048}, {16384, 3584}, {16384, 1536}, {128, 7168}};
// One row and two rows to each team of threads on an H200: what the second adds is without gamma, which every
// team reads once (tests/e2e/sim_cost.sh).
const std::vector<RowsShape> kSmall = {{2112, 1024}, {4224, 1024}};

struct Operands {
  RowsShape s;
  DeviceData x, delta, gamma, y, sum, rstd;
  explicit Operands(const RowsShape& s)
      : s(s),
        x(DeviceData::random(kActivation, s.rows, s.cols, 1)),
        delta(DeviceData::random(kActivation, s.rows, s.cols, 2)),
        gamma(DeviceData::random(DType::kF32, 1, s.cols, 3)),
        y(kActivation, s.rows, s.cols),
        sum(kActivation, s.rows, s.cols),
        rstd(DType::kF32, 1, s.rows) {}
  RmsNormArgs args() const {
    return {.x = x.tensor(), .gamma = gamma.tensor(), .eps = kEps, .y = y.tensor(), .rstd = rstd.as<float>()};
  }
};

// 1 / rms of a row.
double rstd_of(const std::vector<double>& row) {
  double squares = 0;
  for (const double v : row) squares += v * v;
  return 1 / std::sqrt(squares / static_cast<double>(row.size()) + kEps);
}

void check_norm(Check& check, const Operands& o, const DeviceData& normed) {
  const std::vector<double> gamma = o.gamma.row(0), rstd = o.rstd.row(0);
  for (const int64_t r : samples(o.s.rows, 8)) {
    const std::vector<double> x = normed.row(r), y = o.y.row(r);
    const double want = rstd_of(x);
    check.near(rstd[static_cast<size_t>(r)], want, 1e-5 * want);
    for (size_t c = 0; c < x.size(); ++c)
      check.near(y[c], x[c] * want * gamma[c], tolerance_of(kActivation, y[c], 1));
  }
}

void rms_norm(const RowsShape& s) {
  const Operands o(s);
  measure({.cost = rms_norm_cost(s.rows, s.cols, kActivation),
           .call = [&] { cuda::rms_norm({}, o.args()); },
           .check = [&](Check& check) { check_norm(check, o, o.x); }});
}
void rms_norm_residual(const RowsShape& s) {
  const Operands o(s);
  RmsNormArgs args = o.args();
  args.delta = o.delta.tensor();
  args.sum = o.sum.tensor();
  measure({.cost = rms_norm_residual_cost(s.rows, s.cols, kActivation),
           .call = [&] { cuda::rms_norm({}, args); },
           .check =
               [&](Check& check) {
                 check_norm(check, o, o.sum);
                 for (const int64_t r : samples(s.rows, 4)) {
                   const double want = o.x.at(r, 0) + o.delta.at(r, 0);
                   check.near(o.sum.at(r, 0), want, tolerance_of(kActivation, want, 1));
                 }
               }});
}
void rms_norm_bwd(const RowsShape& s) {
  const Operands o(s);
  const DeviceData dy = DeviceData::random(kActivation, s.rows, s.cols, 4), dx(kActivation, s.rows, s.cols),
                   dgamma(DType::kF32, 1, s.cols);
  const Segments segments(s.rows, kLeaves);
  const Scratch scratch(rms_norm_bwd_workspace_bytes(s.rows, s.cols, kLeaves));
  const DeviceData rstd = DeviceData::random(DType::kF32, 1, s.rows, 5);  // any: it is an operand
  const auto check_dx = [&](Check& check) {
    const std::vector<double> gamma = o.gamma.row(0);
    for (const int64_t r : samples(s.rows, 4)) {
      const std::vector<double> x = o.x.row(r), g = dy.row(r), got = dx.row(r);
      const double scale = rstd.at(0, r);
      double mean = 0;
      for (size_t c = 0; c < x.size(); ++c)
        mean += g[c] * gamma[c] * x[c] * scale / static_cast<double>(x.size());
      for (size_t c = 0; c < x.size(); ++c) {
        const double want = scale * (g[c] * gamma[c] - x[c] * scale * mean);
        check.near(got[c], want, tolerance_of(kActivation, want, 1));
      }
    }
  };
  measure({.cost = rms_norm_bwd_cost(s.rows, s.cols, kActivation),
           .call =
               [&] {
                 cuda::rms_norm_bwd(scratch.exec(), {.dy = dy.tensor(),
                                                     .x = o.x.tensor(),
                                                     .gamma = o.gamma.tensor(),
                                                     .rstd = rstd.as<float>(),
                                                     .dx = dx.tensor(),
                                                     .dgamma = dgamma.tensor(),
                                                     .segments = segments.get()});
               },
           .check =
               [&](Check& check) {
                 check_dx(check);
                 const std::vector<double> scale = rstd.row(0);
                 for (const int64_t c : samples(s.cols, 4)) {
                   const std::vector<double> x = o.x.column(c), g = dy.column(c);
                   double want = 0;
                   for (size_t r = 0; r < x.size(); ++r) want += g[r] * x[r] * scale[r];
                   check.near(dgamma.at(0, c), want, 1e-4 * std::sqrt(static_cast<double>(s.rows)));
                 }
               }});
}
void rms_norm_quantize(const RowsShape& s) {
  const Operands o(s);
  const DeviceData codes(DType::kE4M3, s.rows, s.cols), scale(DType::kF32, s.rows, ceil_div(s.cols, 128));
  RmsNormArgs norm = o.args();
  norm.y = {};
  measure({.cost = rms_norm_quantize_cost(s.rows, s.cols, kActivation),
           .call =
               [&] {
                 cuda::rms_norm_quantize(
                     {}, {.norm = norm, .q = {.data = codes.tensor(), .scale = scale.tensor()}});
               },
           .check =
               [&](Check& check) {
                 const std::vector<double> gamma = o.gamma.row(0);
                 for (const int64_t r : samples(s.rows, 4)) {
                   const std::vector<double> x = o.x.row(r), q = codes.row(r), scales = scale.row(r);
                   const double rstd = rstd_of(x);
                   for (size_t c = 0; c < x.size(); ++c) {
                     const double want = x[c] * rstd * gamma[c], unit = scales[c / 128];
                     check.near(q[c] * unit, want,
                                std::abs(want) / 14 + unit / 512);  // half of the last of three bits
                   }
                 }
               }});
}

// Qwen3's q and k: a norm of each head, in place of the row.
struct HeadShape {
  int64_t rows, heads, d;
  std::string text() const { return fmt::format("{}x{}x{}", rows, heads, d); }
  Heads heads_of() const { return {.count = heads, .stride = d}; }
};
struct HeadOperands {
  HeadShape s;
  DeviceData x, gamma, y, rstd;
  explicit HeadOperands(const HeadShape& s)
      : s(s),
        x(DeviceData::random(kActivation, s.rows, s.heads * s.d, 1)),
        gamma(DeviceData::random(DType::kF32, 1, s.d, 3)),
        y(kActivation, s.rows, s.heads * s.d),
        rstd(DType::kF32, s.heads, s.rows) {}
  void forward() const {
    cuda::head_norm({}, {.x = x.tensor(),
                         .x_heads = s.heads_of(),
                         .gamma = gamma.tensor(),
                         .eps = kEps,
                         .y = y.tensor(),
                         .y_heads = s.heads_of(),
                         .rstd = rstd.as<float>()});
  }
};

void head_norm(const HeadShape& s) {
  const HeadOperands o(s);
  measure({.cost = rms_norm_cost(s.rows * s.heads, s.d, kActivation),
           .call = [&] { o.forward(); },
           .check =
               [&](Check& check) {
                 const std::vector<double> gamma = o.gamma.row(0);
                 for (const int64_t r : samples(s.rows, 8)) {
                   for (const int64_t h : samples(s.heads, 4)) {
                     const std::vector<double> x = o.x.block(r, 1, h * s.d, s.d),
                                               y = o.y.block(r, 1, h * s.d, s.d);
                     const double want = rstd_of(x);
                     check.near(o.rstd.at(h, r), want, 1e-5 * want);
                     for (size_t c = 0; c < x.size(); ++c)
                       check.near(y[c], x[c] * want * gamma[c], tolerance_of(kActivation, y[c], 1));
                   }
                 }
               }});
}
void head_norm_bwd(const HeadShape& s) {
  const HeadOperands o(s);
  const DeviceData dy = DeviceData::random(kActivation, s.rows, s.heads * s.d, 4),
                   dx(kActivation, s.rows, s.heads * s.d), dgamma(DType::kF32, s.heads, s.d);
  const Segments segments(s.rows, kLeaves);
  const Scratch scratch(head_norm_bwd_workspace_bytes(s.rows, s.d, s.heads, kLeaves));
  o.forward();
  measure({.cost = rms_norm_bwd_cost(s.rows * s.heads, s.d, kActivation),
           .call =
               [&] {
                 cuda::head_norm_bwd(scratch.exec(), {.dy = dy.tensor(),
                                                      .dy_heads = s.heads_of(),
                                                      .x = o.x.tensor(),
                                                      .x_heads = s.heads_of(),
                                                      .gamma = o.gamma.tensor(),
                                                      .rstd = o.rstd.as<float>(),
                                                      .dx = dx.tensor(),
                                                      .dx_heads = s.heads_of(),
                                                      .dgamma = dgamma.tensor(),
                                                      .segments = segments.get()});
               },
           .check =
               [&](Check& check) {
                 const std::vector<double> gamma = o.gamma.row(0);
                 for (const int64_t h : samples(s.heads, 3)) {
                   const std::vector<double> scale = o.rstd.row(h);
                   for (const int64_t c : samples(s.d, 3)) {
                     const std::vector<double> x = o.x.column(h * s.d + c), g = dy.column(h * s.d + c);
                     double want = 0;
                     for (size_t r = 0; r < x.size(); ++r) want += g[r] * x[r] * scale[r];
                     check.near(dgamma.at(h, c), want, 1e-3 * std::sqrt(static_cast<double>(s.rows)));
                   }
                   for (const int64_t r : samples(s.rows, 4)) {
                     const std::vector<double> x = o.x.block(r, 1, h * s.d, s.d),
                                               g = dy.block(r, 1, h * s.d, s.d),
                                               got = dx.block(r, 1, h * s.d, s.d);
                     const double rstd = scale[static_cast<size_t>(r)];
                     double mean = 0;
                     for (size_t c = 0; c < x.size(); ++c)
                       mean += g[c] * gamma[c] * x[c] * rstd / static_cast<double>(s.d);
                     for (size_t c = 0; c < x.size(); ++c) {
                       const double want = rstd * (g[c] * gamma[c] - x[c] * rstd * mean);
                       check.near(got[c], want, tolerance_of(kActivation, want, 10));
                     }
                   }
                 }
               }});
}

const Family family("norm", [] {
  rows("rms_norm", kShapes, kSmall, rms_norm);
  rows("rms_norm_residual", kShapes, kSmall, rms_norm_residual);
  rows("rms_norm_bwd", kShapes, kSmall, rms_norm_bwd);
  rows("rms_norm_quantize", kShapes, kSmall, rms_norm_quantize);
  const std::vector<HeadShape> heads = {{16384, 64, 128}, {16384, 8, 128}};
  const std::vector<HeadShape> small_heads = {{2112, 4, 128}, {4224, 4, 128}};
  rows("head_norm", heads, small_heads, head_norm);
  rows("head_norm_bwd", heads, small_heads, head_norm_bwd);
});

}  // namespace
}  // namespace contender::bench
