// TMA: boxes of tensors between global and shared memory, and changes of tensor maps on the device.
// Source: PTX ISA 9.0, 9.7.9.27, 9.7.9.28, 9.7.13.16.
#include <fmt/format.h>

#include <array>
#include <cstring>

#include "exec/async.h"
#include "exec/bulk_reduce.h"
#include "exec/memory.h"
#include "memory/global.h"
#include "tensor_box.h"
#include "tensor_map.h"

namespace ptxsim {

using ptx::Instruction;
using ptx::Operand;
using ptx::OperandKind;
using ptx::Space;
using ptx::Type;

namespace {

constexpr uint64_t kMapAlignment = 64;
constexpr uint64_t kBoxAlignment = 128;  // of shared memory, with or without swizzle

struct TensorOp {
  AddressOperand map, shared, mbarrier;
  int dims = 1;
  std::array<uint32_t, kMaxTensorRank> coordinate_rows{};
  std::array<uint32_t, 3> offset_rows{};
  bool im2col = false, has_offsets = false;
  bool multicast = false, into_own_block = false;
  uint32_t ranks_row = 0;
  bool reduces = false;
  ReduceOp reduce = ReduceOp::kAdd;
};

struct Box {
  TensorMap map;
  BoxPlace place;
};

[[noreturn]] void refuse(Warp& w, const Instr& i, int lane, const std::string& what) {
  fail(w, i, lane, ErrorCode::kIllegalInstruction, "[tensor] " + what);
}

Box read_box(Warp& w, const Instr& i, const TensorOp& op, int lane, uint64_t map_address) {
  const std::byte* at = resolve_range(w, i, lane, map_address, kTensorMapBytes, kMapAlignment);
  const std::optional<TensorMap> map = decode_tensor_map(at);
  if (!map)
    refuse(w, i, lane, fmt::format("no tensor map at {:#x} (never encoded, or overwritten)", map_address));
  if (map->rank != op.dims)
    refuse(w, i, lane, fmt::format("a {}d instruction on a tensor map of rank {}", op.dims, map->rank));
  if (map->im2col != op.im2col)
    refuse(w, i, lane,
           fmt::format("{} instruction on {} tensor map", op.im2col ? "an im2col" : "a tile",
                       map->im2col ? "an im2col" : "a tiled"));
  if (std::string wrong = check_box(*map); !wrong.empty()) refuse(w, i, lane, wrong);
  Box box{*map, {}};
  for (int d = 0; d < op.dims; ++d) box.place.at[d] = row<int32_t>(w, op.coordinate_rows[d])[lane];
  for (int d = 0; op.has_offsets && d < op.dims - 2; ++d)
    box.place.offset[d] = row<uint16_t>(w, op.offset_rows[d])[lane];
  return box;
}

// The rows inside the tensor must be memory that the kernel may touch.
void check_global(Warp& w, const Instr& i, int lane, const Box& box, Access access) {
  uint64_t begin, end;
  if (!global_hull(box.map, box.place, &begin, &end)) return;
  const uint64_t size = size_of(box.map.type);
  if (GlobalMemory::instance().find(begin).end < end)
    for_each_row(box.map, box.place, [&](const BoxRow& r) {
      if (r.count) resolve_range(w, i, lane, r.global, r.count * size, 1);
    });
  if (!w.cta->cluster->worker->profile) return;
  uint64_t bytes = 0;
  for_each_row(box.map, box.place, [&](const BoxRow& r) { bytes += r.count * size; });
  profile_engine(w, i, bytes, access);
}

// What the engine reads or writes, as the checker wants it: only bytes that matter.
void tell_global(Checker& check, AsyncId id, const Box& box, Access access) {
  box_detail::Joined joined{[&](uint64_t at, uint64_t bytes) { check.async_access(id, at, bytes, access); }};
  for_each_row(box.map, box.place, [&](const BoxRow& r) {
    if (r.count) joined.add(r.global, uint64_t{r.count} * size_of(box.map.type));
  });
  joined.flush();
}

void tell_shared(Checker& check, AsyncId id, const Box& box, uint64_t address, bool only_inside,
                 Access access) {
  const uint64_t block = address & ~uint64_t{kSharedOffsetMask};
  for_each_shared_piece(
      box.map, box.place, shared_offset(address), only_inside,
      [&](uint64_t at, uint64_t bytes) { check.async_access(id, block | at, bytes, access); });
}

void run_load(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const TensorOp*>(i.ext);
  std::array<uint64_t, kWarpSize> maps, shared, mbarrier;
  tagged_addresses(w, op.map, maps.data());
  tagged_addresses(w, op.shared, shared.data());
  tagged_addresses(w, op.mbarrier, mbarrier.data());
  for (uint32_t m = active(w, i); m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const Box box = read_box(w, i, op, lane, maps[lane]);
    const uint32_t extent = box_extent(box.map);
    if (op.into_own_block) require_own_block(w, i, lane, shared[lane], "destination");
    const uint32_t ranks = op.multicast ? row<uint16_t>(w, op.ranks_row)[lane] : 0;
    const Destinations to = destinations_of(w, i, lane, shared[lane], mbarrier[lane], op.multicast, ranks);
    to.each([&](uint64_t data, uint64_t) { resolve_range(w, i, lane, data, extent, kBoxAlignment); });
    check_global(w, i, lane, box, Access::kRead);
    issue_transfer(w, i, lane, Checker::Engine::kTma, [&w, &i, lane, box, to, extent](AsyncId id) {
      if (w.check) tell_global(*w.check, id, box, Access::kRead);
      to.each([&](uint64_t data, uint64_t) {
        if (w.check) tell_shared(*w.check, id, box, data, false, Access::kWrite);
        load_box(box.map, box.place, resolve_range(w, i, lane, data, extent, kBoxAlignment),
                 shared_offset(data));
      });
      signal(w, i, lane, id, to, box_bytes(box.map));
    });
  }
}

ReduceFunction reduction(ReduceOp op, TensorType type) {
  switch (type) {
    case TensorType::kU32:
      return reduce_function(op, ReduceType::kU32);
    case TensorType::kS32:
      return reduce_function(op, ReduceType::kS32);
    case TensorType::kU64:
      return reduce_function(op, ReduceType::kU64);
    case TensorType::kS64:
      return reduce_function(op, ReduceType::kS64);
    case TensorType::kF16:
      return reduce_function(op, ReduceType::kF16);
    case TensorType::kBf16:
      return reduce_function(op, ReduceType::kBf16);
    case TensorType::kF32:
    case TensorType::kF32Ftz:
      return reduce_function(op, ReduceType::kF32);
    default:
      return nullptr;
  }
}

void run_store(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const TensorOp*>(i.ext);
  std::array<uint64_t, kWarpSize> maps, shared;
  tagged_addresses(w, op.map, maps.data());
  tagged_addresses(w, op.shared, shared.data());
  for (uint32_t m = active(w, i); m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const Box box = read_box(w, i, op, lane, maps[lane]);
    for (int d = 0; d < op.dims; ++d)
      if (box.place.at[d] < 0)
        refuse(w, i, lane,
               fmt::format("a store at coordinate {} = {}: stores start inside", d, box.place.at[d]));
    const ReduceFunction reduce = op.reduces ? reduction(op.reduce, box.map.type) : nullptr;
    if (op.reduces && !reduce) refuse(w, i, lane, "no such reduction of the element type of this tensor map");
    require_own_block(w, i, lane, shared[lane], "source");
    const EngineRange source = engine_range(w, i, lane, shared[lane], box_extent(box.map), kBoxAlignment);
    const Access access = reduce ? Access::kAtomic : Access::kWrite;
    check_global(w, i, lane, box, access);
    issue_bulk_group(
        w, i, lane, Checker::Engine::kTma, source,
        [&w, box, source](AsyncId id) {
          tell_shared(*w.check, id, box, source.address, true, Access::kRead);
        },
        [&w, box, reduce, access, source](AsyncId id, const std::byte* bytes) {
          if (w.check) tell_global(*w.check, id, box, access);
          const uint32_t offset = shared_offset(source.address);
          if (reduce)
            reduce_box(box.map, box.place, bytes, offset, reduce);
          else
            store_box(box.map, box.place, bytes, offset);
          note_event(w);
        });
  }
}

void run_prefetch(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const TensorOp*>(i.ext);
  std::array<uint64_t, kWarpSize> maps;
  tagged_addresses(w, op.map, maps.data());
  for (uint32_t m = active(w, i); m; m &= m - 1) read_box(w, i, op, __builtin_ctz(m), maps[__builtin_ctz(m)]);
}

// --- tensor maps changed on the device ---
// In the generic proxy, told to the checker in pieces of the widest access.
void tell_map(Warp& w, const Instr& i, int lane, uint64_t address, Access access) {
  if (!w.check) return;
  std::array<uint64_t, kWarpSize> addresses{};
  for (uint64_t k = 0; k < kTensorMapBytes; k += 16) {
    addresses[lane] = address + k;
    w.check->access(w, i, 1u << lane, addresses.data(), {.access = access, .bytes = 16});
  }
}

struct ReplaceOp {
  AddressOperand map;
  std::string field;
  uint32_t ordinal = 0, value_row = 0;
  bool wide = false;  // the value has 64 bits
};

void run_replace(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const ReplaceOp*>(i.ext);
  std::array<uint64_t, kWarpSize> maps;
  tagged_addresses(w, op.map, maps.data());
  for (uint32_t m = active(w, i); m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    std::byte* at = resolve_range(w, i, lane, maps[lane], kTensorMapBytes, kMapAlignment);
    const uint64_t value =
        op.wide ? row<uint64_t>(w, op.value_row)[lane] : row<uint32_t>(w, op.value_row)[lane];
    if (std::string wrong = replace_field(at, op.field, op.ordinal, value); !wrong.empty())
      refuse(w, i, lane, wrong);
    tell_map(w, i, lane, maps[lane], Access::kWrite);
  }
  note_event(w);
}

struct CopyFenceOp {
  AddressOperand to, from;
  Scope scope = Scope::kGpu;
};

// The whole warp runs it; it is one copy per pair of addresses, which is one in all sensible use.
void run_copy_fence(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const CopyFenceOp*>(i.ext);
  if (!gather_lanes(w, i, w.live, "tensormap.cp_fenceproxy")) return;
  const uint32_t mask = active(w, i);
  if (!mask) return;
  if (w.check) w.check->sync_lanes(w, mask);
  std::array<uint64_t, kWarpSize> to, from;
  tagged_addresses(w, op.to, to.data());
  tagged_addresses(w, op.from, from.data());
  for (uint32_t left = mask; left;) {
    const int lane = __builtin_ctz(left);
    require_own_block(w, i, lane, from[lane], "source");
    const std::byte* source = resolve_range(w, i, lane, from[lane], kTensorMapBytes, kMapAlignment);
    std::byte* target = resolve_range(w, i, lane, to[lane], kTensorMapBytes, kMapAlignment);
    tell_map(w, i, lane, from[lane], Access::kRead);
    tell_map(w, i, lane, to[lane], Access::kWrite);
    std::memcpy(target, source, kTensorMapBytes);
    for (uint32_t m = left; m; m &= m - 1)
      if (to[__builtin_ctz(m)] == to[lane] && from[__builtin_ctz(m)] == from[lane]) left &= ~(m & -m);
  }
  note_event(w);
  if (!w.check) return;
  w.check->fence(w, i, mask, Checker::Fence::kProxyTensorMap, op.scope);
  w.check->sync_lanes(w, mask);
}

// --- decoding ---
void decode_map_change(Decoder& d, const Instruction& in) {
  if (in.parts.at(1) == "cp_fenceproxy") {
    CopyFenceOp op{address_operand(d, in.operands.at(0), Space::kGlobal),
                   address_operand(d, in.operands.at(1), Space::kShared), scope_of(in, Scope::kGpu)};
    d.emit({.run = run_copy_fence, .ext = d.program().keep(op)});
    return;
  }
  if (in.parts.at(1) != "replace") {
    d.unknown(in);
    return;
  }
  ReplaceOp op;
  op.map = address_operand(d, in.operands.at(0), space_of(in));
  op.field = in.parts.at(3);
  if (in.operands.size() > 2) op.ordinal = static_cast<uint32_t>(d.integer(in.operands[1]));
  op.wide = in.parts.back() == "b64";
  op.value_row = d.row(in.operands.back(), op.wide ? Type::kB64 : Type::kB32);
  d.emit({.run = run_replace, .ext = d.program().keep(op)});
}

// [map, {c0, ...}] and what .dim and the mode say of it.
void decode_box(Decoder& d, const Instruction& in, const Operand& address, TensorOp* op) {
  for (std::string_view part : in.parts)
    if (part.size() == 2 && part[1] == 'd' && part[0] >= '1' && part[0] <= '5') op->dims = part[0] - '0';
  op->map = address_operand(d, address, Space::kNone);
  const std::vector<Operand>& coordinates = address.elements.at(1).elements;
  if (coordinates.size() != static_cast<size_t>(op->dims))
    throw ptx::ParseError(in.loc.ptx_line, fmt::format("{}: {} coordinates", in.opcode, coordinates.size()));
  for (int k = 0; k < op->dims; ++k) op->coordinate_rows[k] = d.row(coordinates[k], Type::kS32);
  op->im2col = in.has("im2col") || in.has("im2col_no_offs");
}

void decode_offsets(Decoder& d, const Operand& offsets, TensorOp* op) {
  op->has_offsets = true;
  for (size_t k = 0; k < offsets.elements.size() && k < op->offset_rows.size(); ++k)
    op->offset_rows[k] = d.row(offsets.elements[k], Type::kU16);
}

void decode_load(Decoder& d, const Instruction& in, TensorOp op) {
  op.shared = address_operand(d, in.operands.at(0), Space::kShared);
  decode_box(d, in, in.operands.at(1), &op);
  op.mbarrier = address_operand(d, in.operands.at(2), Space::kShared);
  op.into_own_block = in.has("shared::cta");
  size_t next = 3;
  if (op.im2col) decode_offsets(d, in.operands.at(next++), &op);
  op.multicast = in.has("multicast::cluster");
  if (op.multicast) op.ranks_row = d.row(in.operands.at(next), Type::kU16);
  d.emit({.run = run_load, .ext = d.program().keep(op)});
}

void decode_store(Decoder& d, const Instruction& in, TensorOp op) {
  decode_box(d, in, in.operands.at(0), &op);
  op.shared = address_operand(d, in.operands.at(1), Space::kShared);
  static constexpr std::pair<std::string_view, ReduceOp> kOps[] = {
      {"add", ReduceOp::kAdd}, {"min", ReduceOp::kMin}, {"max", ReduceOp::kMax}, {"inc", ReduceOp::kInc},
      {"dec", ReduceOp::kDec}, {"and", ReduceOp::kAnd}, {"or", ReduceOp::kOr},   {"xor", ReduceOp::kXor}};
  op.reduces = in.has("reduce");
  for (const auto& [name, reduce] : kOps)
    if (op.reduces && in.has(name)) op.reduce = reduce;
  d.emit({.run = run_store, .ext = d.program().keep(op)});
}

// Modes and qualifiers that need compute capability 10.0.
bool too_new(const Instruction& in) {
  return in.has("tile::gather4") || in.has("tile::scatter4") || in.has("im2col::w") ||
         in.has("im2col::w::128") || in.has("cta_group::1") || in.has("cta_group::2");
}

}  // namespace

bool decode_tensor(Decoder& d, const Instruction& in) {
  if (in.mnemonic() == "tensormap") {
    decode_map_change(d, in);
    return true;
  }
  if (in.mnemonic() != "cp" || !in.has("tensor")) return false;
  TensorOp op;
  if (too_new(in)) {
    d.unknown(in);
  } else if (in.has("prefetch")) {
    decode_box(d, in, in.operands.at(0), &op);
    if (op.im2col) decode_offsets(d, in.operands.at(1), &op);
    d.emit({.run = run_prefetch, .ext = d.program().keep(op)});
  } else if (in.operands.at(0).elements.size() > 1) {
    decode_store(d, in, op);
  } else {
    decode_load(d, in, op);
  }
  return true;
}

}  // namespace ptxsim
