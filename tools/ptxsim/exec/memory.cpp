// ld, st, prefetch, cvta, isspacep. Source: PTX ISA, section 9.7.9.
#include "exec/memory.h"

#include <algorithm>
#include <cstring>

#include "check/checker.h"
#include "exec/worker.h"
#include "memory/global.h"

namespace ptxsim {

using ptx::Instruction;
using ptx::Operand;
using ptx::OperandKind;
using ptx::Space;
using ptx::Type;

Space space_of(const Instruction& in) {
  for (size_t k = 1; k < in.parts.size(); ++k) {
    const std::string_view p = in.parts[k];
    if (p == "global") return Space::kGlobal;
    if (p.substr(0, 6) == "shared") return Space::kShared;
    if (p == "local") return Space::kLocal;
    if (p.substr(0, 5) == "param") return Space::kParam;
    if (p == "const") return Space::kConst;
  }
  return Space::kNone;
}

Order order_of(const Instruction& in, Order otherwise) {
  if (in.has("relaxed")) return Order::kRelaxed;
  if (in.has("acquire")) return Order::kAcquire;
  if (in.has("release")) return Order::kRelease;
  if (in.has("acq_rel")) return Order::kAcqRel;
  if (in.has("sc")) return Order::kSeqCst;
  if (in.has("volatile") || in.has("mmio")) return Order::kVolatile;
  return otherwise;
}

Scope scope_of(const Instruction& in, Scope otherwise) {
  if (in.has("cta")) return Scope::kCta;
  if (in.has("cluster")) return Scope::kCluster;
  if (in.has("gpu") || in.has("gl")) return Scope::kGpu;
  if (in.has("sys")) return Scope::kSystem;
  return otherwise;
}

Type type_of(const Instruction& in) {
  for (size_t k = in.parts.size(); k-- > 1;)
    if (const Type t = ptx::type_named(in.parts[k]); t != Type::kNone) return t;
  return Type::kNone;
}

int vector_of(const Instruction& in) { return in.has("v2") ? 2 : in.has("v4") ? 4 : in.has("v8") ? 8 : 1; }

AddressOperand address_operand(Decoder& d, const Operand& op, Space space) {
  const Decoder::Address a = d.address(op);
  AddressOperand out{a.row, a.bits, a.offset, space};
  const Operand& base = op.elements[0];
  if (base.kind == OperandKind::kVariable && !base.is_global) out.space = d.place(base).space;
  return out;
}

namespace {

struct Bits128 {
  uint64_t low, high;
};

struct MemoryOp {
  AddressOperand address;
  AccessInfo info;  // bytes: of the whole vector
  int count = 1;    // elements
  uint32_t rows[8] = {};
};

// Lane l's bytes lie behind lane l - 1's: the whole warp is one piece of memory.
bool one_piece(uint32_t mask, std::byte* const* p, uint32_t bytes) {
  if (mask != kAllLanes) return false;
  uint64_t gaps = 0;
  for (int l = 0; l < kWarpSize; ++l)
    gaps |= reinterpret_cast<uint64_t>(p[l]) ^ (reinterpret_cast<uint64_t>(p[0]) + bytes * l);
  return gaps == 0;
}

// Elements kCount apart; GCC makes permutations of a constant stride.
template <int kCount, class M>
void deal(Warp& w, const MemoryOp& op, const std::byte* from) {
  const M* values = reinterpret_cast<const M*>(from);
  for (int e = 0; e < kCount; ++e) {
    M* d = row<M>(w, op.rows[e]);
    for (int l = 0; l < kWarpSize; ++l) d[l] = values[l * kCount + e];
  }
}
template <int kCount, class M>
void collect(Warp& w, const MemoryOp& op, std::byte* to) {
  M* values = reinterpret_cast<M*>(to);
  for (int e = 0; e < kCount; ++e) {
    const M* d = row<M>(w, op.rows[e]);
    for (int l = 0; l < kWarpSize; ++l) values[l * kCount + e] = d[l];
  }
}

template <class M, class R>
void run_load(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const MemoryOp*>(i.ext);
  const uint32_t mask = active(w, i);
  if (!mask) return;
  alignas(64) uint64_t addresses[kWarpSize];
  alignas(64) std::byte* p[kWarpSize];
  tagged_addresses(w, op.address, addresses);
  resolve(w, i, mask, addresses, op.info, p);
  if (op.info.order != Order::kWeak) note_poll(w);
  if constexpr (std::is_same_v<M, R>) {
    if (one_piece(mask, p, op.info.bytes)) {
      if (op.count == 1) return deal<1, M>(w, op, p[0]);
      if (op.count == 2) return deal<2, M>(w, op, p[0]);
      if (op.count == 4) return deal<4, M>(w, op, p[0]);
    }
  }
  for (int e = 0; e < op.count; ++e)
    each_lane(mask, row<R>(w, op.rows[e]), [&](int l) {
      M v;
      std::memcpy(&v, p[l] + e * sizeof(M), sizeof(M));
      if constexpr (std::is_same_v<M, R>)
        return v;
      else
        return static_cast<R>(v);
    });
}

// Lanes whose store another lane of the same instruction has overwritten with something else.
template <class M, class R>
void look_for_lost(Warp& w, const Instr& i, uint32_t mask, const uint64_t* addresses, std::byte* const* p) {
  const auto& op = *static_cast<const MemoryOp*>(i.ext);
  for (uint32_t m = mask; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    for (int e = 0; e < op.count; ++e) {
      const M v = static_cast<M>(row<R>(w, op.rows[e])[l]);
      if (std::memcmp(p[l] + e * sizeof(M), &v, sizeof(M))) w.check->store_lost(w, i, l, addresses[l]);
    }
  }
}

template <class M, class R>
void run_store(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const MemoryOp*>(i.ext);
  const uint32_t mask = active(w, i);
  if (!mask) return;
  alignas(64) uint64_t addresses[kWarpSize];
  alignas(64) std::byte* p[kWarpSize];
  tagged_addresses(w, op.address, addresses);
  resolve(w, i, mask, addresses, op.info, p);
  if constexpr (std::is_same_v<M, R>) {
    if (one_piece(mask, p, op.info.bytes)) {
      if (op.count == 1) return collect<1, M>(w, op, p[0]);
      if (op.count == 2) return collect<2, M>(w, op, p[0]);
      if (op.count == 4) return collect<4, M>(w, op, p[0]);
    }
  }
  for (uint32_t m = mask; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    for (int e = 0; e < op.count; ++e) {
      M v;
      if constexpr (std::is_same_v<M, R>)
        v = row<R>(w, op.rows[e])[l];
      else
        v = static_cast<M>(row<R>(w, op.rows[e])[l]);
      std::memcpy(p[l] + e * sizeof(M), &v, sizeof(M));
    }
  }
  // Not of strong stores: another block may have stored since.
  if (w.check && op.info.order == Order::kWeak) look_for_lost<M, R>(w, i, mask, addresses, p);
}

// Offsets into the own block's shared memory of a full warp, if all lanes are inside: the usual case, without
// tags.
inline bool own_shared(Warp& w, const MemoryOp& op, uint32_t* offsets) {
  const uint32_t base = w.cta->rank << 24;
  const uint32_t add = static_cast<uint32_t>(op.address.offset) - base - kSharedBase;
  uint32_t high = 0, bits = 0;
  if (op.address.bits == 32) {
    const uint32_t* a = row<uint32_t>(w, op.address.row);
    for (int l = 0; l < kWarpSize; ++l) offsets[l] = a[l] + add;
  } else {
    const uint64_t* a = row<uint64_t>(w, op.address.row);
    for (int l = 0; l < kWarpSize; ++l) offsets[l] = static_cast<uint32_t>(a[l]) + add;
  }
  for (int l = 0; l < kWarpSize; ++l) {
    high = offsets[l] > high ? offsets[l] : high;
    bits |= offsets[l];
  }
  return uint64_t{high} + op.info.bytes + kSharedBase <= w.cta->shared_end &&
         (bits & (op.info.bytes - 1)) == 0;
}

inline void tell_checker(Warp& w, const Instr& i, const MemoryOp& op, const uint32_t* at) {
  alignas(64) uint64_t addresses[kWarpSize];
  const uint64_t base = shared_address(w.cta->rank << 24) + kSharedBase;
  for (int l = 0; l < kWarpSize; ++l) addresses[l] = base + at[l];
  w.check->access(w, i, kAllLanes, addresses, op.info);
}

// 4-byte elements of the own block's shared memory; everything unusual takes the general way.
template <int kCount>
void run_load_shared(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const MemoryOp*>(i.ext);
  alignas(64) uint32_t at[kWarpSize];
  if (active(w, i) != kAllLanes || w.cta->cluster->worker->profile || !own_shared(w, op, at)) {
    run_load<uint32_t, uint32_t>(w, i);
    return;
  }
  if (w.check) tell_checker(w, i, op, at);
  const std::byte* base = w.cta->shared + kSharedBase;
  uint32_t same = 0, stride = 0;
  for (int l = 0; l < kWarpSize; ++l) {
    same |= at[l] ^ at[0];
    stride |= at[l] ^ (at[0] + 4u * kCount * l);
  }
  uint32_t* d[kCount];
  for (int e = 0; e < kCount; ++e) d[e] = row<uint32_t>(w, op.rows[e]);
  if (same == 0) {
    uint32_t v[kCount];
    std::memcpy(v, base + at[0], sizeof v);
    for (int e = 0; e < kCount; ++e)
      for (int l = 0; l < kWarpSize; ++l) d[e][l] = v[e];
  } else if (kCount == 1 && stride == 0) {
    std::memcpy(d[0], base + at[0], 4 * kWarpSize);
  } else {
    const auto* words = reinterpret_cast<const uint32_t*>(base);
    for (int e = 0; e < kCount; ++e) {
#pragma GCC ivdep
      for (int l = 0; l < kWarpSize; ++l) d[e][l] = words[at[l] / 4 + e];
    }
  }
}

template <int kCount>
void run_store_shared(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const MemoryOp*>(i.ext);
  alignas(64) uint32_t at[kWarpSize];
  if (active(w, i) != kAllLanes || w.cta->cluster->worker->profile || !own_shared(w, op, at)) {
    run_store<uint32_t, uint32_t>(w, i);
    return;
  }
  if (w.check) tell_checker(w, i, op, at);
  std::byte* base = w.cta->shared + kSharedBase;
  uint32_t stride = 0;
  for (int l = 0; l < kWarpSize; ++l) stride |= at[l] ^ (at[0] + 4u * kCount * l);
  if (kCount == 1 && stride == 0) {
    std::memcpy(base + at[0], row<uint32_t>(w, op.rows[0]), 4 * kWarpSize);
  } else {
    auto* words = reinterpret_cast<uint32_t*>(base);
    for (int l = 0; l < kWarpSize; ++l)
      for (int e = 0; e < kCount; ++e) words[at[l] / 4 + e] = row<uint32_t>(w, op.rows[e])[l];
    if (w.check)
      for (int l = 0; l < kWarpSize; ++l)
        for (int e = 0; e < kCount; ++e)
          if (words[at[l] / 4 + e] != row<uint32_t>(w, op.rows[e])[l])
            w.check->store_lost(w, i, l, shared_address(w.cta->rank << 24) + kSharedBase + at[l]);
  }
  ++w.cta->cluster->events;
}

// ld.param of a kernel parameter: the same for all lanes, read from the launch.
template <class M, class R>
void run_load_parameter(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const MemoryOp*>(i.ext);
  const uint32_t mask = active(w, i);
  const std::byte* p = w.cta->cluster->launch->parameter_base + i.imm;
  for (int e = 0; e < op.count; ++e) {
    M v;
    std::memcpy(&v, p + e * sizeof(M), sizeof(M));
    R value;
    if constexpr (std::is_same_v<M, R>)
      value = v;
    else
      value = static_cast<R>(v);
    each_lane(mask, row<R>(w, op.rows[e]), [&](int) { return value; });
  }
}

struct Handlers {
  Handler load, store, parameter;
};

template <class M, class R>
constexpr Handlers handlers() {
  return {run_load<M, R>, run_store<M, R>, run_load_parameter<M, R>};
}

// By bytes and signedness in memory, and by bytes of the register.
Handlers handlers_of(Type memory, int register_bytes) {
  const bool is_signed = memory == Type::kS8 || memory == Type::kS16 || memory == Type::kS32;
  struct Form {
    int memory, registers;
    bool is_signed;
    Handlers handlers;
  };
  static constexpr Form kForms[] = {
      {1, 2, false, handlers<uint8_t, uint16_t>()},  {1, 2, true, handlers<int8_t, int16_t>()},
      {1, 4, false, handlers<uint8_t, uint32_t>()},  {1, 4, true, handlers<int8_t, int32_t>()},
      {1, 8, false, handlers<uint8_t, uint64_t>()},  {1, 8, true, handlers<int8_t, int64_t>()},
      {2, 2, false, handlers<uint16_t, uint16_t>()}, {2, 2, true, handlers<uint16_t, uint16_t>()},
      {2, 4, false, handlers<uint16_t, uint32_t>()}, {2, 4, true, handlers<int16_t, int32_t>()},
      {2, 8, false, handlers<uint16_t, uint64_t>()}, {2, 8, true, handlers<int16_t, int64_t>()},
      {4, 4, false, handlers<uint32_t, uint32_t>()}, {4, 4, true, handlers<uint32_t, uint32_t>()},
      {4, 8, false, handlers<uint32_t, uint64_t>()}, {4, 8, true, handlers<int32_t, int64_t>()},
      {8, 8, false, handlers<uint64_t, uint64_t>()}, {16, 16, false, handlers<Bits128, Bits128>()}};
  for (const Form& f : kForms)
    if (f.memory == ptx::size_of(memory) && f.registers == register_bytes && f.is_signed == is_signed)
      return f.handlers;
  return {};
}

bool decode_load_store(Decoder& d, const Instruction& in, bool load) {
  if (in.operands.size() < 2) return false;
  const Operand& value = in.operands[load ? 0 : 1];
  const Operand& address = in.operands[load ? 1 : 0];
  const Type type = type_of(in);
  MemoryOp op;
  op.count = vector_of(in);
  op.address = address_operand(d, address, space_of(in));
  op.info.access = load ? Access::kRead : Access::kWrite;
  op.info.order = order_of(in, Order::kWeak);
  op.info.scope = scope_of(in, op.info.order == Order::kVolatile ? Scope::kSystem : Scope::kGpu);
  op.info.bytes = static_cast<uint32_t>(ptx::size_of(type) * op.count);
  const bool listed = value.kind == OperandKind::kVector;
  if (listed ? static_cast<int>(value.elements.size()) != op.count : op.count != 1) return false;
  int register_bytes = 0;
  for (int e = 0; e < op.count; ++e) {
    const Operand& v = listed ? value.elements[e] : value;
    const int bytes = ptx::size_of(d.register_type(v));
    if (bytes) register_bytes = bytes;
  }
  // Immediates and sinks have the width that the type asks for.
  if (!register_bytes) register_bytes = std::max(2, ptx::size_of(type));
  static constexpr Type kByBytes[] = {Type::kNone, Type::kNone, Type::kB16,  Type::kNone, Type::kB32,
                                      Type::kNone, Type::kNone, Type::kNone, Type::kB64};
  const Type row_type = register_bytes == 16 ? Type::kB128 : kByBytes[register_bytes];
  for (int e = 0; e < op.count; ++e) op.rows[e] = d.row(listed ? value.elements[e] : value, row_type);
  const Handlers h = handlers_of(type, register_bytes);
  if (!h.load) {
    d.unknown(in);
    return true;
  }
  Instr out;
  out.ext = d.program().keep(op);
  out.run = load ? h.load : h.store;
  if (op.address.space == Space::kShared && ptx::size_of(type) == 4 && register_bytes == 4) {
    if (op.count == 1) out.run = load ? run_load_shared<1> : run_store_shared<1>;
    if (op.count == 2) out.run = load ? run_load_shared<2> : run_store_shared<2>;
    if (op.count == 4) out.run = load ? run_load_shared<4> : run_store_shared<4>;
  }
  const Operand& base = address.elements[0];
  if (load && base.kind == OperandKind::kVariable && !base.is_global) {
    const Decoder::Place place = d.place(base);
    const int64_t at = op.address.offset + static_cast<int64_t>(base.integer);
    if (place.space == Space::kParam && at >= 0 && static_cast<uint64_t>(at) + op.info.bytes <= place.bytes &&
        at % op.info.bytes == 0) {
      out.run = h.parameter;
      out.imm = static_cast<int64_t>(place.offset) + at;
    }
  }
  d.emit(out);
  return true;
}

// cvta and cvta.to: the tag of the space comes and goes.
template <class T>
void run_cvta(Warp& w, const Instr& i) {
  const uint64_t keep = i.imm ? static_cast<uint32_t>(~0u) : ~kTagMask;  // imm: shared, 32 bits
  const auto tag = reinterpret_cast<uint64_t>(i.ext);
  const uint64_t* a = row<uint64_t>(w, i.a);
  each_lane(active(w, i), row<uint64_t>(w, i.d), [&](int l) { return (a[l] & keep) | tag; });
}

bool decode_cvta(Decoder& d, const Instruction& in) {
  const Space space = space_of(in);
  if (in.operands.size() != 2 || d.register_type(in.operands[0]) == Type::kNone) return false;
  if (ptx::size_of(d.register_type(in.operands[0])) != 8) {
    d.unknown(in);
    return true;
  }
  uint64_t tag = 0;
  if (!in.has("to"))
    tag = space == Space::kShared  ? kSharedTag
          : space == Space::kLocal ? kLocalTag
          : space == Space::kParam ? kParamTag
                                   : 0;
  d.emit({.run = run_cvta<uint64_t>,
          .d = d.row(in.operands[0], Type::kB64),
          .a = d.row(in.operands[1], Type::kB64),
          .imm = space == Space::kShared,
          .ext = reinterpret_cast<const void*>(tag)});
  return true;
}

struct IsSpace {
  Space space;
  bool own_block;
};

void run_isspacep(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const IsSpace*>(i.ext);
  const uint64_t* a = row<uint64_t>(w, i.a);
  const uint32_t mask = active(w, i);
  uint32_t in_space = 0;
  for (int l = 0; l < kWarpSize; ++l) {
    const uint64_t tag = a[l] & kTagMask;
    bool is = false;
    if (op.space == Space::kShared)
      is = tag == kSharedTag && (!op.own_block || shared_rank(a[l]) == w.cta->rank);
    else if (op.space == Space::kLocal)
      is = tag == kLocalTag;
    else if (op.space == Space::kParam)
      is = tag == kParamTag;
    else
      is = tag == 0;  // global; constants are global memory here
    in_space |= static_cast<uint32_t>(is) << l;
  }
  uint32_t& d = predicate_row(w, i.d);
  d = (d & ~mask) | (in_space & mask);
}

void run_nothing(Warp&, const Instr&) {}

void run_zero64(Warp& w, const Instr& i) {
  each_lane(active(w, i), row<uint64_t>(w, i.d), [](int) { return uint64_t{0}; });
}

}  // namespace

bool decode_memory(Decoder& d, const Instruction& in) {
  const std::string_view m = in.mnemonic();
  if (in.has("async")) return false;
  if (m == "ld" || m == "ldu") return decode_load_store(d, in, true);
  if (m == "st") return decode_load_store(d, in, false);
  if (m == "cvta") return decode_cvta(d, in);
  if (m == "isspacep") {
    const IsSpace op{space_of(in), in.has("shared::cta") || in.has("shared")};
    d.emit({.run = run_isspacep,
            .d = d.predicate(in.operands.at(0), nullptr),
            .a = d.row(in.operands.at(1), Type::kB64),
            .ext = d.program().keep(op)});
    return true;
  }
  if (m == "prefetch" || m == "prefetchu" || m == "applypriority" || m == "discard") {
    d.emit({.run = run_nothing});  // caches are not modelled
    return true;
  }
  if (m == "createpolicy") {
    d.emit({.run = run_zero64, .d = d.row(in.operands.at(0), Type::kB64)});
    return true;
  }
  return false;
}

}  // namespace ptxsim
