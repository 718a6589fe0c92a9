#include "hub/model_config.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/config_schema.h"
#include "base/error.h"
#include "checkpoint/storage.h"
#include "data/strict_json.h"
#include "hub/model_files.h"

namespace contender {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxConfigBytes = 16 << 20;
constexpr const char* kConfigName = "config.json";

// One object of the file; `at` is its place in messages ("rope_scaling.").
class Reader {
 public:
  Reader(const Json& json, const std::string& path, const std::string& at = "")
      : json_(json), path_(path), at_(at) {}

  template <class... A>
  [[noreturn]] void refuse(const std::string& key, fmt::format_string<A...> format, A&&... args) const {
    fail(ExitCode::kConfig, "{}: {}{}: {}", path_, at_, key, fmt::format(format, std::forward<A>(args)...));
  }
  // null counts as absent, as in Hugging Face's own reading.
  bool has(const std::string& key) const { return json_.contains(key) && !json_.at(key).is_null(); }
  std::string shown(const std::string& key) const { return json_.at(key).dump().substr(0, 80); }

  int64_t integer(const std::string& key) const {
    need(key);
    const Json& v = json_.at(key);
    if (!v.is_number_integer() || (v.is_number_unsigned() && v.get<uint64_t>() > uint64_t{1} << 40))
      refuse(key, "expected an integer, not {}", shown(key));
    return v.get<int64_t>();
  }
  int64_t integer(const std::string& key, int64_t otherwise) const {
    return has(key) ? integer(key) : otherwise;
  }
  double number(const std::string& key) const {
    need(key);
    if (!json_.at(key).is_number()) refuse(key, "expected a number, not {}", shown(key));
    return json_.at(key).get<double>();
  }
  double number(const std::string& key, double otherwise) const { return has(key) ? number(key) : otherwise; }
  bool boolean(const std::string& key, bool otherwise) const {
    if (!has(key)) return otherwise;
    if (!json_.at(key).is_boolean()) refuse(key, "expected true or false, not {}", shown(key));
    return json_.at(key).get<bool>();
  }
  std::string text(const std::string& key) const {
    need(key);
    if (!json_.at(key).is_string()) refuse(key, "expected a string, not {}", shown(key));
    return json_.at(key).get<std::string>();
  }
  std::string text(const std::string& key, const std::string& otherwise) const {
    return has(key) ? text(key) : otherwise;
  }
  Reader object(const std::string& key) const {
    if (!json_.at(key).is_object()) refuse(key, "expected an object, not {}", shown(key));
    return {json_.at(key), path_, at_ + key + "."};
  }
  // A key that may be there, with one value only.
  void only(const std::string& key, const Json& value, const char* why) const {
    if (has(key) && json_.at(key) != value) refuse(key, "{} is not supported: {}", shown(key), why);
  }
  const Json& json() const { return json_; }

 private:
  void need(const std::string& key) const {
    if (!has(key)) refuse(key, "missing");
  }
  const Json& json_;
  const std::string path_, at_;
};

// What every model here takes for granted.
void check_assumptions(const Reader& r) {
  r.only("hidden_act", "silu", "the feed-forward networks are SwiGLU");
  r.only("mlp_bias", false, "feed-forward products have no bias");
  r.only("use_sliding_window", false, "attention sees the whole sequence");
  r.only("attention_dropout", 0.0, "there is no dropout");
  r.only("hidden_dropout", 0.0, "there is no dropout");
  r.only("partial_rotary_factor", 1.0, "RoPE turns every column of a head");
  r.only("attn_logit_softcapping", nullptr, "scores are not capped");
  r.only("final_logit_softcapping", nullptr, "logits are not capped");
  r.only("is_encoder_decoder", false, "the model is a decoder");
  if (r.has("sliding_window") && !r.has("use_sliding_window"))
    r.refuse("sliding_window", "{} is not supported: attention sees the whole sequence",
             r.shown("sliding_window"));
  if (r.has("layer_types"))
    for (const Json& type : r.json().at("layer_types"))
      if (type != "full_attention")
        r.refuse("layer_types", "{} is not supported: attention sees the whole sequence", type.dump());
  if (!r.has("quantization_config")) return;
  const Reader q = r.object("quantization_config");
  if (q.text("quant_method") != "fp8")
    q.refuse("quant_method", "{} is not supported: only fp8 is", q.shown("quant_method"));
  q.only("fmt", "e4m3", "only e4m3 is");
  q.only("weight_block_size", Json::array({kScaleBlock, kScaleBlock}), "scales are of blocks of 128 x 128");
}

void read_yarn(const Reader& s, ModelConfig& m) {
  m.rope_beta_fast = s.number("beta_fast", 32);
  m.rope_beta_slow = s.number("beta_slow", 1);
  s.only("truncate", true, "the ends of the ramp are whole dimensions");
  if (s.has("attention_factor")) s.refuse("attention_factor", "is not supported: it follows from the factor");
  // cos and sin are scaled by the ratio of both, the softmax by the square of the second (DeepSeek). Alone,
  // the factor scales cos and sin.
  m.rope_mscale = s.number("mscale", 1);
  m.rope_mscale_all_dim = s.number("mscale_all_dim", 0);
  if (m.rope_mscale != 1 && m.rope_mscale_all_dim == 0)
    s.refuse("mscale", "{} without mscale_all_dim is not supported", m.rope_mscale);
  if (!m.mla() && m.rope_mscale_all_dim != 0)
    s.refuse("mscale_all_dim",
             "is not supported in this model_type: it scales the softmax of DeepSeek's models");
}

// Either rope_theta and rope_scaling, or both in rope_parameters.
void read_rope(const Reader& r, ModelConfig& m) {
  const bool both = r.has("rope_parameters");
  if (both && r.has("rope_scaling") && r.json().at("rope_parameters") != r.json().at("rope_scaling"))
    r.refuse("rope_scaling", "contradicts rope_parameters");
  m.rope_theta = r.number("rope_theta", 10000);
  const std::string key = both ? "rope_parameters" : "rope_scaling";
  if (!r.has(key)) return;
  const Reader s = r.object(key);
  m.rope_theta = s.number("rope_theta", m.rope_theta);
  if (r.has("rope_theta") && r.number("rope_theta") != m.rope_theta)
    s.refuse("rope_theta", "{} contradicts the other rope_theta, {}", m.rope_theta, r.number("rope_theta"));
  const std::string type = s.text("rope_type", s.text("type", "default"));
  s.only("type", type, "it contradicts rope_type");
  s.only("partial_rotary_factor", 1.0, "RoPE turns every column of a head");
  if (type == "default") return;
  if (type != "yarn" && type != "llama3")
    s.refuse("rope_type", "\"{}\" is not supported: default, yarn and llama3 are", type.substr(0, 40));
  m.rope_scaling = type;
  m.rope_factor = s.number("factor");
  if (m.rope_factor < 1) s.refuse("factor", "{} is less than 1", m.rope_factor);
  if (type == "yarn") {
    m.rope_original_max_position = s.integer("original_max_position_embeddings", m.max_position_embeddings);
    read_yarn(s, m);
  } else {
    m.rope_original_max_position = s.integer("original_max_position_embeddings");
    m.rope_beta_slow = s.number("low_freq_factor");
    m.rope_beta_fast = s.number("high_freq_factor");
  }
}

// Multi-head latent attention and DeepSeek's mixture of experts.
void read_deepseek(const Reader& r, ModelConfig& m, bool v3) {
  m.family = "deepseek_v3";
  r.only("attention_bias", false, "latent projections have no bias");
  r.only("tie_word_embeddings", false, "embedding and head are apart");
  r.only("rope_interleave", true, "RoPE turns neighbouring columns");
  r.only("num_key_value_heads", m.num_attention_heads, "keys and values are of every head");
  m.q_lora_rank = r.integer("q_lora_rank", 0);
  m.kv_lora_rank = r.integer("kv_lora_rank");
  m.qk_nope_head_dim = r.integer("qk_nope_head_dim");
  m.qk_rope_head_dim = r.integer("qk_rope_head_dim");
  m.v_head_dim = r.integer("v_head_dim");
  m.n_routed_experts = r.integer("n_routed_experts", 0);
  if (m.n_routed_experts == 0) return;
  m.first_k_dense_replace = r.integer("first_k_dense_replace");
  r.only("moe_layer_freq", 1, "every layer from first_k_dense_replace on has experts");
  m.n_shared_experts = r.integer("n_shared_experts", 0);
  m.num_experts_per_tok = r.integer("num_experts_per_tok");
  m.moe_intermediate_size = r.integer("moe_intermediate_size");
  m.routed_scaling_factor = r.number("routed_scaling_factor", 1);
  m.n_group = r.integer("n_group", 1);
  m.topk_group = r.integer("topk_group", 1);
  m.scoring_func = r.text("scoring_func", v3 ? "sigmoid" : "softmax");
  m.norm_topk_prob = r.boolean("norm_topk_prob", v3);
  const std::string method = r.text("topk_method", v3 ? "noaux_tc" : "greedy");
  if (v3) {
    r.only("scoring_func", "sigmoid", "scores of deepseek_v3 are sigmoids");
    r.only("topk_method", "noaux_tc", "deepseek_v3 selects with a bias");
    m.topk_method = method;
    m.num_nextn_predict_layers = r.integer("num_nextn_predict_layers", 0);
    return;
  }
  r.only("scoring_func", "softmax", "scores of deepseek_v2 are a softmax");
  r.only("norm_topk_prob", false, "published codes of deepseek_v2 disagree on its meaning");
  if (method != "greedy" && method != "group_limited_greedy")
    r.refuse("topk_method", "\"{}\" is not supported: greedy and group_limited_greedy are",
             method.substr(0, 40));
  m.topk_method = "group_limited_greedy";
  if (method == "greedy") m.n_group = m.topk_group = 1;
}

void read_qwen3_experts(const Reader& r, ModelConfig& m) {
  r.only("decoder_sparse_step", 1, "every layer has experts");
  m.first_k_dense_replace = 0;
  if (r.has("mlp_only_layers")) {
    for (const Json& layer : r.json().at("mlp_only_layers"))
      if (layer != m.first_k_dense_replace++)
        r.refuse("mlp_only_layers", "{} is not supported: dense layers are the first ones",
                 r.shown("mlp_only_layers"));
  }
  m.n_routed_experts = r.integer(r.has("num_experts") ? "num_experts" : "num_local_experts");
  m.n_shared_experts = 0;
  m.num_experts_per_tok = r.integer("num_experts_per_tok");
  m.moe_intermediate_size = r.integer("moe_intermediate_size");
  m.norm_topk_prob = r.boolean("norm_topk_prob", false);
  m.scoring_func = "softmax";
  m.topk_method = "group_limited_greedy";
  m.n_group = m.topk_group = 1;
}

void read_gqa(const Reader& r, ModelConfig& m, const std::string& type) {
  m.family = "gqa";
  const bool qwen3 = type.starts_with("qwen3");
  m.num_key_value_heads = type == "llama" ? r.integer("num_key_value_heads", m.num_attention_heads)
                                          : r.integer("num_key_value_heads");
  if (!r.has("head_dim") && m.num_attention_heads > 0 && m.hidden_size % m.num_attention_heads != 0)
    r.refuse("head_dim", "missing, and {} heads do not divide hidden_size = {}", m.num_attention_heads,
             m.hidden_size);
  m.head_dim = r.has("head_dim") ? r.integer("head_dim")
               : qwen3           ? 128
                                 : m.hidden_size / m.num_attention_heads;
  r.only("attention_bias", type == "qwen2",
         type == "qwen2" ? "qwen2 has a bias on q, k and v" : "only the bias of qwen2 is");
  m.attention_bias = type == "qwen2";
  m.qk_norm = qwen3;
  m.tie_word_embeddings = r.boolean("tie_word_embeddings", false);
  if (type == "qwen3_moe") read_qwen3_experts(r, m);
}

// Every value is one that a config file of ours may have.
void check_rules(const Reader& r, const ModelConfig& model) {
  RunConfig config;
  config.model = model;
  for (const ConfigSection& s : config_sections(config))
    for (const ConfigKey& k : s.keys)
      if (s.name == "model")
        if (const std::string problem = rule_problem(k.rule, k.field); !problem.empty())
          r.refuse(k.name, "{}", problem);
}

ModelConfig read_model(const Reader& r) {
  const std::string type = r.text("model_type");
  static const std::vector<std::string> known = {"deepseek_v2", "deepseek_v3", "llama",
                                                 "qwen2",       "qwen3",       "qwen3_moe"};
  if (std::find(known.begin(), known.end(), type) == known.end())
    r.refuse("model_type", "\"{}\" is not supported: {} are", type.substr(0, 40), join_words(known, ", "));
  ModelConfig m;
  m.vocab_size = r.integer("vocab_size");
  m.hidden_size = r.integer("hidden_size");
  m.num_hidden_layers = r.integer("num_hidden_layers");
  m.num_attention_heads = r.integer("num_attention_heads");
  m.intermediate_size = r.integer("intermediate_size");
  m.max_position_embeddings = r.integer("max_position_embeddings");
  m.rms_norm_eps = r.number("rms_norm_eps", 1e-6);
  m.initializer_range = r.number("initializer_range", 0.02);
  check_assumptions(r);
  type.starts_with("deepseek") ? read_deepseek(r, m, type == "deepseek_v3") : read_gqa(r, m, type);
  read_rope(r, m);
  check_rules(r, m);
  return m;
}

Json parse_object(const std::string& text, const std::string& path) {
  try {
    Json json = parse_strict_json(text);
    if (json.is_object()) return json;
  } catch (const std::runtime_error& e) {
    fail(ExitCode::kConfig, "{}: {}", path, e.what());
  }
  fail(ExitCode::kConfig, "{}: expected an object", path);
}

std::string config_text_of(const std::string& dir) {
  try {
    return read_small_file(dir + "/" + kConfigName, kMaxConfigBytes);
  } catch (const Error& e) {
    throw Error(ExitCode::kConfig, e.what());
  }
}

// --- out ---

std::string model_type_of(const ModelConfig& m) {
  if (m.mla()) {
    const bool v3 = m.n_routed_experts == 0 || (m.scoring_func == "sigmoid" && m.topk_method == "noaux_tc");
    const bool v2 =
        m.scoring_func == "softmax" && m.topk_method == "group_limited_greedy" && !m.norm_topk_prob;
    if (!v3 && !v2)
      fail(ExitCode::kConfig,
           "model.topk_method: no model_type of Hugging Face has {} with {} scores and norm_topk_prob = {}",
           m.topk_method, m.scoring_func, m.norm_topk_prob);
    return v3 ? "deepseek_v3" : "deepseek_v2";
  }
  if (m.qk_norm && m.attention_bias)
    fail(ExitCode::kConfig, "model.qk_norm: no model_type of Hugging Face has it with attention_bias");
  if (m.n_routed_experts == 0) return m.qk_norm ? "qwen3" : m.attention_bias ? "qwen2" : "llama";
  const bool qwen = m.qk_norm && m.n_shared_experts == 0 && m.scoring_func == "softmax" && m.n_group == 1 &&
                    m.topk_method == "group_limited_greedy" && m.routed_scaling_factor == 1;
  if (!qwen)
    fail(ExitCode::kConfig,
         "model.n_routed_experts: with family gqa, Hugging Face knows experts of qwen3_moe only: qk_norm, "
         "softmax scores, no shared experts, one group, routed_scaling_factor = 1");
  return "qwen3_moe";
}

const char* architecture_of(const std::string& type) {
  return type == "deepseek_v3"   ? "DeepseekV3ForCausalLM"
         : type == "deepseek_v2" ? "DeepseekV2ForCausalLM"
         : type == "llama"       ? "LlamaForCausalLM"
         : type == "qwen2"       ? "Qwen2ForCausalLM"
         : type == "qwen3"       ? "Qwen3ForCausalLM"
                                 : "Qwen3MoeForCausalLM";
}

nlohmann::ordered_json rope_scaling_of(const ModelConfig& m) {
  nlohmann::ordered_json s = {{"rope_type", m.rope_scaling},
                              {"type", m.rope_scaling},
                              {"factor", m.rope_factor},
                              {"original_max_position_embeddings", m.rope_original_max_position}};
  if (m.rope_scaling == "llama3") {
    s["low_freq_factor"] = m.rope_beta_slow;
    s["high_freq_factor"] = m.rope_beta_fast;
    return s;
  }
  s["beta_fast"] = m.rope_beta_fast;
  s["beta_slow"] = m.rope_beta_slow;
  if (m.rope_mscale_all_dim == 0 && m.rope_mscale == 1) return s;
  if (!m.mla())
    fail(
        ExitCode::kConfig,
        "model.rope_mscale_all_dim: Hugging Face scales the softmax of DeepSeek's models only: it must be 0, "
        "with rope_mscale = 1");
  s["mscale"] = m.rope_mscale;
  s["mscale_all_dim"] = m.rope_mscale_all_dim;
  return s;
}

void write_deepseek(const ModelConfig& m, const std::string& type, nlohmann::ordered_json& j) {
  j["num_key_value_heads"] = m.num_attention_heads;
  j["q_lora_rank"] = m.q_lora_rank > 0 ? nlohmann::ordered_json(m.q_lora_rank) : nullptr;
  j["kv_lora_rank"] = m.kv_lora_rank;
  j["qk_nope_head_dim"] = m.qk_nope_head_dim;
  j["qk_rope_head_dim"] = m.qk_rope_head_dim;
  j["v_head_dim"] = m.v_head_dim;
  if (type == "deepseek_v3") j["rope_interleave"] = true;
  // Without experts: all layers are dense.
  j["first_k_dense_replace"] = m.n_routed_experts > 0 ? m.first_k_dense_replace : m.num_hidden_layers;
  if (m.n_routed_experts == 0) return;
  j["n_routed_experts"] = m.n_routed_experts;
  j["n_shared_experts"] = m.n_shared_experts > 0 ? nlohmann::ordered_json(m.n_shared_experts) : nullptr;
  j["num_experts_per_tok"] = m.num_experts_per_tok;
  j["moe_intermediate_size"] = m.moe_intermediate_size;
  j["moe_layer_freq"] = 1;
  j["n_group"] = m.n_group;
  j["topk_group"] = m.topk_group;
  j["scoring_func"] = m.scoring_func;
  j["topk_method"] = type == "deepseek_v2" && m.n_group == 1 ? "greedy" : m.topk_method;
  j["norm_topk_prob"] = m.norm_topk_prob;
  j["routed_scaling_factor"] = m.routed_scaling_factor;
  if (type == "deepseek_v3") j["num_nextn_predict_layers"] = m.num_nextn_predict_layers;
}

void write_gqa(const ModelConfig& m, const std::string& type, nlohmann::ordered_json& j) {
  j["num_key_value_heads"] = m.num_key_value_heads;
  j["head_dim"] = m.head_dim;
  if (type != "qwen2") j["attention_bias"] = false;
  if (type == "llama") j["mlp_bias"] = false;
  if (type != "llama") j["use_sliding_window"] = false;
  if (type != "qwen3_moe") return;
  std::vector<int64_t> dense;
  for (int64_t l = 0; l < m.first_k_dense_replace; ++l) dense.push_back(l);
  j["num_experts"] = m.n_routed_experts;
  j["num_experts_per_tok"] = m.num_experts_per_tok;
  j["moe_intermediate_size"] = m.moe_intermediate_size;
  j["decoder_sparse_step"] = 1;
  j["mlp_only_layers"] = dense;
  j["norm_topk_prob"] = m.norm_topk_prob;
}

void write_ids(const SpecialIds& ids, nlohmann::ordered_json& j) {
  for (const auto& [key, value] :
       {std::pair{"bos_token_id", &ids.bos}, {"eos_token_id", &ids.eos}, {"pad_token_id", &ids.pad}})
    if (!value->empty()) j[key] = nlohmann::ordered_json::parse(*value);
}

}  // namespace

ModelConfig parse_model_config(const std::string& text, const std::string& path) {
  return read_model(Reader(parse_object(text, path), path));
}

ModelConfig read_model_config(const std::string& dir) {
  if (GgufFile::named(dir)) return parse_model_config(gguf_config_text(GgufFile(dir)), dir);
  const std::string path = dir + "/" + kConfigName;
  ModelConfig m = parse_model_config(config_text_of(dir), path);
  if (m.num_nextn_predict_layers > 0 && ModelFiles::present(dir)) {
    const ModelFiles files(dir);
    if (!files.find(fmt::format("model.layers.{}.eh_proj.weight", m.num_hidden_layers)))
      m.num_nextn_predict_layers = 0;
  }
  return m;
}

SpecialIds read_special_ids(const std::string& dir) {
  SpecialIds ids;
  if (GgufFile::named(dir)) {
    const GgufFile file(dir);
    const auto id = [&](const char* name) {
      const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
      return file.has(key) ? std::to_string(file.integer(key)) : std::string();
    };
    return {.bos = id("bos"), .eos = id("eos"), .pad = id("padding")};
  }
  if (!std::filesystem::exists(dir + "/" + kConfigName)) return ids;
  const Json json = parse_object(config_text_of(dir), dir + "/" + kConfigName);
  const auto id = [&](const char* key) {
    const Json value = json.value(key, Json());
    const bool list =
        value.is_array() && !value.empty() && value.size() < 64 &&
        std::all_of(value.begin(), value.end(), [](const Json& v) { return v.is_number_integer(); });
    return value.is_number_integer() || list ? value.dump() : std::string();
  };
  return {.bos = id("bos_token_id"), .eos = id("eos_token_id"), .pad = id("pad_token_id")};
}

std::string model_config_text(const ModelConfig& m, DType dtype, const SpecialIds& ids) {
  const std::string type = model_type_of(m);
  nlohmann::ordered_json j;
  j["architectures"] = {architecture_of(type)};
  j["model_type"] = type;
  j["torch_dtype"] = dtype == DType::kF32 ? "float32" : "bfloat16";
  j["vocab_size"] = m.vocab_size;
  j["hidden_size"] = m.hidden_size;
  j["intermediate_size"] = m.intermediate_size;
  j["num_hidden_layers"] = m.num_hidden_layers;
  j["num_attention_heads"] = m.num_attention_heads;
  j["hidden_act"] = "silu";
  j["attention_dropout"] = 0.0;
  j["max_position_embeddings"] = m.max_position_embeddings;
  j["rms_norm_eps"] = m.rms_norm_eps;
  j["initializer_range"] = m.initializer_range;
  j["tie_word_embeddings"] = m.tie_word_embeddings;
  j["rope_theta"] = m.rope_theta;
  j["rope_scaling"] = m.rope_factor > 1 ? rope_scaling_of(m) : nullptr;
  m.mla() ? write_deepseek(m, type, j) : write_gqa(m, type, j);
  write_ids(ids, j);
  j["use_cache"] = true;
  return j.dump(2) + "\n";
}

std::string generation_config_text(const SpecialIds& ids) {
  nlohmann::ordered_json j;
  write_ids(ids, j);
  return j.empty() ? "" : j.dump(2) + "\n";
}

}  // namespace contender
