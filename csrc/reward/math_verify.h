// Is the answer of a completion the expected one? Exact where both sides have exact values (math_exact.h), by
// interval arithmetic where they have not (math_numeric.h), part by part for sets, intervals, tuples and
// matrices (math_compare.h), as text for everything that is not mathematics.
//
// Bounded: sizes, depths and exponents are checked before anything is computed. Still only for a process that
// may be killed: the libraries below end the process when memory runs out.
#pragma once

#include <string>
#include <string_view>

namespace contender {

struct MathVerdict {
  bool correct = false;
  const char* status = "ok";  // no_answer; several_answers: they differ and are no list of the expected
};

// `prompt` tells whether a template opened the thought. `expected` is an answer as it is, or a worked
// solution whose last line is `#### answer`, or one with its answer in \boxed{}. Never throws, any bytes.
MathVerdict verify_math(std::string_view prompt, std::string_view completion, std::string_view expected);

}  // namespace contender
