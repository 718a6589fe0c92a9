// Fields, logic and shifts of bits, bytes of words. Source: PTX ISA 9.0, sections 9.7.1 (popc ...
// szext), 9.7.8 (logic and shift), 9.7.9 (prmt).
#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include "exec/alu.h"

namespace ptxsim::alu {
namespace {

// --- bits ---
constexpr auto kPopc = [](auto a) { return std::popcount(a); };
constexpr auto kClz = [](auto a) { return std::countl_zero(a); };
template <class T>
constexpr uint32_t top_bit(T a, bool shift_amount) {
  using U = std::make_unsigned_t<T>;
  const U magnitude = static_cast<U>(std::is_signed_v<T> && a < 0 ? ~a : a);
  const int zeros = std::countl_zero(magnitude);
  const int top = static_cast<int>(8 * sizeof(T)) - 1;
  return magnitude == 0 ? ~0u : static_cast<uint32_t>(shift_amount ? zeros : top - zeros);
}
constexpr auto kBfind = [](auto a) { return top_bit(a, false); };
constexpr auto kBfindShift = [](auto a) { return top_bit(a, true); };

template <class T>
constexpr T reverse_bits(T x) {
  constexpr T kOnes = static_cast<T>(~T{0});
  x = static_cast<T>((x & (kOnes / 3)) << 1 | ((x >> 1) & (kOnes / 3)));
  x = static_cast<T>((x & (kOnes / 5)) << 2 | ((x >> 2) & (kOnes / 5)));
  x = static_cast<T>((x & (kOnes / 17)) << 4 | ((x >> 4) & (kOnes / 17)));
  if constexpr (sizeof(T) == 4)
    return __builtin_bswap32(x);
  else
    return __builtin_bswap64(x);
}
constexpr auto kBrev = [](auto a) { return reverse_bits(a); };

// The n-th set bit from `base`, upwards for offset > 0.
constexpr auto kFns = [](uint32_t mask, uint32_t base, int32_t offset) {
  if (base > 31) return ~0u;
  if (offset == 0) return (mask >> base) & 1 ? base : ~0u;
  uint32_t count = offset > 0 ? static_cast<uint32_t>(offset) : 0u - static_cast<uint32_t>(offset);
  const int step = offset > 0 ? 1 : -1;
  for (int at = static_cast<int>(base); at >= 0 && at < 32; at += step)
    if ((mask >> at) & 1 && --count == 0) return static_cast<uint32_t>(at);
  return ~0u;
};

// `count` ones from bit 0; count up to the width.
template <class U>
constexpr U low_ones(uint32_t count) {
  return count >= 8 * sizeof(U) ? static_cast<U>(~U{0}) : static_cast<U>((U{1} << count) - 1);
}
template <class T>
constexpr T extract_field(T a, uint32_t b, uint32_t c) {
  using U = std::make_unsigned_t<T>;
  constexpr uint32_t kTop = 8 * sizeof(T) - 1;
  const uint32_t at = b & 0xff, length = c & 0xff;
  const uint32_t last = std::min(at + length - 1, kTop);
  const U bits = at > kTop ? U{0} : static_cast<U>(static_cast<U>(a) >> at);
  const bool sign = std::is_signed_v<T> && length != 0 && (static_cast<U>(a) >> last) & 1;
  // Bits of the field that exist; what lies above is the sign.
  const uint32_t have = at > kTop ? 0 : std::min(length, kTop + 1 - at);
  const U ones = low_ones<U>(have);
  return static_cast<T>((bits & ones) | (sign ? static_cast<U>(~ones) : U{0}));
}
constexpr auto kBfe = [](auto a, uint32_t b, uint32_t c) { return extract_field(a, b, c); };
constexpr auto kBfi = [](auto a, auto b, uint32_t c, uint32_t d) {
  using U = decltype(a);
  const uint32_t at = c & 0xff, length = d & 0xff;
  if (at >= 8 * sizeof(U)) return b;
  const U ones = static_cast<U>(low_ones<U>(length) << at);
  return static_cast<U>((b & ~ones) | ((a << at) & ones));
};
constexpr uint32_t bit_mask(uint32_t a, uint32_t b, bool clamp) {
  if (clamp && a >= 32) return 0;
  const uint32_t at = a & 31;
  const uint32_t end = clamp && b >= 32 ? 32 : at + (b & 31);
  return low_ones<uint32_t>(end) & ~low_ones<uint32_t>(at);
}
constexpr auto kBmskClamp = [](uint32_t a, uint32_t b) { return bit_mask(a, b, true); };
constexpr auto kBmskWrap = [](uint32_t a, uint32_t b) { return bit_mask(a, b, false); };
template <class T>
constexpr T extend(T a, uint32_t b, bool clamp) {
  if (clamp && b >= 32) return a;
  return extract_field<T>(a, 0, b & 31);
}
constexpr auto kSzextClamp = [](auto a, uint32_t b) { return extend(a, b, true); };
constexpr auto kSzextWrap = [](auto a, uint32_t b) { return extend(a, b, false); };

constexpr auto kAnd = [](auto a, auto b) { return a & b; };
constexpr auto kOr = [](auto a, auto b) { return a | b; };
constexpr auto kXor = [](auto a, auto b) { return a ^ b; };
constexpr auto kNot = [](auto a) { return ~a; };
constexpr auto kCnot = [](auto a) { return a == 0; };
constexpr auto kShl = [](auto a, uint32_t b) {
  constexpr uint32_t kBits = 8 * sizeof(a);
  return b >= kBits ? 0 : wrap(a) << (b & (kBits - 1));
};
constexpr auto kShr = [](auto a, uint32_t b) {
  constexpr uint32_t kBits = 8 * sizeof(a);
  const uint32_t by = b >= kBits ? kBits - 1 : b;
  if constexpr (std::is_signed_v<decltype(a)>)
    return a >> by;
  else
    return b >= kBits ? static_cast<decltype(a)>(0) : static_cast<decltype(a)>(a >> by);
};
constexpr uint64_t joined(uint32_t low, uint32_t high) { return uint64_t{high} << 32 | low; }
constexpr auto kShfLeftWrap = [](uint32_t a, uint32_t b, uint32_t c) {
  return (joined(a, b) << (c & 31)) >> 32;
};
constexpr auto kShfRightWrap = [](uint32_t a, uint32_t b, uint32_t c) { return joined(a, b) >> (c & 31); };
constexpr auto kShfLeftClamp = [](uint32_t a, uint32_t b, uint32_t c) {
  return (joined(a, b) << (c > 32 ? 32 : c)) >> 32;
};
constexpr auto kShfRightClamp = [](uint32_t a, uint32_t b, uint32_t c) {
  return joined(a, b) >> (c > 32 ? 32 : c);
};

// --- bytes and halves of a 32-bit word ---
constexpr uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = joined(a, b);
  uint32_t out = 0;
  for (int k = 0; k < 4; ++k) {
    const uint32_t pick = selector >> (4 * k);
    const uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (pick & 7))) & 0xff;
    const uint32_t sign = (0u - (byte >> 7)) & 0xff;  // 0xff where its top bit is set
    out |= ((pick & 8) ? sign : byte) << (8 * k);
  }
  return out;
}
constexpr auto kPrmt = [](uint32_t a, uint32_t b, uint32_t c) { return permute(a, b, c); };
// The selectors that a mode stands for, by the two low bits of c.
template <uint32_t s0, uint32_t s1, uint32_t s2, uint32_t s3>
inline constexpr auto kPrmtMode = [](uint32_t a, uint32_t b, uint32_t c) {
  const uint32_t low = c & 1 ? s1 : s0, high = c & 1 ? s3 : s2;
  return permute(a, b, c & 2 ? high : low);
};

// --- the table ---
// Of every integer type.
template <class T>
void add_typed(FormTable& t) {
  const auto put = [&](const char* op, Form f) { t[dotted(op, type_name<T>())] = f; };
  put("shr", vector_form<kShr, T, T, uint32_t>());
  if constexpr (sizeof(T) > 2) {
    put("bfind", vector_form<kBfind, uint32_t, T>());
    put("bfind.shiftamt", vector_form<kBfindShift, uint32_t, T>());
    put("bfe", vector_form<kBfe, T, T, uint32_t, uint32_t>());
  }
  if constexpr (sizeof(T) == 4) {
    put("szext.clamp", vector_form<kSzextClamp, T, T, uint32_t>());
    put("szext.wrap", vector_form<kSzextWrap, T, T, uint32_t>());
  }
}

// Of .b16, .b32, .b64.
template <class T>
void add_bits(FormTable& t) {
  const std::string type = ".b" + std::to_string(8 * sizeof(T));
  t["and" + type] = vector_form<kAnd, T, T, T>();
  t["or" + type] = vector_form<kOr, T, T, T>();
  t["xor" + type] = vector_form<kXor, T, T, T>();
  t["not" + type] = vector_form<kNot, T, T>();
  t["cnot" + type] = vector_form<kCnot, T, T>();
  t["shl" + type] = vector_form<kShl, T, T, uint32_t>();
  t["shr" + type] = vector_form<kShr, T, T, uint32_t>();
  if constexpr (sizeof(T) > 2) {
    t["popc" + type] = vector_form<kPopc, uint32_t, T>();
    t["clz" + type] = vector_form<kClz, uint32_t, T>();
    t["brev" + type] = vector_form<kBrev, T, T>();
    t["bfi" + type] = vector_form<kBfi, T, T, T, uint32_t, uint32_t>();
  }
}

void add_words(FormTable& t) {
  t["bmsk.clamp.b32"] = words2<kBmskClamp>();
  t["bmsk.wrap.b32"] = words2<kBmskWrap>();
  t["fns.b32"] = form<Pace::kScalar, kFns, uint32_t, uint32_t, uint32_t, int32_t>();
  t["shf.l.wrap.b32"] = words3<kShfLeftWrap>();
  t["shf.r.wrap.b32"] = words3<kShfRightWrap>();
  t["shf.l.clamp.b32"] = words3<kShfLeftClamp>();
  t["shf.r.clamp.b32"] = words3<kShfRightClamp>();

  t["prmt.b32"] = words3<kPrmt>();
  t["prmt.f4e.b32"] = words3<kPrmtMode<0x3210, 0x4321, 0x5432, 0x6543>>();
  t["prmt.b4e.b32"] = words3<kPrmtMode<0x5670, 0x6701, 0x7012, 0x0123>>();
  t["prmt.rc8.b32"] = words3<kPrmtMode<0x0000, 0x1111, 0x2222, 0x3333>>();
  t["prmt.ecl.b32"] = words3<kPrmtMode<0x3210, 0x3211, 0x3222, 0x3333>>();
  t["prmt.ecr.b32"] = words3<kPrmtMode<0x0000, 0x1110, 0x2210, 0x3210>>();
  t["prmt.rc16.b32"] = words3<kPrmtMode<0x1010, 0x3232, 0x1010, 0x3232>>();
}

const FormTable& table() {
  static const FormTable forms = [] {
    FormTable t;
    add_typed<uint16_t>(t);
    add_typed<int16_t>(t);
    add_typed<uint32_t>(t);
    add_typed<int32_t>(t);
    add_typed<uint64_t>(t);
    add_typed<int64_t>(t);
    add_bits<uint16_t>(t);
    add_bits<uint32_t>(t);
    add_bits<uint64_t>(t);
    add_words(t);
    return t;
  }();
  return forms;
}

// --- lop3 ---
// The truth table as a polynomial over GF(2): f = k0 ^ k1 c ^ k2 b ^ k3 bc ^ k4 a ^ ..., one coefficient per
// subset, so that one straight loop serves all 256 functions.
struct Lop3 {
  std::array<uint32_t, 8> k;  // 0 or all ones
  bool with_predicate = false, is_and = false;
  uint32_t p = 0, q = 0, q_flip = 0;  // .BoolOp: p = (d != 0) BoolOp q
};

Lop3 lop3_of(uint32_t lut) {
  Lop3 f;
  for (uint32_t s = 0; s < 8; ++s) f.k[s] = (lut >> s) & 1 ? ~0u : 0u;
  for (uint32_t bit = 1; bit < 8; bit *= 2)  // Moebius transform
    for (uint32_t s = 0; s < 8; ++s)
      if (s & bit) f.k[s] ^= f.k[s ^ bit];
  return f;
}

void lop3(Warp& w, const Instr& i) {
  const Lop3& f = *static_cast<const Lop3*>(i.ext);
  const uint32_t *a = row<uint32_t>(w, i.a), *b = row<uint32_t>(w, i.b), *c = row<uint32_t>(w, i.c);
  uint32_t* d = row<uint32_t>(w, i.d);
  const auto k = f.k;
  const uint32_t mask = active(w, i);
  write_lanes<Pace::kVector>(mask, d, [=](int l) {
    const uint32_t ab = a[l] & b[l];
    return k[0] ^ (k[1] & c[l]) ^ (k[2] & b[l]) ^ (k[3] & b[l] & c[l]) ^ (k[4] & a[l]) ^
           (k[5] & a[l] & c[l]) ^ (k[6] & ab) ^ (k[7] & ab & c[l]);
  });
  if (!f.with_predicate) return;
  uint32_t nonzero = 0;
  for (int l = 0; l < kWarpSize; ++l) nonzero |= uint32_t{d[l] != 0} << l;
  const uint32_t q = predicate_row(w, f.q) ^ f.q_flip;
  write_predicate(predicate_row(w, f.p), mask, f.is_and ? nonzero & q : nonzero | q);
}

bool decode_lop3(Decoder& d, const ptx::Instruction& in) {
  const CanonicalName canonical(in);
  const std::string_view name = canonical.view();
  const bool is_and = name == "lop3.and.b32", is_or = name == "lop3.or.b32";
  const size_t operands = is_and || is_or ? 6 : 5;
  if ((!is_and && !is_or && name != "lop3.b32") || in.operands.size() != operands ||
      !d.is_integer(in.operands[4])) {
    d.unknown(in);
    return true;
  }
  Lop3 f = lop3_of(static_cast<uint32_t>(d.integer(in.operands[4])));
  const ptx::Operand* destination = &in.operands[0];
  if (is_and || is_or) {
    if (destination->kind != ptx::OperandKind::kPair) {
      d.unknown(in);
      return true;
    }
    uint32_t unused = 0;
    f.with_predicate = true;
    f.is_and = is_and;
    f.p = d.predicate(destination->elements[1], &unused);
    f.q = d.predicate(in.operands[5], &f.q_flip);
    destination = &destination->elements[0];
  }
  Instr i;
  i.run = &lop3;
  i.d = d.row(*destination, ptx::Type::kB32);
  i.a = d.row(in.operands[1], ptx::Type::kB32);
  i.b = d.row(in.operands[2], ptx::Type::kB32);
  i.c = d.row(in.operands[3], ptx::Type::kB32);
  i.ext = d.program().keep(f);
  d.emit(i);
  return true;
}

// --- prmt with a selector known now, without sign replication: two byte shuffles ---
void shuffle_bytes(Warp& w, const Instr& i) {
  // Per byte of a word: its place in the 16-byte block, or 0x80 where the other source provides it.
  constexpr hn::ScalableTag<uint8_t> kBytes{};
  constexpr auto kWords = kTag<uint32_t>;
  const uint32_t* a = row<uint32_t>(w, i.a);
  const uint32_t* b = row<uint32_t>(w, i.b);
  uint32_t* d = row<uint32_t>(w, i.d);
  const uint32_t mask = active(w, i);
  const auto places = hn::And(hn::Iota(kWords, 0), hn::Set(kWords, 3));  // word in its block
  const auto offset = hn::Mul(places, hn::Set(kWords, 0x04040404));
  const auto from_a = hn::BitCast(kBytes, hn::Or(hn::Set(kWords, static_cast<uint32_t>(i.imm)), offset));
  const auto from_b =
      hn::BitCast(kBytes, hn::Or(hn::Set(kWords, static_cast<uint32_t>(i.imm >> 32)), offset));
  for (int l = 0; l < kWarpSize; l += kVector<uint32_t>) {
    const auto va = hn::BitCast(kBytes, hn::LoadU(kWords, a + l));
    const auto vb = hn::BitCast(kBytes, hn::LoadU(kWords, b + l));
    const auto bytes = hn::Or(hn::TableLookupBytesOr0(va, from_a), hn::TableLookupBytesOr0(vb, from_b));
    const auto m = mask_from_bits<uint32_t>(mask, l);
    hn::StoreU(hn::IfThenElse(m, hn::BitCast(kWords, bytes), hn::LoadU(kWords, d + l)), kWords, d + l);
  }
}

bool decode_shuffle(Decoder& d, const ptx::Instruction& in) {
  if (in.parts.size() != 2 || in.operands.size() != 4 || !d.is_integer(in.operands[3])) return false;
  const uint32_t selector = static_cast<uint32_t>(d.integer(in.operands[3]));
  if (selector & 0x8888) return false;
  uint64_t from_a = 0, from_b = 0;
  for (int k = 0; k < 4; ++k) {
    const uint64_t pick = (selector >> (4 * k)) & 7;
    from_a |= (pick < 4 ? pick : 0x80) << (8 * k);
    from_b |= (pick >= 4 ? pick - 4 : 0x80) << (8 * k);
  }
  Instr i;
  i.run = &shuffle_bytes;
  i.d = d.row(in.operands[0], ptx::Type::kB32);
  i.a = d.row(in.operands[1], ptx::Type::kB32);
  i.b = d.row(in.operands[2], ptx::Type::kB32);
  i.imm = static_cast<int64_t>(from_a | from_b << 32);
  d.emit(i);
  return true;
}

}  // namespace

bool decode_bits(Decoder& d, const ptx::Instruction& in) {
  if (in.mnemonic() == "lop3") return decode_lop3(d, in);
  if (in.mnemonic() == "prmt" && decode_shuffle(d, in)) return true;
  return emit_form(d, in, table());
}

}  // namespace ptxsim::alu
