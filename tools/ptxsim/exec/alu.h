// What the arithmetic families share: elementwise handlers made from a function of one lane, tables from the
// name of an instruction to its handler, and masks of lanes as vectors.
#pragma once

// Vectors of x86-64-v3, which has no AES, are AVX2 all the same: nothing here encrypts.
#define HWY_DISABLE_PCLMUL_AES
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include "exec/decoder.h"
#include "exec/program.h"
#include "exec/warp.h"

namespace ptxsim::alu {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
inline constexpr hn::ScalableTag<T> kTag{};
template <class T>
inline constexpr int kVector =
    static_cast<int>(hn::MaxLanes(kTag<T>));  // lanes of one host vector; divides 32

// Bits [first, first + kVector) of a mask of lanes.
template <class T>
auto mask_from_bits(uint32_t bits, int first) {
  const uint32_t here = bits >> first;
  return hn::LoadMaskBits(kTag<T>, reinterpret_cast<const uint8_t*>(&here));
}

// The lanes of one vector as bits, from bit 0.
template <class T, class M>
uint32_t bits_from_mask(M mask) {
  uint8_t bytes[8] = {};
  hn::StoreMaskBits(kTag<T>, mask, bytes);
  uint32_t bits;
  __builtin_memcpy(&bits, bytes, sizeof bits);
  return bits;
}

// d[l] = from[l] for the lanes of mask. T: unsigned.
template <std::unsigned_integral T>
[[gnu::noinline]] void blend(uint32_t mask, T* d, const T* from) {
  constexpr auto kT = kTag<T>;
  for (int l = 0; l < kWarpSize; l += kVector<T>)
    hn::StoreU(hn::IfThenElse(mask_from_bits<T>(mask, l), hn::LoadU(kT, from + l), hn::LoadU(kT, d + l)), kT,
               d + l);
}

// Arithmetic that wraps is done in the unsigned type of at least 32 bits.
template <class T>
using Wrap = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

template <class T>
constexpr Wrap<T> wrap(T x) {
  return static_cast<Wrap<T>>(x);
}

template <size_t kBytes>
using UnsignedOf = std::conditional_t<
    kBytes == 2, uint16_t,
    std::conditional_t<kBytes == 4, uint32_t, std::conditional_t<kBytes == 8, uint64_t, unsigned __int128>>>;

// How a function of one lane is run. kVector: on all 32 lanes at once, whatever the mask: it must be harmless
// for any bits. kScalar: for the lanes of the mask only.
enum class Pace { kVector, kScalar };

template <Pace kPace, class T, class F>
inline void write_lanes(uint32_t mask, T* d, F f) {
  if (kPace == Pace::kScalar || mask == kAllLanes) [[likely]] {
    each_lane(mask, d, f);
  } else {
    alignas(64) T all[kWarpSize];
    each_lane(kAllLanes, all, f);
    if constexpr (sizeof(T) <= 8) {
      using U = UnsignedOf<sizeof(T)>;
      blend(mask, reinterpret_cast<U*>(d), reinterpret_cast<const U*>(all));
    }
  }
}

// Offsets of the sources of an elementwise instruction: a, b, c, then imm.
inline uint32_t source_row(const Instr& i, int k) {
  return k == 0 ? i.a : k == 1 ? i.b : k == 2 ? i.c : static_cast<uint32_t>(i.imm);
}

// d = kOp(sources...) lane by lane, in the types D and S... of its rows.
template <Pace kPace, auto kOp, class D, class... S>
void elementwise(Warp& w, const Instr& i) {
  [&]<size_t... k>(std::index_sequence<k...>) {
    const std::tuple<const S*...> s{row<S>(w, source_row(i, k))...};
    write_lanes<kPace>(active(w, i), row<D>(w, i.d),
                       [&](int l) { return static_cast<D>(kOp(std::get<k>(s)[l]...)); });
  }
  (std::index_sequence_for<S...>{});
}

// A type for Decoder::row: only its width matters, and whether an immediate is a float.
template <class T>
constexpr ptx::Type type_of() {
  if constexpr (std::is_same_v<T, float>) return ptx::Type::kF32;
  if constexpr (std::is_same_v<T, double>) return ptx::Type::kF64;
  switch (sizeof(T)) {
    case 2:
      return std::is_signed_v<T> ? ptx::Type::kS16 : ptx::Type::kU16;
    case 4:
      return std::is_signed_v<T> ? ptx::Type::kS32 : ptx::Type::kU32;
    case 8:
      return std::is_signed_v<T> ? ptx::Type::kS64 : ptx::Type::kU64;
    default:
      return ptx::Type::kB128;
  }
}

// The handler of one form of an instruction and the types of its operands: the destination, then the sources.
struct Form {
  Handler run = nullptr;
  int sources = 0;
  ptx::Type types[5] = {};
};

template <Pace kPace, auto kOp, class D, class... S>
constexpr Form form() {
  return {&elementwise<kPace, kOp, D, S...>, sizeof...(S), {type_of<D>(), type_of<S>()...}};
}

template <auto kOp, class D, class... S>
constexpr Form vector_form() {
  return form<Pace::kVector, kOp, D, S...>();
}

template <auto kOp>
constexpr Form words2() {
  return vector_form<kOp, uint32_t, uint32_t, uint32_t>();
}
template <auto kOp>
constexpr Form words3() {
  return vector_form<kOp, uint32_t, uint32_t, uint32_t, uint32_t>();
}

struct NameHash {
  using is_transparent = void;
  size_t operator()(std::string_view name) const { return std::hash<std::string_view>{}(name); }
};
// By the name that CanonicalName gives.
using FormTable = std::unordered_map<std::string, Form, NameHash, std::equal_to<>>;

template <class T>
constexpr std::string_view type_name() {
  if constexpr (std::is_same_v<T, float>) return "f32";
  if constexpr (std::is_same_v<T, double>) return "f64";
  constexpr bool kSigned = std::is_signed_v<T>;
  switch (sizeof(T)) {
    case 2:
      return kSigned ? "s16" : "u16";
    case 4:
      return kSigned ? "s32" : "u32";
    default:
      return kSigned ? "s64" : "u64";
  }
}

inline std::string dotted(std::string_view op, std::string_view type) {
  return std::string(op).append(".").append(type);
}

// Whether a part of an opcode is a type: "u32", "f16x2", "bf16", "tf32", "pred".
inline bool is_type_word(std::string_view word) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  if (word == "pred") return true;
  if (word.size() < 2 || !digit(word.back())) return false;
  if (word.starts_with("bf") || word.starts_with("tf")) return true;
  return digit(word[1]) && (word[0] == 'u' || word[0] == 's' || word[0] == 'b' || word[0] == 'f');
}

inline bool is_rounding_word(std::string_view word) {
  return word == "rn" || word == "rz" || word == "rm" || word == "rp";
}

// The opcode with its types last, for ptxas takes "max.s32.relu" for "max.relu.s32"; without the rounding of
// floats. Made without the heap: several families ask for every instruction. Cut off where it is too long to
// be known.
class CanonicalName {
 public:
  explicit CanonicalName(const ptx::Instruction& in) {
    append(in.parts[0]);
    for (const bool types : {false, true})
      for (size_t k = 1; k < in.parts.size(); ++k)
        if (is_type_word(in.parts[k]) == types && !is_rounding_word(in.parts[k])) {
          append(".");
          append(in.parts[k]);
        }
  }
  std::string_view view() const { return {text_, size_}; }

 private:
  void append(std::string_view part) {
    const size_t n = std::min(part.size(), sizeof text_ - size_);
    std::copy_n(part.data(), n, text_ + size_);
    size_ += n;
  }
  char text_[64];
  size_t size_ = 0;
};

// Rows of the operands of a form; `run` is left to the caller.
inline Instr instruction_of(Decoder& d, const ptx::Instruction& in, const Form& f) {
  Instr i;
  i.run = f.run;
  i.d = d.row(in.operands[0], f.types[0]);
  uint32_t rows[4] = {};
  for (int k = 0; k < f.sources; ++k) rows[k] = d.row(in.operands[k + 1], f.types[k + 1]);
  i.a = rows[0];
  i.b = rows[1];
  i.c = rows[2];
  i.imm = rows[3];
  return i;
}

// Emits the form of the table that `in` names; false where there is none.
inline bool emit_form(Decoder& d, const ptx::Instruction& in, const FormTable& table) {
  const auto it = table.find(CanonicalName(in).view());
  if (it == table.end()) return false;
  if (in.operands.size() != static_cast<size_t>(it->second.sources) + 1)
    d.unknown(in);
  else
    d.emit(instruction_of(d, in, it->second));
  return true;
}

// The handler of `i` under a rounding mode: its .rz, .rm or .rp where it has one, else to nearest. One whose
// name has rounding leaves imm alone.
void set_rounding(Instr& i, const ptx::Instruction& in);

// Parts of decode_integer and decode_compare: fields, logic and shifts of bits; mov, selp and slct.
bool decode_bits(Decoder& d, const ptx::Instruction& in);  // exec/bits.cpp
bool decode_move(Decoder& d, const ptx::Instruction& in);  // exec/move.cpp

// Sets the lanes of mask of a predicate row.
inline void write_predicate(uint32_t& row, uint32_t mask, uint32_t bits) {
  row = (row & ~mask) | (bits & mask);
}

}  // namespace ptxsim::alu
