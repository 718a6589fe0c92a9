#include "reward/math_compare.h"

namespace contender {

bool same_answer(std::string_view given, std::string_view expected) { return given == expected; }

}  // namespace contender
