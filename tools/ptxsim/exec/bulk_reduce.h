// Element by element reductions in memory, as cp.reduce.async.bulk, its tensor form and red.async do them.
// Each element is one atomic read-modify-write of the host, because blocks of other host threads may reduce
// into the same memory. Source: PTX ISA 9.0, cp.reduce.async.bulk (f32 sums flush subnormal inputs and
// results, f16 and bf16 do not).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace ptxsim {

enum class ReduceOp : uint8_t { kAdd, kMin, kMax, kInc, kDec, kAnd, kOr, kXor };
// Bits stand for themselves: b32 is kU32, b64 is kU64.
enum class ReduceType : uint8_t { kU32, kS32, kU64, kS64, kF16, kBf16, kF32, kF64 };

uint32_t size_of(ReduceType type);
// target[k] = op(target[k], values[k]) for `elements` elements, both aligned to their size.
using ReduceFunction = void (*)(std::byte* target, const std::byte* values, uint32_t elements);
// Null where PTX has no such combination.
ReduceFunction reduce_function(ReduceOp op, ReduceType type);

}  // namespace ptxsim
