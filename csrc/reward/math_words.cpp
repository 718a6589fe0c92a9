#include "reward/math_words.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "reward/math_text.h"

namespace contender {
namespace {

using Table = std::unordered_map<std::string_view, int64_t>;

const Table kUnits = {{"zero", 0},     {"one", 1},        {"two", 2},       {"three", 3},
                      {"four", 4},     {"five", 5},       {"six", 6},       {"seven", 7},
                      {"eight", 8},    {"nine", 9},       {"ten", 10},      {"eleven", 11},
                      {"twelve", 12},  {"thirteen", 13},  {"fourteen", 14}, {"fifteen", 15},
                      {"sixteen", 16}, {"seventeen", 17}, {"eighteen", 18}, {"nineteen", 19}};
const Table kTens = {{"twenty", 20}, {"thirty", 30},  {"forty", 40},  {"fifty", 50},
                     {"sixty", 60},  {"seventy", 70}, {"eighty", 80}, {"ninety", 90}};
const Table kScales = {
    {"thousand", 1'000}, {"million", 1'000'000}, {"billion", 1'000'000'000}, {"hundred", 100},
    {"dozen", 12},       {"thousands", 1'000},   {"millions", 1'000'000},    {"billions", 1'000'000'000},
    {"hundreds", 100},   {"dozens", 12}};
// Parts of one; of several with an s. Not the second, which is a time.
const Table kParts = {{"half", 2},          {"third", 3},
                      {"quarter", 4},       {"fourth", 4},
                      {"fifth", 5},         {"sixth", 6},
                      {"seventh", 7},       {"eighth", 8},
                      {"ninth", 9},         {"tenth", 10},
                      {"twelfth", 12},      {"hundredth", 100},
                      {"thousandth", 1000}, {"millionth", 1'000'000}};
// Behind a number they make another of it, or a list.
const std::unordered_set<std::string_view> kGoOn = {"and",  "or",    "to",  "plus", "minus",  "times",
                                                    "over", "point", "but", "not",  "divided"};

constexpr int64_t kLargest = 1'000'000'000'000;

std::optional<int64_t> find(const Table& table, std::string_view word) {
  const auto found = table.find(word);
  return found == table.end() ? std::nullopt : std::optional(found->second);
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return c >= 'a' && c <= 'z'; }

// 12; 1,250.
std::optional<int64_t> digits(std::string_view word) {
  int64_t value = 0;
  for (size_t i = 0; i < word.size(); ++i) {
    const bool group = i > 0 && word[i] == ',' && (word.size() - i) % 4 == 0;
    if (!is_digit(word[i]) && !group) return {};
    if (!group) value = 10 * value + (word[i] - '0');
    if (value >= kLargest) return {};
  }
  return word.empty() ? std::nullopt : std::optional(value);
}

// In lower case; a hyphen between a word and what stands before it separates.
std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> words(1);
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i] >= 'A' && text[i] <= 'Z' ? static_cast<char>(text[i] | 0x20) : text[i];
    const bool hyphen =
        c == '-' && i > 0 && i + 1 < text.size() && is_letter(static_cast<char>(text[i + 1] | 0x20));
    if (c != ' ' && !hyphen) {
      words.back() += c;
    } else if (!words.back().empty()) {
      words.emplace_back();
    }
  }
  if (words.back().empty()) words.pop_back();
  return words;
}

struct Fraction {
  int64_t num = 0, den = 1;
};

// What an answer in words says, word by word. Past kLargest there is no number.
class Phrase {
 public:
  explicit Phrase(std::string_view text) : words_(split(text)) {}

  // The number at the beginning, none when it is written in digits alone; `counted`: the words behind it.
  std::optional<Fraction> number(std::string* counted) {
    bool negative = take("negative") || take("minus");
    if (!negative && !words_.empty() && words_[0].size() > 1 && words_[0][0] == '-') {
      words_[0].erase(0, 1);
      negative = true;
    }
    std::optional<Fraction> value = mixed();
    in_words_ |= here() == "per" && here(1) == "cent";
    if (!value || !in_words_ || !rest_is_counted()) return {};
    for (size_t i = at_; i < words_.size(); ++i) *counted += " " + words_[i];
    const int64_t divisor = std::gcd(value->num, value->den);
    return Fraction{(negative ? -1 : 1) * value->num / divisor, value->den / divisor};
  }

 private:
  std::string_view here(size_t ahead = 0) const {
    return at_ + ahead < words_.size() ? std::string_view(words_[at_ + ahead]) : std::string_view();
  }
  bool article() const { return here() == "a" || here() == "an"; }
  bool take(std::string_view word) {
    if (here() != word) return false;
    in_words_ = true;
    ++at_;
    return true;
  }

  // Two and a half million; half a dozen.
  std::optional<Fraction> mixed() {
    std::optional<Fraction> value = part(/*quarters=*/false);
    if (value) {
      at_ += article();
    } else if ((value = decimal())) {
      ++at_;
    } else if (const std::optional<int64_t> whole = cardinal()) {
      value = Fraction{*whole, 1};
      if (here() == "and") {
        ++at_;
        const std::optional<Fraction> more = part(/*quarters=*/true);
        if (!more || more->num >= more->den || *whole > kLargest / more->den) return {};
        value = Fraction{*whole * more->den + more->num, more->den};
      }
    }
    for (auto scale = find(kScales, here()); value && scale; scale = find(kScales, here())) {
      if (value->num > kLargest / *scale) return {};
      value->num *= *scale;
      in_words_ = true;
      ++at_;
    }
    return value;
  }

  // Half, a third, two thirds. Quarters by themselves may be coins.
  std::optional<Fraction> part(bool quarters) {
    const size_t before = at_;
    std::optional<int64_t> count = 1;
    if (article()) {
      ++at_;
    } else if (here() != "half") {
      count = cardinal();
    }
    std::string_view name = here();
    if (name == "halves") name = "halfs";
    const bool plural = name.ends_with('s');
    if (plural) name.remove_suffix(1);
    const std::optional<int64_t> den = find(kParts, name);
    if (!count || !den || (*count == 1) == plural || (name == "quarter" && !quarters)) {
      at_ = before;
      return {};
    }
    ++at_;
    in_words_ = true;
    return Fraction{*count, *den};
  }

  // Two hundred and fifty, 2 thousand 5 hundred, a dozen.
  std::optional<int64_t> cardinal() {
    int64_t total = 0, group = 0;                      // group: what the next scale multiplies
    int64_t below = kLargest, scale_below = kLargest;  // what the next number and the next scale have to be
    const size_t before = at_;
    if (article() && find(kScales, here(1))) {
      ++at_;
      group = 1;
      below = 0;
    }
    for (;;) {
      const std::optional<int64_t> ten = find(kTens, here()), scale = find(kScales, here());
      const std::optional<int64_t> number = ten ? ten : find(kUnits, here()), written = digits(here());
      const bool joins = at_ > before && below >= 100 && below < kLargest;
      if (here() == "and" && joins && (find(kTens, here(1)) || find(kUnits, here(1))) && !part_behind(1)) {
        // two hundred and fifty
      } else if (number && *number < below && (!ten || below >= 100)) {
        group += *number;
        below = ten ? 10 : 0;
        in_words_ = true;
      } else if (written && *written < below) {
        group += *written;
        below = 0;
      } else if (scale && group > 0 && *scale < scale_below && group <= kLargest / *scale) {
        group *= *scale;
        below = *scale == 12 ? 0 : *scale;
        in_words_ = true;
        if (*scale != 100) {
          total += std::exchange(group, 0);
          scale_below = *scale;
        }
      } else {
        break;
      }
      ++at_;
    }
    if (at_ == before) return {};
    return total + group;
  }

  // Whether the words from `ahead` are five tenths, rather than the five of two hundred and five.
  bool part_behind(size_t ahead) {
    const size_t before = std::exchange(at_, at_ + ahead);
    const bool found = part(/*quarters=*/true).has_value();
    at_ = before;
    return found;
  }

  std::optional<Fraction> decimal() const {
    const std::string_view word = here();
    const size_t point = word.find('.');
    if (point == word.npos || word.size() - point > 7) return {};
    const std::optional<int64_t> whole = digits(word.substr(0, point));
    const std::string_view behind = word.substr(point + 1);
    const std::optional<int64_t> places = behind.find(',') == behind.npos ? digits(behind) : std::nullopt;
    if (!whole || !places) return {};
    Fraction value = {*whole, 1};
    for (size_t i = 0; i < behind.size(); ++i) value = {value.num * 10, value.den * 10};
    if (value.num > kLargest) return {};
    return Fraction{value.num + *places, value.den};
  }

  // Behind a number, words that are no part of one; "three times" are three.
  bool rest_is_counted() const {
    const auto end = words_.end() - (at_ < words_.size() && words_.back() == "times");
    return std::all_of(words_.begin() + static_cast<std::ptrdiff_t>(at_), end, [](std::string_view word) {
      if (!std::all_of(word.begin(), word.end(), is_letter) || kGoOn.contains(word)) return false;
      if (find(kUnits, word) || find(kTens, word) || find(kScales, word) || word == "halves") return false;
      if (word.ends_with('s')) word.remove_suffix(1);
      return word == "quarter" || !find(kParts, word);
    });
  }

  std::vector<std::string> words_;
  size_t at_ = 0;
  bool in_words_ = false;
};

}  // namespace

std::string in_digits(std::string_view answer) {
  if (answer.find_first_of("*^_=+<>") != answer.npos) return std::string(answer);
  std::string counted;
  const std::optional<Fraction> value = Phrase(plain_words(answer)).number(&counted);
  if (!value) return std::string(answer);
  std::string text = value->den == 1 ? std::to_string(value->num)
                                     : fmt::format("{}\\frac{{{}}}{{{}}}", value->num < 0 ? "-" : "",
                                                   std::abs(value->num), value->den);
  for (const std::string_view percent : {" percent", " per cent"}) {
    if (!counted.starts_with(percent)) continue;
    text += "\\%";
    counted.erase(0, percent.size());
  }
  // A letter and pi are factors; other words are counted.
  const bool factor = counted.size() == 2 || counted.starts_with(" pi ") || counted == " pi";
  return counted.empty() || factor ? text + counted : text + "\\text{" + counted + "}";
}

}  // namespace contender
