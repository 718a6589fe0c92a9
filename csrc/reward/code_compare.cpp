#include "reward/code_compare.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "base/error.h"
#include "data/code_tests.h"

namespace contender {
namespace {

using Json = nlohmann::json;

constexpr double kTolerance = 1e-6;
constexpr double kZeroTolerance = 1e-15;  // what rounding leaves of a sum of numbers near 1 that cancel

bool is_integer(const Json& json) { return json.is_number_integer() || is_long_integer(json); }

std::string digits_of(const Json& integer) {
  return is_long_integer(integer) ? integer.get_ref<const std::string&>().substr(1) : integer.dump();
}

double tolerance(double expected) {
  const double size = std::abs(expected);
  if (size == 0) return kZeroTolerance;
  return kTolerance * (size < kTolerance ? size : std::max(1.0, size));
}

bool near(double expected, const Json& value) {
  if (!is_integer(value) && !value.is_number_float()) return false;
  const double got =
      value.is_number_float() ? value.get<double>() : std::strtod(digits_of(value).c_str(), nullptr);
  return std::abs(expected - got) <= tolerance(expected);
}

// Digit by digit: as a double, an integer may become its neighbour. + 0.0 takes the sign from -0.0.
bool same_integer(const Json& expected, const Json& value) {
  if (is_integer(value)) return digits_of(expected) == digits_of(value);
  if (!value.is_number_float()) return false;
  const double got = value.get<double>();
  return got == std::trunc(got) && fmt::format("{:.0f}", got + 0.0) == digits_of(expected);
}

bool same(const Json& expected, const Json& value) {
  if (expected.is_number_float()) return near(expected.get<double>(), value);
  if (is_integer(expected)) return same_integer(expected, value);
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
