// Loads and stores: widths, vectors, cache operators, orders, spaces, generic addresses; constants, local
// arrays, calls.
#include "tests/ptxsim/silicon/harness.h"

namespace silicon {
namespace {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;

// Copies words with every form of ld and st; out[k * n + i] = in[i].
#define COPY32(ld, st)                                                                                   \
  asm volatile("{.reg .b32 t; " ld " t, [%0]; " st " [%1], t;}" ::"l"(in + i), "l"(out + i) : "memory"); \
  out += n;
#define COPY_V2(ld, st)                                                                                    \
  if (i % 2 == 0)                                                                                          \
    asm volatile("{.reg .b32 t, u; " ld " {t, u}, [%0]; " st " [%1], {t, u};}" ::"l"(in + i), "l"(out + i) \
                 : "memory");                                                                              \
  out += n;
#define COPY_V4(ld, st)                                                  \
  if (i % 4 == 0)                                                        \
    asm volatile("{.reg .b32 t, u, v, w; " ld " {t, u, v, w}, [%0]; " st \
                 " [%1], {t, u, v, w};}" ::"l"(in + i),                  \
                 "l"(out + i)                                            \
                 : "memory");                                            \
  out += n;
constexpr int kCopies = 30;
__global__ void copies(const u32* in, int n, u32* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  COPY32("ld.global.u32", "st.global.u32")
  COPY32("ld.global.ca.u32", "st.global.wb.u32")
  COPY32("ld.global.cg.u32", "st.global.cg.u32")
  COPY32("ld.global.cs.u32", "st.global.cs.u32")
  COPY32("ld.global.lu.b32", "st.global.wt.b32")
  COPY32("ld.global.cv.f32", "st.global.f32")
  COPY32("ld.volatile.global.u32", "st.volatile.global.u32")
  COPY32("ld.global.nc.u32", "st.global.u32")
  COPY32("ld.global.nc.L1::no_allocate.L2::128B.b32", "st.global.L1::no_allocate.b32")
  COPY32("ld.global.L1::evict_last.b32", "st.global.L1::evict_first.b32")
  COPY32("ld.relaxed.gpu.global.u32", "st.relaxed.gpu.global.u32")
  COPY32("ld.acquire.gpu.global.u32", "st.release.gpu.global.u32")
  COPY32("ld.acquire.sys.global.u32", "st.release.sys.global.u32")
  COPY32("ld.acquire.cta.global.u32", "st.release.cluster.global.u32")
  COPY32("ld.weak.global.u32", "st.weak.global.u32")
  COPY32("ld.mmio.relaxed.sys.global.u32", "st.mmio.relaxed.sys.global.u32")
  COPY32("ld.u32", "st.u32")
  COPY32("ldu.global.u32", "st.u32")
  COPY_V2("ld.global.v2.u32", "st.global.v2.u32")
  COPY_V2("ld.global.nc.v2.f32", "st.v2.f32")
  COPY_V2("ld.relaxed.gpu.global.v2.b32", "st.volatile.global.v2.b32")
  COPY_V4("ld.global.v4.u32", "st.global.v4.u32")
  COPY_V4("ld.global.nc.L1::no_allocate.L2::256B.v4.f32", "st.global.cs.v4.f32")
  COPY_V4("ld.v4.b32", "st.relaxed.sys.v4.b32")
  if (i % 2 == 0)
    asm volatile("{.reg .b64 t; ld.global.b64 t, [%0]; st.global.b64 [%1], t;}" ::"l"(in + i), "l"(out + i));
  out += n;
  if (i % 4 == 0)
    asm volatile(
        "{.reg .b64 t, u; ld.global.v2.u64 {t, u}, [%0]; st.global.v2.u64 [%1], {t, u};}" ::"l"(in + i),
        "l"(out + i));
  out += n;
  if (i % 4 == 0)
    asm volatile(
        "{.reg .f64 t, u; ld.global.v2.f64 {t, u}, [%0]; st.global.v2.f64 [%1], {t, u};}" ::"l"(in + i),
        "l"(out + i));
  out += n;
  if (i % 4 == 0)
    asm volatile(
        "{.reg .b128 t; ld.relaxed.sys.global.b128 t, [%0]; st.release.gpu.global.b128 [%1], t;}" ::"l"(in +
                                                                                                        i),
        "l"(out + i));
  out += n;
  asm volatile(
      "{.reg .b16 t, u; ld.global.v2.u16 {t, u}, [%0]; st.global.v2.b16 [%1], {t, u};}" ::"l"(in + i),
      "l"(out + i));
  out += n;
  asm volatile(
      "{.reg .b32 t, u, v, w; ld.global.v4.u8 {t, u, v, w}, [%0]; st.global.v4.u8 [%1], {t, u, v, w};}" ::"l"(
          in + i),
      "l"(out + i));
}
TEST(Memory, Copies) {
  constexpr int n = 256;
  std::vector<u32> x(n), want;
  Random random(1);
  for (u32& v : x) v = u32(random.bits());
  for (int k = 0; k < kCopies; ++k) want.insert(want.end(), x.begin(), x.end());
  Array<u32> in(x), out(want.size());
  launch({.grid = 2, .block = 128}, copies, in.get(), n, out.get());
  expect_same(out.host(), want);
}

// Narrow loads extend by their type; offsets, negative ones too, are part of the address.
__global__ void narrow(const u8* in, u32* out, u64* wide) {
  const u8* p = in + threadIdx.x * 16 + 8;
  u32* o = out + threadIdx.x * 8;
  asm volatile("ld.global.s8 %0, [%1+-8];" : "=r"(o[0]) : "l"(p));
  asm volatile("ld.global.u8 %0, [%1+3];" : "=r"(o[1]) : "l"(p));
  asm volatile("ld.global.s16 %0, [%1+-2];" : "=r"(o[2]) : "l"(p));
  asm volatile("ld.global.u16 %0, [%1+2];" : "=r"(o[3]) : "l"(p));
  asm volatile("{.reg .b16 t; ld.global.s8 t, [%1]; cvt.u32.u16 %0, t;}" : "=r"(o[4]) : "l"(p));
  asm volatile("ld.global.nc.s16 %0, [%1+4];" : "=r"(o[5]) : "l"(p));
  asm volatile(
      "st.global.u16 [%0+24], %1; st.global.u8 [%0+26], %2; st.global.u8 [%0+27], %3; st.global.b32 [%0+28], "
      "%2;" ::"l"(o),
      "h"(u16(0xABCD)), "r"(0x1234567), "r"(~0u)
      : "memory");
  asm volatile("ld.global.s32 %0, [%1+-4];" : "=l"(wide[threadIdx.x * 2]) : "l"(p));
  asm volatile("ld.global.u8 %0, [%1+1];" : "=l"(wide[threadIdx.x * 2 + 1]) : "l"(p));
}
TEST(Memory, Narrow) {
  std::vector<u8> x(32 * 16);
  Random random(2);
  for (u8& v : x) v = u8(random.bits());
  Array<u8> in(x);
  Array<u32> out(32 * 8);
  Array<u64> wide(64);
  launch({}, narrow, in.get(), out.get(), wide.get());
  std::vector<u32> want;
  std::vector<u64> want_wide;
  const auto at16 = [&](const u8* p) { return u16(p[0] | p[1] << 8); };
  for (int t = 0; t < 32; ++t) {
    const u8* p = &x[t * 16 + 8];
    want.insert(want.end(), {u32(int8_t(p[-8])), p[3], u32(int16_t(at16(p - 2))), at16(p + 2),
                             u32(u16(int8_t(p[0]))), u32(int16_t(at16(p + 4))), 0xFF67ABCD, 0x1234567});
    want_wide.push_back(u64(int64_t(int32_t(at16(p - 4) | u32(at16(p - 2)) << 16))));
    want_wide.push_back(p[1]);
  }
  expect_same(out.host(), want);
  expect_same(wide.host(), want_wide);
}

// --- spaces ---
__constant__ u32 constants[64];
__device__ u32 counter = 5;
__device__ u32 table[4][8];
__device__ const u32* pointers[2] = {&table[1][2], &table[3][0]};
__constant__ float filter[3] = {0.25f, 0.5f, -0.125f};

struct __align__(16) Parameters {
  u32 a[5];
  const u32* p;
  double d;
  u8 tail[3];
};
// 1 global, 2 shared, 4 local; constants are asked for in their own way, since they may lie in global memory
// as well.
__device__ u32 space_of(const void* p) {
  u32 r;
  asm("{.reg .pred g, s, l; .reg .b32 t; isspacep.global g, %1; isspacep.shared s, %1; isspacep.local l, %1;"
      " selp.u32 %0, 1, 0, g; selp.u32 t, 2, 0, s; or.b32 %0, %0, t; selp.u32 t, 4, 0, l; or.b32 %0, %0, t;}"
      : "=r"(r)
      : "l"(p));
  return r;
}
__device__ u32 is_constant(const void* p) {
  u32 r;
  asm("{.reg .pred c; isspacep.const c, %1; selp.u32 %0, 1, 0, c;}" : "=r"(r) : "l"(p));
  return r;
}
__device__ __noinline__ u32 sum_generic(const u32* p, int n) {
  u32 s = 0;
  for (int i = 0; i < n; ++i) s += p[i] * (i + 1);
  return s;
}
__global__ void spaces(const __grid_constant__ Parameters q, u32* out) {
  extern __shared__ u32 dynamic[];
  __shared__ u32 fixed[64];
  u32 local[16];
  const u32 t = threadIdx.x;
  fixed[t] = t * 3, dynamic[t] = t * 5;
  for (u32 i = 0; i < 16; ++i) local[(i * 5 + t) % 16] = i * t;  // indexed at run time: memory, not registers
  __syncthreads();
  u32* o = out + t * 12;
  const u32* which[] = {fixed, dynamic, local, constants, q.a, q.p};
  o[0] = sum_generic(which[t % 6], 5);
  o[1] = space_of(fixed) | space_of(dynamic) << 4 | space_of(local) << 8 | space_of(q.p) << 12 |
         is_constant(constants) << 16;
  o[2] = fixed[63 - t] + dynamic[63 - t] + local[t % 16];
  o[3] = constants[t] + constants[t % 7];
  o[4] = u32(q.d * 8) + q.tail[t % 3];
  o[5] = q.a[t % 5];
  o[6] = pointers[t % 2][1];
  o[7] = atomicAdd(&counter, 0);
  o[8] = u32(filter[t % 3] * 1024);
  asm volatile("{.reg .u64 a; cvta.to.shared.u64 a, %1; ld.shared.u32 %0, [a+8];}" : "=r"(o[9]) : "l"(fixed));
  asm volatile("{.reg .b32 a; cvt.u32.u64 a, %1; ld.shared.u32 %0, [a];}"
               : "=r"(o[10])
               : "l"(__cvta_generic_to_shared(dynamic + 1)));
  asm volatile("{.reg .u64 a; cvta.to.local.u64 a, %1; st.local.u32 [a], %2; ld.local.u32 %0, [a];}"
               : "=r"(o[11])
               : "l"(local + 3), "r"(t + 9)
               : "memory");
}
TEST(Memory, Spaces) {
  std::vector<u32> c(64), global(8), rows(32);
  for (u32 i = 0; i < 64; ++i) c[i] = i * i;
  for (u32 i = 0; i < 8; ++i) global[i] = 1000 + i;
  for (u32 i = 0; i < 32; ++i) rows[i] = 7 * i;
  CUDA_OK(cudaMemcpyToSymbol(constants, c.data(), 256));
  CUDA_OK(cudaMemcpyToSymbol(table, rows.data(), 128));
  u32 start = 41;
  CUDA_OK(cudaMemcpyToSymbol(counter, &start, 4));
  Array<u32> g(global), out(64 * 12);
  const Parameters q = {{11, 22, 33, 44, 55}, g.get(), 2.75, {7, 8, 9}};
  launch({.block = 64, .shared = 256}, spaces, q, out.get());
  std::vector<u32> want;
  for (u32 t = 0; t < 64; ++t) {
    u32 local[16];
    for (u32 i = 0; i < 16; ++i) local[(i * 5 + t) % 16] = i * t;
    u32 sum = 0;
    for (u32 i = 0; i < 5; ++i) {
      const u32 v[] = {i * 3, i * 5, local[i], c[i], q.a[i], global[i]};
      sum += v[t % 6] * (i + 1);
    }
    const float f[] = {0.25f, 0.5f, -0.125f};
    want.insert(want.end(), {sum, 2u | 2 << 4 | 4 << 8 | 1 << 12 | 1 << 16, (63 - t) * 8 + local[t % 16],
                             c[t] + c[t % 7], 22u + q.tail[t % 3], q.a[t % 5], t % 2 ? rows[25] : rows[11],
                             41, u32(int(f[t % 3] * 1024)), 6, 5, t + 9});
  }
  // A negative float to unsigned is undefined in C++ and clamps in PTX.
  for (u32 t = 0; t < 64; ++t)
    if (t % 3 == 2) want[t * 12 + 8] = 0;
  expect_same(out.host(), want);
  void* address = nullptr;
  size_t bytes = 0;
  CUDA_OK(cudaGetSymbolAddress(&address, table));
  CUDA_OK(cudaGetSymbolSize(&bytes, table));
  EXPECT_EQ(bytes, 128u);
  std::vector<u32> back(32);
  CUDA_OK(cudaMemcpy(back.data(), address, 128, cudaMemcpyDeviceToHost));
  expect_same(back, rows);
}

// --- order between blocks: message passing, and a lock ---
__global__ void pass(u32* data, u32* flag, u32* out) {
  const u32 b = blockIdx.x;
  if (b > 0 && threadIdx.x == 0) {
    u32 seen;
    do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag + b - 1) : "memory");
    while (!seen);
  }
  __syncthreads();
  const u32 v = b ? data[(b - 1) * 64 + threadIdx.x] : threadIdx.x;
  data[b * 64 + threadIdx.x] = v * 3 + 1;
  __syncthreads();
  if (threadIdx.x == 0)
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag + b), "r"(1) : "memory");
  out[b * 64 + threadIdx.x] = v;
}
TEST(Memory, ReleaseAcquireChain) {
  constexpr u32 kBlocks = 6;
  Array<u32> data(kBlocks * 64), flag(std::vector<u32>(kBlocks, 0)), out(kBlocks * 64);
  launch({.grid = kBlocks, .block = 64, .cooperative = true}, pass, data.get(), flag.get(), out.get());
  std::vector<u32> want;
  for (u32 b = 0; b < kBlocks; ++b)
    for (u32 t = 0; t < 64; ++t) want.push_back(b ? want[(b - 1) * 64 + t] * 3 + 1 : t);
  expect_same(out.host(), want);
}

__global__ void fences(u32* data, u32* flag, u32* out) {
  if (blockIdx.x == 0) {
    data[threadIdx.x] = threadIdx.x + 7;
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
    asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(flag) : "memory");
  } else {
    u32 seen;
    do asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
    while (seen < 32);
    asm volatile("fence.sc.gpu;" ::: "memory");
    out[threadIdx.x] = data[31 - threadIdx.x];
    __threadfence_block();
    __threadfence_system();
    asm volatile("fence.acq_rel.cluster; membar.gl; membar.cta; membar.sys; fence.sc.cta;" ::: "memory");
  }
}
TEST(Memory, Fences) {
  Array<u32> data(32), flag(std::vector<u32>(1, 0)), out(32);
  launch({.grid = 2, .cooperative = true}, fences, data.get(), flag.get(), out.get());
  std::vector<u32> want;
  for (u32 t = 0; t < 32; ++t) want.push_back(31 - t + 7);
  expect_same(out.host(), want);
}

// Hints that change nothing.
__global__ void hints(u32* p, u32* out) {
  u64 policy;
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  asm volatile(
      "prefetch.global.L1 [%0]; prefetch.global.L2 [%0]; prefetchu.L1 [%0]; prefetch.global.L2::evict_last "
      "[%0];" ::"l"(p));
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], 128;" ::"l"(p));
  asm volatile("applypriority.global.L2::evict_normal [%0], 128;" ::"l"(p));
  asm volatile("ld.global.L2::cache_hint.u32 %0, [%1], %2;"
               : "=r"(out[threadIdx.x])
               : "l"(p + threadIdx.x), "l"(policy));
  asm volatile("st.global.L2::cache_hint.u32 [%0], %1, %2;" ::"l"(p + 32 + threadIdx.x), "r"(threadIdx.x),
               "l"(policy)
               : "memory");
}
TEST(Memory, Hints) {
  std::vector<u32> x(64), want(64);
  for (u32 i = 0; i < 64; ++i) x[i] = 3 * i, want[i] = i < 32 ? 3 * i : i - 32;
  Array<u32> p(x), out(32);
  launch({}, hints, p.get(), out.get());
  expect_same(out.host(), std::vector<u32>(x.begin(), x.begin() + 32));
  expect_same(p.host(), want);
}

}  // namespace
}  // namespace silicon
