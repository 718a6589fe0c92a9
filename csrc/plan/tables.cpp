// A plan as tables for people.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "base/error.h"
#include "plan/plan.h"

namespace contender {
namespace {

using Rows = std::vector<std::vector<std::string>>;

// Three significant digits and a unit that steps by `base`.
std::string scaled(double v, double base, const std::array<const char*, 6>& units) {
  size_t i = 0;
  while (i + 1 < units.size() && v >= 0.9995 * base) v /= base, ++i;
  const int digits = v >= 99.95 || (i == 0 && v == std::floor(v)) ? 0 : v >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f} {}", v, digits, units[i]);
}
std::string bytes_text(double v) { return scaled(v, 1024, {"B", "KiB", "MiB", "GiB", "TiB", "PiB"}); }
std::string count_text(double v) {
  std::string s = scaled(v, 1000, {"", "k", "M", "G", "T", "P"});
  if (s.back() == ' ') s.pop_back();
  return s;
}
std::string time_text(double seconds) {
  if (seconds < 1) return fmt::format("{:.3g} ms", seconds * 1e3);
  if (seconds < 600) return fmt::format("{:.3g} s", seconds);
  return seconds < 36000 ? fmt::format("{:.1f} min", seconds / 60) : fmt::format("{:.1f} h", seconds / 3600);
}
std::string dollars_text(double v) { return fmt::format("${:.{}f}", v, v < 10 ? 4 : 0); }

PlanTable overview(const RunConfig& c, const PlanOptions& o, const Plan& p) {
  const MeshShape& m = p.mesh;
  const double step_tokens = static_cast<double>(c.mesh.data_slots * c.train.token_budget);
  Rows rows = {
      {"config", c.path},
      {"mesh",
       fmt::format("{} ranks: tp {} x dp {}; experts: ep {} x edp {}", m.np(), m.tp, m.dp, m.ep, m.edp)},
      {"parameters",
       fmt::format("{} in all, {} active per token", count_text(p.size.total), count_text(p.size.active))},
      {"forward", fmt::format("{}flop per token at context {}", count_text(p.forward_flops_per_token),
                              c.model.max_position_embeddings)},
      {"round", fmt::format("{} tokens: {} slots x {} (mesh.data_slots x train.token_budget)",
                            count_text(step_tokens), c.mesh.data_slots, c.train.token_budget)},
      {"hardware",
       fmt::format("{}: {}flop/s per rank x {:.2f}, memory {}B/s", p.hardware.name,
                   count_text(p.hardware.flops_per_s), o.peak_share, count_text(p.hardware.bytes_per_s))},
  };
  return {"Plan", rows};
}

PlanTable traffic_table(const StagePlan& s) {
  Rows rows = {{"phase", "collective", "group", "ranks", "times", "sent by a rank"}};
  double total = 0;
  for (const TrafficItem& i : s.traffic) {
    rows.push_back({i.phase, i.name, i.group, std::to_string(i.ranks), count_text(std::ceil(i.count)),
                    bytes_text(i.bytes)});
    total += i.bytes;
  }
  if (s.traffic.empty()) rows.push_back({"", "none: one rank", "", "", "", ""});
  rows.push_back({"total", "", "", "", "", bytes_text(total)});
  return {fmt::format("Collectives of one step of stage {}", s.name), rows};
}

PlanTable cost_table(const Plan& p) {
  Rows rows = {{"stage", "steps", "generated/step", "trained/step", "flop/step", "gen", "ref", "update",
                "step", "trained tok/s", "total", "cost"}};
  double cost = 0;
  for (const StagePlan& s : p.stages) {
    const double total_seconds = s.seconds() * static_cast<double>(s.steps),
                 dollars = total_seconds / 3600 * p.dollars_per_hour;
    cost += dollars;
    rows.push_back({s.name, std::to_string(s.steps), count_text(s.generated_tokens),
                    count_text(s.trained_tokens), count_text(s.flops()), time_text(s.gen_seconds),
                    time_text(s.ref_seconds), time_text(s.update_seconds), time_text(s.seconds()),
                    count_text(s.trained_tokens / s.seconds()), time_text(total_seconds),
                    dollars_text(dollars)});
  }
  rows.push_back(
      {"total", "", "", "", "", "", "", "", "", "", time_text(p.hours() * 3600), dollars_text(cost)});
  return {fmt::format("Time and cost at {}/h for {} ranks, without communication and evaluation",
                      dollars_text(p.dollars_per_hour), p.mesh.np()),
          rows};
}

}  // namespace

PlanTable memory_table(const Plan& p) {
  Rows rows = {{"of one rank", "size", "share", "lowered by"}};
  const double total = static_cast<double>(p.memory_bytes());
  for (const MemoryItem& i : p.memory) {
    const double bytes = static_cast<double>(i.bytes);
    rows.push_back({i.name, bytes_text(bytes), fmt::format("{:.0f}%", 100 * bytes / total), i.lowered_by});
  }
  const double available = static_cast<double>(p.hardware.memory_bytes);
  const std::string fits =
      available == 0
          ? ""
          : fmt::format("{} {}", total <= available ? "of" : "DOES NOT FIT in", bytes_text(available));
  rows.push_back({"total", bytes_text(total), "", fits});
  return {"Memory", rows};
}

void require_memory(const Plan& p) {
  const int64_t needed = p.memory_bytes(), available = p.hardware.memory_bytes;
  if (available == 0 || needed <= available) return;
  std::vector<MemoryItem> items = p.memory;
  std::stable_sort(items.begin(), items.end(),
                   [](const MemoryItem& a, const MemoryItem& b) { return a.bytes > b.bytes; });
  std::string largest;
  for (size_t i = 0; i < std::min<size_t>(3, items.size()); ++i) {
    largest += fmt::format("{}{} {} (lowered by {})", i ? "; " : "", items[i].name,
                           bytes_text(static_cast<double>(items[i].bytes)), items[i].lowered_by);
  }
  fail(ExitCode::kOutOfMemory,
       "out of memory: a rank needs {}, {} has {} for it; the largest: {}; contender plan shows all",
       bytes_text(static_cast<double>(needed)), p.hardware.name, bytes_text(static_cast<double>(available)),
       largest);
}

std::vector<PlanTable> plan_tables(const RunConfig& config, const PlanOptions& options, const Plan& plan) {
  std::vector<PlanTable> tables = {overview(config, options, plan), memory_table(plan)};
  std::set<std::string> kinds;  // stages of one kind differ little: the first stands for them
  for (size_t i = 0; i < plan.stages.size(); ++i) {
    if (kinds.insert(config.stages[i].kind).second) tables.push_back(traffic_table(plan.stages[i]));
  }
  if (!plan.stages.empty()) tables.push_back(cost_table(plan));
  return tables;
}

}  // namespace contender
