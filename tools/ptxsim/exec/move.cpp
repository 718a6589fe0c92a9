// mov, selp, slct. Source: PTX ISA 9.0, sections 9.7.6 (selp, slct), 9.7.9 (mov). Special registers are read
// by decode_special, which is asked first.
#include <limits>

#include "exec/alu.h"
#include "exec/compare.h"

namespace ptxsim::alu {
namespace {

using ptx::OperandKind;
using ptx::Type;

// --- selp, slct ---
template <class T>
void selp(Warp& w, const Instr& i) {
  const uint32_t mask = active(w, i);
  const uint32_t picks = predicate_row(w, i.c) ^ static_cast<uint32_t>(i.imm);
  const T *a = row<T>(w, i.a), *b = row<T>(w, i.b);
  T* d = row<T>(w, i.d);
  constexpr auto kT = kTag<T>;
  for (int l = 0; l < kWarpSize; l += kVector<T>) {
    const auto v = hn::IfThenElse(mask_from_bits<T>(picks, l), hn::LoadU(kT, a + l), hn::LoadU(kT, b + l));
    if (mask == kAllLanes) [[likely]]
      hn::StoreU(v, kT, d + l);
    else
      hn::StoreU(hn::IfThenElse(mask_from_bits<T>(mask, l), v, hn::LoadU(kT, d + l)), kT, d + l);
  }
}

bool decode_selp(Decoder& d, const ptx::Instruction& in) {
  const Type type = type_from_end(in, 0);
  Instr i;
  switch (ptx::size_of(type)) {
    case 2:
      i.run = &selp<uint16_t>;
      break;
    case 4:
      i.run = &selp<uint32_t>;
      break;
    case 8:
      i.run = &selp<uint64_t>;
      break;
    default:
      return false;
  }
  if (in.operands.size() != 4) return false;
  uint32_t flip = 0;
  i.d = d.row(in.operands[0], type);
  i.a = d.row(in.operands[1], type);
  i.b = d.row(in.operands[2], type);
  i.c = d.predicate(in.operands[3], &flip);
  i.imm = flip;
  d.emit(i);
  return true;
}

constexpr auto kSlct = [](auto a, auto b, auto c) { return c >= 0 ? a : b; };
constexpr auto kSlctFtz = [](auto a, auto b, float c) {
  return c > -std::numeric_limits<float>::min() ? a : b;
};

template <class T>
Form slct_of(Type type, bool ftz) {
  if (type == Type::kS32) return form<Pace::kVector, kSlct, T, T, T, int32_t>();
  if (type != Type::kF32) return {};
  return ftz ? form<Pace::kVector, kSlctFtz, T, T, T, float>() : form<Pace::kVector, kSlct, T, T, T, float>();
}

bool decode_slct(Decoder& d, const ptx::Instruction& in) {
  const Type type = type_from_end(in, 0), result = type_from_end(in, 1);
  Form f;
  switch (ptx::size_of(result)) {
    case 2:
      f = slct_of<uint16_t>(type, in.has("ftz"));
      break;
    case 4:
      f = slct_of<uint32_t>(type, in.has("ftz"));
      break;
    case 8:
      f = slct_of<uint64_t>(type, in.has("ftz"));
      break;
    default:
      break;
  }
  if (!f.run || in.operands.size() != 4) return false;
  for (int k = 0; k < 3; ++k) f.types[k] = result;
  d.emit(instruction_of(d, in, f));
  return true;
}

// --- mov ---
using Word128 = unsigned __int128;
constexpr auto kCopy = [](auto a) { return a; };
// {a, b, ...}: the first element in the lowest bits.
template <class D>
inline constexpr auto kPack = [](auto first, auto... rest) {
  D word = first;
  int shift = 0;
  ((word |= static_cast<D>(rest) << (shift += 8 * sizeof first)), ...);
  return word;
};

// The same of bytes, which live in 16-bit rows.
constexpr auto kPackBytes = [](auto... element) {
  uint32_t word = 0;
  int shift = -8;
  ((word |= static_cast<uint32_t>(element & 0xff) << (shift += 8)), ...);
  return word;
};

template <class T>
constexpr Form copy_of() {
  return form < sizeof(T) == 16 ? Pace::kScalar : Pace::kVector, kCopy, T, T > ();
}
template <class D, class S>
constexpr Form pack_of(size_t count) {
  constexpr Pace kPace = sizeof(D) == 16 ? Pace::kScalar : Pace::kVector;
  if constexpr (sizeof(D) == 2 * sizeof(S))
    return count == 2 ? form<kPace, kPack<D>, D, S, S>() : Form{};
  else
    return count == 4 ? form<kPace, kPack<D>, D, S, S, S, S>() : Form{};
}

// Elements in d, b, c, imm; kBits wide each.
template <class D, class S, int kCount, int kBits = 8 * sizeof(D)>
void unpack(Warp& w, const Instr& i) {
  const S* a = row<S>(w, i.a);
  const uint32_t mask = active(w, i);
  const uint32_t to[4] = {i.d, i.b, i.c, static_cast<uint32_t>(i.imm)};
  for (int k = 0; k < kCount; ++k)
    write_lanes<Pace::kVector>(mask, row<D>(w, to[k]), [=](int l) {
      return static_cast<D>(kBits == 8 ? (a[l] >> 8 * k) & 0xff : a[l] >> kBits * k);
    });
}

bool decode_pack(Decoder& d, const ptx::Instruction& in, int bytes) {
  const auto& elements = in.operands[1].elements;
  const size_t n = elements.size();
  Form f;
  Type element = Type::kNone;
  if (bytes == 4 && n == 2) f = pack_of<uint32_t, uint16_t>(n), element = Type::kB16;
  if (bytes == 8 && n == 2) f = pack_of<uint64_t, uint32_t>(n), element = Type::kB32;
  if (bytes == 8 && n == 4) f = pack_of<uint64_t, uint16_t>(n), element = Type::kB16;
  if (bytes == 16 && n == 2) f = pack_of<Word128, uint64_t>(n), element = Type::kB64;
  if (bytes == 16 && n == 4) f = pack_of<Word128, uint32_t>(n), element = Type::kB32;
  if (bytes == 2 && n == 2) f = vector_form<kPackBytes, uint16_t, uint16_t, uint16_t>(), element = Type::kB8;
  if (bytes == 4 && n == 4)
    f = vector_form<kPackBytes, uint32_t, uint16_t, uint16_t, uint16_t, uint16_t>(), element = Type::kB8;
  if (!f.run) return false;
  uint32_t rows[4] = {};
  for (size_t k = 0; k < n; ++k) rows[k] = d.row(elements[k], element);
  Instr i;
  i.run = f.run;
  i.d = d.row(in.operands[0], type_from_end(in, 0));
  i.a = rows[0];
  i.b = rows[1];
  i.c = rows[2];
  i.imm = rows[3];
  d.emit(i);
  return true;
}

bool decode_unpack(Decoder& d, const ptx::Instruction& in, int bytes) {
  const auto& elements = in.operands[0].elements;
  const size_t n = elements.size();
  Instr i;
  Type element = Type::kNone;
  if (bytes == 2 && n == 2) i.run = &unpack<uint16_t, uint16_t, 2, 8>, element = Type::kB8;
  if (bytes == 4 && n == 4) i.run = &unpack<uint16_t, uint32_t, 4, 8>, element = Type::kB8;
  if (bytes == 4 && n == 2) i.run = &unpack<uint16_t, uint32_t, 2>, element = Type::kB16;
  if (bytes == 8 && n == 2) i.run = &unpack<uint32_t, uint64_t, 2>, element = Type::kB32;
  if (bytes == 8 && n == 4) i.run = &unpack<uint16_t, uint64_t, 4>, element = Type::kB16;
  if (bytes == 16 && n == 2) i.run = &unpack<uint64_t, Word128, 2>, element = Type::kB64;
  if (bytes == 16 && n == 4) i.run = &unpack<uint32_t, Word128, 4>, element = Type::kB32;
  if (!i.run) return false;
  uint32_t rows[4] = {};
  for (size_t k = 0; k < n; ++k) rows[k] = d.row(elements[k], element);
  i.a = d.row(in.operands[1], type_from_end(in, 0));
  i.d = rows[0];
  i.b = rows[1];
  i.c = rows[2];
  i.imm = rows[3];
  d.emit(i);
  return true;
}

bool decode_mov(Decoder& d, const ptx::Instruction& in) {
  const Type type = type_from_end(in, 0);
  const int bytes = ptx::size_of(type);
  if (in.operands.size() != 2) return false;
  if (in.operands[1].kind == OperandKind::kVector) return decode_pack(d, in, bytes);
  if (in.operands[0].kind == OperandKind::kVector) return decode_unpack(d, in, bytes);
  Form f;
  switch (bytes) {
    case 2:
      f = copy_of<uint16_t>();
      break;
    case 4:
      f = copy_of<uint32_t>();
      break;
    case 8:
      f = copy_of<uint64_t>();
      break;
    case 16:
      f = copy_of<Word128>();
      break;
    default:
      return false;
  }
  f.types[0] = f.types[1] = type;
  d.emit(instruction_of(d, in, f));
  return true;
}

}  // namespace

bool decode_move(Decoder& d, const ptx::Instruction& in) {
  if (in.mnemonic() == "mov") return decode_mov(d, in);
  if (in.mnemonic() == "selp") return decode_selp(d, in);
  return in.mnemonic() == "slct" && decode_slct(d, in);
}

}  // namespace ptxsim::alu
