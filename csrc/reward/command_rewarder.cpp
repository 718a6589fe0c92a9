#include "reward/command_rewarder.h"

#include "base/error.h"
#include "reward/rule_rewarder.h"
#include "reward/worker_pool.h"

namespace contender {
namespace {

class CommandRewarder final : public Rewarder {
 public:
  CommandRewarder(const RewardConfig& config, int64_t max_new_tokens, int64_t overlong_buffer)
      : config_(config),
        max_new_tokens_(max_new_tokens),
        overlong_buffer_(overlong_buffer),
        pool_(WorkerKind::kCommand, config) {}

  void submit(ScoreRequest request) override {
    Score score = score_text(config_, max_new_tokens_, overlong_buffer_, request);
    weigh(config_, 0, &score);  // the worker's part is added when it replies
    pool_.submit(request, std::move(score));
  }

  std::vector<Score> poll() override { return pool_.poll(); }
  std::vector<Score> drain() override { return pool_.drain(); }

 private:
  const RewardConfig config_;
  const int64_t max_new_tokens_, overlong_buffer_;
  WorkerPool pool_;
};

}  // namespace

std::unique_ptr<Rewarder> make_command_rewarder(const RewardConfig& config, int64_t max_new_tokens,
                                                int64_t overlong_buffer) {
  if (config.command.empty()) fail(ExitCode::kConfig, "reward.command is empty (reward.type = \"command\")");
  return std::make_unique<CommandRewarder>(config, max_new_tokens, overlong_buffer);
}

}  // namespace contender
