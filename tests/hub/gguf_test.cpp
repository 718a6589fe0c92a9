// Models in GGUF files: values against ggml's, whole models against transformers, and what is refused.
#include <gtest/gtest.h>

#include <filesystem>

#include "hub/gguf_blocks.h"
#include "hub/save.h"
#include "tests/data/gguf_builder.h"
#include "tests/hub/tiny_hub_model.h"

namespace contender {
namespace {

namespace fs = std::filesystem;
using namespace testing_hub;
using testing_gguf::GgufBuilder;

constexpr const char* kFixtures = "tests/fixtures/gguf/";

nlohmann::json json_file(const std::string& path) { return nlohmann::json::parse(std::ifstream(path)); }

bool same_bits(float a, float b) {
  return (a != a && b != b) || std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

TEST(GgufBlocks, ValuesAreThoseOfGgmlToTheBit) {
  const nlohmann::json all = json_file(std::string(kFixtures) + "blocks.json");
  for (const GgufType type : {GgufType::kF32, GgufType::kF16, GgufType::kBF16, GgufType::kQ4_0,
                              GgufType::kQ4_1, GgufType::kQ8_0, GgufType::kQ4_K, GgufType::kQ6_K}) {
    const GgufTypeInfo& info = gguf_type_info(type);
    SCOPED_TRACE(info.name);
    const std::vector<float> stored = floats_of_base64(all.at(info.name).at("blocks")),
                             expected = floats_of_base64(all.at(info.name).at("values"));
    const auto* data = reinterpret_cast<const std::byte*>(stored.data());
    const auto count = static_cast<int64_t>(expected.size());
    ASSERT_GE(count, 64);
    std::vector<float> values(expected.size(), -1);
    gguf_to_f32(type, data, 0, count, values.data());
    int64_t wrong = 0;
    for (size_t i = 0; i < values.size(); ++i) wrong += !same_bits(values[i], expected[i]);
    EXPECT_EQ(wrong, 0) << "of " << count;
    // Any part of a row, also within a block.
    for (const auto& [first, some] :
         {std::pair<int64_t, int64_t>{1, 1}, {3, 40}, {31, 2}, {17, 0}, {7, count - 7}}) {
      std::vector<float> part(static_cast<size_t>(some) + 1, -7);
      gguf_to_f32(type, data, first, some, part.data());
      for (int64_t i = 0; i < some; ++i)
        wrong += !same_bits(part[static_cast<size_t>(i)], expected[static_cast<size_t>(first + i)]);
      EXPECT_EQ(part.back(), -7);
    }
    EXPECT_EQ(wrong, 0);
  }
}

class GgufFamilies : public ::testing::TestWithParam<std::string> {
 protected:
  std::string file() const { return kFixtures + GetParam() + ".gguf"; }
};

TEST_P(GgufFamilies, LogitsAndGreedyTokensAreThoseOfTransformers) {
  const nlohmann::json e = json_file(kFixtures + GetParam() + ".json");
  const std::vector<int32_t> tokens = e.at("tokens"), greedy = e.at("greedy");
  HubModel model(hub_config(file()));
  const auto count = static_cast<int32_t>(tokens.size());
  EXPECT_LT(largest_gap(model.logits(tokens, count, count), floats_of_base64(e.at("logits"))),
            kLogitTolerance);
  const auto prompt = e.at("prompt").get<int32_t>();
  EXPECT_EQ(model.greedy({tokens.begin(), tokens.begin() + prompt}, greedy.size()), greedy);
}

// A converted model is the model: its weights and its config.json.
TEST_P(GgufFamilies, ConvertsToADirectoryOfTheSameWeights) {
  const std::string dir = (fs::path(::testing::TempDir()) / fmt::format("gguf_{}", ::getpid())).string();
  fs::remove_all(dir);
  const ModelFiles from(file());
  const ModelConfig model = read_model_config(file());
  from.check(model);
  save_model(dir, model,
             [&](const ModelTensor& t, float* values) {
               from.read(t.name, t.cols, 0, t.rows, 0, t.cols, values, t.cols);
             },
             {.dtype = DType::kF32, .companions = file()});
  EXPECT_EQ(model_config_text(read_model_config(dir), DType::kF32, {}),
            model_config_text(model, DType::kF32, {}));
  const ModelFiles to(dir);
  to.check(model);
  for (const ModelTensor& t : model_tensors(model)) {
    std::vector<float> a(static_cast<size_t>(t.rows * t.cols)), b = a;
    from.read(t.name, t.cols, 0, t.rows, 0, t.cols, a.data(), t.cols);
    to.read(t.name, t.cols, 0, t.rows, 0, t.cols, b.data(), t.cols);
    EXPECT_EQ(a, b) << t.name;
  }
  fs::remove_all(dir);
}

INSTANTIATE_TEST_SUITE_P(All, GgufFamilies, ::testing::Values("llama", "qwen2"),
                         [](const auto& info) { return info.param; });

// The q and k of llama that Hugging Face's files have: F32 is stored as it is, so the bits are equal.
TEST(GgufModel, RowsOfHeadsAreInHuggingFacesOrder) {
  const ModelFiles gguf("tests/fixtures/gguf/llama.gguf"), hub(fixture("llama"));
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  std::vector<float> whole(32 * 32), other(32 * 32), part(5 * 3);
  hub.read(name, 32, 0, 32, 0, 32, whole.data(), 32);
  gguf.read(name, 32, 0, 32, 0, 32, other.data(), 32);
  EXPECT_EQ(other, whole);
  gguf.read(name, 32, 6, 5, 29, 3, part.data(), 3);
  for (size_t r = 0; r < 5; ++r)
    for (size_t c = 0; c < 3; ++c) EXPECT_EQ(part[r * 3 + c], whole[(r + 6) * 32 + c + 29]);
}

class GgufMetadata : public ::testing::Test {
 protected:
  ~GgufMetadata() override { fs::remove(path_); }
  // Two heads of eight columns.
  static GgufBuilder base(const std::string& architecture = "llama") {
    const std::string a = architecture + ".";
    return GgufBuilder()
        .words("general.architecture", architecture)
        .u32(a + "block_count", 1)
        .u32(a + "context_length", 64)
        .u32(a + "embedding_length", 16)
        .u32(a + "feed_forward_length", 16)
        .u32(a + "attention.head_count", 2)
        .f32(a + "attention.layer_norm_rms_epsilon", 1e-5f)
        .f32(a + "rope.freq_base", 500000)
        .tensor("token_embd.weight", {16, 16}, std::vector<float>(16 * 16));
  }
  ModelConfig read(const GgufBuilder& b) const {
    b.write(path_);
    return read_model_config(path_);
  }
  void expect_problem(const GgufBuilder& b, const std::string& part, bool weights = false) const {
    try {
      const ModelConfig model = read(b);
      if (weights) ModelFiles(path_).check(model);
      ADD_FAILURE() << "not refused: " << part;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kConfig);
      EXPECT_NE(std::string(e.what()).find(path_ + ": " + part), std::string::npos) << e.what();
    }
  }
  const std::string path_ =
      (fs::path(::testing::TempDir()) / fmt::format("model_{}.gguf", ::getpid())).string();
};

TEST_F(GgufMetadata, BecomesAConfig) {
  const ModelConfig m = read(base());
  EXPECT_EQ(m.vocab_size, 16);
  EXPECT_EQ(m.num_key_value_heads, 2);  // as many as heads where the file does not say
  EXPECT_EQ(m.head_dim, 8);
  EXPECT_EQ(m.rms_norm_eps, 1e-5);
  EXPECT_TRUE(m.tie_word_embeddings);
  EXPECT_FALSE(m.attention_bias);
  EXPECT_TRUE(read(base("qwen2")).attention_bias);
  const ModelConfig yarn = read(base()
                                    .words("llama.rope.scaling.type", "yarn")
                                    .f32("llama.rope.scaling.factor", 4)
                                    .u32("llama.rope.scaling.original_context_length", 32));
  EXPECT_EQ(yarn.rope_scaling, "yarn");
  EXPECT_EQ(yarn.rope_factor, 4);
  EXPECT_EQ(yarn.rope_original_max_position, 32);
}

TEST_F(GgufMetadata, Llama3ScalingComesBackFromItsFactors) {
  // Of a head of eight columns at 500,000: turns of 1303, 49, 1.84 and 0.07 in 8192 positions.
  const auto with = [](std::vector<float> factors) {
    return base().tensor("rope_freqs.weight", {4}, factors);
  };
  const double smooth = (8192 / (2 * 3.14159265358979323846 * std::pow(500000.0, 0.5)) - 1) / 3;
  const auto third = static_cast<float>(1 / ((1 - smooth) / 8 + smooth));
  ASSERT_GT(third, 1.5);
  const ModelConfig m = read(with({1, 1, third, 8}));
  EXPECT_EQ(m.rope_scaling, "llama3");
  EXPECT_EQ(m.rope_factor, 8);
  EXPECT_EQ(m.rope_original_max_position, 8192);
  expect_problem(with({1, 1, third, 4}), "tensor rope_freqs.weight: the factors are not those of Llama 3");
  expect_problem(base().tensor("rope_freqs.weight", {2}, {1, 8}), "tensor rope_freqs.weight: not 4 values");
}

TEST_F(GgufMetadata, WhatTheModelDoesNotDoIsRefusedByName) {
  expect_problem(base("gemma2"), "general.architecture: \"gemma2\" is not supported: llama and qwen2 are");
  expect_problem(base().u32("llama.expert_count", 8), "llama.expert_count: 8 is not supported");
  expect_problem(base().u32("llama.attention.sliding_window", 8), "llama.attention.sliding_window: 8");
  expect_problem(base().f32("llama.logit_scale", 8), "llama.logit_scale is not supported");
  expect_problem(base().u32("llama.rope.dimension_count", 4), "llama.rope.dimension_count: 4");
  expect_problem(base().words("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 2),
                 "llama.rope.scaling.type: linear by 2");
  expect_problem(base().words("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 2),
                 "llama.rope.scaling.original_context_length: missing");
  expect_problem(base().f32("llama.rope.scaling.attn_factor", 2), "llama.rope.scaling.attn_factor is not");
  expect_problem(base().u32("llama.vocab_size", 9), "llama.vocab_size: 9, but token_embd.weight has 16 rows");
  expect_problem(base().u32("split.count", 3), "one of 3 files");
  GgufBuilder b = base();
  b.entries[0] = GgufBuilder().words("general.architecture", "two\nlines").entries[0];
  expect_problem(b, "general.architecture: \"two?lines\" is not supported");
  b = base();
  b.entries.erase(b.entries.begin() + 1);
  expect_problem(b, "llama.block_count: missing");
  b = base();
  b.entries[5] = GgufBuilder().u32("llama.attention.head_count", 0).entries[0];
  expect_problem(b, "llama.attention.head_count: 0 heads");
  b = base();
  b.tensors.clear();
  b.data.clear();
  expect_problem(b, "no tensor token_embd.weight");
  expect_problem(base(), "the weights are not those of the model: 10 missing: model.layers.0.", true);
  expect_problem(base().tensor("blk.0.attn_q.bias", {16}, std::vector<float>(16)),
                 "the weights are not those of the model: 10 missing", true);
}

// The real file: tools/fetch_smollm2.sh.
std::string smollm2_path() {
  if (const char* given = std::getenv("SMOLLM2_GGUF")) return given;
  const fs::path dir = "build/models/smollm2";
  if (fs::is_directory(dir))
    for (const auto& entry : fs::directory_iterator(dir))
      if (entry.path().extension() == ".gguf") return entry.path().string();
  return "";
}

TEST(GgufSmolLM2, GreedyTokensAreThoseOfTransformers) {
  const std::string path = smollm2_path();
  if (path.empty())
    GTEST_SKIP() << "no SmolLM2: neither SMOLLM2_GGUF nor build/models/smollm2 (tools/fetch_smollm2.sh)";
  const nlohmann::json e = json_file(std::string(kFixtures) + "smollm2_greedy.json");
  const auto tokenizer = open_tokenizer(path);
  RunConfig config = hub_config(path);
  HubModel model(config);
  for (const nlohmann::json& c : e.at("cases")) {
    const std::vector<int32_t> ids = c.at("ids"), greedy = c.at("greedy");
    EXPECT_EQ(tokenizer->encode(c.at("prompt").get<std::string>()), ids);
    const std::vector<int32_t> made = model.greedy(ids, greedy.size());
    EXPECT_EQ(made, greedy) << c.at("prompt");
    EXPECT_EQ(tokenizer->decode(made, Show::kAll), c.at("text").get<std::string>());
  }
}

}  // namespace
}  // namespace contender
