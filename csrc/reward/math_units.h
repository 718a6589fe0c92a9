// Units of measurement behind an answer.
#pragma once

#include <string>
#include <string_view>

namespace contender {

// One name for a unit that is known, in any of its spellings ("square inches" and "in^2" are in^2); "" for
// words that are none.
std::string known_unit(std::string_view words);

}  // namespace contender
