// What a program gave beside what was expected of it.
#pragma once

#include <string_view>

namespace contender {

// Line by line, without white space at the end of lines and without empty lines at the end.
bool same_output(std::string_view expected, std::string_view output);

// JSON values: the same type and value. Numbers are one type: an expected integer is met exactly, whatever
// its size, by 3 or 3.0; one with a point or an exponent within 1e-6 (relative above 1 and below 1e-6; 0.0
// within 1e-15). False when either is not JSON, or has a text that begins with \u0001.
bool same_value(std::string_view expected, std::string_view value);

}  // namespace contender
