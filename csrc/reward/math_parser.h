// Answers as trees.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace contender {

enum class Op {
  kNumber,    // text as in math_lexer.h
  kSymbol,    // text: its name; pi, e, i, oo, reals, empty mean what they say
  kText,      // words that are no part of a formula
  kAdd,       // of two
  kMultiply,  // of two
  kDivide,    // of two
  kNegate,
  kPower,  // of two
  kRoot,   // of x, the n-th
  kFactorial,
  kPercent,
  kDegree,
  kFunction,   // text: its name; arguments
  kPlusMinus,  // of two; text "+-" or "-+"
  kBase,       // digits to a base: text, base
  kTuple,      // text: its brackets, "()" "[)" "<>"; "::" a ratio
  kSet,
  kList,  // parts without brackets
  kUnion,
  kIntersection,
  kDifference,  // of two
  kMatrix,      // rows, each a kTuple
  kRelation,    // of two: = < > <= >= != in
};

struct Expr {
  Op op = Op::kNumber;
  std::string text;
  std::vector<Expr> args;
  std::string unit;  // of a value with a unit: its words
};

// x, f(x), AB/CD, |AB|, (p, q), an area's words: what an equation may give a value to.
bool is_name(const Expr& e);

// Throws Unreadable (math_lexer.h), also for more than about 50 levels of nesting or 2,000 tokens.
Expr parse_answer(std::string_view text);

}  // namespace contender
