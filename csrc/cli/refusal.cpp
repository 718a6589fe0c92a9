// Why a config does not load: exit 10, or exit 12 when all that is wrong is that an earlier run cannot go on
// on this layout.
#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "cli/cli.h"
#include "hub/model_config.h"

namespace contender {

Error config_refusal(const Command& command, const Error& problems, int np) {
  const bool goes_on = command.kind == CommandKind::kTrain || command.kind == CommandKind::kSft ||
                       command.kind == CommandKind::kDemo;
  if (!goes_on || command.run.resume == ResumeMode::kNever) return problems;
  try {
    // On one rank every layout is possible: what is wrong there is not the layout.
    std::vector<std::string> overrides = command.overrides;
    for (const char* one : {"mesh.tp=1", "mesh.dp=1", "mesh.ep=1"}) overrides.emplace_back(one);
    const RunConfig config = load_config(command.config, overrides, 1, read_model_config);
    const std::optional<FoundManifest> found = newest_manifest(config.dir);
    if (!found || found->manifest.info.config_hash != config_fingerprint(config)) return problems;
    const CheckpointLayout& l = found->manifest.info.layout;
    return {ExitCode::kLayout,
            fmt::format(
                "{}: written by {} rank{} (tp {}, dp {}, ep {}); this job, on {}, cannot go on from it:\n{}",
                found->path, l.np, l.np == 1 ? "" : "s", l.tp, l.dp, l.ep, np, problems.what())};
  } catch (const Error&) {
    return problems;
  }
}

}  // namespace contender
