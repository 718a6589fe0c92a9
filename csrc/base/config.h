// Everything a run can be told, as plain data. One TOML file holds it; keys are the field names below,
// sections the struct names.
//
// config_schema.cpp binds every key once to its field, its allowed range or words, and one line of
// documentation: parsing, the "unknown key, did you mean" message, `contender train --help-config` and the
// defaults in the README all come from there.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace contender {

// [model]: names as in Hugging Face's config.json.
struct ModelConfig {
  // A Hugging Face directory: its config.json is this section, but for the keys that the file gives, and
  // training starts from its weights; "": random weights.
  std::string path;
  std::string family = "deepseek_v3";  // deepseek_v3 (MLA) | gqa (Llama / Qwen2 / Qwen3); both with experts
  int64_t vocab_size = 272;            // multiple of 16
  int64_t hidden_size = 128;
  int64_t num_hidden_layers = 4;
  int64_t num_attention_heads = 4;
  int64_t intermediate_size = 384;  // dense FFN
  double rms_norm_eps = 1e-6;
  int64_t max_position_embeddings = 256;
  bool tie_word_embeddings = false;
  double initializer_range = 0.02;
  double rope_theta = 10000.0;
  double rope_factor = 1.0;           // context extension; 1: off
  std::string rope_scaling = "yarn";  // yarn | llama3 (ops/rope.h)
  int64_t rope_original_max_position = 4096;
  double rope_beta_fast = 32, rope_beta_slow = 1, rope_mscale = 1, rope_mscale_all_dim = 1;
  // MLA
  int64_t q_lora_rank = 0;  // 0: no query compression
  int64_t kv_lora_rank = 32;
  int64_t qk_nope_head_dim = 32;
  int64_t qk_rope_head_dim = 16;
  int64_t v_head_dim = 32;
  std::string mla_form = "absorbed";  // absorbed (exact) | expanded (training fast path)
  // GQA
  int64_t num_key_value_heads = 2;
  int64_t head_dim = 32;
  bool attention_bias = false;  // Qwen2: bias on q, k, v
  bool qk_norm = false;         // Qwen3: RMSNorm on each head of q and k
  // MoE (n_routed_experts = 0: dense everywhere)
  int64_t first_k_dense_replace = 1;
  int64_t n_routed_experts = 0;
  int64_t n_shared_experts = 1;
  int64_t num_experts_per_tok = 2;
  int64_t moe_intermediate_size = 128;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  std::string scoring_func = "sigmoid";  // sigmoid | softmax
  std::string topk_method =
      "noaux_tc";  // noaux_tc (bias, group score = sum of top 2) | group_limited_greedy (max)
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1.0;
  double bias_update_speed = 0.001;      // aux-loss-free balancing; 0: off
  int64_t num_nextn_predict_layers = 0;  // MTP modules, 0 or 1

  bool mla() const { return family == "deepseek_v3"; }
  bool moe_layer(int64_t layer) const { return n_routed_experts > 0 && layer >= first_k_dense_replace; }
};

// [mesh]
struct MeshConfig {
  int64_t tp = 1;
  int64_t dp = 0;          // 0: np / tp
  int64_t ep = 1;          // folded: divides np
  int64_t data_slots = 4;  // virtual data slots, a power of two and a multiple of np; part of the numerics
  int64_t moe_chunks = 2;  // token chunks in flight through dispatch / combine
  double capacity_factor = 0;      // receive rows per peer = factor * mean; 0: worst case, cannot overflow
  std::string transport = "auto";  // of collectives on a GPU: auto | host | staged | nccl
};

// [train]: what SFT and RL share.
struct TrainConfig {
  std::string recompute = "none";  // none | selective | full
  std::string precision = "bf16";  // bf16 | fp8: products of the linear layers
  int64_t token_budget = 2048;     // tokens of one pack (per slot and round)
  double max_grad_norm = 1.0;
  double adam_beta1 = 0.9, adam_beta2 = 0.95, adam_eps = 1e-8, weight_decay = 0.1;
  std::string moment_dtype = "fp32";  // fp32 | bf16
  double spike_factor = 10.0;         // skip when norm, loss or KL > factor * max of the last 100; 0: off
  int64_t max_skipped = 5;            // skipped updates in a row before exit 17
  double watchdog_seconds = 60.0;
};

// [sft] and each [[stage]] of kind "sft" or "rejection"
struct SftConfig {
  int64_t steps = 0;
  int64_t batch_size = 64;          // sequences per step
  double lr = 1e-3, lr_min = 1e-4;  // cosine from lr to lr_min
  int64_t warmup_steps = 0;
  double stop_at_accuracy = 0;  // stop as soon as an evaluation at T = 1 reaches it; 0: off
  int64_t eval_every = 0;       // steps between those evaluations
  double mtp_loss_weight = 0.3;
  int64_t samples_per_prompt = 8;  // rejection: candidates per prompt, the correct ones are kept
  int64_t num_prompts = 256;       // rejection: prompts sampled
};

// [rl] and each [[stage]] of kind "rl". Defaults of the R1-Zero column are in the documentation of each key.
struct RlConfig {
  int64_t steps = 0;                 // optimizer steps
  std::string algorithm = "grpo";    // grpo | dr_grpo | dapo | gspo | rloo | cispo
  std::string aggregation = "auto";  // auto (the algorithm's) | token | sequence | constant
  int64_t prompts_per_step = 32;     // questions per optimizer step
  int64_t group_size = 16;           // G completions per question
  int64_t steps_per_rollout = 1;     // minibatches one rollout is shuffled into (R1-Zero: 16)
  int64_t inner_epochs = 1;
  double lr = 3e-6, lr_min = 3e-6;
  int64_t warmup_steps = 0;
  double clip_eps_low = 0.2, clip_eps_high = 0.2;
  double kl_beta = 0.001;
  std::string kl_estimator = "k3";        // k1 | k2 | k3
  std::string kl_placement = "loss";      // loss | reward
  int64_t reference_replace_every = 400;  // steps; 0: never
  double temperature = 1.0;
  int64_t top_k = 0;
  double top_p = 1.0, min_p = 0.0;
  int64_t max_new_tokens = 64;
  int64_t max_staleness = 0;      // weight versions a sample may lag; 0: synchronous
  double tis_cap = 2.0;           // truncated importance weight when samples are stale or truncated
  bool dynamic_sampling = false;  // drop groups without variance, refill (DAPO)
  int64_t dynamic_max_rounds = 4;
  int64_t overlong_buffer = 0;     // soft penalty over the last tokens of max_new_tokens (DAPO); 0: off
  int64_t verify_logp_every = 50;  // steps between full-sequence checks of the sampler's logp
  double mtp_loss_weight = 0.0;
};

inline constexpr const char* kPromptPlace = "{prompt}";  // in task.prompt_form

// [task]: procedural task, or JSONL files.
struct TaskConfig {
  std::string name = "addition";  // addition | countdown | reverse | sort | word_problems | jsonl
  int64_t difficulty = 2;         // digits / numbers / letters / level
  std::vector<std::string> train_files, eval_files;  // jsonl: *.jsonl or *.jsonl.zst
  std::vector<double> train_weights;       // of each train file; empty: every prompt counts the same
  std::string prompt_form = kPromptPlace;  // jsonl: the user's turn, kPromptPlace once
  std::string contamination = "report";    // 10-gram overlap with eval_files: off | report | drop | error
  int64_t max_prompt_tokens = 64;
  int64_t eval_problems = 512;  // held-out problems, disjoint by canonical problem
};

// [tokenizer]
struct TokenizerConfig {
  std::string path;  // directory or tokenizer.json; "": that of model.path, else the byte tokenizer
};

// [reward]
struct RewardConfig {
  std::string type = "rule";  // rule | command
  double accuracy_weight = 1.0, format_weight = 1.0, language_weight = 0.0;
  std::string target_language = "en";  // en | zh | digits (any script word not of it counts against)
  std::vector<std::string> command;    // program and arguments of the worker
  double timeout_seconds = 10.0;
  int64_t workers = 1;
  double math_seconds = 3.0;       // longest check of one mathematical answer
  double code_seconds = 10.0;      // wall clock of a program on one test
  int64_t code_memory_mib = 1024;  // of a program
  double max_infra_errors = 0.1;   // share of samples of a step without a score before the run stops
};

// [rollout]
struct RolloutConfig {
  int64_t max_sequences = 256;  // decoded together per tp group
  int64_t page_size = 16;
  int64_t kv_pages = 0;                // 0: enough for max_sequences of full length
  int64_t max_tokens_per_step = 4096;  // prefill + decode tokens in one forward
};

// [eval]
struct EvalConfig {
  int64_t every = 0;    // RL steps; 0: only before and after
  int64_t samples = 1;  // k per problem
  double temperature = 1.0;
  double top_p = 1.0;
  int64_t problems = 512;
};

// [checkpoint]
struct CheckpointConfig {
  int64_t every = 0;  // steps; 0: only at the end and on SIGUSR1
  int64_t keep_last = 2;
  int64_t keep_every = 0;    // steps kept for good
  int64_t max_failures = 3;  // failed saves in a row before exit 20
};

// [metrics]
struct MetricsConfig {
  double dollars_per_rank_hour = 2.0;
  bool tensorboard = true;
  bool trace = false;       // Chrome trace of the whole run
  bool completions = true;  // completions.jsonl
};

struct StageConfig {
  std::string kind;  // sft | rl | rejection
  std::string name;
  SftConfig sft;        // for sft and rejection; defaults from [sft]
  RlConfig rl;          // for rl; defaults from [rl]
  TaskConfig task;      // defaults from [task]
  RewardConfig reward;  // defaults from [reward]
};

struct RunConfig {
  // [run]
  std::string name = "run";
  std::string dir = "runs/run";
  uint64_t seed = 1;
  std::string device = "auto";  // auto | cpu | cuda
  ModelConfig model;
  MeshConfig mesh;
  TrainConfig train;
  SftConfig sft;
  RlConfig rl;
  TokenizerConfig tokenizer;
  TaskConfig task;
  RewardConfig reward;
  RolloutConfig rollout;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  MetricsConfig metrics;
  std::vector<StageConfig>
      stages;        // [[stage]]; empty in the file: sft if sft.steps > 0, then rl if rl.steps > 0
  std::string path;  // the file
};

// Reads and checks a file, with overrides applied on top: `section.key=value` wins over the file, in every
// stage too; `stage.NAME.section.key=value` in that stage. np is the number of ranks (0: not known). Collects
// every problem and throws one Error(kConfig) whose message has a line per problem: `file:line: key: what is
// wrong (did you mean ...?)`.
// `read_model` gives the [model] of a directory that model.path names (hub/model_config.h), or throws
// Error(kConfig); keys of the file and of overrides win over it where the weights leave a choice.
using ModelReader = std::function<ModelConfig(const std::string& dir)>;
RunConfig load_config(const std::string& path, const std::vector<std::string>& overrides, int np,
                      const ModelReader& read_model = {});
// All problems of a config that is already parsed (layout, sizes); each a readable line.
std::vector<std::string> config_problems(const RunConfig& config, int np);
// Canonical text of everything that decides the numbers (not dir, metrics, checkpoint, mesh layout): the
// config hash of checkpoints.
std::string config_fingerprint(const RunConfig& config);
// The [model] of a fingerprint. Error(kNoCheckpoint) when the text is not one.
ModelConfig model_of_fingerprint(const std::string& fingerprint);
// A file that loads as this config: every key with its value, and of each stage the keys in which it differs
// from the sections above it.
std::string config_text(const RunConfig& config);
// Human-readable table of every key: default, allowed values, meaning.
std::string config_help();
// Virtual slices of the tensor-parallel dimensions: the largest of 4, 2, 1 that divides heads, FFN sizes and
// vocabulary. tp divides it.
int64_t virtual_slices(const ModelConfig& model);

}  // namespace contender
