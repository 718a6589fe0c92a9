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

}  // namespace

// One page more than the sequences need: a prompt's partial page waits while some of its samples run.
int64_t rollout_kv_pages(const RunConfig& config) {
  if (config.rollout.kv_pages > 0) return config.rollout.kv_pages;
  return config.rollout.max_sequences *
             ceil_div(config.model.max_position_embeddings, config.rollout.page_size) +
         1;
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
      results_(runtime.device, runtime.exec.stream) {}

bool EngineCore::step() {
  if (!policy_->any_rank_has_work(!scheduler_.idle())) return false;
  StepPlan& plan = scheduler_.plan();
  copy_pages(plan.copies);
  const ArenaScope scope(*runtime_.arena);
  const Tensor logits = policy_->forward_logits(plan.batch, cache_, plan.rows);
  draw(plan, logits);
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

// Sequences that decode have a row of logits each; the samples of a prompt share one, of which each gets a
// copy.
void EngineCore::draw(const StepPlan& plan, const Tensor& logits) {
  const int64_t count = std::ssize(plan.draws);
  logits_row_.clear();
  params_.clear();
  keys_.clear();
  token_.resize(count);
  logp_.resize(count);
  logp_sampled_.resize(count);
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
  results_.clear();
  drawn_.clear();
  if (plan.num_single > 0) sample(logits.row_range(0, plan.num_single), 0);
  for (int64_t first = plan.num_single; first < count; first += shared_rows_) {
    const ArenaScope scope(*runtime_.arena);
    const int64_t rows = std::min(count - first, shared_rows_);
    const Tensor copies = runtime_.arena->f32(rows, logits.cols), index = runtime_.arena->i32(1, rows);
    runtime_.device->upload(runtime_.exec.stream, index.data, logits_row_.data() + first, rows * 4);
    runtime_.ops->gather_rows(runtime_.exec, {.x = logits, .index = index.i32(), .y = copies});
    sample(copies, first);
  }
  if (!drawn_.empty()) {  // the one wait of a step
    if (runtime_.mesh) runtime_.mesh->finish_collectives();
    results_.download();
  }
  for (const Drawn& d : drawn_) {
    std::copy_n(results_.at(d.token), d.token.count, token_.begin() + d.first);
    std::copy_n(results_.at(d.logp), d.logp.count, logp_.begin() + d.first);
    std::copy_n(results_.at(d.logp_sampled), d.logp_sampled.count, logp_sampled_.begin() + d.first);
  }
}

void EngineCore::sample(const Tensor& logits, int64_t first_draw) {
  Arena& arena = *runtime_.arena;
  const ArenaScope scope(arena);
  const int64_t n = logits.rows;
  Upload up;
  const auto params = up.add(params_.data() + first_draw, n);
  const auto keys = up.add(keys_.data() + first_draw, n);
  up.send(*runtime_.device, runtime_.exec.stream, arena);
  const Tensor token = arena.i32(n, 1), logp = arena.f32(n, 1), logp_sampled = arena.f32(n, 1);
  runtime_.ops->sample(runtime_.exec, {.logits = logits,
                                       .params = up.at(params),
                                       .keys = up.at(keys),
                                       .slices = slices_,
                                       .vocab_limit = vocab_limit_,
                                       .token = token.i32(),
                                       .logp = logp.f32(),
                                       .logp_sampled = logp_sampled.f32()});
  drawn_.push_back({first_draw, results_.add(token.i32(), n), results_.add(logp.f32(), n),
                    results_.add(logp_sampled.f32(), n)});
}

}  // namespace contender
