#include "reward/math_units.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "reward/completion.h"

namespace contender {
namespace {

const std::unordered_map<std::string_view, std::string_view> kUnits = {
    {"mm", "mm"},         {"millimeter", "mm"}, {"millimetre", "mm"}, {"cm", "cm"},
    {"centimeter", "cm"}, {"centimetre", "cm"}, {"m", "m"},           {"meter", "m"},
    {"metre", "m"},       {"km", "km"},         {"kilometer", "km"},  {"kilometre", "km"},
    {"in", "in"},         {"inch", "in"},       {"inches", "in"},     {"ft", "ft"},
    {"foot", "ft"},       {"feet", "ft"},       {"yd", "yd"},         {"yard", "yd"},
    {"mi", "mi"},         {"mile", "mi"},       {"g", "g"},           {"gram", "g"},
    {"kg", "kg"},         {"kilogram", "kg"},   {"mg", "mg"},         {"milligram", "mg"},
    {"lb", "lb"},         {"pound", "lb"},      {"oz", "oz"},         {"ounce", "oz"},
    {"l", "l"},           {"liter", "l"},       {"litre", "l"},       {"ml", "ml"},
    {"milliliter", "ml"}, {"millilitre", "ml"}, {"s", "s"},           {"sec", "s"},
    {"second", "s"},      {"min", "min"},       {"minute", "min"},    {"h", "h"},
    {"hr", "h"},          {"hour", "h"},        {"day", "day"},       {"week", "week"},
    {"month", "month"},   {"year", "year"},     {"cent", "cent"},     {"dollar", "dollar"},
    {"usd", "dollar"},    {"buck", "dollar"},   {"euro", "euro"},     {"unit", "unit"},
    {"radian", "radian"}, {"rad", "radian"},    {"mph", "mi/h"},      {"kmh", "km/h"},
    {"kph", "km/h"},      {"am", "am"},         {"pm", "pm"}};

const std::unordered_set<std::string_view> kScales = {"dozen",   "hundred", "thousand",
                                                      "million", "billion", "trillion"};

// Words, and the marks / and ^2, in lower case.
std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> words;
  bool joined = false;
  for (const char c : text) {
    const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
    if (lower >= 'a' && lower <= 'z') {
      if (!joined) words.emplace_back();
      words.back() += lower;
      joined = true;
      continue;
    }
    joined = false;
    if (c == '/' || c == '^' || (c >= '0' && c <= '9')) words.emplace_back(1, c);
  }
  return words;
}

}  // namespace

bool changes_value(std::string_view unit) {
  const std::vector<std::string> words = split(unit);
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    const bool first = i == 0, last = i + 1 == words.size();
    if (word == "squared" || word == "cubed") {
      if (first && (last || known_unit(unit).empty())) return true;
    } else if (word == "below") {
      if (first || (!last && words[i + 1] == "zero")) return true;
    } else if (word == "negative") {
      if (last) return true;
    } else if (kScales.contains(word)) {
      if (first || (words[i - 1] != "per" && words[i - 1] != "/")) return true;
    }
  }
  return false;
}

std::string known_unit(std::string_view text) {
  std::string name, power;
  const std::vector<std::string> words = split(text);
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "square" || word == "sq" || word == "cubic" || word == "cu") {
      power = word[0] == 's' ? "^2" : "^3";
    } else if (word == "squared" || word == "cubed") {
      name += word[0] == 's' ? "^2" : "^3";
    } else if (word == "per" || word == "/" || word == "an" || (word == "a" && !name.empty())) {
      if (!name.ends_with('/')) name += "/";
    } else if (word == "^" && i + 1 < words.size()) {
      name += "^" + words[++i];
    } else {
      auto found = kUnits.find(word);
      if (found == kUnits.end() && word.ends_with('s'))
        found = kUnits.find(std::string_view(word).substr(0, word.size() - 1));
      if (found == kUnits.end()) return "";
      name += (name.empty() || name.ends_with('/') ? "" : " ") + std::string(found->second) + power;
      power.clear();
    }
  }
  return name;
}

}  // namespace contender
