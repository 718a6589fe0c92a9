#include "decode/flatten.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "exec/program.h"

namespace ptxsim {

using ptx::Function;
using ptx::Instruction;
using ptx::Operand;
using ptx::OperandKind;
using ptx::ParseError;
using ptx::Space;

namespace {

constexpr int kMaxDepth = 64;
constexpr size_t kMaxInstructions = 4 << 20;  // inlining of a chain of calls may double at every level

uint64_t align_up(uint64_t n, uint64_t align) { return (n + align - 1) / align * align; }

class Flattener {
 public:
  explicit Flattener(ptx::Module& module) : module_(module) {}

  FlatKernel run(Function& entry) {
    flat_.shared_end = kSharedBase;
    for (const ptx::Variable& v : module_.variables)
      if (v.space == Space::kShared && !v.is_extern) module_shared_[v.name] = place_shared(v);
    // A kernel is decoded once per device: for a second one its text is parsed again, for the first nothing
    // is copied.
    if (!entry.parsed) {
      entry.registers.clear();
      entry.variables.clear();
      entry.labels.clear();
      entry.body.clear();
    }
    parse_body(module_, entry);
    std::vector<int> variables(entry.variables.size());
    for (size_t k = 0; k < entry.variables.size(); ++k) {
      const bool parameter = k < entry.parameters.size();
      variables[k] = parameter ? add_parameter(entry.variables[k]) : add_variable(entry.variables[k]);
    }
    const bool calls = std::any_of(entry.body.begin(), entry.body.end(),
                                   [](const Instruction& in) { return in.mnemonic() == "call"; });
    if (calls)
      append(entry, variables, 0);
    else
      take(entry, variables);
    entry.parsed = false;
    // `extern .shared x[]` begins behind everything static.
    uint64_t dynamic = flat_.shared_end;
    for (const FlatVariable& v : flat_.variables)
      if (v.space == Space::kShared && v.declared->is_extern)
        dynamic = align_up(dynamic, std::max<uint64_t>(v.declared->align, 16));
    for (FlatVariable& v : flat_.variables)
      if (v.space == Space::kShared && v.declared->is_extern) v.offset = dynamic;
    flat_.shared_end = dynamic;
    return std::move(flat_);
  }

 private:
  uint64_t place_shared(const ptx::Variable& v) {
    const uint64_t at = align_up(flat_.shared_end, std::max<uint64_t>(v.align, 1));
    flat_.shared_end = at + v.bytes;
    if (flat_.shared_end > (1 << 24)) throw ParseError(0, "more than 16 MiB of .shared variables");
    return at;
  }

  int add_parameter(const ptx::Variable& v) {
    const uint64_t at = align_up(flat_.parameter_end, std::max<uint64_t>(v.align, 1));
    flat_.parameter_end = at + v.bytes;
    flat_.variables.push_back({&v, Space::kParam, at});
    return static_cast<int>(flat_.variables.size()) - 1;
  }

  int add_variable(const ptx::Variable& v) {
    FlatVariable flat{&v, v.space, 0};
    if (v.space == Space::kShared) {
      if (!v.is_extern) flat.offset = place_shared(v);
    } else {  // .local, and .param variables that pass arguments
      flat.space = Space::kLocal;
      flat.offset = align_up(flat_.local_end, std::max<uint64_t>(v.align, 1));
      flat_.local_end = flat.offset + v.bytes;
      if (flat_.local_end > (1 << 24)) throw ParseError(0, "more than 16 MiB of .local variables");
    }
    flat_.variables.push_back(flat);
    return static_cast<int>(flat_.variables.size()) - 1;
  }

  // A module-scope .shared variable, seen from this kernel.
  int module_variable(std::string_view name) {
    auto known = module_variables_.find(name);
    if (known != module_variables_.end()) return known->second;
    auto found = module_.variable_index.find(name);
    if (found == module_.variable_index.end()) return -1;
    const ptx::Variable& v = module_.variables[found->second];
    if (v.space != Space::kShared) return -1;
    FlatVariable flat{&v, Space::kShared, v.is_extern ? 0 : module_shared_.at(v.name)};
    flat_.variables.push_back(flat);
    return module_variables_[name] = static_cast<int>(flat_.variables.size()) - 1;
  }

  struct Bases {
    int reg, label;
    const std::vector<int>* variables;
  };

  void relocate(Operand& op, const Bases& base) {
    if (op.reg >= 0) op.reg += base.reg;
    if (op.label >= 0) op.label += base.label;
    if (op.kind == OperandKind::kVariable) {
      if (!op.is_global) {
        op.variable = (*base.variables)[op.variable];
      } else if (const int shared = module_variable(op.name); shared >= 0) {
        op.variable = shared;
        op.is_global = false;
      }
    }
    for (Operand& e : op.elements) relocate(e, base);
  }

  // The usual kernel: nothing to put in, so its body is taken as it is.
  void take(Function& f, const std::vector<int>& variables) {
    flat_.registers = f.registers;
    flat_.labels = f.labels;
    flat_.body = std::move(f.body);
    const Bases base{0, 0, &variables};
    for (Instruction& in : flat_.body)
      for (Operand& op : in.operands) relocate(op, base);
  }

  // The body of f behind what is there; returns by falling off its end.
  void append(Function& f, const std::vector<int>& variables, int depth) {
    const Bases base{static_cast<int>(flat_.registers.size()), static_cast<int>(flat_.labels.size()),
                     &variables};
    flat_.registers.insert(flat_.registers.end(), f.registers.begin(), f.registers.end());
    std::vector<std::vector<int>> labels_at(f.body.size() + 1);
    for (size_t l = 0; l < f.labels.size(); ++l) {
      flat_.labels.push_back(f.labels[l]);
      for (int& t : flat_.labels.back().targets) t += base.label;
      flat_.labels.back().at = -1;
      if (f.labels[l].at >= 0) labels_at[f.labels[l].at].push_back(base.label + static_cast<int>(l));
    }
    const int end = depth > 0 ? new_label() : -1;
    for (size_t k = 0; k <= f.body.size(); ++k) {
      for (const int l : labels_at[k]) flat_.labels[l].at = static_cast<int>(flat_.body.size());
      if (k == f.body.size()) break;
      Instruction in = depth == 0 ? std::move(f.body[k]) : f.body[k];
      if (in.guard >= 0) in.guard += base.reg;
      for (Operand& op : in.operands) relocate(op, base);
      if (in.mnemonic() == "ret" && depth > 0) {
        if (k + 1 < f.body.size() || in.guard >= 0) branch(in, end, in.guard, in.guard_negated);
      } else if (in.mnemonic() == "call" && inlined(in, depth)) {
        // its body is there now
      } else {
        push(std::move(in));
      }
    }
    if (end >= 0) flat_.labels[end].at = static_cast<int>(flat_.body.size());
  }

  int new_label() {
    flat_.labels.emplace_back();
    return static_cast<int>(flat_.labels.size()) - 1;
  }

  void push(Instruction in) {
    if (flat_.body.size() >= kMaxInstructions)
      throw ParseError(in.loc.ptx_line, "kernel too long when its calls are inlined");
    flat_.body.push_back(std::move(in));
  }

  void branch(const Instruction& at, int label, int guard, bool negated) {
    Instruction in;
    in.opcode = "bra";
    in.parts = {"bra"};
    in.guard = guard;
    in.guard_negated = negated;
    in.loc = at.loc;
    Operand to;
    to.kind = OperandKind::kLabel;
    to.label = label;
    in.operands.push_back(to);
    push(std::move(in));
  }

  // call (results), f, (arguments): true when f's body took its place.
  bool inlined(const Instruction& call, int depth) {
    const Operand* target = nullptr;
    std::vector<const Operand*> lists;
    for (const Operand& op : call.operands) {
      if (op.kind == OperandKind::kFunction && !target) target = &op;
      if (op.kind == OperandKind::kVector) lists.push_back(&op);
    }
    if (!target || depth >= kMaxDepth) return false;
    auto found = module_.function_index.find(target->name);
    if (found == module_.function_index.end()) return false;
    Function& f = module_.functions[found->second];
    if (f.is_declaration || std::find(stack_.begin(), stack_.end(), &f) != stack_.end()) return false;
    parse_body(module_, f);
    // Arguments are .param variables of the caller: the callee's names for them are the same memory.
    std::vector<const Operand*> actual, results;
    for (const Operand& op : call.operands) {
      if (&op == target) continue;
      const bool before = &op < target;
      if (op.kind == OperandKind::kVector)
        for (const Operand& e : op.elements) (before ? results : actual).push_back(&e);
    }
    if (actual.size() != f.parameters.size() || results.size() != f.results.size()) return false;
    std::vector<int> variables(f.variables.size());
    for (size_t k = 0; k < f.variables.size(); ++k) {
      const Operand* passed = nullptr;
      if (k < f.parameters.size())
        passed = actual[k];
      else if (k < f.parameters.size() + f.results.size())
        passed = results[k - f.parameters.size()];
      if (passed && (passed->kind != OperandKind::kVariable || passed->is_global)) return false;
      variables[k] = passed ? passed->variable : add_variable(f.variables[k]);
    }
    const int skip = call.guard >= 0 ? new_label() : -1;
    if (skip >= 0) branch(call, skip, call.guard, !call.guard_negated);
    stack_.push_back(&f);
    append(f, variables, depth + 1);
    stack_.pop_back();
    if (skip >= 0) flat_.labels[skip].at = static_cast<int>(flat_.body.size());
    return true;
  }

  ptx::Module& module_;
  FlatKernel flat_;
  std::unordered_map<std::string, uint64_t> module_shared_;
  std::unordered_map<std::string_view, int> module_variables_;
  std::vector<const Function*> stack_;
};

}  // namespace

FlatKernel flatten(ptx::Module& module, ptx::Function& entry) { return Flattener(module).run(entry); }

Destinations destinations(const Instruction& in) {
  const std::string_view m = in.mnemonic();
  static const std::unordered_set<std::string_view> kNone = {"st",
                                                             "red",
                                                             "bra",
                                                             "brx",
                                                             "call",
                                                             "ret",
                                                             "exit",
                                                             "trap",
                                                             "brkpt",
                                                             "membar",
                                                             "fence",
                                                             "prefetch",
                                                             "prefetchu",
                                                             "cp",
                                                             "stmatrix",
                                                             "setmaxnreg",
                                                             "nanosleep",
                                                             "pmevent",
                                                             "griddepcontrol",
                                                             "tensormap",
                                                             "discard",
                                                             "applypriority",
                                                             "clusterlaunchcontrol",
                                                             "stackrestore"};
  if (m == "bar" || m == "barrier") return {in.has("red") ? 1 : 0, false};
  if (m == "mbarrier") {
    const bool none = in.has("init") || in.has("inval") || in.has("expect_tx") || in.has("complete_tx");
    const bool result = in.has("arrive") || in.has("arrive_drop") || in.has("test_wait") ||
                        in.has("try_wait") || in.has("pending_count");
    return {none && !result ? 0 : 1, false};
  }
  if (m == "wgmma") return {in.has("mma_async") ? 1 : 0, true};
  if (m == "multimem") return {in.has("ld_reduce") ? 1 : 0, false};
  if (m == "wmma") return {in.has("store") ? 0 : 1, false};
  if (kNone.count(m)) return {};
  return {1, false};
}

}  // namespace ptxsim
