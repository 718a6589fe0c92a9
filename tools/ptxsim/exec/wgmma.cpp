// wgmma: the product is computed when it is issued, each warp its own 16 rows; what is asynchronous about it
// (registers and shared memory in use until the group has been waited for) is the checker's business, and
// that a wait of one warp ends only when all four have committed the group. Source: PTX ISA 9.0,
// section 9.7.16.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "check/checker.h"
#include "config.h"
#include "exec/mma.h"
#include "exec/worker.h"
#include "numeric/float_formats.h"
#include "numeric/fragments.h"

namespace ptxsim {

using numeric::InputType;
using numeric::kPanelVectors;
using numeric::kPanelWords;
using numeric::MatrixDescriptor;
using numeric::Panel;
using numeric::RawPanel;
using numeric::ResultType;
using ptx::Instruction;
using ptx::OperandKind;
using ptx::Type;

namespace {

constexpr int kMaxN = 256;
constexpr int kWarps = 4;  // of a warpgroup

struct WgmmaOp {
  int n = 0, k = 0;
  InputType a_type{}, b_type{};
  ResultType result = ResultType::kF32;
  bool saturate = false;
  bool negate_a = false, negate_b = false;
  bool a_mn_major = false, b_mn_major = false;
  bool a_in_registers = false;
  uint32_t a[4] = {};  // rows of the fragment, or that of the descriptor
  uint32_t b = 0;      // row of the descriptor
  uint32_t scale_d = 0, scale_d_flip = 0;
  int d_count = 0;
  uint32_t d[kMaxN / 2] = {};
};

Warp* warpgroup_of(Warp& w) { return w.cta->warps.data() + w.index / kWarps * kWarps; }

void require_warpgroup(Warp& w, const Instr& i) {
  if (static_cast<size_t>(w.index / kWarps * kWarps + kWarps) > w.cta->warps.size())
    fail(w, i, -1, ErrorCode::kIllegalInstruction,
         fmt::format("[wgmma] needs four warps from warp {} on; the block has {}", w.index / kWarps * kWarps,
                     w.cta->warps.size()));
}

MatrixDescriptor descriptor(Warp& w, const Instr& i, uint32_t offset, const char* which) {
  const uint64_t* d = row<uint64_t>(w, offset);
  uint64_t differ = 0;
  for (int l = 1; l < kWarpSize; ++l) differ |= d[l] ^ d[0];
  if (differ)
    fail(w, i, -1, ErrorCode::kIllegalInstruction,
         fmt::format("[wgmma] the descriptor of {} is not the same in all lanes", which));
  return MatrixDescriptor::from(d[0]);
}

bool scale_d(Warp& w, const Instr& i, const WgmmaOp& op) {
  const uint32_t p = predicate_row(w, op.scale_d) ^ op.scale_d_flip;
  if (p != 0 && p != kAllLanes)
    fail(w, i, -1, ErrorCode::kIllegalInstruction,
         fmt::format("[wgmma] scale-d is not the same in all lanes: {:#010x}", p));
  return p != 0;
}

// The 16-byte chunks of an operand in shared memory, inside the block's.
struct SharedTile {
  bool mn_major = false;
  int count = 0;
  uint32_t chunks[2 * kMaxN];
};

void locate(Warp& w, const Instr& i, const MatrixDescriptor& m, bool mn_major, int first, int vectors,
            SharedTile& t) {
  t.mn_major = mn_major;
  t.count = 2 * vectors;
  numeric::chunk_addresses(m, mn_major, first, vectors, t.chunks);
  const auto [low, high] = std::minmax_element(t.chunks, t.chunks + t.count);
  for (const uint32_t at : {*low, *high})
    resolve_range(w, i, -1, shared_address(w.cta->rank << 24 | at), 16, 16);
}

// Ranges as long as they come one after the other; chunks of MN-major tiles do so only when sorted.
void tell_reads(Warp& w, AsyncId id, SharedTile& t) {
  if (t.mn_major) std::sort(t.chunks, t.chunks + t.count);
  for (int c = 0; c < t.count;) {
    uint32_t begin = t.chunks[c], end = begin + 16;
    for (++c; c < t.count; ++c) {
      if (t.chunks[c] == end)
        end += 16;
      else if (t.chunks[c] + 16 == begin)
        begin -= 16;
      else
        break;
    }
    w.check->async_access(id, shared_address(w.cta->rank << 24 | begin), end - begin, Access::kRead);
  }
}

void tell_checker(Warp& w, const Instr& i, const WgmmaOp& op, SharedTile a, SharedTile b) {
  const AsyncId id = w.check->begin_async(w, i, -1, Checker::Engine::kWgmma);
  w.check->wgmma_rows(w, i, id, op.d, op.d_count, true);
  if (op.a_in_registers)
    w.check->wgmma_rows(w, i, id, op.a, 4, false);
  else
    tell_reads(w, id, a);
  tell_reads(w, id, b);
  w.wgmma.work.push_back({w.wgmma.committed + 1, id, 0});
}

// The accumulator of columns 16 * block .., which are 8 or 16, as d[row][column].
template <class T>
void gather_wide(Warp& w, const WgmmaOp& op, int block, int columns, T (*d)[kPanelVectors]) {
  for (int half = 0; half < columns / 8; ++half) {
    const T* rows[4];
    for (int r = 0; r < 4; ++r) rows[r] = row<T>(w, op.d[8 * block + 4 * half + r]);
    numeric::gather_d(rows, 8 * half, d);
  }
}
template <class T>
void scatter_wide(Warp& w, const WgmmaOp& op, int block, int columns, const T (*d)[kPanelVectors]) {
  for (int half = 0; half < columns / 8; ++half) {
    T* rows[4];
    for (int r = 0; r < 4; ++r) rows[r] = row<T>(w, op.d[8 * block + 4 * half + r]);
    numeric::scatter_d(d, 8 * half, rows);
  }
}
void gather_f16(Warp& w, const WgmmaOp& op, int block, int columns, float (*d)[kPanelVectors]) {
  for (int r = 0; r < columns / 4; ++r) {
    const uint32_t* c = row<uint32_t>(w, op.d[4 * block + r]);
    for (int l = 0; l < kWarpSize; ++l) {
      const auto p = numeric::d_position_16(l, r, 0);
      d[p.row][p.column] = numeric::f16_to_f32(static_cast<uint16_t>(c[l]));
      d[p.row][p.column + 1] = numeric::f16_to_f32(static_cast<uint16_t>(c[l] >> 16));
    }
  }
}
void scatter_f16(Warp& w, const WgmmaOp& op, int block, int columns, const float (*d)[kPanelVectors]) {
  for (int r = 0; r < columns / 4; ++r) {
    uint32_t* out = row<uint32_t>(w, op.d[4 * block + r]);
    for (int l = 0; l < kWarpSize; ++l) {
      const auto p = numeric::d_position_16(l, r, 0);
      out[l] = numeric::f32_to_f16(d[p.row][p.column]) | uint32_t{numeric::f32_to_f16(d[p.row][p.column + 1])}
                                                             << 16;
    }
  }
}

// A and B found, checked and told to the checker; the rows of A loaded. False: not now.
bool prepare(Warp& w, const Instr& i, RawPanel& a, SharedTile& b) {
  const auto& op = *static_cast<const WgmmaOp*>(i.ext);
  if (!whole_warp(w, i, "wgmma.mma_async")) return false;
  require_warpgroup(w, i);
  SharedTile a_tile;
  if (op.a_in_registers) {
    const uint32_t* rows[4];
    for (int r = 0; r < 4; ++r) rows[r] = row<uint32_t>(w, op.a[r]);
    numeric::gather_a(rows, 4, a);
  } else {
    locate(w, i, descriptor(w, i, op.a[0], "A"), op.a_mn_major, w.index % kWarps * 16, 16, a_tile);
    numeric::load_panel(w.cta->shared, op.a_mn_major, a_tile.chunks, 16, a);
  }
  locate(w, i, descriptor(w, i, op.b, "B"), op.b_mn_major, 0, op.n, b);
  if (w.check) tell_checker(w, i, op, a_tile, b);
  profile_flops(w, i, 2ull * 16 * static_cast<uint64_t>(op.n) * static_cast<uint64_t>(op.k));
  return true;
}

void run_float(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const WgmmaOp*>(i.ext);
  RawPanel raw;
  SharedTile tile;
  if (!prepare(w, i, raw, tile)) return;
  const bool accumulate = scale_d(w, i, op);
  Panel a, b;
  const int depth = numeric::decode(op.a_type, raw, kPanelWords, op.negate_a, a);
  alignas(64) float d[16][kPanelVectors];
  for (int block = 0; 16 * block < op.n; ++block) {
    const int columns = std::min(16, op.n - 16 * block);
    numeric::load_panel(w.cta->shared, op.b_mn_major, tile.chunks + 32 * block, columns, raw);
    numeric::decode(op.b_type, raw, kPanelWords, op.negate_b, b);
    if (!accumulate || columns < 16) std::fill(d[0], d[0] + 16 * kPanelVectors, 0.0f);
    if (accumulate && op.result == ResultType::kF32) gather_wide(w, op, block, columns, d);
    if (accumulate && op.result == ResultType::kF16) gather_f16(w, op, block, columns, d);
    numeric::multiply_add(numeric::sum_model(op.a_type), config().accumulation, op.result, a, 16, b, depth,
                          d);
    if (op.result == ResultType::kF32)
      scatter_wide<float>(w, op, block, columns, d);
    else
      scatter_f16(w, op, block, columns, d);
  }
}

void run_integer(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const WgmmaOp*>(i.ext);
  RawPanel a, b;
  SharedTile tile;
  if (!prepare(w, i, a, tile)) return;
  const bool accumulate = scale_d(w, i, op);
  for (int block = 0; 16 * block < op.n; ++block) {
    const int columns = std::min(16, op.n - 16 * block);
    int32_t d[16][kPanelVectors] = {};
    numeric::load_panel(w.cta->shared, false, tile.chunks + 32 * block, columns, b);
    if (accumulate) gather_wide(w, op, block, columns, d);
    numeric::multiply_add(op.a_type, a, 16, op.b_type, b, kPanelWords, op.saturate, d);
    scatter_wide<int32_t>(w, op, block, columns, d);
  }
}

void run_fence(Warp& w, const Instr& i) {
  if (!whole_warp(w, i, "wgmma.fence")) return;
  if (w.check) w.check->fence(w, i, kAllLanes, Checker::Fence::kWgmma, Scope::kCta);
}

void run_commit(Warp& w, const Instr& i) {
  if (!whole_warp(w, i, "wgmma.commit_group")) return;
  ++w.wgmma.committed;
  note_event(w);
}

// All warps of the warpgroup have committed so many groups, or are gone.
bool all_committed(Warp& w, const Split& s) {
  const Warp* warps = warpgroup_of(w);
  return std::all_of(warps, warps + kWarps,
                     [&](const Warp& v) { return v.wgmma.committed >= s.wait[0] || v.live == 0; });
}

// The work of all four warps up to `group` has happened as far as this warp can see.
void complete(Warp& w, uint64_t group) {
  Warp* warps = warpgroup_of(w);
  for (int v = 0; v < kWarps; ++v) {
    auto& work = warps[v].wgmma.work;
    for (WgmmaGroups::Work& one : work) {
      if (one.group > group || (one.waited >> w.index % kWarps & 1)) continue;
      one.waited |= 1u << w.index % kWarps;
      if (v == w.index % kWarps) w.check->wgmma_done(w, one.id);
      w.check->complete_on_wait(one.id, w, kAllLanes, false);
    }
    std::erase_if(work, [](const WgmmaGroups::Work& one) { return one.waited == (1u << kWarps) - 1; });
  }
}

void run_wait(Warp& w, const Instr& i) {
  if (!whole_warp(w, i, "wgmma.wait_group")) return;
  require_warpgroup(w, i);
  const auto pending = static_cast<uint64_t>(i.imm);
  if (w.wgmma.committed <= pending) return;
  const Split needed{.wait = {w.wgmma.committed - pending, 0}};
  if (!all_committed(w, needed)) {
    park(w, i, true, all_committed, needed.wait[0], 0,
         "wgmma.wait_group (a warp of the warpgroup has not committed)");
    return;
  }
  const Warp* warps = warpgroup_of(w);
  for (int v = 0; v < kWarps; ++v)
    if (warps[v].wgmma.committed < needed.wait[0])
      fail(w, i, -1, ErrorCode::kIllegalInstruction,
           fmt::format("[wgmma] warp {} of the warpgroup ended after {} of the {} groups waited for",
                       warps[v].index, warps[v].wgmma.committed, needed.wait[0]));
  if (w.check) complete(w, needed.wait[0]);
}

// Types, shape and number of accumulator registers; false for combinations that the ISA does not have.
bool read_types(WgmmaOp& op, std::string_view shape, std::string_view d, std::string_view a,
                std::string_view b) {
  const MmaShape s = mma_shape(shape);
  const auto a_type = input_type(a), b_type = input_type(b);
  if (!a_type || !b_type || s.m != 64 || s.n < 8 || s.n > kMaxN || s.n % 8) return false;
  op.n = s.n;
  op.k = s.k;
  op.a_type = *a_type;
  op.b_type = *b_type;
  const int bytes = numeric::input_bytes(op.a_type);
  if (s.k * bytes != 32 || is_integer(op.a_type) != is_integer(op.b_type)) return false;
  if (bytes > 1 ? a != b : numeric::input_bytes(op.b_type) != 1) return false;
  op.d_count = s.n / 2;
  if (is_integer(op.a_type)) return d == "s32";
  if (d == "f32") return true;
  op.result = ResultType::kF16;
  op.d_count = s.n / 4;
  return d == "f16" && (op.a_type == InputType::kF16 || bytes == 1);
}

// d, a | a-desc, b-desc, scale-d {, imm-scale-a, imm-scale-b {, imm-trans-a}, imm-trans-b}
bool read_operands(Decoder& d, const Instruction& in, WgmmaOp& op) {
  const auto& o = in.operands;
  op.a_in_registers = o[1].kind == OperandKind::kVector;
  const bool wide = numeric::input_bytes(op.a_type) == 2;
  const size_t count = is_integer(op.a_type) ? 4 : 6 + (wide ? (op.a_in_registers ? 1 : 2) : 0);
  if (o.size() != count) return false;
  const Type result = op.result == ResultType::kF32 && !is_integer(op.a_type) ? Type::kF32 : Type::kB32;
  if (!operand_rows(d, o[0], result, op.d_count, op.d)) return false;
  if (op.a_in_registers ? !operand_rows(d, o[1], Type::kB32, 4, op.a)
                        : !operand_rows(d, o[1], Type::kB64, 1, op.a))
    return false;
  op.b = d.row(o[2], Type::kB64);
  op.scale_d = d.predicate(o[3], &op.scale_d_flip);
  if (count == 4) return true;
  op.negate_a = d.integer(o[4]) < 0;
  op.negate_b = d.integer(o[5]) < 0;
  if (wide && !op.a_in_registers) op.a_mn_major = d.integer(o[6]) != 0;
  if (wide) op.b_mn_major = d.integer(o.back()) != 0;
  return true;
}

}  // namespace

// wgmma.mma_async.sync.aligned.shape{.satfinite}.dtype.atype.btype, wgmma.fence, .commit_group, .wait_group N
bool decode_wgmma(Decoder& d, const Instruction& in) {
  if (in.mnemonic() != "wgmma") return false;
  if (in.has("fence")) {
    d.emit({.run = run_fence});
    return true;
  }
  if (in.has("commit_group")) {
    d.emit({.run = run_commit});
    return true;
  }
  if (in.has("wait_group") && in.operands.size() == 1) {
    d.emit({.run = run_wait, .imm = d.integer(in.operands[0])});
    return true;
  }
  const size_t n = in.parts.size();
  WgmmaOp op;
  op.saturate = in.has("satfinite");
  const bool known = n == 8u + (op.saturate ? 1 : 0) && in.parts[1] == "mma_async" &&
                     in.operands.size() >= 4 &&
                     read_types(op, in.parts[4], in.parts[n - 3], in.parts[n - 2], in.parts[n - 1]) &&
                     read_operands(d, in, op);
  if (!known) {
    d.unknown(in);
    return true;
  }
  d.emit({.run = is_integer(op.a_type) ? run_integer : run_float, .ext = d.program().keep(op)});
  return true;
}

}  // namespace ptxsim
