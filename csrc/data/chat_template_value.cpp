#include "data/chat_template_value.h"

#include <utf8proc.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace contender {

using Value = TemplateValue;
using Kind = TemplateValue::Kind;

namespace {

constexpr int kMaxDepth = 64;

void append(MarkedText& to, const MarkedText& what) {
  if (to.text.size() + what.text.size() > kMaxTemplateText) template_error("a text of more than 16 MiB");
  to.text += what.text;
  to.from_data += what.from_data;
}
void append(MarkedText& to, std::string_view what, bool from_data) {
  append(to, {std::string(what), std::string(what.size(), from_data)});
}

std::string shortest(double v) {
  if (std::isfinite(v) && v == std::floor(v) && std::abs(v) < 1e16) return fmt::format("{:.1f}", v);
  return fmt::format("{}", v);
}

// As Python writes it in a list.
void append_quoted(MarkedText& to, const Value& v, int depth) {
  if (depth > kMaxDepth) template_error("nested deeper than {}", kMaxDepth);
  if (v.is(Kind::kText)) {
    const char quote =
        v.text.text.find('\'') != std::string::npos && v.text.text.find('"') == std::string::npos ? '"'
                                                                                                  : '\'';
    append(to, std::string(1, quote), true);
    for (const char c : v.text.text) {
      if (c == '\n') {
        append(to, "\\n", true);
      } else {
        if (c == quote || c == '\\') append(to, "\\", true);
        append(to, std::string(1, c), true);
      }
    }
    return append(to, std::string(1, quote), true);
  }
  if (v.is(Kind::kList)) {
    append(to, "[", true);
    for (size_t i = 0; i < v.list->size(); ++i) {
      if (i > 0) append(to, ", ", true);
      append_quoted(to, (*v.list)[i], depth + 1);
    }
    return append(to, "]", true);
  }
  if (v.is(Kind::kDict)) {
    append(to, "{", true);
    for (size_t i = 0; i < v.dict->size(); ++i) {
      if (i > 0) append(to, ", ", true);
      append_quoted(to, Value::of_text((*v.dict)[i].first), depth + 1);
      append(to, ": ", true);
      append_quoted(to, (*v.dict)[i].second, depth + 1);
    }
    return append(to, "}", true);
  }
  append(to, printed(v));
}

int64_t integer_of(const Value& v) {
  if (!v.is(Kind::kInteger) && !v.is(Kind::kBool))
    template_error("{} where an integer is expected", kind_name(v));
  return v.integer;
}

// Places of the characters of a text, and its end.
std::vector<size_t> character_places(std::string_view text) {
  std::vector<size_t> places;
  for (size_t i = 0; i < text.size(); ++i)
    if ((text[i] & 0xc0) != 0x80) places.push_back(i);
  places.push_back(text.size());
  return places;
}
Value part(const Value& v, size_t begin, size_t end) {
  return Value::of_text(
      MarkedText{v.text.text.substr(begin, end - begin), v.text.from_data.substr(begin, end - begin)});
}

Value sum(const Value& a, const Value& b) {
  if (a.is(Kind::kText) && b.is(Kind::kText)) {
    Value v = a;
    append(v.text, b.text);
    return v;
  }
  if (a.is(Kind::kList) && b.is(Kind::kList)) {
    Value::List all = *a.list;
    all.insert(all.end(), b.list->begin(), b.list->end());
    return Value::of_list(std::move(all));
  }
  if (!a.is_number() || !b.is_number()) template_error("{} + {}", kind_name(a), kind_name(b));
  if (a.is(Kind::kNumber) || b.is(Kind::kNumber)) return Value::of_number(a.as_number() + b.as_number());
  return Value::of(static_cast<int64_t>(static_cast<uint64_t>(a.integer) + static_cast<uint64_t>(b.integer)));
}

Value arithmetic(std::string_view op, const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) template_error("{} {} {}", kind_name(a), op, kind_name(b));
  const bool whole = !a.is(Kind::kNumber) && !b.is(Kind::kNumber);
  const double x = a.as_number(), y = b.as_number();
  const uint64_t i = static_cast<uint64_t>(a.integer), j = static_cast<uint64_t>(b.integer);
  if (op == "-") return whole ? Value::of(static_cast<int64_t>(i - j)) : Value::of_number(x - y);
  if (op == "*") return whole ? Value::of(static_cast<int64_t>(i * j)) : Value::of_number(x * y);
  if (op == "**") {
    if (!whole || b.integer < 0) return Value::of_number(std::pow(x, y));
    if (std::abs(std::pow(x, y)) > 9e15) template_error("{} ** {} is too large", a.integer, b.integer);
    return Value::of(static_cast<int64_t>(std::llround(std::pow(x, y))));
  }
  if (y == 0) template_error("division by zero");
  if (op == "/") return Value::of_number(x / y);
  if (!whole) return Value::of_number(op == "//" ? std::floor(x / y) : x - y * std::floor(x / y));
  if (b.integer == -1) return Value::of(op == "//" ? static_cast<int64_t>(-i) : int64_t{0});
  const int64_t rest = a.integer % b.integer, fix = rest != 0 && (rest < 0) != (b.integer < 0);
  return Value::of(op == "//" ? a.integer / b.integer - fix : rest + fix * b.integer);
}

bool less(const Value& a, const Value& b) {
  if (a.is(Kind::kText) && b.is(Kind::kText)) return a.text.text < b.text.text;
  if (!a.is_number() || !b.is_number()) template_error("{} < {}", kind_name(a), kind_name(b));
  return a.as_number() < b.as_number();
}

}  // namespace

Value Value::none() {
  Value v;
  v.kind = Kind::kNone;
  return v;
}
Value Value::of(bool b) {
  Value v;
  v.kind = Kind::kBool;
  v.integer = b;
  return v;
}
Value Value::of(int64_t i) {
  Value v;
  v.kind = Kind::kInteger;
  v.integer = i;
  return v;
}
Value Value::of_number(double d) {
  Value v;
  v.kind = Kind::kNumber;
  v.number = d;
  return v;
}
Value Value::of_text(std::string_view s, bool from_data) {
  return of_text(MarkedText{std::string(s), std::string(s.size(), from_data)});
}
Value Value::of_text(MarkedText s) {
  Value v;
  v.kind = Kind::kText;
  v.text = std::move(s);
  return v;
}
Value Value::of_list(List l) {
  Value v;
  v.kind = Kind::kList;
  v.list = std::make_shared<List>(std::move(l));
  return v;
}
Value Value::of_dict(Dict d) {
  Value v;
  v.kind = Kind::kDict;
  v.dict = std::make_shared<Dict>(std::move(d));
  return v;
}
Value Value::undefined(std::string_view name) {
  Value v;
  v.text.text = name;
  return v;
}

Value Value::from_json(const nlohmann::ordered_json& json, bool from_data) {
  if (json.is_null()) return none();
  if (json.is_boolean()) return of(json.get<bool>());
  if (json.is_number_integer()) return of(json.get<int64_t>());
  if (json.is_number()) return of_number(json.get<double>());
  if (json.is_string()) return of_text(json.get_ref<const std::string&>(), from_data);
  if (json.is_array()) {
    List list;
    for (const auto& item : json) list.push_back(from_json(item, from_data));
    return of_list(std::move(list));
  }
  Dict dict;
  for (const auto& [key, item] : json.items()) dict.emplace_back(key, from_json(item, from_data));
  return of_dict(std::move(dict));
}

bool Value::truth() const {
  switch (kind) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kNumber:
      return number != 0;
    case Kind::kText:
      return !text.text.empty();
    case Kind::kList:
      return !list->empty();
    case Kind::kDict:
      return !dict->empty();
    case Kind::kNamespace:
      return true;
    default:
      return integer != 0;
  }
}

const Value* Value::find(std::string_view key) const {
  for (const auto& [k, v] : *dict)
    if (k == key) return &v;
  return nullptr;
}

const char* kind_name(const Value& v) {
  constexpr const char* kNames[] = {"an undefined value", "none",   "a truth value", "an integer",
                                    "a number",           "a text", "a list",        "a dict",
                                    "a namespace"};
  return kNames[static_cast<int>(v.kind)];
}

MarkedText printed(const Value& v) {
  MarkedText out;
  switch (v.kind) {
    case Kind::kUndefined:
      return out;
    case Kind::kText:
      return v.text;
    case Kind::kNone:
      append(out, "None", false);
      return out;
    case Kind::kBool:
      append(out, v.integer ? "True" : "False", false);
      return out;
    case Kind::kInteger:
      append(out, std::to_string(v.integer), false);
      return out;
    case Kind::kNumber:
      append(out, shortest(v.number), false);
      return out;
    case Kind::kNamespace:
      template_error("a namespace has no text");
    default:
      append_quoted(out, v, 0);
      return out;
  }
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number())
    return a.is(Kind::kNumber) || b.is(Kind::kNumber) ? a.as_number() == b.as_number()
                                                      : a.integer == b.integer;
  if (a.kind != b.kind) return false;
  if (a.is(Kind::kText)) return a.text.text == b.text.text;
  if (a.is(Kind::kList))
    return std::equal(a.list->begin(), a.list->end(), b.list->begin(), b.list->end(), equal);
  if (!a.is(Kind::kDict)) return true;
  if (a.dict->size() != b.dict->size()) return false;
  return std::all_of(a.dict->begin(), a.dict->end(), [&](const auto& item) {
    const Value* other = b.find(item.first);
    return other && equal(item.second, *other);
  });
}

bool contains(const Value& whole, const Value& part) {
  if (whole.is(Kind::kText)) {
    if (!part.is(Kind::kText)) template_error("{} in a text", kind_name(part));
    return whole.text.text.find(part.text.text) != std::string::npos;
  }
  if (whole.is(Kind::kDict)) return part.is(Kind::kText) && whole.find(part.text.text);
  const Value::List items = items_of(whole);
  return std::any_of(items.begin(), items.end(), [&](const Value& v) { return equal(v, part); });
}

Value binary(std::string_view op, const Value& a, const Value& b) {
  if (op == "+") return sum(a, b);
  if (op == "~") {
    MarkedText text = printed(a);
    append(text, printed(b));
    return Value::of_text(std::move(text));
  }
  if (op == "==") return Value::of(equal(a, b));
  if (op == "!=") return Value::of(!equal(a, b));
  if (op == "in") return Value::of(contains(b, a));
  if (op == "<") return Value::of(less(a, b));
  if (op == ">") return Value::of(less(b, a));
  if (op == "<=") return Value::of(!less(b, a));
  if (op == ">=") return Value::of(!less(a, b));
  return arithmetic(op, a, b);
}

Value item_of(const Value& whole, const Value& key) {
  if (whole.is(Kind::kUndefined)) template_error("{:.80} is undefined", whole.text.text);
  if (whole.is(Kind::kDict) || whole.is(Kind::kNamespace)) {
    const Value* found = key.is(Kind::kText) ? whole.find(key.text.text) : nullptr;
    return found ? *found : Value::undefined(key.is(Kind::kText) ? key.text.text : "an item");
  }
  if (!key.is(Kind::kInteger)) return Value::undefined(key.is(Kind::kText) ? key.text.text : "an item");
  if (whole.is(Kind::kList)) {
    const int64_t n = std::ssize(*whole.list), i = key.integer < 0 ? key.integer + n : key.integer;
    return 0 <= i && i < n ? (*whole.list)[i] : Value::undefined("an item beyond the end");
  }
  if (!whole.is(Kind::kText)) return Value::undefined("an item");
  const std::vector<size_t> places = character_places(whole.text.text);
  const int64_t n = std::ssize(places) - 1, i = key.integer < 0 ? key.integer + n : key.integer;
  return 0 <= i && i < n ? part(whole, places[i], places[i + 1])
                         : Value::undefined("a character beyond the end");
}

Value slice_of(const Value& whole, const Value* start, const Value* stop, const Value* step) {
  if (!whole.is(Kind::kList) && !whole.is(Kind::kText)) template_error("a slice of {}", kind_name(whole));
  const auto given = [](const Value* v) { return v && !v->is(Kind::kNone); };
  const bool text = whole.is(Kind::kText);
  const std::vector<size_t> places = text ? character_places(whole.text.text) : std::vector<size_t>();
  const int64_t n = text ? std::ssize(places) - 1 : std::ssize(*whole.list);
  const int64_t by = given(step) ? integer_of(*step) : 1;
  if (by == 0 || std::abs(by) > int64_t{1} << 32) template_error("a slice with a step of {}", by);
  const auto bound = [&](const Value* v, int64_t otherwise) {
    if (!given(v)) return otherwise;
    const int64_t i = integer_of(*v) < 0 ? integer_of(*v) + n : integer_of(*v);
    return std::clamp<int64_t>(i, by > 0 ? 0 : -1, by > 0 ? n : n - 1);
  };
  const int64_t first = bound(start, by > 0 ? 0 : n - 1), end = bound(stop, by > 0 ? n : -1);
  if (text && by == 1) return first < end ? part(whole, places[first], places[end]) : Value::of_text("");
  Value::List items;
  MarkedText joined;
  for (int64_t i = first; by > 0 ? i < end : i > end; i += by) {
    if (text) {
      append(joined, part(whole, places[i], places[i + 1]).text);
    } else {
      items.push_back((*whole.list)[i]);
    }
  }
  return text ? Value::of_text(std::move(joined)) : Value::of_list(std::move(items));
}

Value::List items_of(const Value& v) {
  Value::List items;
  switch (v.kind) {
    case Kind::kUndefined:
      return items;
    case Kind::kList:
      return *v.list;
    case Kind::kDict:
      for (const auto& [key, value] : *v.dict) items.push_back(Value::of_text(key, /*from_data=*/true));
      return items;
    case Kind::kText: {
      const std::vector<size_t> places = character_places(v.text.text);
      for (size_t i = 0; i + 1 < places.size(); ++i) items.push_back(part(v, places[i], places[i + 1]));
      return items;
    }
    default:
      template_error("{} where a list is expected", kind_name(v));
  }
}

}  // namespace contender
