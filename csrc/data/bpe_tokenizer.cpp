#include <simdjson.h>

#include <algorithm>
#include <mutex>

#include "base/error.h"
#include "data/bpe_added.h"
#include "data/bpe_normalize.h"
#include "data/tokenizer.h"

namespace contender {
namespace {

std::vector<AddedToken> of_kind(const std::vector<AddedToken>& tokens, bool normalized, bool nfc) {
  std::vector<AddedToken> some;
  std::string buffer, no_marks;
  for (const AddedToken& t : tokens) {
    if (t.normalized != normalized) continue;
    some.push_back(t);
    if (normalized && nfc) some.back().text = std::string(normalize_nfc(t.text, buffer, no_marks));
  }
  return some;
}

std::unordered_map<std::string, int32_t> whole_words(const BpeSpec& spec) {
  std::unordered_map<std::string, int32_t> words;
  for (int32_t id = 0; spec.ignore_merges && id < std::ssize(spec.pieces); ++id)
    if (!spec.pieces[id].empty()) words.emplace(spec.pieces[id], id);
  return words;
}

class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(BpeSpec spec, BpeIdentity identity)
      : nfc_(spec.nfc),
        model_(spec.byte_ids, spec.merges, whole_words(spec)),
        pretokenizer_(std::move(spec.steps)),
        raw_(of_kind(spec.added, false, spec.nfc)),
        normalized_(of_kind(spec.added, true, spec.nfc)),
        first_(std::move(spec.first)),
        identity_(std::move(identity)),
        pieces_(std::move(spec.pieces)) {
    for (const AddedToken& t : spec.added) {
      if (t.id >= std::ssize(pieces_)) pieces_.resize(static_cast<size_t>(t.id) + 1);
      if (!byte_level_bytes(t.text, pieces_[t.id])) pieces_[t.id] = t.text;
    }
    special_.resize(pieces_.size());
    stop_.resize(pieces_.size());
    for (const AddedToken& t : spec.added) special_[t.id] = t.special;
    for (const int32_t id : identity_.stop_tokens) {
      CHECK(0 <= id && id < vocab_size(), "stop token {} of {}", id, vocab_size());
      stop_[id] = true;
    }
    CHECK(!identity_.stop_tokens.empty());
  }

  std::vector<int32_t> encode(std::string_view text) const override { return encode(text, true, {}); }
  std::vector<int32_t> encode_plain(std::string_view text) const override { return encode(text, false, {}); }
  std::vector<int32_t> encode(const MarkedText& text) const override {
    CHECK(text.from_data.empty() || text.from_data.size() == text.text.size());
    return encode(text.text, true, text.from_data);
  }

  std::string_view bytes_of(int32_t token, Show show) const override {
    if (token < 0 || token >= vocab_size())
      fail(ExitCode::kInternal, "token {} is outside the tokenizer's vocabulary of {}", token, vocab_size());
    const bool hidden =
        (show == Show::kAllButStops && stop_[token]) || (show == Show::kNoSpecials && special_[token]);
    return hidden ? std::string_view() : std::string_view(pieces_[token]);
  }
  std::string decode(const std::vector<int32_t>& tokens, Show show) const override {
    std::string bytes, text;
    for (const int32_t token : tokens) bytes += bytes_of(token, show);
    append_utf8(bytes, /*more=*/false, text);
    return text;
  }

  int32_t eos() const override { return identity_.stop_tokens[0]; }
  const std::vector<int32_t>& stop_tokens() const override { return identity_.stop_tokens; }
  const std::vector<int32_t>& first_tokens() const override { return first_; }
  int64_t vocab_size() const override { return std::ssize(pieces_); }
  std::string fingerprint() const override { return identity_.fingerprint; }
  const ChatTemplate* chat_template() const override { return identity_.chat_template.get(); }

 private:
  struct Scratch {
    BpeScratch bpe;
    Pretokenizer::Scratch split;
    std::string normalized;
  };

  // Of the text between added tokens; `inner` does the same with what is found there.
  template <class Between, class F>
  static void at_added(const AddedTokens& added, std::string_view text, std::string_view marks,
                       const Between& between, const F& token) {
    const auto gap = [&](size_t begin, size_t end) {
      if (begin < end)
        between(text.substr(begin, end - begin), marks.substr(marks.empty() ? 0 : begin, end - begin));
    };
    size_t from = 0, at = 0;
    for (AddedTokens::Match m; added.next(text, marks, from, at, m);) {
      gap(from, m.begin);
      token(m.id);
      from = m.end;
      at = m.text_end;
    }
    gap(from, text.size());
  }

  std::vector<int32_t> encode(std::string_view text, bool with_added, std::string_view marks) const {
    std::string valid;
    if (!simdjson::validate_utf8(text.data(), text.size())) {
      CHECK(marks.empty(), "marked text is not UTF-8");
      append_utf8(text, /*more=*/false, valid);
      text = valid;
    }
    std::unique_ptr<Scratch> scratch = take_scratch();
    std::vector<int32_t> tokens;
    tokens.reserve(text.size() / 3 + 4);
    const auto token = [&](int32_t id) { tokens.push_back(id); };
    const auto words = [&](std::string_view piece, std::string_view) {
      pretokenizer_.split(piece, scratch->split,
                          [&](std::string_view word) { model_.encode(word, scratch->bpe, tokens); });
    };
    const auto normalize = [&](std::string_view piece, std::string_view piece_marks) {
      std::string moved(piece_marks);
      if (nfc_) piece = normalize_nfc(piece, scratch->normalized, moved);
      with_added ? at_added(normalized_, piece, moved, words, token) : words(piece, {});
    };
    with_added ? at_added(raw_, text, marks, normalize, token) : normalize(text, {});
    give_back(std::move(scratch));
    return tokens;
  }

  std::unique_ptr<Scratch> take_scratch() const {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return std::make_unique<Scratch>();
    std::unique_ptr<Scratch> scratch = std::move(idle_.back());
    idle_.pop_back();
    return scratch;
  }
  void give_back(std::unique_ptr<Scratch> scratch) const {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(scratch));
  }

  const bool nfc_;
  const BpeModel model_;
  const Pretokenizer pretokenizer_;
  const AddedTokens raw_, normalized_;  // looked for before and behind normalization
  const std::vector<int32_t> first_;
  const BpeIdentity identity_;
  std::vector<std::string> pieces_;
  std::vector<bool> special_, stop_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> idle_;  // one for each thread that was here at once
};

}  // namespace

std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeSpec spec, BpeIdentity identity) {
  return std::make_unique<BpeTokenizer>(std::move(spec), std::move(identity));
}

}  // namespace contender
