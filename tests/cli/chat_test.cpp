#include "cli/chat.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace contender {
namespace {

std::string painted(const std::vector<std::string>& pieces, bool inside = false, bool dim = true) {
  ThoughtPainter painter(dim, inside);
  std::string out;
  for (const std::string& p : pieces) out += painter.push(p);
  return out + painter.finish();
}

TEST(Chat, ThoughtsAreDimWhereverTheyAreCut) {
  const std::string text = "a<think>b < c</think>d<th", dimmed = "a\x1b[2m<think>b < c</think>\x1b[22md<th";
  std::vector<std::string> letters;
  for (const char c : text) letters.emplace_back(1, c);
  EXPECT_EQ(painted({text}), dimmed);
  EXPECT_EQ(painted(letters), dimmed);
  EXPECT_EQ(painted(letters, false, false), text);
  EXPECT_EQ(painted({"b</think>", "c"}, true), "\x1b[2mb</think>\x1b[22mc");
  EXPECT_EQ(painted({"never ", "closed"}, true), "\x1b[2mnever closed\x1b[22m");
  EXPECT_EQ(painted({"<thi", "nk"}), "<think");  // not a mark after all
  EXPECT_EQ(painted({}), "");
}

// Nothing is held back that cannot become a mark.
TEST(Chat, TextIsShownAtOnce) {
  ThoughtPainter painter(true, false);
  EXPECT_EQ(painter.push("a <"), "a ");
  EXPECT_EQ(painter.push(" b"), "< b");
  EXPECT_EQ(painter.push("<think"), "");
  EXPECT_EQ(painter.push("er"), "<thinker");
}

TEST(Chat, AConversationRemembersAnswersWithoutThoughts) {
  const std::unique_ptr<Tokenizer> t = make_byte_tokenizer();
  Conversation c(*t, "Be brief.");
  EXPECT_TRUE(c.remembers());
  EXPECT_EQ(c.ask("1+1", 1000, 10).text, "<user>Be brief.\n1+1<assistant>");
  c.answer("<think>one and one</think> 2");
  const Prompt p = c.ask("2+2", 1000, 10);
  EXPECT_EQ(p.text, "<user>Be brief.\n1+1<assistant>2<user>2+2<assistant>");
  EXPECT_EQ(p.tokens, t->encode(p.text));
  // A special token that somebody types is text.
  c.answer("4");
  const std::vector<int32_t> tokens = c.ask("<assistant>", 1000, 10).tokens;
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), t->encode("<assistant>")[0]), 3);
}

TEST(Chat, TheOldestIsForgottenFirst) {
  const std::unique_ptr<Tokenizer> t = make_byte_tokenizer();
  Conversation c(*t, "S");
  c.ask("first", 40, 10);
  c.answer("A");
  c.ask("second", 40, 10);
  c.answer("B");
  EXPECT_EQ(c.ask("third", 40, 10).text,
            "<user>S\nfirst<assistant>A<user>second<assistant>B<user>third<assistant>");
  c.answer("C");
  EXPECT_EQ(c.ask("fourth", 40, 10).text,
            "<user>S\nsecond<assistant>B<user>third<assistant>C<user>fourth<assistant>");
  c.answer("D");
  try {
    c.ask(std::string(40, 'x'), 40, 10);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    EXPECT_NE(std::string(e.what()).find("44 tokens; with 10 for the answer it is beyond the context of 40"),
              std::string::npos)
        << e.what();
  }
  // A question that is refused costs nothing of what was said.
  EXPECT_EQ(
      c.ask("again", 100, 10).text,
      "<user>S\nsecond<assistant>B<user>third<assistant>C<user>fourth<assistant>D<user>again<assistant>");
}

TEST(Chat, ModelsOpenWithoutAConfig) {
  const ChatModel one = open_chat_model({.model = "tests/fixtures/hf/moonlight", .top_k = 5}, {}, 1);
  EXPECT_EQ(one.config.mesh.tp, 1);
  EXPECT_EQ(one.config.model.n_routed_experts, 8);
  EXPECT_FLOAT_EQ(one.sampling.temperature, 0.6f);
  EXPECT_FLOAT_EQ(one.sampling.top_p, 0.95f);
  EXPECT_EQ(one.sampling.top_k, 5);
  EXPECT_EQ(one.config.rollout.max_sequences, 1);
  const ChatModel four = open_chat_model({.model = "tests/fixtures/hf/moonlight"}, {"run.seed=7"}, 4);
  EXPECT_EQ(four.config.mesh.tp, virtual_slices(four.config.model));
  EXPECT_EQ(four.config.mesh.ep, 4);
  EXPECT_EQ(four.config.seed, 7u);
  EXPECT_EQ(open_chat_model({.model = "tests/fixtures/hf/qwen3"}, {"mesh.tp=1"}, 2).config.mesh.tp, 1);
}

TEST(Chat, SamplingIsThatOfTheModelsMakers) {
  const std::string dir = testing::TempDir() + "chat_model";
  std::filesystem::create_directories(dir);
  std::filesystem::copy_file("tests/fixtures/hf/qwen2/config.json", dir + "/config.json",
                             std::filesystem::copy_options::overwrite_existing);
  const auto sampling = [&](const std::string& text, ChatOptions o = {}) {
    std::ofstream(dir + "/generation_config.json") << text;
    o.model = dir;
    return open_chat_model(o, {}, 1).sampling;
  };
  const SampleParams given =
      sampling(R"({"do_sample": true, "temperature": 0.7, "top_p": 0.8, "top_k": 20})");
  EXPECT_FLOAT_EQ(given.temperature, 0.7f);
  EXPECT_FLOAT_EQ(given.top_p, 0.8f);
  EXPECT_EQ(given.top_k, 20);
  EXPECT_EQ(sampling(R"({"do_sample": false})").temperature, 0.0f);
  EXPECT_FLOAT_EQ(sampling(R"({"temperature": 0.7})", {.temperature = 1.5}).temperature, 1.5f);
  EXPECT_EQ(sampling(R"({"top_k": 1e300, "top_p": null})").top_k, 1 << 24);
  EXPECT_THROW(sampling(R"({"temperature": "hot"})"), Error);
  EXPECT_THROW(sampling("[]"), Error);
  EXPECT_THROW(sampling("{"), Error);
}

TEST(Chat, WhatIsNoModelIsRefused) {
  for (const std::string path : {"nowhere", "tests/fixtures", "tests/fixtures/hf/qwen2/expected.json"}) {
    try {
      open_chat_model({.model = path}, {}, 1);
      FAIL() << path;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kConfig);
      EXPECT_NE(std::string(e.what()).find(path), std::string::npos) << e.what();
      EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
      EXPECT_EQ(std::string(e.what()).rfind("--model: ", 0), 0u) << e.what();
    }
  }
}

}  // namespace
}  // namespace contender
