// SwiGLU: forward, backward, fused with quantisation.
#include <cmath>

#include "bench/cuda/gpu_bench.h"
#include "cuda/ops.h"
#include "ops/swiglu.h"

namespace contender::bench {
namespace {

// DeepSeek-V3's dense FFN and experts, V2-Lite's, Qwen-7B's.
const std::vector<RowsShape> kShapes = {
    {8192, 18432}, {65536, 2048}, {65536, 1408}, {8192, 18944}, {128, 18432}};
constexpr RowsShape kSmall = {64, 2048};

double silu(double g) { return g / (1 + std::exp(-g)); }

void swiglu(const RowsShape& s) {
  const DeviceData gate_up = DeviceData::random(kActivation, s.rows, 2 * s.cols, 1, 8),
                   y(kActivation, s.rows, s.cols);
  measure({.cost = swiglu_cost(s.rows, s.cols, kActivation),
           .call = [&] { cuda::swiglu({}, {.gate_up = gate_up.tensor(), .y = y.tensor()}); },
           .check =
               [&](Check& check) {
                 for (const int64_t r : samples(s.rows, 8)) {
                   const std::vector<double> in = gate_up.row(r), out = y.row(r);
                   for (size_t c = 0; c < out.size(); ++c) {
                     const double want = silu(in[c]) * in[c + out.size()];
                     check.near(out[c], want, tolerance_of(kActivation, want, 1));
                   }
                 }
               }});
}
void swiglu_bwd(const RowsShape& s) {
  const DeviceData gate_up = DeviceData::random(kActivation, s.rows, 2 * s.cols, 1, 8),
                   dy = DeviceData::random(kActivation, s.rows, s.cols, 2),
                   dgate_up(kActivation, s.rows, 2 * s.cols);
  measure({.cost = swiglu_bwd_cost(s.rows, s.cols, kActivation),
           .call =
               [&] {
                 cuda::swiglu_bwd(
                     {}, {.dy = dy.tensor(), .gate_up = gate_up.tensor(), .dgate_up = dgate_up.tensor()});
               },
           .check =
               [&](Check& check) {
                 for (const int64_t r : samples(s.rows, 8)) {
                   const std::vector<double> in = gate_up.row(r), g = dy.row(r), out = dgate_up.row(r);
                   for (size_t c = 0; c < g.size(); ++c) {
                     const double gate = in[c], up = in[c + g.size()], sigmoid = 1 / (1 + std::exp(-gate)),
                                  dgate = g[c] * up * sigmoid * (1 + gate * (1 - sigmoid)),
                                  dup = g[c] * silu(gate);
                     check.near(out[c], dgate, tolerance_of(kActivation, dgate, 10));
                     check.near(out[c + g.size()], dup, tolerance_of(kActivation, dup, 10));
                   }
                 }
               }});
}
void swiglu_quantize(const RowsShape& s) {
  const DeviceData gate_up = DeviceData::random(kActivation, s.rows, 2 * s.cols, 1, 8),
                   codes(DType::kE4M3, s.rows, s.cols), scale(DType::kF32, s.rows, ceil_div(s.cols, 128));
  measure({.cost = swiglu_quantize_cost(s.rows, s.cols, kActivation),
           .call =
               [&] {
                 cuda::swiglu_quantize({}, {.swiglu = {.gate_up = gate_up.tensor()},
                                            .q = {.data = codes.tensor(), .scale = scale.tensor()}});
               },
           .check =
               [&](Check& check) {
                 for (const int64_t r : samples(s.rows, 4)) {
                   const std::vector<double> in = gate_up.row(r), q = codes.row(r), scales = scale.row(r);
                   for (size_t c = 0; c < q.size(); ++c) {
                     const double want = silu(in[c]) * in[c + q.size()], unit = scales[c / 128];
                     check.near(q[c] * unit, want,
                                std::abs(want) / 14 + unit / 512);  // half of the last of three bits
                   }
                 }
               }});
}

const Family family("swiglu", [] {
  rows("swiglu", kShapes, {kSmall}, swiglu);
  rows("swiglu_bwd", kShapes, {kSmall}, swiglu_bwd);
  rows("swiglu_quantize", kShapes, {kSmall}, swiglu_quantize);
});

}  // namespace
}  // namespace contender::bench
