#include <gtest/gtest.h>
#include <simdjson.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/bpe_normalize.h"
#include "data/tokenizer.h"

namespace contender {
namespace {

using Ids = std::vector<int32_t>;
using nlohmann::json;
constexpr const char* kFixtures = "tests/fixtures/tokenizer/";

std::string file_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  CHECK(in.good(), "{}", path);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::unique_ptr<Tokenizer> tokenizer_of(const std::string& text) {
  return make_bpe_tokenizer(parse_tokenizer_json(text), {.stop_tokens = {0}, .fingerprint = "test"});
}
std::unique_ptr<Tokenizer> fixture(const std::string& name) {
  return tokenizer_of(file_text(kFixtures + name + "/tokenizer.json"));
}

// cases.bin of tools/fixtures/make_tokenizer_cases.py.
struct Case {
  std::string_view text;
  Ids ids, plain;
  std::string_view shown, hidden;
};
int64_t for_each_case(const std::string& file, const std::function<void(const Case&)>& check) {
  size_t at = 0;
  const auto number = [&] {
    uint32_t n = 0;
    std::memcpy(&n, &file.at(at), sizeof n);
    at += sizeof n;
    return size_t{n};
  };
  const auto bytes = [&] {
    const size_t n = number();
    at += n;
    return std::string_view(file).substr(at - n, n);
  };
  const auto list = [&] {
    Ids ids(number());
    for (int32_t& id : ids) id = static_cast<int32_t>(number());
    return ids;
  };
  int64_t count = 0;
  for (; at < file.size(); ++count) {
    Case c;
    c.text = bytes();
    c.ids = list();
    c.plain = list();
    c.shown = bytes();
    c.hidden = bytes();
    check(c);
  }
  return count;
}

int64_t compare(const Tokenizer& tokenizer, const std::string& cases) {
  int64_t wrong = 0;
  const int64_t count = for_each_case(cases, [&](const Case& c) {
    std::string streamed;
    StreamDecoder stream(tokenizer, Show::kAll);
    for (const int32_t id : c.ids) {
      const std::string part = stream.push(id);
      EXPECT_TRUE(simdjson::validate_utf8(part));
      streamed += part;
    }
    streamed += stream.finish();
    const bool same = tokenizer.encode(c.text) == c.ids && tokenizer.encode_plain(c.text) == c.plain &&
                      tokenizer.decode(c.ids, Show::kAll) == c.shown &&
                      tokenizer.decode(c.ids, Show::kNoSpecials) == c.hidden && streamed == c.shown;
    wrong += !same;
    EXPECT_TRUE(same || wrong > 10) << "\"" << c.text << "\"";
  });
  EXPECT_EQ(wrong, 0) << "of " << count;
  return count;
}

TEST(BpeTokenizer, TokensOfTheReferenceImplementation) {
  for (const char* name : {"deepseek", "qwen", "smol"}) {
    SCOPED_TRACE(name);
    EXPECT_EQ(compare(*fixture(name), file_text(std::string(kFixtures) + name + "/cases.bin")), 60);
  }
}

TEST(BpeTokenizer, TokensOfTheReferenceImplementationOnALargeSet) {
  const char* folder = std::getenv("TOKENIZER_CASES");
  if (!folder) GTEST_SKIP() << "TOKENIZER_CASES is not set (tools/fixtures/make_tokenizer_cases.py)";
  const std::string path = folder;
  EXPECT_GT(compare(*tokenizer_of(file_text(path + "/tokenizer.json")), file_text(path + "/cases.bin")), 0);
}

TEST(BpeTokenizer, LongRunsTakeLinearTime) {
  for (const char* name : {"deepseek", "qwen", "smol"}) {
    const auto tokenizer = fixture(name);
    for (const std::string unit : {"a", " ", "\n", "1", "!", "the", "\xcc\x81\xcc\x96", "\xff", "<|im_end|",
                                   "\xe4\xb8\x80", "\xe1\x84\x80\xe1\x85\xa1", "a \n"}) {
      std::string text;
      while (text.size() < 1 << 18) text += unit;
      const auto start = std::chrono::steady_clock::now();
      EXPECT_GT(tokenizer->encode(text).size(), 1000u);
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      EXPECT_LT(seconds.count(), 3) << name << " " << unit;  // 0.1 s at most when nothing else runs
    }
  }
}

TEST(BpeTokenizer, SpecialTextIsTextUnlessTrusted) {
  const auto tokenizer = fixture("qwen");
  const Ids end = tokenizer->encode("<|im_end|>");
  ASSERT_EQ(end.size(), 1u);
  EXPECT_GT(tokenizer->encode_plain("<|im_end|>").size(), 1u);
  const std::string text = "a<|im_end|><|im_end|>b";
  std::string marks(text.size(), '\0');
  Ids both = tokenizer->encode(MarkedText{text, {}});
  EXPECT_EQ(both, tokenizer->encode(text));
  EXPECT_EQ(std::count(both.begin(), both.end(), end[0]), 2);
  marks[3] = 1;  // one byte of the first from data
  both = tokenizer->encode(MarkedText{text, marks});
  EXPECT_EQ(std::count(both.begin(), both.end(), end[0]), 1);
  EXPECT_EQ(tokenizer->decode(both, Show::kAll), text);
  EXPECT_EQ(tokenizer->encode(MarkedText{text, std::string(text.size(), 1)}), tokenizer->encode_plain(text));
}

TEST(BpeTokenizer, MarksFollowTheirBytesThroughNormalization) {
  // wörd is looked for in normalized text; here it is written with a combining mark.
  const auto tokenizer = fixture("qwen");
  const std::string text = "e\xcc\x81 wo\xcc\x88rd wo\xcc\x88rd";
  const Ids token = tokenizer->encode("w\xc3\xb6rd");
  ASSERT_EQ(token.size(), 1u);
  std::string marks(text.size(), '\0');
  const auto found = [&] {
    const Ids ids = tokenizer->encode(MarkedText{text, marks});
    return std::count(ids.begin(), ids.end(), token[0]);
  };
  EXPECT_EQ(found(), 2);
  marks[6] = 1;  // the mark over the first o
  EXPECT_EQ(found(), 1);
  marks.back() = 1;
  EXPECT_EQ(found(), 0);
}

TEST(BpeTokenizer, WhatIsShown) {
  const auto tokenizer =
      make_bpe_tokenizer(parse_tokenizer_json(file_text(std::string(kFixtures) + "smol/tokenizer.json")),
                         {.stop_tokens = {2, 0}, .fingerprint = "x"});
  EXPECT_EQ(tokenizer->eos(), 2);
  const Ids ids = tokenizer->encode("<|im_start|>hi<|im_end|><|endoftext|>");
  EXPECT_EQ(tokenizer->decode(ids, Show::kAll), "<|im_start|>hi<|im_end|><|endoftext|>");
  EXPECT_EQ(tokenizer->decode(ids), "<|im_start|>hi");
  EXPECT_EQ(tokenizer->decode(ids, Show::kNoSpecials), "hi");
  EXPECT_THROW(tokenizer->decode({static_cast<int32_t>(tokenizer->vocab_size())}), Error);
  EXPECT_THROW(tokenizer->decode({-1}), Error);
  EXPECT_EQ(fixture("deepseek")->first_tokens(), Ids{0});
  EXPECT_EQ(fixture("qwen")->first_tokens(), Ids{});
}

// The smallest tokenizer: a, b, c, ab; changed by `edit`.
json small_json() {
  return json::parse(R"({"version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 4, "content": "<s>", "special": true, "normalized": false}],
    "normalizer": null,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
    "post_processor": null, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3}, "merges": [["a", "b"]]}})");
}

TEST(TokenizerJson, StepsOfASmallTokenizer) {
  json j = small_json();
  EXPECT_EQ(tokenizer_of(j.dump())->encode("abc x<s>ba"),
            (Ids{3, 2, 4, 1, 0}));  // bytes without a token are dropped
  j["model"]["unk_token"] = "c";
  EXPECT_EQ(tokenizer_of(j.dump())->encode("ab x"), (Ids{3, 2, 2}));
  j["model"]["vocab"]["abc"] = 5;
  EXPECT_EQ(tokenizer_of(j.dump())->encode("abc"), (Ids{3, 2}));
  j["model"]["ignore_merges"] = true;
  EXPECT_EQ(tokenizer_of(j.dump())->encode("abc"), (Ids{5}));
  json& split = j["pre_tokenizer"]["pretokenizers"][0];
  split["pattern"]["Regex"] = "b";
  split["behavior"] = "Removed";
  EXPECT_EQ(tokenizer_of(j.dump())->encode("abcab"), (Ids{0, 2, 0}));
  split["invert"] = true;
  EXPECT_EQ(tokenizer_of(j.dump())->encode("abcab"), (Ids{1, 1}));
}

TEST(TokenizerJson, WhatIsNotKnownIsRefusedByName) {
  struct Row {
    const char* at;
    const char* value;
    const char* message;
  };
  const Row rows[] = {
      {"/extra", "1", "tokenizer.extra is not known"},
      {"/version", "\"2.0\"", "version 2.0"},
      {"/truncation", "{}", "tokenizer.truncation is not supported"},
      {"/model/type", "\"Unigram\"", "Unigram"},
      {"/model/dropout", "0.1", "model.dropout"},
      {"/model/byte_fallback", "true", "model.byte_fallback"},
      {"/model/end_of_word_suffix", "\"</w>\"", "model.end_of_word_suffix"},
      {"/model/vocab/a", "1", "the id 1 twice"},
      {"/model/vocab/a", "-1", "the id -1"},
      {"/model/vocab/a", "99999999", "the id 99999999"},
      {"/model/vocab/a", "\"x\"", "not an integer"},
      {"/model/vocab", "[]", "model.vocab is not an object"},
      {"/model/merges/0", "\"a b c\"", "model.merges[0]"},
      {"/model/merges/0", "[\"a\", \"c\"]", "\"ac\" is not in the vocabulary"},
      {"/model/merges/0", "[\"a\"]", "model.merges[0]"},
      {"/model/merges", R"([["a", "b"], "a b"])", "the same pair twice"},
      {"/normalizer", R"({"type": "Lowercase"})", "normalizer Lowercase"},
      {"/pre_tokenizer", R"({"type": "Metaspace"})", "pre_tokenizer Metaspace"},
      {"/pre_tokenizer/pretokenizers/1", R"({"type": "Digits"})", "no ByteLevel"},
      {"/pre_tokenizer/pretokenizers/0/behavior", "\"MergedWithNext\"", "behavior MergedWithNext"},
      {"/pre_tokenizer/pretokenizers/0/pattern", R"({"String": "x"})", "\"Regex\" is missing"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "\"^a\"", "^ outside a class"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "\"(a\"", "without its )"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "\"a*\"", "empty text"},
      {"/post_processor", R"({"type": "BertProcessing"})", "post_processor BertProcessing"},
      {"/decoder", R"({"type": "WordPiece"})", "decoder WordPiece"},
      {"/decoder", "null", "\"decoder\" is missing"},
      {"/added_tokens/0/id", "0", "another text or id"},
      {"/added_tokens/0/content", "\"ab\"", "another text or id"},
      {"/added_tokens/0/content", "\"\"", "0 bytes"},
      {"/added_tokens/0/color", "1", "added_tokens[0].color is not known"},
  };
  for (const Row& row : rows) {
    json j = small_json();
    j[json::json_pointer(row.at)] = json::parse(row.value);
    try {
      tokenizer_of(j.dump());
      ADD_FAILURE() << row.at << " = " << row.value << " is taken";
    } catch (const std::runtime_error& e) {
      EXPECT_NE(std::string(e.what()).find(row.message), std::string::npos) << row.at << ": " << e.what();
    }
  }
}

TEST(TokenizerJson, DamagedFilesAreErrors) {
  const std::string text = small_json().dump();
  for (size_t size = 0; size < text.size(); ++size)
    EXPECT_THROW(parse_tokenizer_json(std::string_view(text).substr(0, size)), std::runtime_error) << size;
  for (size_t at = 0; at < text.size(); ++at) {  // any answer but a crash
    for (const char byte : {'\0', '"', '9', '{', '\xff'}) {
      std::string damaged = text;
      damaged[at] = byte;
      try {
        tokenizer_of(damaged);
      } catch (const std::runtime_error&) {
      }
    }
  }
  EXPECT_THROW(parse_tokenizer_json(std::string(100000, '[')), std::runtime_error);
  EXPECT_THROW(parse_tokenizer_json(R"({"model": {"vocab": {"a": 0, "a": 1}, "merges": []}})"),
               std::runtime_error);
}

TEST(SplitPatterns, OnlyWhatMeansTheSame) {
  std::vector<CharacterRange> ranges;
  EXPECT_EQ(
      translate_pattern(R"(\s+(?!\S)|[^\r\n\p{L}a-z\-]?\p{N}{1,3}|(?i:'s))", ranges),
      R"(\p{White_Space}+(?!\P{White_Space})|[^\x{d}\x{a}\p{L}\x{61}-\x{7a}\x{2d}]?\p{N}{1,3}|(?i:\x{27}\x{73}))");
  for (const char* bad :
       {".",          "$",    "\\w",   "\\b",         "\\h",       "\\1",     "[[:alpha:]]", "[a&&b]",
        "[a-\\d]",    "[]a]", "a{2}+", "a{2}?",       "a{,3}",     "(?<n>a)", "(?m:a)",      "(?i:\\p{Lu})",
        "\\p{Greek}", "\\pL", "\\x41", "\\x{110000}", "\\x{d800}", "[a",      "a)",          "\\",
        "[a-",        "a{",   "\xe4"}) {
    EXPECT_THROW(translate_pattern(bad, ranges), std::runtime_error) << bad;
  }
  EXPECT_THROW(Pretokenizer({{.pattern = std::string(100, '(') + "a" + std::string(100, ')')}}),
               std::runtime_error);
  EXPECT_THROW(Pretokenizer({{.pattern = "[\\x{2ffc}-\\x{2ffd}]"}}), std::runtime_error);  // of Unicode 15.1
  EXPECT_THROW(translate_pattern(std::string(20000, 'a'), ranges), std::runtime_error);
}

TEST(SplitPatterns, MatchesHaveLimits) {
  const Pretokenizer bad({{.pattern = "(?:(?:a|aa)+)+b"}});
  Pretokenizer::Scratch scratch;
  EXPECT_THROW(bad.split(std::string(60, 'a') + "cb", scratch, [](std::string_view) {}), Error);
}

TEST(Normalization, ReplacesEachLongestBeginning) {
  const auto replaced = [](std::string_view bytes) {
    std::string text;
    EXPECT_EQ(append_utf8(bytes, false, text), bytes.size());
    return text;
  };
  const std::string r = "\xef\xbf\xbd";
  EXPECT_EQ(replaced("a\xc3\xa9\xf0\x9f\x98\x80"), "a\xc3\xa9\xf0\x9f\x98\x80");
  EXPECT_EQ(replaced("\xf0\x9f\x98"), r);
  EXPECT_EQ(replaced("\xe0\x80"), r + r);
  EXPECT_EQ(replaced("\xed\xa0\x80"), r + r + r);
  EXPECT_EQ(replaced("\xf4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(replaced("\xc3(\xf0\x9f(\xff"), r + "(" + r + "(" + r);
  std::string text;
  EXPECT_EQ(append_utf8("ab\xe4\xb8", true, text), 2u);
  EXPECT_EQ(append_utf8("\xff", true, text), 1u);
  EXPECT_EQ(text, "ab" + r);
}

}  // namespace
}  // namespace contender
