#include "ptx/operand_parser.h"

#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include "ptx/constant.h"

namespace ptxsim::ptx {
namespace {

constexpr int kMaxDepth = 4;  // of lists and addresses within each other

// What may follow a complete operand.
bool at_operand_end(const Lexer& lexer) {
  const char c = lexer.peek();
  return c == ',' || c == ';' || c == ']' || c == '}' || c == ')' || c == '|';
}

}  // namespace

void OperandParser::list(Instruction& in) {
  stack_.clear();
  unresolved_ = 0;
  if (lexer_.peek() != ';') {
    do stack_.push_back(operand(0));
    while (lexer_.accept(','));
  }
  in.operands = take(0);
  if (unresolved_ > 0) refer(in.operands, in.loc.ptx_line, false);
}

void OperandParser::call(Instruction& in) {
  stack_.clear();
  unresolved_ = 0;
  Operand results, arguments;
  results.kind = arguments.kind = OperandKind::kVector;
  if (lexer_.peek() == '(') {
    results = vector('(', ')', 1);
    lexer_.expect(',');
  }
  Operand function = callee();
  bool more = lexer_.accept(',');
  if (more && lexer_.peek() == '(') {
    arguments = vector('(', ')', 1);
    more = lexer_.accept(',');
  }
  stack_.push_back(std::move(results));
  stack_.push_back(std::move(function));
  stack_.push_back(std::move(arguments));
  if (more) stack_.push_back(word());
  in.operands = take(0);
  if (unresolved_ > 0) refer(in.operands, in.loc.ptx_line, false);
}

std::vector<Operand> OperandParser::take(size_t first) {
  std::vector<Operand> result(std::make_move_iterator(stack_.begin() + first),
                              std::make_move_iterator(stack_.end()));
  stack_.resize(first);
  return result;
}

// Operands are where they will stay: the scope may now write into them.
void OperandParser::refer(std::vector<Operand>& operands, int line, bool in_address) {
  for (Operand& operand : operands) {
    if (operand.kind == OperandKind::kLabel) scope_.refer(operand, line, in_address);
    if (!operand.elements.empty()) refer(operand.elements, line, operand.kind == OperandKind::kAddress);
  }
}

Operand OperandParser::operand(int depth) {
  if (depth > kMaxDepth) lexer_.fail("operands nested too deeply");
  if (lexer_.at_word()) return pair_or_word();
  const char c = lexer_.peek();
  if (c == '[') return address(depth);
  if (c == '{') return vector('{', '}', depth + 1);
  if ((c == '!' || c == '-') && is_class(lexer_.peek(1), kWordStart)) {
    const Lexer before = lexer_;
    lexer_.advance(1);
    Operand result = word();
    if (result.kind == OperandKind::kRegister) {
      result.negated = true;
      return result;
    }
    lexer_ = before;
  }
  return constant();
}

Operand OperandParser::pair_or_word() {
  Operand first = word();
  if (lexer_.peek() != '|') return first;
  lexer_.advance(1);
  Operand pair;
  pair.kind = OperandKind::kPair;
  pair.elements.reserve(2);
  pair.elements.push_back(std::move(first));
  pair.elements.push_back(word());
  for (const Operand& element : pair.elements) {
    if (element.kind != OperandKind::kRegister && element.kind != OperandKind::kSink) {
      lexer_.fail("a pair of something other than registers");
    }
  }
  return pair;
}

// A name with its lane or offset, or _, or an expression that begins with WARP_SZ.
Operand OperandParser::word() {
  const Lexer before = lexer_;
  const std::string_view text = lexer_.word();
  Operand result;
  if (text == "_") return result;
  if (text == "WARP_SZ" && !at_operand_end(lexer_)) {
    lexer_ = before;
    return constant();
  }
  result = name(text);
  const bool in_memory = result.kind == OperandKind::kVariable || result.kind == OperandKind::kLabel;
  if (in_memory && lexer_.peek() == '+') result.integer = parse_integer(lexer_);
  return result;
}

Operand OperandParser::name(std::string_view text) {
  Operand result;
  if (const Binding* binding = scope_.find(text)) {
    switch (binding->kind) {
      case NameKind::kRegister:
        result.kind = OperandKind::kRegister;
        result.reg = binding->index;
        if (lexer_.peek() == '.' || binding->count > 0) lane(result, *binding);
        return result;
      case NameKind::kVariable:
        result.kind = OperandKind::kVariable;
        result.variable = binding->index;
        return result;
      case NameKind::kLabel:
        break;  // a label of this name may yet follow in an inner scope
    }
  } else if (text[0] == '%' || text == "WARP_SZ") {
    result.kind = OperandKind::kSpecial;
    result.name = text;
    const char* dot = text.data() + text.size();
    if (lexer_.position() == dot && *dot == '.') {
      const std::string_view component = lexer_.dotted();
      if (component.empty()) lexer_.expected("a component");
      result.name = {text.data(), text.size() + 1 + component.size()};
    }
    return result;
  }
  result.kind = OperandKind::kLabel;
  result.name = text;
  ++unresolved_;
  return result;
}

// %r1.b0, %r1.h1, v.x; the whole of a vector register is a vector operand.
void OperandParser::lane(Operand& out, const Binding& binding) {
  if (lexer_.peek() != '.') {
    out = Operand{};
    out.kind = OperandKind::kVector;
    for (int i = 0; i < binding.count; ++i) {
      Operand element;
      element.kind = OperandKind::kRegister;
      element.reg = binding.index + i;
      out.elements.push_back(std::move(element));
    }
    return;
  }
  const std::string_view text = lexer_.dotted();
  if (binding.count > 0) {
    const std::string_view letters = "xyzwrgba";
    const size_t found = text.size() == 1 ? letters.find(text[0]) : std::string_view::npos;
    if (found == std::string_view::npos || static_cast<int>(found % 4) >= binding.count) {
      lexer_.fail("the register has no lane '.{}'", text);
    }
    out.reg += static_cast<int>(found % 4);
    return;
  }
  const int lanes = text.empty() ? 0 : text[0] == 'b' ? 4 : text[0] == 'h' ? 2 : 0;
  if (text.size() != 2 || text[1] < '0' || text[1] >= '0' + lanes) {
    lexer_.fail("the register has no lane '.{}'", text);
  }
  out.lane = text[1] - '0';
  out.lane_unit = text[0];
}

Operand OperandParser::constant() {
  if (!at_constant(lexer_) && !lexer_.at_word()) lexer_.expected("an operand");
  const Constant value = parse_constant(lexer_);
  Operand result;
  result.kind = value.is_float ? OperandKind::kFloat : OperandKind::kInteger;
  result.integer = value.integer;
  result.real = value.real;
  result.is_single = value.is_single;
  return result;
}

Operand OperandParser::vector(char open, char close, int depth) {
  lexer_.expect(open);
  const size_t first = stack_.size();
  while (lexer_.peek() != close) {
    if (stack_.size() > first) lexer_.expect(',');
    Operand element = operand(depth);
    stack_.push_back(std::move(element));
  }
  lexer_.expect(close);
  Operand result;
  result.kind = OperandKind::kVector;
  result.elements = take(first);
  if (result.elements.empty() && open == '{') lexer_.fail("an empty vector");
  return result;
}

Operand OperandParser::address(int depth) {
  lexer_.expect('[');
  const size_t first = stack_.size();
  Operand result;
  result.kind = OperandKind::kAddress;
  Operand start = base();
  if (start.kind == OperandKind::kRegister && lexer_.peek() == '+') {
    result.integer = parse_integer(lexer_);
  } else if (start.kind != OperandKind::kInteger) {
    result.integer = std::exchange(start.integer, 0);  // [name+4] rather than [(name+4)]
  }
  stack_.push_back(std::move(start));
  while (lexer_.accept(',')) {
    Operand coordinate = operand(depth + 1);
    stack_.push_back(std::move(coordinate));
  }
  lexer_.expect(']');
  result.elements = take(first);
  return result;
}

// Of an address: a register, a name or an integer.
Operand OperandParser::base() {
  Operand result = lexer_.at_word() ? word() : constant();
  switch (result.kind) {
    case OperandKind::kRegister:
    case OperandKind::kVariable:
    case OperandKind::kInteger:
    case OperandKind::kLabel:
      return result;
    default:
      lexer_.fail("an address that is no register, variable or integer");
  }
}

// A function of the module, or a register that holds the address of one.
Operand OperandParser::callee() {
  Operand result;
  const std::string_view text = lexer_.word();
  if (const Binding* binding = scope_.find(text); binding && binding->kind == NameKind::kRegister) {
    result.kind = OperandKind::kRegister;
    result.reg = binding->index;
    return result;
  }
  scope_.require_function(lexer_, text);
  result.kind = OperandKind::kFunction;
  result.name = text;
  return result;
}

}  // namespace ptxsim::ptx
