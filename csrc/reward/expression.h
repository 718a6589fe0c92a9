// Exact evaluation of small arithmetic expressions: + - * / and parentheses over whole numbers, in rationals.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace contender {

struct Rational {
  int64_t num = 0;
  int64_t den = 1;  // > 0, no common factor with num
};

// The value of `text` and, in `numbers`, the numbers it is written with, in order. Nothing for anything else:
// another character, a sign, a leading zero, a number above 10^9, a division by zero, a value that does not
// fit 64 bits, more than 256 bytes or 32 nested parentheses. White space between tokens is allowed. Never
// throws.
std::optional<Rational> evaluate_expression(std::string_view text, std::vector<int64_t>* numbers);

}  // namespace contender
