#include <array>
#include <optional>
#include <set>
#include <stdexcept>

#include "base/error.h"
#include "data/pretokenize.h"

namespace contender {
namespace {

constexpr size_t kMaxPattern = 16384;

bool hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool digit(char c) { return c >= '0' && c <= '9'; }
bool alphanumeric(char c) { return digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Recursive descent is not needed: PCRE2 itself checks that groups are balanced.
class Translator {
 public:
  Translator(std::string_view pattern, std::vector<CharacterRange>& ranges) : p_(pattern), ranges_(ranges) {}

  std::string run() {
    if (p_.size() > kMaxPattern) refuse("a pattern of more than 16 KiB");
    while (at_ < p_.size()) {
      const char c = p_[at_];
      if (c == '[') {
        char_class();
      } else if (c == '(') {
        group();
      } else if (c == ')') {
        if (caseless_.empty()) refuse("a ) without its (");
        caseless_.pop_back();
        take(1);
      } else if (c == '|') {
        take(1);
      } else if (c == '*' || c == '+' || c == '?' || c == '{') {
        quantifier();
      } else if (c == '^' || c == '$' || c == '.') {
        refuse(fmt::format("{} outside a class", c));
      } else {
        item();
      }
    }
    if (!caseless_.empty()) refuse("a ( without its )");
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw std::runtime_error(fmt::format("split pattern, byte {}: {} is not supported", at_, what));
  }
  bool here(std::string_view text) const { return p_.substr(at_, text.size()) == text; }
  void take(size_t n) {
    out_ += p_.substr(at_, n);
    at_ += n;
  }
  void literal(uint32_t c) {
    out_ += fmt::format("\\x{{{:x}}}", c);
    ranges_.push_back({c, c});
  }

  void group() {
    bool caseless = !caseless_.empty() && caseless_.back();
    for (const std::string_view open : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"}) {
      if (!here(open)) continue;
      caseless_.push_back(caseless || open == "(?i:");
      return take(open.size());
    }
    if (here("(?")) refuse(fmt::format("the group {:.4}", p_.substr(at_)));
    caseless_.push_back(caseless);
    out_ += "(?:";
    ++at_;
  }

  void quantifier() {
    if (p_[at_] != '{') {
      take(1);
      if (here("?") || here("+")) take(1);
      return;
    }
    const size_t end = p_.find('}', at_);
    const std::string_view body = end == p_.npos ? "" : p_.substr(at_ + 1, end - at_ - 1);
    const size_t comma = body.find(',');
    const auto number = [](std::string_view s) {
      return !s.empty() && s.size() <= 4 && s.find_first_not_of("0123456789") == s.npos;
    };
    const bool range = comma != body.npos && number(body.substr(0, comma)) &&
                       (comma + 1 == body.size() || number(body.substr(comma + 1)));
    if (!range && !number(body)) refuse("a { that is not {n}, {n,} or {n,m}");
    take(end + 1 - at_);
    if (here("+") || (here("?") && !range)) refuse(fmt::format("}}{}", p_[at_]));
    if (here("?")) take(1);
  }

  // One character, or a named set of them, outside a class.
  void item() {
    if (const std::optional<uint32_t> c = character()) literal(*c);
  }

  // The next character; nothing when a named set was written instead.
  std::optional<uint32_t> character() {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(p_[at_ + i]); };
    if (p_[at_] == '\\') return escape();
    const size_t length = byte(0) < 0x80 ? 1 : byte(0) < 0xe0 ? 2 : byte(0) < 0xf0 ? 3 : 4;
    if (at_ + length > p_.size()) refuse("text that is not UTF-8");
    uint32_t c = length == 1 ? byte(0) : byte(0) & (0x7f >> length);
    for (size_t i = 1; i < length; ++i) c = c << 6 | (byte(i) & 0x3f);
    at_ += length;
    return c;
  }

  std::optional<uint32_t> escape() {
    if (at_ + 1 >= p_.size()) refuse("a \\ at the end");
    const char c = p_[at_ + 1];
    switch (c) {
      case 's':
      case 'S':
        return named(c == 's' ? "\\p{White_Space}" : "\\P{White_Space}");
      case 'd':
      case 'D':
        return named(c == 'd' ? "\\p{Nd}" : "\\P{Nd}");
      case 'p':
      case 'P':
        return property();
      case 'r':
        return plain('\r');
      case 'n':
        return plain('\n');
      case 't':
        return plain('\t');
      case 'f':
        return plain('\f');
      case 'v':
        return plain('\v');
      case 'u':
      case 'x':
        return code_point(c);
      default:
        if (alphanumeric(c) || static_cast<uint8_t>(c) >= 0x80) refuse(fmt::format("\\{}", c));
        return plain(static_cast<uint8_t>(c));
    }
  }

  std::optional<uint32_t> named(const char* set) {
    out_ += set;
    at_ += 2;
    return {};
  }
  uint32_t plain(uint32_t c) {
    at_ += 2;
    return c;
  }

  uint32_t code_point(char kind) {
    size_t begin = at_ + 2, end = begin + 4;
    if (kind == 'x') {
      if (begin >= p_.size() || p_[begin] != '{') refuse("\\x without braces");
      end = std::min(p_.find('}', ++begin), p_.size());
    }
    if (end > p_.size() || end == begin || end - begin > 6) refuse(fmt::format("this \\{}", kind));
    uint32_t c = 0;
    for (size_t i = begin; i < end; ++i) {
      if (!hex(p_[i])) refuse(fmt::format("this \\{}", kind));
      c = c * 16 + static_cast<uint32_t>(digit(p_[i]) ? p_[i] - '0' : (p_[i] | 0x20) - 'a' + 10);
    }
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) refuse("a number that is no character");
    at_ = end + (kind == 'x' ? 1 : 0);
    return c;
  }

  std::optional<uint32_t> property() {
    static const std::set<std::string_view> kKnown = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc",
                                                      "Me", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps",
                                                      "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So",
                                                      "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Co", "Han"};
    const size_t end = at_ + 2 < p_.size() && p_[at_ + 2] == '{' ? p_.find('}', at_) : p_.npos;
    const std::string_view name = end == p_.npos ? "" : p_.substr(at_ + 3, end - at_ - 3);
    if (!kKnown.contains(name)) refuse(fmt::format("\\{}{{{:.20}}}", p_[at_ + 1], name));
    const bool cased = name == "Lu" || name == "Ll" || name == "Lt";
    if (cased && !caseless_.empty() && caseless_.back()) refuse("\\p{Lu}, \\p{Ll} or \\p{Lt} in (?i:");
    take(end + 1 - at_);
    return {};
  }

  void char_class() {
    take(1);
    if (here("^")) take(1);
    if (here("]")) refuse("a class that begins with ]");
    while (!here("]")) {
      if (at_ >= p_.size()) refuse("a [ without its ]");
      if (here("[")) refuse("a class in a class");
      if (here("&&")) refuse("&& in a class");
      if (here("-") && !here("-]") && p_[at_ - 1] != '[' && p_[at_ - 1] != '^') refuse("this - in a class");
      const std::optional<uint32_t> first = character();
      if (!first) {
        if (here("-") && !here("-]")) refuse("a range that begins with a set");
        continue;
      }
      literal(*first);
      if (!here("-") || here("-]")) continue;
      ++at_;
      out_ += '-';
      if (at_ >= p_.size() || here("[")) refuse("a range without an end");
      const std::optional<uint32_t> last = character();
      if (!last) refuse("a range that ends with a set");
      literal(*last);
      ranges_.back().first = *first;
    }
    take(1);
  }

  std::string_view p_;
  size_t at_ = 0;
  std::string out_;
  std::vector<CharacterRange>& ranges_;
  std::vector<bool> caseless_;  // of the open groups
};

}  // namespace

const char* const kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const kDigitPattern = R"(\p{N})";
const char* const kDigitsPattern = R"(\p{N}+)";

std::string translate_pattern(std::string_view pattern, std::vector<CharacterRange>& ranges) {
  return Translator(pattern, ranges).run();
}

}  // namespace contender
