// Pre-tokenization: text is split into words that no merge crosses, by the steps of a tokenizer.json.
//
// Split patterns are written for Oniguruma with Ruby's syntax. The constructs that mean the same in PCRE2 are
// taken over one by one (white space is Unicode's White_Space in both places), anything else is refused by
// name. Patterns are compiled to machine code by PCRE2's JIT; every match has limits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace contender {

struct PretokenizeStep {
  enum class Kind {
    kSplit,           // at matches of `pattern`
    kAddPrefixSpace,  // each piece that does not begin with a space gets one
  };
  Kind kind = Kind::kSplit;
  std::string pattern;
  bool remove = false;  // matches are dropped; else they are pieces of their own
  bool invert = false;  // what is between matches takes their place, and they its
};

extern const char* const kByteLevelPattern;  // of GPT-2, the ByteLevel step's own
extern const char* const kDigitPattern;      // of the Digits step: every digit alone
extern const char* const kDigitsPattern;     // of the Digits step: runs of digits

// The same pattern for PCRE2 (UTF mode), and the ranges of characters that it names. Throws
// std::runtime_error, with the construct and its place.
struct CharacterRange {
  uint32_t first, last;
};
std::string translate_pattern(std::string_view pattern, std::vector<CharacterRange>& ranges);

class Pretokenizer {
 public:
  // Throws std::runtime_error for a pattern that is not taken over, does not compile or matches nothing at
  // all.
  explicit Pretokenizer(std::vector<PretokenizeStep> steps);
  ~Pretokenizer();
  Pretokenizer(Pretokenizer&&) noexcept;

  // Match data and stack, of one thread at a time.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

   private:
    friend class Pretokenizer;
    struct Impl;
    std::unique_ptr<Impl> impl_;
  };

  // Words of `text` (valid UTF-8), in order, to `word(std::string_view)`. Throws Error(kConfig) when a match
  // takes more than its limits.
  template <class F>
  void split(std::string_view text, Scratch& scratch, const F& word) const {
    split(text, scratch,
          Sink{[](const void* f, std::string_view w) { (*static_cast<const F*>(f))(w); }, &word});
  }

 private:
  struct Sink {
    void (*call)(const void*, std::string_view);
    const void* f;
  };
  struct Pattern;
  void split(std::string_view text, Scratch& scratch, Sink sink) const;
  void split_from(size_t step, std::string_view text, std::string_view seen, Scratch& scratch,
                  Sink sink) const;

  std::vector<PretokenizeStep> steps_;
  std::vector<std::unique_ptr<Pattern>> patterns_;  // of each step; null where it has none
};

}  // namespace contender
