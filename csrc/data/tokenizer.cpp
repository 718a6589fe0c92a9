#include "data/tokenizer.h"

#include <array>

#include "base/error.h"

namespace contender {
namespace {

constexpr int32_t kEos = 256;
constexpr int32_t kFirstUnused = 264;
constexpr int32_t kVocabSize = 272;  // a multiple of 16, so that a model can have exactly these ids
constexpr std::array<std::string_view, kFirstUnused - kEos> kSpecials = {
    "<eos>", "<think>", "</think>", "<answer>", "</answer>", "<user>", "<assistant>", "<pad>"};
constexpr int32_t kFirstFromText = 257, kLastFromText = 262;  // text never makes <eos> or <pad>

// The special token whose text begins at `at`, or -1.
int32_t special_at(std::string_view text, size_t at) {
  for (int32_t id = kFirstFromText; id <= kLastFromText; ++id) {
    const std::string_view special = kSpecials[id - kEos];
    if (text.compare(at, special.size(), special) == 0) return id;
  }
  return -1;
}

class ByteTokenizer final : public Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> tokens;
    tokens.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const int32_t special = text[at] == '<' ? special_at(text, at) : -1;
      tokens.push_back(special >= 0 ? special : static_cast<uint8_t>(text[at]));
      at += special >= 0 ? kSpecials[special - kEos].size() : 1;
    }
    return tokens;
  }

  std::string decode(const std::vector<int32_t>& tokens) const override {
    std::string text;
    text.reserve(tokens.size());
    for (const int32_t token : tokens) {
      if (token < 0 || token >= kVocabSize) {
        fail(ExitCode::kInternal, "token {} is outside the byte tokenizer's vocabulary of {}", token,
             kVocabSize);
      }
      if (token < kEos) {
        text += static_cast<char>(token);
      } else if (token >= kFirstUnused) {
        text += fmt::format("<unused{}>", token);
      } else if (token != kEos) {
        text += kSpecials[token - kEos];
      }
    }
    return text;
  }

  int32_t eos() const override { return kEos; }
  int64_t vocab_size() const override { return kVocabSize; }
  std::string fingerprint() const override { return "byte-v1"; }
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_tokenizer() { return std::make_unique<ByteTokenizer>(); }

}  // namespace contender
