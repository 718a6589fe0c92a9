// Evaluation on held-out problems: mean accuracy over k samples, unbiased pass@k, maj@k.
#include <algorithm>
#include <map>

#include "base/timer.h"
#include "grpo/trainer.h"

namespace contender {
namespace {

// Chen et al., "Evaluating large language models trained on code", arXiv 2107.03374: 1 - C(n - c, k) / C(n, k).
double pass_at_k(int64_t n, int64_t c, int64_t k) {
  if (n - c < k) return 1.0;
  double miss = 1.0;
  for (int64_t i = n - c + 1; i <= n; ++i) miss *= 1.0 - double(k) / double(i);
  return 1.0 - miss;
}

std::string answer_part(const std::string& text) {
  const size_t begin = text.rfind("<answer>"), end = text.rfind("</answer>");
  return begin == std::string::npos || end == std::string::npos || end < begin ? "" : text.substr(begin + 8, end - begin - 8);
}

// Is the most frequent answer right? Ties go to the answer seen first.
bool majority_right(const std::vector<Sample>& samples) {
  std::map<std::string, std::pair<int64_t, size_t>> votes;  // answer -> (-count, first sample)
  for (size_t i = 0; i < samples.size(); ++i) {
    auto [it, fresh] = votes.try_emplace(answer_part(samples[i].text), 0, i);
    --it->second.first;
  }
  const auto best = std::min_element(votes.begin(), votes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return samples[best->second.second].score.accuracy >= 1;
}

}  // namespace

EvalResult Trainer::evaluate(int64_t problems, int64_t samples, float temperature, float top_p) {
  TimerScope scope("eval");
  const int64_t count = std::min(problems, eval_prompts_->size());
  EvalResult r;
  r.groups = generate_all(*eval_prompts_, count, samples, {.temperature = temperature, .top_p = top_p}, uint64_t{1} << 31, 0x80000000u);
  double n = 0;
  for (const SampleGroup& g : r.groups) {
    int64_t right = 0;
    for (const Sample& s : g.samples) {
      n += 1;
      right += s.score.accuracy >= 1;
      r.accuracy += s.score.accuracy;
      r.format += s.score.format;
      r.reward += s.score.reward;
      r.mean_tokens += static_cast<double>(s.completion.tokens.size());
    }
    r.pass_at_k += pass_at_k(samples, right, samples) / static_cast<double>(count);
    r.maj_at_k += majority_right(g.samples) ? 1.0 / static_cast<double>(count) : 0.0;
  }
  for (double* v : {&r.accuracy, &r.format, &r.reward, &r.mean_tokens}) *v /= std::max(1.0, n);
  return r;
}

}  // namespace contender
