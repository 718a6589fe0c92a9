#include "ptx/scope.h"

#include <algorithm>
#include <utility>

namespace ptxsim::ptx {
namespace {

// Enough for 80000 registers in any function, and for a register per character of long ones.
constexpr uint64_t kRegisterBytes = 4 << 20;
constexpr uint64_t kRegisterBytesPerCharacter = 48;
constexpr size_t kMaxRangeDigits = 9;  // of a register's number: it fits an int

}  // namespace

FunctionScope::FunctionScope(const Module& module, size_t text_size)
    : module(module), register_budget_(kRegisterBytes + kRegisterBytesPerCharacter * text_size) {}

void FunctionScope::enter() {
  names_.enter();
  ranges_.enter();
  marks_.push_back(pending_.size());
  has_labels_.push_back(false);
}

void FunctionScope::leave() {
  if (has_labels_.back()) {
    size_t kept = marks_.back();
    for (size_t i = kept; i < pending_.size(); ++i) {
      const Binding* binding = names_.find(pending_[i].name);
      if (binding && binding->kind == NameKind::kLabel && binding->depth == depth()) {
        resolve(pending_[i], binding->index);
      } else {
        pending_[kept++] = pending_[i];
      }
    }
    pending_.resize(kept);
  }
  names_.leave();
  ranges_.leave();
  marks_.pop_back();
  has_labels_.pop_back();
}

void FunctionScope::finish() {
  for (const Pending& pending : pending_) {
    if (!pending.operand)
      throw ParseError(pending.line, fmt::format("the branch target '{}' is no label", pending.name));
    Operand& operand = *pending.operand;
    if (module.variable_index.contains(pending.name)) {
      operand.kind = OperandKind::kVariable;
      operand.is_global = true;
    } else if (module.function_index.contains(pending.name) && !pending.in_address) {
      if (operand.integer != 0) {
        throw ParseError(pending.line, fmt::format("an offset from the function '{}'", pending.name));
      }
      operand.kind = OperandKind::kFunction;
    } else {
      throw ParseError(pending.line, fmt::format("'{}' is not declared", pending.name));
    }
  }
}

void FunctionScope::resolve(const Pending& pending, int label) {
  if (!pending.operand) {
    labels[pending.table].targets[pending.slot] = label;
    return;
  }
  if (pending.operand->integer != 0) {
    throw ParseError(pending.line, fmt::format("an offset from the label '{}'", pending.name));
  }
  if (pending.in_address) {
    throw ParseError(pending.line, fmt::format("the label '{}' in an address", pending.name));
  }
  pending.operand->kind = OperandKind::kLabel;
  pending.operand->label = label;
}

int FunctionScope::add_register(const Lexer& lexer, std::string_view name, Type type) {
  reserve_registers(lexer, name, 1);
  const int index = static_cast<int>(registers.size());
  declare(lexer, name, {.kind = NameKind::kRegister, .index = index});
  registers.push_back({std::string(name), type});
  return index;
}

void FunctionScope::add_register_range(const Lexer& lexer, std::string_view name, Type type, int count) {
  reserve_registers(lexer, name, count);
  const Binding binding{
      .kind = NameKind::kRegister, .index = static_cast<int>(registers.size()), .count = count};
  if (!ranges_.declare(name, binding)) lexer.fail("'{}<...>' is declared twice", name);
  has_digit_prefix_ |= is_class(name.back(), kDigit);
  std::string full(name);
  for (int i = 0; i < count; ++i) {
    full.resize(name.size());
    full += std::to_string(i);
    registers.push_back({full, type});
  }
}

void FunctionScope::add_register_vector(const Lexer& lexer, std::string_view name, Type type, int lanes) {
  reserve_registers(lexer, name, lanes);
  const int index = static_cast<int>(registers.size());
  declare(lexer, name, {.kind = NameKind::kRegister, .index = index, .count = lanes});
  for (int i = 0; i < lanes; ++i) registers.push_back({std::string(name) + '.' + "xyzw"[i], type});
}

void FunctionScope::add_variable(const Lexer& lexer, std::string_view name, Variable variable) {
  declare(lexer, name, {.kind = NameKind::kVariable, .index = static_cast<int>(variables.size())});
  variables.push_back(std::move(variable));
}

int FunctionScope::add_label(const Lexer& lexer, std::string_view name, int at) {
  const int index = static_cast<int>(labels.size());
  declare(lexer, name, {.kind = NameKind::kLabel, .index = index});
  labels.push_back({std::string(name), at, {}});
  has_labels_.back() = true;
  return index;
}

void FunctionScope::add_target(const Lexer& lexer, int label, std::string_view target) {
  std::vector<int>& targets = labels[label].targets;
  pending_.push_back({target, nullptr, label, static_cast<int>(targets.size()), lexer.line()});
  targets.push_back(-1);
}

void FunctionScope::require_function(const Lexer& lexer, std::string_view name) const {
  if (!module.function_index.contains(name)) lexer.fail("'{}' is no function", name);
}

void FunctionScope::declare(const Lexer& lexer, std::string_view name, Binding binding) {
  if (name == "_") lexer.fail("'_' is no name");
  const Binding* in_range = is_class(name.back(), kDigit) ? find_in_range(name) : nullptr;
  if ((in_range && in_range->depth == depth()) || !names_.declare(name, binding)) {
    lexer.fail("'{}' is declared twice", name);
  }
}

void FunctionScope::reserve_registers(const Lexer& lexer, std::string_view name, uint64_t count) {
  const uint64_t bytes = count * (sizeof(Register) + name.size());
  if (bytes > register_budget_) lexer.fail("too many registers for a function of this length");
  register_budget_ -= bytes;
}

const Binding* FunctionScope::find(std::string_view name) {
  const Binding* exact = names_.find(name);
  if (!is_class(name.back(), kDigit)) return exact;
  const Binding* in_range = find_in_range(name);
  if (!exact || (in_range && in_range->depth > exact->depth)) return in_range;
  return exact;
}

// %r12 as one of %r<100>. A prefix may itself end in a digit: %r1<10> has %r12 too.
const Binding* FunctionScope::find_in_range(std::string_view name) {
  size_t split = name.size() - 1;
  while (split > 0 && is_class(name[split - 1], kDigit)) --split;
  if (name.size() - split > kMaxRangeDigits) {
    if (!has_digit_prefix_) return nullptr;
    split = name.size() - kMaxRangeDigits;
  }
  const Binding* best = nullptr;
  for (split = std::max<size_t>(split, 1); split < name.size(); ++split) {
    const std::string_view digits = name.substr(split);
    if (digits[0] != '0' || digits.size() == 1) {
      int number = 0;
      for (const char c : digits) number = number * 10 + (c - '0');
      const Binding* range = ranges_.find_range(name.substr(0, split), number);
      if (range && (!best || range->depth > best->depth)) {
        found_ = {NameKind::kRegister, range->index + number, 0, range->depth};
        best = &found_;
      }
    }
    if (!has_digit_prefix_) break;
  }
  return best;
}

}  // namespace ptxsim::ptx
