// Sets of real numbers: intervals, points, and what unions, differences and inequalities make of them.
#pragma once

#include <optional>

#include "reward/math_parser.h"

namespace contender {

// Whether `e` can only be a set of real numbers: an interval with a round and a square bracket or without
// end, a union, an inequality.
bool is_real_set(const Expr& e);

// Both read as such sets; an open interval may look like a point of the plane. Throws Unreadable when one of
// them is none, or its end points cannot be ordered.
bool same_real_sets(const Expr& a, const Expr& b);

// 1 for infinity, -1 for minus infinity, else 0.
int infinity_of(const Expr& e);

}  // namespace contender
