#include "plan/plan.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "model/kv_cache.h"
#include "model/params.h"
#include "model/sizes.h"
#include "model/weights.h"
#include "ops/linear.h"
#include "plan/traffic.h"
#include "plan/work.h"
#include "rollout/engine.h"

namespace contender {
namespace {

constexpr double kSampleBytesPerToken = 21;  // token, two log-probs, version, text

int sharers(ParamKind kind, const MeshShape& mesh) {
  return kind == ParamKind::kTokenWise ? mesh.np() : kind == ParamKind::kTensor ? mesh.dp : mesh.edp;
}

// WeightStore::bytes cut into what can be lowered by different settings; the parts add up to it.
void weight_items(const RunConfig& c, const MeshShape& mesh, std::vector<MemoryItem>& items) {
  const std::vector<ParamSpec> specs = param_specs(c.model, {mesh.tp, 0, mesh.ep, 0});
  const int64_t moment = c.train.moment_dtype == "bf16" ? 2 : 4;
  int64_t masters = 0, forward = 0, backward = 0, optimizer = 0;
  for (const ParamSpec& s : specs) {
    masters += 4 * s.numel();
    if (s.fp8 && c.train.precision == "fp8") {
      forward += fp8_form_bytes(s);
      backward += fp8_form_bytes(s);
    } else if (s.packed) {
      forward += s.groups * packed_forward_bytes(s.n, s.k, weight_format(c));
      backward += s.groups * packed_backward_bytes(s.n, s.k, weight_format(c));
    }
    optimizer += 2 * moment * ceil_div(s.numel(), sharers(s.kind, mesh));
  }
  const int64_t store = WeightStore::bytes(specs, c, StoreRole::kTrain, mesh);
  items.push_back({"weights: FP32 masters", masters, "mesh.tp, mesh.ep"});
  items.push_back({"weights: packed for the forward", forward, "mesh.tp, mesh.ep"});
  items.push_back({"weights: packed for the backward", backward, "mesh.tp, mesh.ep"});
  items.push_back(
      {"gradients: planes and shards", store - masters - forward - backward - optimizer, "mesh.tp, mesh.ep"});
  items.push_back({"optimizer shards", optimizer, "train.moment_dtype, more ranks"});
  const bool reference = std::any_of(c.stages.begin(), c.stages.end(),
                                     [](const StageConfig& s) { return s.kind == "rl" && s.rl.kl_beta > 0; });
  if (reference) {
    items.push_back(
        {"reference weights", WeightStore::bytes(specs, c, StoreRole::kReference, mesh), "rl.kl_beta = 0"});
  }
}

std::vector<MemoryItem> memory_items(const RunConfig& c, const MeshShape& mesh) {
  std::vector<MemoryItem> items;
  weight_items(c, mesh, items);
  items.push_back({"activations", activation_bytes(c, mesh),
                   "train.token_budget, rollout.max_tokens_per_step, train.recompute"});
  items.push_back(
      {"scratch of a sublayer", scratch_bytes(c, mesh), "train.token_budget, rollout.max_tokens_per_step"});
  items.push_back({"workspace of operators", workspace_bytes(c, mesh), "mesh.data_slots"});
  items.push_back(
      {"KV cache",
       KvCache::bytes(c.model, mesh.tp, rollout_kv_pages(c), c.rollout.page_size, activation_dtype(c)),
       "rollout.max_sequences, rollout.kv_pages"});
  return items;
}

// Tokens of one optimizer step, all ranks together. Completions have their mean length.
struct StepTokens {
  double prompts = 0, samples = 0;    // generated
  double sequences = 0;               // trained on
  double prompt = 0, completion = 0;  // lengths
  double length() const { return prompt + completion; }
};

class StagePlanner {
 public:
  StagePlanner(const RunConfig& c, const PlanOptions& o, const Hardware& hw, const MeshShape& mesh,
               const StageConfig& s)
      : c_(c),
        options_(o),
        hw_(hw),
        mesh_(mesh),
        stage_(s),
        work_(c.model),
        traffic_(c, mesh),
        np_(mesh.np()) {
    tokens_.prompt = static_cast<double>(s.task.max_prompt_tokens);
    tokens_.completion = static_cast<double>(
        o.mean_new_tokens > 0 ? std::min(o.mean_new_tokens, s.rl.max_new_tokens) : s.rl.max_new_tokens);
    plan_.name = s.name;
  }

  StagePlan plan() {
    const RlConfig& rl = stage_.rl;
    if (stage_.kind == "rl") {
      plan_.steps = rl.steps;
      tokens_.prompts = static_cast<double>(rl.prompts_per_step) / static_cast<double>(rl.inner_epochs);
      tokens_.samples = tokens_.prompts * static_cast<double>(rl.group_size);
      tokens_.sequences = static_cast<double>(rl.prompts_per_step * rl.group_size);
      generate();
      const bool truncated = rl.top_k > 0 || rl.top_p < 1 || rl.min_p > 0;
      const bool expanded = c_.model.mla() && c_.model.mla_form == "expanded";
      if (rl.kl_beta > 0) log_probs("ref");
      if (rl.max_staleness > 0 || truncated || expanded) log_probs("old_logp");
      update(rl.mtp_loss_weight > 0);
    } else {
      const SftConfig& sft = stage_.sft;
      plan_.steps = sft.steps;
      tokens_.sequences = static_cast<double>(sft.batch_size);
      if (stage_.kind == "rejection") {  // sampled once, spread over the steps
        tokens_.prompts = static_cast<double>(sft.num_prompts) / static_cast<double>(sft.steps);
        tokens_.samples = tokens_.prompts * static_cast<double>(sft.samples_per_prompt);
        generate();
      }
      update(c_.model.num_nextn_predict_layers > 0 && sft.mtp_loss_weight > 0);
    }
    plan_.traffic = traffic_.take();
    return plan_;
  }

 private:
  double seconds(double flops) const {
    return flops / (static_cast<double>(np_) * hw_.flops_per_s * options_.peak_share);
  }

  // The larger of the time of the products and the time to read weights and cache, pass by pass.
  void generate() {
    const StepTokens& t = tokens_;
    plan_.generated_tokens = t.samples * t.completion;
    const double prefill = t.prompts * t.prompt;
    plan_.gen_flops = (prefill + plan_.generated_tokens) * work_.block_flops() +
                      plan_.generated_tokens * work_.head_flops() +
                      t.prompts * work_.attention_flops(0, t.prompt) +
                      t.samples * work_.attention_flops(t.prompt, t.length());
    const double dp = mesh_.dp, per_group = t.samples / dp;
    const double together = std::min(per_group, static_cast<double>(c_.rollout.max_sequences));
    const double passes = per_group / together * t.completion +
                          prefill / dp / static_cast<double>(c_.rollout.max_tokens_per_step);

    double weights = 0;  // read by a pass
    for (const ParamSpec& s : param_specs(c_.model, {mesh_.tp, 0, mesh_.ep, 0})) {
      if (s.packed) weights += static_cast<double>(s.groups * packed_forward_bytes(s.n, s.k));
    }
    const double row =
        static_cast<double>(attention_shape(c_.model, mesh_.tp, kAttentionBlock).row_width) * 4;
    const double cache = per_group * t.completion * (t.prompt + t.completion / 2) * row *
                         static_cast<double>(c_.model.num_hidden_layers);
    plan_.gen_seconds = std::max(seconds(plan_.gen_flops), (passes * weights + cache) / hw_.bytes_per_s);

    traffic_.forward("gen",
                     {.own = (prefill + plan_.generated_tokens) / np_,
                      .passes = passes,
                      .head_rows = plan_.generated_tokens / dp},
                     /*sampling=*/true);
    traffic_.share("gen", "samples", plan_.generated_tokens * kSampleBytesPerToken);
  }

  // Every pack of a round goes through the ranks together.
  double rounds(double steps_worth) const {
    const double capacity = static_cast<double>(c_.mesh.data_slots * c_.train.token_budget);
    return std::max(1.0, std::ceil(steps_worth / capacity));
  }

  double forward_flops(double sequences) const {
    return sequences * (tokens_.length() * work_.block_flops() + work_.attention_flops(0, tokens_.length()) +
                        tokens_.completion * work_.head_flops());
  }

  // Once per rollout: its share of one optimizer step.
  void log_probs(const char* phase) {
    const double flops = forward_flops(tokens_.samples), total = tokens_.samples * tokens_.length();
    plan_.ref_flops += flops;
    plan_.ref_seconds += seconds(flops);
    traffic_.forward(phase,
                     {.own = total / np_,
                      .passes = rounds(total),
                      .head_rows = tokens_.samples * tokens_.completion / mesh_.dp},
                     /*sampling=*/false);
    traffic_.share(phase, "logp", tokens_.samples * tokens_.completion * 4);
  }

  void update(bool mtp) {
    const double n = tokens_.sequences, total = n * tokens_.length(), scored = n * tokens_.completion;
    plan_.trained_tokens = total;
    const double attention = work_.attention_flops(0, tokens_.length());
    double flops = forward_flops(n) + 2 * total * work_.block_flops() +
                   n * work_.attention_backward_flops(tokens_.length()) +
                   scored * work_.head_backward_flops();
    if (c_.train.recompute == "full") flops += total * work_.block_flops() + n * attention;
    if (mtp)
      flops +=
          3 * total * work_.mtp_block_flops() + scored * (work_.head_flops() + work_.head_backward_flops());
    plan_.update_flops = flops;
    plan_.update_seconds = seconds(flops);
    const PhaseTokens t = {.own = total / np_, .passes = rounds(total), .head_rows = scored / mesh_.dp};
    traffic_.forward("update", t, /*sampling=*/false);
    traffic_.backward("update", t);
    traffic_.optimizer("update", t.passes);
  }

  const RunConfig& c_;
  const PlanOptions& options_;
  const Hardware& hw_;
  const MeshShape mesh_;
  const StageConfig& stage_;
  const ModelWork work_;
  Traffic traffic_;
  const int np_;
  StepTokens tokens_;
  StagePlan plan_;
};

}  // namespace

std::vector<std::string> hardware_names() { return {"cpu", "h800", "h100", "h200"}; }

Hardware gpu_hardware(const std::string& name) {
  constexpr double kBf16 = 989e12, kGb = 1e9;
  if (name == "h800" || name == "h100") return {name, kBf16, 3350 * kGb, 80 * int64_t{1'000'000'000}};
  if (name == "h200") return {name, kBf16, 4800 * kGb, 141 * int64_t{1'000'000'000}};
  fail(ExitCode::kInternal, "no hardware named {}", name);
}

int64_t Plan::memory_bytes() const {
  int64_t sum = 0;
  for (const MemoryItem& i : memory) sum += i.bytes;
  return sum;
}

double Plan::hours() const {
  double seconds = 0;
  for (const StagePlan& s : stages) seconds += s.seconds() * static_cast<double>(s.steps);
  return seconds / 3600;
}

int plan_ranks(const RunConfig& c, const PlanOptions& options) {
  if (options.np > 0) return options.np;
  return narrow<int>(c.mesh.dp > 0 ? c.mesh.tp * c.mesh.dp : std::max(c.mesh.tp, c.mesh.ep));
}

Plan make_plan(const RunConfig& c, const PlanOptions& options, const Hardware& hardware) {
  Plan plan;
  const int np = plan_ranks(c, options);
  plan.mesh = mesh_shape(c, np);
  plan.hardware = hardware;
  plan.size = model_size(c.model);
  plan.memory = memory_items(c, plan.mesh);
  for (const StageConfig& s : c.stages)
    plan.stages.push_back(StagePlanner(c, options, hardware, plan.mesh, s).plan());
  const ModelWork work(c.model);
  const double context = static_cast<double>(c.model.max_position_embeddings);
  plan.forward_flops_per_token =
      work.block_flops() + work.head_flops() + work.attention_flops(0, context) / context;
  plan.dollars_per_hour = c.metrics.dollars_per_rank_hour * np;
  return plan;
}

}  // namespace contender
