// `contender doctor` and `contender plan`: what this machine is, and what a config would do here.
#include "base/error.h"
#include "cli/backend.h"
#include "cli/cli.h"
#include "cli/cuda_limits.h"
#include "cli/run_check.h"
#include "cpu/machine_peak.h"
#include "hub/model_config.h"
#include "report/metrics.h"
#include "reward/sandbox.h"

namespace contender {
namespace {

std::string gib(int64_t bytes) { return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / (1 << 30)); }

// Measured once.
struct Rates {
  double gflops = cpu::measured_matrix_gflops(), gbps = cpu::measured_copy_gbps();
};
const Rates& rates() {
  static const Rates r;
  return r;
}

Hardware this_cpu(const MachineFacts& facts, int np) {
  return {"cpu (measured)", rates().gflops * 1e9, rates().gbps * 1e9, facts.memory_bytes / np};
}

// What run.device = "auto" comes to here.
std::string device_text(const DeviceChoice& c) {
  if (c.device == "cpu") return fmt::format("CPU, because {}", c.why_not_cuda);
  std::string names;
  for (const cuda::Gpu& g : c.found.gpus)
    names += fmt::format("{}{} {}", names.empty() ? "" : ", ", g.name, gib(g.memory_bytes));
  return fmt::format("CUDA {}.{} on {}", c.found.runtime / 1000, c.found.runtime % 1000 / 10, names);
}

// A config, checked for its ranks, whose files may still be missing.
struct CheckedConfig {
  RunConfig config;
  std::vector<MissingInput> missing;
  int np = 0;
};

CheckedConfig load_for_plan(const Command& command) {
  CheckedConfig c;
  const auto load = [&](int np) {
    return load_config_before_files(command.config, command.overrides, np, read_model_config, c.missing);
  };
  c.config = load(command.plan.np);
  c.np = plan_ranks(c.config, command.plan);
  if (command.plan.np == 0) c.config = load(c.np);
  const bool gpu = command.plan.hardware != "cpu";
  if (gpu || c.config.device == "cuda") require_cuda_takes(c.config);
  c.config.device = gpu ? "cuda" : "cpu";  // sizes follow from it
  return c;
}

Plan plan_of(const Command& command, const CheckedConfig& c) {
  return make_plan(c.config, command.plan,
                   command.plan.hardware == "cpu" ? this_cpu(read_machine_facts(), c.np)
                                                  : gpu_hardware(command.plan.hardware));
}

std::string tables_text(const Command& command, const CheckedConfig& c, const Plan& plan) {
  std::string text;
  for (const PlanTable& t : plan_tables(c.config, command.plan, plan))
    text += (text.empty() ? "" : "\n") + t.title + "\n" + format_table(t.rows);
  return text;
}

// What a run of the config meets here: its files, its parts, its memory.
std::string config_report(const Command& command, const CheckedConfig& c, std::string& memory_problem) {
  const Plan plan = plan_of(command, c);
  std::string memory = "fits";
  try {
    require_memory(plan);
  } catch (const Error& e) {
    memory = e.what();
    if (command.plan.hardware != "cpu") memory_problem = memory;
  }
  return fmt::format("\n{}: no problems\n{}{:<10} {}\n\nShards\n{}\n{}", c.config.path,
                     files_text(c.config, c.missing), "memory", memory, shards_text(c.config, plan.mesh),
                     tables_text(command, c, plan));
}

}  // namespace

std::string plan_text(const Command& command) {
  const CheckedConfig c = load_for_plan(command);
  return tables_text(command, c, plan_of(command, c));
}

std::string mpirun_line(const MachineFacts& facts, int np, const std::string& command_line) {
  std::string line;
  if (facts.root) line += "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 ";
  line += "mpirun ";
  if (np > facts.cores) line += "--oversubscribe ";
  line += "--quiet ";
  // Containers forbid the system call by which ranks read each other's memory; Open MPI would warn about it.
  if (facts.seccomp) line += "--mca btl_vader_single_copy_mechanism none ";
  return fmt::format("{}-np {} {}", line, np, command_line);
}

DoctorReport doctor_report(const Command& command, const std::string& program) {
  const MachineFacts f = read_machine_facts();
  DoctorReport report;
  std::string about_config, example = fmt::format("{} train configs/tiny.toml", program);
  int np = command.plan.np > 0 ? command.plan.np : 4;
  if (!command.config.empty()) {
    const CheckedConfig c = load_for_plan(command);
    np = c.np;
    example = fmt::format("{} train {}", program, command.config);
    for (const std::string& o : command.overrides) example += fmt::format(" --set '{}'", o);
    about_config = config_report(command, c, report.memory_problem);
  }
  const std::string shared = f.seccomp
                                 ? "ranks copy through shared memory (a seccomp filter forbids direct reads)"
                                 : "ranks read each other's memory";
  const std::string no_sandbox = sandbox_problem();
  const std::vector<std::pair<std::string, std::string>> rows = {
      {"CPU", fmt::format("{}, {} core{}, {}", f.cpu, f.cores, f.cores == 1 ? "" : "s", f.vectors)},
      {"rates", fmt::format("{:.1f} GFLOP/s matrix peak of a core, {:.1f} GB/s copy, both measured now",
                            rates().gflops, rates().gbps)},
      {"memory", fmt::format("{}, {} available", gib(f.memory_bytes), gib(f.available_bytes))},
      {"disk", fmt::format("{} free in this directory", gib(f.disk_free_bytes))},
      {"container", f.container.empty() ? "no" : f.container},
      {"MPI", fmt::format("{}; {}", f.mpi, shared)},
      {"GPU", f.gpu},
      {"NCCL", f.nccl},
      {"device", device_text(choose_device("auto"))},
      {"programs", no_sandbox.empty() ? "run in sandboxes, for prompts of task code"
                                      : "no prompts of task code: " + no_sandbox},
      {"run", mpirun_line(f, np, example)},
  };
  std::string& text = report.text;
  for (const auto& [name, value] : rows) text += fmt::format("{:<10} {}\n", name, value);
  if (np > f.cores)
    text += fmt::format("{:<10} {} ranks share {} core{}: fine for trying, slow for training\n", "", np,
                        f.cores, f.cores == 1 ? "" : "s");
  text += about_config;
  return report;
}

}  // namespace contender
