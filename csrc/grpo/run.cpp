#include "grpo/run.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/job.h"
#include "base/log.h"
#include "base/timer.h"
#include "grpo/stage_prompts.h"
#include "mpi/mesh.h"
#include "plan/plan.h"
#include "report/files.h"
#include "reward/code_worker.h"

namespace contender {
namespace {

volatile sig_atomic_t g_stop = 0;
void on_stop(int) { g_stop = 1; }

namespace fs = std::filesystem;

// The evaluation before an RL stage, kept in checkpoints for the closing table: numbers and the first few
// completions.
constexpr size_t kKeptGroups = 8;

std::string pack_evaluation(const EvalResult& e, double greedy) {
  nlohmann::json j = {{"accuracy", e.accuracy}, {"greedy", greedy}, {"groups", nlohmann::json::array()}};
  for (size_t i = 0; i < e.groups.size() && i < kKeptGroups; ++i)
    j["groups"].push_back(
        {{"text", e.groups[i].samples[0].text}, {"accuracy", e.groups[i].samples[0].score.accuracy}});
  return j.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

EvalResult unpack_evaluation(const std::string& text, double& greedy) {
  const nlohmann::json j = nlohmann::json::parse(text);
  EvalResult e;
  e.accuracy = j.at("accuracy");
  greedy = j.at("greedy");
  for (const auto& g : j.at("groups")) {
    Sample s;
    s.text = g.at("text");
    s.score.accuracy = g.at("accuracy");
    e.groups.push_back({});
    e.groups.back().samples.push_back(std::move(s));
  }
  return e;
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// What a run has written into its directory, and nothing else.
void remove_run(const fs::path& dir) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(dir, error)) {
    const std::string name = entry.path().filename();
    const bool ours = name.starts_with("step_") || name.starts_with("events.out.tfevents") ||
                      name.starts_with("bad_batch_") || name.starts_with("watchdog.") || name == "latest" ||
                      name == "metrics.jsonl" || name == "completions.jsonl" || name == "config.fingerprint";
    if (ours) fs::remove_all(entry.path(), error);
  }
}

// Every prompt of every stage, so that a bad line of the last stage's file does not wait for the first
// stages; what is to be said of them. True when programs will have to be run.
bool check_prompt_files(const RunConfig& config) {
  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(config);
  bool programs = false;
  for (const StageConfig& stage : config.stages) {
    if (stage.task.name != "jsonl") continue;
    const auto train = open_stage_prompts(config, stage, Split::kTrain, *tokenizer);
    if (!train->note().empty()) log_warn("stage {}: {}", stage.name, train->note());
    const auto held_out = open_stage_prompts(config, stage, Split::kHeldOut, *tokenizer);
    programs |= stage.kind != "sft" && stage.reward.type == "rule" &&
                (train->asks_for_programs() || held_out->asks_for_programs());
  }
  return programs;
}

// Ranks are on several machines, and what one can do another may not be able to.
void check_sandboxes(Group& world, bool programs) {
  double asked = programs;
  world.all_reduce_max("sandbox", &asked, 1);
  if (asked == 0) return;
  const std::vector<std::string> problems = world.all_gather_bytes("sandbox", code_worker_problem());
  for (size_t rank = 0; rank < problems.size(); ++rank)
    if (!problems[rank].empty())
      fail(ExitCode::kSandbox, "prompts of task \"code\" need a sandbox for programs: {} (rank {})",
           problems[rank], rank);
}

// The first line that two fingerprints do not share: "model.hidden_size = 64 there, model.hidden_size = 128
// here".
std::string first_difference(const std::string& there, const std::string& here) {
  std::istringstream a(there), b(here);
  for (std::string x, y;;) {
    const bool more_a = static_cast<bool>(std::getline(a, x)), more_b = static_cast<bool>(std::getline(b, y));
    if (!more_a && !more_b) return "nothing";
    if (!more_a || !more_b || x != y)
      return fmt::format("{} there, {} here", more_a ? x : "nothing", more_b ? y : "nothing");
  }
}

}  // namespace

Run::Run(const RunConfig& config, const RunOptions& options, Purpose purpose)
    : config_(config), options_(options) {
  ::signal(SIGUSR1, on_stop);
  // Before any work; one rank says it.
  const bool programs = launcher_info().rank == 0 && check_prompt_files(config_);
  std::unique_ptr<Device> device = options.backend.make_device();
  const std::string device_name = device->name();
  const Plan plan = make_plan(config_, {.np = launcher_info().size},
                              {.name = device_name, .memory_bytes = device->memory_bytes()});
  if (purpose == Purpose::kTrain) require_memory(plan);
  machine_ = std::make_unique<Machine>(config_, *options.backend.ops, std::move(device));
  check_sandboxes(machine_->mesh->world(), programs);
  std::string checkpoint = options.checkpoint;
  if (checkpoint.empty() && options.resume != ResumeMode::kNever) checkpoint = newest_checkpoint();
  if (checkpoint.empty() && options.resume == ResumeMode::kRequired)
    fail(ExitCode::kNoCheckpoint, "run.dir: no checkpoint in \"{}\" to go on from", config_.dir);
  if (checkpoint.empty() && !config_.model.path.empty()) {
    start_.emplace(config_.model.path);
    start_->check(config_.model);
  }
  if (purpose == Purpose::kTrain) open_directory(options.resume);
  double rate = options.backend.matrix_gflops ? options.backend.matrix_gflops() : 0;
  machine_->mesh->world().all_reduce_max("matrix_rate", &rate, 1);
  matrix_gflops_ = rate * machine_->mesh->size();
  trainer_ = std::make_unique<Trainer>(config_, *machine_);
  if (leader()) {
    const std::string& why = options.backend.why_not_cuda;
    log_info("device: {}{}", device_name, why.empty() ? "" : ", because " + why);
    if (purpose == Purpose::kTrain) log_info("{}", format_table(memory_table(plan).rows));
  }
  if (purpose == Purpose::kSample) {
    checkpoint.empty() ? load_start() : load_weights(Checkpoint(checkpoint));
    return;
  }
  checkpoint.empty() ? begin() : load(checkpoint);
  last_checkpoint_ = checkpoint;
  tell_last_words(/*publishing=*/false);
  if (config_.metrics.trace) start_trace(machine_->mesh->rank());
  if (leader()) {
    metrics_ = std::make_unique<MetricWriter>(config_.dir, config_.metrics.tensorboard);
    metrics_->truncate(trainer_->state().metric_lines);
    cut_completions();
  }
}

Run::~Run() {
  if (lock_ >= 0) ::close(lock_);
}

// One job at a time writes here. The kernel takes the lock back when the process ends, however it ends; a
// file that can be written, because NFS locks no other; file systems without locks are trusted.
bool Run::another_job_writes() {
  lock_ = ::open((config_.dir + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  return ::flock(lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

// The directory belongs to one configuration: its fingerprint is the file `config.fingerprint`.
void Run::open_directory(ResumeMode resume) {
  std::string problem;
  if (leader()) {
    std::error_code error;
    const fs::path dir = config_.dir, mark = dir / "config.fingerprint";
    const std::string fingerprint = config_fingerprint(config_);
    fs::create_directories(dir, error);
    const bool writable = !error && ::access(config_.dir.c_str(), W_OK) == 0;
    const int reason = errno;
    const bool taken = writable && another_job_writes();
    if (!taken && resume == ResumeMode::kNever && fs::exists(mark)) remove_run(dir);
    if (!writable) {
      problem = fmt::format("run.dir: cannot write to \"{}\": {}", config_.dir,
                            error ? error.message() : std::strerror(reason));
    } else if (taken) {
      problem =
          fmt::format("run.dir: another job is writing to \"{}\": wait for its end, or end it", config_.dir);
    } else if (fs::exists(mark) && read_file(mark) != fingerprint) {
      problem = fmt::format(
          "run.dir: \"{}\" holds a run with another configuration ({}); choose another directory, or start "
          "over with --no-resume",
          config_.dir, first_difference(read_file(mark), fingerprint));
    } else {
      replace_file(mark, fingerprint);
      RunConfig as_asked = config_;
      as_asked.device = options_.backend.asked;
      replace_file(dir / "config.toml", config_text(as_asked));
    }
  }
  for (const std::string& p : machine_->mesh->world().all_gather_bytes("run_dir", problem))
    if (!p.empty()) throw Error(ExitCode::kConfig, p);
  set_watchdog(config_.train.watchdog_seconds,
               fmt::format("{}/watchdog.{}.txt", config_.dir, machine_->mesh->rank()));
}

bool Run::stop_requested() {
  double stop = g_stop;
  machine_->mesh->world().all_reduce_max("stop", &stop, 1);
  return stop > 0;
}

void Run::execute(bool (*wanted)(const StageConfig&)) {
  for (int64_t i = 0; i < static_cast<int64_t>(config_.stages.size()); ++i) {
    TrainState& state = trainer_->state();
    if (i < state.stage || !wanted(config_.stages[i])) continue;
    if (i > state.stage || state.step == 0) {
      state.stage = i;
      state.step = 0;
      state.prompt_cursor = state.group_cursor = 0;
      state.reference_version = 0;
      state.norms = state.losses = state.kls = {};
      trainer_->begin_stage(config_.stages[i]);
    }
    run_stage(config_.stages[i]);
    state.stage = i + 1;
    state.step = 0;
    save();
  }
  if (failed_saves_ > 0)
    fail(ExitCode::kStorage, "the run is complete, but its last checkpoint could not be written");
  if (config_.metrics.trace)
    write_trace(fmt::format("{}/trace.{}.json", config_.dir, machine_->mesh->rank()));
}

bool Run::stage_done(const StageConfig& stage) const {
  const TrainState& state = trainer_->state();
  if (stage.kind == "rl") return state.step >= stage.rl.steps;
  const bool good_enough = stage.sft.stop_at_accuracy > 0 && last_accuracy_ >= stage.sft.stop_at_accuracy;
  return state.step >= stage.sft.steps || good_enough;
}

void Run::run_stage(const StageConfig& stage) {
  TrainState& state = trainer_->state();
  const bool rl = stage.kind == "rl";
  StageResult result{.kind = stage.kind, .task = stage.task.name};
  const double start = now_seconds();
  if (state.step == 0) last_accuracy_ = 0;
  if (stage.kind == "rejection" && state.step == 0) trainer_->collect_rejection_set();
  if (rl && state.step == 0) {
    evaluate_into(result, true);
    stage_before_ = pack_evaluation(*result.before, result.greedy_before);
  } else if (rl) {
    result.before = unpack_evaluation(stage_before_, result.greedy_before);
  }
  if (leader())
    console_ = std::make_unique<Console>(stage.name.empty() ? stage.kind : stage.name,
                                         rl ? stage.rl.steps : stage.sft.steps);
  while (!stage_done(stage)) {
    job_position().step = state.global_step;
    run_process_faults(machine_->mesh->rank());
    const int64_t before = state.global_step;
    one_step(stage);
    const bool stop = stop_requested();
    if (stop || due(config_.checkpoint.every, before, state.global_step)) save();
    if (stop && failed_saves_ > 0)
      fail(ExitCode::kStorage, "stopped on request after step {}, but its checkpoint could not be written",
           state.global_step);
    if (stop)
      fail(ExitCode::kStopped, "stopped on request after step {}; start the same command again to go on",
           state.global_step);
  }
  console_.reset();
  if (rl) keep_trained([&] { evaluate_into(result, false); });
  result.steps = state.step;
  result.seconds = now_seconds() - start;
  results_.push_back(std::move(result));
}

// Scores that do not come (exit 21) are the fault of the user's program, and every rank learns of it
// together: the work is as if it had not begun, and what has been trained is kept.
void Run::keep_trained(const std::function<void()>& work) {
  TrainState& state = trainer_->state();
  const TrainState before = state;
  try {
    work();
  } catch (const Error& e) {
    if (e.code() != ExitCode::kSandbox) throw;
    state = before;
    state.prompt_cursor = state.group_cursor;
    trainer_->drop_in_flight();
    save();
    throw;
  }
}

// A curve may miss a point; whether the run can go on, its own rollouts show.
void Run::evaluate_on_the_way() {
  const EvalConfig& c = config_.eval;
  try {
    const EvalResult e =
        trainer_->evaluate(c.problems, 1, static_cast<float>(c.temperature), static_cast<float>(c.top_p));
    last_accuracy_ = e.accuracy;
    trainer_->record().set("eval_accuracy", e.accuracy);
    trainer_->record().set("eval_format", e.format);
  } catch (const Error& e) {
    if (e.code() != ExitCode::kSandbox) throw;
    if (leader()) log_warn("step {} is not evaluated: {}", trainer_->state().global_step, e.what());
  }
}

void Run::one_step(const StageConfig& stage) {
  const double start = now_seconds();
  const TrainState before = trainer_->state();
  const bool rl = stage.kind == "rl";
  rl ? keep_trained([&] { trainer_->rl_step(); }) : trainer_->sft_step();
  TrainState& state = trainer_->state();
  MetricRecord& r = trainer_->record();
  if (due(rl ? config_.eval.every : stage.sft.eval_every, before.step, state.step)) evaluate_on_the_way();
  const double seconds = now_seconds() - start;
  state.seconds += seconds;
  step_seconds_.push_back(seconds);
  std::vector<double> sorted = step_seconds_;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<int64_t>(sorted.size() / 2), sorted.end());
  set_step_seconds(sorted[sorted.size() / 2]);
  const double tokens = static_cast<double>(state.tokens_trained - before.tokens_trained +
                                            state.tokens_generated - before.tokens_generated);
  const double flops = 2.0 * model_size(config_.model).active *
                       (3.0 * static_cast<double>(state.tokens_trained - before.tokens_trained) +
                        static_cast<double>(state.tokens_generated - before.tokens_generated));
  r.set_seconds("step", seconds);
  if (const DelaySeconds delay = take_delay_seconds(); delay.injected > 0) {
    r.set_seconds("delay_injected", delay.injected);
    r.set_seconds("delay_exposed", delay.exposed);
  }
  for (const auto& [phase, s] : take_phase_seconds()) {
    phase_total_[phase] += s;
    r.set_seconds(phase, s);
  }
  r.set_rate("tokens_per_second", tokens / seconds);
  if (matrix_gflops_ > 0) r.set_rate("matrix_share", flops * 1e-9 / seconds / matrix_gflops_);
  r.set_rate("dollars", dollars());
  if (!leader()) return;
  metrics_->write(stage.name.empty() ? stage.kind : stage.name, state.step, r);
  state.metric_lines = metrics_->lines();
  console_->step(state.step, r);
  if (rl && config_.metrics.completions) write_completions(stage);
}

double Run::dollars() const {
  return trainer_->state().seconds / 3600.0 * config_.metrics.dollars_per_rank_hour * machine_->mesh->size();
}

double Run::evaluate_into(StageResult& result, bool before) {
  const EvalConfig& e = config_.eval;
  EvalResult at_t = trainer_->evaluate(e.problems, e.samples, static_cast<float>(e.temperature),
                                       static_cast<float>(e.top_p));
  const double greedy = trainer_->evaluate(e.problems, 1, 0.0f, 1.0f).accuracy;
  if (leader())
    log_info("{} the {} stage: accuracy {:.3f} at T = {:g}, {:.3f} greedy, on {} held-out problems",
             before ? "before" : "after", result.kind, at_t.accuracy, e.temperature, greedy,
             at_t.groups.size());
  for (const auto& [phase, s] : take_phase_seconds()) phase_total_[phase] += s;
  (before ? result.greedy_before : result.greedy_after) = greedy;
  const double accuracy = at_t.accuracy;
  (before ? result.before : result.after) = std::move(at_t);
  return accuracy;
}

}  // namespace contender
