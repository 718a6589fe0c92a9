// The program in a completion.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace contender {

struct CodeProgram {
  std::string language;  // python | cpp
  std::string source;
};

// The last fenced block behind the thought, inside <answer> where there is one: ```python, ```py, ```cpp,
// ```c++ and the like; one without a name, in `language`, only when none has a name. Blocks of other
// languages (sample output, shell commands) are passed over. Nothing while the thought (of `completion`, or
// opened by `prompt`) is not closed, with several <answer>, or when the last block is not closed. Linear time
// on any bytes.
std::optional<CodeProgram> find_program(std::string_view prompt, std::string_view completion,
                                        std::string_view language);

}  // namespace contender
