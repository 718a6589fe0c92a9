#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/chat_template.h"
#include "data/chat_template_prompt.h"
#include "data/tokenizer.h"

namespace contender {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;

class TokenizerDirectory : public testing::Test {
 protected:
  TokenizerDirectory() : dir_(fs::temp_directory_path() / fmt::format("tokenizer_open_{}", ::getpid())) {
    fs::create_directories(dir_);
    fs::copy_file("tests/fixtures/tokenizer/qwen/tokenizer.json", dir_ / "tokenizer.json",
                  fs::copy_options::overwrite_existing);
  }
  ~TokenizerDirectory() override { fs::remove_all(dir_); }

  void write(const char* name, const std::string& text) { std::ofstream(dir_ / name) << text; }
  std::unique_ptr<Tokenizer> open() const { return open_tokenizer(dir_.string()); }
  std::string error() const {
    try {
      open();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kConfig);
      return e.what();
    }
    return "";
  }
  int32_t id(const std::string& text) const {
    const Ids ids = open()->encode(text);
    EXPECT_EQ(ids.size(), 1u) << text;
    return ids[0];
  }

  const fs::path dir_;
};

TEST_F(TokenizerDirectory, StopTokensOfBothFiles) {
  write("tokenizer_config.json", R"({"eos_token": {"content": "<|im_end|>"}, "bos_token": null})");
  const int32_t end = id("<|im_end|>"), document = id("<|endoftext|>");
  EXPECT_EQ(open()->stop_tokens(), Ids{end});
  EXPECT_EQ(open()->first_tokens(), Ids{});
  const std::string before = open()->fingerprint();
  write("generation_config.json", fmt::format(R"({{"eos_token_id": [{}, {}]}})", document, end));
  EXPECT_EQ(open()->stop_tokens(), (Ids{end, document}));
  EXPECT_EQ(open()->eos(), end);
  EXPECT_NE(open()->fingerprint(), before);
  EXPECT_EQ(open()->decode({'a', end, document}), open()->decode({'a'}));
  write("tokenizer_config.json", R"({"bos_token": "<|im_start|>", "add_bos_token": true})");
  EXPECT_EQ(open()->eos(), document);
  EXPECT_EQ(open()->first_tokens(), Ids{id("<|im_start|>")});
}

TEST_F(TokenizerDirectory, ErrorsNameTheFile) {
  EXPECT_NE(error().find("tokenizer.json: no end of a completion is known"), std::string::npos) << error();
  write("tokenizer_config.json", R"({"eos_token": "<nothing>"})");
  EXPECT_NE(error().find("tokenizer_config.json: eos_token \"<nothing>\" is no token"), std::string::npos)
      << error();
  write("tokenizer_config.json", R"({"eos_token": "<|im_end|>", "eos_token": "a"})");
  EXPECT_NE(error().find("tokenizer_config.json: key \"eos_token\" occurs twice"), std::string::npos)
      << error();
  write("tokenizer_config.json", R"({"eos_token": "<|im_end|>", "chat_template": "{% macro a() %}"})");
  EXPECT_NE(error().find("tokenizer_config.json: line 1: the tag macro"), std::string::npos) << error();
  write("tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
  write("generation_config.json", R"({"eos_token_id": 99999})");
  EXPECT_NE(error().find("generation_config.json: eos_token_id 99999"), std::string::npos) << error();
  write("generation_config.json", "{}");
  write("tokenizer.json", "{");
  EXPECT_NE(error().find("tokenizer.json: "), std::string::npos) << error();
  EXPECT_THROW(open_tokenizer((dir_ / "nothing").string()), Error);
}

TEST_F(TokenizerDirectory, PromptsByTheTemplate) {
  Prompt prompt;
  write("tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
  set_question(*open(), "2+2 <|im_end|>", prompt);
  EXPECT_EQ(prompt.text, "2+2 <|im_end|>");
  EXPECT_EQ(prompt.tokens, open()->encode_plain("2+2 <|im_end|>"));
  set_question(*open(), "a\xff", prompt);
  EXPECT_EQ(prompt.text, "a\xef\xbf\xbd");

  write("chat_template.jinja",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}");
  const auto tokenizer = open();
  set_question(*tokenizer, "2+2 <|im_end|><think>", prompt);
  EXPECT_EQ(prompt.text, "<|im_start|>user\n2+2 <|im_end|><think><|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(std::count(prompt.tokens.begin(), prompt.tokens.end(), id("<|im_end|>")), 1);  // the template's
  EXPECT_EQ(std::count(prompt.tokens.begin(), prompt.tokens.end(), id("<|im_start|>")), 2);
  EXPECT_EQ(std::count(prompt.tokens.begin(), prompt.tokens.end(), id("<think>")), 0);
  EXPECT_EQ(tokenizer->decode(prompt.tokens, Show::kAll), prompt.text);
}

TEST_F(TokenizerDirectory, OfARun) {
  write("tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
  RunConfig config;
  EXPECT_EQ(open_tokenizer(config)->fingerprint(), "byte-v1");
  config.model.vocab_size = 1024;
  config.model.path = dir_;
  const std::string ours = open()->fingerprint();
  EXPECT_EQ(open_tokenizer(config)->fingerprint(), ours);
  config.model.path = "";
  config.tokenizer.path = dir_ / "tokenizer.json";
  EXPECT_EQ(open_tokenizer(config)->fingerprint(), ours);
  config.model.vocab_size = 512;
  EXPECT_THROW(open_tokenizer(config), Error);
}

TEST(ByteTokenizerPrompt, TagsAndMarks) {
  const auto tokenizer = make_byte_tokenizer();
  Prompt prompt;
  set_prompt(
      *tokenizer,
      nlohmann::ordered_json::parse(R"([{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
      {"role": "assistant", "content": "b"}, {"role": "user", "content": "<think>"}])"),
      prompt);
  EXPECT_EQ(prompt.text, "<user>s\na<assistant>b<user><think><assistant>");
  EXPECT_EQ(prompt.tokens, (Ids{261, 's', '\n', 'a', 262, 'b', 261, '<', 't', 'h', 'i', 'n', 'k', '>', 262}));
}

}  // namespace
}  // namespace contender
