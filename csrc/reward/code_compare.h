// What a program gave beside what was expected of it.
#pragma once

#include <string_view>

namespace contender {

// Line by line, without white space at the end of lines and without empty lines at the end.
bool same_output(std::string_view expected, std::string_view output);

// JSON values: the same type and value; an expected number with a point or an exponent is met within 1e-6
// (relative above 1), integers exactly whatever their size. False when either is not JSON.
bool same_value(std::string_view expected, std::string_view value);

}  // namespace contender
