// contender: parse, check everything, choose the device, start ranks, run, end with a documented exit code.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <thread>

#include "base/error.h"
#include "base/job.h"
#include "base/log.h"
#include "cli/backend.h"
#include "cli/cli.h"
#include "cli/cuda_limits.h"
#include "cli/models.h"
#include "hub/model_config.h"
#include "mpi/mesh.h"
#include "report/metrics.h"
#include "reward/reward.h"

namespace contender {
namespace {

bool g_ranks_started = false;

// Before the ranks talk to each other everyone finds the same problem: the first rank of each machine says
// it.
bool speaks_before_start() { return local_rank() == 0; }

std::string host_name() {
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  return name;
}

// Behind all that was printed, where both go to one place.
void complain(const std::string& line) {
  std::fflush(stdout);
  std::fprintf(stderr, "%s\n", line.c_str());
}

// All ranks are here with the same news (a stop on request): one line, and an end in good order.
[[noreturn]] void end_together(ExitCode code, const std::string& message) {
  if (launcher_info().rank == 0) complain("contender: " + message);
  finalize_mpi();
  std::fflush(nullptr);
  std::_Exit(static_cast<int>(code));
}

std::string name_of_this_rank() {
  const MpiInfo me = launcher_info();
  return me.size > 1 ? fmt::format("rank {}", me.rank) : "contender";
}

// One rank, or each for itself, in the middle of things: everybody ends. When all ranks meet the same error,
// rank 0's word is enough: it ends the job while the others wait.
[[noreturn]] void end_running(ExitCode code, const std::string& message) {
  using namespace std::chrono_literals;
  if (launcher_info().rank != 0) std::this_thread::sleep_for(500ms);
  const JobPosition& at = job_position();
  const bool in_step = std::string(at.phase) != JobPosition().phase;
  const std::string where = in_step ? fmt::format(" [{}, step {}, {}]", host_name(), at.step, at.phase) : "";
  complain(name_of_this_rank() + ": " + message + where);
  abort_job(static_cast<int>(code));
}

// `lines`: the message is complete as it is (file:line: ...).
[[noreturn]] void end_with(ExitCode code, const std::string& message, bool lines = false) {
  using namespace std::chrono_literals;
  if (g_ranks_started) code == ExitCode::kStopped ? end_together(code, message) : end_running(code, message);
  if (speaks_before_start()) {
    const int rank = launcher_info().rank;
    const std::string who = rank == 0 ? "contender" : fmt::format("rank {} ({})", rank, host_name());
    complain(lines ? message : who + ": " + message);
  } else {
    std::this_thread::sleep_for(500ms);  // mpirun ends the others as soon as one has ended
  }
  std::fflush(nullptr);
  std::_Exit(static_cast<int>(code));
}

ChatModel checked_chat_model(const Command& command) {
  try {
    return open_chat_model(command.chat, command.overrides, launcher_info().size);
  } catch (const Error& e) {
    const std::string what = e.what();
    end_with(e.code(), what, /*lines=*/what.find('\n') != std::string::npos);
  }
}

RunConfig checked_config(const Command& command) {
  RunConfig config;
  try {
    config = load_config(command.config, command.overrides, launcher_info().size, read_model_config);
  } catch (const Error& e) {
    const Error refusal = config_refusal(command, e, launcher_info().size);
    end_with(refusal.code(), refusal.what(), /*lines=*/true);
  }
  if (config.stages.empty()) {
    fail(ExitCode::kConfig, "{}: nothing to do: set sft.steps or rl.steps, or write a [[stage]]",
         command.config);
  }
  return config;
}

// A prompt set may name any task: math and code are verified by processes, like a reward program.
bool needs_reward_workers(const RunConfig& config) {
  for (const StageConfig& s : config.stages) {
    if (s.reward.type == "command" || s.task.name == "jsonl") return true;
  }
  return false;
}

// A write beyond `ulimit -f` fails with its reason and its path instead. Not before programs are started that
// run as answers: theirs ends them.
void refuse_large_files_in_words() { std::signal(SIGXFSZ, SIG_IGN); }

int run_application(const Command& command, const RunConfig& config) {
  switch (command.kind) {
    case CommandKind::kSft:
      return run_sft(config, command.run);
    case CommandKind::kTrain:
      return run_train(config, command.run);
    case CommandKind::kEval:
      return run_eval(config, command.run);
    case CommandKind::kGenerate:
      return run_generate(config, command.run);
    case CommandKind::kDemo:
      return run_demo(config, command.run);
    default:
      fail(ExitCode::kInternal, "command {} runs without ranks", static_cast<int>(command.kind));
  }
}

int run_on_ranks(Command command, int argc, char** argv) {
  for (const std::string& fault : command.faults) add_fault(fault, launcher_info().size);
  const bool chats = !command.chat.model.empty();
  ChatModel chat;
  if (chats) chat = checked_chat_model(command);
  RunConfig config = chats ? chat.config : checked_config(command);
  if (needs_reward_workers(config)) start_worker_server();  // its processes must know nothing of MPI and CUDA
  refuse_large_files_in_words();
  const std::string asked = config.device;
  const DeviceChoice choice = choose_device(asked);
  if (choice.device == "cuda") require_cuda_takes(config);
  init_mpi(&argc, &argv);
  g_ranks_started = true;
  end_on_memory_errors(name_of_this_rank());
  command.run.backend = make_backend(choice, asked);
  config.device = choice.device;  // every size of the run follows from it
  chat.config.device = choice.device;
  const int code =
      chats ? run_chat(chat, command.chat, command.run.backend) : run_application(command, config);
  finalize_mpi();
  g_ranks_started = false;
  return code;
}

int run_alone(const Command& command, const std::string& program) {
  if (launcher_info().rank != 0) return 0;
  refuse_large_files_in_words();
  std::string text, memory_problem;
  if (command.kind == CommandKind::kReport) {
    text = write_report(command.report_dir) + "\n";
  } else if (command.kind == CommandKind::kConvert) {
    text = convert_model(command.convert);
  } else if (command.kind == CommandKind::kInspect) {
    text = inspect_model(command.inspect);
  } else if (command.kind == CommandKind::kData) {
    text = prompt_sets_text(command.data);
  } else {
    try {
      if (command.kind == CommandKind::kPlan) {
        text = plan_text(command);
      } else {
        DoctorReport report = doctor_report(command, program);
        text = std::move(report.text);
        memory_problem = std::move(report.memory_problem);
      }
    } catch (const Error& e) {
      end_with(e.code(), e.what(), /*lines=*/e.code() == ExitCode::kConfig);
    }
  }
  std::fputs(text.c_str(), stdout);
  if (!memory_problem.empty()) fail(ExitCode::kOutOfMemory, "{}", memory_problem);
  return 0;
}

int run(int argc, char** argv) {
  const Parsed parsed = parse_arguments({argv + 1, argv + argc});
  if (!parsed.command) {
    if (launcher_info().rank == 0) std::fputs(parsed.text.c_str(), stdout);
    return argc > 1 ? 0 : static_cast<int>(ExitCode::kConfig);
  }
  return parsed.command->runs_on_ranks() ? run_on_ranks(*parsed.command, argc, argv)
                                         : run_alone(*parsed.command, argv[0]);
}

}  // namespace
}  // namespace contender

int main(int argc, char** argv) {
  using namespace contender;
  try {
    const int code = run(argc, argv);
    if (std::fflush(stdout) != 0 || std::ferror(stdout))
      fail(ExitCode::kStorage, "what was printed could not be written to stdout");
    return code;
  } catch (const Error& e) {
    end_with(e.code(), e.what());
  } catch (const std::bad_alloc&) {
    end_with(ExitCode::kOutOfMemory,
             "out of host memory; lower train.token_budget or rollout.max_sequences, or set train.recompute "
             "= \"full\" "
             "(contender plan shows what takes how much)");
  } catch (const std::exception& e) {
    end_with(ExitCode::kInternal, e.what());
  } catch (...) {
    end_with(ExitCode::kInternal, "an exception of unknown type");
  }
}
