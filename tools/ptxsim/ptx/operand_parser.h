// The operands of one instruction.
// Source: PTX ISA 9.0, sections 6 (operands), 9.7.12 (call).
#pragma once

#include <vector>

#include "ptx/lexer.h"
#include "ptx/module.h"
#include "ptx/scope.h"

namespace ptxsim::ptx {

class OperandParser {
 public:
  OperandParser(Lexer& lexer, FunctionScope& scope) : lexer_(lexer), scope_(scope) {}

  // Up to the ';'.
  void list(Instruction& in);
  // (results), function, (arguments), prototype
  void call(Instruction& in);

 private:
  Operand operand(int depth);
  Operand pair_or_word();
  Operand word();
  Operand name(std::string_view text);
  void lane(Operand& out, const Binding& binding);
  Operand constant();
  Operand vector(char open, char close, int depth);
  Operand address(int depth);
  Operand base();
  Operand callee();
  // Moves what lies on the stack from `first` on to a vector of just that length.
  std::vector<Operand> take(size_t first);
  void refer(std::vector<Operand>& operands, int line, bool in_address);

  Lexer& lexer_;
  FunctionScope& scope_;
  std::vector<Operand> stack_;  // finished operands of lists that are still open
  int unresolved_ = 0;          // operands of this instruction that name something not seen yet
};

}  // namespace ptxsim::ptx
