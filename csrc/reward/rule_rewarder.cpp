#include "reward/rule_rewarder.h"

#include <utility>

#include "reward/worker_pool.h"

namespace contender {
namespace {

// Rules about text cost microseconds: they run at once, in submit(). Maths and programs go to worker
// processes, which start with the first prompt that needs them.
class RuleRewarder final : public Rewarder {
 public:
  RuleRewarder(const RewardConfig& config, int64_t max_new_tokens, int64_t overlong_buffer)
      : config_(config), max_new_tokens_(max_new_tokens), overlong_buffer_(overlong_buffer) {}

  void submit(ScoreRequest request) override {
    const std::string& task = request.prompt->task;
    Score score = score_text(config_, max_new_tokens_, overlong_buffer_, request);
    if (task == "math") return hand_over(WorkerKind::kMath, &math_, request, std::move(score));
    if (task == "code") return hand_over(WorkerKind::kCode, &code_, request, std::move(score));
    score.accuracy = verify_accuracy(task, request.completion, request.prompt->answer);
    weigh(config_, score.accuracy, &score);
    finished_.push_back(std::move(score));
  }

  std::vector<Score> poll() override { return collect(&WorkerPool::poll); }
  std::vector<Score> drain() override { return collect(&WorkerPool::drain); }

 private:
  void hand_over(WorkerKind kind, std::unique_ptr<WorkerPool>* pool, const ScoreRequest& request,
                 Score score) {
    if (!*pool) *pool = std::make_unique<WorkerPool>(kind, config_);
    weigh(config_, 0, &score);  // the verifier's part is added when it replies
    (*pool)->submit(request, std::move(score));
  }

  std::vector<Score> collect(std::vector<Score> (WorkerPool::*finished_of)()) {
    std::vector<Score> all = std::exchange(finished_, {});
    for (const auto* pool : {&math_, &code_}) {
      if (!*pool) continue;
      for (Score& score : ((**pool).*finished_of)()) all.push_back(std::move(score));
    }
    return all;
  }

  const RewardConfig config_;
  const int64_t max_new_tokens_, overlong_buffer_;
  std::vector<Score> finished_;
  std::unique_ptr<WorkerPool> math_, code_;
};

}  // namespace

float overlong_penalty(int64_t num_tokens, int64_t max_new_tokens, int64_t buffer) {
  if (buffer <= 0) return 0;
  const int64_t over = num_tokens - (max_new_tokens - buffer);
  if (over <= 0) return 0;
  return over >= buffer ? -1.0f
                        : -static_cast<float>(static_cast<double>(over) / static_cast<double>(buffer));
}

Score score_text(const RewardConfig& config, int64_t max_new_tokens, int64_t overlong_buffer,
                 const ScoreRequest& request) {
  Score score;
  score.id = request.id;
  score.format = verify_format(request.completion, request.prompt->text);
  score.language = language_share(request.completion, config.target_language);
  // A completion that was cut is as long as one can be, wherever it was cut.
  score.overlong = overlong_penalty(request.finished ? request.num_tokens : max_new_tokens, max_new_tokens,
                                    overlong_buffer);
  return score;
}

void weigh(const RewardConfig& config, float correctness, Score* score) {
  score->reward =
      static_cast<float>(config.accuracy_weight * correctness + config.format_weight * score->format +
                         config.language_weight * score->language + score->overlong);
}

std::unique_ptr<Rewarder> make_rule_rewarder(const RewardConfig& config, int64_t max_new_tokens,
                                             int64_t overlong_buffer) {
  return std::make_unique<RuleRewarder>(config, max_new_tokens, overlong_buffer);
}

}  // namespace contender
