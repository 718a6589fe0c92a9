// atom and red: old and new value of every operation in global, shared and generic space; vectors;
// contention.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <numeric>

#include "tests/ptxsim/silicon/formats.h"
#include "tests/ptxsim/silicon/harness.h"

namespace silicon {
namespace {

using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s32 = int32_t;
using s64 = int64_t;

template <typename T, typename F>
F as(T v) {
  F f;
  static_assert(sizeof f == sizeof v);
  std::memcpy(&f, &v, sizeof v);
  return f;
}
u32 add_f32(u32 a, u32 b) { return as<float, u32>(as<u32, float>(a) + as<u32, float>(b)); }
u64 add_f64(u64 a, u64 b) { return as<double, u64>(as<u64, double>(a) + as<u64, double>(b)); }
u16 add16(const Format& f, u32 a, u32 b) {
  return u16(encode(f, add_sticky(decode(f, a & 65535), decode(f, b & 65535))));
}
u32 add16x2(const Format& f, u32 a, u32 b) { return u32(add16(f, a >> 16, b >> 16)) << 16 | add16(f, a, b); }

// %0 the old value, [%1] the cell, %2 and %3 the operands. `a` is the old value on the host.
#define F32(op, s) "{.reg .f32 t, u; mov.b32 u, %2; " op s " t, [%1], u; mov.b32 %0, t;}"
#define F64(op, s) "{.reg .f64 t, u; mov.b64 u, %2; " op s " t, [%1], u; mov.b64 %0, t;}"
#define OPS32(X, s)                                                   \
  X("atom" s ".add.u32 %0, [%1], %2;", a + b)                         \
  X("atom" s ".add.s32 %0, [%1], %2;", a + b)                         \
  X("atom" s ".min.u32 %0, [%1], %2;", std::min(a, b))                \
  X("atom" s ".max.u32 %0, [%1], %2;", std::max(a, b))                \
  X("atom" s ".min.s32 %0, [%1], %2;", u32(std::min(s32(a), s32(b)))) \
  X("atom" s ".max.s32 %0, [%1], %2;", u32(std::max(s32(a), s32(b)))) \
  X("atom" s ".and.b32 %0, [%1], %2;", a& b)                          \
  X("atom" s ".or.b32 %0, [%1], %2;", a | b)                          \
  X("atom" s ".xor.b32 %0, [%1], %2;", a ^ b)                         \
  X("atom" s ".exch.b32 %0, [%1], %2;", b)                            \
  X("atom" s ".inc.u32 %0, [%1], %2;", a >= b ? 0 : a + 1)            \
  X("atom" s ".dec.u32 %0, [%1], %2;", a == 0 || a > b ? b : a - 1)   \
  X("atom" s ".cas.b32 %0, [%1], %2, %3;", a == b ? c : a)            \
  X(F32("atom", s ".add.f32"), add_f32(a, b))                         \
  X("atom" s ".add.noftz.f16x2 %0, [%1], %2;", add16x2(kF16, a, b))   \
  X("atom" s ".add.noftz.bf16x2 %0, [%1], %2;", add16x2(kBf16, a, b))
#define ORDERS32(X)                                                                            \
  X("atom.relaxed.gpu.global.add.u32 %0, [%1], %2;", a + b)                                    \
  X("atom.acquire.gpu.global.cas.b32 %0, [%1], %2, %3;", a == b ? c : a)                       \
  X("atom.release.cta.global.exch.b32 %0, [%1], %2;", b)                                       \
  X("atom.acq_rel.sys.global.xor.b32 %0, [%1], %2;", a ^ b)                                    \
  X("atom.relaxed.cluster.global.max.u32 %0, [%1], %2;", std::max(a, b))                       \
  X("mov.u32 %0, 0; red.global.add.u32 [%1], %2;", a + b)                                      \
  X("mov.u32 %0, 0; red.release.gpu.global.add.s32 [%1], %2;", a + b)                          \
  X("mov.u32 %0, 0; red.relaxed.sys.global.min.s32 [%1], %2;", u32(std::min(s32(a), s32(b))))  \
  X("mov.u32 %0, 0; red.global.or.b32 [%1], %2;", a | b)                                       \
  X("mov.u32 %0, 0; red.global.inc.u32 [%1], %2;", a >= b ? 0 : a + 1)                         \
  X("{.reg .f32 u; mov.b32 u, %2; mov.u32 %0, 0; red.global.add.f32 [%1], u;}", add_f32(a, b)) \
  X("mov.u32 %0, 0; red.global.add.noftz.f16x2 [%1], %2;", add16x2(kF16, a, b))                \
  X("mov.u32 %0, 0; red.global.add.noftz.bf16x2 [%1], %2;", add16x2(kBf16, a, b))
#define OPS64(X, s)                                                   \
  X("atom" s ".add.u64 %0, [%1], %2;", a + b)                         \
  X("atom" s ".min.u64 %0, [%1], %2;", std::min(a, b))                \
  X("atom" s ".max.s64 %0, [%1], %2;", u64(std::max(s64(a), s64(b)))) \
  X("atom" s ".and.b64 %0, [%1], %2;", a& b)                          \
  X("atom" s ".or.b64 %0, [%1], %2;", a | b)                          \
  X("atom" s ".xor.b64 %0, [%1], %2;", a ^ b)                         \
  X("atom" s ".exch.b64 %0, [%1], %2;", b)                            \
  X("atom" s ".cas.b64 %0, [%1], %2, %3;", a == b ? c : a)            \
  X(F64("atom", s ".add.f64"), add_f64(a, b))
// 16 bits: operands in the low halves.
#define VIA16(op) "{.reg .b16 t, u; cvt.u16.u32 u, %2; " op " t, [%1], u; cvt.u32.u16 %0, t;}"
#define OPS16(X, s)                                                    \
  X(VIA16("atom" s ".add.noftz.f16"), add16(kF16, a, b))               \
  X(VIA16("atom" s ".add.noftz.bf16"), add16(kBf16, a, b))             \
  X("{.reg .b16 t, u, v; cvt.u16.u32 u, %2; cvt.u16.u32 v, %3; atom" s \
    ".cas.b16 t, [%1], u, v; cvt.u32.u16 %0, t;}",                     \
    u16(a) == u16(b) ? c : a)

#define HOST(ptx, ...) \
  {ptx, [](Word a, Word b, Word c) -> Word { return (void)a, (void)b, (void)c, Word(__VA_ARGS__); }},
#define DEVICE32(ptx, ...)                                                 \
  cell[t] = a, __syncwarp();                                               \
  asm volatile(ptx : "=r"(old) : "l"(address), "r"(b), "r"(c) : "memory"); \
  __syncwarp(), olds[k * n + i] = old, news[k++ * n + i] = cell[t];
#define DEVICE64(ptx, ...)                                                 \
  cell[t] = a, __syncwarp();                                               \
  asm volatile(ptx : "=l"(old) : "l"(address), "l"(b), "l"(c) : "memory"); \
  __syncwarp(), olds[k * n + i] = old, news[k++ * n + i] = cell[t];

// Each thread on a cell of its own, in global memory (twice: plain and generic addresses) or shared memory.
#define KERNEL(name, T, global_cell, to_address, ops)                          \
  __global__ void name(const T* x, int n, T* scratch, T* olds, T* news) {      \
    __shared__ T shared_cell[128];                                             \
    const int t = threadIdx.x, i = blockIdx.x * 128 + t;                       \
    volatile T* cell = global_cell ? scratch + blockIdx.x * 128 : shared_cell; \
    const uint64_t address = to_address(const_cast<T*>(cell + t));             \
    const T a = x[i], b = x[n + i], c = x[2 * n + i];                          \
    T old;                                                                     \
    int k = 0;                                                                 \
    ops                                                                        \
  }
#define GLOBAL(p) __cvta_generic_to_global(p)
#define SHARED(p) __cvta_generic_to_shared(p)
#define GENERIC(p) reinterpret_cast<uint64_t>(p)
KERNEL(global32, u32, true, GLOBAL, OPS32(DEVICE32, ".global"))
KERNEL(shared32, u32, false, SHARED, OPS32(DEVICE32, ".shared"))
KERNEL(generic32, u32, false, GENERIC, OPS32(DEVICE32, ""))
KERNEL(orders32, u32, true, GLOBAL, ORDERS32(DEVICE32))
KERNEL(global64, u64, true, GLOBAL, OPS64(DEVICE64, ".global"))
KERNEL(shared64, u64, false, SHARED, OPS64(DEVICE64, ".shared"))
KERNEL(generic64, u64, true, GENERIC, OPS64(DEVICE64, ""))
KERNEL(global16, u32, true, GLOBAL, OPS16(DEVICE32, ".global"))
KERNEL(shared16, u32, false, SHARED, OPS16(DEVICE32, ".shared"))

namespace w32 {
using Word = u32;
const Op<Word, Word> kOps[] = {OPS32(HOST, "")}, kOrders[] = {ORDERS32(HOST)};
}  // namespace w32
namespace w64 {
using Word = u64;
const Op<Word, Word> kOps[] = {OPS64(HOST, "")};
}  // namespace w64
namespace w16 {
using Word = u32;
const Op<Word, Word> kOps[] = {OPS16(HOST, "")};
}  // namespace w16

template <typename T, size_t N>
void run(void (*kernel)(const T*, int, T*, T*, T*), const Op<T, T> (&ops)[N], const std::vector<T>& x,
         bool returns_old = true) {
  const int n = int(x.size() / 3);
  Array<T> in(x), scratch(n), olds(N * n), news(N * n);
  launch({.grid = dim3(n / 128), .block = 128}, kernel, in.get(), n, scratch.get(), olds.get(), news.get());
  const std::vector<T> a(x.begin(), x.begin() + n), b(x.begin() + n, x.begin() + 2 * n),
      c(x.begin() + 2 * n, x.end());
  expect_table(ops, a, b, c, news.host());
  std::vector<T> got = olds.host();
  for (size_t i = 0; returns_old && i < got.size(); ++i)
    ASSERT_EQ(got[i], a[i % n]) << "old value, " << ops[i / n].ptx;
}

// Numbers that are neither NaN nor infinite as f32, f16x2, bf16x2; every third pair equal so that cas
// succeeds.
std::vector<u32> words(int seed) {
  Random random(seed);
  std::vector<u32> x(3 * 256);
  for (u32& v : x) v = encode(kBf16, random.real(-6, 6)) << 16 | encode(kF16, random.real(-6, 6));
  for (int i = 0; i < 256; i += 3) x[256 + i] = x[i];
  for (int i = 1; i < 256; i += 6) x[i] = 0, x[256 + i] &= 0x3BFF3BFF, x[256 + i] |= 0x20002000;
  return x;
}
TEST(Atomics, Words) {
  run(global32, w32::kOps, words(1));
  run(shared32, w32::kOps, words(2));
  run(generic32, w32::kOps, words(3));
}
TEST(Atomics, OrdersAndReductions) { run(orders32, w32::kOrders, words(4), false); }
// f32 sums of subnormal numbers: to zero in global memory, kept in shared memory (PTX ISA, atom).
__global__ void subnormals(float* global, float* out) {
  __shared__ float s;
  s = *global;
  atomicAdd(global, 0x1p-130f);
  atomicAdd(&s, 0x1p-130f);
  out[0] = *global, out[1] = s;
}
TEST(Atomics, Subnormals) {
  Array<float> cell(std::vector<float>{0x1p-128f}), out(2);
  launch({.block = 1}, subnormals, cell.get(), out.get());
  expect_same(out.host(), {0.0f, 0x1p-128f + 0x1p-130f});
}
TEST(Atomics, DoubleWords) {
  Random random(5);
  std::vector<u64> x(3 * 256);
  for (u64& v : x) v = as<double, u64>(random.real(-200, 200));
  for (int i = 0; i < 256; i += 3) x[256 + i] = x[i];
  run(global64, w64::kOps, x);
  run(shared64, w64::kOps, x);
  run(generic64, w64::kOps, x);
}
TEST(Atomics, Halves) {
  std::vector<u32> x = words(6);
  for (u32& v : x) v &= 65535;
  run(global16, w16::kOps, x);
  run(shared16, w16::kOps, x);
}

// --- vectors and 128 bits: one instruction, several cells ---
__global__ void vectors(float* f, u32* h, float* f_old, u32* h_old, u64* wide) {
  const u32 t = threadIdx.x;
  const float v = t + 0.25f;
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(f + t * 8), "f"(v), "f"(-v) : "memory");
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %1, %2};" ::"l"(f + t * 8 + 4), "f"(v), "f"(2 * v)
               : "memory");
  asm volatile("atom.global.add.v4.f32 {%0, %1, %2, %3}, [%4], {%5, %5, %5, %6};"
               : "=f"(f_old[t * 4]), "=f"(f_old[t * 4 + 1]), "=f"(f_old[t * 4 + 2]), "=f"(f_old[t * 4 + 3])
               : "l"(f + t * 8 + 4), "f"(v), "f"(-v)
               : "memory");
  const u32 two = 0x40003C00 + t * 0x00100020;  // f16x2 {1.., 2..}
  asm volatile("red.global.add.noftz.v2.f16x2 [%0], {%1, %2};" ::"l"(h + t * 8), "r"(two), "r"(two + 1)
               : "memory");
  asm volatile("red.global.max.noftz.v4.f16x2 [%0], {%1, %2, %1, %2};" ::"l"(h + t * 8 + 4), "r"(two),
               "r"(two + 1)
               : "memory");
  asm volatile("atom.global.add.noftz.v2.f16x2 {%0, %1}, [%2], {%3, %3};"
               : "=r"(h_old[t * 2]), "=r"(h_old[t * 2 + 1])
               : "l"(h + t * 8), "r"(two)
               : "memory");
  const u32 b = 0x3F803F80 + t * 0x00010002;
  asm volatile("red.global.add.noftz.v2.bf16x2 [%0], {%1, %2};" ::"l"(h + t * 8 + 2), "r"(b), "r"(b + 1)
               : "memory");
  u64 lo, hi;
  asm volatile(
      "{.reg .b128 d, b, c; mov.b128 b, {%3, %4}; mov.b128 c, {%5, %6}; atom.global.cas.b128 d, [%2], b, c;"
      " mov.b128 {%0, %1}, d;}"
      : "=l"(lo), "=l"(hi)
      : "l"(wide + t * 2), "l"(u64(t)), "l"(u64(t / 2 * 2)), "l"(~u64(t)), "l"(u64(77))
      : "memory");
  wide[64 + t * 2] = lo, wide[64 + t * 2 + 1] = hi;
}
TEST(Atomics, Vectors) {
  std::vector<float> f(32 * 8), f_want, f_old_want;
  std::vector<u32> h(32 * 8), h_want, h_old_want;
  std::vector<u64> wide(128, 0), wide_want;
  Random random(7);
  for (float& v : f) v = float(random.real(-8, 8));
  for (u32& v : h) v = encode(kF16, random.real(-4, 4)) | encode(kF16, random.real(-4, 4)) << 16;
  for (u32 t = 0; t < 32; ++t) wide[t * 2] = t, wide[t * 2 + 1] = t;
  f_want = f, h_want = h, wide_want = wide;
  for (u32 t = 0; t < 32; ++t) {
    const float v = t + 0.25f;
    float* p = &f_want[t * 8];
    p[0] += v, p[1] += -v, p[4] += v, p[5] += 2 * v, p[6] += v, p[7] += 2 * v;
    for (int i = 0; i < 4; ++i) f_old_want.push_back(p[4 + i]), p[4 + i] += i == 3 ? -v : v;
    u32* q = &h_want[t * 8];
    const u32 two = 0x40003C00 + t * 0x00100020, b = 0x3F803F80 + t * 0x00010002;
    for (u32 i = 0; i < 2; ++i) {
      q[i] = add16x2(kF16, q[i], two + i);
      h_old_want.push_back(q[i]);
      q[i] = add16x2(kF16, q[i], two);
      q[2 + i] = add16x2(kBf16, q[2 + i], b + i);
    }
    for (u32 i = 0; i < 4; ++i) {
      u32 r = 0;
      for (int s = 0; s < 32; s += 16)
        r |= encode(kF16,
                    std::max(decode(kF16, q[4 + i] >> s & 65535), decode(kF16, (two + i % 2) >> s & 65535)))
             << s;
      q[4 + i] = r;
    }
    wide_want[64 + t * 2] = t, wide_want[64 + t * 2 + 1] = t;
    if (t % 2 == 0) wide_want[t * 2] = ~u64(t), wide_want[t * 2 + 1] = 77;
  }
  Array<float> df(f), df_old(128);
  Array<u32> dh(h), dh_old(64);
  Array<u64> dwide(wide);
  launch({}, vectors, df.get(), dh.get(), df_old.get(), dh_old.get(), dwide.get());
  expect_same(df.host(), f_want, "f32");
  expect_same(df_old.host(), f_old_want, "f32 old");
  expect_same(dh.host(), h_want, "16 bits");
  expect_same(dh_old.host(), h_old_want, "16 bits old");
  expect_same(dwide.host(), wide_want, "128 bits");
}

// --- contention: blocks and lanes on the same few cells ---
struct Cells {
  u32 tickets, max, ored, counted;
  float sum;
  double sum64;
  __half2 halves;
  __nv_bfloat162 bfloats;
  unsigned long long wide;
  int lowest, shared_total;
};
__global__ void contend(Cells* c, u32* taken, u32* histogram) {
  __shared__ u32 bins[16];
  __shared__ int total;
  if (threadIdx.x < 16) bins[threadIdx.x] = 0;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  taken[atomicAdd(&c->tickets, 1u)] = 1;
  atomicMax(&c->max, i * 7 % 1001);
  atomicOr(&c->ored, 1u << i % 29);
  atomicAdd(&c->sum, 1.0f);
  atomicAdd(&c->sum64, 0.5);
  atomicAdd(&c->halves, __floats2half2_rn(1.0f, i % 4 == 0));
  atomicAdd(&c->bfloats, __floats2bfloat162_rn(i % 8 == 0, 0.0f));
  atomicAdd(&c->wide, 0x100000001ull);
  atomicMin(&c->lowest, -int(i));
  for (u32 seen = *static_cast<volatile u32*>(&c->counted), assumed = ~seen; assumed != seen;)
    assumed = seen, seen = atomicCAS(&c->counted, assumed, assumed + 3);
  atomicAdd(&bins[i * i % 16], 1u);
  atomicAdd(&total, int(i % 5) - 2);
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(histogram + threadIdx.x, bins[threadIdx.x]);
  if (threadIdx.x == 0) atomicAdd(&c->shared_total, total);
}
TEST(Atomics, Contention) {
  constexpr u32 kBlocks = 6, n = kBlocks * 256;
  Array<Cells> cells(std::vector<Cells>(1, Cells{}));
  Array<u32> taken(std::vector<u32>(n, 0)), histogram(std::vector<u32>(16, 0));
  launch({.grid = kBlocks, .block = 256}, contend, cells.get(), taken.get(), histogram.get());
  const Cells c = cells.host()[0];
  EXPECT_EQ(c.tickets, n);
  EXPECT_EQ(c.max, 994u);
  EXPECT_EQ(c.ored, (1u << 29) - 1);
  EXPECT_EQ(c.counted, 3 * n);
  EXPECT_EQ(c.sum, float(n));
  EXPECT_EQ(c.sum64, n / 2);
  EXPECT_EQ(__low2float(c.halves), float(n));
  EXPECT_EQ(__high2float(c.halves), float(n / 4));
  EXPECT_EQ(__low2float(c.bfloats), float(n / 8));
  EXPECT_EQ(c.wide, n * 0x100000001ull);
  EXPECT_EQ(c.lowest, -int(n - 1));
  expect_same(taken.host(), std::vector<u32>(n, 1));
  std::vector<u32> bins(16, 0);
  int total = 0;
  for (u32 i = 0; i < n; ++i) ++bins[i * i % 16], total += int(i % 5) - 2;
  expect_same(histogram.host(), bins);
  EXPECT_EQ(c.shared_total, total);
}

}  // namespace
}  // namespace silicon
