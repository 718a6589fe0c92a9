// cp.async.bulk, cp.reduce.async.bulk, st.async and red.async: contiguous bytes moved by an engine.
// Source: PTX ISA 9.0, 9.7.9.25.4, 9.7.9.12, 9.7.13.7.
#include <fmt/format.h>

#include <array>
#include <cstring>

#include "exec/async.h"
#include "exec/bulk_reduce.h"
#include "exec/memory.h"

namespace ptxsim {

using ptx::Instruction;
using ptx::Operand;
using ptx::Space;
using ptx::Type;

namespace {

constexpr uint64_t kAlignment = 16;

struct BulkOp {
  AddressOperand to, from, mbarrier;
  uint32_t size_row = 0, ranks_row = 0;
  bool multicast = false;
  bool into_own_block = false;      // .shared::cta
  ReduceFunction reduce = nullptr;  // null: a copy
  uint32_t element = 1;             // bytes of one element of a reduction
};

void move(const BulkOp& op, std::byte* to, const std::byte* from, uint64_t bytes) {
  if (op.reduce)
    op.reduce(to, from, static_cast<uint32_t>(bytes / op.element));
  else
    std::memcpy(to, from, bytes);
}

Access access_of(const BulkOp& op) { return op.reduce ? Access::kAtomic : Access::kWrite; }

uint32_t checked_size(Warp& w, const Instr& i, const BulkOp& op, int lane) {
  const uint32_t bytes = row<uint32_t>(w, op.size_row)[lane];
  if (bytes % kAlignment)
    fail(w, i, lane, ErrorCode::kIllegalInstruction,
         fmt::format("[bulk] size {} is not a multiple of {}", bytes, kAlignment));
  return bytes;
}

uint32_t ranks_of(Warp& w, const BulkOp& op, int lane) {
  return op.multicast ? row<uint16_t>(w, op.ranks_row)[lane] : 0;
}

// Into shared memory, signalling mbarriers.
void run_into_shared(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const BulkOp*>(i.ext);
  std::array<uint64_t, kWarpSize> to, from, mbarrier;
  tagged_addresses(w, op.to, to.data());
  tagged_addresses(w, op.from, from.data());
  tagged_addresses(w, op.mbarrier, mbarrier.data());
  for (uint32_t m = active(w, i); m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const uint32_t bytes = checked_size(w, i, op, lane);
    if (op.into_own_block) require_own_block(w, i, lane, to[lane], "destination");
    if (op.from.space == Space::kShared) require_own_block(w, i, lane, from[lane], "source");
    const EngineRange source = engine_range(w, i, lane, from[lane], bytes, kAlignment);
    const Destinations places =
        destinations_of(w, i, lane, to[lane], mbarrier[lane], op.multicast, ranks_of(w, op, lane));
    places.each([&](uint64_t data, uint64_t) { resolve_range(w, i, lane, data, bytes, kAlignment); });
    if (op.from.space == Space::kGlobal) profile_engine(w, i, bytes, Access::kRead);
    issue_transfer(w, i, lane, Checker::Engine::kBulk,
                   [&w, &i, &op, lane, source, places, bytes](AsyncId id) {
                     if (w.check) w.check->async_access(id, source.address, bytes, Access::kRead);
                     places.each([&](uint64_t data, uint64_t) {
                       if (w.check) w.check->async_access(id, data, bytes, access_of(op));
                       move(op, resolve_range(w, i, lane, data, bytes, kAlignment), source.at, bytes);
                     });
                     signal(w, i, lane, id, places, bytes);
                   });
  }
}

// From shared to global memory, in a bulk group.
void run_into_global(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const BulkOp*>(i.ext);
  std::array<uint64_t, kWarpSize> to, from;
  tagged_addresses(w, op.to, to.data());
  tagged_addresses(w, op.from, from.data());
  for (uint32_t m = active(w, i); m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const uint32_t bytes = checked_size(w, i, op, lane);
    require_own_block(w, i, lane, from[lane], "source");
    const EngineRange source = engine_range(w, i, lane, from[lane], bytes, kAlignment);
    const EngineRange target = engine_range(w, i, lane, to[lane], bytes, kAlignment);
    profile_engine(w, i, bytes, Access::kWrite);
    issue_bulk_group(
        w, i, lane, Checker::Engine::kBulk, source,
        [&w, source](AsyncId id) { w.check->async_access(id, source.address, source.bytes, Access::kRead); },
        [&w, &op, target](AsyncId id, const std::byte* values) {
          if (w.check) w.check->async_access(id, target.address, target.bytes, access_of(op));
          move(op, target.at, values, target.bytes);
          note_event(w);
        });
  }
}

// Only what can be wrong with it: caches are not modelled.
void run_prefetch(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const BulkOp*>(i.ext);
  std::array<uint64_t, kWarpSize> from;
  tagged_addresses(w, op.from, from.data());
  for (uint32_t m = active(w, i); m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    checked_size(w, i, op, lane);
    if (from[lane] % kAlignment)
      fail(w, i, lane, ErrorCode::kMisalignedAddress,
           fmt::format("[alignment] prefetch of {:#x}, not a multiple of {}", from[lane], kAlignment));
  }
}

// st.async and red.async: values of registers.
struct StoreOp {
  AddressOperand to, mbarrier;
  uint32_t rows[4] = {};
  int count = 1;
  uint32_t element = 4;             // bytes
  ReduceFunction reduce = nullptr;  // null: a store
};

void run_store(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const StoreOp*>(i.ext);
  std::array<uint64_t, kWarpSize> to, mbarrier;
  tagged_addresses(w, op.to, to.data());
  tagged_addresses(w, op.mbarrier, mbarrier.data());
  const uint32_t bytes = op.element * static_cast<uint32_t>(op.count);
  for (uint32_t m = active(w, i); m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const Destinations place = destinations_of(w, i, lane, to[lane], mbarrier[lane], false, 0);
    const EngineRange target = engine_range(w, i, lane, to[lane], bytes, bytes);
    std::array<std::byte, 32> values;
    for (int k = 0; k < op.count; ++k)
      std::memcpy(values.data() + k * op.element, w.regs + op.rows[k] + lane * op.element, op.element);
    issue_transfer(w, i, lane, Checker::Engine::kCpAsync,
                   [&w, &i, &op, lane, place, target, values](AsyncId id) {
                     if (w.check)
                       w.check->async_access(id, target.address, target.bytes,
                                             op.reduce ? Access::kAtomic : Access::kWrite);
                     if (op.reduce)
                       op.reduce(target.at, values.data(), 1);
                     else
                       std::memcpy(target.at, values.data(), target.bytes);
                     signal(w, i, lane, id, place, static_cast<uint32_t>(target.bytes));
                   });
  }
}

// --- decoding ---
bool find_reduce(const Instruction& in, ReduceFunction* function, uint32_t* element) {
  static constexpr std::pair<std::string_view, ReduceOp> kOps[] = {
      {"add", ReduceOp::kAdd}, {"min", ReduceOp::kMin}, {"max", ReduceOp::kMax}, {"inc", ReduceOp::kInc},
      {"dec", ReduceOp::kDec}, {"and", ReduceOp::kAnd}, {"or", ReduceOp::kOr},   {"xor", ReduceOp::kXor}};
  static constexpr std::pair<std::string_view, ReduceType> kTypes[] = {
      {"u32", ReduceType::kU32}, {"s32", ReduceType::kS32},   {"b32", ReduceType::kU32},
      {"u64", ReduceType::kU64}, {"s64", ReduceType::kS64},   {"b64", ReduceType::kU64},
      {"f16", ReduceType::kF16}, {"bf16", ReduceType::kBf16}, {"f32", ReduceType::kF32},
      {"f64", ReduceType::kF64}};
  for (const auto& [op_name, op] : kOps)
    for (const auto& [type_name, type] : kTypes)
      if (in.has(op_name) && in.parts.back() == type_name) {
        *function = reduce_function(op, type);
        *element = size_of(type);
      }
  return *function != nullptr;
}

bool decode_store(Decoder& d, const Instruction& in) {
  StoreOp op;
  // The forms without an mbarrier (.release to global memory) need compute capability 10.0.
  const bool known =
      in.operands.size() == 3 && (in.mnemonic() == "st" || find_reduce(in, &op.reduce, &op.element));
  if (!known) {
    d.unknown(in);
    return true;
  }
  op.to = address_operand(d, in.operands[0], space_of(in));
  op.mbarrier = address_operand(d, in.operands[2], space_of(in));
  op.count = vector_of(in);
  op.element = static_cast<uint32_t>(ptx::size_of(type_of(in)));
  for (int k = 0; k < op.count; ++k)
    op.rows[k] = d.row(
        op.count == 1 && in.operands[1].elements.empty() ? in.operands[1] : in.operands[1].elements.at(k),
        type_of(in));
  d.emit({.run = run_store, .ext = d.program().keep(op)});
  return true;
}

// "global", "shared::cta" or "shared::cluster" behind "bulk".
Space space_at(const Instruction& in, size_t k) {
  return in.parts.at(k) == "global" ? Space::kGlobal : Space::kShared;
}

}  // namespace

bool decode_bulk(Decoder& d, const Instruction& in) {
  if (in.mnemonic() != "cp") return decode_store(d, in);
  BulkOp op;
  if (in.has("prefetch")) {
    op.from = address_operand(d, in.operands.at(0), Space::kGlobal);
    op.size_row = d.row(in.operands.at(1), Type::kU32);
    d.emit({.run = run_prefetch, .ext = d.program().keep(op)});
    return true;
  }
  size_t at = 1;
  while (in.parts.at(at) != "bulk") ++at;
  const Space to = space_at(in, at + 1), from = space_at(in, at + 2);
  const bool known = (!in.has("reduce") || find_reduce(in, &op.reduce, &op.element)) && !in.has("cp_mask") &&
                     (to == Space::kShared || from == Space::kShared);
  if (!known) {
    d.unknown(in);
    return true;
  }
  op.into_own_block = in.parts[at + 1] == "shared::cta";
  op.to = address_operand(d, in.operands.at(0), to);
  op.from = address_operand(d, in.operands.at(1), from);
  op.size_row = d.row(in.operands.at(2), Type::kU32);
  if (to == Space::kShared) {
    op.mbarrier = address_operand(d, in.operands.at(3), Space::kShared);
    op.multicast = in.has("multicast::cluster");
    if (op.multicast) op.ranks_row = d.row(in.operands.at(4), Type::kU16);
  }
  d.emit({.run = to == Space::kShared ? run_into_shared : run_into_global, .ext = d.program().keep(op)});
  return true;
}

}  // namespace ptxsim
