// What the demo leaves: summary.json, samples.json, report.html, and the closing table.
#include <cmath>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "grpo/app.h"
#include "grpo/run.h"
#include "report/text.h"

namespace contender {
namespace {

using Json = nlohmann::ordered_json;

void write_json(const std::string& path, const Json& json) {
  std::ofstream out(path, std::ios::binary);
  out << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
  if (!out.flush()) fail(ExitCode::kStorage, "cannot write {}", path);
}

// Highest resident memory of this process so far.
double peak_resident_mib() {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) / 1024;
  return 0;
}

Json summary_json(const Run& run, Trainer& t, const StageResult& rl, uint64_t weights_hash, double peak_mib) {
  const TrainState& s = t.state();
  Json j;
  j["task"] = rl.task;
  j["sft_accuracy"] = rl.before->accuracy;
  j["accuracy_before"] = rl.before->accuracy;
  j["accuracy_before_greedy"] = rl.greedy_before;
  j["accuracy_after"] = rl.after->accuracy;
  j["accuracy_after_greedy"] = rl.greedy_after;
  j["eval_problems"] = static_cast<int64_t>(rl.after->groups.size());
  j["steps"] = s.global_step;
  double seconds = 0;
  for (const StageResult& r : run.results()) seconds += r.seconds;
  j["train_seconds"] = seconds;
  j["ranks"] = t.machine().mesh->size();
  j["tokens_generated"] = s.tokens_generated;
  j["tokens_trained"] = s.tokens_trained;
  j["max_abs_logp_diff"] = s.max_logp_diff;
  j["seed"] = run.config().seed;
  j["dollars"] = run.dollars();
  j["peak_resident_mib"] = std::round(peak_mib);
  j["weights_hash"] = fmt::format("{:016x}", weights_hash);
  return j;
}

Json samples_json(const StageResult& rl, int64_t count) {
  Json list = Json::array();
  for (int64_t i = 0; i < count && i < static_cast<int64_t>(rl.before->groups.size()); ++i) {
    const SampleGroup &before = rl.before->groups[i], &after = rl.after->groups[i];
    list.push_back({{"prompt", after.prompt.text},
                    {"answer", after.prompt.answer},
                    {"before", before.samples[0].text},
                    {"after", after.samples[0].text},
                    {"before_correct", before.samples[0].score.accuracy >= 1},
                    {"after_correct", after.samples[0].score.accuracy >= 1}});
  }
  return list;
}

void print_closing(const Run& run, const Json& summary, const Json& samples) {
  std::vector<std::vector<std::string>> phases = {{"phase", "seconds", "share"}};
  const double total = summary["train_seconds"];
  for (const auto& [name, seconds] : run.phase_seconds())
    phases.push_back({name, fmt::format("{:.1f}", seconds), fmt::format("{:.0f}%", 100 * seconds / total)});
  std::vector<std::vector<std::string>> answers = {{"held-out problem", "before", "after"}};
  const auto cell = [](const Json& right, const std::string& text) {
    return fmt::format("{} {}", right.get<bool>() ? "✓" : "✗", printable_line(text));
  };
  for (const Json& s : samples)
    answers.push_back({printable_line(s["prompt"].get<std::string>()), cell(s["before_correct"], s["before"]),
                       cell(s["after_correct"], s["after"])});
  const double tokens = summary["tokens_generated"].get<double>() + summary["tokens_trained"].get<double>();
  std::cout << "\n"
            << format_table(answers) << "\n"
            << format_table(phases) << "\n"
            << format_table(
                   {{"task", "accuracy before", "after", "greedy before", "after", "steps", "tokens/s",
                     "seconds", "max |logp diff|", "cost"},
                    {summary["task"], fmt::format("{:.3f}", summary["accuracy_before"].get<double>()),
                     fmt::format("{:.3f}", summary["accuracy_after"].get<double>()),
                     fmt::format("{:.3f}", summary["accuracy_before_greedy"].get<double>()),
                     fmt::format("{:.3f}", summary["accuracy_after_greedy"].get<double>()),
                     fmt::format("{}", summary["steps"].get<int64_t>()),
                     fmt::format("{:.0f}", tokens / total), fmt::format("{:.0f}", total),
                     fmt::format("{:g}", summary["max_abs_logp_diff"].get<double>()),
                     fmt::format("${:.4f}", summary["dollars"].get<double>())}});
}

}  // namespace

int run_demo(const RunConfig& config, const RunOptions& options) {
  Run run(config, options, Run::Purpose::kTrain);
  run.execute([](const StageConfig&) { return true; });
  Trainer& t = run.trainer();
  const uint64_t hash = t.policy_weights().fingerprint();
  double peak_mib = peak_resident_mib();
  t.machine().mesh->world().all_reduce_max("peak", &peak_mib, 1);
  const StageResult* rl = nullptr;
  for (const StageResult& r : run.results())
    if (r.before && r.after) rl = &r;
  if (rl && run.leader()) {
    const Json summary = summary_json(run, t, *rl, hash, peak_mib), samples = samples_json(*rl, 8);
    write_json(config.dir + "/summary.json", summary);
    write_json(config.dir + "/samples.json", samples);
    print_closing(run, summary, samples);
  }
  close_run(run);
  return 0;
}

}  // namespace contender
