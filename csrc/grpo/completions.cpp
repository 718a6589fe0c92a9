// completions.jsonl: every scored completion of every step, one line each; (stage, prompt, sample) is its id, from which it can be
// generated again at the same weights.
#include <fstream>
#include <nlohmann/json.hpp>

#include "grpo/run.h"

namespace contender {

void Run::write_completions(const StageConfig& stage) {
  const std::string path = config_.dir + "/completions.jsonl";
  std::ofstream out(path, std::ios::app | std::ios::binary);
  for (const SampleGroup& g : trainer_->last_batch()) {
    for (const Sample& s : g.samples) {
      nlohmann::ordered_json line;
      line["id"] = fmt::format("{}/{}/{}", stage.name, g.id, s.completion.sample);
      line["step"] = trainer_->state().global_step;
      line["version"] = s.completion.version.empty() ? 0 : s.completion.version.back();
      line["prompt"] = g.prompt.text;
      line["completion"] = s.text;
      line["finished"] = s.completion.finished;
      line["reward"] = s.score.reward;
      line["accuracy"] = s.score.accuracy;
      line["format"] = s.score.format;
      line["status"] = s.score.status;
      out << line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
    }
  }
  if (!out.flush()) fail(ExitCode::kStorage, "cannot write {}", path);
}

}  // namespace contender
