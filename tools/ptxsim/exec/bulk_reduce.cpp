#include "exec/bulk_reduce.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "numeric/float_formats.h"

namespace ptxsim {

namespace {

// Stands for the 16-bit formats: a word and how it becomes a float and back.
struct F16 {
  using Word = uint16_t;
  static float widen(Word x) { return numeric::f16_to_f32(x); }
  static Word narrow(float x) { return numeric::f32_to_f16(x); }
};
struct Bf16 {
  using Word = uint16_t;
  static float widen(Word x) { return numeric::bf16_to_f32(x); }
  static Word narrow(float x) { return numeric::f32_to_bf16(x); }
};

float flush(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return bits & 0x7f800000 ? x : std::bit_cast<float>(bits & 0x80000000);
}

// Of numbers; where one is NaN, the other.
template <bool kMax>
float pick(float a, float b) {
  if (a != a) return b != b ? std::bit_cast<float>(numeric::kCanonicalNanF32) : b;
  if (b != b) return a;
  if (a == b) return std::bit_cast<uint32_t>(a) >> 31 == kMax ? b : a;  // -0 < +0
  return (a < b) == kMax ? b : a;
}

template <ReduceOp kOp, class T>
T combine(T a, T b) {
  if constexpr (kOp == ReduceOp::kAdd) {
    if constexpr (std::is_same_v<T, float>)
      return flush(flush(a) + flush(b));
    else if constexpr (std::is_same_v<T, double>)
      return a + b;
    else
      return static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) +
                            static_cast<std::make_unsigned_t<T>>(b));
  }
  if constexpr (kOp == ReduceOp::kMin) return std::min(a, b);
  if constexpr (kOp == ReduceOp::kMax) return std::max(a, b);
  if constexpr (kOp == ReduceOp::kInc) return a >= b ? 0 : a + 1;
  if constexpr (kOp == ReduceOp::kDec) return a == 0 || a > b ? b : a - 1;
  if constexpr (kOp == ReduceOp::kAnd) return a & b;
  if constexpr (kOp == ReduceOp::kOr) return a | b;
  if constexpr (kOp == ReduceOp::kXor) return a ^ b;
}

// The word is read, changed and written back as one.
template <class Word, class F>
void update(std::byte* target, F f) {
  auto* word = reinterpret_cast<Word*>(target);
  Word before = __atomic_load_n(word, __ATOMIC_RELAXED);
  Word after;
  do {
    after = f(before);
  } while (!__atomic_compare_exchange_n(word, &before, after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

template <ReduceOp kOp, class T>
void reduce_numbers(std::byte* target, const std::byte* values, uint32_t elements) {
  using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  for (uint32_t k = 0; k < elements; ++k) {
    T value;
    std::memcpy(&value, values + k * sizeof(T), sizeof(T));
    update<Word>(target + k * sizeof(T), [&](Word before) {
      return std::bit_cast<Word>(combine<kOp, T>(std::bit_cast<T>(before), value));
    });
  }
}

template <ReduceOp kOp, class Format>
void reduce_halves(std::byte* target, const std::byte* values, uint32_t elements) {
  for (uint32_t k = 0; k < elements; ++k) {
    uint16_t bits;
    std::memcpy(&bits, values + k * 2, 2);
    const float value = Format::widen(bits);
    update<uint16_t>(target + k * 2, [&](uint16_t before) {
      const float old = Format::widen(before);
      // Sums in f32 round once: it has more than twice the bits and two more.
      if constexpr (kOp == ReduceOp::kAdd)
        return Format::narrow(old + value);
      else
        return Format::narrow(pick<kOp == ReduceOp::kMax>(old, value));
    });
  }
}

template <ReduceOp kOp>
ReduceFunction integers(ReduceType type) {
  switch (type) {
    case ReduceType::kU32:
      return reduce_numbers<kOp, uint32_t>;
    case ReduceType::kS32:
      return reduce_numbers<kOp, int32_t>;
    case ReduceType::kU64:
      return reduce_numbers<kOp, uint64_t>;
    case ReduceType::kS64:
      return reduce_numbers<kOp, int64_t>;
    default:
      return nullptr;
  }
}

template <ReduceOp kOp>
ReduceFunction extremum(ReduceType type) {
  if (type == ReduceType::kF16) return reduce_halves<kOp, F16>;
  if (type == ReduceType::kBf16) return reduce_halves<kOp, Bf16>;
  return integers<kOp>(type);
}

ReduceFunction sum(ReduceType type) {
  switch (type) {
    case ReduceType::kF16:
      return reduce_halves<ReduceOp::kAdd, F16>;
    case ReduceType::kBf16:
      return reduce_halves<ReduceOp::kAdd, Bf16>;
    case ReduceType::kF32:
      return reduce_numbers<ReduceOp::kAdd, float>;
    case ReduceType::kF64:
      return reduce_numbers<ReduceOp::kAdd, double>;
    default:
      return integers<ReduceOp::kAdd>(type);
  }
}

}  // namespace

uint32_t size_of(ReduceType type) {
  switch (type) {
    case ReduceType::kF16:
    case ReduceType::kBf16:
      return 2;
    case ReduceType::kU64:
    case ReduceType::kS64:
    case ReduceType::kF64:
      return 8;
    default:
      return 4;
  }
}

ReduceFunction reduce_function(ReduceOp op, ReduceType type) {
  switch (op) {
    case ReduceOp::kAdd:
      return sum(type);
    case ReduceOp::kMin:
      return extremum<ReduceOp::kMin>(type);
    case ReduceOp::kMax:
      return extremum<ReduceOp::kMax>(type);
    case ReduceOp::kInc:
      return type == ReduceType::kU32 ? reduce_numbers<ReduceOp::kInc, uint32_t> : nullptr;
    case ReduceOp::kDec:
      return type == ReduceType::kU32 ? reduce_numbers<ReduceOp::kDec, uint32_t> : nullptr;
    case ReduceOp::kAnd:
      return integers<ReduceOp::kAnd>(type);
    case ReduceOp::kOr:
      return integers<ReduceOp::kOr>(type);
    case ReduceOp::kXor:
      return integers<ReduceOp::kXor>(type);
  }
  return nullptr;
}

}  // namespace ptxsim
