#include "decode/allocate.h"

#include <algorithm>
#include <array>
#include <queue>

#include "exec/warp.h"

namespace ptxsim {

using ptx::Instruction;
using ptx::Operand;
using ptx::OperandKind;
using ptx::Type;

namespace {

// Calls f(register, is_written) for each register that the instruction names.
template <class F>
void each_register(const Operand& op, bool written, F& f) {
  if (op.reg >= 0 && (op.kind == OperandKind::kRegister)) {
    f(op.reg, written);
    if (written && op.lane >= 0) f(op.reg, false);  // the other parts of it stay
  }
  // What an address is made of is read.
  for (const Operand& e : op.elements) each_register(e, written && op.kind != OperandKind::kAddress, f);
}

template <class F>
void each_use(const Instruction& in, F f) {
  if (in.guard >= 0) f(in.guard, false);
  const Destinations to = destinations(in);
  for (int k = 0; k < static_cast<int>(in.operands.size()); ++k) {
    if (k >= to.count) {
      each_register(in.operands[k], false, f);
      continue;
    }
    // Under a guard the old value may remain.
    if (in.guard >= 0 || to.also_read) each_register(in.operands[k], false, f);
  }
  for (int k = 0; k < to.count && k < static_cast<int>(in.operands.size()); ++k)
    each_register(in.operands[k], true, f);
}

struct Block {
  int begin, end;
  std::vector<int> next;
};

std::vector<Block> blocks_of(const FlatKernel& k) {
  const int n = static_cast<int>(k.body.size());
  std::vector<char> leader(n + 1, 0);
  leader[0] = 1;
  for (const ptx::Label& l : k.labels)
    if (l.at >= 0) leader[l.at] = 1;
  for (int p = 0; p < n; ++p) {
    const std::string_view m = k.body[p].mnemonic();
    if (m == "bra" || m == "brx" || m == "exit" || m == "ret" || m == "trap") leader[p + 1] = 1;
  }
  std::vector<int> block_at(n + 1, -1);
  std::vector<Block> blocks;
  for (int p = 0; p < n; ++p) {
    if (leader[p]) blocks.push_back({p, p, {}});
    block_at[p] = static_cast<int>(blocks.size()) - 1;
    blocks.back().end = p + 1;
  }
  auto to = [&](Block& b, int at) {
    if (at >= 0 && at < n) b.next.push_back(block_at[at]);
  };
  for (Block& b : blocks) {
    const Instruction& last = k.body[b.end - 1];
    const std::string_view m = last.mnemonic();
    if (m == "bra") {
      for (const Operand& op : last.operands)
        if (op.label >= 0) to(b, k.labels[op.label].at);
    } else if (m == "brx") {
      for (const Operand& op : last.operands)
        if (op.label >= 0)
          for (const int t : k.labels[op.label].targets) to(b, k.labels[t].at);
    }
    const bool leaves = m == "bra" || m == "brx" || m == "exit" || m == "ret" || m == "trap";
    if (!leaves || last.guard >= 0) to(b, b.end);
  }
  return blocks;
}

struct Range {
  int reg, first, last;
};

// First and last position at which each register holds a value that somebody reads (or is written).
std::vector<Range> live_ranges(const FlatKernel& k) {
  const int registers = static_cast<int>(k.registers.size());
  const std::vector<Block> blocks = blocks_of(k);
  const int n_blocks = static_cast<int>(blocks.size());
  std::vector<int> first(registers, -1), last(registers, -1), home(registers, -1), dense(registers, -1);
  std::vector<char> written(registers, 0);
  // Registers that are written first and stay within one block need no dataflow; most of nvcc's do.
  for (int b = 0; b < n_blocks; ++b)
    for (int p = blocks[b].begin; p < blocks[b].end; ++p)
      each_use(k.body[p], [&](int r, bool write) {
        if (first[r] < 0) {
          first[r] = p;
          home[r] = b;
          if (!write) home[r] = -2;
        } else if (home[r] != b) {
          home[r] = -2;
        }
        last[r] = p;
      });
  std::vector<int> global;
  for (int r = 0; r < registers; ++r)
    if (first[r] >= 0 && home[r] == -2) {
      dense[r] = static_cast<int>(global.size());
      global.push_back(r);
    }
  const size_t words = (global.size() + 63) / 64;
  std::vector<uint64_t> in(words * n_blocks), out(words * n_blocks), gen(words * n_blocks),
      kill(words * n_blocks);
  for (int b = 0; b < n_blocks; ++b)
    for (int p = blocks[b].begin; p < blocks[b].end; ++p)
      each_use(k.body[p], [&](int r, bool write) {
        if (dense[r] < 0) return;
        const size_t w = words * b + dense[r] / 64;
        const uint64_t bit = uint64_t{1} << (dense[r] % 64);
        if (write)
          kill[w] |= bit;
        else if (!(kill[w] & bit))
          gen[w] |= bit;
      });
  for (bool changed = true; changed;) {
    changed = false;
    for (int b = n_blocks - 1; b >= 0; --b)
      for (size_t w = 0; w < words; ++w) {
        uint64_t o = 0;
        for (const int s : blocks[b].next) o |= in[words * s + w];
        const uint64_t i = gen[words * b + w] | (o & ~kill[words * b + w]);
        out[words * b + w] = o;
        if (i != in[words * b + w]) {
          in[words * b + w] = i;
          changed = true;
        }
      }
  }
  for (int b = 0; b < n_blocks; ++b)
    for (size_t w = 0; w < words; ++w) {
      for (uint64_t m = in [words * b + w]; m; m &= m - 1) {
        const int r = global[w * 64 + __builtin_ctzll(m)];
        first[r] = std::min(first[r], blocks[b].begin);
      }
      for (uint64_t m = out[words * b + w]; m; m &= m - 1) {
        const int r = global[w * 64 + __builtin_ctzll(m)];
        last[r] = std::max(last[r], blocks[b].end);
      }
    }
  // wgmma reads its A registers until it is waited for, which no later instruction says: nobody else gets
  // their rows.
  for (const Instruction& in : k.body) {
    if (in.mnemonic() != "wgmma" || in.operands.size() < 2 || in.operands[1].kind != OperandKind::kVector)
      continue;
    for (const Operand& a : in.operands[1].elements) {
      if (a.reg < 0) continue;
      first[a.reg] = 0;
      last[a.reg] = static_cast<int>(k.body.size());
    }
  }
  std::vector<Range> ranges;
  for (int r = 0; r < registers; ++r)
    if (first[r] >= 0) ranges.push_back({r, first[r], last[r]});
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.first < b.first; });
  return ranges;
}

}  // namespace

uint32_t row_bytes(Type type) {
  switch (ptx::size_of(type)) {
    case 1:
      return type == Type::kPred ? 4 : 2 * kWarpSize;
    case 2:
      return 2 * kWarpSize;
    case 8:
      return 8 * kWarpSize;
    case 16:
      return 16 * kWarpSize;
    default:
      return 4 * kWarpSize;
  }
}

Rows allocate_rows(const FlatKernel& kernel, uint32_t begin) {
  Rows rows;
  rows.offset.assign(kernel.registers.size(), 0);
  // Rows of one width never become rows of another: an elementwise handler may then write where it reads.
  constexpr std::array<uint32_t, 5> kWidths = {4, 64, 128, 256, 512};
  std::array<std::vector<uint32_t>, 5> free;  // indices of rows of that width
  std::array<uint32_t, 5> count{};
  std::vector<uint32_t> slot(kernel.registers.size());
  auto width = [&](int r) {
    return std::find(kWidths.begin(), kWidths.end(), row_bytes(kernel.registers[r].type)) - kWidths.begin();
  };
  using Ending = std::pair<int, int>;  // last position, register
  std::priority_queue<Ending, std::vector<Ending>, std::greater<>> ending;
  int words = 0;
  const std::vector<Range> ranges = live_ranges(kernel);
  for (const Range& range : ranges) {
    // Not the row of an operand of the same instruction: an opcode may be several handlers that read it more
    // than once.
    while (!ending.empty() && ending.top().first < range.first) {
      const int r = ending.top().second;
      ending.pop();
      free[width(r)].push_back(slot[r]);
      words -= static_cast<int>(kWidths[width(r)] / 128);
    }
    const auto w = width(range.reg);
    if (free[w].empty()) free[w].push_back(count[w]++);
    slot[range.reg] = free[w].back();
    free[w].pop_back();
    ending.push({range.last, range.reg});
    words += static_cast<int>(kWidths[w] / 128);
    rows.live_registers = std::max(rows.live_registers, words);
  }
  std::array<uint32_t, 5> base{};
  uint32_t at = begin;
  for (size_t w = 0; w < kWidths.size(); ++w) {
    at = (at + 63) / 64 * 64;
    base[w] = at;
    at += count[w] * kWidths[w];
  }
  rows.end = (at + 63) / 64 * 64;
  for (const Range& range : ranges) {
    const auto w = width(range.reg);
    rows.offset[range.reg] = base[w] + slot[range.reg] * kWidths[w];
  }
  return rows;
}

}  // namespace ptxsim
