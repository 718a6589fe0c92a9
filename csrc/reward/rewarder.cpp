#include "base/error.h"
#include "reward/command_rewarder.h"
#include "reward/rule_rewarder.h"

namespace contender {

std::unique_ptr<Rewarder> make_rewarder(const RewardConfig& config, int64_t max_new_tokens,
                                        int64_t overlong_buffer) {
  if (config.type == "rule") return make_rule_rewarder(config, max_new_tokens, overlong_buffer);
  if (config.type == "command") return make_command_rewarder(config, max_new_tokens, overlong_buffer);
  fail(ExitCode::kConfig, "reward.type = \"{}\": rule or command", config.type);
}

}  // namespace contender
