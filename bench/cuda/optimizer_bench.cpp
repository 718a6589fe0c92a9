// AdamW with FP32 and BF16 moments, and the exact sum of squares of the gradient norm.
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
void adamw(const Shape& s, DType moments) {
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
                          .bias_correction2 = 1 - 0.95f};
  measure({.cost = adamw_cost(s.n, moments),
           .call = [&] { cuda::adamw({}, args); },
           .check =
               [&](Check& check) {
                 for (size_t i = 0; i < places.size(); ++i) {
                   const double want = before[i] - kLr * (grad.at(0, places[i]) > 0 ? 1 : -1);
                   check.near(master.at(0, places[i]), want, 1e-2 * kLr);
                 }
               }});
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
  rows("square_sum", std::vector<Shape>{{int64_t{1} << 26}, {1 << 22}}, {kSmall}, square_sum);
});

}  // namespace
}  // namespace contender::bench
