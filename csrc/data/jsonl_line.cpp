#include "data/jsonl_line.h"

#include <simdjson.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "base/error.h"
#include "data/chat_template_prompt.h"
#include "data/code_tests.h"
#include "data/strict_json.h"

namespace contender {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

template <class... A>
[[noreturn]] void refuse(fmt::format_string<A...> format, A&&... args) {
  throw std::runtime_error(fmt::format(format, std::forward<A>(args)...));
}

const std::string& text_of(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) refuse("\"{}\" is missing", key);
  if (!found->is_string()) refuse("\"{}\" must be a string", key);
  const std::string& text = found->get_ref<const std::string&>();
  if (text.find_first_not_of(kSpace) == text.npos) refuse("\"{}\" is empty", key);
  return text;
}

// What stands inside a turn must not begin another one.
void check_turn(std::string_view text, std::string_view name, const Tokenizer& tokenizer) {
  if (!tokenizer.speaks_in_tags()) return;
  for (const char* reserved : {"<user>", "<assistant>"}) {
    if (text.find(reserved) != text.npos) refuse("{} holds {}, which separates turns", name, reserved);
  }
}

const std::string& turn_text(const nlohmann::json& object, const char* key, const Tokenizer& tokenizer) {
  const std::string& text = text_of(object, key);
  check_turn(text, fmt::format("\"{}\"", key), tokenizer);
  return text;
}

std::string formed(std::string_view form, const std::string& prompt) {
  std::string text(form);
  return text.replace(text.find(kPromptPlace), std::string_view(kPromptPlace).size(), prompt);
}

// Role and content of each message, the user's last.
nlohmann::ordered_json checked_messages(const nlohmann::json& messages, const Tokenizer& tokenizer) {
  if (!messages.is_array() || messages.empty()) refuse("\"messages\" must be a list of messages");
  auto checked = nlohmann::ordered_json::array();
  std::string expected = "user";
  for (const nlohmann::json& message : messages) {
    if (!message.is_object()) refuse("a message must be an object with role and content");
    const std::string& role = text_of(message, "role");
    const std::string& content = turn_text(message, "content", tokenizer);
    if (role == expected) {
      expected = role == "user" ? "assistant" : "user";
    } else if (role != "system" || &message != &messages.front()) {
      refuse("message of role \"{:.40}\" where {} speaks", role, expected);
    }
    checked.push_back({{"role", role}, {"content", content}});
  }
  if (expected != "assistant") refuse("the last message must be the user's");
  return checked;
}

std::string squeeze_space(std::string_view text) {
  std::string squeezed;
  for (size_t at = text.find_first_not_of(kSpace); at < text.size();
       at = text.find_first_not_of(kSpace, at)) {
    const size_t end = std::min(text.find_first_of(kSpace, at), text.size());
    if (!squeezed.empty()) squeezed += ' ';
    squeezed += text.substr(at, end - at);
    at = end;
  }
  return squeezed;
}

// JSON without its white space, every number as it is written: a double would change what a function is
// expected to return.
std::string compact(std::string_view json) {
  std::string out(json.size() + simdjson::SIMDJSON_PADDING, '\0');
  size_t size = 0;
  if (simdjson::minify(json.data(), json.size(), out.data(), size) != simdjson::SUCCESS)
    refuse("\"tests\" cannot be read");
  out.resize(size);
  return out;
}

// The text of an object behind the key "tests" of `line`, whose JSON has been checked.
std::string object_text(std::string_view line) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (line.starts_with(kByteOrderMark)) line.remove_prefix(kByteOrderMark.size());
  simdjson::ondemand::parser parser;
  const simdjson::padded_string padded(line);
  simdjson::ondemand::document document;
  simdjson::ondemand::object tests;
  std::string_view text;
  if (parser.iterate(padded).get(document) || document["tests"].get_object().get(tests) ||
      tests.raw_json().get(text))
    refuse("\"tests\" cannot be read");
  return compact(text);
}

std::string tests_of(const nlohmann::json& record, std::string_view line) {
  const auto tests = record.find("tests");
  if (tests == record.end() || tests->is_null()) return "";
  if (!tests->is_object() && !tests->is_string()) refuse("\"tests\" must be an object, or one as text");
  if (tests->is_object() && tests->empty()) refuse("\"tests\" is empty");
  if (tests->is_object()) return object_text(line);
  const std::string& text = text_of(record, "tests");
  try {
    if (!parse_strict_json(text).is_object()) refuse("not an object");
  } catch (const std::runtime_error& reason) {
    refuse("\"tests\": {}", reason.what());
  }
  return compact(text);
}

void check_code_tests(const std::string& tests) {
  try {
    parse_code_tests(tests);
  } catch (const std::runtime_error& reason) {
    refuse("\"tests\": {}", reason.what());
  }
}

}  // namespace

PromptLine parse_prompt_line(std::string_view line, const Tokenizer& tokenizer, std::string_view form) {
  const nlohmann::json record = parse_strict_json(line);
  if (!record.is_object()) refuse("not an object");
  const bool has_prompt = record.contains("prompt"), has_messages = record.contains("messages");
  if (has_prompt == has_messages)
    refuse("{}", has_prompt ? "both \"prompt\" and \"messages\"" : "\"prompt\" is missing");
  PromptLine parsed;
  Prompt& prompt = parsed.prompt;
  if (has_prompt) {
    parsed.question = turn_text(record, "prompt", tokenizer);
    check_turn(form, "task.prompt_form", tokenizer);
    set_question(tokenizer, formed(form, parsed.question), prompt);
  } else {
    const auto messages = checked_messages(record["messages"], tokenizer);
    for (const auto& message : messages)
      if (message["role"] == "user") parsed.question += message["content"].get<std::string>() + "\n";
    set_prompt(tokenizer, messages, prompt);
  }
  prompt.task = record.contains("task") ? text_of(record, "task") : "exact";
  prompt.tests = tests_of(record, line);
  if (prompt.task == "code" && prompt.tests.empty())
    refuse("\"tests\" is missing, which the task code needs");
  if (prompt.task == "code") check_code_tests(prompt.tests);
  const auto answer = record.find("answer");
  const bool no_answer = answer == record.end() || answer->is_null();
  if (!no_answer && answer->is_number_integer()) {
    prompt.answer = answer->dump();
  } else if (!no_answer || prompt.tests.empty()) {
    prompt.answer = text_of(record, "answer");
  }
  if (record.contains("solution")) prompt.solution = turn_text(record, "solution", tokenizer);
  prompt.canonical = squeeze_space(prompt.text);
  return parsed;
}

}  // namespace contender
