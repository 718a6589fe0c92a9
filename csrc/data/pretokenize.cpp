#include "data/pretokenize.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>

#include <algorithm>
#include <stdexcept>

#include "base/error.h"
#include "data/bpe_unicode.h"

namespace contender {
namespace {

constexpr uint32_t kMaxGroups = 64;            // open at once
constexpr uint32_t kMatchLimit = 100'000'000;  // tries of one match
constexpr size_t kJitStackBytes = 32 << 20;

std::string message_of(int code) {
  PCRE2_UCHAR text[160];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

template <auto F>
struct Free {
  template <class T>
  void operator()(T* p) const {
    F(p);
  }
};

// A stand-in must be seen by the pattern as what it stands for is.
void check_range(const CharacterRange& r) {
  const auto first = static_cast<int32_t>(r.first), last = static_cast<int32_t>(r.last);
  for (const UnicodeRange& s : unicode_stand_ins()) {
    const bool inside = first <= s.first && s.last <= last, outside = last < s.first || s.last < first;
    const bool stand_in = first <= s.value && s.value <= last;
    if (stand_in ? !inside : !outside)
      throw std::runtime_error(fmt::format(
          "split pattern: the range U+{:04X} to U+{:04X} is not supported: it parts U+{:04X} from U+{:04X}",
          first, last, s.first, s.value));
  }
}

// Characters of U+0800 and on: the libraries agree on those before.
int32_t stand_in_of(int32_t c) {
  static const std::vector<bool> some = [] {
    std::vector<bool> bits(0x110000);
    for (const UnicodeRange& r : unicode_stand_ins())
      std::fill(bits.begin() + r.first, bits.begin() + r.last + 1, true);
    return bits;
  }();
  if (!some[c]) return c;
  const auto ranges = unicode_stand_ins();
  return (std::upper_bound(ranges.begin(), ranges.end(), c,
                           [](int32_t x, const UnicodeRange& r) { return x < r.first; }) -
          1)
      ->value;
}

// `text` (valid UTF-8) with stand-ins, of the same length; a view of `text` where there are none.
std::string_view with_stand_ins(std::string_view text, std::string& buffer) {
  bool changed = false;
  for (size_t at = 0; at < text.size();) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[at + i]); };
    const size_t length = byte(0) < 0x80 ? 1 : byte(0) < 0xe0 ? 2 : byte(0) < 0xf0 ? 3 : 4;
    if (length > 2) {
      int32_t c = byte(0) & (0x7f >> length);
      for (size_t i = 1; i < length; ++i) c = c << 6 | (byte(i) & 0x3f);
      const int32_t other = stand_in_of(c);
      if (other != c) {
        if (!changed) buffer = text;
        changed = true;
        utf8proc_encode_char(other, reinterpret_cast<utf8proc_uint8_t*>(&buffer[at]));
      }
    }
    at += length;
  }
  return changed ? std::string_view(buffer) : text;
}

PCRE2_SPTR units(std::string_view s) { return reinterpret_cast<PCRE2_SPTR>(s.data()); }

}  // namespace

struct Pretokenizer::Pattern {
  explicit Pattern(const std::string& source) {
    std::unique_ptr<pcre2_compile_context, Free<pcre2_compile_context_free>> context(
        pcre2_compile_context_create(nullptr));
    pcre2_set_parens_nest_limit(context.get(), kMaxGroups);
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    std::vector<CharacterRange> ranges;
    const std::string translated = translate_pattern(source, ranges);
    for (const CharacterRange& r : ranges) check_range(r);
    int error = 0;
    size_t place = 0;
    code.reset(pcre2_compile(units(translated), translated.size(), PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C,
                             &error, &place, context.get()));
    if (!code) throw std::runtime_error(fmt::format("split pattern: {}", message_of(error)));
    error = pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
    if (error != 0) throw std::runtime_error(fmt::format("split pattern: {}", message_of(error)));
    uint32_t can_be_empty = 0;
    pcre2_pattern_info(code.get(), PCRE2_INFO_MATCHEMPTY, &can_be_empty);
    if (can_be_empty) throw std::runtime_error("split pattern: it matches the empty text");
  }
  std::unique_ptr<pcre2_code, Free<pcre2_code_free>> code;
};

struct Pretokenizer::Scratch::Impl {
  std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>> match{pcre2_match_data_create(1, nullptr)};
  std::unique_ptr<pcre2_jit_stack, Free<pcre2_jit_stack_free>> stack{
      pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr)};
  std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>> context{
      pcre2_match_context_create(nullptr)};
  std::string seen;  // of the text that is being split
};

Pretokenizer::Scratch::Scratch() : impl_(std::make_unique<Impl>()) {
  pcre2_set_match_limit(impl_->context.get(), kMatchLimit);
  pcre2_jit_stack_assign(impl_->context.get(), nullptr, impl_->stack.get());
}
Pretokenizer::Scratch::~Scratch() = default;

Pretokenizer::Pretokenizer(std::vector<PretokenizeStep> steps) : steps_(std::move(steps)) {
  for (const PretokenizeStep& step : steps_) {
    const bool split = step.kind == PretokenizeStep::Kind::kSplit;
    patterns_.push_back(split ? std::make_unique<Pattern>(step.pattern) : nullptr);
  }
}
Pretokenizer::~Pretokenizer() = default;
Pretokenizer::Pretokenizer(Pretokenizer&&) noexcept = default;

void Pretokenizer::split(std::string_view text, Scratch& scratch, Sink sink) const {
  split_from(0, text, with_stand_ins(text, scratch.impl_->seen), scratch, sink);
}

// `seen` is what patterns see of `text`, byte for byte.
void Pretokenizer::split_from(size_t index, std::string_view text, std::string_view seen, Scratch& scratch,
                              Sink sink) const {
  if (text.empty()) return;
  if (index == steps_.size()) return sink.call(sink.f, text);
  const PretokenizeStep& step = steps_[index];
  if (step.kind == PretokenizeStep::Kind::kAddPrefixSpace) {
    if (text.front() == ' ') return split_from(index + 1, text, seen, scratch, sink);
    return split_from(index + 1, " " + std::string(text), " " + std::string(seen), scratch, sink);
  }
  Scratch::Impl& s = *scratch.impl_;
  const auto piece = [&](size_t begin, size_t end, bool matched) {
    const bool dropped = step.remove && matched != step.invert;
    if (begin == end || dropped) return;
    split_from(index + 1, text.substr(begin, end - begin), seen.substr(begin, end - begin), scratch, sink);
  };
  for (size_t at = 0; at < text.size();) {
    const int found = pcre2_jit_match(patterns_[index]->code.get(), units(seen), seen.size(), at,
                                      PCRE2_NO_UTF_CHECK, s.match.get(), s.context.get());
    if (found == PCRE2_ERROR_NOMATCH) return piece(at, text.size(), false);
    if (found < 0)
      fail(ExitCode::kConfig, "tokenizer: split pattern {} on {} bytes: {}", step.pattern, text.size(),
           message_of(found));
    const size_t* place = pcre2_get_ovector_pointer(s.match.get());
    const size_t begin = place[0], end = place[1];
    piece(at, begin, false);
    piece(begin, end, true);
    at = end;
  }
}

}  // namespace contender
