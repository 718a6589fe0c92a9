// Values that no fraction is: enclosures by Arb's complex balls.
//
// The rule: two values are different when their balls do not meet, at 384 or at 3,072 bits. Where they still
// meet and there is no exact proof either way, they are the same if the ball of the difference lies within
// 1e-40 x max(1, |a|, |b|); else nothing is known, and they count as different.
//
// Expressions with symbols are compared at six fixed points, real, of both signs; at least two must have
// values, and all that have must agree.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "reward/math_parser.h"

namespace contender {

// All throw Unreadable for what has no value (text, sets, 1/0, log 0) and beyond 2^2048.
bool same_numerically(const Expr& a, const Expr& b, const std::vector<std::string>& symbols);

// Whether a = c b at all points for one number c that is not 0.
bool proportional(const Expr& a, const Expr& b, const std::vector<std::string>& symbols);

// -1, 0, 1: the order of two real numbers. Nothing when it is not known, or one of them is not real.
std::optional<int> order_of(const Expr& a, const Expr& b);

// Whether the real number `value` rounds to `decimal`, which is written with `places` digits behind its
// point.
bool rounds_to(const Expr& value, const Expr& decimal, int64_t places);

}  // namespace contender
