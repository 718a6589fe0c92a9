// FP8 blocks: 1x128 and 128x1 of activations, 128x128 of weights, as they lie and transposed, and back.
#include <cmath>

#include "bench/cuda/gpu_bench.h"
#include "cuda/ops.h"
#include "ops/quantize.h"

namespace contender::bench {
namespace {

struct Blocks {
  int64_t rows, cols;
  Blocks(const RowsShape& s, QLayout layout)
      : rows(layout == QLayout::k1x128 ? s.rows : ceil_div(s.rows, 128)),
        cols(layout == QLayout::k128x1 ? s.cols : ceil_div(s.cols, 128)) {}
};

void quantize(const RowsShape& s, QLayout layout, DType dtype) {
  const Blocks blocks(s, layout);
  const DeviceData x = DeviceData::random(dtype, s.rows, s.cols, 1), codes(DType::kE4M3, s.rows, s.cols),
                   scale(DType::kF32, blocks.rows, blocks.cols);
  measure({.cost = quantize_cost(s.rows, s.cols, layout, dtype),
           .call =
               [&] {
                 cuda::quantize({},
                                {.x = x.tensor(),
                                 .q = {.data = codes.tensor(), .scale = scale.tensor(), .layout = layout}});
               },
           .check =
               [&](Check& check) {
                 for (const int64_t r : samples(s.rows, 8)) {
                   const std::vector<double> in = x.row(r), q = codes.row(r),
                                             scales = scale.row(layout == QLayout::k1x128 ? r : r / 128);
                   for (size_t c = 0; c < in.size(); ++c) {
                     const double unit = scales[layout == QLayout::k128x1 ? c : c / 128];
                     check.near(q[c] * unit, in[c],
                                std::abs(in[c]) / 15 + unit / 512);  // half of the last of three bits
                   }
                 }
               }});
}
// 128x1 and transposed: from BF16, 1x128 beside it, or from stored 1x128.
void quantize_transposed(const RowsShape& s, bool stored) {
  const int64_t blocks = ceil_div(s.rows, 128), col_blocks = ceil_div(s.cols, 128);
  const DeviceData x = DeviceData::random(kActivation, s.rows, s.cols, 1),
                   codes(DType::kE4M3, s.rows, s.cols), row_scale(DType::kF32, s.rows, col_blocks),
                   turned(DType::kE4M3, s.cols, s.rows), scale(DType::kF32, blocks, s.cols);
  const QTensor rows = {.data = codes.tensor(), .scale = row_scale.tensor()};
  if (stored) cuda::quantize({}, {.x = x.tensor(), .q = rows});
  const QTransposed t = {.data = turned.tensor(), .scale = scale.tensor()};
  const QuantizeTransposedArgs args =
      stored ? QuantizeTransposedArgs{.x = rows.data, .x_scale = rows.scale, .t = t}
             : QuantizeTransposedArgs{.x = x.tensor(), .t = t, .q = rows};
  measure({.cost = quantize_transposed_cost(s.rows, s.cols, args.x.dtype, !stored),
           .call = [&] { cuda::quantize_transposed({}, args); },
           .check =
               [&](Check& check) {
                 for (const int64_t c : samples(s.cols, 8)) {
                   const std::vector<double> in = x.column(c), q = turned.row(c), scales = scale.column(c);
                   for (size_t r = 0; r < in.size(); ++r) {
                     const double unit = scales[r / 128];  // stored values have lost three bits before
                     check.near(q[r] * unit, in[r], (stored ? 2.1 : 1) * (std::abs(in[r]) / 15 + unit / 512));
                   }
                 }
               }});
}
void quantize_weight(const RowsShape& s) {
  const int64_t n_blocks = ceil_div(s.rows, 128), k_blocks = ceil_div(s.cols, 128);
  const DeviceData x = DeviceData::random(DType::kF32, s.rows, s.cols, 1),
                   codes(DType::kE4M3, s.rows, s.cols), turned(DType::kE4M3, s.cols, s.rows),
                   scale(DType::kF32, n_blocks, k_blocks), scale_t(DType::kF32, k_blocks, n_blocks);
  const QuantizeWeightArgs args = {
      .x = x.tensor(),
      .q = {.data = codes.tensor(), .scale = scale.tensor(), .layout = QLayout::k128x128},
      .transposed = {.data = turned.tensor(), .scale = scale_t.tensor(), .layout = QLayout::k128x128}};
  measure({.cost = quantize_weight_cost(s.rows, s.cols),
           .call = [&] { cuda::quantize_weight({}, args); },
           .check =
               [&](Check& check) {
                 for (const int64_t r : samples(s.rows, 8)) {
                   const std::vector<double> in = x.row(r), q = codes.row(r), t = turned.column(r),
                                             scales = scale.row(r / 128), scales_t = scale_t.column(r / 128);
                   for (size_t c = 0; c < in.size(); ++c) {
                     const double unit = scales[c / 128];
                     check.near(q[c] * unit, in[c], std::abs(in[c]) / 15 + unit / 512);
                     check.equal(t[c] * scales_t[c / 128], q[c] * unit);
                   }
                 }
               }});
}
void dequantize(const RowsShape& s) {
  const DeviceData x = DeviceData::random(kActivation, s.rows, s.cols, 1),
                   codes(DType::kE4M3, s.rows, s.cols), scale(DType::kF32, s.rows, ceil_div(s.cols, 128)),
                   y(DType::kF32, s.rows, s.cols);
  const QTensor q = {.data = codes.tensor(), .scale = scale.tensor()};
  std::vector<float> ones(static_cast<size_t>(s.rows * ceil_div(s.cols, 128)), 0.5f);
  CUDA_CHECK(cudaMemcpy(scale.as<void>(), ones.data(), ones.size() * sizeof(float), cudaMemcpyHostToDevice));
  CUDA_CHECK(cudaMemcpy(codes.as<void>(), x.as<void>(), static_cast<size_t>(s.rows * s.cols),
                        cudaMemcpyDeviceToDevice));
  measure({.cost = quantize_cost(s.rows, s.cols, QLayout::k1x128),
           .call = [&] { cuda::dequantize({}, {.q = q, .y = y.tensor()}); },
           .check =
               [&](Check& check) {
                 for (const int64_t r : samples(s.rows, 8)) {
                   const std::vector<double> code = codes.row(r), out = y.row(r);
                   for (size_t c = 0; c < out.size(); ++c) {
                     if (!std::isnan(code[c])) check.equal(out[c], code[c] * 0.5);
                   }
                 }
               }});
}

const Family family("quantize", [] {
  const std::vector<RowsShape> activations = {{16384, 7168}, {16384, 2048}, {128, 7168}},
                               weights = {{7168, 18432}, {4096, 7168}};
  constexpr RowsShape kSmall = {128, 1024};
  rows("quantize_1x128", activations, {kSmall},
       [](const RowsShape& s) { quantize(s, QLayout::k1x128, kActivation); });
  rows("quantize_128x1", activations, {kSmall},
       [](const RowsShape& s) { quantize(s, QLayout::k128x1, kActivation); });
  rows("quantize_128x128", weights, {kSmall},
       [](const RowsShape& s) { quantize(s, QLayout::k128x128, DType::kF32); });
  rows("quantize_transposed", activations, {kSmall},
       [](const RowsShape& s) { quantize_transposed(s, false); });
  rows("requantize_transposed", activations, {kSmall},
       [](const RowsShape& s) { quantize_transposed(s, true); });
  rows("quantize_weight", weights, {kSmall}, quantize_weight);
  rows("dequantize", activations, {kSmall}, dequantize);
});

}  // namespace
}  // namespace contender::bench
