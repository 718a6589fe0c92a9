#include "base/config_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

namespace contender {
namespace {

using Keys = std::vector<ConfigKey>;
constexpr bool kNoNumerics = false;  // changes speed, memory or output, never the numbers

ConfigRule any() { return {}; }
ConfigRule at_least(double min) { return {.min = min}; }
ConfigRule above(double min) { return {.min = min, .above_min = true}; }
ConfigRule between(double min, double max) { return {.min = min, .max = max}; }
ConfigRule below_one() { return {.min = 0, .max = 1, .below_max = true}; }
ConfigRule up_to_one() { return {.min = 0, .max = 1, .above_min = true}; }
ConfigRule multiple_of(int64_t n, double min) { return {.min = min, .multiple_of = n}; }
ConfigRule words(std::vector<std::string> list) { return {.words = std::move(list)}; }

constexpr double kMaxSize = 1 << 24;  // of a dimension: keeps products of two within int64 by far
constexpr double kMaxSamples = 4095;  // of one prompt
ConfigRule size(double min = 1) { return between(min, kMaxSize); }

Keys run_keys(RunConfig& c) {
  return {
      {"name", &c.name, any(), "shown in logs and reports", "", kNoNumerics},
      {"dir", &c.dir, any(), "run directory: metrics, checkpoints, report", "", kNoNumerics},
      {"seed", &c.seed, any(), "of every random number of the run"},
      {"device", &c.device, words({"auto", "cpu", "cuda"}), "auto: a GPU where there is one", "",
       kNoNumerics},
  };
}

Keys model_keys(ModelConfig& c) {
  return {
      {"path", &c.path, any(),
       "Hugging Face directory or GGUF file to start from: it gives what is left out here; \"\": random "
       "weights"},
      {"family", &c.family, words({"deepseek_v3", "gqa"}), "attention: MLA; or as in Llama, Qwen2, Qwen3",
       "deepseek_v3"},
      {"vocab_size", &c.vocab_size, multiple_of(16, 16), "rows of embedding and head", "129280"},
      {"hidden_size", &c.hidden_size, size(), "width of the residual stream", "7168"},
      {"num_hidden_layers", &c.num_hidden_layers, between(1, 4096), "blocks", "61"},
      {"num_attention_heads", &c.num_attention_heads, size(), "query heads", "128"},
      {"intermediate_size", &c.intermediate_size, size(), "width of the dense FFN", "18432"},
      {"rms_norm_eps", &c.rms_norm_eps, above(0), "added to the mean square", "1e-6"},
      {"max_position_embeddings", &c.max_position_embeddings, size(), "longest sequence, tokens", "163840"},
      {"tie_word_embeddings", &c.tie_word_embeddings, any(), "head = embedding (gqa)", "false"},
      {"initializer_range", &c.initializer_range, above(0), "standard deviation of initial weights", "0.006"},
      {"rope_theta", &c.rope_theta, above(0), "RoPE base", "10000"},
      {"rope_factor", &c.rope_factor, at_least(1), "context extension; 1: off", "40"},
      {"rope_scaling", &c.rope_scaling, words({"yarn", "llama3"}), "form of the context extension", "yarn"},
      {"rope_original_max_position", &c.rope_original_max_position, size(), "context before extension",
       "4096"},
      {"rope_beta_fast", &c.rope_beta_fast, above(0), "rotations above which a dimension is kept", "32"},
      {"rope_beta_slow", &c.rope_beta_slow, above(0), "rotations below which it is interpolated", "1"},
      {"rope_mscale", &c.rope_mscale, at_least(0), "YaRN: scale of cos and sin", "1"},
      {"rope_mscale_all_dim", &c.rope_mscale_all_dim, at_least(0), "YaRN: scale of the softmax", "1"},
      {"q_lora_rank", &c.q_lora_rank, size(0), "MLA: query latent; 0: no query compression", "1536"},
      {"kv_lora_rank", &c.kv_lora_rank, size(), "MLA: key/value latent", "512"},
      {"qk_nope_head_dim", &c.qk_nope_head_dim, size(), "MLA: query/key columns without RoPE", "128"},
      {"qk_rope_head_dim", &c.qk_rope_head_dim, size(), "MLA: query/key columns with RoPE, even", "64"},
      {"v_head_dim", &c.v_head_dim, size(), "MLA: value columns", "128"},
      {"mla_form", &c.mla_form, words({"absorbed", "expanded"}),
       "absorbed: sampler and trainer agree to the bit; expanded: cheaper training, not exact"},
      {"num_key_value_heads", &c.num_key_value_heads, size(), "GQA: key/value heads"},
      {"head_dim", &c.head_dim, size(), "GQA: columns of a head, even"},
      {"attention_bias", &c.attention_bias, any(), "GQA: bias on q, k, v (Qwen2)"},
      {"qk_norm", &c.qk_norm, any(), "GQA: RMSNorm on each head of q and k (Qwen3)"},
      {"first_k_dense_replace", &c.first_k_dense_replace, size(0), "MoE: dense layers at the bottom", "3"},
      {"n_routed_experts", &c.n_routed_experts, size(0), "MoE: routed experts; 0: dense everywhere", "256"},
      {"n_shared_experts", &c.n_shared_experts, size(0), "MoE: experts that every token uses", "1"},
      {"num_experts_per_tok", &c.num_experts_per_tok, size(), "MoE: experts a token is routed to", "8"},
      {"moe_intermediate_size", &c.moe_intermediate_size, size(), "MoE: width of one expert", "2048"},
      {"n_group", &c.n_group, size(), "MoE: groups the experts are divided into", "8"},
      {"topk_group", &c.topk_group, size(), "MoE: groups a token may use", "4"},
      {"scoring_func", &c.scoring_func, words({"sigmoid", "softmax"}), "MoE: router scores", "sigmoid"},
      {"topk_method", &c.topk_method, words({"noaux_tc", "group_limited_greedy"}),
       "MoE: noaux_tc: selection bias, group score = sum of its top 2; group_limited_greedy: its maximum",
       "noaux_tc"},
      {"norm_topk_prob", &c.norm_topk_prob, any(), "MoE: weights of a token sum to routed_scaling_factor",
       "true"},
      {"routed_scaling_factor", &c.routed_scaling_factor, above(0), "MoE: scale of the routed output", "2.5"},
      {"bias_update_speed", &c.bias_update_speed, at_least(0), "MoE: step of the balancing bias; 0: off",
       "0.001"},
      {"num_nextn_predict_layers", &c.num_nextn_predict_layers, between(0, 1),
       "multi-token prediction modules", "1"},
  };
}

Keys mesh_keys(MeshConfig& c) {
  return {
      {"tp", &c.tp, size(), "tensor-parallel ranks", "", kNoNumerics},
      {"dp", &c.dp, size(0), "data-parallel ranks; 0: ranks / tp", "", kNoNumerics},
      {"ep", &c.ep, size(), "expert-parallel ranks, folded into tp x dp", "", kNoNumerics},
      {"data_slots", &c.data_slots, size(),
       "virtual data slots, a power of two, a multiple of the ranks; decides the order of sums over tokens"},
      {"moe_chunks", &c.moe_chunks, between(1, 64), "token chunks in flight through dispatch and combine", "",
       kNoNumerics},
      {"capacity_factor", &c.capacity_factor, at_least(0),
       "receive rows per peer = factor x mean; 0: worst case, cannot overflow", "", kNoNumerics},
      {"transport", &c.transport, words({"auto", "host", "staged", "nccl"}),
       "of collectives between GPUs (mpi/group.h); auto: nccl where every rank has a GPU to itself", "",
       kNoNumerics},
  };
}

Keys train_keys(TrainConfig& c) {
  return {
      {"recompute", &c.recompute, words({"none", "selective", "full"}),
       "activations computed again in the backward: less memory, same bits", "", kNoNumerics},
      {"precision", &c.precision, words({"bf16", "fp8"}),
       "linear layers: BF16 (FP32 on the CPU), or FP8 with 1x128 and 128x128 scales", "fp8"},
      {"token_budget", &c.token_budget, size(), "tokens of one pack (per slot and round)"},
      {"max_grad_norm", &c.max_grad_norm, above(0), "global gradient norm is clipped to it", "1.0"},
      {"adam_beta1", &c.adam_beta1, below_one(), "AdamW", "0.9"},
      {"adam_beta2", &c.adam_beta2, below_one(), "AdamW", "0.95"},
      {"adam_eps", &c.adam_eps, above(0), "AdamW", "1e-8"},
      {"weight_decay", &c.weight_decay, at_least(0), "AdamW, decoupled", "0.1"},
      {"moment_dtype", &c.moment_dtype, words({"fp32", "bf16"}), "AdamW moments in memory", "bf16"},
      {"spike_factor", &c.spike_factor, at_least(0),
       "an update is skipped when its gradient norm, loss or KL > factor x max of the last 100; 0: off"},
      {"max_skipped", &c.max_skipped, at_least(1), "skipped updates in a row that end the run (exit 17)"},
      {"watchdog_seconds", &c.watchdog_seconds, above(0), "longest wait for a peer (exit 18)", "",
       kNoNumerics},
  };
}

Keys sft_keys(SftConfig& c) {
  return {
      {"steps", &c.steps, at_least(0), "optimizer steps"},
      {"batch_size", &c.batch_size, size(), "sequences per step", "128"},
      {"lr", &c.lr, above(0), "learning rate, cosine from lr to lr_min", "5e-5"},
      {"lr_min", &c.lr_min, at_least(0), "learning rate at the end", "5e-6"},
      {"warmup_steps", &c.warmup_steps, at_least(0), "linear warm-up"},
      {"stop_at_accuracy", &c.stop_at_accuracy, between(0, 1),
       "stop as soon as an evaluation at temperature 1 reaches it; 0: off"},
      {"eval_every", &c.eval_every, at_least(0), "steps between those evaluations; 0: none"},
      {"mtp_loss_weight", &c.mtp_loss_weight, at_least(0), "weight of the multi-token prediction loss",
       "0.3"},
      {"samples_per_prompt", &c.samples_per_prompt, between(1, kMaxSamples),
       "rejection: candidates per prompt"},
      {"num_prompts", &c.num_prompts, size(), "rejection: prompts sampled; the correct samples are kept"},
  };
}

Keys rl_keys(RlConfig& c) {
  return {
      {"steps", &c.steps, at_least(0), "optimizer steps", "10400"},
      {"algorithm", &c.algorithm, words({"grpo", "dr_grpo", "dapo", "gspo", "rloo", "cispo"}),
       "advantage and objective", "grpo"},
      {"aggregation", &c.aggregation, words({"auto", "token", "sequence", "constant"}),
       "mean over tokens; auto: the algorithm's own", "sequence"},
      {"prompts_per_step", &c.prompts_per_step, size(), "questions per optimizer step", "32"},
      {"group_size", &c.group_size, between(1, kMaxSamples), "G, completions per question", "16"},
      {"steps_per_rollout", &c.steps_per_rollout, between(1, 4096),
       "minibatches one rollout is shuffled into", "16"},
      {"inner_epochs", &c.inner_epochs, between(1, 4096), "passes over one rollout", "1"},
      {"lr", &c.lr, above(0), "learning rate, cosine from lr to lr_min", "3e-6"},
      {"lr_min", &c.lr_min, at_least(0), "learning rate at the end", "3e-6"},
      {"warmup_steps", &c.warmup_steps, at_least(0), "linear warm-up"},
      {"clip_eps_low", &c.clip_eps_low, at_least(0), "ratio clipped from below at 1 - eps",
       "not stated (R1: 10)"},
      {"clip_eps_high", &c.clip_eps_high, at_least(0), "ratio clipped from above at 1 + eps",
       "not stated (R1: 10)"},
      {"kl_beta", &c.kl_beta, at_least(0), "weight of the KL to the reference; 0: no reference", "0.001"},
      {"kl_estimator", &c.kl_estimator, words({"k1", "k2", "k3"}), "of KL(policy, reference)", "k3"},
      {"kl_placement", &c.kl_placement, words({"loss", "reward"}), "where the KL is charged", "loss"},
      {"reference_replace_every", &c.reference_replace_every, at_least(0),
       "steps after which the policy becomes the reference; 0: never", "400"},
      {"temperature", &c.temperature, above(0), "of sampling", "1"},
      {"top_k", &c.top_k, at_least(0), "sample from the k likeliest tokens; 0: all", "0"},
      {"top_p", &c.top_p, up_to_one(), "sample from the likeliest tokens of this mass", "1"},
      {"min_p", &c.min_p, below_one(), "drop tokens below min_p x the likeliest", "0"},
      {"max_new_tokens", &c.max_new_tokens, size(), "longest completion", "32768, from step 8200 on 65536"},
      {"max_staleness", &c.max_staleness, between(0, 1024),
       "weight versions a sample may lag; 0: synchronous", "0"},
      {"tis_cap", &c.tis_cap, above(0), "largest importance weight of stale or truncated samples"},
      {"dynamic_sampling", &c.dynamic_sampling, any(), "drop groups of equal rewards and refill (DAPO)",
       "false"},
      {"dynamic_max_rounds", &c.dynamic_max_rounds, between(1, 1024),
       "refills before a step goes on with less"},
      {"overlong_buffer", &c.overlong_buffer, size(0),
       "soft penalty over the last tokens of max_new_tokens (DAPO); 0: off", "0"},
      {"verify_logp_every", &c.verify_logp_every, at_least(0),
       "steps between full-sequence checks of the sampler's logp; 0: never", "", kNoNumerics},
      {"mtp_loss_weight", &c.mtp_loss_weight, at_least(0), "weight of the multi-token prediction loss"},
  };
}

Keys tokenizer_keys(TokenizerConfig& c) {
  return {
      {"path", &c.path, any(),
       "model directory or tokenizer.json; \"\": that of model.path, without one the byte tokenizer", "",
       kNoNumerics},
  };
}

Keys task_keys(TaskConfig& c) {
  return {
      {"name", &c.name, words({"addition", "countdown", "reverse", "sort", "word_problems", "jsonl"}),
       "procedural task, or jsonl: {\"prompt\"|\"messages\", \"answer\", \"task\"} per line"},
      {"difficulty", &c.difficulty, between(1, 64),
       "digits (addition), numbers (countdown), items (reverse, sort), level (word_problems)"},
      {"train_files", &c.train_files, any(), "jsonl: training prompts, *.jsonl or *.jsonl.zst"},
      {"train_weights", &c.train_weights, above(0),
       "jsonl: share of each training file among the prompts; []: every prompt counts the same"},
      {"eval_files", &c.eval_files, any(), "jsonl: held-out prompts"},
      {"prompt_form", &c.prompt_form, any(),
       "jsonl: what the user says, with a line's \"prompt\" for {prompt}: where the form of the answer that "
       "the reward reads is asked for; \"messages\" stay as they are"},
      {"contamination", &c.contamination, words({"off", "report", "drop", "error"}),
       "jsonl: what is done with training prompts that share 10 words in a row with a held-out one"},
      {"max_prompt_tokens", &c.max_prompt_tokens, size(), "longest prompt"},
      {"eval_problems", &c.eval_problems, size(), "held-out problems, disjoint from training"},
  };
}

Keys reward_keys(RewardConfig& c) {
  return {
      {"type", &c.type, words({"rule", "command"}), "rule: exact verifiers; command: a program of yours",
       "rule"},
      {"accuracy_weight", &c.accuracy_weight, at_least(0), "of a right answer", "1"},
      {"format_weight", &c.format_weight, at_least(0), "of <think>..</think><answer>..</answer>", "1"},
      {"language_weight", &c.language_weight, at_least(0), "of the share of words in target_language", "0"},
      {"target_language", &c.target_language, words({"en", "zh", "digits"}), "of the thought"},
      {"command", &c.command, any(), "command: program and arguments, speaks JSONL on stdin and stdout"},
      {"timeout_seconds", &c.timeout_seconds, above(0), "command: longest wait for a score", "", kNoNumerics},
      {"workers", &c.workers, between(1, 1024), "command: worker processes per rank", "", kNoNumerics},
      {"math_seconds", &c.math_seconds, above(0), "processor time of one mathematical answer"},
      {"code_seconds", &c.code_seconds, above(0), "wall clock of a program on one test"},
      {"code_memory_mib", &c.code_memory_mib, between(16, 1 << 20), "memory of a program"},
      {"max_infra_errors", &c.max_infra_errors, between(0, 1),
       "share of a step's samples without a score that ends the run", "", kNoNumerics},
  };
}

Keys rollout_keys(RolloutConfig& c) {
  return {
      {"max_sequences", &c.max_sequences, size(), "sequences decoded together per tp group", "", kNoNumerics},
      {"page_size", &c.page_size, multiple_of(16, 16), "tokens per page of the KV cache", "", kNoNumerics},
      {"kv_pages", &c.kv_pages, size(0), "pages; 0: enough for max_sequences of full length", "",
       kNoNumerics},
      {"max_tokens_per_step", &c.max_tokens_per_step, size(), "prefill and decode tokens of one forward", "",
       kNoNumerics},
  };
}

Keys eval_keys(EvalConfig& c) {
  return {
      {"every", &c.every, at_least(0), "RL steps between evaluations; 0: before and after only", "",
       kNoNumerics},
      {"samples", &c.samples, between(1, kMaxSamples), "k completions per problem", "", kNoNumerics},
      {"temperature", &c.temperature, at_least(0), "of sampling; 0: greedy (R1's evaluations: 0.6)", "",
       kNoNumerics},
      {"top_p", &c.top_p, up_to_one(), "of sampling (R1's evaluations: 0.95)", "", kNoNumerics},
      {"problems", &c.problems, size(), "held-out problems used", "", kNoNumerics},
  };
}

Keys checkpoint_keys(CheckpointConfig& c) {
  return {
      {"every", &c.every, at_least(0), "steps between checkpoints; 0: at the end and on SIGUSR1", "",
       kNoNumerics},
      {"keep_last", &c.keep_last, at_least(1), "newest checkpoints kept", "", kNoNumerics},
      {"keep_every", &c.keep_every, at_least(0), "checkpoints of these steps are kept for good; 0: none", "",
       kNoNumerics},
      {"max_failures", &c.max_failures, at_least(1), "failed saves in a row that end the run (exit 20)", "",
       kNoNumerics},
  };
}

Keys metrics_keys(MetricsConfig& c) {
  return {
      {"dollars_per_rank_hour", &c.dollars_per_rank_hour, at_least(0), "for the cost column", "2.0",
       kNoNumerics},
      {"tensorboard", &c.tensorboard, any(), "write TensorBoard event files", "", kNoNumerics},
      {"trace", &c.trace, any(), "write a Chrome trace of the run", "", kNoNumerics},
      {"completions", &c.completions, any(), "write completions.jsonl", "", kNoNumerics},
  };
}

std::string lower(std::string s) {
  for (char& c : s) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return s;
}

std::string quoted(const std::string& s) {
  std::string out = "\"";
  for (const char c : s) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      out += fmt::format("\\u{:04X}", static_cast<int>(c));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

// TOML tells 1 from 1.0; fmt prints the shortest digits that read back the same.
std::string format_double(double v) {
  const std::string s = fmt::format("{}", v);
  return s.find_first_of(".eni") == std::string::npos ? s + ".0" : s;
}

std::string format_bound(double v) { return fmt::format("{}", v); }

std::string range_text(const ConfigRule& r, bool show_max_size) {
  const bool low = std::isfinite(r.min), high = std::isfinite(r.max) && (show_max_size || r.max < kMaxSize);
  std::string text;
  if (low && high && !r.above_min && !r.below_max && r.max < kMaxSize) {
    text = fmt::format("{} to {}", format_bound(r.min), format_bound(r.max));
  } else {
    if (low) text = fmt::format("{} {}", r.above_min ? "above" : "at least", format_bound(r.min));
    if (high) {
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", r.below_max ? "below" : "at most",
                          format_bound(r.max));
    }
  }
  if (r.multiple_of > 1) text += fmt::format("{}a multiple of {}", text.empty() ? "" : ", ", r.multiple_of);
  return text;
}

std::string number_problem(const ConfigRule& r, double v, const std::string& shown) {
  const bool low_ok = r.above_min ? v > r.min : v >= r.min;
  const bool high_ok = r.below_max ? v < r.max : v <= r.max;
  if (!std::isfinite(v)) return fmt::format("{} is not a finite number", shown);
  const bool multiple_ok = r.multiple_of == 1 || std::fmod(v, static_cast<double>(r.multiple_of)) == 0;
  if (low_ok && high_ok && multiple_ok) return "";
  return fmt::format("{} is out of range: {}", shown, range_text(r, /*show_max_size=*/true));
}

}  // namespace

std::vector<ConfigSection> config_sections(RunConfig& c) {
  return {
      {"run", "the run", run_keys(c)},
      {"model", "names as in Hugging Face's config.json; {..}: DeepSeek-V3", model_keys(c.model)},
      {"mesh", "how ranks share the work", mesh_keys(c.mesh)},
      {"train", "what SFT and RL share", train_keys(c.train)},
      {"sft", "supervised fine-tuning, and rejection sampling", sft_keys(c.sft)},
      {"rl", "reinforcement learning", rl_keys(c.rl)},
      {"tokenizer", "text to tokens", tokenizer_keys(c.tokenizer)},
      {"task", "where problems come from", task_keys(c.task)},
      {"reward", "how completions are scored", reward_keys(c.reward)},
      {"rollout", "the generation engine", rollout_keys(c.rollout)},
      {"eval", "held-out accuracy", eval_keys(c.eval)},
      {"checkpoint", "saving", checkpoint_keys(c.checkpoint)},
      {"metrics", "what is written", metrics_keys(c.metrics)},
  };
}

std::vector<ConfigSection> stage_sections(StageConfig& s) {
  return {
      {"",
       "stages in order; without any: sft if sft.steps > 0, then rl if rl.steps > 0",
       {{"kind", &s.kind, words({"sft", "rl", "rejection"}),
         "rejection: SFT on the policy's own correct samples"},
        {"name", &s.name, any(), "of the stage; default: its kind"}}},
      {"sft", "", sft_keys(s.sft)},
      {"rl", "", rl_keys(s.rl)},
      {"task", "", task_keys(s.task)},
      {"reward", "", reward_keys(s.reward)},
  };
}

std::string format_value(const ConfigField& field) {
  struct Format {
    std::string operator()(const int64_t* v) const { return std::to_string(*v); }
    std::string operator()(const uint64_t* v) const { return std::to_string(*v); }
    std::string operator()(const double* v) const { return format_double(*v); }
    std::string operator()(const bool* v) const { return *v ? "true" : "false"; }
    std::string operator()(const std::string* v) const { return quoted(*v); }
    std::string operator()(const std::vector<std::string>* v) const {
      std::string s;
      for (const std::string& item : *v) s += (s.empty() ? "" : ", ") + quoted(item);
      return "[" + s + "]";
    }
    std::string operator()(const std::vector<double>* v) const {
      std::string s;
      for (const double item : *v) s += (s.empty() ? "" : ", ") + format_double(item);
      return "[" + s + "]";
    }
  };
  return std::visit(Format{}, field);
}

std::string allowed_text(const ConfigKey& key) {
  constexpr const char* kTypes[] = {"integer", "integer",         "number",         "true or false",
                                    "string",  "list of strings", "list of numbers"};
  if (!key.rule.words.empty()) return join_words(key.rule.words, " | ");
  const std::string range = range_text(key.rule, /*show_max_size=*/false);
  return kTypes[key.field.index()] + (range.empty() ? "" : ", " + range);
}

std::string rule_problem(const ConfigRule& rule, const ConfigField& value) {
  if (const auto* const* v = std::get_if<int64_t*>(&value)) {
    return number_problem(rule, static_cast<double>(**v), std::to_string(**v));
  }
  if (const auto* const* v = std::get_if<double*>(&value))
    return number_problem(rule, **v, fmt::format("{}", **v));
  if (const auto* const* list = std::get_if<std::vector<double>*>(&value)) {
    for (const double v : **list) {
      if (std::string problem = number_problem(rule, v, fmt::format("{}", v)); !problem.empty())
        return problem;
    }
    return "";
  }
  const auto* const* word = std::get_if<std::string*>(&value);
  if (!word || rule.words.empty()) return "";
  if (std::find(rule.words.begin(), rule.words.end(), **word) != rule.words.end()) return "";
  const std::string near = nearest_words(**word, rule.words);
  return fmt::format("{} is not one of {}{}", quoted(**word), join_words(rule.words, ", "),
                     near.empty() ? "" : fmt::format(" (did you mean {}?)", near));
}

std::string join_words(const std::vector<std::string>& words, const std::string& separator) {
  std::string text;
  for (const std::string& w : words) text += (text.empty() ? "" : separator) + w;
  return text;
}

// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours cost 1.
int64_t edit_distance(const std::string& left, const std::string& right) {
  const std::string a = lower(left), b = lower(right);
  const size_t n = a.size(), m = b.size();
  constexpr size_t kLongest = 256;  // nothing that long is a misspelt key
  if (std::max(n, m) > kLongest) return static_cast<int64_t>(std::max(n, m));
  std::vector<std::vector<int64_t>> d(n + 1, std::vector<int64_t>(m + 1));
  for (size_t i = 0; i <= n; ++i) d[i][0] = static_cast<int64_t>(i);
  for (size_t j = 0; j <= m; ++j) d[0][j] = static_cast<int64_t>(j);
  for (size_t i = 1; i <= n; ++i) {
    for (size_t j = 1; j <= m; ++j) {
      d[i][j] =
          std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[n][m];
}

std::string nearest(const std::string& word, const std::vector<NearName>& candidates) {
  constexpr size_t kMaxShown = 3;
  const int64_t limit = std::max<int64_t>(1, static_cast<int64_t>(word.size()) / 3);
  int64_t best = std::numeric_limits<int64_t>::max();
  std::vector<std::string> near;
  for (const NearName& c : candidates) {
    if (c.distance > limit || c.distance + c.extra > best) continue;
    if (c.distance + c.extra < best) near.clear();
    best = c.distance + c.extra;
    near.push_back(c.name);
  }
  std::sort(near.begin(), near.end());
  if (near.size() > kMaxShown) near.resize(kMaxShown);
  return join_words(near, " or ");
}

std::string nearest_words(const std::string& word, const std::vector<std::string>& words) {
  std::vector<NearName> candidates;
  for (const std::string& w : words) candidates.push_back({w, edit_distance(word, w), 0});
  return nearest(word, candidates);
}

}  // namespace contender
