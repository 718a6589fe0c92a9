// What lanes of a warp do together, and apart: shuffles, votes, matches, reductions, divergence.
#include <algorithm>
#include <bit>

#include "tests/ptxsim/silicon/harness.h"

namespace silicon {
namespace {

using u32 = uint32_t;

// --- shfl: every mode, lane operand and segment; value | predicate in bit 31 ---
#define SHFL(mode, b, c)                                  \
  asm("{.reg .pred p; .reg .b32 t; shfl.sync." mode       \
      ".b32 %0|p, %1, %2, %3, 0xffffffff;"                \
      " selp.b32 t, 0x80000000, 0, p; or.b32 %0, %0, t;}" \
      : "=r"(r)                                           \
      : "r"(v), "r"(b), "r"(c));                          \
  out[k++ * 32 + lane] = r
__global__ void shuffles(const u32* offsets, int count, u32* out) {
  const u32 lane = threadIdx.x, v = lane * 3 + 100;
  u32 r;
  int k = 0;
  for (int i = 0; i < count; ++i)
    for (u32 width = 1; width <= 32; width *= 2) {
      const u32 segment = (32 - width) << 8, b = offsets[i];
      SHFL("up", b, segment);
      SHFL("down", b, segment | 31);
      SHFL("bfly", b, segment | 31);
      SHFL("idx", b, segment | 31);
      SHFL("idx", (lane * 7 + b), segment | (width / 2));
    }
}
u32 shuffled(int mode, u32 lane, u32 b, u32 c) {
  const u32 segment = c >> 8 & 31, clamp = c & 31;
  const u32 max = (lane & segment) | (clamp & ~segment), min = lane & segment;
  b &= 31;
  u32 j = 0;
  bool inside = false;
  if (mode == 0) j = lane - b, inside = int(j) >= int(max);
  if (mode == 1) j = lane + b, inside = j <= max;
  if (mode == 2) j = lane ^ b, inside = j <= max;
  if (mode == 3) j = min | (b & ~segment), inside = j <= max;
  return ((inside ? j : lane) * 3 + 100) | u32(inside) << 31;
}
TEST(Lanes, Shuffle) {
  const std::vector<u32> offsets = {0, 1, 2, 5, 16, 31, 33};
  Array<u32> in(offsets), out(offsets.size() * 6 * 5 * 32);
  launch({}, shuffles, in.get(), int(offsets.size()), out.get());
  std::vector<u32> want;
  for (u32 b : offsets)
    for (u32 width = 1; width <= 32; width *= 2)
      for (int op = 0; op < 5; ++op)
        for (u32 lane = 0; lane < 32; ++lane) {
          const u32 c = (32 - width) << 8 | (op == 0 ? 0 : op == 4 ? width / 2 : 31);
          want.push_back(shuffled(std::min(op, 3), lane, op == 4 ? lane * 7 + b : b, c));
        }
  expect_same(out.host(), want);
}

// --- votes, matches and integer reductions of the lanes in a mask ---
__global__ void collectives(const u32* x, const u32* masks, int count, u32* out, unsigned long long* wide) {
  const u32 lane = threadIdx.x;
  for (int i = 0; i < count; ++i) {
    const u32 mask = masks[i], v = x[i * 32 + lane];
    if (!(mask >> lane & 1)) continue;
    u32* o = out + i * 32 * 14 + lane;
    int equal = 0;
    o[0 * 32] = __all_sync(mask, v & 7);
    o[1 * 32] = __any_sync(mask, v > 60);
    asm("{.reg .pred p, q; setp.gt.u32 p, %1, 30; vote.sync.uni.pred q, p, %2; selp.u32 %0, 1, 0, q;}"
        : "=r"(o[2 * 32])
        : "r"(v), "r"(mask));
    o[3 * 32] = __ballot_sync(mask, v & 1);
    o[4 * 32] = __match_any_sync(mask, v);
    o[5 * 32] = __match_all_sync(mask, v, &equal);
    o[6 * 32] = u32(equal);
    o[7 * 32] = __reduce_add_sync(mask, v * 0x1000001u);
    o[8 * 32] = __reduce_min_sync(mask, v);
    o[9 * 32] = u32(__reduce_max_sync(mask, int(v) - 40));
    o[10 * 32] = u32(__reduce_min_sync(mask, int(v) - 40));
    o[11 * 32] = __reduce_and_sync(mask, v | 0xF0u);
    o[12 * 32] = __reduce_or_sync(mask, v);
    o[13 * 32] = __reduce_xor_sync(mask, v);
    wide[i * 32 + lane] = __match_any_sync(mask, (unsigned long long)v << 32 | 7);
  }
}
TEST(Lanes, Collectives) {
  Random random(1);
  constexpr int kCount = 40;
  std::vector<u32> x(kCount * 32), masks(kCount);
  for (int i = 0; i < kCount; ++i) {
    masks[i] = i == 0 ? ~0u : i == 1 ? 1u << 17 : u32(random.bits()) | 1u << random.below(32);
    for (int l = 0; l < 32; ++l) x[i * 32 + l] = i % 4 == 0 ? 33 : random.below(i % 3 ? 70 : 4);
  }
  Array<u32> in(x), m(masks), out(kCount * 32 * 14);
  Array<unsigned long long> wide(kCount * 32);
  launch({}, collectives, in.get(), m.get(), kCount, out.get(), wide.get());
  std::vector<u32> want(out.size(), ~0u);
  std::vector<unsigned long long> want_wide(wide.size(), ~0ull);
  for (int i = 0; i < kCount; ++i) {
    u32 all = 1, any = 0, ballot = 0, over = 0, n = 0, add = 0, lo = ~0u, hi = 0, a = ~0u, o = 0, e = 0;
    int shi = INT32_MIN, slo = INT32_MAX;
    bool equal = true;
    const u32 first = x[i * 32 + std::countr_zero(masks[i])];
    for (int l = 0; l < 32; ++l) {
      if (!(masks[i] >> l & 1)) continue;
      const u32 v = x[i * 32 + l];
      all &= (v & 7) != 0, any |= v > 60, ballot |= (v & 1) << l, over += v > 30, ++n, add += v * 0x1000001u;
      lo = std::min(lo, v), hi = std::max(hi, v), a &= v | 0xF0u, o |= v, e ^= v, equal &= v == first;
      shi = std::max(shi, int(v) - 40), slo = std::min(slo, int(v) - 40);
    }
    for (int l = 0; l < 32; ++l) {
      if (!(masks[i] >> l & 1)) continue;
      u32 peers = 0;
      for (int p = 0; p < 32; ++p) peers |= u32(masks[i] >> p & 1 && x[i * 32 + p] == x[i * 32 + l]) << p;
      const u32 row[] = {all,      any,      over == 0 || over == n,
                         ballot,   peers,    equal ? masks[i] : 0,
                         equal,    add,      lo,
                         u32(shi), u32(slo), a,
                         o,        e};
      for (int k = 0; k < 14; ++k) want[(i * 14 + k) * 32 + l] = row[k];
      want_wide[i * 32 + l] = peers;
    }
  }
  expect_same(out.host(), want);
  expect_same(wide.host(), want_wide);
}

// --- special registers, elect ---
__global__ void registers(u32* out) {
  const u32 thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const u32 block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  u32* o = out + (block * blockDim.x * blockDim.y * blockDim.z + thread) * 16;
  asm("mov.u32 %0, %%laneid;" : "=r"(o[0]));
  asm("mov.u32 %0, %%lanemask_eq;" : "=r"(o[1]));
  asm("mov.u32 %0, %%lanemask_lt;" : "=r"(o[2]));
  asm("mov.u32 %0, %%lanemask_le;" : "=r"(o[3]));
  asm("mov.u32 %0, %%lanemask_gt;" : "=r"(o[4]));
  asm("mov.u32 %0, %%lanemask_ge;" : "=r"(o[5]));
  o[6] = threadIdx.x | threadIdx.y << 8 | threadIdx.z << 16;
  o[7] = blockIdx.x | blockIdx.y << 8 | blockIdx.z << 16;
  o[8] = blockDim.x | blockDim.y << 8 | blockDim.z << 16;
  o[9] = gridDim.x | gridDim.y << 8 | gridDim.z << 16;
  asm volatile("mov.u32 %0, %%dynamic_smem_size;" : "=r"(o[10]));
  asm volatile("mov.u32 %0, WARP_SZ;" : "=r"(o[11]));
  u32 leader, is_leader;
  asm volatile("{.reg .pred p; elect.sync %0|p, 0xffffffff; selp.u32 %1, 1, 0, p;}"
               : "=r"(leader), "=r"(is_leader));
  o[12] = leader;
  o[13] = __reduce_add_sync(~0u, is_leader);
  o[14] = (is_leader != 0) == ((thread & 31) == leader);
  o[15] = __activemask();
}
TEST(Lanes, Registers) {
  const dim3 grid(3, 2, 2), block(8, 4, 2);
  Array<u32> out(12 * 64 * 16);
  launch({.grid = grid, .block = block, .shared = 1024}, registers, out.get());
  const std::vector<u32> got = out.host();
  for (u32 b = 0; b < 12; ++b)
    for (u32 t = 0; t < 64; ++t) {
      const u32 lane = t % 32, *o = &got[(b * 64 + t) * 16];
      const u32 want[] = {lane,
                          1u << lane,
                          (1u << lane) - 1,
                          ~0u >> (31 - lane),
                          lane == 31 ? 0 : ~0u << (lane + 1),
                          ~0u << lane,
                          t % 8 | t / 8 % 4 << 8 | t / 32 << 16,
                          b % 3 | b / 3 % 2 << 8 | b / 6 << 16,
                          8 | 4 << 8 | 2 << 16,
                          3 | 2 << 8 | 2 << 16,
                          1024,
                          32};
      for (int k = 0; k < 12; ++k)
        ASSERT_EQ(o[k], want[k]) << "register " << k << " of block " << b << " thread " << t;
      ASSERT_LT(o[12], 32u);
      ASSERT_EQ(o[12], got[(b * 64 + t / 32 * 32) * 16 + 12]) << "one leader per warp";
      ASSERT_EQ(o[13], 1u);
      ASSERT_EQ(o[14], 1u);
      ASSERT_EQ(o[15], ~0u);
    }
}

// --- divergence: every lane takes its own way ---
__device__ __noinline__ u32 collatz(u32 v) {
  u32 steps = 0;
  while (v != 1) {
    v = v & 1 ? 3 * v + 1 : v / 2;
    if (++steps > 500) break;
  }
  return steps;
}
u32 host_collatz(u32 v) {
  u32 steps = 0;
  while (v != 1 && steps <= 500) v = v & 1 ? 3 * v + 1 : v / 2, ++steps;
  return steps;
}
__host__ __device__ u32 tangle(u32 v) {
  u32 r = 0;
  for (u32 i = 0; i < v % 11; ++i) {
    if ((v + i) % 3 == 0) continue;
    switch ((v ^ i) % 7) {
      case 0:
        r += 1;
        break;
      case 1:
        r ^= i;
        [[fallthrough]];
      case 2:
        r *= 3;
        break;
      case 3:
        for (u32 j = v % 5; j-- > 0;) {
          if (j == 2 && i > 4) goto out;
          r += j * i;
        }
        break;
      case 4:
        if (i > 6) return r | 0x10000;
        break;
      default:
        r += v % 13;
    }
  out:
    r = r << 1 | r >> 31;
  }
  return r;
}
__global__ void diverge(const u32* x, int n, u32* out) {
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (int(i) >= n) return;
  u32 r = collatz(x[i]);
  r = r * 31 + tangle(x[i]);
  if (x[i] % 4 == 3) {
    out[i] = r;
    return;  // lanes leave early, the rest goes on
  }
  r += tangle(r);
  const u32 here = __activemask();
  if (!(here >> (threadIdx.x & 31) & 1)) r = 0;
  out[i] = r;
}
TEST(Lanes, Divergence) {
  constexpr int n = 1000;
  std::vector<u32> x(n), want(n);
  Random random(2);
  for (int i = 0; i < n; ++i) {
    x[i] = 1 + random.below(3000);
    want[i] = host_collatz(x[i]) * 31 + tangle(x[i]);
    if (x[i] % 4 != 3) want[i] += tangle(want[i]);
  }
  Array<u32> in(x), out(n);
  launch({.grid = 8, .block = 128}, diverge, in.get(), n, out.get());
  expect_same(out.host(), want);
}

// Half of a warp produces what the other half waits for: lanes of one warp must make progress independently.
__global__ void half_waits(volatile u32* flag, u32* out) {
  if (threadIdx.x & 1) {
    while (*flag == 0) {
    }
    out[threadIdx.x] = *flag + threadIdx.x;
  } else {
    out[threadIdx.x] = threadIdx.x;
    __threadfence();
    if (threadIdx.x == 30) *flag = 1000;
  }
}
TEST(Lanes, IndependentProgress) {
  Array<u32> flag(std::vector<u32>{0}), out(32);
  launch({}, half_waits, flag.get(), out.get());
  std::vector<u32> want(32);
  for (u32 i = 0; i < 32; ++i) want[i] = i & 1 ? 1000 + i : i;
  expect_same(out.host(), want);
}

// Shuffles and warp barriers among the lanes of one branch only.
__global__ void grouped(const u32* x, u32* out) {
  const u32 lane = threadIdx.x, v = x[lane];
  const u32 mask = __match_any_sync(~0u, v % 3);
  u32 sum = 0;
  if (v % 3 == 0) {
    for (u32 l = 0; l < 32; ++l)
      if (mask >> l & 1) sum += __shfl_sync(mask, v, l);
  } else {
    sum = __reduce_add_sync(mask, v);
    __syncwarp(mask);
  }
  out[lane] = sum;
}
TEST(Lanes, GroupsOfABranch) {
  std::vector<u32> x(32), want(32);
  u32 sum[3] = {};
  Random random(3);
  for (u32& v : x) v = random.below(100), sum[v % 3] += v;
  for (int i = 0; i < 32; ++i) want[i] = sum[x[i] % 3];
  Array<u32> in(x), out(32);
  launch({}, grouped, in.get(), out.get());
  expect_same(out.host(), want);
}

// A jump table in PTX, three lanes out of step.
__global__ void jump_table(const u32* x, u32* out) {
  u32 r;
  asm("{\n"
      "  .reg .b32 k;\n"
      "ts: .branchtargets ta, tb, tc, td;\n"
      "  and.b32 k, %1, 3;\n"
      "  brx.idx k, ts;\n"
      "ta: mov.u32 %0, 10; bra.uni te;\n"
      "tb: add.u32 %0, %1, 20; bra.uni te;\n"
      "tc: mul.lo.u32 %0, %1, 30; bra.uni te;\n"
      "td: mov.u32 %0, 40;\n"
      "te:\n"
      "}"
      : "=r"(r)
      : "r"(x[threadIdx.x]));
  out[threadIdx.x] = r;
}
TEST(Lanes, JumpTable) {
  std::vector<u32> x(32), want(32);
  for (u32 i = 0; i < 32; ++i) {
    x[i] = i * 5 % 23;
    const u32 k = x[i] & 3;
    want[i] = k == 0 ? 10 : k == 1 ? x[i] + 20 : k == 2 ? x[i] * 30 : 40;
  }
  Array<u32> in(x), out(32);
  launch({}, jump_table, in.get(), out.get());
  expect_same(out.host(), want);
}

}  // namespace
}  // namespace silicon
