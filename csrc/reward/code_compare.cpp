#include "reward/code_compare.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "data/code_tests.h"

namespace contender {
namespace {

using Json = nlohmann::json;

constexpr double kTolerance = 1e-6;

bool same(const Json& expected, const Json& value) {
  if (expected.is_number_float()) {
    if (!value.is_number()) return false;
    const double a = expected.get<double>(), b = value.get<double>();
    return std::abs(a - b) <= kTolerance * std::max(1.0, std::abs(a));
  }
  if (expected.is_number()) return value.is_number() && expected == value;
  if (expected.type() != value.type() || expected.size() != value.size()) return false;
  if (expected.is_array()) return std::equal(expected.begin(), expected.end(), value.begin(), same);
  if (!expected.is_object()) return expected == value;
  for (const auto& [key, part] : expected.items()) {
    const auto found = value.find(key);
    if (found == value.end() || !same(part, *found)) return false;
  }
  return true;
}

}  // namespace

bool same_output(std::string_view expected, std::string_view output) {
  const auto without_end = [](std::string_view text) {
    return text.substr(0, text.find_last_not_of(" \t\n\r\f\v") + 1);
  };
  expected = without_end(expected);
  output = without_end(output);
  for (;;) {
    const size_t a = expected.find('\n'), b = output.find('\n');
    if (without_end(expected.substr(0, a)) != without_end(output.substr(0, b))) return false;
    if (a == expected.npos || b == output.npos) return (a == expected.npos) == (b == output.npos);
    expected.remove_prefix(a + 1);
    output.remove_prefix(b + 1);
  }
}

bool same_value(std::string_view expected, std::string_view value) {
  try {
    return same(parse_exact_json(expected), parse_exact_json(value));
  } catch (const std::runtime_error&) {
    return false;
  }
}

}  // namespace contender
