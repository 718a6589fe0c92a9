#include "data/chat_template_parse.h"

#include <algorithm>
#include <stdexcept>

namespace contender {
namespace {

using Node = TemplateNode;
using NodePtr = std::unique_ptr<Node>;
using Kind = TemplateNode::Kind;

constexpr int kMaxNesting = 64, kMaxDepth = 1000;
constexpr size_t kMaxSource = 1 << 20;

struct Token {
  enum class Type {
    kText,
    kName,
    kInteger,
    kNumber,
    kString,
    kOperator,
    kPrint,
    kEndPrint,
    kTag,
    kEndTag,
    kEnd
  };
  Type type;
  std::string text;
  int line;
};
using Type = Token::Type;

[[noreturn]] void refuse(int line, const std::string& what) {
  throw std::runtime_error(fmt::format("line {}: {}", line, what));
}

bool space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool digit(char c) { return c >= '0' && c <= '9'; }
bool letter(char c) { return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

void append_character(std::string& text, uint32_t c) {
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else if (c < 0x800) {
    text += {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
  } else {
    text += {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3f)),
             static_cast<char>(0x80 | (c & 0x3f))};
  }
}

// Text and the tokens of tags, white space control applied.
class Lexer {
 public:
  explicit Lexer(std::string_view source) {
    if (source.size() > kMaxSource) refuse(1, "a template of more than 1 MiB");
    for (size_t i = 0; i < source.size(); ++i) {
      const bool pair = source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n';
      if (!pair) s_ += source[i] == '\r' ? '\n' : source[i];
    }
    if (s_.ends_with('\n')) s_.pop_back();
  }

  std::vector<Token> run() {
    while (at_ < s_.size()) {
      size_t open = at_;
      while ((open = s_.find('{', open)) != s_.npos && !opens(open)) ++open;
      text(std::min(open, s_.size()));
      if (at_ < s_.size()) tag();
    }
    add(Type::kEnd, "");
    return std::move(tokens_);
  }

 private:
  bool opens(size_t i) const {
    return i + 1 < s_.size() && (s_[i + 1] == '{' || s_[i + 1] == '%' || s_[i + 1] == '#');
  }
  void add(Type type, std::string text) { tokens_.push_back({type, std::move(text), line_}); }
  void move_to(size_t to) {
    line_ += static_cast<int>(
        std::count(s_.begin() + static_cast<int64_t>(at_), s_.begin() + static_cast<int64_t>(to), '\n'));
    at_ = to;
  }

  // Text up to a tag at `end`: "{%-" takes all white space before it, "{%" what begins its line.
  void text(size_t end) {
    size_t kept = end;
    if (end < s_.size()) {
      const char sign = end + 2 < s_.size() ? s_[end + 2] : '\0';
      if (sign == '-') {
        while (kept > at_ && space(s_[kept - 1])) --kept;
      } else if (sign != '+' && s_[end + 1] != '{') {
        size_t line = end;
        while (line > at_ && s_[line - 1] != '\n' && space(s_[line - 1])) --line;
        if (line == 0 || s_[line - 1] == '\n') kept = line;
      }
    }
    if (kept > at_) add(Type::kText, s_.substr(at_, kept - at_));
    move_to(end);
  }

  void tag() {
    const char kind = s_[at_ + 1];
    const std::string close = kind == '{' ? "}}" : kind == '%' ? "%}" : "#}";
    if (kind == '#') {
      const size_t end = s_.find(close, at_ + 2);
      if (end == s_.npos) refuse(line_, "a comment without its end");
      move_to(end);
    } else {
      add(kind == '{' ? Type::kPrint : Type::kTag, "");
      move_to(at_ + 2 + (at_ + 2 < s_.size() && (s_[at_ + 2] == '-' || s_[at_ + 2] == '+')));
      expression(close);
      add(kind == '{' ? Type::kEndPrint : Type::kEndTag, "");
    }
    const char before = s_[at_ - (kind == '#' ? 1 : 0)];
    const bool take_all = before == '-';
    const bool keep = before == '+';
    if (kind != '#' && (take_all || keep)) move_to(at_ + 1);
    move_to(at_ + 2);
    size_t next = at_;
    if (take_all) {
      while (next < s_.size() && space(s_[next])) ++next;
    } else if (kind != '{' && !keep && next < s_.size() && s_[next] == '\n') {
      ++next;
    }
    move_to(next);
  }

  // Tokens up to `close`, or its sign of white space control.
  void expression(const std::string& close) {
    int open = 0;
    for (;;) {
      while (at_ < s_.size() && space(s_[at_])) move_to(at_ + 1);
      if (at_ >= s_.size()) refuse(line_, fmt::format("{} is missing", close));
      const bool sign = s_[at_] == '-' || s_[at_] == '+';
      if (open == 0 && s_.compare(at_ + (sign ? 1 : 0), 2, close) == 0) return;
      const char c = s_[at_];
      size_t end = at_ + 1;
      if (letter(c)) {
        while (end < s_.size() && (letter(s_[end]) || digit(s_[end]))) ++end;
        add(Type::kName, s_.substr(at_, end - at_));
      } else if (digit(c)) {
        bool point = false;
        while (end < s_.size() &&
               (digit(s_[end]) || (s_[end] == '.' && !point && end + 1 < s_.size() && digit(s_[end + 1]))))
          point |= s_[end++] == '.';
        if (end - at_ > 15) refuse(line_, "a number of more than 15 digits");
        add(point ? Type::kNumber : Type::kInteger, s_.substr(at_, end - at_));
      } else if (c == '"' || c == '\'') {
        end = string(c);
      } else {
        const std::string two = s_.substr(at_, 2);
        const bool pair =
            two == "==" || two == "!=" || two == "<=" || two == ">=" || two == "//" || two == "**";
        end += pair;
        if (!pair && std::string_view("+-*/%~<>=.:|,()[]{}").find(c) == std::string_view::npos)
          refuse(line_, fmt::format("the character {} in a tag", s_.substr(at_, 1)));
        open += (c == '(' || c == '[' || c == '{') - (c == ')' || c == ']' || c == '}');
        add(Type::kOperator, s_.substr(at_, end - at_));
      }
      move_to(end);
    }
  }

  // Adds the text between quotes; the place behind it.
  size_t string(char quote) {
    std::string text;
    size_t i = at_ + 1;
    for (;; ++i) {
      if (i >= s_.size()) refuse(line_, "a text without its closing quote");
      if (s_[i] == quote) break;
      if (s_[i] != '\\') {
        text += s_[i];
        continue;
      }
      if (++i >= s_.size()) refuse(line_, "a text without its closing quote");
      const size_t which = std::string_view("ntrabfv\\'\"\n").find(s_[i]);
      if (which != std::string_view::npos) {
        if (s_[i] != '\n') text += "\n\t\r\a\b\f\v\\'\""[which];
      } else if (s_[i] == 'x' || s_[i] == 'u') {
        const size_t digits = s_[i] == 'x' ? 2 : 4;
        const std::string number = s_.substr(i + 1, digits);
        if (number.size() != digits || number.find_first_not_of("0123456789abcdefABCDEF") != number.npos)
          refuse(line_, "an escape without its digits");
        const uint32_t c = static_cast<uint32_t>(std::stoul(number, nullptr, 16));
        if (c >= 0xd800 && c < 0xe000) refuse(line_, "an escape that is no character");
        append_character(text, c);
        i += digits;
      } else if (digit(s_[i]) || s_[i] == 'N' || s_[i] == 'U') {
        refuse(line_, fmt::format("the escape \\{}", s_[i]));
      } else {
        text += {'\\', s_[i]};
      }
    }
    add(Type::kString, text);
    return i + 1;
  }

  std::string s_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  NodePtr run() {
    NodePtr root = block({});
    if (peek().type != Type::kEnd) refuse(peek().line, "a tag without its beginning");
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
      refuse(peek().line, fmt::format("{} is missing before \"{:.20}\"", op, peek().text));
  }
  void need_word(std::string_view word) {
    if (!take_word(word)) refuse(peek().line, fmt::format("{} is missing", word));
  }
  std::string need_name() {
    if (peek().type != Type::kName) refuse(peek().line, "a name is missing");
    return next().text;
  }
  void need(Type type) {
    if (next().type != type)
      refuse(tokens_[at_ - 1].line, fmt::format("\"{:.20}\" where a tag ends", tokens_[at_ - 1].text));
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
      refuse(peek().line, fmt::format("an expression of more than {} levels", kMaxDepth));
    parent.children.push_back(std::move(child));
  }
  NodePtr literal(TemplateValue value) {
    NodePtr node = make(Kind::kLiteral);
    node->value = std::move(value);
    return node;
  }
  struct Nested {
    explicit Nested(Parser& p) : p(p) {
      if (++p.depth_ > kMaxNesting) refuse(p.peek().line, fmt::format("nested deeper than {}", kMaxNesting));
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
        if (!until.empty()) refuse(peek().line, fmt::format("{} is missing", until.back()));
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
      refuse(line, fmt::format("the tag {:.40} is not supported", word));
    if (loops_ == 0) refuse(line, fmt::format("{} outside a loop", word));
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
    if (is_word("recursive")) refuse(peek().line, "recursive is not supported");
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
      if (count > 0) refuse(peek().line, "a chain of comparisons is not supported");
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
      refuse(peek().line, fmt::format("\"{:.20}\" where a value is expected", peek().text));
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
          refuse(peek().line, "a call of something without a name");
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
        if (++colons > 2) refuse(peek().line, "a slice of more than three parts");
      } else {
        if (parts[colons]) refuse(peek().line, "] is missing");
        parts[colons] = expression();
      }
    }
    need_operator("]");
    if (colons == 0 && !parts[0]) refuse(peek().line, "[] without a key");
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
          refuse(line, fmt::format("the filter {:.40} is not supported", node->name));
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
    if (!known_test(node->name)) refuse(line, fmt::format("the test {:.40} is not supported", node->name));
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
  return Parser(Lexer(source).run()).run();
}

}  // namespace contender
