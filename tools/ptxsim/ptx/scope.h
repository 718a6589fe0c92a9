// What the names in the body of a function stand for, and references to names that are declared only later.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ptx/lexer.h"
#include "ptx/module.h"
#include "ptx/names.h"

namespace ptxsim::ptx {

class FunctionScope {
 public:
  // `text_size` of the body bounds the memory that its registers may take.
  FunctionScope(const Module& module, size_t text_size);

  int depth() const { return names_.depth(); }
  void enter();
  // Labels of this scope are now final: gives them to the references inside of it.
  void leave();
  // What is still unknown must be a variable or a function of the module. Throws ParseError where it is not.
  void finish();

  // Errors, here and below: the name is taken in this scope, or there are too many.
  int add_register(const Lexer& lexer, std::string_view name, Type type);
  // name0 .. name<count-1>
  void add_register_range(const Lexer& lexer, std::string_view name, Type type, int count);
  // name.x .. name.w
  void add_register_vector(const Lexer& lexer, std::string_view name, Type type, int lanes);
  void add_variable(const Lexer& lexer, std::string_view name, Variable variable);
  int add_label(const Lexer& lexer, std::string_view name, int at);
  // One more label in the table of branch targets that `label` names.
  void add_target(const Lexer& lexer, int label, std::string_view target);
  void require_function(const Lexer& lexer, std::string_view name) const;

  // A register or variable that is visible now, or a label that was seen already; nullptr for others. Valid
  // until anything is declared.
  const Binding* find(std::string_view name);
  // Remembers that `operand` (which must stay where it is) refers to operand.name, which find does not know
  // (yet), and whether it is part of an address, where only variables may be.
  void refer(Operand& operand, int line, bool in_address) {
    pending_.push_back({operand.name, &operand, -1, 0, line, in_address});
  }

  const Module& module;
  std::vector<Register> registers;
  std::vector<Variable> variables;
  std::vector<Label> labels;

 private:
  struct Pending {
    std::string_view name;
    Operand* operand;  // or, where it is nullptr, labels[table].targets[slot]
    int table, slot;
    int line;
    bool in_address = false;
  };

  void declare(const Lexer& lexer, std::string_view name, Binding binding);
  void reserve_registers(const Lexer& lexer, std::string_view name, uint64_t count);
  const Binding* find_in_range(std::string_view name);
  void resolve(const Pending& pending, int label);

  ScopedNames names_;
  ScopedNames ranges_;  // prefixes of name<count>
  bool has_digit_prefix_ = false;
  Binding found_;
  std::vector<Pending> pending_;
  std::vector<size_t> marks_;     // pending_.size() at the start of each scope
  std::vector<bool> has_labels_;  // of each open scope
  uint64_t register_budget_;      // bytes
};

}  // namespace ptxsim::ptx
