// AdamW with FP32 and BF16 moments, alone and with a weight's copies, and the exact sum of squares of the
// gradient norm.
#include <cmath>

#include "bench/cuda/gpu_bench.h"
#include "cuda/ops.h"
#include "ops/optimizer.h"
#include "ops/permute.h"

namespace contender::bench {
namespace {

struct Shape {
  int64_t n;
  std::string text() const { return fmt::format("{}", n); }
};

// The first step from no moments has length lr, whatever the gradient; the moments of the runs that follow
// change no time.
void adamw(const Shape& s, DType moments, const WeightCopies& copies = {},
           const std::function<void(Check&, const DeviceData&)>& check_copies = {}) {
  constexpr float kLr = 1e-3f;
  const DeviceData master = DeviceData::random(DType::kF32, 1, s.n, 1),
                   grad = DeviceData::random(DType::kF32, 1, s.n, 2), m(moments, 1, s.n), v(moments, 1, s.n),
                   one = DeviceData::of(std::vector<float>{1.0f});
  const std::vector<int64_t> places = samples(s.n, 64);
  std::vector<double> before;
  for (const int64_t i : places) before.push_back(master.at(0, i));
  for (const DeviceData* d : {&m, &v})
    CUDA_CHECK(cudaMemset(d->as<void>(), 0, static_cast<size_t>(s.n * dtype_size(moments))));
  const AdamwArgs args = {.n = s.n,
                          .master = master.as<float>(),
                          .grad = grad.as<float>(),
                          .m = m.as<void>(),
                          .v = v.as<void>(),
                          .moment_dtype = moments,
                          .grad_scale = one.as<float>(),
                          .lr = kLr,
                          .bias_correction1 = 1 - 0.9f,
                          .bias_correction2 = 1 - 0.95f,
                          .copies = copies};
  measure({.cost = adamw_cost(s.n, moments, copies),
           .call = [&] { cuda::adamw({}, args); },
           .check =
               [&](Check& check) {
                 for (size_t i = 0; i < places.size(); ++i) {
                   const double want = before[i] - kLr * (grad.at(0, places[i]) > 0 ? 1 : -1);
                   check.near(master.at(0, places[i]), want, 1e-2 * kLr);
                 }
                 if (check_copies) check_copies(check, master);
               }});
}
// BF16 moments and BF16 copies, both ways, or FP8 ones.
void adamw_copies(const RowsShape& s, bool fp8) {
  const int64_t n = s.rows, k = s.cols, n_blocks = ceil_div(n, 128), k_blocks = ceil_div(k, 128);
  const DType form = fp8 ? DType::kE4M3 : DType::kBF16;
  const DeviceData forward(form, n, k), backward(form, k, n), scale(DType::kF32, n_blocks, k_blocks),
      scale_t(DType::kF32, k_blocks, n_blocks);
  WeightCopies copies = {.n = n, .k = k};
  if (fp8) {
    copies.q = {.data = forward.tensor(), .scale = scale.tensor(), .layout = QLayout::k128x128};
    copies.transposed = {.data = backward.tensor(), .scale = scale_t.tensor(), .layout = QLayout::k128x128};
  } else {
    copies.forward = forward.as<void>();
    copies.backward = backward.as<void>();
  }
  adamw({n * k}, DType::kBF16, copies, [&](Check& check, const DeviceData& master) {
    for (const int64_t r : samples(n, 4)) {
      const std::vector<double> w = master.block(0, 1, r * k, k), got = forward.row(r),
                                turned = backward.column(r);
      const std::vector<double> scales = fp8 ? scale.row(r / 128) : std::vector<double>(k_blocks, 1.0);
      for (size_t c = 0; c < w.size(); ++c) {
        const double unit = scales[c / 128];
        check.near(got[c] * unit, w[c], fp8 ? std::abs(w[c]) / 15 + unit / 512 : std::abs(w[c]) / 256);
        check.equal(turned[c], got[c]);
      }
    }
  });
}
void square_sum(const Shape& s) {
  const DeviceData x = DeviceData::random(DType::kF32, 1, s.n, 1),
                   sum = DeviceData::of(std::vector<ExactSum>(1));
  bool first = true;  // what follows adds to it
  measure({.cost = rows_cost(1, s.n, 1),
           .call = [&] { cuda::square_sum({}, {.x = x.as<float>(), .n = s.n, .sum = sum.as<ExactSum>()}); },
           .check =
               [&](Check& check) {
                 CHECK(std::exchange(first, false), "a second check");
                 ExactSum got;
                 CUDA_CHECK(cudaMemcpy(&got, sum.as<void>(), sizeof(got), cudaMemcpyDeviceToHost));
                 double want = 0;
                 for (const double v : x.row(0)) want += v * v;
                 check.near(got.value(), want, 1e-9 * want);
               }});
}

const Family family("optimizer", [] {
  const std::vector<Shape> shapes = {{int64_t{1} << 28}, {int64_t{1} << 22}};
  constexpr Shape kSmall = {1 << 16};
  rows("adamw_f32", shapes, {kSmall}, [](const Shape& s) { adamw(s, DType::kF32); });
  rows("adamw_bf16", shapes, {kSmall}, [](const Shape& s) { adamw(s, DType::kBF16); });
  const std::vector<RowsShape> weights = {{7168, 18432}, {4096, 7168}};
  constexpr RowsShape kSmallWeight = {128, 512};
  rows("adamw_pack", weights, {kSmallWeight}, [](const RowsShape& s) { adamw_copies(s, false); });
  rows("adamw_fp8", weights, {kSmallWeight}, [](const RowsShape& s) { adamw_copies(s, true); });
  rows("square_sum", std::vector<Shape>{{int64_t{1} << 26}, {1 << 22}}, {kSmall}, square_sum);
});

}  // namespace
}  // namespace contender::bench
