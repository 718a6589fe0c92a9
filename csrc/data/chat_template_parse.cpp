#include "data/chat_template_parse.h"

#include <algorithm>

#include "data/chat_template_lex.h"

namespace contender {
namespace {

using Node = TemplateNode;
using NodePtr = std::unique_ptr<Node>;
using Kind = TemplateNode::Kind;

constexpr int kMaxNesting = 64, kMaxDepth = 1000;

using Token = TemplateToken;
using Type = TemplateToken::Type;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  NodePtr run() {
    NodePtr root = block({});
    if (peek().type != Type::kEnd) refuse_template(peek().line, "a tag without its beginning");
    return root;
  }

 private:
  const Token& peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  Token next() { return tokens_[std::min(at_++, tokens_.size() - 1)]; }
  bool is_operator(std::string_view op) const { return peek().type == Type::kOperator && peek().text == op; }
  bool is_word(std::string_view word) const { return peek().type == Type::kName && peek().text == word; }
  bool take_operator(std::string_view op) { return is_operator(op) && (++at_, true); }
  bool take_word(std::string_view word) { return is_word(word) && (++at_, true); }
  void need_operator(std::string_view op) {
    if (!take_operator(op))
      refuse_template(peek().line, fmt::format("{} is missing before \"{:.20}\"", op, peek().text));
  }
  void need_word(std::string_view word) {
    if (!take_word(word)) refuse_template(peek().line, fmt::format("{} is missing", word));
  }
  std::string need_name() {
    if (peek().type != Type::kName) refuse_template(peek().line, "a name is missing");
    return next().text;
  }
  void need(Type type) {
    if (next().type != type)
      refuse_template(tokens_[at_ - 1].line,
                      fmt::format("\"{:.20}\" where a tag ends", tokens_[at_ - 1].text));
  }
  NodePtr make(Kind kind, std::string name = "") {
    auto node = std::make_unique<Node>();
    node->kind = kind;
    node->line = peek().line;
    node->name = std::move(name);
    return node;
  }
  template <class... N>
  NodePtr make_of(Kind kind, std::string name, N... children) {
    NodePtr node = make(kind, std::move(name));
    (adopt(*node, std::move(children)), ...);
    return node;
  }
  // Rendering and freeing go down the tree: long chains of operators are deep ones.
  void adopt(Node& parent, NodePtr child) {
    if (child) parent.depth = std::max(parent.depth, child->depth + 1);
    if (parent.depth > kMaxDepth)
      refuse_template(peek().line, fmt::format("an expression of more than {} levels", kMaxDepth));
    parent.children.push_back(std::move(child));
  }
  NodePtr literal(TemplateValue value) {
    NodePtr node = make(Kind::kLiteral);
    node->value = std::move(value);
    return node;
  }
  struct Nested {
    explicit Nested(Parser& p) : p(p) {
      if (++p.depth_ > kMaxNesting)
        refuse_template(p.peek().line, fmt::format("nested deeper than {}", kMaxNesting));
    }
    ~Nested() { --p.depth_; }
    Parser& p;
  };

  // Statements up to a tag that begins with one of the words, which stays; to the end, without words.
  NodePtr block(const std::vector<std::string_view>& until) {
    const Nested nested(*this);
    NodePtr node = make(Kind::kBlock);
    for (;;) {
      if (peek().type == Type::kText) {
        adopt(*node, make_of(Kind::kPrint, "", literal(TemplateValue::of_text(peek().text))));
        ++at_;
      } else if (peek().type == Type::kPrint) {
        ++at_;
        adopt(*node, make_of(Kind::kPrint, "", tuple()));
        need(Type::kEndPrint);
      } else if (peek().type == Type::kTag) {
        const std::string& word = peek(1).text;
        if (std::find(until.begin(), until.end(), word) != until.end()) return node;
        ++at_;
        adopt(*node, statement());
      } else {
        if (!until.empty()) refuse_template(peek().line, fmt::format("{} is missing", until.back()));
        return node;
      }
    }
  }
  void end_tag(std::string_view word) {
    need(Type::kTag);
    need_word(word);
    need(Type::kEndTag);
  }

  NodePtr statement() {
    const int line = peek().line;
    const std::string word = need_name();
    if (word == "if") return if_statement();
    if (word == "for") return for_statement();
    if (word == "set") return set_statement();
    if (word == "generation") {
      need(Type::kEndTag);
      NodePtr body = block({"endgeneration"});
      end_tag("endgeneration");
      return body;
    }
    if (word != "break" && word != "continue")
      refuse_template(line, fmt::format("the tag {:.40} is not supported", word));
    if (loops_ == 0) refuse_template(line, fmt::format("{} outside a loop", word));
    NodePtr node = make(word == "break" ? Kind::kBreak : Kind::kContinue);
    need(Type::kEndTag);
    return node;
  }

  NodePtr if_statement() {
    const Nested nested(*this);
    NodePtr node = make_of(Kind::kIf, "", tuple());
    need(Type::kEndTag);
    adopt(*node, block({"elif", "else", "endif"}));
    need(Type::kTag);
    NodePtr otherwise;
    if (take_word("elif")) {
      otherwise = if_statement();
    } else if (take_word("else")) {
      need(Type::kEndTag);
      otherwise = block({"endif"});
      end_tag("endif");
    } else {
      need_word("endif");
      need(Type::kEndTag);
    }
    adopt(*node, std::move(otherwise));
    return node;
  }

  NodePtr for_statement() {
    NodePtr node = make(Kind::kFor);
    do {
      node->names.push_back(need_name());
    } while (take_operator(","));
    need_word("in");
    adopt(*node, or_expression());
    adopt(*node, take_word("if") ? expression() : nullptr);
    if (is_word("recursive")) refuse_template(peek().line, "recursive is not supported");
    need(Type::kEndTag);
    ++loops_;
    adopt(*node, block({"else", "endfor"}));
    --loops_;
    need(Type::kTag);
    NodePtr otherwise;
    if (take_word("else")) {
      need(Type::kEndTag);
      otherwise = block({"endfor"});
      need(Type::kTag);
    }
    need_word("endfor");
    need(Type::kEndTag);
    adopt(*node, std::move(otherwise));
    return node;
  }

  NodePtr set_statement() {
    NodePtr node = make(Kind::kSet);
    node->names.push_back(need_name());
    if (take_operator(".")) node->names.push_back(need_name());
    if (take_operator("=")) {
      adopt(*node, tuple());
      need(Type::kEndTag);
    } else {
      need(Type::kEndTag);
      adopt(*node, block({"endset"}));
      end_tag("endset");
    }
    return node;
  }

  // An expression, or several with commas between them: a list.
  NodePtr tuple() {
    NodePtr first = expression();
    if (!is_operator(",")) return first;
    NodePtr node = make_of(Kind::kList, "", std::move(first));
    while (take_operator(",") && starts_expression()) adopt(*node, expression());
    return node;
  }
  bool starts_expression() const {
    if (peek().type == Type::kOperator)
      return is_operator("(") || is_operator("[") || is_operator("{") || is_operator("-");
    return peek().type == Type::kName || peek().type == Type::kString || peek().type == Type::kInteger ||
           peek().type == Type::kNumber;
  }

  NodePtr expression() {
    const Nested nested(*this);
    NodePtr node = or_expression();
    while (take_word("if")) {
      NodePtr condition = or_expression();
      NodePtr otherwise = take_word("else") ? expression() : nullptr;
      node = make_of(Kind::kChoice, "", std::move(condition), std::move(node), std::move(otherwise));
    }
    return node;
  }
  NodePtr or_expression() {
    NodePtr node = and_expression();
    while (take_word("or")) node = make_of(Kind::kOr, "", std::move(node), and_expression());
    return node;
  }
  NodePtr and_expression() {
    NodePtr node = not_expression();
    while (take_word("and")) node = make_of(Kind::kAnd, "", std::move(node), not_expression());
    return node;
  }
  NodePtr not_expression() {
    const Nested nested(*this);
    if (take_word("not")) return make_of(Kind::kNot, "", not_expression());
    return comparison();
  }
  NodePtr comparison() {
    NodePtr node = operation(0);
    for (int count = 0;; ++count) {
      const bool negated = is_word("not") && peek(1).type == Type::kName && peek(1).text == "in";
      std::string op;
      if (negated || is_word("in")) op = "in";
      for (const char* o : {"==", "!=", "<=", ">=", "<", ">"})
        if (is_operator(o)) op = o;
      if (op.empty()) return node;
      if (count > 0) refuse_template(peek().line, "a chain of comparisons is not supported");
      at_ += negated ? 2 : 1;
      node = make_of(Kind::kBinary, op, std::move(node), operation(0));
      if (negated) node = make_of(Kind::kNot, "", std::move(node));
    }
  }
  // Operators by how they bind: + -, then ~, then * / // %, then **.
  NodePtr operation(size_t level) {
    static const std::vector<std::vector<const char*>> kLevels = {
        {"+", "-"}, {"~"}, {"*", "//", "/", "%"}, {"**"}};
    if (level == kLevels.size()) return unary(/*with_filters=*/true);
    NodePtr node = operation(level + 1);
    for (;;) {
      std::string op;
      for (const char* o : kLevels[level])
        if (is_operator(o)) op = o;
      if (op.empty()) return node;
      ++at_;
      node = make_of(Kind::kBinary, op, std::move(node), operation(level + 1));
    }
  }
  NodePtr unary(bool with_filters) {
    const Nested nested(*this);
    NodePtr node;
    if (take_operator("-")) {
      node = make_of(Kind::kNegative, "", unary(/*with_filters=*/false));
    } else {
      node = postfix(primary());
    }
    return with_filters ? filters(std::move(node)) : std::move(node);
  }

  NodePtr primary() {
    const Token token = next();
    switch (token.type) {
      case Type::kString: {
        std::string text = token.text;
        while (peek().type == Type::kString) text += next().text;
        return literal(TemplateValue::of_text(text));
      }
      case Type::kInteger:
        return literal(TemplateValue::of(static_cast<int64_t>(std::stoll(token.text))));
      case Type::kNumber:
        return literal(TemplateValue::of_number(std::stod(token.text)));
      case Type::kName:
        if (token.text == "true" || token.text == "True") return literal(TemplateValue::of(true));
        if (token.text == "false" || token.text == "False") return literal(TemplateValue::of(false));
        if (token.text == "none" || token.text == "None") return literal(TemplateValue::none());
        return make(Kind::kName, token.text);
      default:
        break;
    }
    --at_;
    NodePtr node;
    if (take_operator("(")) {
      node = is_operator(")") ? make(Kind::kList) : tuple();
      need_operator(")");
    } else if (take_operator("[")) {
      node = make(Kind::kList);
      while (!is_operator("]")) {
        adopt(*node, expression());
        if (!take_operator(",")) break;
      }
      need_operator("]");
    } else if (take_operator("{")) {
      node = make(Kind::kDict);
      while (!is_operator("}")) {
        adopt(*node, expression());
        need_operator(":");
        adopt(*node, expression());
        if (!take_operator(",")) break;
      }
      need_operator("}");
    } else {
      refuse_template(peek().line, fmt::format("\"{:.20}\" where a value is expected", peek().text));
    }
    return node;
  }

  NodePtr postfix(NodePtr node) {
    for (;;) {
      if (take_operator(".")) {
        node = make_of(Kind::kAttribute, need_name(), std::move(node));
      } else if (take_operator("[")) {
        node = subscript(std::move(node));
      } else if (is_operator("(")) {
        if (node->kind != Kind::kName && node->kind != Kind::kAttribute)
          refuse_template(peek().line, "a call of something without a name");
        node = make_of(Kind::kCall, "", std::move(node));
        arguments(*node);
      } else {
        return node;
      }
    }
  }
  NodePtr subscript(NodePtr object) {
    NodePtr parts[3];
    int colons = 0;
    while (!is_operator("]")) {
      if (take_operator(":")) {
        if (++colons > 2) refuse_template(peek().line, "a slice of more than three parts");
      } else {
        if (parts[colons]) refuse_template(peek().line, "] is missing");
        parts[colons] = expression();
      }
    }
    need_operator("]");
    if (colons == 0 && !parts[0]) refuse_template(peek().line, "[] without a key");
    if (colons == 0) return make_of(Kind::kItem, "", std::move(object), std::move(parts[0]));
    return make_of(Kind::kSlice, "", std::move(object), std::move(parts[0]), std::move(parts[1]),
                   std::move(parts[2]));
  }
  void arguments(Node& call) {
    need_operator("(");
    while (!is_operator(")")) {
      const bool named = peek().type == Type::kName && peek(1).type == Type::kOperator && peek(1).text == "=";
      call.names.push_back(named ? next().text : "");
      if (named) ++at_;
      adopt(call, expression());
      if (!take_operator(",")) break;
    }
    need_operator(")");
  }

  NodePtr filters(NodePtr node) {
    for (;;) {
      if (take_operator("|")) {
        const int line = peek().line;
        node = make_of(Kind::kFilter, need_name(), std::move(node));
        if (!known_filter(node->name))
          refuse_template(line, fmt::format("the filter {:.40} is not supported", node->name));
        if (is_operator("(")) arguments(*node);
      } else if (take_word("is")) {
        node = test(std::move(node));
      } else {
        return node;
      }
    }
  }
  NodePtr test(NodePtr object) {
    const bool negated = take_word("not");
    const int line = peek().line;
    NodePtr node = make_of(Kind::kTest, need_name(), std::move(object));
    if (!known_test(node->name))
      refuse_template(line, fmt::format("the test {:.40} is not supported", node->name));
    const bool goes_on = is_word("else") || is_word("or") || is_word("and") || is_word("is") ||
                         is_word("if") || is_word("not") || is_word("in");
    if (is_operator("(")) {
      arguments(*node);
    } else if (starts_expression() && !is_operator("-") && !goes_on) {
      node->names.push_back("");
      adopt(*node, postfix(primary()));
    }
    return negated ? make_of(Kind::kNot, "", std::move(node)) : std::move(node);
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0, loops_ = 0;
};

}  // namespace

std::unique_ptr<TemplateNode> parse_template(std::string_view source) {
  return Parser(lex_template(source)).run();
}

}  // namespace contender
