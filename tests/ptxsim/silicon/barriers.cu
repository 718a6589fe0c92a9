// Barriers: of blocks (named, counted, reducing), mbarrier, of cooperative grids.
#include <cooperative_groups.h>

#include "tests/ptxsim/silicon/harness.h"

namespace silicon {
namespace {

using u32 = uint32_t;
using u64 = uint64_t;

// --- bar ---
__global__ void reductions(u32* out) {
  const u32 t = threadIdx.x;
  u32* o = out + t * 4;
  o[0] = __syncthreads_count(t % 3 == 0);
  o[1] = __syncthreads_and(t < 200);
  o[2] = __syncthreads_or(t == 77);
  asm volatile("{.reg .pred p; setp.lt.u32 p, %1, 10; barrier.red.popc.aligned.u32 %0, %2, 96, p;}"
               : "=r"(o[3])
               : "r"(t % 96), "r"(5 + t / 96));
}
TEST(Barriers, Reductions) {
  Array<u32> out(192 * 4);
  launch({.block = 192}, reductions, out.get());
  std::vector<u32> want;
  for (int t = 0; t < 192; ++t) want.insert(want.end(), {64, 1, 1, 10});
  std::vector<u32> got = out.host();
  for (size_t i = 0; i < got.size(); ++i)
    if (i % 4 == 1 || i % 4 == 2) EXPECT_NE(got[i], 0u), got[i] = 1;  // any value but 0 is true
  expect_same(got, want);
}

// Two warps fill, two drain, through two named barriers: bar.arrive on one side, bar.sync on the other.
__global__ void pipe(u32* out, int rounds) {
  __shared__ u32 slot[64];
  const u32 t = threadIdx.x % 64;
  if (threadIdx.x < 64) {
    for (int r = 0; r < rounds; ++r) {
      asm volatile("bar.sync 2, 128;" ::: "memory");  // the slot is free
      slot[t] = t * 100 + r;
      asm volatile("bar.arrive 1, 128;" ::: "memory");
    }
  } else {
    asm volatile("bar.arrive 2, 128;" ::: "memory");
    for (int r = 0; r < rounds; ++r) {
      asm volatile("bar.sync 1, 128;" ::: "memory");
      out[r * 64 + t] = slot[63 - t];
      if (r + 1 < rounds) asm volatile("bar.arrive 2, 128;" ::: "memory");
    }
  }
}
TEST(Barriers, NamedPipe) {
  constexpr int kRounds = 9;
  Array<u32> out(kRounds * 64);
  launch({.block = 128}, pipe, out.get(), kRounds);
  std::vector<u32> want;
  for (int r = 0; r < kRounds; ++r)
    for (u32 t = 0; t < 64; ++t) want.push_back((63 - t) * 100 + r);
  expect_same(out.host(), want);
}

// Threads that have left count no more; barrier ids in registers.
__global__ void leavers(u32* out) {
  __shared__ u32 v[256], w[160];
  if (threadIdx.x >= 160) return;
  v[threadIdx.x] = threadIdx.x * 2;
  __syncthreads();
  u32 r = v[159 - threadIdx.x];
  const u32 group = threadIdx.x / 32, id = 8 + group / 2, count = group < 4 ? 64 : 32;
  asm volatile("barrier.sync.aligned %0, %1;" ::"r"(id), "r"(count) : "memory");
  w[threadIdx.x] = r;
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(count) : "memory");
  out[threadIdx.x] = w[threadIdx.x ^ 1];
}
TEST(Barriers, ThreadsThatLeft) {
  Array<u32> out(160);
  launch({.block = 256}, leavers, out.get());
  std::vector<u32> want;
  for (u32 t = 0; t < 160; ++t) want.push_back((159 - (t ^ 1)) * 2);
  expect_same(out.host(), want);
}

// --- mbarrier ---
__device__ bool try_wait(u32 bar, u32 parity) {
  u32 done;
  asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
               : "=r"(done)
               : "r"(bar), "r"(parity)
               : "memory");
  return done;
}
__device__ bool test_wait(u32 bar, u32 parity) {
  u32 done;
  asm volatile("{.reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
               : "=r"(done)
               : "r"(bar), "r"(parity)
               : "memory");
  return done;
}
__global__ void phases(u32* out) {
  __shared__ u64 barrier;
  const u32 bar = shared_address(&barrier);
  u64 state, state2;
  u32 k = 0;
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 3;" ::"r"(bar) : "memory");
  out[k++] = test_wait(bar, 1);  // 1: the phase before the first counts as complete
  out[k++] = test_wait(bar, 0);
  asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1];" : "=l"(state) : "r"(bar) : "memory");
  asm volatile("mbarrier.pending_count.b64 %0, %1;" : "=r"(out[k++]) : "l"(state));
  asm volatile("mbarrier.arrive.noComplete.release.cta.shared::cta.b64 %0, [%1], 1;"
               : "=l"(state2)
               : "r"(bar)
               : "memory");
  asm volatile("mbarrier.pending_count.b64 %0, %1;" : "=r"(out[k++]) : "l"(state2));
  asm volatile("{.reg .pred p; mbarrier.test_wait.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
               : "=r"(out[k++])
               : "r"(bar), "l"(state)
               : "memory");
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
  asm volatile("{.reg .pred p; mbarrier.test_wait.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
               : "=r"(out[k++])
               : "r"(bar), "l"(state)
               : "memory");
  out[k++] = test_wait(bar, 0);
  out[k++] = test_wait(bar, 1);
  // The second phase: two arrivals at once, then one dropped for good.
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], 2;" ::"r"(bar) : "memory");
  out[k++] = try_wait(bar, 1);
  asm volatile("mbarrier.arrive_drop.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
  out[k++] = test_wait(bar, 1);
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], 2;" ::"r"(bar) : "memory");  // two are enough now
  out[k++] = test_wait(bar, 0);
  // Transactions: the phase waits for the bytes as well.
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 48;" ::"r"(bar) : "memory");
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
  out[k++] = test_wait(bar, 1);
  asm volatile("mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%0], 32;" ::"r"(bar) : "memory");
  out[k++] = test_wait(bar, 1);
  asm volatile("mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%0], 16;" ::"r"(bar) : "memory");
  out[k++] = test_wait(bar, 1);
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], 64;" ::"r"(bar) : "memory");
  asm volatile("mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%0], 64;" ::"r"(bar) : "memory");
  out[k++] = test_wait(bar, 0);
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(bar) : "memory");
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bar) : "memory");
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
  out[k++] = test_wait(bar, 0);
}
TEST(Barriers, MbarrierPhases) {
  const std::vector<u32> want = {1, 0, 3, 2, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1};
  Array<u32> out(want.size());
  launch({.block = 1}, phases, out.get());
  expect_same(out.host(), want);
}

// A ring of two slots: 3 warps produce, one consumes; full and empty barriers over many phases.
constexpr u32 kSlots = 2;
__global__ void ring(u32* out, u32 rounds) {
  __shared__ u32 data[kSlots][96];
  __shared__ u64 full[kSlots], empty[kSlots];
  if (threadIdx.x == 0)
    for (u32 s = 0; s < kSlots; ++s) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 96;" ::"r"(shared_address(&full[s])) : "memory");
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 32;" ::"r"(shared_address(&empty[s])) : "memory");
    }
  __syncthreads();
  const u32 t = threadIdx.x;
  for (u32 r = 0; r < rounds; ++r) {
    const u32 s = r % kSlots, parity = r / kSlots & 1;
    if (t < 96) {
      while (!try_wait(shared_address(&empty[s]), parity ^ 1)) {
      }
      data[s][t] = r * 1000 + t;
      asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&full[s])) : "memory");
    } else {
      while (!try_wait(shared_address(&full[s]), parity)) {
      }
      u32 sum = 0;
      for (u32 i = t - 96; i < 96; i += 32) sum += data[s][i];
      out[r * 32 + t - 96] = sum;
      asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&empty[s])) : "memory");
    }
  }
}
TEST(Barriers, MbarrierRing) {
  constexpr u32 kRounds = 11;
  Array<u32> out(kRounds * 32);
  launch({.block = 128}, ring, out.get(), kRounds);
  std::vector<u32> want;
  for (u32 r = 0; r < kRounds; ++r)
    for (u32 t = 0; t < 32; ++t) want.push_back(3000 * r + 3 * t + 96);
  expect_same(out.host(), want);
}

// --- a barrier of the whole grid ---
__global__ void grid_rounds(u32* data, int rounds) {
  const auto grid = cooperative_groups::this_grid();
  const u32 n = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
  for (int r = 0; r < rounds; ++r) {
    const u32 v = data[(i + blockDim.x + r) % n];
    grid.sync();
    data[i] = v + 1;
    grid.sync();
  }
}
TEST(Barriers, CooperativeGrid) {
  constexpr u32 kBlocks = 8, n = kBlocks * 64;
  constexpr int kRounds = 4;
  std::vector<u32> x(n);
  for (u32 i = 0; i < n; ++i) x[i] = i * i;
  Array<u32> data(x);
  launch({.grid = kBlocks, .block = 64, .cooperative = true}, grid_rounds, data.get(), kRounds);
  for (int r = 0; r < kRounds; ++r) {
    std::vector<u32> y(n);
    for (u32 i = 0; i < n; ++i) y[i] = x[(i + 64 + r) % n] + 1;
    x = y;
  }
  expect_same(data.host(), x);
}
TEST(Barriers, CooperativeGridTooLarge) {
  Array<u32> data(1);
  EXPECT_EQ(try_launch({.grid = 100000, .block = 64, .cooperative = true}, grid_rounds, data.get(), 1),
            cudaErrorCooperativeLaunchTooLarge);
  EXPECT_EQ(cudaGetLastError(), cudaErrorCooperativeLaunchTooLarge);
}

}  // namespace
}  // namespace silicon
