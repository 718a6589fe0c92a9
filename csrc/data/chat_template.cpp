#include "data/chat_template.h"

#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "data/chat_template_parse.h"

namespace contender {
namespace {

using Node = TemplateNode;
using NodeKind = TemplateNode::Kind;
using Value = TemplateValue;
using Kind = TemplateValue::Kind;

constexpr int64_t kMaxSteps = 1'000'000, kMaxRange = 100'000;

struct TemplateRaised : std::runtime_error {  // by the template itself: its own words, no line
  using std::runtime_error::runtime_error;
};

class Renderer {
 public:
  MarkedText run(const Node& root, std::map<std::string, Value> globals) {
    scopes_.push_back(std::move(globals));
    MarkedText out;
    execute(root, out);
    return out;
  }

 private:
  enum class Flow { kOn, kBreak, kContinue };
  using Scope = std::map<std::string, Value>;

  void step(const Node& node) {
    line_ = node.line;
    if (++steps_ > kMaxSteps) template_error("line {}: more than {} steps", line_, kMaxSteps);
  }

  Flow execute(const Node& node, MarkedText& out) {
    step(node);
    switch (node.kind) {
      case NodeKind::kBlock:
        for (const auto& child : node.children) {
          const Flow flow = execute(*child, out);
          if (flow != Flow::kOn) return flow;
        }
        return Flow::kOn;
      case NodeKind::kPrint: {
        const MarkedText text = printed(evaluate(*node.children[0]));
        if (out.text.size() + text.text.size() > kMaxTemplateText) template_error("more than 16 MiB of text");
        out.text += text.text;
        out.from_data += text.from_data;
        return Flow::kOn;
      }
      case NodeKind::kIf: {
        const Node* way =
            evaluate(*node.children[0]).truth() ? node.children[1].get() : node.children[2].get();
        return way ? execute(*way, out) : Flow::kOn;
      }
      case NodeKind::kFor:
        return loop(node, out);
      case NodeKind::kSet:
        assign(node);
        return Flow::kOn;
      case NodeKind::kBreak:
        return Flow::kBreak;
      default:
        return Flow::kContinue;
    }
  }

  void bind(const Node& node, const Value& item) {
    Scope& scope = scopes_.back();
    if (node.names.size() == 1) {
      scope[node.names[0]] = item;
      return;
    }
    const Value::List parts = items_of(item);
    if (parts.size() != node.names.size())
      template_error("{} values for {} names", parts.size(), node.names.size());
    for (size_t i = 0; i < parts.size(); ++i) scope[node.names[i]] = parts[i];
  }

  Flow loop(const Node& node, MarkedText& out) {
    Value::List items = items_of(evaluate(*node.children[0]));
    if (node.children[1]) {
      Value::List kept;
      for (const Value& item : items) {
        scopes_.emplace_back();
        bind(node, item);
        if (evaluate(*node.children[1]).truth()) kept.push_back(item);
        scopes_.pop_back();
      }
      items = std::move(kept);
    }
    const int64_t n = std::ssize(items);
    for (int64_t i = 0; i < n; ++i) {
      scopes_.emplace_back();
      scopes_.back()["loop"] =
          Value::of_dict({{"index", Value::of(i + 1)},
                          {"index0", Value::of(i)},
                          {"revindex", Value::of(n - i)},
                          {"revindex0", Value::of(n - i - 1)},
                          {"first", Value::of(i == 0)},
                          {"last", Value::of(i == n - 1)},
                          {"length", Value::of(n)},
                          {"previtem", i > 0 ? items[i - 1] : Value::undefined("loop.previtem")},
                          {"nextitem", i + 1 < n ? items[i + 1] : Value::undefined("loop.nextitem")}});
      bind(node, items[i]);
      const Flow flow = execute(*node.children[2], out);
      scopes_.pop_back();
      if (flow == Flow::kBreak) break;
    }
    if (n == 0 && node.children[3]) return execute(*node.children[3], out);
    return Flow::kOn;
  }

  void assign(const Node& node) {
    Value value;
    if (node.children[0]->kind == NodeKind::kBlock) {
      MarkedText text;
      execute(*node.children[0], text);
      value = Value::of_text(std::move(text));
    } else {
      value = evaluate(*node.children[0]);
    }
    if (node.names.size() == 1) {
      scopes_.back()[node.names[0]] = std::move(value);
      return;
    }
    const Value object = look_up(node.names[0]);
    if (!object.is(Kind::kNamespace)) template_error("{:.40} is not a namespace", node.names[0]);
    if (value.is(Kind::kNamespace)) template_error("a namespace in a namespace");
    for (auto& [key, old] : *object.dict) {
      if (key != node.names[1]) continue;
      old = std::move(value);
      return;
    }
    object.dict->emplace_back(node.names[1], std::move(value));
  }

  Value look_up(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      const auto found = scope->find(name);
      if (found != scope->end()) return found->second;
    }
    return Value::undefined(name);
  }

  Value evaluate(const Node& node) {
    step(node);
    const auto child = [&](size_t i) { return evaluate(*node.children[i]); };
    switch (node.kind) {
      case NodeKind::kLiteral:
        return node.value;
      case NodeKind::kName:
        return look_up(node.name);
      case NodeKind::kList: {
        Value::List items;
        for (size_t i = 0; i < node.children.size(); ++i) items.push_back(child(i));
        return Value::of_list(std::move(items));
      }
      case NodeKind::kDict: {
        Value::Dict dict;
        for (size_t i = 0; i < node.children.size(); i += 2) {
          const Value key = child(i);
          if (!key.is(Kind::kText)) template_error("a key that is {}", kind_name(key));
          dict.emplace_back(key.text.text, child(i + 1));
        }
        return Value::of_dict(std::move(dict));
      }
      case NodeKind::kAttribute:
        return item_of(child(0), Value::of_text(node.name));
      case NodeKind::kItem: {
        const Value object = child(0);
        return item_of(object, child(1));
      }
      case NodeKind::kSlice:
        return slice(node);
      case NodeKind::kCall:
        return call(node);
      case NodeKind::kFilter: {
        const Value object = child(0);
        return apply_filter(node.name, object, arguments(node));
      }
      case NodeKind::kTest: {
        const Value object = child(0);
        return Value::of(apply_test(node.name, object, arguments(node)));
      }
      default:
        return operation(node);
    }
  }

  Value operation(const Node& node) {
    const Value left = evaluate(*node.children[0]);
    switch (node.kind) {
      case NodeKind::kNot:
        return Value::of(!left.truth());
      case NodeKind::kNegative:
        return binary("-", Value::of(int64_t{0}), left);
      case NodeKind::kAnd:
        return left.truth() ? evaluate(*node.children[1]) : left;
      case NodeKind::kOr:
        return left.truth() ? left : evaluate(*node.children[1]);
      case NodeKind::kChoice:
        if (left.truth()) return evaluate(*node.children[1]);
        return node.children[2] ? evaluate(*node.children[2]) : Value::undefined("the other choice");
      default:
        return binary(node.name, left, evaluate(*node.children[1]));
    }
  }

  Value slice(const Node& node) {
    const Value object = evaluate(*node.children[0]);
    Value bounds[3];
    const Value* given[3] = {};
    for (size_t i = 0; i < 3; ++i) {
      if (!node.children[i + 1]) continue;
      bounds[i] = evaluate(*node.children[i + 1]);
      given[i] = &bounds[i];
    }
    return slice_of(object, given[0], given[1], given[2]);
  }

  TemplateArgs arguments(const Node& node) {
    TemplateArgs args;
    for (size_t i = 0; i < node.names.size(); ++i)
      args.emplace_back(node.names[i], evaluate(*node.children[i + 1]));
    return args;
  }

  Value call(const Node& node) {
    const Node& callee = *node.children[0];
    if (callee.kind == NodeKind::kAttribute) {
      const Value object = evaluate(*callee.children[0]);
      return call_method(object, callee.name, arguments(node));
    }
    TemplateArgs args = arguments(node);
    if (callee.name == "namespace") {
      Value v = Value::of_dict({});
      v.kind = Kind::kNamespace;
      for (auto& [name, value] : args) {
        if (name.empty() || value.is(Kind::kNamespace)) template_error("a namespace of values without names");
        v.dict->emplace_back(name, std::move(value));
      }
      return v;
    }
    if (callee.name == "raise_exception") {
      throw TemplateRaised(args.empty() ? "raise_exception" : printed(args[0].second).text.substr(0, 500));
    }
    if (callee.name == "range") return range(args);
    template_error("{:.40} is undefined", callee.name);
  }

  static Value range(const TemplateArgs& args) {
    int64_t bounds[3] = {0, 0, 1};
    if (args.empty() || args.size() > 3) template_error("range of {} numbers", args.size());
    for (size_t i = 0; i < args.size(); ++i) {
      if (!args[i].second.is(Kind::kInteger)) template_error("range of {}", kind_name(args[i].second));
      bounds[i] = args[i].second.integer;
    }
    if (args.size() == 1) std::swap(bounds[0], bounds[1]);
    const auto [first, end, by] = bounds;
    Value::List items;
    if (by == 0) template_error("range with a step of 0");
    for (__int128 i = first; by > 0 ? i < end : i > end; i += by) {
      if (std::ssize(items) == kMaxRange) template_error("range of more than {} numbers", kMaxRange);
      items.push_back(Value::of(static_cast<int64_t>(i)));
    }
    return Value::of_list(std::move(items));
  }

 public:
  int line() const { return line_; }

 private:
  std::vector<Scope> scopes_;
  int64_t steps_ = 0;
  int line_ = 1;
};

}  // namespace

ChatTemplate::ChatTemplate(std::string_view source, const nlohmann::ordered_json& constants)
    : constants_(std::make_unique<nlohmann::ordered_json>(constants)), root_(parse_template(source)) {}
ChatTemplate::~ChatTemplate() = default;

MarkedText ChatTemplate::render(const nlohmann::ordered_json& variables) const {
  std::map<std::string, Value> globals;
  for (const auto& [name, value] : constants_->items())
    globals[name] = Value::from_json(value, /*from_data=*/false);
  for (const auto& [name, value] : variables.items())
    globals[name] = Value::from_json(value, /*from_data=*/true);
  Renderer renderer;
  try {
    return renderer.run(*root_, std::move(globals));
  } catch (const TemplateRaised& e) {
    template_error("chat template: {}", e.what());
  } catch (const std::runtime_error& e) {
    template_error("chat template, line {}: {}", renderer.line(), e.what());
  }
}

}  // namespace contender
