#include "data/tokenizer.h"

#include <array>

#include "base/error.h"
#include "data/bpe_normalize.h"

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
  ByteTokenizer() {
    for (int32_t id = 0; id < kVocabSize; ++id) {
      pieces_[id] = id < kEos           ? std::string(1, static_cast<char>(id))
                    : id < kFirstUnused ? std::string(kSpecials[id - kEos])
                                        : fmt::format("<unused{}>", id);
    }
  }

  std::vector<int32_t> encode(std::string_view text) const override { return encode(text, {}); }
  std::vector<int32_t> encode_plain(std::string_view text) const override {
    return encode(text, std::string(text.size(), '\1'));
  }
  std::vector<int32_t> encode(const MarkedText& text) const override {
    return encode(text.text, text.from_data);
  }

  std::string_view bytes_of(int32_t token, Show show) const override {
    if (token < 0 || token >= kVocabSize) {
      fail(ExitCode::kInternal, "token {} is outside the byte tokenizer's vocabulary of {}", token,
           kVocabSize);
    }
    const bool hidden =
        show == Show::kNoSpecials ? token >= kEos : show == Show::kAllButStops && token == kEos;
    return hidden ? std::string_view() : std::string_view(pieces_[token]);
  }
  std::string decode(const std::vector<int32_t>& tokens, Show show) const override {
    std::string text;
    text.reserve(tokens.size());
    for (const int32_t token : tokens) text += bytes_of(token, show);
    return text;
  }

  int32_t eos() const override { return kEos; }
  const std::vector<int32_t>& stop_tokens() const override { return stop_tokens_; }
  const std::vector<int32_t>& first_tokens() const override { return first_tokens_; }
  int64_t vocab_size() const override { return kVocabSize; }
  std::string fingerprint() const override { return "byte-v1"; }
  const ChatTemplate* chat_template() const override { return nullptr; }
  bool speaks_in_tags() const override { return true; }

 private:
  static std::vector<int32_t> encode(std::string_view text, std::string_view marks) {
    std::vector<int32_t> tokens;
    tokens.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      int32_t special = text[at] == '<' ? special_at(text, at) : -1;
      const size_t length = special >= 0 ? kSpecials[special - kEos].size() : 1;
      if (!marks.empty() && marks.substr(at, length).find_first_not_of('\0') != marks.npos) special = -1;
      tokens.push_back(special >= 0 ? special : static_cast<uint8_t>(text[at]));
      at += special >= 0 ? length : 1;
    }
    return tokens;
  }

  std::array<std::string, kVocabSize> pieces_;
  const std::vector<int32_t> stop_tokens_ = {kEos}, first_tokens_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_tokenizer() { return std::make_unique<ByteTokenizer>(); }

std::string StreamDecoder::push(int32_t token) {
  pending_ += tokenizer_.bytes_of(token, show_);
  std::string text;
  pending_.erase(0, append_utf8(pending_, /*more=*/true, text));
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  append_utf8(std::exchange(pending_, {}), /*more=*/false, text);
  return text;
}

}  // namespace contender
