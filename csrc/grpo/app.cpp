#include "grpo/app.h"

#include <iostream>

#include "base/log.h"
#include "base/timer.h"
#include "grpo/run.h"
#include "report/text.h"

namespace contender {

void close_run(Run& run) {
  if (!run.leader()) return;
  const RunConfig& config = run.config();
  if (run.results().empty()) {
    const bool all = run.trainer().state().stage >= static_cast<int64_t>(config.stages.size());
    log_info(
        "{}: {}; eval and generate use its weights, another --run-dir begins another run, --no-resume starts "
        "this one over",
        config.dir,
        all ? "this run is finished" : "its stages of kind sft are finished, train goes on with the rest");
  }
  std::cout << "report: " << write_report(config.dir) << std::endl;
}

int run_train(const RunConfig& config, const RunOptions& options) {
  Run run(config, options, Run::Purpose::kTrain);
  run.execute([](const StageConfig&) { return true; });
  close_run(run);
  return 0;
}

int run_sft(const RunConfig& config, const RunOptions& options) {
  Run run(config, options, Run::Purpose::kTrain);
  run.execute([](const StageConfig& s) { return s.kind == "sft"; });
  close_run(run);
  return 0;
}

namespace {

// Evaluation and generation want trained weights: a checkpoint must be there, or a model to start from,
// unless
// --no-resume asks for the random ones.
RunOptions with_weights(const RunConfig& config, const RunOptions& options) {
  RunOptions o = options;
  if (o.resume == ResumeMode::kIfPresent && config.model.path.empty()) o.resume = ResumeMode::kRequired;
  return o;
}

}  // namespace

int run_eval(const RunConfig& config, const RunOptions& given) {
  const RunOptions options = with_weights(config, given);
  Run run(config, options, Run::Purpose::kSample);
  run.trainer().begin_stage(config.stages.back());
  const EvalConfig& e = config.eval;
  const EvalResult r = run.trainer().evaluate(e.problems, e.samples, static_cast<float>(e.temperature),
                                              static_cast<float>(e.top_p));
  const EvalResult greedy = run.trainer().evaluate(e.problems, 1, 0.0f, 1.0f);
  if (!run.leader()) return 0;
  std::vector<std::vector<std::string>> table = {
      {"task", "problems", "samples", "temperature", "accuracy", "greedy"},
      {config.stages.back().task.name, fmt::format("{}", r.groups.size()), fmt::format("{}", e.samples),
       fmt::format("{:g}", e.temperature), fmt::format("{:.4f}", r.accuracy),
       fmt::format("{:.4f}", greedy.accuracy)}};
  auto column = [&](std::string name, std::string value) {
    table[0].push_back(std::move(name));
    table[1].push_back(std::move(value));
  };
  for (const auto& [k, value] : r.pass_at) column(fmt::format("pass@{}", k), fmt::format("{:.4f}", value));
  column(fmt::format("maj@{}", e.samples), fmt::format("{:.4f}", r.maj_at_k));
  column("format", fmt::format("{:.4f}", r.format));
  column("tokens", fmt::format("{:.1f}", r.mean_tokens));
  std::cout << format_table(table);
  return 0;
}

int run_generate(const RunConfig& config, const RunOptions& given) {
  const RunOptions options = with_weights(config, given);
  Run run(config, options, Run::Purpose::kSample);
  Trainer& t = run.trainer();
  t.begin_stage(config.stages.back());
  const double start = now_seconds();
  int64_t tokens = 0;
  for (const SampleGroup& g : t.generate(options.prompts, options.samples)) {
    for (const Sample& s : g.samples) {
      tokens += static_cast<int64_t>(s.completion.tokens.size());
      if (run.leader()) std::cout << printable(g.prompt.text) << printable(s.text) << "\n";
    }
  }
  if (run.leader())
    log_info("{} tokens, {:.0f} tokens/s", tokens, static_cast<double>(tokens) / (now_seconds() - start));
  return 0;
}

}  // namespace contender
