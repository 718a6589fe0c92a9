#include "data/tokenizer.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/philox.h"

namespace contender {
namespace {

TEST(ByteTokenizer, SpecialsComeFromTheirText) {
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_EQ(tokenizer->encode("<user>1+<assistant><think>a</think><answer>2</answer>"),
            (std::vector<int32_t>{261, '1', '+', 262, 257, 'a', 258, 259, '2', 260}));
  EXPECT_EQ(tokenizer->encode("<<think"), (std::vector<int32_t>{'<', '<', 't', 'h', 'i', 'n', 'k'}));
  EXPECT_EQ(tokenizer->encode("<think"), (std::vector<int32_t>{'<', 't', 'h', 'i', 'n', 'k'}));
}

TEST(ByteTokenizer, EosAndPadNeverComeFromText) {
  const auto tokenizer = make_byte_tokenizer();
  for (const int32_t token : tokenizer->encode("<eos><pad><unused264>")) EXPECT_LT(token, 256);
  EXPECT_EQ(tokenizer->decode({'a', tokenizer->eos(), 'b', 263, 264}), "ab<pad><unused264>");
}

TEST(ByteTokenizer, DecodeOfEncodeIsTheText) {
  const auto tokenizer = make_byte_tokenizer();
  const char* parts[] = {"<think>",     "</think>", "<answer>", "</answer>", "<user>",
                         "<assistant>", "<eos>",    "<",        ">"};
  for (uint32_t trial = 0; trial < 500; ++trial) {
    PhiloxSequence random(1, RandomStream::kTest, trial);
    std::string text;
    for (uint32_t i = random.below(40); i > 0; --i) {
      if (random.below(2)) text += parts[random.below(std::size(parts))];
      text += static_cast<char>(random.below(256));
    }
    const auto tokens = tokenizer->encode(text);
    EXPECT_EQ(tokenizer->decode(tokens), text);
    for (const int32_t token : tokens) EXPECT_LT(token, tokenizer->vocab_size());
  }
}

TEST(ByteTokenizer, IdsOutsideTheVocabularyAreErrors) {
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_EQ(tokenizer->vocab_size(), 272);
  EXPECT_NO_THROW(tokenizer->decode({271}));
  EXPECT_THROW(tokenizer->decode({272}), Error);
  EXPECT_THROW(tokenizer->decode({'a', -1}), Error);
}

TEST(ByteTokenizer, SpecialTextIsTextUnlessTrusted) {
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_EQ(tokenizer->encode_plain("<user>").size(), 6u);
  const std::vector<int32_t> both =
      tokenizer->encode(MarkedText{"<user><user>", std::string(7, '\0') + "\1\1\1\1\1"});
  EXPECT_EQ(both, (std::vector<int32_t>{261, '<', 'u', 's', 'e', 'r', '>'}));
  EXPECT_EQ(tokenizer->decode({'a', 256, 257}, Show::kAll), "a<eos><think>");
  EXPECT_EQ(tokenizer->decode({'a', 256, 257}, Show::kNoSpecials), "a");
}

TEST(ByteTokenizer, OneMegabyteOfOneCharacter) {
  const auto tokenizer = make_byte_tokenizer();
  const std::string text(1 << 20, '<');
  EXPECT_EQ(tokenizer->encode(text).size(), text.size());
}

}  // namespace
}  // namespace contender
