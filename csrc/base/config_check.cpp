// What one key alone cannot show: layouts that do not divide, lengths that do not fit, settings that nothing
// would read.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cctype>
#include <set>

#include "base/config_schema.h"
#include "base/error.h"

namespace contender {
namespace {

constexpr int64_t kTokenizerSize = 264;  // 256 bytes and 8 special tokens, data/tokenizer.h

bool power_of_two(int64_t n) { return n > 0 && std::has_single_bit(static_cast<uint64_t>(n)); }
bool divides(int64_t d, int64_t n) { return d > 0 && n % d == 0; }
bool readable_file(const std::string& path) {
  struct stat s {};
  return ::stat(path.c_str(), &s) == 0 && S_ISREG(s.st_mode);
}

// What one stage runs with; also the file's own [sft], [rl], [task], [reward], with stage == nullptr.
struct StageView {
  const StageConfig* stage = nullptr;
  const SftConfig& sft;
  const RlConfig& rl;
  const TaskConfig& task;
  const RewardConfig& reward;
};

class Checker {
 public:
  Checker(const RunConfig& config, int np) : c_(config), m_(config.model), np_(np) {
    RunConfig copy = config;
    for (const ConfigSection& s : config_sections(copy)) {
      for (const ConfigKey& k : s.keys) base_values_.emplace(s.name + "." + k.name, format_value(k.field));
    }
  }

  std::vector<ConfigProblem> run() {
    model_shape();
    m_.mla() ? mla_only() : gqa_only();
    if (m_.n_routed_experts > 0) experts();
    mesh_layout();
    checkpoint_and_eval();
    stage({nullptr, c_.sft, c_.rl, c_.task, c_.reward});
    std::set<std::string> names;
    for (const StageConfig& s : c_.stages) {
      stage_own(s);
      if (!names.insert(s.name).second) add({stage_key(s, "name")}, "two stages have this name");
      stage({&s, s.sft, s.rl, s.task, s.reward});
    }
    return std::move(problems_);
  }

 private:
  template <class... A>
  void add(std::vector<std::string> keys, fmt::format_string<A...> format, A&&... args) {
    push({std::move(keys), fmt::format(format, std::forward<A>(args)...)});
  }
  void push(ConfigProblem p) {
    const auto same = [&](const ConfigProblem& o) { return o.keys == p.keys && o.text == p.text; };
    if (std::none_of(problems_.begin(), problems_.end(), same)) problems_.push_back(std::move(p));
  }

  void model_shape() {
    const bool byte_tokenizer = c_.tokenizer.path.empty() && m_.path.empty();
    if (byte_tokenizer && m_.vocab_size < kTokenizerSize) {
      add({"model.vocab_size"}, "{} is less than the tokenizer's {} tokens", m_.vocab_size, kTokenizerSize);
    }
    const int64_t extended =
        static_cast<int64_t>(m_.rope_factor * static_cast<double>(m_.rope_original_max_position));
    if (m_.rope_factor > 1 && m_.max_position_embeddings > extended) {
      add({"model.max_position_embeddings", "model.rope_factor", "model.rope_original_max_position"},
          "{} is beyond rope_factor x rope_original_max_position = {}", m_.max_position_embeddings, extended);
    }
    if (m_.rope_factor > 1 && m_.rope_beta_fast <= m_.rope_beta_slow) {
      add({"model.rope_beta_fast", "model.rope_beta_slow"}, "{} is not above rope_beta_slow = {}",
          m_.rope_beta_fast, m_.rope_beta_slow);
    }
  }

  void mla_only() {
    if (m_.qk_rope_head_dim % 2 != 0) {
      add({"model.qk_rope_head_dim"}, "{} is odd; RoPE turns pairs of columns", m_.qk_rope_head_dim);
    }
    for (const auto& [name, set] :
         {std::pair{"tie_word_embeddings", m_.tie_word_embeddings},
          std::pair{"attention_bias", m_.attention_bias}, std::pair{"qk_norm", m_.qk_norm}}) {
      if (set) add({fmt::format("model.{}", name), "model.family"}, "only the family gqa has it");
    }
  }

  void gqa_only() {
    if (m_.head_dim % 2 != 0) add({"model.head_dim"}, "{} is odd; RoPE turns pairs of columns", m_.head_dim);
    if (!divides(m_.num_key_value_heads, m_.num_attention_heads)) {
      add({"model.num_key_value_heads", "model.num_attention_heads"},
          "{} does not divide num_attention_heads = {}", m_.num_key_value_heads, m_.num_attention_heads);
    }
    const std::string only = "only the family deepseek_v3 has it; here it must be";
    if (m_.num_nextn_predict_layers > 0)
      add({"model.num_nextn_predict_layers", "model.family"}, "{} 0", only);
    if (m_.mla_form != "absorbed") add({"model.mla_form", "model.family"}, "{} absorbed", only);
  }

  void experts() {
    const int64_t e = m_.n_routed_experts, k = m_.num_experts_per_tok;
    if (m_.first_k_dense_replace >= m_.num_hidden_layers) {
      add({"model.first_k_dense_replace", "model.num_hidden_layers", "model.n_routed_experts"},
          "{} of {} layers are dense: none is left for the {} experts", m_.first_k_dense_replace,
          m_.num_hidden_layers, e);
    }
    if (k > e)
      add({"model.num_experts_per_tok", "model.n_routed_experts"}, "{} is more than n_routed_experts = {}", k,
          e);
    if (m_.topk_group > m_.n_group) {
      add({"model.topk_group", "model.n_group"}, "{} is more than n_group = {}", m_.topk_group, m_.n_group);
    }
    if (!divides(m_.n_group, e)) {
      add({"model.n_group", "model.n_routed_experts"}, "{} does not divide n_routed_experts = {}", m_.n_group,
          e);
      return;
    }
    const int64_t per_group = e / m_.n_group;
    if (m_.topk_method == "noaux_tc" && m_.n_group > 1 && per_group < 2) {
      add({"model.n_group", "model.n_routed_experts", "model.topk_method"},
          "{} groups of {} experts leave one in a group; noaux_tc scores a group by its top 2", m_.n_group,
          e);
    }
    if (k <= e && m_.topk_group <= m_.n_group && k > m_.topk_group * per_group) {
      add({"model.num_experts_per_tok", "model.topk_group", "model.n_group", "model.n_routed_experts"},
          "{} is more than the {} experts of topk_group = {} groups", k, m_.topk_group * per_group,
          m_.topk_group);
    }
  }

  void mesh_layout() {
    const MeshConfig& mesh = c_.mesh;
    const int64_t slices = virtual_slices(m_);
    if (!divides(mesh.tp, slices)) {
      std::vector<std::string> keys = {"mesh.tp", "model.num_attention_heads", "model.intermediate_size",
                                       "model.vocab_size"};
      std::string dims = fmt::format("num_attention_heads = {}, intermediate_size = {}, vocab_size = {}",
                                     m_.num_attention_heads, m_.intermediate_size, m_.vocab_size);
      if (!m_.mla()) {
        keys.push_back("model.num_key_value_heads");
        dims += fmt::format(", num_key_value_heads = {}", m_.num_key_value_heads);
      }
      add(std::move(keys), "{} does not divide {}, the largest of 4, 2, 1 that divides {}", mesh.tp, slices,
          dims);
    }
    for (const auto& [key, n] : {std::pair{"mesh.dp", mesh.dp}, std::pair{"mesh.ep", mesh.ep}}) {
      if (n != 0 && !power_of_two(n)) add({key}, "{} is not a power of two", n);
    }
    if (!power_of_two(mesh.data_slots)) add({"mesh.data_slots"}, "{} is not a power of two", mesh.data_slots);
    const bool moe = m_.n_routed_experts > 0;
    if (moe && !divides(mesh.ep, m_.n_routed_experts)) {
      add({"mesh.ep", "model.n_routed_experts"}, "{} does not divide n_routed_experts = {}", mesh.ep,
          m_.n_routed_experts);
    }
    if (!moe && mesh.ep != 1)
      add({"mesh.ep", "model.n_routed_experts"}, "{} with a model that has no experts", mesh.ep);
    const int64_t np =
        np_ > 0 ? np_ : mesh.tp * mesh.dp;  // dp = 0 and ranks not known: nothing more to check
    if (np > 0) ranks(np);
  }

  void ranks(int64_t np) {
    const MeshConfig& mesh = c_.mesh;
    if (mesh.dp == 0 && !divides(mesh.tp, np)) {
      add({"mesh.tp"}, "{} does not divide the {} ranks of this job", mesh.tp, np);
    } else if (mesh.dp != 0 && mesh.tp * mesh.dp != np) {
      add({"mesh.dp", "mesh.tp"},
          "tp x dp = {} x {} = {}, but the job has {} ranks (dp = 0 takes what is there)", mesh.tp, mesh.dp,
          mesh.tp * mesh.dp, np);
    }
    if (!power_of_two(np)) {
      add({"mesh.data_slots"}, "the job has {} ranks; their number must be a power of two", np);
    } else if (power_of_two(mesh.data_slots) && !divides(np, mesh.data_slots)) {
      add({"mesh.data_slots"}, "{} is not a multiple of the {} ranks of this job", mesh.data_slots, np);
    }
    if (!divides(mesh.ep, np)) add({"mesh.ep"}, "{} does not divide the {} ranks of this job", mesh.ep, np);
  }

  void checkpoint_and_eval() {
    if (c_.eval.problems > c_.task.eval_problems && c_.task.name != "jsonl") {
      add({"eval.problems", "task.eval_problems"}, "{} is more than task.eval_problems = {}",
          c_.eval.problems, c_.task.eval_problems);
    }
    const int64_t every = c_.checkpoint.every, keep = c_.checkpoint.keep_every;
    if (every > 0 && keep > 0 && !divides(every, keep)) {
      add({"checkpoint.keep_every", "checkpoint.every"}, "{} is not a multiple of checkpoint.every = {}",
          keep, every);
    }
  }

  void stage_own(const StageConfig& s) {
    const bool plain = std::all_of(s.name.begin(), s.name.end(), [](unsigned char ch) {
      return std::isalnum(ch) || ch == '_' || ch == '-';
    });
    if (!plain || s.name.empty())
      add({stage_key(s, "name")}, "\"{}\" is not made of letters, digits, _ and -", s.name);
    const bool rl = s.kind == "rl";
    if ((rl ? s.rl.steps : s.sft.steps) == 0) {
      add({key({&s, s.sft, s.rl, s.task, s.reward}, rl ? "rl.steps" : "sft.steps"), stage_key(s, "kind")},
          "the stage \"{}\" has no steps", s.name);
    }
  }

  void stage(const StageView& v) {
    lengths(v);
    task(v);
    reward(v);
    if (!v.stage || v.stage->kind != "rl") sft(v);
    if (!v.stage || v.stage->kind == "rl") rl(v);
  }

  void lengths(const StageView& v) {
    const int64_t prompt = v.task.max_prompt_tokens, completion = v.rl.max_new_tokens,
                  longest = prompt + completion;
    const std::vector<std::string> parts = {key(v, "rl.max_new_tokens"), key(v, "task.max_prompt_tokens")};
    const std::string sum =
        fmt::format("max_prompt_tokens + max_new_tokens = {} + {} = {}", prompt, completion, longest);
    const auto limit = [&](std::string first, std::string other, int64_t available, const char* name) {
      if (longest <= available) return;
      add({std::move(first), parts[0], parts[1], std::move(other)}, "{} is beyond {} = {}", sum, name,
          available);
    };
    limit(parts[0], "model.max_position_embeddings", m_.max_position_embeddings,
          "model.max_position_embeddings");
    limit("train.token_budget", "", c_.train.token_budget, "train.token_budget");
    if (c_.rollout.kv_pages > 0) {
      limit("rollout.kv_pages", "rollout.page_size", c_.rollout.kv_pages * c_.rollout.page_size,
            "rollout.kv_pages x page_size");
    }
    if (prompt > c_.rollout.max_tokens_per_step) {
      add({"rollout.max_tokens_per_step", parts[1]}, "{} is less than task.max_prompt_tokens = {}",
          c_.rollout.max_tokens_per_step, prompt);
    }
  }

  void task(const StageView& v) {
    const bool jsonl = v.task.name == "jsonl";
    for (const auto& [name, files] :
         {std::pair{"train_files", &v.task.train_files}, std::pair{"eval_files", &v.task.eval_files}}) {
      const std::string k = key(v, fmt::format("task.{}", name));
      if (jsonl && files->empty()) {
        add({k, key(v, "task.name")}, "the task jsonl needs it");
      } else if (!jsonl && !files->empty()) {
        add({k, key(v, "task.name")}, "only the task jsonl reads it, this one is {}", v.task.name);
      }
      for (const std::string& file : *files) {
        if (jsonl && !readable_file(file)) push({{k}, fmt::format("there is no file \"{}\"", file), file});
      }
    }
    const size_t weights = v.task.train_weights.size(), files = v.task.train_files.size();
    if (weights > 0 && weights != files) {
      add({key(v, "task.train_weights"), key(v, "task.train_files")}, "{} weights for {} files", weights,
          files);
    }
    const std::string form = key(v, "task.prompt_form");
    const size_t place = v.task.prompt_form.find(kPromptPlace);
    if (place == std::string::npos || v.task.prompt_form.find(kPromptPlace, place + 1) != std::string::npos) {
      add({form}, "it must hold {} once, where a line's \"prompt\" stands", kPromptPlace);
    } else if (!jsonl && v.task.prompt_form != kPromptPlace) {
      add({form, key(v, "task.name")}, "only the task jsonl reads it, this one is {}", v.task.name);
    }
    if (v.task.name == "countdown" && v.task.difficulty < 2) {
      add({key(v, "task.difficulty"), key(v, "task.name")}, "countdown needs at least 2 numbers, not {}",
          v.task.difficulty);
    }
  }

  void reward(const StageView& v) {
    const RewardConfig& r = v.reward;
    const std::string type = key(v, "reward.type"), command = key(v, "reward.command");
    if (r.type == "command" && r.command.empty()) add({command, type}, "the reward command needs a program");
    if (r.type == "rule" && !r.command.empty()) add({command, type}, "only the reward type command reads it");
    if (r.type == "rule" && r.accuracy_weight + r.format_weight + r.language_weight == 0) {
      add({key(v, "reward.accuracy_weight"), key(v, "reward.format_weight"),
           key(v, "reward.language_weight")},
          "every weight is 0: no completion would earn anything");
    }
  }

  void schedule(const StageView& v, const std::string& s, double lr, double lr_min) {
    if (lr_min > lr) add({key(v, s + ".lr_min"), key(v, s + ".lr")}, "{} is above {}.lr = {}", lr_min, s, lr);
  }

  void sft(const StageView& v) {
    schedule(v, "sft", v.sft.lr, v.sft.lr_min);
    if (v.sft.stop_at_accuracy > 0 && v.sft.eval_every == 0) {
      add({key(v, "sft.stop_at_accuracy"), key(v, "sft.eval_every")},
          "without sft.eval_every nothing measures it");
    }
  }

  void rl(const StageView& v) {
    schedule(v, "rl", v.rl.lr, v.rl.lr_min);
    if (v.rl.group_size == 1) {
      const char* why = v.rl.algorithm == "rloo" ? "the baseline is the mean of the others"
                        : v.rl.algorithm == "dr_grpo"
                            ? "every advantage would be 0"
                            : "advantages are divided by the group's standard deviation";
      add({key(v, "rl.group_size"), key(v, "rl.algorithm")}, "1 with {}: {}; use 2 or more", v.rl.algorithm,
          why);
    }
    if (v.rl.overlong_buffer > v.rl.max_new_tokens) {
      add({key(v, "rl.overlong_buffer"), key(v, "rl.max_new_tokens")}, "{} is more than max_new_tokens = {}",
          v.rl.overlong_buffer, v.rl.max_new_tokens);
    }
    const int64_t updates = v.rl.steps_per_rollout * v.rl.inner_epochs;
    if (v.rl.max_staleness > 0 && v.rl.max_staleness < updates) {
      add({key(v, "rl.max_staleness"), key(v, "rl.steps_per_rollout"), key(v, "rl.inner_epochs")},
          "{} is less than the {} updates (steps_per_rollout x inner_epochs) that the next rollout waits "
          "for: nothing could run ahead",
          v.rl.max_staleness, updates);
    }
    if (v.rl.top_k > m_.vocab_size) {
      add({key(v, "rl.top_k"), "model.vocab_size"}, "{} is more than vocab_size = {}", v.rl.top_k,
          m_.vocab_size);
    }
    if (v.rl.mtp_loss_weight > 0 && m_.num_nextn_predict_layers == 0) {
      add({key(v, "rl.mtp_loss_weight"), "model.num_nextn_predict_layers"}, "the model has no MTP module");
    }
  }

  static std::string stage_key(const StageConfig& s, const std::string& k) {
    return "stage." + s.name + "." + k;
  }

  // Full name of a key of this stage: the file's own section where the stage has its value from there.
  std::string key(const StageView& v, const std::string& section_key) const {
    if (!v.stage) return section_key;
    StageConfig copy = *v.stage;
    for (const ConfigSection& s : stage_sections(copy)) {
      for (const ConfigKey& k : s.keys) {
        if (s.name + "." + k.name != section_key) continue;
        const auto base = std::pair(section_key, format_value(k.field));
        return base_values_.contains(base) ? section_key : stage_key(*v.stage, section_key);
      }
    }
    fail(ExitCode::kInternal, "config check: no key {}", section_key);
  }

  const RunConfig& c_;
  const ModelConfig& m_;
  const int np_;
  std::set<std::pair<std::string, std::string>> base_values_;  // key, value
  std::vector<ConfigProblem> problems_;
};

}  // namespace

std::vector<ConfigProblem> check_config(const RunConfig& config, int np) { return Checker(config, np).run(); }

std::vector<std::string> config_problems(const RunConfig& config, int np) {
  std::vector<std::string> lines;
  for (const ConfigProblem& p : check_config(config, np)) lines.push_back(p.keys[0] + ": " + p.text);
  return lines;
}

int64_t virtual_slices(const ModelConfig& m) {
  for (const int64_t s : {4, 2}) {
    const bool kv_ok = m.mla() || m.num_key_value_heads % s == 0;
    if (m.num_attention_heads % s == 0 && m.intermediate_size % s == 0 && m.vocab_size % s == 0 && kv_ok)
      return s;
  }
  return 1;
}

}  // namespace contender
