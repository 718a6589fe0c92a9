// libFuzzer target: whatever the text, the PTX parser returns a module whose indices and views are in range,
// or throws ParseError with a line of the text.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "ptx/module.h"

namespace ptxsim::ptx {
namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

template <class T>
bool valid(int index, const std::vector<T>& items) {
  return index >= 0 && static_cast<size_t>(index) < items.size();
}

void require_within(const Module& module, std::string_view view) {
  const std::string_view text = *module.text;
  require(!view.empty() && view.data() >= text.data() &&
          view.data() + view.size() <= text.data() + text.size());
}

bool is_base(OperandKind kind) {
  return kind == OperandKind::kRegister || kind == OperandKind::kVariable || kind == OperandKind::kInteger;
}

void check(const Module& module, const Function& function, const Operand& operand) {
  switch (operand.kind) {
    case OperandKind::kRegister:
      require(valid(operand.reg, function.registers) && operand.elements.empty());
      break;
    case OperandKind::kVariable:
      if (operand.is_global) {
        require_within(module, operand.name);
        require(module.variable_index.contains(operand.name));
      } else {
        require(valid(operand.variable, function.variables));
      }
      break;
    case OperandKind::kFunction:
      require(module.find(operand.name) != nullptr);
      break;
    case OperandKind::kLabel:
      require(valid(operand.label, function.labels));
      break;
    case OperandKind::kSpecial:
      require_within(module, operand.name);
      break;
    case OperandKind::kPair:
      require(operand.elements.size() == 2);
      break;
    case OperandKind::kAddress:
      require(!operand.elements.empty());
      require(is_base(operand.elements[0].kind) && operand.elements[0].elements.empty());
      break;
    case OperandKind::kVector:
    case OperandKind::kInteger:
    case OperandKind::kFloat:
    case OperandKind::kSink:
      break;
  }
  for (const Operand& element : operand.elements) check(module, function, element);
}

void check(const Module& module, const Function& function) {
  require(function.variables.size() >= function.parameters.size() + function.results.size());
  for (const Label& label : function.labels) {
    require(label.at >= 0 && static_cast<size_t>(label.at) <= function.body.size());
    for (const int target : label.targets) require(valid(target, function.labels));
  }
  for (const Instruction& instruction : function.body) {
    require(!instruction.parts.empty());
    require_within(module, instruction.opcode);
    for (const std::string_view part : instruction.parts) require_within(module, part);
    require(instruction.guard == -1 || valid(instruction.guard, function.registers));
    require(instruction.mnemonic() != "call" || instruction.operands.size() >= 3);
    for (const Operand& operand : instruction.operands) check(module, function, operand);
  }
}

void check(const Module& module) {
  for (const auto& [name, index] : module.variable_index) {
    require_within(module, name);
    require(valid(index, module.variables) && module.variables[index].name == name);
  }
  for (const auto& [name, index] : module.function_index) {
    require_within(module, name);
    require(valid(index, module.functions));
  }
  for (const Variable& variable : module.variables) {
    require(variable.init.size() <= variable.bytes);
    for (const AddressInit& address : variable.addresses)
      require(address.offset + address.bytes <= variable.bytes);
  }
}

void run(const std::string& text) {
  const int lines = static_cast<int>(std::count(text.begin(), text.end(), '\n')) + 1;
  try {
    const auto module = parse_module(text);
    check(*module);
    for (Function& function : module->functions) {
      try {
        parse_body(*module, function);
        check(*module, function);
      } catch (const ParseError& error) {
        require(error.line >= 1 && error.line <= lines && !function.parsed && function.body.empty());
      }
    }
  } catch (const ParseError& error) {
    require(error.line >= 1 && error.line <= lines);
  }
}

}  // namespace
}  // namespace ptxsim::ptx

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ptxsim::ptx::run(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
