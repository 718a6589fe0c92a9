// Whether two answers say the same.
#pragma once

#include <string_view>

namespace contender {

bool same_answer(std::string_view given, std::string_view expected);

}  // namespace contender
