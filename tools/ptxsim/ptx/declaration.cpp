#include "ptx/declaration.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

namespace ptxsim::ptx {
namespace {

constexpr uint64_t kMaxAlign = 1 << 20;

uint64_t parse_align(Lexer& lexer) {
  const uint64_t align = lexer.integer(kMaxAlign);
  if (!std::has_single_bit(align)) lexer.fail("the alignment {} is no power of two", align);
  return align;
}

// Behind `.ptr`: what the parameter points to, which says nothing about the parameter itself.
void skip_pointee(Lexer& lexer) {
  while (true) {
    const std::string_view word = lexer.dotted();
    if (word.empty()) return;
    if (word == "align") {
      parse_align(lexer);
    } else if (space_named(word) == Space::kNone) {
      lexer.fail("'.{}' behind .ptr", word);
    }
  }
}

}  // namespace

Space space_named(std::string_view word) {
  constexpr std::pair<std::string_view, Space> kSpaces[] = {
      {"reg", Space::kReg},       {"param", Space::kParam}, {"shared", Space::kShared},
      {"global", Space::kGlobal}, {"local", Space::kLocal}, {"const", Space::kConst},
  };
  for (const auto& [name, space] : kSpaces) {
    if (name == word) return space;
  }
  return Space::kNone;
}

DeclaredType parse_declared_type(Lexer& lexer) {
  DeclaredType result;
  while (true) {
    const std::string_view word = lexer.dotted();
    if (word.empty()) break;
    if (word == "align") {
      result.align = parse_align(lexer);
    } else if (word == "attribute") {
      lexer.skip_parenthesised();
    } else if (word == "v2" || word == "v4") {
      result.lanes = word[1] - '0';
    } else if (word == "ptr") {
      skip_pointee(lexer);
    } else if (const Type type = type_named(word); type != Type::kNone) {
      if (result.type != Type::kNone) lexer.fail("a second type, .{}", word);
      result.type = type;
    } else {
      lexer.fail("'.{}' in a declaration", word);
    }
  }
  if (result.type == Type::kNone) lexer.expected("a type");
  return result;
}

Declarator parse_declarator(Lexer& lexer, Space space, const DeclaredType& type) {
  Declarator result;
  result.name = lexer.word();
  Variable& variable = result.variable;
  variable.name = result.name;
  variable.space = space;
  variable.type = type.type;
  if (type.type == Type::kPred && space != Space::kReg) lexer.fail("a predicate outside of registers");
  uint64_t bytes = size_of(type.type);
  while (lexer.accept('[')) {
    if (result.dimensions.empty() && lexer.peek() == ']') {
      result.dimensions.push_back(0);
    } else {
      result.dimensions.push_back(lexer.integer(kMaxVariableBytes));
      if (result.dimensions.back() == 0) lexer.fail("a dimension of zero");
    }
    lexer.expect(']');
    if (result.dimensions.size() > 16) lexer.fail("more than 16 dimensions");
  }
  if (type.lanes > 1) result.dimensions.push_back(type.lanes);
  for (const uint64_t count : result.dimensions) {
    if (__builtin_mul_overflow(bytes, std::max<uint64_t>(count, 1), &bytes) || bytes > kMaxVariableBytes) {
      lexer.fail("the variable '{}' is too large", variable.name);
    }
  }
  const bool open = !result.dimensions.empty() && result.dimensions[0] == 0;
  variable.bytes = open ? 0 : bytes;
  variable.align = type.align ? type.align : static_cast<uint64_t>(size_of(type.type)) * type.lanes;
  return result;
}

std::vector<Variable> parse_parameters(Lexer& lexer) {
  std::vector<Variable> result;
  lexer.expect('(');
  while (lexer.peek() != ')') {
    if (!result.empty()) lexer.expect(',');
    const Space space = space_named(lexer.dotted());
    if (space != Space::kParam && space != Space::kReg) lexer.expected(".param or .reg");
    result.push_back(parse_declarator(lexer, space, parse_declared_type(lexer)).variable);
  }
  lexer.expect(')');
  return result;
}

}  // namespace ptxsim::ptx
