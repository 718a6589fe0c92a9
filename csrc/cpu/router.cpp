// What: MoE routing: scores, group-limited top-k, weights, and the gradient of the logits.
// Math: s = sigmoid(logits) or softmax(logits); experts are chosen by s + bias;
//       w_j = s_j / (sum s + 1e-20) * scale, or s_j * scale without normalisation.
//       ds_j = scale / sum * (dw_j - sum_k dw_k s_k / sum), or scale * dw_j; then
//       sigmoid: dl = ds s (1 - s);  softmax: dl_e = s_e (ds_e - sum_k ds_k s_k).
//       The selection itself has no gradient.
// Precision: FP32; the softmax's sum is in lanes (lanes.h), sums over the selected experts are chains in
//   their order.
#include "ops/router.h"

#include <algorithm>

#include "cpu/cpu_ops.h"
#include "cpu/lanes.h"
#include "cpu/vec_loop.h"

namespace contender::cpu {
namespace {

constexpr int64_t kMaxExperts = 1024;
constexpr float kNormEpsilon = 1e-20f;

// The `limit` largest of the values added in ascending index order, largest first; the lower index wins ties.
class TopList {
 public:
  explicit TopList(int64_t limit) : limit_(limit) {}
  void add(float value, int64_t index) {
    if (count_ == limit_ && !(value > values_[count_ - 1])) return;
    int64_t at = count_ < limit_ ? count_++ : limit_ - 1;
    for (; at > 0 && value > values_[at - 1]; --at) {
      values_[at] = values_[at - 1];
      indices_[at] = indices_[at - 1];
    }
    values_[at] = value;
    indices_[at] = static_cast<int32_t>(index);
  }
  int64_t count() const { return count_; }
  float value(int64_t i) const { return values_[i]; }
  int32_t index(int64_t i) const { return indices_[i]; }

 private:
  int64_t limit_;
  int64_t count_ = 0;
  float values_[kMaxExperts];
  int32_t indices_[kMaxExperts];
};

void check_shape(const RouterShape& s, int64_t logits_cols) {
  CHECK(s.num_experts == logits_cols && 1 <= s.num_experts && s.num_experts <= kMaxExperts,
        "{} experts, {} columns, at most {}", s.num_experts, logits_cols, kMaxExperts);
  CHECK(s.n_group >= 1 && s.num_experts % s.n_group == 0 && 1 <= s.topk_group && s.topk_group <= s.n_group,
        "{} of {} groups of {} experts", s.topk_group, s.n_group, s.num_experts);
  CHECK(1 <= s.top_k && s.top_k <= s.topk_group * (s.num_experts / s.n_group), "top {} of {} groups of {}",
        s.top_k, s.topk_group, s.num_experts / s.n_group);
}

void score_row(ScoreFunc f, const float* logits, float* scores, int64_t n) {
  if (f == ScoreFunc::kSigmoid) {
    for_each_vector(
        n, [&](auto d, int64_t e) { hn::StoreU(vec_sigmoid(d, hn::LoadU(d, logits + e)), d, scores + e); });
    return;
  }
  const float max = *std::max_element(logits, logits + n);
  for_each_vector(n, [&](auto d, int64_t e) {
    hn::StoreU(vec_exp(d, hn::Sub(hn::LoadU(d, logits + e), hn::Set(d, max))), d, scores + e);
  });
  const float sum = row_sum(scores, n);
  for (int64_t e = 0; e < n; ++e) scores[e] /= sum;
}

float group_score(GroupScore kind, const float* biased, int64_t n) {
  TopList best(std::min<int64_t>(kind == GroupScore::kTop2Sum ? 2 : 1, n));
  for (int64_t e = 0; e < n; ++e) best.add(biased[e], e);
  return best.count() == 2 ? best.value(0) + best.value(1) : best.value(0);
}

void select_experts(const RouterShape& s, const float* scores, const float* bias, int32_t* expert) {
  float biased[kMaxExperts];
  for (int64_t e = 0; e < s.num_experts; ++e) biased[e] = bias ? scores[e] + bias[e] : scores[e];
  const int64_t group_size = s.num_experts / s.n_group;
  bool kept[kMaxExperts];
  std::fill_n(kept, s.n_group, s.topk_group == s.n_group);
  if (s.topk_group < s.n_group) {
    TopList groups(s.topk_group);
    for (int64_t g = 0; g < s.n_group; ++g)
      groups.add(group_score(s.group_score, biased + g * group_size, group_size), g);
    for (int64_t i = 0; i < groups.count(); ++i) kept[groups.index(i)] = true;
  }
  TopList top(s.top_k);
  for (int64_t g = 0; g < s.n_group; ++g) {
    for (int64_t e = g * group_size; kept[g] && e < (g + 1) * group_size; ++e) top.add(biased[e], e);
  }
  for (int64_t j = 0; j < s.top_k; ++j) expert[j] = top.index(j);
}

// What the selected scores are divided by; 1 without normalisation.
float denominator(const RouterShape& s, const float* scores, const int32_t* expert) {
  if (!s.norm_topk_prob) return 1.0f;
  float sum = 0;
  for (int64_t j = 0; j < s.top_k; ++j) sum += scores[expert[j]];
  return sum + kNormEpsilon;
}

}  // namespace

void router(const Exec&, const RouterArgs& a) {
  const RouterShape& s = a.shape;
  check_shape(s, a.logits.cols);
  CHECK(a.scores.cols == s.num_experts && a.expert.cols == s.top_k && a.weight.cols == s.top_k &&
            a.scores.rows == a.logits.rows && a.expert.rows == a.logits.rows &&
            a.weight.rows == a.logits.rows,
        "logits [{}, {}], scores [{}, {}], expert [{}, {}], weight [{}, {}]", a.logits.rows, a.logits.cols,
        a.scores.rows, a.scores.cols, a.expert.rows, a.expert.cols, a.weight.rows, a.weight.cols);
  for (int64_t t = 0; t < a.logits.rows; ++t) {
    float* scores = a.scores.row(t);
    int32_t* expert = a.expert.i32() + t * a.expert.ld;
    score_row(s.score_func, a.logits.row(t), scores, s.num_experts);
    select_experts(s, scores, a.bias, expert);
    const float divisor = denominator(s, scores, expert);
    for (int64_t j = 0; j < s.top_k; ++j) a.weight.row(t)[j] = scores[expert[j]] / divisor * s.scale;
  }
}

void router_bwd(const Exec&, const RouterBwdArgs& a) {
  const RouterShape& s = a.shape;
  check_shape(s, a.dlogits.cols);
  CHECK(a.scores.cols == s.num_experts && a.expert.cols == s.top_k && a.dweight.cols == s.top_k &&
            a.scores.rows == a.dlogits.rows && a.expert.rows == a.dlogits.rows &&
            a.dweight.rows == a.dlogits.rows,
        "dlogits [{}, {}], scores [{}, {}], expert [{}, {}], dweight [{}, {}]", a.dlogits.rows,
        a.dlogits.cols, a.scores.rows, a.scores.cols, a.expert.rows, a.expert.cols, a.dweight.rows,
        a.dweight.cols);
  for (int64_t t = 0; t < a.dlogits.rows; ++t) {
    const float* scores = a.scores.row(t);
    const int32_t* expert = a.expert.i32() + t * a.expert.ld;
    const float* dweight = a.dweight.row(t);
    float* dlogits = a.dlogits.row(t);
    const float divisor = denominator(s, scores, expert);
    float mean = 0;  // sum of dw_k s_k / sum
    for (int64_t j = 0; s.norm_topk_prob && j < s.top_k; ++j)
      mean += dweight[j] * (scores[expert[j]] / divisor);
    std::fill_n(dlogits, s.num_experts, 0.0f);
    for (int64_t j = 0; j < s.top_k; ++j) dlogits[expert[j]] = s.scale / divisor * (dweight[j] - mean);  // ds
    if (s.score_func == ScoreFunc::kSigmoid) {
      for (int64_t e = 0; e < s.num_experts; ++e) dlogits[e] *= scores[e] * (1.0f - scores[e]);
    } else {
      float projection = 0;
      for (int64_t j = 0; j < s.top_k; ++j) projection += dlogits[expert[j]] * scores[expert[j]];
      for (int64_t e = 0; e < s.num_experts; ++e) dlogits[e] = scores[e] * (dlogits[e] - projection);
    }
  }
}

}  // namespace contender::cpu
