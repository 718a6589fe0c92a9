// Whether two answers say the same.
//
//   numbers       same value, however written; a decimal of six or more places and digits (leading zeros
//                 do not count) is what rounds to it; 28% is 28 or 0.28; 90 degrees is 90 or pi/2;
//                 3 million is 3,000,000, "two and a half" 5/2, 3 quarters are 3/4 or 3 coins; units are
//                 ignored unless both are known and differ
//   expressions   same function of their symbols; 2+3 is 5, worked out or not
//   sets, lists   same elements in any order; tuples in theirs; one element is itself
//   intervals     same end points; unions, differences and inequalities as sets of real numbers
//   matrices      element by element; a row or column is a tuple
//   equations     same solutions as far as a constant factor shows it; x = 5 is 5
//   a +- b        the list of both
//   letters       a choice A to J with or without brackets, a full stop, the text of the choice
//   anything else same words
#pragma once

#include <string_view>

namespace contender {

// Never throws. An empty answer is the same as nothing.
bool same_answer(std::string_view given, std::string_view expected);

}  // namespace contender
