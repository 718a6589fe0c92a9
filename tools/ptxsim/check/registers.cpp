// Registers that the tensor core uses: marks on rows of the register file from the wgmma until its warp group
// has waited.
#include <fmt/format.h>

#include <algorithm>

#include "check/cluster_checker.h"
#include "check/register_facts.h"
#include "exec/worker.h"

namespace ptxsim::check {

namespace {

constexpr uint32_t kWritten = 1u << 31;      // of a row use
constexpr uint32_t kAccumulator = 1u << 31;  // of a mark
constexpr uint32_t kGranule = 64;            // rows begin at multiples of it

void registers_of(const ptx::Operand& op, std::vector<int>& out) {
  if (op.kind == ptx::OperandKind::kRegister && op.reg >= 0) out.push_back(op.reg);
  for (const ptx::Operand& e : op.elements) registers_of(e, out);
}

std::vector<int> registers_of(const ptx::Instruction& in) {
  std::vector<int> out;
  for (const ptx::Operand& op : in.operands) registers_of(op, out);
  return out;
}

}  // namespace

void ClusterChecker::wgmma_rows(Warp& w, const Instr& i, AsyncId id, const uint32_t* rows, int count,
                                bool written) {
  WarpState& ws = state(w);
  const RegisterFacts& facts = launch_->registers_of_program();
  const auto pc = static_cast<uint32_t>(&i - w.program->code.data());
  if (!facts.kind.empty() && !w.program->row_begin.empty()) {
    std::atomic<uint32_t>& known = facts.unfenced[pc * 2 + written];
    uint32_t verdict = known.load(std::memory_order_relaxed);
    if (!verdict) {
      verdict = static_cast<uint32_t>(unfenced_write(*w.program, facts, pc, rows, count) + 2);
      known.store(verdict, std::memory_order_relaxed);
    }
    if (verdict > 1)
      report(w, i, kSomeLanes,
             fmt::format("[registers] {} was written at {} and no wgmma.fence follows before this wgmma",
                         written ? "an accumulator" : "a register of A",
                         instruction_place(*w.program, verdict - 2)));
  }
  if (ws.row_marks.size() < w.program->register_bytes / kGranule + 1)
    ws.row_marks.resize(w.program->register_bytes / kGranule + 1);
  const uint32_t mark = mark_of(id) | (written ? kAccumulator : 0);
  for (int k = 0; k < count; ++k) set_mark(ws, rows[k], mark);
}

void ClusterChecker::set_mark(WarpState& ws, uint32_t row, uint32_t mark) {
  uint32_t& at = ws.row_marks[row / kGranule];
  if (!at && mark) ws.marked.push_back(row / kGranule);
  ws.warp->rows_in_flight += (mark != 0) - (at != 0);
  at = mark;
}

void ClusterChecker::wgmma_done(Warp& w, AsyncId id) {
  WarpState& ws = state(w);
  std::erase_if(ws.marked, [&](uint32_t granule) {
    uint32_t& at = ws.row_marks[granule];
    if (at && (at & ~kAccumulator) != mark_of(id)) return false;
    if (at) --w.rows_in_flight;
    at = 0;
    return true;
  });
  if (!w.rows_in_flight) ws.aliases.clear();
}

// A register in flight may be copied: the copy is in flight, too. Rows whose register died may serve another
// one.
void ClusterChecker::registers(Warp& w, const Instr& i) {
  const Program& p = *w.program;
  const auto pc = static_cast<uint32_t>(&i - p.code.data());
  const RegisterFacts& facts = launch_->registers_of_program();
  if (facts.kind.empty() || p.row_begin.empty() || facts.kind[pc] == InstrKind::kWgmma) return;
  WarpState& ws = state(w);
  const uint32_t begin = p.row_begin[pc], end = p.row_begin[pc + 1];
  uint32_t touched = 0;
  bool only_read = true;
  for (uint32_t k = begin; k < end; ++k) {
    const uint32_t row = p.row_uses[k] & ~kWritten, granule = row / kGranule;
    if (granule >= ws.row_marks.size() || !ws.row_marks[granule]) continue;
    const bool writes = p.row_uses[k] & kWritten;
    if (!writes && !(ws.row_marks[granule] & kAccumulator)) continue;  // reading A is harmless
    touched = ws.row_marks[granule];
    only_read &= !writes;
  }
  if (facts.kind[pc] == InstrKind::kMove) {
    copy_marks(ws, p, pc);
    return;
  }
  if (!touched || !active(w, i)) return;
  const ptx::Instruction* in = p.source[pc];
  const Instr* wgmma = marking(touched);
  if (!in || !wgmma) return;
  std::vector<int> theirs = registers_of(*p.source[static_cast<size_t>(wgmma - p.code.data())]);
  theirs.insert(theirs.end(), ws.aliases.begin(), ws.aliases.end());
  for (const int r : registers_of(*in)) {
    if (std::find(theirs.begin(), theirs.end(), r) == theirs.end()) continue;
    report(w, i, kSomeLanes,
           fmt::format("[registers] {} {} of the wgmma at {} before wgmma.wait_group",
                       only_read ? "reads" : "writes",
                       touched & kAccumulator ? "an accumulator" : "a register of A",
                       instruction_place(p, static_cast<size_t>(wgmma - p.code.data()))));
  }
  for (uint32_t k = begin; k < end; ++k)
    if (p.row_uses[k] & kWritten && (p.row_uses[k] & ~kWritten) / kGranule < ws.row_marks.size())
      set_mark(ws, p.row_uses[k] & ~kWritten, 0);
}

void ClusterChecker::copy_marks(WarpState& ws, const Program& p, uint32_t pc) {
  uint32_t mark = 0;
  for (uint32_t k = p.row_begin[pc]; k < p.row_begin[pc + 1]; ++k) {
    const uint32_t granule = p.row_uses[k] / kGranule;
    if (!(p.row_uses[k] & kWritten) && granule < ws.row_marks.size() && ws.row_marks[granule] & kAccumulator)
      mark = ws.row_marks[granule];
  }
  for (uint32_t k = p.row_begin[pc]; k < p.row_begin[pc + 1]; ++k) {
    const uint32_t row = p.row_uses[k] & ~kWritten;
    if (p.row_uses[k] & kWritten && row / kGranule < ws.row_marks.size() &&
        (mark || ws.row_marks[row / kGranule]))
      set_mark(ws, row, mark);
  }
  if (mark && p.source[pc])
    for (const int r : registers_of(*p.source[pc])) ws.aliases.push_back(r);
}

}  // namespace ptxsim::check
