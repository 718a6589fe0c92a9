// The syntax of chat templates: source to a tree.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/chat_template_value.h"

namespace contender {

// Children of a kind are listed behind it; a null child is not given.
struct TemplateNode {
  enum class Kind {
    kLiteral,    // value
    kName,       // name
    kList,       // items
    kDict,       // key, value, key, value, ...
    kAttribute,  // object; name
    kItem,       // object, key
    kSlice,      // object, start, stop, step
    kCall,       // callee (kName or kAttribute), arguments; names of arguments
    kFilter,     // object, arguments; name, names of arguments
    kTest,       // object, arguments; name
    kNot,        // operand
    kNegative,   // operand
    kAnd,        // left, right
    kOr,         // left, right
    kBinary,     // left, right; name is the operator
    kChoice,     // condition, then, else
    kPrint,      // expression
    kBlock,      // statements
    kIf,         // condition, then, else
    kFor,        // iterated, condition, body, else; names of the targets
    kSet,        // value (an expression or a block); names: the variable, and the attribute of a namespace
    kBreak,
    kContinue,
  };
  Kind kind;
  int line = 0;
  int depth = 1;  // of the tree below
  std::string name;
  std::vector<std::string> names;
  std::vector<std::unique_ptr<TemplateNode>> children;
  TemplateValue value;
};

// Throws std::runtime_error, "line N: what".
std::unique_ptr<TemplateNode> parse_template(std::string_view source);

}  // namespace contender
