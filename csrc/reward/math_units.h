// Units of measurement behind an answer.
#pragma once

#include <string>
#include <string_view>

namespace contender {

// One name for a unit that is known, in any of its spellings ("square inches" and "in^2" are in^2); "" for
// words that are none.
std::string known_unit(std::string_view words);

// Whether words behind a number say another number rather than what is counted: squared, below zero, and a
// half million. Inches squared, parts per million and negative roots are units.
bool changes_value(std::string_view unit);

}  // namespace contender
