#include "check/register_facts.h"

#include <mutex>
#include <set>

namespace ptxsim::check {

namespace {

constexpr uint32_t kWritten = 1u << 31;

InstrKind kind_of(const ptx::Instruction* in) {
  if (!in) return InstrKind::kMove;  // put in by the decoder: arguments and results of inlined calls
  const std::string_view m = in->mnemonic();
  if (m == "mov") return InstrKind::kMove;
  if (m == "wgmma")
    return in->has("mma_async") ? InstrKind::kWgmma
           : in->has("fence")   ? InstrKind::kWgmmaFence
                                : InstrKind::kOther;
  if (in->guard < 0 && (m == "bra" || m == "brx" || m == "ret" || m == "exit" || m == "trap"))
    return InstrKind::kJump;
  return InstrKind::kOther;
}

}  // namespace

RegisterFacts::RegisterFacts(const Program& p) {
  bool any = false;
  for (const ptx::Instruction* in : p.source) any |= in && in->mnemonic() == "wgmma";
  if (!any) return;
  unfenced.reset(new std::atomic<uint32_t>[p.code.size() * 2]());
  for (const ptx::Instruction* in : p.source) kind.push_back(kind_of(in));
  for (uint32_t pc = 0; pc < p.source.size(); ++pc) {
    const ptx::Instruction* in = p.source[pc];
    if (in && in->mnemonic() == "bra") jumps_to[static_cast<uint32_t>(p.code[pc].imm)].push_back(pc);
  }
}

std::shared_ptr<const RegisterFacts> register_facts(const Program& p) {
  static std::mutex mutex;
  static auto* all = new std::unordered_map<uint64_t, std::shared_ptr<const RegisterFacts>>;
  std::lock_guard lock(mutex);
  auto& facts = (*all)[p.serial];
  if (!facts || (!facts->kind.empty() && facts->kind.size() != p.code.size()))
    facts = std::make_shared<RegisterFacts>(p);
  return facts;
}

int64_t unfenced_write(const Program& p, const RegisterFacts& facts, uint32_t pc, const uint32_t* rows,
                       int count) {
  std::set<std::pair<uint32_t, uint32_t>> seen;  // (pc, row) looked at
  std::vector<std::pair<uint32_t, uint32_t>> todo;
  const auto before = [&](uint32_t at, uint32_t row) {
    const auto add = [&](uint32_t from) {
      if (seen.insert({from, row}).second) todo.emplace_back(from, row);
    };
    if (at > 0 && facts.kind[at - 1] != InstrKind::kJump) add(at - 1);
    if (const auto jumps = facts.jumps_to.find(at); jumps != facts.jumps_to.end())
      for (const uint32_t from : jumps->second) add(from);
  };
  for (int k = 0; k < count; ++k) before(pc, rows[k]);
  while (!todo.empty()) {
    const auto [at, row] = todo.back();
    todo.pop_back();
    const InstrKind kind = facts.kind[at];
    if (kind == InstrKind::kWgmmaFence) continue;
    bool written = false;
    for (uint32_t k = p.row_begin[at]; k < p.row_begin[at + 1]; ++k)
      written |= p.row_uses[k] == (row | kWritten);
    if (!written) {
      before(at, row);
    } else if (kind == InstrKind::kMove) {
      for (uint32_t k = p.row_begin[at]; k < p.row_begin[at + 1]; ++k)
        if (!(p.row_uses[k] & kWritten)) before(at, p.row_uses[k]);
    } else if (kind != InstrKind::kWgmma) {
      return at;
    }
  }
  return -1;
}

}  // namespace ptxsim::check
