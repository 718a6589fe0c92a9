// Values of chat templates: what Python's are, as far as templates look at them. Texts remember byte by byte
// whether they come from data.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "data/tokenizer.h"

namespace contender {

template <class... A>
[[noreturn]] void template_error(fmt::format_string<A...> format, A&&... args) {
  throw std::runtime_error(fmt::format(format, std::forward<A>(args)...));
}

struct TemplateValue {
  enum class Kind { kUndefined, kNone, kBool, kInteger, kNumber, kText, kList, kDict, kNamespace };
  using List = std::vector<TemplateValue>;
  using Dict = std::vector<std::pair<std::string, TemplateValue>>;

  Kind kind = Kind::kUndefined;
  int64_t integer = 0;  // kBool: 0 or 1
  double number = 0;
  MarkedText text;  // from_data is as long as the text; kUndefined: the name, for messages
  std::shared_ptr<List> list;
  std::shared_ptr<Dict> dict;  // kNamespace too

  static TemplateValue none();
  static TemplateValue of(bool v);
  static TemplateValue of(int64_t v);
  static TemplateValue of_number(double v);
  static TemplateValue of_text(std::string_view v, bool from_data = false);
  static TemplateValue of_text(MarkedText v);
  static TemplateValue of_list(List v);
  static TemplateValue of_dict(Dict v);
  static TemplateValue undefined(std::string_view name);
  static TemplateValue from_json(const nlohmann::ordered_json& json, bool from_data);

  bool is(Kind k) const { return kind == k; }
  bool is_number() const { return is(Kind::kBool) || is(Kind::kInteger) || is(Kind::kNumber); }
  double as_number() const { return is(Kind::kNumber) ? number : static_cast<double>(integer); }
  bool truth() const;
  const TemplateValue* find(std::string_view key) const;  // of a dict or namespace
};

using TemplateArgs = std::vector<std::pair<std::string, TemplateValue>>;  // name ("" by place), value

constexpr size_t kMaxTemplateText = 16 << 20;

const char* kind_name(const TemplateValue& v);
MarkedText printed(const TemplateValue& v);  // what {{ v }} prints
bool equal(const TemplateValue& a, const TemplateValue& b);
bool contains(const TemplateValue& whole, const TemplateValue& part);
// Of + - * / // % ** ~ and == != < <= > >= in.
TemplateValue binary(std::string_view op, const TemplateValue& a, const TemplateValue& b);
TemplateValue item_of(const TemplateValue& whole, const TemplateValue& key);
// Null bounds are not given.
TemplateValue slice_of(const TemplateValue& whole, const TemplateValue* start, const TemplateValue* stop,
                       const TemplateValue* step);
TemplateValue::List items_of(const TemplateValue& v);  // what a loop goes through

bool known_filter(std::string_view name);
bool known_test(std::string_view name);
TemplateValue apply_filter(const std::string& name, const TemplateValue& v, const TemplateArgs& args);
bool apply_test(const std::string& name, const TemplateValue& v, const TemplateArgs& args);
TemplateValue call_method(const TemplateValue& object, const std::string& name, const TemplateArgs& args);

}  // namespace contender
