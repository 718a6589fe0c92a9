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
constexpr RowsShape kSmall = {48, 7168};

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

const Family family("norm", [] {
  rows("rms_norm", kShapes, kSmall, rms_norm);
  rows("rms_norm_residual", kShapes, kSmall, rms_norm_residual);
  rows("rms_norm_bwd", kShapes, kSmall, rms_norm_bwd);
  rows("rms_norm_quantize", kShapes, kSmall, rms_norm_quantize);
});

}  // namespace
}  // namespace contender::bench
