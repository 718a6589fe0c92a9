#include <gtest/gtest.h>
#include <unistd.h>
#include <zstd.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "base/error.h"
#include "data/prompts.h"

namespace contender {
namespace {

class JsonlPrompts : public testing::Test {
 protected:
  JsonlPrompts() {
    folder_ = std::filesystem::temp_directory_path() / ("contender_jsonl_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    config_.name = "jsonl";
    config_.max_prompt_tokens = 64;
  }
  ~JsonlPrompts() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& content) {
    const std::string path = folder_ / name;
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }

  std::unique_ptr<PromptSource> train(const std::string& content) {
    config_.train_files = {write("train.jsonl", content)};
    return make_prompt_source(config_, Split::kTrain, 1, *tokenizer_, max_solved_tokens_);
  }

  // The message of the error, without the folder.
  std::string error_of(const std::string& content) {
    try {
      train(content);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kConfig);
      const std::string message = error.what(), folder = folder_.string() + "/";
      EXPECT_EQ(message.find('\n'), message.npos) << message;
      EXPECT_EQ(message.substr(0, folder.size()), folder);
      return message.substr(folder.size());
    }
    return "no error";
  }

  std::filesystem::path folder_;
  TaskConfig config_;
  int64_t max_solved_tokens_ = 0;
  std::unique_ptr<Tokenizer> tokenizer_ = make_byte_tokenizer();
};

const std::string kGood = R"({"prompt": "1+1=", "answer": "2", "task": "addition"})"
                          "\n";

TEST_F(JsonlPrompts, TheFormOfTheAnswerIsAskedForInTheUsersTurn) {
  config_.prompt_form = "{prompt} Box it: \\boxed{}";
  const std::string conversation =
      R"({"messages": [{"role": "user", "content": "Say {prompt}"}], "answer": "x"})"
      "\n";
  const auto source = train(kGood + conversation + R"({"prompt": "{prompt}?", "answer": "y"})");
  EXPECT_EQ(source->at(0).text, "<user>1+1= Box it: \\boxed{}<assistant>");
  EXPECT_EQ(tokenizer_->decode(source->at(0).tokens), source->at(0).text);
  EXPECT_EQ(source->at(1).text, "<user>Say {prompt}<assistant>");
  EXPECT_EQ(source->at(2).text, "<user>{prompt}? Box it: \\boxed{}<assistant>");
  config_.max_prompt_tokens = 10;  // the form counts
  EXPECT_EQ(error_of(kGood), "train.jsonl:1: prompt of 23 tokens, task.max_prompt_tokens = 10");
  config_.prompt_form = "{prompt}<assistant>";
  EXPECT_EQ(error_of(kGood), "train.jsonl:1: task.prompt_form holds <assistant>, which separates turns");
}

TEST_F(JsonlPrompts, SolutionsAreReadAndRequiredForSft) {
  const std::string solved =
      R"({"prompt": "1+2=", "answer": 3, "solution": "<think>3</think><answer>3</answer>"})"
      "\n";
  const auto source = train(solved + kGood);
  EXPECT_EQ(source->at(0).solution, "<think>3</think><answer>3</answer>");
  EXPECT_EQ(source->at(1).solution, "");
  EXPECT_EQ(error_of(R"({"prompt": "1+2=", "answer": 3, "solution": 3})"),
            "train.jsonl:1: \"solution\" must be a string");
  EXPECT_EQ(error_of(R"({"prompt": "1+2=", "answer": 3, "solution": "3<user>4"})"),
            "train.jsonl:1: \"solution\" holds <user>, which separates turns");
  max_solved_tokens_ = 13;  // <user>1+2=<assistant>, <think>3</think><answer>3</answer>, the end
  EXPECT_EQ(train(solved)->size(), 1);
  EXPECT_EQ(error_of(solved + kGood),
            "train.jsonl:2: \"solution\" is missing, which a stage of kind sft learns from");
  max_solved_tokens_ = 12;
  EXPECT_EQ(error_of(solved),
            "train.jsonl:1: 13 tokens with its solution, model.max_position_embeddings = 12");
}

TEST_F(JsonlPrompts, ReadsPromptsAndMessages) {
  const auto source = train(
      kGood + "\n  \r\n" +
      R"({"answer": -12, "prompt": "é\n\u00e9", "source": {"a": [1, 2]}})"
      "\r\n" +
      R"({"messages": [{"role": "user", "content": "Hi"}], "answer": "x"})"
      "\n" +
      R"({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "A"}, )" +
      R"({"role": "assistant", "content": "<think>B</think>"}, {"role": "user", "content": "C"}], "answer": "x"})");
  ASSERT_EQ(source->size(), 4);
  EXPECT_EQ(source->at(0).text, "<user>1+1=<assistant>");
  EXPECT_EQ(source->at(0).task, "addition");
  EXPECT_EQ(source->at(0).tokens, tokenizer_->encode("<user>1+1=<assistant>"));
  EXPECT_EQ(source->at(1).text, "<user>é\né<assistant>");
  EXPECT_EQ(source->at(1).canonical, "<user>é é<assistant>");
  EXPECT_EQ(source->at(1).answer, "-12");
  EXPECT_EQ(source->at(1).task, "exact");
  EXPECT_EQ(source->at(1).index, 1u);
  EXPECT_EQ(source->at(2).text, "<user>Hi<assistant>");
  EXPECT_EQ(source->at(3).text, "<user>S\nA<assistant><think>B</think><user>C<assistant>");
  EXPECT_TRUE(source->at(3).solution.empty());
  EXPECT_ANY_THROW(source->at(4));
}

TEST_F(JsonlPrompts, FingerprintIsOfTheContent) {
  const std::string first = train(kGood)->fingerprint();
  EXPECT_EQ(train(kGood)->fingerprint(), first);
  EXPECT_NE(train(kGood + "\n")->fingerprint(), first);
}

TEST_F(JsonlPrompts, BadLinesAreNamedInOneLine) {
  const auto line2 = [&](const std::string& line) { return error_of(kGood + line + "\n" + kGood); };
  EXPECT_EQ(line2("{"),
            "train.jsonl:2: column 2: syntax error while parsing object key - unexpected end of input; "
            "expected string literal");
  EXPECT_EQ(line2("[1]"), "train.jsonl:2: not an object");
  EXPECT_EQ(line2(R"({"prompt": "a"})"), "train.jsonl:2: \"answer\" is missing");
  EXPECT_EQ(line2(R"({"answer": "a"})"), "train.jsonl:2: \"prompt\" is missing");
  EXPECT_EQ(line2(R"({"prompt": "a", "messages": [], "answer": "a"})"),
            "train.jsonl:2: both \"prompt\" and \"messages\"");
  EXPECT_EQ(line2(R"({"prompt": "a", "answer": "b", "answer": "c"})"),
            "train.jsonl:2: key \"answer\" occurs twice");
  EXPECT_EQ(line2(R"({"prompt": "a", "answer": "b", "x": {"y": 1, "y": 1}})"),
            "train.jsonl:2: key \"y\" occurs twice");
  EXPECT_EQ(line2(R"({"prompt": "a", "answer": "b", "prom\u0070t": "c"})"),
            "train.jsonl:2: key \"prompt\" occurs twice");
  EXPECT_EQ(line2(R"({"prompt": "", "answer": "b"})"), "train.jsonl:2: \"prompt\" is empty");
  EXPECT_EQ(line2(R"({"prompt": "a", "answer": " "})"), "train.jsonl:2: \"answer\" is empty");
  EXPECT_EQ(line2(R"({"prompt": 1, "answer": "b"})"), "train.jsonl:2: \"prompt\" must be a string");
  EXPECT_EQ(line2(R"({"prompt": "a", "answer": 1.5})"), "train.jsonl:2: \"answer\" must be a string");
  EXPECT_EQ(line2(R"({"prompt": "a", "answer": "b", "task": null})"),
            "train.jsonl:2: \"task\" must be a string");
  EXPECT_EQ(line2(R"({"prompt": "a<assistant>", "answer": "b"})"),
            "train.jsonl:2: \"prompt\" holds <assistant>, which separates turns");
  EXPECT_EQ(line2(R"({"prompt": ")" + std::string(63, 'a') + R"(", "answer": "b"})"),
            "train.jsonl:2: prompt of 65 tokens, task.max_prompt_tokens = 64");
  EXPECT_EQ(
      line2(R"({"prompt": "a", "answer": "b"} {})"),
      "train.jsonl:2: column 32: syntax error while parsing value - unexpected '{'; expected end of input");
}

TEST_F(JsonlPrompts, BadMessages) {
  const auto error = [&](const std::string& messages) {
    return error_of(R"({"answer": "a", "messages": )" + messages + "}").substr(15);
  };
  EXPECT_EQ(error("[]"), "\"messages\" must be a list of messages");
  EXPECT_EQ(error("\"a\""), "\"messages\" must be a list of messages");
  EXPECT_EQ(error("[1]"), "a message must be an object with role and content");
  EXPECT_EQ(error(R"([{"role": "user"}])"), "\"content\" is missing");
  EXPECT_EQ(error(R"([{"role": "system", "content": "a"}])"), "the last message must be the user's");
  EXPECT_EQ(error(R"([{"role": "assistant", "content": "a"}])"),
            "message of role \"assistant\" where user speaks");
  EXPECT_EQ(error(R"([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}])"),
            "message of role \"system\" where assistant speaks");
  EXPECT_EQ(error(R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])"),
            "the last message must be the user's");
}

TEST_F(JsonlPrompts, BytesThatAreNotUtf8) {
  for (const std::string bytes :
       {"\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe4\xb8", "\\ud800"}) {
    const std::string message = error_of(kGood + R"({"prompt": ")" + bytes + R"(", "answer": "b"})");
    EXPECT_EQ(message.substr(0, 14), "train.jsonl:2:") << message;
    EXPECT_NE(message.find("invalid string"), message.npos) << message;
    for (const char c : message) EXPECT_TRUE(c >= ' ' && c <= '~') << message;
  }
}

TEST_F(JsonlPrompts, HostileFilesAreBounded) {
  EXPECT_EQ(error_of(std::string(10 << 20, 'a')), "train.jsonl:1: line of more than 8 MiB");
  EXPECT_EQ(error_of(kGood + R"({"prompt": ")" + std::string(10 << 20, 'a') + "\"}\n" + kGood),
            "train.jsonl:2: line of more than 8 MiB");
  EXPECT_EQ(error_of(std::string(1 << 20, '[')), "train.jsonl:1: nested deeper than 32");
  EXPECT_EQ(error_of(R"({"prompt": "a", "answer": 1e999})").substr(0, 15), "train.jsonl:1: ");
  EXPECT_EQ(error_of(R"({"prompt": "a", "answer": NaN})").substr(0, 15), "train.jsonl:1: ");
  EXPECT_EQ(error_of(""), "train.jsonl: no prompts");
  EXPECT_EQ(error_of(" \n\n"), "train.jsonl: no prompts");
  std::string long_line = R"({"prompt": "a", "answer": "b", "x": ")";
  long_line += std::string((8 << 20) - long_line.size() - 2, 'x') + "\"}";
  EXPECT_EQ(train(long_line + "\n" + kGood)->size(), 2);
}

TEST_F(JsonlPrompts, FilesThatCannotBeRead) {
  config_.train_files = {folder_ / "none.jsonl"};
  EXPECT_THROW(make_prompt_source(config_, Split::kTrain, 1, *tokenizer_), Error);
  config_.train_files = {folder_};
  EXPECT_THROW(make_prompt_source(config_, Split::kTrain, 1, *tokenizer_), Error);
  EXPECT_THROW(make_prompt_source(config_, Split::kHeldOut, 1, *tokenizer_), Error);  // eval_files is not set
}

TEST_F(JsonlPrompts, HeldOutPromptsAreNotTrainedOn) {
  config_.eval_files = {write("eval.jsonl", R"({"prompt": "2+2=", "answer": "4"})"
                                            "\n"
                                            R"({"prompt": "3  + 3", "answer": "6"})")};
  EXPECT_EQ(make_prompt_source(config_, Split::kHeldOut, 1, *tokenizer_)->size(), 2);
  EXPECT_EQ(train(kGood + kGood)->size(), 2);
  EXPECT_EQ(
      error_of(kGood + "\n"
                       R"({"prompt": "3 + 3", "answer": "7", "task": "addition"})"),
      "train.jsonl:3: the same prompt as " + (folder_ / "eval.jsonl:2").string() + ", which is held out");
}

TEST_F(JsonlPrompts, AFileThatChangesUnderTheRunIsNoticed) {
  const auto source = train(kGood + kGood);
  EXPECT_NO_THROW(source->at(1));
  write("train.jsonl", kGood + R"({"prompt": "1+2=", "answer": "3", "task": "addition"})"
                               "\n");
  EXPECT_NO_THROW(source->at(0));
  EXPECT_THROW(source->at(1), Error);
  write("train.jsonl", "");
  EXPECT_THROW(source->at(0), Error);
}

TEST_F(JsonlPrompts, LinesAcrossReadsKeepTheirNumbers) {
  std::string content;
  for (int i = 0; i < 3000; ++i) {
    content += fmt::format(R"({{"prompt": "{}", "answer": "{}", "x": "{}"}})"
                           "\n",
                           i, i, std::string(i % 1500, 'x'));
  }
  const auto source = train(content);  // 2.4 MB: several reads
  ASSERT_EQ(source->size(), 3000);
  for (const int64_t i : {0, 1, 1499, 1500, 2999}) EXPECT_EQ(source->at(i).answer, std::to_string(i));
  EXPECT_EQ(error_of(content + "{").substr(0, 17), "train.jsonl:3001:");
}

TEST_F(JsonlPrompts, TestsOfPrograms) {
  const auto source = train(
      R"({"prompt": "a", "task": "code", "tests": {"function": "f", "cases": [ {"args": [100000000000000000000000, )"
      R"(1.50], "expected": "a b"} ]} })"
      "\n"
      R"({"prompt": "b", "task": "code", "answer": "c", "tests": "{\"stdin\": [ {\"input\": \"1\\n\", \"output\": \"1\"} ]}"})");
  EXPECT_EQ(source->at(0).tests,
            R"({"function":"f","cases":[{"args":[100000000000000000000000,1.50],"expected":"a b"}]})");
  EXPECT_EQ(source->at(0).answer, "");
  EXPECT_EQ(source->at(1).tests, R"({"stdin":[{"input":"1\n","output":"1"}]})");
  EXPECT_EQ(source->at(1).answer, "c");
  const auto error = [&](const std::string& rest) {
    return error_of(R"({"prompt": "a")" + rest + "}").substr(15);
  };
  EXPECT_EQ(error(R"(, "task": "code", "answer": "b")"), "\"tests\" is missing, which the task code needs");
  EXPECT_EQ(error(R"(, "task": "code", "tests": null)"), "\"tests\" is missing, which the task code needs");
  EXPECT_EQ(error(R"(, "tests": [1])"), "\"tests\" must be an object, or one as text");
  EXPECT_EQ(error(R"(, "tests": {})"), "\"tests\" is empty");
  EXPECT_EQ(error(R"(, "tests": "[1]")"), "\"tests\": not an object");
  EXPECT_EQ(error(R"(, "tests": "{\"a\": 1, \"a\": 2}")"), "\"tests\": key \"a\" occurs twice");
  EXPECT_EQ(error(R"(, "task": "code", "tests": {"stdin": []})"), "\"tests\": \"stdin\" is empty");
  EXPECT_EQ(error(R"(, "tests": {"a": {"b": 1, "b": 2}})"), "key \"b\" occurs twice");
}

std::string lines_of(const std::string& name, int count) {
  std::string text;
  for (int i = 0; i < count; ++i)
    text += fmt::format(R"({{"prompt": "{} {}", "answer": "{}"}})"
                        "\n",
                        name, i, i);
  return text;
}

TEST_F(JsonlPrompts, CompressedSetsAreTheSamePrompts) {
  const std::string text = lines_of("question", 20000);  // 0.9 MB: several blocks
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
  const auto packed_source = train(packed);
  config_.train_files = {write("plain.jsonl", text)};
  const auto plain = make_prompt_source(config_, Split::kTrain, 1, *tokenizer_);
  ASSERT_EQ(packed_source->size(), 20000);
  EXPECT_EQ(packed_source->fingerprint(), plain->fingerprint());
  for (const int64_t i : {0, 1, 7777, 19999}) EXPECT_EQ(packed_source->at(i).text, plain->at(i).text);
  EXPECT_EQ(error_of(packed.substr(0, packed.size() / 2)), "train.jsonl: zstd: the file is cut off");
}

TEST_F(JsonlPrompts, SeveralFilesAreOneSet) {
  config_.train_files = {write("a.jsonl", lines_of("a", 30)), write("b.jsonl", lines_of("b", 10))};
  const auto all = make_prompt_source(config_, Split::kTrain, 1, *tokenizer_);
  ASSERT_EQ(all->size(), 40);
  EXPECT_EQ(all->at(29).text, "<user>a 29<assistant>");
  EXPECT_EQ(all->at(30).text, "<user>b 0<assistant>");
  EXPECT_EQ(all->at(30).index, 30u);
  std::map<int64_t, int> seen;
  for (int64_t i = 0; i < 40; ++i) ++seen[all->index_at(1, i)];
  EXPECT_EQ(seen.size(), 40u);  // without weights every prompt counts the same

  config_.train_weights = {1, 3};
  const auto mixed = make_prompt_source(config_, Split::kTrain, 1, *tokenizer_);
  int of_b = 0;
  for (int64_t i = 0; i < 400; ++i) of_b += mixed->at(mixed->index_at(1, i)).text.starts_with("<user>b");
  EXPECT_EQ(of_b, 300);
  std::swap(config_.train_files[0], config_.train_files[1]);
  EXPECT_NE(make_prompt_source(config_, Split::kTrain, 1, *tokenizer_)->fingerprint(), mixed->fingerprint());

  config_.eval_files = {write("c.jsonl", lines_of("c", 3)), write("d.jsonl", lines_of("d", 1))};
  const auto held_out = make_prompt_source(config_, Split::kHeldOut, 1, *tokenizer_);
  ASSERT_EQ(held_out->size(), 4);
  EXPECT_EQ(held_out->at(0).text, "<user>c 0<assistant>");
  EXPECT_EQ(held_out->at(2).text, "<user>d 0<assistant>");
  write("b.jsonl", lines_of("b", 5) + "{}\n");
  try {
    make_prompt_source(config_, Split::kTrain, 1, *tokenizer_);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()), (folder_ / "b.jsonl").string() + ":6: \"prompt\" is missing");
  }
}

TEST_F(JsonlPrompts, OverlapWithHeldOutPromptsIsReportedDroppedOrRefused) {
  const std::string twelve = "a b c d e f g h i j k l", line = R"({"prompt": ")";
  config_.eval_files = {write("eval.jsonl", line + twelve + R"(", "answer": "1"})")};
  const std::string content = kGood + line + twelve +
                              R"( m", "answer": "1"})"
                              "\n" +
                              line +
                              R"(a b c d e f g h i", "answer": "1"})"
                              "\n";
  const std::string where =
      (folder_ / "train.jsonl:2").string() + " as " + (folder_ / "eval.jsonl:1").string();
  const auto reported = train(content);
  EXPECT_EQ(reported->size(), 3);
  EXPECT_EQ(reported->note(),
            "1 of 3 training prompts shares 10 words in a row with held-out ones (task.contamination = "
            "\"report\"): " +
                where);
  config_.contamination = "off";
  EXPECT_EQ(train(content)->note(), "");
  config_.contamination = "drop";
  const auto dropped = train(content + line + twelve + R"(", "answer": "1"})");  // the same prompt goes too
  ASSERT_EQ(dropped->size(), 2);
  EXPECT_EQ(dropped->at(1).text, "<user>a b c d e f g h i<assistant>");
  EXPECT_NE(dropped->note().find("2 of 4 training prompts share 10 words in a row with held-out ones and are "
                                 "left out"),
            std::string::npos);
  EXPECT_NE(dropped->fingerprint(), train(content)->fingerprint());
  EXPECT_NE(train(content)->note().find("shares 10 words in a row with held-out ones and is left out"),
            std::string::npos);
  EXPECT_EQ(error_of(line + twelve + R"(", "answer": "1"})"),
            "train.jsonl: every prompt is like a held-out one, task.contamination = \"drop\" leaves none");
  config_.contamination = "error";
  EXPECT_THROW(train(content), Error);
  EXPECT_EQ(train(kGood)->note(), "");
}

}  // namespace
}  // namespace contender
