// The command line: what was asked, and the commands that need neither ranks nor weights.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/chat.h"
#include "cli/machine_facts.h"
#include "cli/prompt_sets.h"
#include "grpo/app.h"
#include "plan/plan.h"

namespace contender {

enum class CommandKind : uint8_t {
  kSft,
  kTrain,
  kEval,
  kGenerate,
  kReport,
  kDoctor,
  kPlan,
  kConvert,
  kInspect,
  kData,
  kDemo
};

struct ConvertOptions {
  std::string source, target;  // directories
  std::string dtype = "bf16";  // bf16 | f32
  int64_t max_shard_bytes = 5'000'000'000;
};

struct Command {
  CommandKind kind = CommandKind::kTrain;
  std::string config;                  // TOML file; doctor: optional
  std::string report_dir;              // report
  std::vector<std::string> overrides;  // --set, --seed, --run-dir
  std::vector<std::string> faults;     // --fault
  RunOptions run;
  ChatOptions chat;  // generate --model
  PlanOptions plan;
  ConvertOptions convert;
  std::string inspect;  // file or directory
  DataOptions data;
  bool runs_on_ranks() const {
    return kind != CommandKind::kReport && kind != CommandKind::kDoctor && kind != CommandKind::kPlan &&
           kind != CommandKind::kConvert && kind != CommandKind::kInspect && kind != CommandKind::kData;
  }
};

// Either a command, or text to print (help) and nothing to do. Throws Error(kConfig), one line, on a usage
// error.
struct Parsed {
  std::optional<Command> command;
  std::string text;
};
Parsed parse_arguments(const std::vector<std::string>& arguments);  // without the program's name

// What is said and done about a config that does not load on `np` ranks: its problems, exit 10. When only the
// layout is at fault and run.dir holds a checkpoint of the same configuration that the command would go on
// from: exit 12, and first a line that names the layout there.
Error config_refusal(const Command& command, const Error& problems, int np);

// `contender plan` and `contender doctor`: everything they print. `program` is how the user called it. Throw
// Error(kConfig). Neither needs the weights or the prompts of a config.
std::string plan_text(const Command& command);
struct DoctorReport {
  std::string text;
  std::string memory_problem;  // of the config on --hardware, in a line; "": it fits, or was not asked for
};
DoctorReport doctor_report(const Command& command, const std::string& program);

// The shortest mpirun line that works on this machine for `np` ranks of `command_line`.
std::string mpirun_line(const MachineFacts& facts, int np, const std::string& command_line);

}  // namespace contender
