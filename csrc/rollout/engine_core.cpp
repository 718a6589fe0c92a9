#include "rollout/engine_core.h"

#include <algorithm>

#include "ops/permute.h"

namespace contender {
namespace {

SchedulerLimits limits_of(const RunConfig& config) {
  const int64_t page_size = config.rollout.page_size;
  CHECK(page_size > 0 && page_size % kAttentionBlock == 0, "rollout.page_size {} is not a multiple of {}",
        page_size, kAttentionBlock);
  return {.max_sequences = config.rollout.max_sequences,
          .max_tokens_per_step = config.rollout.max_tokens_per_step,
          .page_size = page_size,
          .num_pages = rollout_kv_pages(config),
          .max_positions = config.model.max_position_embeddings};
}

// Tokens of a prompt and its completion at their longest, in any stage; what the model could hold is often
// far more.
int64_t longest_sequence(const RunConfig& c) {
  const auto of = [](const TaskConfig& task, const RlConfig& rl) {
    return task.max_prompt_tokens + rl.max_new_tokens;
  };
  int64_t longest = c.stages.empty() ? of(c.task, c.rl) : 0;
  for (const StageConfig& s : c.stages) longest = std::max(longest, of(s.task, s.rl));
  return std::min(longest, c.model.max_position_embeddings);
}

// Of a sequence in a graph, whose tables of pages have one size.
int64_t table_pages(const RunConfig& c) {
  if (c.rollout.kv_pages == 0) return ceil_div(longest_sequence(c), c.rollout.page_size);
  return std::min(c.rollout.kv_pages, ceil_div(c.model.max_position_embeddings, c.rollout.page_size));
}

}  // namespace

// One page more than the sequences need: a prompt's partial page waits while some of its samples run.
int64_t rollout_kv_pages(const RunConfig& c) {
  if (c.rollout.kv_pages > 0) return c.rollout.kv_pages;
  return c.rollout.max_sequences * ceil_div(longest_sequence(c), c.rollout.page_size) + 1;
}

EngineCore::EngineCore(const RunConfig& config, int tp, const Runtime& runtime, RolloutPolicy* policy,
                       uint64_t seed, int64_t vocab_limit, int64_t version)
    : runtime_(runtime),
      policy_(policy),
      seed_(seed),
      vocab_limit_(vocab_limit),
      slices_(static_cast<int32_t>(virtual_slices(config.model))),
      version_(version),
      scheduler_(limits_of(config)),
      cache_(runtime.device, config.model, tp, rollout_kv_pages(config), config.rollout.page_size,
             runtime.ops->activation),
      num_layers_(config.model.num_hidden_layers),
      shared_rows_(std::min<int64_t>(64, config.rollout.max_sequences)),
      use_graphs_(!runtime.device->host_memory() && policy->alone()),
      table_pages_(table_pages(config)),
      results_(runtime.device, runtime.exec.stream) {}

EngineCore::~EngineCore() {
  for (const auto& [count, g] : graphs_)
    if (g.graph) runtime_.device->release(g.graph);
}

bool EngineCore::step() {
  if (!policy_->any_rank_has_work(!scheduler_.idle())) return false;
  StepPlan& plan = scheduler_.plan();
  copy_pages(plan.copies);
  const ArenaScope scope(*runtime_.arena);
  results_.clear();
  drawn_.clear();
  list_draws(plan);
  if (!decode_by_graph(plan)) {
    policy_->send(plan.batch, cache_, plan.rows);
    draw(plan, policy_->forward());
  }
  take_results();
  scheduler_.commit(token_.data(), logp_.data(), logp_sampled_.data(), version_);
  return true;
}

void EngineCore::set_weights(int64_t version) {
  version_ = version;
  scheduler_.drop_cache();
}

void EngineCore::copy_pages(const std::vector<PageCopy>& copies) {
  for (const PageCopy& copy : copies) {
    for (int64_t l = 0; l < num_layers_; ++l) {
      const Tensor& rows = cache_.layer(l);
      const int64_t row_bytes = rows.ld * dtype_size(rows.dtype);
      const int64_t page_bytes = cache_.page_size() * row_bytes;
      char* base = static_cast<char*>(rows.data);
      runtime_.device->copy(runtime_.exec.stream, base + copy.to * page_bytes, base + copy.from * page_bytes,
                            copy.rows * row_bytes);
    }
  }
}

void EngineCore::list_draws(const StepPlan& plan) {
  logits_row_.clear();
  params_.clear();
  keys_.clear();
  for (const Draw& d : plan.draws) {
    const RolloutRequest& request = d.sequence->group->request;
    const Completion& c = d.sequence->completion;
    logits_row_.push_back(d.logits_row);
    params_.push_back(request.params);
    keys_.push_back({.seed = seed_,
                     .step = request.step,
                     .prompt = request.prompt_index,
                     .sample = static_cast<uint32_t>(c.sample),
                     .position = static_cast<uint32_t>(c.tokens.size())});
  }
}

// Sequences that decode have a row of logits each; the samples of a prompt share one, of which each gets a
// copy.
void EngineCore::draw(const StepPlan& plan, const Tensor& logits) {
  Arena& arena = *runtime_.arena;
  const int64_t count = std::ssize(plan.draws);
  const auto sample_from = [&](const Tensor& rows, int64_t first) {
    const SampleArgs args = send_keys(rows.rows, first);
    sample(rows, args);
    drawn_.push_back({first, results_.add(args.token, rows.rows), results_.add(args.logp, rows.rows),
                      results_.add(args.logp_sampled, rows.rows)});
  };
  if (plan.num_single > 0) sample_from(logits.row_range(0, plan.num_single), 0);
  for (int64_t first = plan.num_single; first < count; first += shared_rows_) {
    const ArenaScope scope(arena);
    const int64_t rows = std::min(count - first, shared_rows_);
    const Tensor copies = arena.f32(rows, logits.cols), index = arena.i32(1, rows);
    runtime_.device->upload(runtime_.exec.stream, index.data, logits_row_.data() + first, rows * 4);
    runtime_.ops->gather_rows(runtime_.exec, {.x = logits, .index = index.i32(), .y = copies});
    sample_from(copies, first);
  }
}

// Parameters and keys of the draws [first, first + rows) on the device, and room for what is drawn.
SampleArgs EngineCore::send_keys(int64_t rows, int64_t first) {
  Arena& arena = *runtime_.arena;
  Upload up;
  const auto params = up.add(params_.data() + first, rows);
  const auto keys = up.add(keys_.data() + first, rows);
  up.send(*runtime_.device, runtime_.exec.stream, arena);
  return {.params = up.at(params),
          .keys = up.at(keys),
          .slices = slices_,
          .vocab_limit = vocab_limit_,
          .token = arena.i32(rows, 1).i32(),
          .logp = arena.f32(rows, 1).f32(),
          .logp_sampled = arena.f32(rows, 1).f32()};
}

void EngineCore::sample(const Tensor& logits, SampleArgs args) {
  args.logits = logits;
  runtime_.ops->sample(runtime_.exec, args);
}

void EngineCore::take_results() {
  if (runtime_.mesh) runtime_.mesh->finish_collectives();
  if (!drawn_.empty()) results_.download();  // the one wait of a step
  for (std::vector<float>* v : {&logp_, &logp_sampled_}) v->resize(params_.size());
  token_.resize(params_.size());
  for (const Drawn& d : drawn_) {
    std::copy_n(results_.at(d.token), d.token.count, token_.begin() + d.first);
    std::copy_n(results_.at(d.logp), d.logp.count, logp_.begin() + d.first);
    std::copy_n(results_.at(d.logp_sampled), d.logp_sampled.count, logp_sampled_.begin() + d.first);
  }
  // The sampler marks a row of logits that are not numbers.
  const auto bad = std::ranges::find(token_, -1);
  if (bad == token_.end()) return;
  const SampleKey& key = keys_[bad - token_.begin()];
  fail(
      ExitCode::kNonFinite,
      "sampling: the logits of {}, sample {}, token {} are not finite; the weights or the cache are damaged: "
      "go back to the last checkpoint",
      prompt_name(key.prompt), key.sample, key.position);
}

}  // namespace contender
