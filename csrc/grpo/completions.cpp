// completions.jsonl: every scored completion of every step, one line each; (stage, prompt, sample) is its id,
// from which it can be generated again at the same weights.
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "grpo/run.h"

namespace contender {

namespace fs = std::filesystem;

static std::string completions_path(const RunConfig& config) { return config.dir + "/completions.jsonl"; }

// What an earlier process wrote after the checkpoint that this one goes on from.
void Run::cut_completions() {
  const std::string path = completions_path(config_);
  const int64_t known = trainer_->state().completion_bytes;
  std::error_code error;
  const int64_t bytes = fs::exists(path) ? static_cast<int64_t>(fs::file_size(path, error)) : 0;
  if (bytes < known) log_warn("{}: has {} bytes, the checkpoint was made after {}", path, bytes, known);
  if (bytes > known) fs::resize_file(path, static_cast<uintmax_t>(known), error);
  if (error) fail(ExitCode::kStorage, "{}: {}", path, error.message());
}

void Run::write_completions(const StageConfig& stage) {
  const std::string path = completions_path(config_);
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
  trainer_->state().completion_bytes = static_cast<int64_t>(fs::file_size(path));
}

}  // namespace contender
