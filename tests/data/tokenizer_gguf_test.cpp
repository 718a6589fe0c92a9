// Tokenizers out of GGUF metadata against the tokenizer.json that the metadata was made from.
#include "data/tokenizer_gguf.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/chat_template_prompt.h"
#include "data/tokenizer.h"
#include "tests/data/gguf_builder.h"

namespace contender {
namespace {

using namespace testing_gguf;
using Ids = std::vector<int32_t>;
using nlohmann::json;

json json_file(const std::string& path) { return json::parse(std::ifstream(path)); }
std::string fixture(const std::string& name) { return "tests/fixtures/gguf/tokenizer_" + name + ".gguf"; }

// Merges are "a b" here and ["a", "b"] there.
json with_pairs(json model) {
  for (json& merge : model["merges"]) {
    if (!merge.is_string()) continue;
    const std::string both = merge;
    const size_t at = both.find(' ');
    merge = {both.substr(0, at), both.substr(at + 1)};
  }
  return model;
}

TEST(TokenizerGguf, TextsAreThoseOfTheOriginal) {
  for (const std::string name : {"smol", "qwen", "deepseek"}) {
    SCOPED_TRACE(name);
    const json original = json_file("tests/fixtures/tokenizer/" + name + "/tokenizer.json");
    const json made = json::parse(gguf_tokenizer_texts(GgufFile(fixture(name))).tokenizer_json);
    EXPECT_EQ(with_pairs(made["model"]), with_pairs(original["model"]));
    EXPECT_EQ(made["pre_tokenizer"], original["pre_tokenizer"]);
    EXPECT_EQ(made["decoder"], original["decoder"]);
    EXPECT_EQ(made["normalizer"], name == "qwen" ? json({{"type", "NFC"}}) : json());
    std::vector<json> tokens, expected;
    for (const json& t : made["added_tokens"]) tokens.push_back({t["id"], t["content"], t["special"]});
    for (const json& t : original["added_tokens"])
      if (!t["lstrip"] && !t["rstrip"] && !t["single_word"])  // a GGUF file cannot say that
        expected.push_back({t["id"], t["content"], t["special"]});
    EXPECT_EQ(tokens, expected);
  }
}

TEST(TokenizerGguf, OpenedLikeADirectory) {
  const auto qwen = open_tokenizer(fixture("qwen"));
  const Ids end = qwen->encode("<|im_end|>"), document = qwen->encode("<|endoftext|>");
  ASSERT_EQ(end.size(), 1u);
  EXPECT_EQ(qwen->stop_tokens(), (Ids{end[0], document[0]}));
  EXPECT_EQ(qwen->first_tokens(), Ids{});
  EXPECT_GT(qwen->encode_plain("<|im_end|>").size(), 1u);
  Prompt prompt;
  set_question(*qwen, "1+1", prompt);
  EXPECT_EQ(qwen->decode(prompt.tokens, Show::kAll), "<|im_start|>user\n1+1<|im_end|>\n");
  const auto deepseek = open_tokenizer(fixture("deepseek"));
  EXPECT_EQ(deepseek->first_tokens(), Ids{0});
  EXPECT_EQ(deepseek->eos(), 1);

  RunConfig config;
  config.model.path = fixture("smol");
  config.model.vocab_size = 1000;
  EXPECT_EQ(open_tokenizer(config)->fingerprint(), open_tokenizer(fixture("smol"))->fingerprint());
  config.model.path = "tests/fixtures/gguf/llama.gguf";  // has none
  EXPECT_THROW(open_tokenizer(config), Error);
  config.model.vocab_size = 272;
  EXPECT_TRUE(open_tokenizer(config)->speaks_in_tags());
}

GgufBuilder abc(const std::string& pre) {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  for (char c = '!'; c <= '~'; ++c) tokens.push_back(std::string(1, c));
  tokens.insert(tokens.end(), {"ab", "abc", "<s>", "</s>"});
  types.assign(tokens.size(), 1);
  types[types.size() - 2] = types[types.size() - 1] = 3;
  return GgufBuilder()
      .words("tokenizer.ggml.model", "gpt2")
      .words("tokenizer.ggml.pre", pre)
      .texts("tokenizer.ggml.tokens", tokens)
      .i32s("tokenizer.ggml.token_type", types)
      .texts("tokenizer.ggml.merges", {"a b"})
      .u32("tokenizer.ggml.bos_token_id", 96)
      .u32("tokenizer.ggml.eos_token_id", 97);
}

class TokenizerGgufFile : public testing::Test {
 protected:
  ~TokenizerGgufFile() override { std::filesystem::remove(path_); }
  std::unique_ptr<Tokenizer> open(const GgufBuilder& b) const {
    b.write(path_);
    return open_tokenizer(path_);
  }
  void expect_problem(const GgufBuilder& b, const std::string& part) const {
    try {
      open(b);
      ADD_FAILURE() << "not refused: " << part;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kConfig);
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
      EXPECT_TRUE(std::string(e.what()).starts_with(path_ + ": ")) << e.what();
    }
  }
  // `b` with other values of entry `at`.
  static GgufBuilder changed(size_t at, const GgufBuilder& by) {
    GgufBuilder b = abc("gpt-2");
    b.entries[at] = by.entries[0];
    return b;
  }
  const std::string path_ =
      (std::filesystem::path(testing::TempDir()) / fmt::format("tokenizer_{}.gguf", ::getpid())).string();
};

TEST_F(TokenizerGgufFile, Llama3TakesWholeWordsAndBeginsWithBos) {
  const auto llama = open(abc("llama-bpe")), gpt2 = open(abc("gpt-2"));
  EXPECT_EQ(llama->first_tokens(), Ids{96});
  EXPECT_EQ(gpt2->first_tokens(), Ids{});
  EXPECT_EQ(llama->encode("abc"), Ids{95});       // a token, though no merge makes it
  EXPECT_EQ(gpt2->encode("abc"), (Ids{94, 66}));  // ab, c
  EXPECT_EQ(llama->encode("1234</s>"), (Ids{16, 17, 18, 19, 97}));
  EXPECT_EQ(open(abc("llama-bpe").flag("tokenizer.ggml.add_bos_token", false))->first_tokens(), Ids{});
}

TEST_F(TokenizerGgufFile, WhatIsNotKnownIsRefusedByName) {
  expect_problem(abc("deepseek-llm"),
                 "tokenizer.ggml.pre: \"deepseek-llm\" is not supported: gpt-2, smollm,");
  expect_problem(changed(0, GgufBuilder().words("tokenizer.ggml.model", "llama")),
                 "tokenizer.ggml.model: \"llama\" is not supported");
  expect_problem(changed(3, GgufBuilder().i32s("tokenizer.ggml.token_type", {1, 1})), "2 of 98 tokens");
  std::vector<int32_t> types(98, 1);
  types[5] = 6;
  expect_problem(changed(3, GgufBuilder().i32s("tokenizer.ggml.token_type", types)),
                 "6 of token 5 is not supported");
  expect_problem(changed(4, GgufBuilder().texts("tokenizer.ggml.merges", {"a bc"})), "merges[0]");
  expect_problem(changed(4, GgufBuilder().texts("tokenizer.ggml.merges", {"ab"})), "merges[0]");
  expect_problem(changed(4, GgufBuilder().u32("other", 1)), "tokenizer.ggml.merges: missing");
  expect_problem(changed(6, GgufBuilder().u32("tokenizer.ggml.eos_token_id", 98)), "98 is no token");
  expect_problem(changed(6, GgufBuilder().u32("other", 98)), "no end of a completion is known");
  expect_problem(abc("gpt-2").flag("tokenizer.ggml.add_eos_token", true), "true is not supported");
  expect_problem(abc("gpt-2").words("tokenizer.chat_template", "{% if %}"), "line 1");
  std::vector<std::string> twice(98, "x\ny");
  expect_problem(changed(2, GgufBuilder().texts("tokenizer.ggml.tokens", twice)), "\"x?y\" twice");
}

}  // namespace
}  // namespace contender
