// Routing of DeepSeek-V3 and V2-Lite, and its backward.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "bench/cuda/gpu_bench.h"
#include "cuda/ops.h"
#include "ops/router.h"

namespace contender::bench {
namespace {

struct Shape {
  const char* model;
  int64_t tokens;
  RouterShape router;
  std::string text() const { return fmt::format("{}_{}", model, tokens); }
};
constexpr RouterShape kV3 = {.num_experts = 256, .top_k = 8, .n_group = 8, .topk_group = 4, .scale = 2.5f};
constexpr RouterShape kV2Lite = {
    .num_experts = 64, .top_k = 6, .score_func = ScoreFunc::kSoftmax, .norm_topk_prob = false};
const std::vector<Shape> kShapes = {
    {"v3", 128, kV3}, {"v3", 4096, kV3}, {"v3", 16384, kV3}, {"v2lite", 16384, kV2Lite}};
constexpr Shape kSmall = {"v3", 64, kV3};

struct Operands {
  Shape s;
  DeviceData logits, bias, scores, expert, weight;
  explicit Operands(const Shape& s)
      : s(s),
        logits(DeviceData::random(DType::kF32, s.tokens, s.router.num_experts, 1, 4)),
        bias(DeviceData::random(DType::kF32, 1, s.router.num_experts, 2, 0.01f)),
        scores(DType::kF32, s.tokens, s.router.num_experts),
        expert(DType::kI32, s.tokens, s.router.top_k),
        weight(DType::kF32, s.tokens, s.router.top_k) {}
  bool sigmoid() const { return s.router.score_func == ScoreFunc::kSigmoid; }
  void forward() const {
    cuda::router({}, {.shape = s.router,
                      .logits = logits.tensor(),
                      .bias = sigmoid() ? bias.as<float>() : nullptr,
                      .scores = scores.tensor(),
                      .expert = expert.tensor(),
                      .weight = weight.tensor()});
  }
  // The best experts of the best groups, found by sorting.
  std::vector<int64_t> chosen(const std::vector<double>& score) const {
    const int64_t width = s.router.num_experts / s.router.n_group;
    std::vector<int64_t> groups, experts;
    for (int64_t g = 0; g < s.router.n_group; ++g) groups.push_back(g);
    const auto group_score = [&](int64_t g) {
      std::vector<double> in(score.begin() + g * width, score.begin() + (g + 1) * width);
      std::sort(in.rbegin(), in.rend());
      return in[0] + in[1];
    };
    std::stable_sort(groups.begin(), groups.end(),
                     [&](int64_t a, int64_t b) { return group_score(a) > group_score(b); });
    groups.resize(static_cast<size_t>(s.router.topk_group));
    for (const int64_t g : groups) {
      for (int64_t e = g * width; e < (g + 1) * width; ++e) experts.push_back(e);
    }
    std::stable_sort(experts.begin(), experts.end(),
                     [&](int64_t a, int64_t b) { return score[a] > score[b]; });
    experts.resize(static_cast<size_t>(s.router.top_k));
    return experts;
  }
};

void router(const Shape& s) {
  const Operands o(s);
  measure({.cost = router_cost(s.tokens, s.router),
           .call = [&] { o.forward(); },
           .check =
               [&](Check& check) {
                 const std::vector<double> bias = o.bias.row(0);
                 for (const int64_t t : samples(s.tokens, 16)) {
                   std::vector<double> score = o.logits.row(t);
                   double sum = 0;
                   for (const double l : score) sum += std::exp(l);
                   for (double& l : score) l = o.sigmoid() ? 1 / (1 + std::exp(-l)) : std::exp(l) / sum;
                   const std::vector<double> got = o.scores.row(t), expert = o.expert.row(t),
                                             weight = o.weight.row(t);
                   for (size_t e = 0; e < score.size(); ++e) check.near(got[e], score[e], 1e-5);
                   std::vector<double> biased = got;  // ties as the kernel's own scores have them
                   for (size_t e = 0; e < biased.size() && o.sigmoid(); ++e)
                     biased[e] = static_cast<float>(got[e]) + static_cast<float>(bias[e]);
                   const std::vector<int64_t> want = o.chosen(biased);
                   double total = 0;
                   for (const int64_t e : want) total += score[e];
                   const double scale = s.router.norm_topk_prob ? s.router.scale / total : s.router.scale;
                   for (size_t j = 0; j < want.size(); ++j) {
                     check.equal(expert[j], static_cast<double>(want[j]));
                     check.near(weight[j], score[want[j]] * scale, 1e-5);
                   }
                 }
               }});
}
void router_bwd(const Shape& s) {
  const Operands o(s);
  const DeviceData dweight = DeviceData::random(DType::kF32, s.tokens, s.router.top_k, 3),
                   dlogits(DType::kF32, s.tokens, s.router.num_experts);
  o.forward();
  measure({.cost = router_cost(s.tokens, s.router),
           .call =
               [&] {
                 cuda::router_bwd({}, {.shape = s.router,
                                       .scores = o.scores.tensor(),
                                       .expert = o.expert.tensor(),
                                       .dweight = dweight.tensor(),
                                       .dlogits = dlogits.tensor()});
               },
           .check =
               [&](Check& check) {
                 for (const int64_t t : samples(s.tokens, 16)) {
                   const std::vector<double> score = o.scores.row(t), expert = o.expert.row(t),
                                             dw = dweight.row(t), got = dlogits.row(t);
                   std::vector<double> ds(score.size());
                   double sum = 0, mean = 0;
                   for (const double e : expert) sum += score[static_cast<size_t>(e)];
                   for (size_t j = 0; j < dw.size(); ++j)
                     mean += dw[j] * score[static_cast<size_t>(expert[j])] / sum;
                   for (size_t j = 0; j < dw.size(); ++j) {
                     const double scale = s.router.scale;
                     ds[static_cast<size_t>(expert[j])] =
                         s.router.norm_topk_prob ? scale / sum * (dw[j] - mean) : scale * dw[j];
                   }
                   const double all = std::inner_product(ds.begin(), ds.end(), score.begin(), 0.0);
                   for (size_t e = 0; e < score.size(); ++e) {
                     const double want =
                         o.sigmoid() ? ds[e] * score[e] * (1 - score[e]) : score[e] * (ds[e] - all);
                     check.near(got[e], want, 1e-5);
                   }
                 }
               }});
}

const Family family("router", [] {
  rows("router", kShapes, {kSmall}, router);
  rows("router_bwd", kShapes, {kSmall}, router_bwd);
});

}  // namespace
}  // namespace contender::bench
