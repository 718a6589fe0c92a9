// atom, red, multimem. Source: PTX ISA, sections 9.7.13.5, .6 and .12-.14.
#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <mutex>

#include "exec/memory.h"
#include "numeric/float_formats.h"

namespace ptxsim {

using ptx::Instruction;
using ptx::Operand;
using ptx::OperandKind;
using ptx::Type;

using numeric::bf16_to_f32;
using numeric::f16_to_f32;
using numeric::f32_to_bf16;
using numeric::f32_to_f16;

namespace {

enum class Op : uint8_t { kAdd, kMin, kMax, kAnd, kOr, kXor, kExch, kCas, kInc, kDec, kStore };

struct AtomicOp {
  AddressOperand address;
  AccessInfo info;
  Op op = Op::kAdd;
  Type type = Type::kNone;
  int element_bytes = 4;
  int count = 1;
  bool has_result = false;
  bool flush = false;  // f32 add in global memory
  uint32_t d[8] = {}, b[8] = {};
  uint32_t c = 0;
};

float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }

template <class T>
T min_max(Op op, T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a != a) return b;  // a NaN loses
    if (b != b) return a;
    if (a == b) return std::signbit(a) == (op == Op::kMin) ? a : b;  // -0 < +0
  }
  return (op == Op::kMin) == (a < b) ? a : b;
}

template <class T>
T integer_result(Op op, T old, T b, T c) {
  switch (op) {
    case Op::kAdd:
      return static_cast<T>(static_cast<std::make_unsigned_t<T>>(old) +
                            static_cast<std::make_unsigned_t<T>>(b));
    case Op::kMin:
    case Op::kMax:
      return min_max(op, old, b);
    case Op::kAnd:
      return old & b;
    case Op::kOr:
      return old | b;
    case Op::kXor:
      return old ^ b;
    case Op::kCas:
      return old == b ? c : old;
    case Op::kInc:
      return old >= b ? 0 : old + 1;
    case Op::kDec:
      return old == 0 || old > b ? b : old - 1;
    default:
      return b;
  }
}

uint16_t half_result(Op op, Type type, uint16_t old, uint16_t b) {
  if (op == Op::kExch || op == Op::kStore) return b;
  const bool bf16 = type == Type::kBf16 || type == Type::kBf16x2;
  const float x = bf16 ? bf16_to_f32(old) : f16_to_f32(old), y = bf16 ? bf16_to_f32(b) : f16_to_f32(b);
  // The float sum of two halves, rounded once more, is the correctly rounded sum (24 >= 2 * 11 + 2 bits).
  const float r = op == Op::kAdd ? x + y : min_max(op, x, y);
  return bf16 ? f32_to_bf16(r) : f32_to_f16(r);
}

uint64_t result(const AtomicOp& op, uint64_t old, uint64_t b, uint64_t c) {
  switch (op.type) {
    case Type::kF32: {
      if (op.op != Op::kAdd && op.op != Op::kMin && op.op != Op::kMax) break;
      float x = std::bit_cast<float>(static_cast<uint32_t>(old)),
            y = std::bit_cast<float>(static_cast<uint32_t>(b));
      if (op.op != Op::kAdd) return std::bit_cast<uint32_t>(min_max(op.op, x, y));
      if (op.flush) return std::bit_cast<uint32_t>(flushed(flushed(x) + flushed(y)));
      return std::bit_cast<uint32_t>(x + y);
    }
    case Type::kF64:
      if (op.op == Op::kAdd)
        return std::bit_cast<uint64_t>(std::bit_cast<double>(old) + std::bit_cast<double>(b));
      break;
    case Type::kF16:
    case Type::kBf16:
      return half_result(op.op, op.type, static_cast<uint16_t>(old), static_cast<uint16_t>(b));
    case Type::kF16x2:
    case Type::kBf16x2:
      return half_result(op.op, op.type, static_cast<uint16_t>(old), static_cast<uint16_t>(b)) |
             static_cast<uint32_t>(half_result(op.op, op.type, static_cast<uint16_t>(old >> 16),
                                               static_cast<uint16_t>(b >> 16)))
                 << 16;
    case Type::kS32:
      return static_cast<uint32_t>(integer_result<int32_t>(op.op, static_cast<int32_t>(old),
                                                           static_cast<int32_t>(b), static_cast<int32_t>(c)));
    case Type::kS64:
      return static_cast<uint64_t>(integer_result<int64_t>(op.op, static_cast<int64_t>(old),
                                                           static_cast<int64_t>(b), static_cast<int64_t>(c)));
    default:
      break;
  }
  if (op.element_bytes == 2)
    return integer_result<uint16_t>(op.op, static_cast<uint16_t>(old), static_cast<uint16_t>(b),
                                    static_cast<uint16_t>(c));
  if (op.element_bytes == 4)
    return integer_result<uint32_t>(op.op, static_cast<uint32_t>(old), static_cast<uint32_t>(b),
                                    static_cast<uint32_t>(c));
  return integer_result<uint64_t>(op.op, old, b, c);
}

// The old value; other host threads see one step.
template <class T>
uint64_t update(const AtomicOp& op, std::byte* p, uint64_t b, uint64_t c, bool* changed) {
  T* at = reinterpret_cast<T*>(p);
  T old = __atomic_load_n(at, __ATOMIC_SEQ_CST);
  for (;;) {
    const T next = static_cast<T>(result(op, old, b, c));
    if (__atomic_compare_exchange_n(at, &old, next, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
      *changed |= next != old;
      return old;
    }
  }
}

uint64_t value_of(Warp& w, uint32_t offset, int bytes, int lane) {
  return bytes == 2   ? row<uint16_t>(w, offset)[lane]
         : bytes == 4 ? row<uint32_t>(w, offset)[lane]
                      : row<uint64_t>(w, offset)[lane];
}

void run_atomic(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const AtomicOp*>(i.ext);
  const uint32_t mask = active(w, i);
  if (!mask) return;
  uint64_t addresses[kWarpSize];
  std::byte* p[kWarpSize];
  tagged_addresses(w, op.address, addresses);
  resolve(w, i, mask, addresses, op.info, p);
  bool changed = false;
  for (uint32_t m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    for (int e = 0; e < op.count; ++e) {
      const uint64_t b = value_of(w, op.b[e], op.element_bytes, lane);
      const uint64_t c = op.op == Op::kCas ? value_of(w, op.c, op.element_bytes, lane) : 0;
      std::byte* at = p[lane] + e * op.element_bytes;
      uint64_t old;
      if (op.element_bytes == 2)
        old = update<uint16_t>(op, at, b, c, &changed);
      else if (op.element_bytes == 4)
        old = update<uint32_t>(op, at, b, c, &changed);
      else
        old = update<uint64_t>(op, at, b, c, &changed);
      if (!op.has_result) continue;
      if (op.element_bytes == 2)
        row<uint16_t>(w, op.d[e])[lane] = static_cast<uint16_t>(old);
      else if (op.element_bytes == 4)
        row<uint32_t>(w, op.d[e])[lane] = static_cast<uint32_t>(old);
      else
        row<uint64_t>(w, op.d[e])[lane] = old;
    }
  }
  if (changed)
    note_event(w);
  else
    note_poll(w);
}

struct Bits128 {
  uint64_t low, high;
  bool operator==(const Bits128&) const = default;
};

// atom.cas.b128, atom.exch.b128: one lock for the process.
void run_atomic_128(Warp& w, const Instr& i) {
  static std::mutex mutex;
  const auto& op = *static_cast<const AtomicOp*>(i.ext);
  const uint32_t mask = active(w, i);
  if (!mask) return;
  uint64_t addresses[kWarpSize];
  std::byte* p[kWarpSize];
  tagged_addresses(w, op.address, addresses);
  resolve(w, i, mask, addresses, op.info, p);
  std::lock_guard lock(mutex);
  bool changed = false;
  for (uint32_t m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const Bits128 b = row<Bits128>(w, op.b[0])[lane];
    Bits128 old;
    std::memcpy(&old, p[lane], sizeof old);
    const Bits128 next = op.op == Op::kExch ? b : old == b ? row<Bits128>(w, op.c)[lane] : old;
    std::memcpy(p[lane], &next, sizeof next);
    changed |= !(next == old);
    row<Bits128>(w, op.d[0])[lane] = old;
  }
  if (changed)
    note_event(w);
  else
    note_poll(w);
}

bool operation(const Instruction& in, Op* op) {
  static constexpr std::pair<std::string_view, Op> kNames[] = {
      {"add", Op::kAdd}, {"min", Op::kMin},   {"max", Op::kMax}, {"and", Op::kAnd}, {"or", Op::kOr},
      {"xor", Op::kXor}, {"exch", Op::kExch}, {"cas", Op::kCas}, {"inc", Op::kInc}, {"dec", Op::kDec}};
  for (const auto& [name, value] : kNames)
    if (in.has(name)) {
      *op = value;
      return true;
    }
  return false;
}

void fill(Decoder& d, const Operand& operand, Type type, int count, uint32_t* rows) {
  for (int e = 0; e < count; ++e)
    rows[e] = d.row(operand.kind == OperandKind::kVector ? operand.elements.at(e) : operand, type);
}

// multimem on a team of one device: the address is that of its only copy.
bool decode_multimem(Decoder& d, const Instruction& in, AtomicOp op) {
  const bool load = in.has("ld_reduce");
  if (in.has("st"))
    op.op = Op::kStore;
  else if (!operation(in, &op.op))
    return false;
  if (!load) {
    fill(d, in.operands.at(1), op.type, op.count, op.b);
    op.address = address_operand(d, in.operands.at(0), ptx::Space::kGlobal);
    d.emit({.run = run_atomic, .ext = d.program().keep(op)});
    return true;
  }
  fill(d, in.operands.at(0), op.type, op.count, op.d);
  op.address = address_operand(d, in.operands.at(1), ptx::Space::kGlobal);
  // The sum over one copy: an atomic OR with zero reads it.
  op.op = Op::kOr;
  op.type = op.element_bytes == 2 ? Type::kB16 : op.element_bytes == 4 ? Type::kB32 : Type::kB64;
  Operand zero;
  zero.kind = OperandKind::kInteger;
  for (int e = 0; e < op.count; ++e) op.b[e] = d.row(zero, op.type);
  op.has_result = true;
  d.emit({.run = run_atomic, .ext = d.program().keep(op)});
  return true;
}

}  // namespace

bool decode_atomic(Decoder& d, const Instruction& in) {
  const std::string_view m = in.mnemonic();
  if ((m != "atom" && m != "red" && m != "multimem") || in.has("async")) return false;
  AtomicOp op;
  op.type = type_of(in);
  op.element_bytes = ptx::size_of(op.type);
  op.count = vector_of(in);
  op.info = {.access = Access::kAtomic,
             .order = order_of(in, Order::kRelaxed),
             .scope = scope_of(in, Scope::kGpu),
             .bytes = static_cast<uint32_t>(op.element_bytes * op.count)};
  if (m == "multimem") {
    if (!decode_multimem(d, in, op)) d.unknown(in);
    return true;
  }
  if (!operation(in, &op.op) || op.element_bytes == 0) {
    d.unknown(in);
    return true;
  }
  op.has_result = m == "atom";
  const size_t at = op.has_result ? 1 : 0;
  op.address = address_operand(d, in.operands.at(at), space_of(in));
  op.flush = op.type == Type::kF32 && op.op == Op::kAdd && op.address.space != ptx::Space::kShared;
  if (op.has_result) fill(d, in.operands.at(0), op.type, op.count, op.d);
  fill(d, in.operands.at(at + 1), op.type, op.count, op.b);
  if (op.op == Op::kCas) op.c = d.row(in.operands.at(at + 2), op.type);
  d.emit({.run = op.element_bytes == 16 ? run_atomic_128 : run_atomic, .ext = d.program().keep(op)});
  return true;
}

}  // namespace ptxsim
