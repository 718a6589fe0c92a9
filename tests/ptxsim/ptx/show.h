// Parsed PTX as text, so that tests can say what they expect in a line.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <string_view>
#include <vector>

#include "ptx/module.h"

namespace ptxsim::ptx {

inline const std::string kHeader = ".version 9.0\n.target sm_90a\n.address_size 64\n";

inline std::string show(const Function& f, const Operand& o);

inline std::string show(const Function& f, const std::vector<Operand>& operands) {
  std::vector<std::string> shown;
  for (const Operand& operand : operands) shown.push_back(show(f, operand));
  return fmt::format("{}", fmt::join(shown, ", "));
}

// Registers as they are called, <special>, variable or @global with its offset, &function, [address]+offset,
// {vector}, a|b, ->label@instruction, floats as f(value) (single) and d(value).
inline std::string show(const Function& f, const Operand& o) {
  const auto offset = [&] {
    return o.integer == 0 ? "" : fmt::format("{:+}", static_cast<int64_t>(o.integer));
  };
  switch (o.kind) {
    case OperandKind::kRegister: {
      const std::string lane = o.lane < 0 ? "" : fmt::format(".{}{}", o.lane_unit, o.lane);
      return fmt::format("{}{}{}", o.negated ? "not " : "", f.registers.at(o.reg).name, lane);
    }
    case OperandKind::kInteger:
      return fmt::format("{}", static_cast<int64_t>(o.integer));
    case OperandKind::kFloat:
      return fmt::format("{}({})", o.is_single ? 'f' : 'd', o.real);
    case OperandKind::kSpecial:
      return fmt::format("<{}>", o.name);
    case OperandKind::kVariable:
      return (o.is_global ? fmt::format("@{}", o.name) : f.variables.at(o.variable).name) + offset();
    case OperandKind::kFunction:
      return fmt::format("&{}", o.name);
    case OperandKind::kAddress:
      return fmt::format("[{}]{}", show(f, o.elements), offset());
    case OperandKind::kVector:
      return fmt::format("{{{}}}", show(f, o.elements));
    case OperandKind::kPair:
      return fmt::format("{}|{}", show(f, o.elements.at(0)), show(f, o.elements.at(1)));
    case OperandKind::kLabel:
      return fmt::format("->{}@{}", f.labels.at(o.label).name, f.labels.at(o.label).at);
    case OperandKind::kSink:
      return "_";
  }
  return "?";
}

inline std::string show(const Function& f, const Instruction& in) {
  std::string result;
  if (in.guard >= 0)
    result = fmt::format("@{}{} ", in.guard_negated ? "!" : "", f.registers.at(in.guard).name);
  result += fmt::format("{}", fmt::join(in.parts, "."));
  return in.operands.empty() ? result : result + " " + show(f, in.operands);
}

inline std::vector<std::string> show(const Function& f) {
  std::vector<std::string> result;
  for (const Instruction& in : f.body) result.push_back(show(f, in));
  return result;
}

}  // namespace ptxsim::ptx
