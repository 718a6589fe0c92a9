// config.json: what every family becomes, and what is refused, with file and key.
#include <gtest/gtest.h>

#include "tests/hub/tiny_hub_model.h"

namespace contender {
namespace {

using namespace testing_hub;
using Json = nlohmann::json;

Json config_of(const std::string& family) {
  return Json::parse(std::ifstream(fixture(family) + "/config.json"));
}

std::string refusal(const Json& j) {
  try {
    parse_model_config(j.dump(), "config.json");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    return e.what();
  }
  return "";
}

// What is said when one key of a family's file has another value.
std::string refused(const std::string& family, const std::string& key, const Json& value) {
  Json j = config_of(family);
  j[key] = value;
  return refusal(j);
}

TEST(HubConfig, FieldsOfEveryFamily) {
  const ModelConfig v3 = read_model_config(fixture("deepseek_v3"));
  EXPECT_TRUE(v3.mla());
  EXPECT_EQ(v3.q_lora_rank, 24);
  EXPECT_EQ(v3.n_group, 4);
  EXPECT_EQ(v3.topk_method, "noaux_tc");
  EXPECT_EQ(v3.rope_factor, 4);
  EXPECT_EQ(v3.rope_mscale_all_dim, 1);
  EXPECT_EQ(v3.num_nextn_predict_layers, 0) << "announced, but not among the weights";
  const ModelConfig lite = read_model_config(fixture("deepseek_v2_lite"));
  EXPECT_EQ(lite.q_lora_rank, 0);
  EXPECT_EQ(lite.scoring_func, "softmax");
  EXPECT_EQ(lite.n_group, 1);
  const ModelConfig moe = read_model_config(fixture("qwen3_moe"));
  EXPECT_FALSE(moe.mla());
  EXPECT_TRUE(moe.qk_norm);
  EXPECT_EQ(moe.first_k_dense_replace, 1);
  EXPECT_EQ(moe.n_shared_experts, 0);
  const ModelConfig llama3 = read_model_config(fixture("llama3"));
  EXPECT_EQ(llama3.rope_scaling, "llama3");
  EXPECT_TRUE(llama3.tie_word_embeddings);
  EXPECT_EQ(llama3.head_dim, 16);
  EXPECT_TRUE(read_model_config(fixture("qwen2")).attention_bias);
}

TEST(HubConfig, WhatWeDoNotDoIsRefusedByName) {
  EXPECT_EQ(refused("llama", "hidden_act", "gelu"),
            "config.json: hidden_act: \"gelu\" is not supported: the feed-forward networks are SwiGLU");
  EXPECT_EQ(refused("qwen2", "use_sliding_window", true),
            "config.json: use_sliding_window: true is not supported: attention sees the whole sequence");
  EXPECT_NE(refused("qwen2", "layer_types", {"full_attention", "sliding_attention"}).find("layer_types"),
            std::string::npos);
  EXPECT_NE(refused("llama", "model_type", "gpt2").find("model_type: \"gpt2\""), std::string::npos);
  EXPECT_NE(refused("llama", "rope_parameters", {{"rope_type", "dynamic"}, {"factor", 2.0}})
                .find("rope_parameters.rope_type: \"dynamic\""),
            std::string::npos);
  EXPECT_NE(refused("qwen2_yarn", "rope_parameters",
                    {{"rope_type", "yarn"}, {"factor", 4.0}, {"attention_factor", 1.5}})
                .find("attention_factor"),
            std::string::npos);
  EXPECT_NE(refused("qwen2_yarn", "rope_parameters",
                    {{"rope_type", "yarn"}, {"factor", 4.0}, {"mscale", 1.0}, {"mscale_all_dim", 1.0}})
                .find("mscale_all_dim"),
            std::string::npos);
  EXPECT_NE(refused("llama", "mlp_bias", true).find("mlp_bias"), std::string::npos);
  EXPECT_NE(refused("llama", "attention_bias", true).find("attention_bias"), std::string::npos);
  EXPECT_NE(refused("llama", "vocab_size", 273).find("vocab_size: 273 is out of range"), std::string::npos);
  EXPECT_NE(refused("deepseek_v3", "moe_layer_freq", 2).find("moe_layer_freq"), std::string::npos);
  EXPECT_NE(refused("deepseek_v3", "scoring_func", "softmax").find("scoring_func"), std::string::npos);
  EXPECT_NE(refused("deepseek_v2", "norm_topk_prob", true).find("norm_topk_prob"), std::string::npos);
  EXPECT_NE(refused("qwen3_moe", "mlp_only_layers", {1}).find("mlp_only_layers"), std::string::npos);
  EXPECT_NE(refused("qwen3_moe", "decoder_sparse_step", 2).find("decoder_sparse_step"), std::string::npos);
  EXPECT_NE(refused("deepseek_v3_fp8", "quantization_config", {{"quant_method", "awq"}})
                .find("quantization_config.quant_method"),
            std::string::npos);
}

TEST(HubConfig, MissingAndIllTypedKeys) {
  for (const char* key : {"vocab_size", "hidden_size", "num_hidden_layers", "model_type", "kv_lora_rank"}) {
    Json j = config_of("deepseek_v3");
    j.erase(key);
    EXPECT_EQ(refusal(j), fmt::format("config.json: {}: missing", key));
    j[key] = Json::array();
    EXPECT_NE(refusal(j).find(fmt::format("config.json: {}: expected", key)), std::string::npos) << key;
  }
  EXPECT_NE(refused("llama", "hidden_size", 1e300).find("hidden_size"), std::string::npos);
  EXPECT_NE(refused("llama", "num_attention_heads", 0).find("num_attention_heads"), std::string::npos);
  for (const char* text : {"", "[]", "{\"a\": 1, \"a\": 2}", "{", "null", "{\"vocab_size\": 1e999}"})
    EXPECT_THROW(parse_model_config(text, "config.json"), Error) << text;
}

TEST(HubConfig, OlderFilesSpellRopeAtTheTop) {
  Json j = config_of("qwen2_yarn"), old = j;
  old.erase("rope_parameters");
  old["rope_theta"] = 10000.0;
  old["rope_scaling"] = {{"type", "yarn"},
                         {"factor", 4.0},
                         {"original_max_position_embeddings", 32},
                         {"beta_fast", 8},
                         {"beta_slow", 1}};
  const ModelConfig a = parse_model_config(j.dump(), "a"), b = parse_model_config(old.dump(), "b");
  EXPECT_EQ(model_config_text(a, DType::kF32, {}), model_config_text(b, DType::kF32, {}));
  old["rope_parameters"] = {{"rope_theta", 5.0}};
  EXPECT_NE(refusal(old).find("rope_scaling: contradicts rope_parameters"), std::string::npos);
}

TEST(HubConfig, WrittenAndReadAgainItIsTheSame) {
  for (const std::string& family : families()) {
    const ModelConfig m = read_model_config(fixture(family));
    const std::string text = model_config_text(m, DType::kBF16, {.eos = "[1, 2]"});
    const ModelConfig again = parse_model_config(text, family);
    EXPECT_EQ(model_config_text(again, DType::kBF16, {.eos = "[1, 2]"}), text) << family;
    EXPECT_EQ(Json::parse(text).at("model_type"), config_of(family).at("model_type")) << family;
    RunConfig a, b;
    a.model = m, b.model = again;
    EXPECT_EQ(config_fingerprint(a), config_fingerprint(b)) << family;
    EXPECT_EQ(config_fingerprint({.model = model_of_fingerprint(config_fingerprint(a))}),
              config_fingerprint(a));
  }
}

TEST(HubConfig, ModelsThatNoOneElseHasAreNotWritten) {
  ModelConfig m = read_model_config(fixture("deepseek_v3"));
  m.scoring_func = "softmax";
  EXPECT_THROW(model_config_text(m, DType::kBF16, {}), Error);
  m = read_model_config(fixture("qwen3_moe"));
  m.n_shared_experts = 1;
  EXPECT_THROW(model_config_text(m, DType::kBF16, {}), Error);
}

// A config file of ours that names a model.
std::string load_problem(const std::string& model_keys, RunConfig* out = nullptr) {
  const std::string path = ::testing::TempDir() + "/hub_run.toml";
  std::ofstream(path) << "[run]\nseed = 1\n[model]\n"
                      << model_keys
                      << "\n[task]\nmax_prompt_tokens = 32\n[rl]\nsteps = 1\nmax_new_tokens = 32\n";
  try {
    const RunConfig c = load_config(path, {}, 1, read_model_config);
    if (out) *out = c;
  } catch (const Error& e) {
    return std::string(e.what()).substr(path.size());
  }
  return "";
}

TEST(HubConfig, AConfigFileMayNameTheModel) {
  const std::string path = "path = \"tests/fixtures/hf/llama\"\n";
  RunConfig c;
  EXPECT_EQ(load_problem(path + "max_position_embeddings = 100", &c), "");
  EXPECT_EQ(c.model.hidden_size, 32);
  EXPECT_EQ(c.model.family, "gqa");
  EXPECT_EQ(c.model.max_position_embeddings, 100);
  EXPECT_EQ(load_problem(path + "hidden_size = 64"),
            ":5: model.hidden_size: 64 contradicts the weights of tests/fixtures/hf/llama: 32");
  EXPECT_NE(load_problem(path + "max_position_embeddings = 256").find("beyond what"), std::string::npos);
  EXPECT_EQ(load_problem(path + "max_position_embeddings = 256\nrope_factor = 2.0\n"
                                "rope_original_max_position = 128"),
            "");
  EXPECT_EQ(load_problem("path = \"nowhere\""),
            ":4: model.path: nowhere/config.json: No such file or directory");
}

}  // namespace
}  // namespace contender
