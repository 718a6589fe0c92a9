// Evaluation on held-out problems: mean accuracy over k samples, unbiased pass@k, maj@k.
#include "grpo/eval.h"

#include <algorithm>
#include <map>
#include <string_view>

#include "base/timer.h"
#include "grpo/trainer.h"
#include "reward/completion.h"

namespace contender {
namespace {

bool right(const Sample& s) { return s.score.valid && s.score.accuracy >= 1; }

}  // namespace

double pass_at_k(int64_t n, int64_t c, int64_t k) {
  CHECK(1 <= k && k <= n && 0 <= c && c <= n, "pass@{} of {} samples, {} right", k, n, c);
  if (n - c < k) return 1.0;
  double miss = 1.0;
  for (int64_t i = n - c + 1; i <= n; ++i) miss *= 1.0 - static_cast<double>(k) / static_cast<double>(i);
  return 1.0 - miss;
}

bool majority_right(const std::vector<Sample>& samples) {
  std::map<std::string_view, std::pair<int64_t, size_t>> votes;  // answer -> (-count, first sample)
  for (size_t i = 0; i < samples.size(); ++i)
    if (const auto answer = answer_part(samples[i].text))
      --votes.try_emplace(*answer, 0, i).first->second.first;
  const auto best = std::min_element(votes.begin(), votes.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return best != votes.end() && right(samples[best->second.second]);
}

EvalResult Trainer::evaluate(int64_t problems, int64_t samples, float temperature, float top_p) {
  TimerScope scope("eval");
  const int64_t count = std::min(problems, eval_prompts_->size());
  EvalResult r;
  r.groups = generate_all(*eval_prompts_, count, samples, {.temperature = temperature, .top_p = top_p},
                          kEvaluationPrompts, 0x80000000u);
  double n = 0;
  for (const SampleGroup& g : r.groups) {
    for (const Sample& s : g.samples) {
      if (!s.score.valid) continue;
      n += 1;
      r.accuracy += s.score.accuracy;
      r.format += s.score.format;
      r.reward += s.score.reward;
      r.mean_tokens += static_cast<double>(s.completion.tokens.size());
    }
    const int64_t num_right = std::count_if(g.samples.begin(), g.samples.end(), right);
    for (int64_t k = 1; k < samples; k *= 2)
      r.pass_at[k] += pass_at_k(samples, num_right, k) / static_cast<double>(count);
    r.pass_at[samples] += pass_at_k(samples, num_right, samples) / static_cast<double>(count);
    r.maj_at_k += majority_right(g.samples) ? 1.0 / static_cast<double>(count) : 0.0;
  }
  for (double* v : {&r.accuracy, &r.format, &r.reward, &r.mean_tokens}) *v /= std::max(1.0, n);
  return r;
}

}  // namespace contender
