// `contender doctor` and `contender plan`: what this machine is, and what a config would do here.
#include "base/error.h"
#include "cli/backend.h"
#include "cli/cli.h"
#include "cpu/machine_peak.h"
#include "hub/model_config.h"
#include "report/metrics.h"

namespace contender {
namespace {

std::string gib(int64_t bytes) { return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / (1 << 30)); }

Hardware this_cpu(const MachineFacts& facts, int np) {
  return {"cpu (measured)", cpu::measured_matrix_gflops() * 1e9, cpu::measured_copy_gbps() * 1e9,
          facts.memory_bytes / np};
}

// What run.device = "auto" comes to here.
std::string device_text(const DeviceChoice& c) {
  if (c.device == "cpu") return fmt::format("CPU, because {}", c.why_not_cuda);
  std::string names;
  for (const cuda::Gpu& g : c.found.gpus)
    names += fmt::format("{}{} {}", names.empty() ? "" : ", ", g.name, gib(g.memory_bytes));
  return fmt::format("CUDA {}.{} on {}", c.found.runtime / 1000, c.found.runtime % 1000 / 10, names);
}

// Config, checked for its ranks, and its plan.
std::string config_text(const Command& command, RunConfig config) {
  config.device = command.plan.hardware == "cpu" ? "cpu" : "cuda";  // sizes follow from it
  const int np = plan_ranks(config, command.plan);
  const Hardware hardware = command.plan.hardware == "cpu" ? this_cpu(read_machine_facts(), np)
                                                           : gpu_hardware(command.plan.hardware);
  std::string text;
  for (const PlanTable& t : plan_tables(config, command.plan, make_plan(config, command.plan, hardware))) {
    text += (text.empty() ? "" : "\n") + t.title + "\n" + format_table(t.rows);
  }
  return text;
}

RunConfig load_for_plan(const Command& command) {
  const RunConfig config = load_config(command.config, command.overrides, command.plan.np, read_model_config);
  if (command.plan.np > 0) return config;
  return load_config(command.config, command.overrides, plan_ranks(config, command.plan), read_model_config);
}

}  // namespace

std::string plan_text(const Command& command) { return config_text(command, load_for_plan(command)); }

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

std::string doctor_text(const Command& command, const std::string& program) {
  const MachineFacts f = read_machine_facts();
  std::string plan, example = fmt::format("{} train configs/tiny.toml", program);
  int np = command.plan.np > 0 ? command.plan.np : 4;
  if (!command.config.empty()) {
    const RunConfig config = load_for_plan(command);
    np = plan_ranks(config, command.plan);
    example = fmt::format("{} train {}", program, command.config);
    for (const std::string& o : command.overrides) example += fmt::format(" --set '{}'", o);
    plan = "\n" + config.path + ": no problems\n\n" + config_text(command, config);
  }
  const std::string shared = f.seccomp
                                 ? "ranks copy through shared memory (a seccomp filter forbids direct reads)"
                                 : "ranks read each other's memory";
  const std::vector<std::pair<std::string, std::string>> rows = {
      {"CPU", fmt::format("{}, {} core{}, {}", f.cpu, f.cores, f.cores == 1 ? "" : "s", f.vectors)},
      {"rates", fmt::format("{:.1f} GFLOP/s matrix peak of a core, {:.1f} GB/s copy, both measured now",
                            cpu::measured_matrix_gflops(), cpu::measured_copy_gbps())},
      {"memory", fmt::format("{}, {} available", gib(f.memory_bytes), gib(f.available_bytes))},
      {"disk", fmt::format("{} free in this directory", gib(f.disk_free_bytes))},
      {"container", f.container.empty() ? "no" : f.container},
      {"MPI", fmt::format("{}; {}", f.mpi, shared)},
      {"GPU", f.gpu},
      {"NCCL", f.nccl},
      {"device", device_text(choose_device("auto"))},
      {"run", mpirun_line(f, np, example)},
  };
  std::string text;
  for (const auto& [name, value] : rows) text += fmt::format("{:<10} {}\n", name, value);
  if (np > f.cores)
    text += fmt::format("{:<10} {} ranks share {} core{}: fine for trying, slow for training\n", "", np,
                        f.cores, f.cores == 1 ? "" : "s");
  return text + plan;
}

}  // namespace contender
