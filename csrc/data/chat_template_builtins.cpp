// Filters, tests and methods of chat templates.
#include <utf8proc.h>

#include <algorithm>
#include <functional>
#include <map>

#include "data/chat_template_value.h"

namespace contender {
namespace {

using Value = TemplateValue;
using Kind = TemplateValue::Kind;

// Arguments by name or place; what is asked for is taken, what is left is an error.
class Args {
 public:
  Args(std::string what, const TemplateArgs& args) : what_(std::move(what)), args_(args) {}
  const Value* find(size_t place, std::string_view name) {
    for (size_t i = 0; i < args_.size(); ++i)
      if (args_[i].first.empty() ? i == place : args_[i].first == name) return ++found_, &args_[i].second;
    return nullptr;
  }
  const Value& need(size_t place, std::string_view name) {
    const Value* v = find(place, name);
    if (!v) template_error("{} without {}", what_, name);
    return *v;
  }
  std::string_view text(size_t place, std::string_view name) {
    const Value& v = need(place, name);
    if (!v.is(Kind::kText)) template_error("{} of {}", what_, kind_name(v));
    return v.text.text;
  }
  // A test by its name and arguments from `place` on, on each item; without a name, whether it is true.
  bool test(size_t place, const Value& v) {
    if (place >= args_.size()) return v.truth();
    const Value& name = args_[place].second;
    if (!name.is(Kind::kText) || !known_test(name.text.text))
      template_error("{}: the test {}", what_, kind_name(name));
    return apply_test(name.text.text, v, {args_.begin() + static_cast<int64_t>(place) + 1, args_.end()});
  }
  void accept_all() { found_ = args_.size(); }
  void done() const {
    if (found_ < args_.size()) template_error("{}: {} arguments, {} known", what_, args_.size(), found_);
  }

 private:
  std::string what_;
  const TemplateArgs& args_;
  size_t found_ = 0;
};

Value part(const Value& v, size_t begin, size_t end) {
  return Value::of_text(
      MarkedText{v.text.text.substr(begin, end - begin), v.text.from_data.substr(begin, end - begin)});
}
void append(MarkedText& to, const Value& v) {
  const MarkedText text = printed(v);
  if (to.text.size() + text.text.size() > kMaxTemplateText) template_error("a text of more than 16 MiB");
  to.text += text.text;
  to.from_data += text.from_data;
}

// What Python's str.isspace() says.
bool white_space(int32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}
std::vector<std::pair<size_t, int32_t>> characters(std::string_view text) {
  std::vector<std::pair<size_t, int32_t>> all;
  for (size_t at = 0; at < text.size();) {
    int32_t c = 0;
    const auto length = utf8proc_iterate(reinterpret_cast<const uint8_t*>(text.data()) + at,
                                         static_cast<utf8proc_ssize_t>(text.size() - at), &c);
    all.emplace_back(at, c);
    at += length > 0 ? static_cast<size_t>(length) : 1;
  }
  all.emplace_back(text.size(), -1);
  return all;
}

Value strip(const Value& v, const Value* chars, bool left, bool right) {
  const auto text = characters(v.text.text);
  std::vector<std::pair<size_t, int32_t>> set;
  const bool given = chars && !chars->is(Kind::kNone);
  if (given && !chars->is(Kind::kText)) template_error("strip of {}", kind_name(*chars));
  if (given) set = characters(chars->text.text);
  const auto goes = [&](int32_t c) {
    if (!given) return white_space(c);
    return std::any_of(set.begin(), set.end() - 1, [&](const auto& s) { return s.second == c; });
  };
  size_t begin = 0, end = text.size() - 1;
  while (left && begin < end && goes(text[begin].second)) ++begin;
  while (right && end > begin && goes(text[end - 1].second)) --end;
  return part(v, text[begin].first, text[end].first);
}

Value split(const Value& v, const Value* separator, int64_t most, bool from_right) {
  const std::string& text = v.text.text;
  Value::List parts;
  const auto room = [&] { return most < 0 || std::ssize(parts) < most; };
  if (!separator || separator->is(Kind::kNone)) {
    if (most >= 0) template_error("split by white space with a limit is not supported");
    const auto all = characters(text);
    for (size_t i = 0; i + 1 < all.size();) {
      size_t j = i;
      while (j + 1 < all.size() && !white_space(all[j].second)) ++j;
      if (j > i) parts.push_back(part(v, all[i].first, all[j].first));
      i = j > i ? j : i + 1;
    }
    return Value::of_list(std::move(parts));
  }
  if (!separator->is(Kind::kText) || separator->text.text.empty())
    template_error("split by {}", kind_name(*separator));
  const std::string& by = separator->text.text;
  if (from_right) {
    size_t end = text.size();
    for (size_t at; room() && end >= by.size() && (at = text.rfind(by, end - by.size())) != text.npos;
         end = at)
      parts.insert(parts.begin(), part(v, at + by.size(), end));
    parts.insert(parts.begin(), part(v, 0, end));
    return Value::of_list(std::move(parts));
  }
  size_t begin = 0;
  for (size_t at; room() && (at = text.find(by, begin)) != text.npos; begin = at + by.size())
    parts.push_back(part(v, begin, at));
  parts.push_back(part(v, begin, text.size()));
  return Value::of_list(std::move(parts));
}

Value replace(const Value& v, const Value& from, const Value& to) {
  if (!from.is(Kind::kText) || !to.is(Kind::kText) || from.text.text.empty())
    template_error("replace of {}", kind_name(from));
  MarkedText out;
  size_t begin = 0;
  for (size_t at; (at = v.text.text.find(from.text.text, begin)) != std::string::npos;
       begin = at + from.text.text.size()) {
    append(out, part(v, begin, at));
    append(out, to);
  }
  append(out, part(v, begin, v.text.text.size()));
  return Value::of_text(std::move(out));
}

enum class Case { kUpper, kLower, kTitle, kCapital };
Value in_case(const Value& v, Case how) {
  MarkedText out;
  bool first = true;  // of a word, or of the text
  const auto all = characters(v.text.text);
  for (size_t i = 0; i + 1 < all.size(); ++i) {
    const int32_t c = all[i].second;
    const bool up = how == Case::kUpper || (how != Case::kLower && first);
    uint8_t bytes[4];
    const auto length = utf8proc_encode_char(up ? utf8proc_toupper(c) : utf8proc_tolower(c), bytes);
    append(out, Value::of_text({reinterpret_cast<const char*>(bytes), static_cast<size_t>(length)},
                               v.text.from_data[all[i].first] != 0));
    const auto category = utf8proc_category(c);
    first = how == Case::kTitle && !(category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO);
  }
  return Value::of_text(std::move(out));
}

// As json.dumps(v, ensure_ascii=False, indent=indent).
void append_json(MarkedText& out, const Value& v, int64_t indent, int64_t depth) {
  if (depth > 64) template_error("tojson: nested deeper than 64");
  const auto put = [&](std::string_view s) { append(out, Value::of_text(s, /*from_data=*/true)); };
  const auto line = [&](int64_t d) {
    if (indent >= 0) put("\n" + std::string(static_cast<size_t>(indent * d), ' '));
  };
  const auto quoted = [&](const std::string& s) {
    std::string q = "\"";
    for (const char c : s) {
      const size_t which = std::string_view("\"\\\n\r\t\b\f").find(c);
      if (which != std::string_view::npos) {
        q += {'\\', "\"\\nrtbf"[which]};
      } else if (static_cast<uint8_t>(c) < 0x20) {
        q += fmt::format("\\u{:04x}", static_cast<int>(c));
      } else {
        q += c;
      }
    }
    put(q + "\"");
  };
  const char* comma = indent >= 0 ? "," : ", ";
  switch (v.kind) {
    case Kind::kNone:
      return put("null");
    case Kind::kBool:
      return put(v.integer ? "true" : "false");
    case Kind::kText:
      return quoted(v.text.text);
    case Kind::kList:
      put("[");
      for (size_t i = 0; i < v.list->size(); ++i) {
        if (i > 0) put(comma);
        line(depth + 1);
        append_json(out, (*v.list)[i], indent, depth + 1);
      }
      if (!v.list->empty()) line(depth);
      return put("]");
    case Kind::kDict:
      put("{");
      for (size_t i = 0; i < v.dict->size(); ++i) {
        if (i > 0) put(comma);
        line(depth + 1);
        quoted((*v.dict)[i].first);
        put(": ");
        append_json(out, (*v.dict)[i].second, indent, depth + 1);
      }
      if (!v.dict->empty()) line(depth);
      return put("}");
    case Kind::kUndefined:
    case Kind::kNamespace:
      template_error("tojson of {}", kind_name(v));
    default:
      return append(out, v);
  }
}

Value to_json(const Value& v, Args& args) {
  const Value* indent = args.find(0, "indent");
  args.find(1, "ensure_ascii");
  if (indent && !indent->is(Kind::kNone) &&
      !(indent->is(Kind::kInteger) && indent->integer >= 0 && indent->integer <= 16))
    template_error("tojson with this indent");
  MarkedText out;
  append_json(out, v, indent && indent->is(Kind::kInteger) ? indent->integer : -1, 0);
  return Value::of_text(std::move(out));
}

Value length_of(const Value& v) {
  if (v.is(Kind::kList)) return Value::of(static_cast<int64_t>(v.list->size()));
  if (v.is(Kind::kDict)) return Value::of(static_cast<int64_t>(v.dict->size()));
  if (v.is(Kind::kUndefined)) return Value::of(int64_t{0});
  if (!v.is(Kind::kText)) template_error("length of {}", kind_name(v));
  return Value::of(static_cast<int64_t>(characters(v.text.text).size()) - 1);
}

Value join(const Value& v, const Value* between) {
  MarkedText out;
  bool first = true;
  for (const Value& item : items_of(v)) {
    if (!first && between) append(out, *between);
    first = false;
    append(out, item);
  }
  return Value::of_text(std::move(out));
}

Value pairs_of(const Value& v) {
  if (v.is(Kind::kUndefined)) return Value::of_list({});
  if (!v.is(Kind::kDict)) template_error("items of {}", kind_name(v));
  Value::List pairs;
  for (const auto& [key, value] : *v.dict)
    pairs.push_back(Value::of_list({Value::of_text(key, /*from_data=*/true), value}));
  return Value::of_list(std::move(pairs));
}

Value whole_number(const Value& v) {
  if (v.is(Kind::kNumber)) return Value::of(static_cast<int64_t>(std::clamp(v.number, -9e15, 9e15)));
  if (v.is_number()) return Value::of(v.integer);
  const std::string text = v.is(Kind::kText) ? strip(v, nullptr, true, true).text.text : "";
  const bool fits = !text.empty() && text.size() <= 15 && text.find_first_not_of("0123456789") == text.npos;
  return Value::of(fits ? static_cast<int64_t>(std::stoll(text)) : int64_t{0});
}

const Value& as_text(const Value& v, const std::string& what) {
  if (!v.is(Kind::kText)) template_error("{} of {}", what, kind_name(v));
  return v;
}
Value texted(const Value& v) { return Value::of_text(printed(v)); }
Value ended(const Value& v, bool last) {
  const Value::List items = items_of(v);
  if (items.empty()) return Value::undefined(last ? "the last of nothing" : "the first of nothing");
  return last ? items.back() : items.front();
}

// The items for which a test, of the item or of its attribute, says `wanted`.
Value chosen(const Value& v, Args& args, bool of_attribute, bool wanted) {
  Value::List kept;
  for (const Value& item : items_of(v)) {
    const Value looked_at = of_attribute ? item_of(item, args.need(0, "attribute")) : item;
    if (args.test(of_attribute, looked_at) == wanted) kept.push_back(item);
  }
  args.accept_all();
  return Value::of_list(std::move(kept));
}
Value mapped(const Value& v, Args& args) {
  Value::List items;
  const Value& attribute = args.need(SIZE_MAX, "attribute");
  for (const Value& item : items_of(v)) items.push_back(item_of(item, attribute));
  return Value::of_list(std::move(items));
}

using Filter = std::function<Value(const Value&, Args&)>;
const std::map<std::string, Filter, std::less<>>& filters() {
  static const std::map<std::string, Filter, std::less<>> kFilters = {
      {"length", [](const Value& v, Args&) { return length_of(v); }},
      {"count", [](const Value& v, Args&) { return length_of(v); }},
      {"trim", [](const Value& v, Args& a) { return strip(texted(v), a.find(0, "chars"), true, true); }},
      {"upper", [](const Value& v, Args&) { return in_case(texted(v), Case::kUpper); }},
      {"lower", [](const Value& v, Args&) { return in_case(texted(v), Case::kLower); }},
      {"capitalize", [](const Value& v, Args&) { return in_case(texted(v), Case::kCapital); }},
      {"string", [](const Value& v, Args&) { return texted(v); }},
      {"safe", [](const Value& v, Args&) { return v; }},
      {"int", [](const Value& v, Args&) { return whole_number(v); }},
      {"tojson", to_json},
      {"join", [](const Value& v, Args& a) { return join(v, a.find(0, "d")); }},
      {"list", [](const Value& v, Args&) { return Value::of_list(items_of(v)); }},
      {"items", [](const Value& v, Args&) { return pairs_of(v); }},
      {"first", [](const Value& v, Args&) { return ended(v, false); }},
      {"last", [](const Value& v, Args&) { return ended(v, true); }},
      {"select", [](const Value& v, Args& a) { return chosen(v, a, false, true); }},
      {"reject", [](const Value& v, Args& a) { return chosen(v, a, false, false); }},
      {"selectattr", [](const Value& v, Args& a) { return chosen(v, a, true, true); }},
      {"rejectattr", [](const Value& v, Args& a) { return chosen(v, a, true, false); }},
      {"map", mapped},
      {"reverse",
       [](const Value& v, Args&) {
         const Value step = Value::of(int64_t{-1});
         return slice_of(v, nullptr, nullptr, &step);
       }},
      {"replace",
       [](const Value& v, Args& a) { return replace(texted(v), a.need(0, "old"), a.need(1, "new")); }},
      {"default",
       [](const Value& v, Args& a) {
         const Value* other = a.find(0, "default_value");
         const Value* any = a.find(1, "boolean");
         const bool missing = v.is(Kind::kUndefined) || (any && any->truth() && !v.truth());
         return missing ? (other ? *other : Value::of_text("")) : v;
       }},
  };
  return kFilters;
}

using Test = std::function<bool(const Value&, Args&)>;
const std::map<std::string, Test, std::less<>>& tests() {
  static const std::map<std::string, Test, std::less<>> kTests = {
      {"defined", [](const Value& v, Args&) { return !v.is(Kind::kUndefined); }},
      {"undefined", [](const Value& v, Args&) { return v.is(Kind::kUndefined); }},
      {"none", [](const Value& v, Args&) { return v.is(Kind::kNone); }},
      {"string", [](const Value& v, Args&) { return v.is(Kind::kText); }},
      {"mapping", [](const Value& v, Args&) { return v.is(Kind::kDict); }},
      {"iterable",
       [](const Value& v, Args&) {
         return v.is(Kind::kText) || v.is(Kind::kList) || v.is(Kind::kDict) || v.is(Kind::kUndefined);
       }},
      {"sequence",
       [](const Value& v, Args&) {
         return v.is(Kind::kText) || v.is(Kind::kList) || v.is(Kind::kDict) || v.is(Kind::kUndefined);
       }},
      {"number", [](const Value& v, Args&) { return v.is_number(); }},
      {"integer", [](const Value& v, Args&) { return v.is(Kind::kInteger); }},
      {"float", [](const Value& v, Args&) { return v.is(Kind::kNumber); }},
      {"boolean", [](const Value& v, Args&) { return v.is(Kind::kBool); }},
      {"true", [](const Value& v, Args&) { return v.is(Kind::kBool) && v.integer; }},
      {"false", [](const Value& v, Args&) { return v.is(Kind::kBool) && !v.integer; }},
      {"odd", [](const Value& v, Args&) { return whole_number(v).integer % 2 != 0; }},
      {"even", [](const Value& v, Args&) { return whole_number(v).integer % 2 == 0; }},
      {"equalto", [](const Value& v, Args& a) { return equal(v, a.need(0, "other")); }},
      {"eq", [](const Value& v, Args& a) { return equal(v, a.need(0, "other")); }},
      {"ne", [](const Value& v, Args& a) { return !equal(v, a.need(0, "other")); }},
      {"in", [](const Value& v, Args& a) { return contains(a.need(0, "seq"), v); }},
  };
  return kTests;
}

Value dict_method(const Value& object, const std::string& name, Args& args) {
  if (name == "items") return pairs_of(object);
  if (name == "keys") return Value::of_list(items_of(object));
  if (name == "values") {
    Value::List values;
    for (const auto& item : *object.dict) values.push_back(item.second);
    return Value::of_list(std::move(values));
  }
  if (name != "get") template_error("a dict has no method {:.40}", name);
  const Value& key = args.need(0, "key");
  const Value* otherwise = args.find(1, "default");
  const Value* found = key.is(Kind::kText) ? object.find(key.text.text) : nullptr;
  return found ? *found : otherwise ? *otherwise : Value::none();
}

Value text_method(const Value& object, const std::string& name, Args& args) {
  const std::string& text = object.text.text;
  const auto any_of = [&](auto matches) {
    const Value& which = args.need(0, "prefix");
    const Value::List all = which.is(Kind::kList) ? *which.list : Value::List{which};
    return Value::of(std::any_of(all.begin(), all.end(),
                                 [&](const Value& w) { return matches(as_text(w, name).text.text); }));
  };
  if (name == "strip") return strip(object, args.find(0, "chars"), true, true);
  if (name == "lstrip") return strip(object, args.find(0, "chars"), true, false);
  if (name == "rstrip") return strip(object, args.find(0, "chars"), false, true);
  if (name == "split" || name == "rsplit") {
    const Value* separator = args.find(0, "sep");
    const Value* most = args.find(1, "maxsplit");
    return split(object, separator, most ? whole_number(*most).integer : -1, name == "rsplit");
  }
  if (name == "startswith") return any_of([&](const std::string& w) { return text.starts_with(w); });
  if (name == "endswith") return any_of([&](const std::string& w) { return text.ends_with(w); });
  if (name == "replace") return replace(object, args.need(0, "old"), args.need(1, "new"));
  if (name == "upper") return in_case(object, Case::kUpper);
  if (name == "lower") return in_case(object, Case::kLower);
  if (name == "title") return in_case(object, Case::kTitle);
  if (name == "capitalize") return in_case(object, Case::kCapital);
  if (name == "join") return join(args.need(0, "iterable"), &object);
  template_error("a text has no method {:.40}", name);
}

}  // namespace

bool known_filter(std::string_view name) { return filters().contains(name); }
bool known_test(std::string_view name) { return tests().contains(name); }

Value apply_filter(const std::string& name, const Value& v, const TemplateArgs& given) {
  Args args(name, given);
  Value result = filters().at(name)(v, args);
  args.done();
  return result;
}

bool apply_test(const std::string& name, const Value& v, const TemplateArgs& given) {
  Args args(name, given);
  const bool result = tests().at(name)(v, args);
  args.done();
  return result;
}

Value call_method(const Value& object, const std::string& name, const TemplateArgs& given) {
  Args args(name, given);
  if (object.is(Kind::kUndefined)) template_error("{:.80} is undefined", object.text.text);
  if (!object.is(Kind::kText) && !object.is(Kind::kDict))
    template_error("{} has no method {:.40}", kind_name(object), name);
  Value result = object.is(Kind::kText) ? text_method(object, name, args) : dict_method(object, name, args);
  args.done();
  return result;
}

}  // namespace contender
