// Exact values: quotients of polynomials in any symbols over the rational numbers, by FLINT.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "reward/math_parser.h"

namespace contender {

// Symbols other than the constants pi, e and i, each once.
std::vector<std::string> symbols_of(const Expr& a, const Expr& b);

// Whether both are the same quotient. Nothing when one of them is none (pi, i, roots that do not come out,
// sines), divides by zero, has more than 32 symbols or grows beyond 65,536 bits or 4,000 terms on the way.
std::optional<bool> same_exactly(const Expr& a, const Expr& b, const std::vector<std::string>& symbols);

// A number as it is written. A decimal has digits behind its point.
struct Decimal {
  std::string digits;       // of numerator, in base 10
  std::string denominator;  // likewise
  int64_t places = 0;       // digits behind the point
};
// Throws Unreadable for exponents beyond 10,000.
Decimal decimal_of(const std::string& number);

}  // namespace contender
