// cp.async and the bulk engine: copies and reductions between global and shared memory, groups, mbarriers.
#include "tests/ptxsim/silicon/formats.h"
#include "tests/ptxsim/silicon/harness.h"
#include "tests/ptxsim/silicon/mbarrier.cuh"

namespace silicon {
namespace {

using u8 = uint8_t;
using u32 = uint32_t;
using u64 = uint64_t;

// --- cp.async: 4, 8, 16 bytes, fewer source bytes (the rest is zero), groups, mbarriers ---
__global__ void small_copies(const u8* in, u8* out) {
  __shared__ __align__(128) u8 s[4][64 * 16];
  __shared__ __align__(8) u64 barrier;
  const u32 t = threadIdx.x;
  const u32 bar = shared_address(&barrier);
  if (t == 0) mbarrier_init(bar, 64 + 64);
  for (u32 i = 0; i < 16; ++i)
    s[0][t * 16 + i] = s[1][t * 16 + i] = s[2][t * 16 + i] = s[3][t * 16 + i] = 0xEE;
  __syncthreads();
  const u32 a0 = shared_address(&s[0][t * 16]), a1 = shared_address(&s[1][t * 16]),
            a2 = shared_address(&s[2][t * 16]), a3 = shared_address(&s[3][t * 16]);
  const u8* p = in + t * 16;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(a0), "l"(p) : "memory");
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(a0 + 8), "l"(p + 8) : "memory");
  asm volatile("cp.async.commit_group;" ::: "memory");
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(a1), "l"(p) : "memory");
  asm volatile("cp.async.commit_group;" ::: "memory");
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(a2), "l"(p), "r"(t % 17) : "memory");
  asm volatile("cp.async.commit_group;" ::: "memory");
  asm volatile("cp.async.wait_group 2;" ::: "memory");
  for (u32 i = 0; i < 16; ++i) out[t * 16 + i] = s[0][t * 16 + i];
  asm volatile("cp.async.wait_group 1;" ::: "memory");
  for (u32 i = 0; i < 16; ++i) out[1024 + t * 16 + i] = s[1][t * 16 + i];
  asm volatile("cp.async.wait_all;" ::: "memory");
  for (u32 i = 0; i < 16; ++i) out[2048 + t * 16 + i] = s[2][t * 16 + i];
  asm volatile(
      "{.reg .pred p; setp.lt.u32 p, %2, 32; cp.async.ca.shared.global [%0], [%1], 16, p;}" ::"r"(a3), "l"(p),
      "r"(t)
      : "memory");  // p: take nothing, all zero
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(bar) : "memory");
  mbarrier_arrive(bar);
  mbarrier_wait(bar, 0);
  for (u32 i = 0; i < 16; ++i) out[3072 + t * 16 + i] = s[3][((63 - t) * 16) + i];
}
TEST(Async, SmallCopies) {
  std::vector<u8> x(1024), want(4096, 0xEE);
  Random random(1);
  for (u8& v : x) v = u8(random.bits());
  for (u32 t = 0; t < 64; ++t)
    for (u32 i = 0; i < 16; ++i) {
      const u8 v = x[t * 16 + i];
      if (i < 4 || i >= 8) want[t * 16 + i] = v;
      want[1024 + t * 16 + i] = v;
      want[2048 + t * 16 + i] = i < t % 17 ? v : 0;
      want[3072 + t * 16 + i] = 63 - t < 32 ? 0 : x[(63 - t) * 16 + i];
    }
  Array<u8> in(x), out(4096);
  launch({.block = 64}, small_copies, in.get(), out.get());
  expect_same(out.host(), want);
}

// --- bulk copies in and out ---
__global__ void bulk(const u8* in, u8* out, u32 bytes) {
  extern __shared__ __align__(128) u8 s[];
  __shared__ __align__(8) u64 barrier;
  const u32 bar = shared_address(&barrier), a = shared_address(s);
  if (threadIdx.x == 0) mbarrier_init(bar, 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(bar, bytes);
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(a),
        "l"(in), "r"(bytes / 2), "r"(bar)
        : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            a + bytes / 2),
        "l"(in + bytes / 2), "r"(bytes / 2), "r"(bar)
        : "memory");
  }
  mbarrier_wait(bar, 0);
  for (u32 i = threadIdx.x; i < bytes; i += blockDim.x) s[i] = u8(s[i] + 1);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(out), "r"(a), "r"(bytes)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;" ::: "memory");
    s[0] = 0;  // the source may be overwritten
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
}
TEST(Async, BulkInAndOut) {
  for (u32 bytes : {32u, 4096u, 100000u / 32 * 32}) {
    std::vector<u8> x(bytes), want(bytes);
    Random random(bytes);
    for (u32 i = 0; i < bytes; ++i) x[i] = u8(random.bits()), want[i] = u8(x[i] + 1);
    Array<u8> in(x), out(bytes);
    launch({.block = 128, .shared = bytes}, bulk, in.get(), out.get(), bytes);
    expect_same(out.host(), want);
  }
}

// Between two buffers of one block, through the cluster form.
__global__ void shared_to_shared(u32* out) {
  __shared__ __align__(16) u32 a[64], b[64];
  __shared__ __align__(8) u64 barrier;
  const u32 bar = shared_address(&barrier);
  a[threadIdx.x] = threadIdx.x * 9;
  if (threadIdx.x == 0) mbarrier_init(bar, 1);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(bar, 128);
    asm volatile(
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], 128, [%2];" ::"r"(
            shared_address(b)),
        "r"(shared_address(a + 32)), "r"(bar)
        : "memory");
  }
  mbarrier_wait(bar, 0);
  out[threadIdx.x] = threadIdx.x < 32 ? b[threadIdx.x] : a[threadIdx.x];
}
TEST(Async, BulkWithinShared) {
  Array<u32> out(64);
  launch({.block = 64}, shared_to_shared, out.get());
  std::vector<u32> want(64);
  for (u32 t = 0; t < 64; ++t) want[t] = (t < 32 ? t + 32 : t) * 9;
  expect_same(out.host(), want);
}

// --- bulk reductions to global memory: every operation and type ---
#define REDUCTIONS(X)   \
  X("add.u32", 4)       \
  X("add.s32", 4)       \
  X("add.u64", 8)       \
  X("inc.u32", 4)       \
  X("dec.u32", 4)       \
  X("min.u32", 4)       \
  X("max.u32", 4)       \
  X("min.s32", 4)       \
  X("max.s32", 4)       \
  X("min.u64", 8)       \
  X("max.s64", 8)       \
  X("and.b32", 4)       \
  X("or.b32", 4)        \
  X("xor.b32", 4)       \
  X("and.b64", 8)       \
  X("or.b64", 8)        \
  X("xor.b64", 8)       \
  X("add.f32", 4)       \
  X("add.f64", 8)       \
  X("add.noftz.f16", 2) \
  X("add.noftz.bf16", 2) X("min.f16", 2) X("max.f16", 2) X("min.bf16", 2) X("max.bf16", 2)
struct Reduction {
  std::string name;
  u32 width;
};
#define ROW(name, width) {name, width},
const Reduction kReductions[] = {REDUCTIONS(ROW)};
constexpr u32 kBytes = 256;
__global__ void bulk_reduce(const u8* in, u8* out) {
  __shared__ __align__(128) u8 s[kBytes];
  for (u32 i = threadIdx.x; i < kBytes; i += blockDim.x) s[i] = in[i];
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncwarp();
  if (threadIdx.x == 0) {
#define REDUCE(name, width)                                                                              \
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group." name " [%0], [%1], %2;" ::"l"(out), \
               "r"(shared_address(s)), "n"(kBytes)                                                       \
               : "memory");                                                                              \
  out += kBytes;
    REDUCTIONS(REDUCE)
    asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;" ::: "memory");
  }
}
template <typename T>
T integer_reduced(const std::string& op, T a, T b) {
  using U = std::make_unsigned_t<T>;
  if (op == "add") return T(U(a) + U(b));
  if (op == "inc") return a >= b ? 0 : a + 1;
  if (op == "dec") return a == 0 || a > b ? b : a - 1;
  if (op == "min") return a < b ? a : b;
  if (op == "max") return a > b ? a : b;
  if (op == "and") return a & b;
  return op == "or" ? a | b : a ^ b;
}
u64 reduced(const std::string& name, u64 a, u64 b) {
  const std::string op = name.substr(0, name.find('.')), type = name.substr(name.rfind('.') + 1);
  if (type == "f32") return encode(kF32, decode(kF32, u32(a)) + decode(kF32, u32(b)));
  if (type == "f16" || type == "bf16") {
    const Format& f = type == "f16" ? kF16 : kBf16;
    const double x = decode(f, u32(a)), y = decode(f, u32(b));
    return encode(f, op == "add" ? add_sticky(x, y) : op == "min" ? minimum(x, y) : maximum(x, y));
  }
  if (type == "f64") {
    double x, y;
    std::memcpy(&x, &a, 8), std::memcpy(&y, &b, 8);
    x += y;
    std::memcpy(&a, &x, 8);
    return a;
  }
  if (type == "s32") return u32(integer_reduced<int32_t>(op, int32_t(a), int32_t(b)));
  if (type == "s64") return u64(integer_reduced<int64_t>(op, int64_t(a), int64_t(b)));
  return type[1] == '3' ? integer_reduced<u32>(op, u32(a), u32(b)) : integer_reduced<u64>(op, a, b);
}
TEST(Async, BulkReductions) {
  const size_t count = std::size(kReductions);
  std::vector<u8> in(kBytes), start(count * kBytes), want;
  Random random(3);
  // Words whose halves are moderate f16 and bf16 numbers, so that no type meets a NaN.
  const auto fill = [&](std::vector<u8>& v) {
    for (size_t i = 0; i < v.size(); i += 4) {
      const u32 w = encode(kBf16, random.real(-5, 5)) << 16 | encode(kF16, random.real(-5, 5));
      std::memcpy(&v[i], &w, 4);
    }
  };
  fill(in), fill(start);
  want = start;
  for (size_t k = 0; k < count; ++k)
    for (u32 i = 0; i < kBytes; i += kReductions[k].width) {
      u64 a = 0, b = 0;
      std::memcpy(&a, &start[k * kBytes + i], kReductions[k].width);
      std::memcpy(&b, &in[i], kReductions[k].width);
      const u64 r = reduced(kReductions[k].name, a, b);
      std::memcpy(&want[k * kBytes + i], &r, kReductions[k].width);
    }
  Array<u8> source(in), out(start);
  launch({}, bulk_reduce, source.get(), out.get());
  const std::vector<u8> got = out.host();
  for (size_t k = 0; k < count; ++k)
    expect_same(std::vector<u8>(got.begin() + k * kBytes, got.begin() + (k + 1) * kBytes),
                std::vector<u8>(want.begin() + k * kBytes, want.begin() + (k + 1) * kBytes),
                kReductions[k].name.c_str());
}

}  // namespace
}  // namespace silicon
