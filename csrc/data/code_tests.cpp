#include "data/code_tests.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "base/error.h"
#include "data/strict_json.h"

namespace contender {
namespace {

using Json = nlohmann::json;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

[[noreturn]] void refuse(const std::string& why) { throw std::runtime_error(why); }

// How a text begins that stands for an integer, in JSON. Others may not begin so.
constexpr std::string_view kMark = "\"\\u0001";

// Integers of more than 18 characters become texts: parsed as numbers they would be rounded. Not in the place
// of a key, where the parser has to refuse them.
std::string with_long_integers_as_text(std::string_view json) {
  std::string out;
  for (size_t i = 0; i < json.size();) {
    size_t end = i + 1;
    if (json[i] == '"') {
      if (json.substr(i).starts_with(kMark)) refuse("a text begins with the control character \\u0001");
      while (end < json.size() && json[end] != '"') end += json[end] == '\\' ? 2 : 1;
      end = std::min(end + 1, json.size());
      out += json.substr(i, end - i);
    } else if (json[i] == '-' || is_digit(json[i])) {
      while (end < json.size() && is_digit(json[end])) ++end;
      const bool integer = end == json.size() || (json[end] != '.' && json[end] != 'e' && json[end] != 'E');
      const size_t next = std::min(json.find_first_not_of(" \t\n\r", end), json.size());
      const bool key = next < json.size() && json[next] == ':';
      if (end - i > 18 && integer && !key && json[i + (json[i] == '-')] != '0') {
        out += fmt::format("{}{}\"", kMark, json.substr(i, end - i));
      } else {
        // With its exponent, so that the digits there are not taken for a number.
        while (end < json.size() &&
               (is_digit(json[end]) || std::string_view(".eE+-").find(json[end]) != std::string_view::npos))
          ++end;
        out += json.substr(i, end - i);
      }
    } else {
      out += json[i];
    }
    i = end;
  }
  return out;
}

const Json& member(const Json& object, const char* key, Json::value_t type, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end()) refuse(fmt::format("{} has no \"{}\"", where, key));
  if (found->type() != type || is_long_integer(*found))
    refuse(fmt::format("\"{}\" of {}: {} instead of {}", key, where,
                       is_long_integer(*found) ? "number" : found->type_name(), Json(type).type_name()));
  return *found;
}

void only_keys(const Json& object, std::initializer_list<std::string_view> keys, const std::string& where) {
  if (!object.is_object()) refuse(fmt::format("{}: {} instead of object", where, object.type_name()));
  for (const auto& [key, value] : object.items()) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end())
      refuse(fmt::format("{} has the unknown key \"{:.40}\"", where, key));
  }
}

bool is_identifier(const std::string& name) {
  return !name.empty() && name.size() <= 100 && !is_digit(name[0]) &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) || c == '_'; });
}

void read_runs(const Json& json, CodeTests* tests) {
  bool any_output = false;
  for (const Json& one : member(json, "stdin", Json::value_t::array, "tests")) {
    const std::string where = fmt::format("test {} of \"stdin\"", tests->runs.size() + 1);
    only_keys(one, {"input", "output"}, where);
    tests->runs.push_back({member(one, "input", Json::value_t::string, where).get<std::string>(),
                           member(one, "output", Json::value_t::string, where).get<std::string>()});
    any_output |= tests->runs.back().output.find_first_not_of(" \t\n\r\f\v") != std::string::npos;
  }
  if (tests->runs.empty()) refuse("\"stdin\" is empty");
  if (!any_output)
    refuse("no test of \"stdin\" expects any output: every program that prints nothing would pass");
}

void read_calls(const Json& json, CodeTests* tests) {
  tests->function = member(json, "function", Json::value_t::string, "tests").get<std::string>();
  if (!is_identifier(tests->function))
    refuse(fmt::format("\"{:.40}\" is not the name of a function", tests->function));
  if (tests->language != "python")
    refuse("function tests are for Python: give programs in other languages tests of \"stdin\"");
  bool any_value = false;
  for (const Json& one : member(json, "cases", Json::value_t::array, "tests")) {
    const std::string where = fmt::format("case {}", tests->calls.size() + 1);
    only_keys(one, {"args", "expected"}, where);
    const Json& arguments = member(one, "args", Json::value_t::array, where);
    if (!one.contains("expected")) refuse(fmt::format("{} has no \"expected\"", where));
    tests->calls.push_back({arguments.dump(), one["expected"].dump()});
    any_value |= !one["expected"].is_null();
  }
  if (tests->calls.empty()) refuse("\"cases\" is empty");
  if (!any_value) refuse("every case expects null: a function that does nothing would pass");
}

// Back from text to integers.
std::string restored(std::string json) {
  for (size_t at = json.find(kMark); at != json.npos; at = json.find(kMark, at + 1)) {
    if (at > 0 && json[at - 1] == '\\') continue;  // a quote inside a text
    const size_t end = json.find('"', at + kMark.size());
    json.erase(end, 1);
    json.erase(at, kMark.size());
  }
  return json;
}

}  // namespace

Json parse_exact_json(std::string_view json) { return parse_strict_json(with_long_integers_as_text(json)); }

bool is_long_integer(const Json& json) {
  return json.is_string() && json.get_ref<const std::string&>().starts_with('\x01');
}

CodeTests parse_code_tests(std::string_view text) {
  const Json json = parse_exact_json(text);
  CodeTests tests;
  only_keys(json, {"language", "stdin", "function", "cases"}, "tests");
  if (json.contains("language")) {
    tests.language = member(json, "language", Json::value_t::string, "tests").get<std::string>();
    if (tests.language != "python" && tests.language != "cpp")
      refuse(fmt::format("language \"{:.40}\": python or cpp", tests.language));
  }
  if (json.contains("stdin") == (json.contains("function") || json.contains("cases")))
    refuse("tests have either \"stdin\" or \"function\" and \"cases\"");
  json.contains("stdin") ? read_runs(json, &tests) : read_calls(json, &tests);
  for (FunctionTest& call : tests.calls) {
    call.arguments = restored(std::move(call.arguments));
    call.expected = restored(std::move(call.expected));
  }
  return tests;
}

}  // namespace contender
