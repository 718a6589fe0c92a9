// Checkpoints of a run: weights and reference under their Hugging Face names, optimizer shards as regions of
// the same tensors, and everything the trainer remembers. Any layout that the configuration allows can go on
// from any other.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <set>

#include "base/job.h"
#include "base/log.h"
#include "base/timer.h"
#include "checkpoint/checkpoint.h"
#include "grpo/run.h"
#include "hub/load.h"

namespace contender {
namespace {

using Json = nlohmann::json;

// A rectangle of local parameter rows and columns, and its place in the Hugging Face tensor.
struct Rectangle {
  const ParamPiece* piece;
  int64_t row, rows, col, cols;  // local
  int64_t hf_row() const { return piece->hf_row + row - piece->local_row; }
  int64_t hf_col() const { return piece->hf_col + col; }
};

std::vector<Rectangle> rectangles(const ParamSpec& s, int64_t row, int64_t rows, int64_t col, int64_t cols) {
  std::vector<Rectangle> out;
  for (const ParamPiece& piece : s.pieces) {
    const int64_t begin = std::max(row, piece.local_row),
                  end = std::min(row + rows, piece.local_row + piece.rows);
    if (begin < end) out.push_back({&piece, begin, end - begin, col, cols});
  }
  return out;
}

ShardTensor shard_tensor(const WeightStore& w, const std::string& prefix, const Rectangle& r,
                         const Tensor& data) {
  return {.name = prefix + r.piece->hf_name,
          .dtype = data.dtype,
          .rows = r.rows,
          .cols = r.cols,
          .global_rows = r.piece->hf_rows,
          .global_cols = r.piece->hf_cols,
          .row_begin = r.hf_row(),
          .col_begin = r.hf_col(),
          .data = [&w, data, memory = std::make_shared<std::vector<char>>()] {
            return w.host_view(data, *memory);
          }};
}

// Weights that this rank is the first to hold.
void add_weights(const WeightStore& w, const std::string& prefix, std::vector<ShardTensor>& out) {
  for (int p = 0; p < static_cast<int>(w.specs().size()); ++p) {
    const ParamSpec& s = w.specs()[p];
    if (w.group_of(s.kind).rank() != 0) continue;
    for (const Rectangle& r : rectangles(s, 0, s.rows(), 0, s.k))
      out.push_back(shard_tensor(w, prefix, r, w.master(p).row_range(r.row, r.row + r.rows)));
  }
}

// The tensors of the checkpoint are those of the model, one for one, whatever part of them this rank holds.
void check_model(const Checkpoint& c, const ModelConfig& model) {
  const auto refuse = [&](const std::string& what) {
    fail(ExitCode::kConfig, "{}: a checkpoint of another model: {}", c.path(), what);
  };
  std::set<std::string> known;
  for (const ParamSpec& s : param_specs(model, {}))
    for (const ParamPiece& piece : s.pieces) {
      known.insert(piece.hf_name);
      if (!c.has(piece.hf_name)) refuse(fmt::format("it has no {}", piece.hf_name));
      const Checkpoint::Shape shape = c.shape(piece.hf_name);
      if (shape.rows != piece.hf_rows || shape.cols != piece.hf_cols)
        refuse(fmt::format("{} is {} x {}, the model has {} x {}", piece.hf_name, shape.rows, shape.cols,
                           piece.hf_rows, piece.hf_cols));
    }
  for (const std::string& name : c.names()) {
    const bool of_trainer =
        name.starts_with("opt.") || name.starts_with("ref/") || name.starts_with("state/");
    if (!of_trainer && !known.contains(name)) refuse(fmt::format("the model has no {}", name));
  }
}

void read_weights(const Checkpoint& c, WeightStore& w, const std::string& prefix) {
  for (int p = 0; p < static_cast<int>(w.specs().size()); ++p) {
    const ParamSpec& s = w.specs()[p];
    std::vector<float> values(s.numel());
    for (const ParamPiece& piece : s.pieces)
      c.read_region(prefix + piece.hf_name, piece.hf_row, piece.rows, piece.hf_col, piece.cols,
                    values.data() + piece.local_row * s.k, s.k);
    w.set_master(p, 0, values);
  }
  w.repack();
}

// This rank's optimizer shards, rectangle by rectangle: f(prefix-free rectangle, place in the shard buffers).
template <class F>
void for_shard_rectangles(const WeightStore& w, F f) {
  for (const Bucket& b : w.buckets()) {
    int64_t place = 0;
    for (int p : b.params) {
      const ParamSpec& s = w.specs()[p];
      const int64_t begin = std::max(place, b.shard_begin),
                    end = std::min(place + s.numel(), b.shard_begin + b.shard_n);
      if (begin < end) {
        const int64_t base = b.shard_offset + begin - b.shard_begin;
        for (const FlatRegion& region : flat_regions(s.k, begin - place, end - place))
          for (const Rectangle& r :
               rectangles(s, region.row_begin, region.rows, region.col_begin, region.cols))
            f(r, base + region.flat + (r.row - region.row_begin) * region.cols);
      }
      place += s.numel();
    }
  }
}

Json state_json(const TrainState& s, const std::string& prompts, double last_accuracy,
                const std::string& stage_before) {
  return {{"stage", s.stage},
          {"prompts", prompts},
          {"step", s.step},
          {"global_step", s.global_step},
          {"updates", s.updates},
          {"prompt_cursor", s.prompt_cursor},
          {"group_cursor", s.group_cursor},
          {"skipped", s.skipped},
          {"metric_lines", s.metric_lines},
          {"completion_bytes", s.completion_bytes},
          {"tokens_generated", s.tokens_generated},
          {"tokens_trained", s.tokens_trained},
          {"seconds", s.seconds},
          {"max_logp_diff", s.max_logp_diff},
          {"reference_version", s.reference_version},
          {"norms", s.norms.values},
          {"losses", s.losses.values},
          {"kls", s.kls.values},
          {"last_accuracy", last_accuracy},
          {"stage_before", stage_before}};
}

TrainState parse_state(const Json& j) {
  TrainState s;
  s.stage = j.at("stage"), s.step = j.at("step"), s.global_step = j.at("global_step"),
  s.updates = j.at("updates");
  s.prompt_cursor = j.at("prompt_cursor"), s.group_cursor = j.at("group_cursor"), s.skipped = j.at("skipped");
  s.metric_lines = j.at("metric_lines"), s.completion_bytes = j.at("completion_bytes"),
  s.tokens_generated = j.at("tokens_generated"), s.tokens_trained = j.at("tokens_trained");
  s.seconds = j.at("seconds"), s.max_logp_diff = j.at("max_logp_diff"),
  s.reference_version = j.at("reference_version");
  s.norms.values = j.at("norms").get<std::vector<double>>();
  s.losses.values = j.value("losses", std::vector<double>());  // not in checkpoints of earlier builds
  s.kls.values = j.value("kls", std::vector<double>());
  return s;
}

ShardTensor bytes_tensor(const std::string& name, const std::string& bytes) {
  const Tensor t(const_cast<char*>(bytes.data()), DType::kU8, 1, static_cast<int64_t>(bytes.size()));
  return {.name = name,
          .dtype = DType::kU8,
          .rows = 1,
          .cols = t.cols,
          .global_rows = 1,
          .global_cols = t.cols,
          .data = [t] { return t; }};
}

}  // namespace

void Run::save() {
  TimerScope scope("save");
  Mesh& mesh = *machine_->mesh;
  WeightStore& w = trainer_->policy_weights();
  const MeshShape& m = mesh.shape();
  TrainState& state = trainer_->state();
  const AllGather all_gather = [&](const std::string& s) { return mesh.world().all_gather_bytes("save", s); };
  try {
    CheckpointWriter writer(
        config_.dir,
        {.run_id = run_id_,
         .step = state.global_step,
         .layout = {m.tp, m.dp, m.ep, m.np()},
         .config_hash = config_fingerprint(config_),
         .tokenizer_hash = trainer_->tokenizer().fingerprint(),
         .state = state_json(state, trainer_->prompts_fingerprint(), last_accuracy_, stage_before_).dump()},
        mesh.rank(), all_gather);
    std::vector<ShardTensor> tensors;
    add_weights(w, "", tensors);
    writer.add_file(fmt::format("model-{:05d}.safetensors", mesh.rank()), tensors);

    tensors.clear();
    for_shard_rectangles(w, [&](const Rectangle& r, int64_t at) {
      tensors.push_back(shard_tensor(w, "opt.m/", r, w.moment_m(at, r.rows, r.cols)));
      tensors.push_back(shard_tensor(w, "opt.v/", r, w.moment_v(at, r.rows, r.cols)));
    });
    if (trainer_->reference_weights()) add_weights(*trainer_->reference_weights(), "ref/", tensors);
    const std::map<std::string, std::string> memory = trainer_->save_memory();
    for (const auto& [name, bytes] : memory)
      if (!bytes.empty())
        tensors.push_back(bytes_tensor(fmt::format("state/{}.{}", name, mesh.rank()), bytes));
    writer.add_file(fmt::format("trainer-{:05d}.safetensors", mesh.rank()), tensors);
    tell_last_words(/*publishing=*/true);
    last_checkpoint_ = writer.commit(config_.checkpoint.keep_last, config_.checkpoint.keep_every);
    failed_saves_ = 0;
  } catch (const Error& e) {
    if (e.code() != ExitCode::kStorage) throw;
    ++failed_saves_;
    if (leader())
      log_error("checkpoint of step {} failed, training goes on ({} of {}): {}", state.global_step,
                failed_saves_, config_.checkpoint.max_failures, e.what());
    if (failed_saves_ >= config_.checkpoint.max_failures) throw;
  }
  tell_last_words(/*publishing=*/false);
}

// What SIGTERM is answered with.
void Run::tell_last_words(bool publishing) const {
  if (!leader()) return;
  std::string where = "there is no checkpoint yet; the same command starts from the beginning";
  if (publishing) {
    where =
        "a checkpoint is being published, whole or not at all; the same command goes on from the last one";
  } else if (!last_checkpoint_.empty()) {
    where =
        fmt::format("the last checkpoint, {}, is whole; the same command goes on from it", last_checkpoint_);
  }
  set_last_words("contender: SIGTERM (mpirun sends it too when a rank is gone): " + where);
}

void Run::begin() {
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  run_id_ = machine_->mesh->world().all_gather_bytes("run_id", fmt::format("{:x}-{:x}", now, ::getpid()))[0];
  load_start();
}

void Run::load_start() {
  if (!start_) return;
  const double start = now_seconds();
  contender::load_weights(*start_, config_.model, trainer_->policy_weights());
  if (leader()) log_info("weights of {} in {:.1f} s", start_->path(), now_seconds() - start);
  start_.reset();
}

// One rank looks and verifies; the others take its answer.
std::string Run::newest_checkpoint() {
  std::string found, problem;
  if (leader()) {
    try {
      found = find_checkpoint(config_.dir).value_or("");
    } catch (const Error& e) {
      problem = e.what();
    }
  }
  found = machine_->mesh->world().all_gather_bytes("find_checkpoint", found)[0];
  problem = machine_->mesh->world().all_gather_bytes("find_checkpoint", problem)[0];
  if (!problem.empty()) throw Error(ExitCode::kNoCheckpoint, problem);
  return found;
}

void load_weights(const Checkpoint& c, const ModelConfig& model, WeightStore& weights) {
  check_model(c, model);
  read_weights(c, weights, "");
}

void Run::load_weights(const Checkpoint& c) {
  contender::load_weights(c, config_.model, trainer_->policy_weights());
}

void Run::load(const std::string& path) {
  const Checkpoint c(path);
  if (c.info().config_hash != config_fingerprint(config_))
    fail(ExitCode::kConfig,
         "{} was written with another configuration; choose another run.dir, or start over with --no-resume",
         path);
  if (c.info().tokenizer_hash != trainer_->tokenizer().fingerprint())
    fail(ExitCode::kConfig, "{} was written with another tokenizer", path);
  load_weights(c);
  run_id_ = c.info().run_id;
  const Json state = Json::parse(c.info().state);
  trainer_->state() = parse_state(state);
  last_accuracy_ = state.at("last_accuracy");
  stage_before_ = state.at("stage_before");
  WeightStore& w = trainer_->policy_weights();
  for_shard_rectangles(w, [&](const Rectangle& r, int64_t at) {
    std::vector<float> values(r.rows * r.cols);
    for (const char* which : {"opt.m/", "opt.v/"}) {
      c.read_region(which + r.piece->hf_name, r.hf_row(), r.rows, r.hf_col(), r.cols, values.data(), r.cols);
      w.set_moments(which[4] == 'm', at, values);
    }
  });
  const TrainState& s = trainer_->state();
  w.set_version(s.updates);
  trainer_->engine().set_weights(w.version());
  if (s.step > 0 && s.stage < static_cast<int64_t>(config_.stages.size())) {
    trainer_->begin_stage(config_.stages[s.stage]);
    const std::string prompts = trainer_->prompts_fingerprint();
    if (state.value("prompts", prompts) != prompts)  // not in checkpoints of earlier builds
      fail(ExitCode::kConfig,
           "{} was written with other training prompts: task.train_files have changed since", path);
    if (trainer_->reference_weights() && c.has("ref/model.norm.weight"))
      read_weights(c, *trainer_->reference_weights(), "ref/");
    std::map<std::string, std::string> memory;  // of all ranks that wrote, one after the other
    for (int64_t r = 0; r < c.info().layout.np; ++r)
      for (const char* name : {"engine", "in_flight", "ready", "rejection"})
        if (const std::string key = fmt::format("state/{}.{}", name, r); c.has(key))
          memory[name] += c.read_bytes(key);
    trainer_->load_memory(memory);
  }
  if (leader()) {
    const CheckpointLayout& l = c.info().layout;
    log_info("going on from {}: step {}, written by {} ranks (tp {}, dp {}, ep {})", path, s.global_step,
             l.np, l.tp, l.dp, l.ep);
  }
}

}  // namespace contender
