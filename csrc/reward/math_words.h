// Numbers that are written in words.
#pragma once

#include <string>
#include <string_view>

namespace contender {

// An answer that begins with a number in words, or in digits and words, with digits in their place: 250 for
// "2 hundred fifty", 5/2 for "5 halves" and "two and a half", 6 for "half a dozen", -3 for "negative three",
// "25 percent" for "twenty-five percent"; what is counted stays behind it. Everything else as it is: words
// that begin with no number, formulas, and "one or two". "7 quarters" are left to math_compare.cpp.
std::string in_digits(std::string_view answer);

}  // namespace contender
