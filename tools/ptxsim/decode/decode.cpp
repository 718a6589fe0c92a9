// Decoder: rows and constants for operands, one handler per opcode, branch targets once everything has its
// place.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <numeric>
#include <span>

#include "config.h"
#include "decode/allocate.h"
#include "decode/flatten.h"
#include "exec/decoder.h"
#include "exec/split.h"
#include "exec/warp.h"
#include "names.h"

namespace ptxsim {

using ptx::Instruction;
using ptx::Operand;
using ptx::OperandKind;
using ptx::ParseError;
using ptx::Space;
using ptx::Type;

namespace {

constexpr uint32_t kFirstRow = 64;  // behind the fixed predicate rows

void run_unknown(Warp& w, const Instr& i) {
  if (!active(w, i)) return;
  fail(w, i, __builtin_ctz(active(w, i)), ErrorCode::kIllegalInstruction,
       "the simulator does not know this opcode (or this form of it)");
}

class KernelDecoder final : public Decoder {
 public:
  KernelDecoder(ptx::Module& module, ptx::Function& entry, const GlobalAddress& global_address)
      : flat_(flatten(module, entry)),
        global_address_(global_address),
        program_(std::make_unique<Program>()) {
    program_->name = entry.name;
    program_->module = &module;
    program_->entry = &entry;
    rows_ = allocate_rows(flat_, kFirstRow);
    next_row_ = rows_.end;
  }

  std::unique_ptr<Program> run() {
    place_variables();
    label_pc_.assign(flat_.labels.size(), -1);
    std::vector<int> labels(flat_.labels.size());  // in the order of their places
    std::iota(labels.begin(), labels.end(), 0);
    std::sort(labels.begin(), labels.end(),
              [&](int a, int b) { return flat_.labels[a].at < flat_.labels[b].at; });
    auto label = std::find_if(labels.begin(), labels.end(), [&](int l) { return flat_.labels[l].at >= 0; });
    auto join_at = [&](size_t k) {
      const auto first = label;
      while (label != labels.end() && flat_.labels[*label].at == static_cast<int>(k)) ++label;
      join({first, label});
    };
    program_->code.reserve(flat_.body.size() * 5 / 4);
    source_index_.reserve(flat_.body.size() * 5 / 4);
    for (size_t k = 0; k < flat_.body.size(); ++k) {
      join_at(k);
      instruction(flat_.body[k]);
    }
    join_at(flat_.body.size());
    in_ = nullptr;
    emit({.run = run_exit});  // falling off the end
    resolve_branches();
    describe();
    program_->register_bytes = (next_row_ + 63) / 64 * 64;
    program_->live_registers = rows_.live_registers;
    return std::move(program_);
  }

  // --- Decoder ---
  uint32_t row(const Operand& op, Type type) override {
    switch (op.kind) {
      case OperandKind::kRegister:
        return rows_.offset[op.reg];
      case OperandKind::kSink:
        return scratch(type);
      case OperandKind::kPair:
        return row(op.elements.at(0), type);
      case OperandKind::kVector:
        if (op.elements.size() == 1) return row(op.elements[0], type);
        break;
      case OperandKind::kInteger:
        return constant(type, op.integer);
      case OperandKind::kFloat:
        return constant(type, float_bits(op, type));
      case OperandKind::kVariable: {
        if (op.is_global) return constant(type, global(op) + op.integer);
        const Place p = place(op);
        return constant(type, p.offset + op.integer, p.space == Space::kShared);
      }
      case OperandKind::kSpecial:
        if (op.name == "WARP_SZ") return constant(type, kWarpSize);
        break;
      case OperandKind::kFunction:
        throw error("addresses of functions are not supported");
      default:
        break;
    }
    throw error("operand is neither register nor constant");
  }

  uint32_t predicate(const Operand& op, uint32_t* flip) override {
    if (flip) *flip = op.negated ? ~0u : 0;
    if (op.kind == OperandKind::kRegister) return rows_.offset[op.reg];
    if (op.kind == OperandKind::kSink) return scratch(Type::kPred);
    if (op.kind == OperandKind::kInteger) {
      if (!flip) throw error("constant predicate where a register is needed");
      if (!op.integer) *flip ^= ~0u;
      return kTrueRow;
    }
    throw error("operand is no predicate");
  }

  Type register_type(const Operand& op) const override {
    return op.kind == OperandKind::kRegister ? flat_.registers[op.reg].type : Type::kNone;
  }

  int64_t integer(const Operand& op) override {
    if (op.kind == OperandKind::kSpecial && op.name == "WARP_SZ") return kWarpSize;
    if (op.kind != OperandKind::kInteger) throw error("operand must be an integer constant");
    return static_cast<int64_t>(op.integer);
  }
  bool is_integer(const Operand& op) const override { return op.kind == OperandKind::kInteger; }

  Address address(const Operand& op) override {
    if (op.kind != OperandKind::kAddress || op.elements.empty()) throw error("operand is no address");
    const Operand& base = op.elements[0];
    const auto offset = static_cast<int64_t>(op.integer);
    if (base.kind == OperandKind::kRegister) {
      const int bits = ptx::size_of(register_type(base)) == 8 ? 64 : 32;
      return {rows_.offset[base.reg], offset, bits};
    }
    return {row(base, Type::kB64), offset, 64};
  }

  void branch_target(int index, const Operand& label) override {
    if (label.kind != OperandKind::kLabel) throw error("branch to something that is no label");
    branches_.push_back({index, label.label, in_ ? in_->loc.ptx_line : 0});
  }

  void branch_table(const Operand& label, std::vector<uint32_t>* pcs) override {
    if (label.kind != OperandKind::kLabel) throw error("brx.idx needs a table of branch targets");
    tables_.push_back({label.label, pcs, in_ ? in_->loc.ptx_line : 0});
  }

  Place place(const Operand& op) override {
    if (op.kind != OperandKind::kVariable || op.is_global)
      throw error("operand is no variable of this kernel");
    const FlatVariable& v = flat_.variables[op.variable];
    return {v.space, v.offset, v.declared->bytes};
  }

  int emit(Instr instr) override {
    if (in_ && in_->guard >= 0) {
      instr.guard = rows_.offset[in_->guard];
      instr.guard_flip = in_->guard_negated ? ~0u : 0;
    }
    program_->code.push_back(instr);
    source_index_.push_back(in_ ? static_cast<int>(in_ - flat_.body.data()) : -1);
    return static_cast<int>(program_->code.size()) - 1;
  }

  Program& program() override { return *program_; }

  uint32_t scratch(Type type) override {
    // Reused by the next instruction of the text: taken in turns from a list per width.
    auto& rows = scratch_[row_bytes(type)];
    int& used = scratch_used_[row_bytes(type)];
    if (used == static_cast<int>(rows.size())) rows.push_back(take_row(row_bytes(type)));
    return rows[used++];
  }

  void unknown(const Instruction&) override { emit({.run = run_unknown}); }

 private:
  ParseError error(const std::string& what) const {
    return {in_ ? in_->loc.ptx_line : 0, in_ ? fmt::format("{}: {}", in_->opcode, what) : what};
  }

  uint32_t take_row(uint32_t bytes) {
    if (bytes >= 64) next_row_ = (next_row_ + 63) / 64 * 64;
    const uint32_t at = next_row_;
    next_row_ += bytes;
    return at;
  }

  uint32_t constant(Type type, uint64_t value, bool shared = false) {
    uint32_t width = row_bytes(type) / kWarpSize;
    if (type == Type::kPred) throw error("constant predicate where a register is needed");
    if (width > 8) width = 8;
    if (width < 8) value &= (uint64_t{1} << (8 * width)) - 1;
    auto [known, is_new] = constants_.try_emplace({width, value, shared}, 0);
    if (is_new) {
      known->second = take_row(width * kWarpSize);
      program_->constants.push_back({known->second, width, value, shared});
    }
    return known->second;
  }

  uint64_t float_bits(const Operand& op, Type type) const {
    const double value = op.is_single ? std::bit_cast<float>(static_cast<uint32_t>(op.integer)) : op.real;
    switch (type) {
      case Type::kF64:
        return op.is_single ? std::bit_cast<uint64_t>(value) : std::bit_cast<uint64_t>(op.real);
      case Type::kF32:
      case Type::kTf32:
        return op.is_single ? op.integer : std::bit_cast<uint32_t>(static_cast<float>(value));
      case Type::kB64:
      case Type::kU64:
      case Type::kS64:
        return std::bit_cast<uint64_t>(value);
      case Type::kB32:
      case Type::kU32:
      case Type::kS32:
        return std::bit_cast<uint32_t>(static_cast<float>(value));
      default:
        throw error("floating-point constant of this type");
    }
  }

  uint64_t global(const Operand& op) const {
    const uint64_t at = global_address_(op.name);
    if (!at) throw error(fmt::format("no variable {} in this module", op.name));
    return at;
  }

  void place_variables() {
    Program& p = *program_;
    p.static_shared_bytes = static_cast<uint32_t>(flat_.shared_end - kSharedBase);
    p.local_bytes = static_cast<uint32_t>((flat_.local_end + 15) / 16 * 16);
    p.parameter_bytes = static_cast<uint32_t>(flat_.parameter_end);
    for (const FlatVariable& v : flat_.variables) {
      if (v.space == Space::kParam) p.parameter_offsets.push_back(static_cast<uint32_t>(v.offset));
      if (v.space == Space::kShared)
        p.shared_variables.push_back({short_name(v.declared->name), v.offset, v.declared->bytes});
      if (v.space == Space::kLocal)
        p.local_variables.push_back({v.declared->name, v.offset, v.declared->bytes});
    }
  }

  // Where several paths may meet, lanes are brought together again.
  void join(std::span<const int> labels) {
    if (labels.empty()) return;
    in_ = nullptr;
    for (const int l : labels) label_pc_[l] = static_cast<int>(program_->code.size());
    emit({.run = run_join});
  }

  void instruction(const Instruction& in) {
    in_ = &in;
    scratch_used_.clear();
    static constexpr decltype(&decode_integer) kFamilies[] = {
        decode_special, decode_integer, decode_float,  decode_compare, decode_memory,   decode_control,
        decode_half,    decode_convert, decode_atomic, decode_lanes,   decode_mbarrier, decode_async,
        decode_tensor,  decode_cluster, decode_mma,    decode_wgmma,   decode_system};
    for (auto* family : kFamilies)
      if (family(*this, in)) return;
    unknown(in);
  }

  void resolve_branches() {
    auto pc = [&](int label, int line) {
      if (label_pc_[label] < 0) throw ParseError(line, "branch to a label that stands nowhere");
      return static_cast<uint32_t>(label_pc_[label]);
    };
    for (const auto& [index, label, line] : branches_) program_->code[index].imm = pc(label, line);
    for (const auto& [label, pcs, line] : tables_)
      for (const int target : flat_.labels[label].targets) pcs->push_back(pc(target, line));
  }

  // What reports say of each instruction; checked mode also wants its operands.
  void describe() {
    Program& p = *program_;
    p.opcodes.reserve(source_index_.size());
    p.where.reserve(source_index_.size());
    for (const int k : source_index_) {
      p.opcodes.push_back(k < 0 ? std::string_view() : flat_.body[k].opcode);
      p.where.push_back(k < 0 ? ptx::Location{} : flat_.body[k].loc);
    }
    if (!config().checked) return;
    const std::vector<Instruction>& body = *p.keep(std::move(flat_.body));
    for (const int k : source_index_) p.source.push_back(k < 0 ? nullptr : &body[k]);
    list_rows(body);
  }

  // For the check of registers in flight.
  void list_rows(const std::vector<Instruction>& body) {
    Program& p = *program_;
    for (size_t pc = 0; pc < p.code.size(); ++pc) {
      p.row_begin.push_back(static_cast<uint32_t>(p.row_uses.size()));
      if (source_index_[pc] < 0) continue;
      const Instruction& in = body[source_index_[pc]];
      const int written = destinations(in).count;
      for (size_t k = 0; k < in.operands.size(); ++k)
        add_rows(in.operands[k], static_cast<int>(k) < written ? 1u << 31 : 0);
    }
    p.row_begin.push_back(static_cast<uint32_t>(p.row_uses.size()));
  }
  void add_rows(const Operand& op, uint32_t written) {
    if (op.kind == OperandKind::kRegister) program_->row_uses.push_back(rows_.offset[op.reg] | written);
    for (const Operand& e : op.elements) add_rows(e, op.kind == OperandKind::kAddress ? 0 : written);
  }

  struct BranchFix {
    int index, label, line;
  };
  struct TableFix {
    int label;
    std::vector<uint32_t>* pcs;
    int line;
  };

  FlatKernel flat_;
  const GlobalAddress& global_address_;
  std::unique_ptr<Program> program_;
  Rows rows_;
  uint32_t next_row_ = 0;
  std::map<std::tuple<uint32_t, uint64_t, bool>, uint32_t> constants_;
  std::map<uint32_t, std::vector<uint32_t>> scratch_;
  std::map<uint32_t, int> scratch_used_;
  const Instruction* in_ = nullptr;
  std::vector<int> source_index_;
  std::vector<int> label_pc_;
  std::vector<BranchFix> branches_;
  std::vector<TableFix> tables_;
};

}  // namespace

std::unique_ptr<Program> decode(ptx::Module& module, ptx::Function& entry,
                                const GlobalAddress& global_address) {
  return KernelDecoder(module, entry, global_address).run();
}

}  // namespace ptxsim
