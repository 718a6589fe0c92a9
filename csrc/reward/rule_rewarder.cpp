#include "reward/rule_rewarder.h"

#include "base/error.h"

namespace contender {
namespace {

// Rules cost microseconds, so they run at once in submit().
class RuleRewarder final : public Rewarder {
 public:
  RuleRewarder(const RewardConfig& config, int64_t max_new_tokens, int64_t overlong_buffer)
      : config_(config), max_new_tokens_(max_new_tokens), overlong_buffer_(overlong_buffer) {}

  void submit(ScoreRequest request) override {
    Score score = score_text(config_, max_new_tokens_, overlong_buffer_, request);
    score.accuracy = verify_accuracy(request.prompt->task, request.completion, request.prompt->answer);
    weigh(config_, score.accuracy, &score);
    finished_.push_back(std::move(score));
  }

  std::vector<Score> poll() override { return std::exchange(finished_, {}); }
  std::vector<Score> drain() override { return poll(); }

 private:
  const RewardConfig config_;
  const int64_t max_new_tokens_, overlong_buffer_;
  std::vector<Score> finished_;
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
  score.format = verify_format(request.completion);
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
