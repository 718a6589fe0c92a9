// Chat templates as a list of tokens, white space control applied.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace contender {

struct TemplateToken {
  enum class Type {
    kText,
    kName,
    kInteger,
    kNumber,
    kString,
    kOperator,
    kPrint,
    kEndPrint,
    kTag,
    kEndTag,
    kEnd
  };
  Type type;
  std::string text;
  int line;
};

[[noreturn]] void refuse_template(int line, const std::string& what);  // "line N: what"

// Ends with a token of type kEnd. Throws std::runtime_error.
std::vector<TemplateToken> lex_template(std::string_view source);

}  // namespace contender
