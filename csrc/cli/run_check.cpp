#include "cli/run_check.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/error.h"
#include "grpo/stage_prompts.h"
#include "hub/model_files.h"
#include "model/params.h"
#include "report/metrics.h"
#include "report/text.h"

namespace contender {
namespace {

using Rows = std::vector<std::vector<std::string>>;

double parameters_of(const std::vector<ParamSpec>& specs, ParamKind kind) {
  double sum = 0;
  for (const ParamSpec& s : specs)
    if (s.kind == kind) sum += static_cast<double>(s.numel());
  return sum;
}

// The command that a comment of the config gives for a path.
std::string how_to_get(const std::string& config, const std::string& path) {
  const std::string mark = "# " + path + ": ";
  std::ifstream in(config);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(mark)) return line.substr(mark.size());
  return "";
}

// Prompts of one stage, as its run will read them.
std::string prompts_text(const RunConfig& c, const StageConfig& stage, const Tokenizer& tokenizer) {
  const int64_t train = open_stage_prompts(c, stage, Split::kTrain, tokenizer)->size();
  const int64_t held_out = open_stage_prompts(c, stage, Split::kHeldOut, tokenizer)->size();
  return fmt::format("stage {}: {} prompts, {} held out\n", stage.name, train, held_out);
}

}  // namespace

std::string shards_text(const RunConfig& c, const MeshShape& mesh) {
  const ModelConfig& m = c.model;
  const std::vector<ParamSpec> whole = param_specs(m, {}), mine = param_specs(m, {mesh.tp, 0, mesh.ep, 0});
  Rows rows = {{"", "model", "a rank", "cut over", "ranks with the same part"}};
  const auto row = [&](const char* what, int64_t n, int64_t ways, const char* axis, int copies) {
    rows.push_back({what, std::to_string(n), std::to_string(div_exact(n, ways)),
                    fmt::format("{} {}", axis, ways), std::to_string(copies)});
  };
  row("attention heads", m.num_attention_heads, mesh.tp, "tp", mesh.dp);
  if (!m.mla()) row("key/value heads", m.num_key_value_heads, mesh.tp, "tp", mesh.dp);
  row("columns of a dense FFN", m.intermediate_size, mesh.tp, "tp", mesh.dp);
  row("vocabulary", m.vocab_size, mesh.tp, "tp", mesh.dp);
  if (m.n_routed_experts > 0) row("experts of a layer", m.n_routed_experts, mesh.ep, "ep", mesh.edp);
  row("data slots", c.mesh.data_slots, mesh.np(), "ranks", 1);
  const auto parameters = [&](const char* what, ParamKind kind, const char* axis, int copies) {
    if (const double n = parameters_of(whole, kind); n > 0)
      rows.push_back({what, compact_number(n), compact_number(parameters_of(mine, kind)), axis,
                      fmt::format("{}: each keeps 1/{} of the optimizer", copies, copies)});
  };
  parameters("parameters: heads, FFN, vocabulary", ParamKind::kTensor, "tp", mesh.dp);
  parameters("parameters: experts", ParamKind::kExpert, "ep", mesh.edp);
  parameters("parameters: norms, router, latents, shared", ParamKind::kTokenWise, "-", mesh.np());
  return format_table(rows);
}

std::string files_text(const RunConfig& c, const std::vector<MissingInput>& missing) {
  Rows rows;
  std::set<std::string> seen;
  const auto is_missing = [&](const std::string& path) {
    return std::any_of(missing.begin(), missing.end(), [&](const auto& m) { return m.path == path; });
  };
  const auto add = [&](const std::string& key, const std::string& path) {
    if (path.empty() || !seen.insert(path).second) return;
    const std::string how = is_missing(path) ? how_to_get(c.path, path) : "";
    rows.push_back({key, path,
                    !is_missing(path) ? "here"
                    : how.empty()     ? "not here yet"
                                      : "not here yet: " + how});
  };
  add("model", c.model.path);
  add("tokenizer", c.tokenizer.path);
  for (const StageConfig& s : c.stages)
    for (const auto* files : {&s.task.train_files, &s.task.eval_files})
      for (const std::string& file : *files) add("prompts", file);
  std::string text;
  for (const auto& r : rows) text += fmt::format("{:<10} {}: {}\n", r[0], r[1], r[2]);
  if (!c.model.path.empty() && !is_missing(c.model.path)) ModelFiles(c.model.path).check(c.model);
  if (is_missing(c.tokenizer.path) || (c.tokenizer.path.empty() && is_missing(c.model.path))) return text;
  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(c);
  for (const StageConfig& s : c.stages) {
    const auto here = [&](const std::vector<std::string>& files) {
      return std::none_of(files.begin(), files.end(), is_missing);
    };
    if (s.task.name == "jsonl" && here(s.task.train_files) && here(s.task.eval_files))
      text += prompts_text(c, s, *tokenizer);
  }
  return text;
}

}  // namespace contender
