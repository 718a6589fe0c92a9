// Clusters: ranks, each other's shared memory, remote atomics and barriers, stores that signal, bulk copies
// across.
#include <cooperative_groups.h>

#include "tests/ptxsim/silicon/harness.h"
#include "tests/ptxsim/silicon/mbarrier.cuh"

namespace silicon {
namespace {

using u32 = uint32_t;
using u64 = uint64_t;

__device__ u32 cluster_rank() {
  u32 r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
__device__ u32 mapa(u32 address, u32 rank) {
  u32 r;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank));
  return r;
}
__device__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__global__ void registers(u32* out) {
  u32* o = out + (blockIdx.x + gridDim.x * blockIdx.y) * 8;
  if (threadIdx.x) return;
  u32 x, y, z;
  asm volatile("mov.u32 %0, %%clusterid.x; mov.u32 %1, %%clusterid.y; mov.u32 %2, %%clusterid.z;"
               : "=r"(x), "=r"(y), "=r"(z));
  o[0] = x | y << 8 | z << 16;
  asm volatile("mov.u32 %0, %%nclusterid.x; mov.u32 %1, %%nclusterid.y; mov.u32 %2, %%nclusterid.z;"
               : "=r"(x), "=r"(y), "=r"(z));
  o[1] = x | y << 8 | z << 16;
  asm volatile("mov.u32 %0, %%cluster_ctaid.x; mov.u32 %1, %%cluster_ctaid.y; mov.u32 %2, %%cluster_ctaid.z;"
               : "=r"(x), "=r"(y), "=r"(z));
  o[2] = x | y << 8 | z << 16;
  asm volatile(
      "mov.u32 %0, %%cluster_nctaid.x; mov.u32 %1, %%cluster_nctaid.y; mov.u32 %2, %%cluster_nctaid.z;"
      : "=r"(x), "=r"(y), "=r"(z));
  o[3] = x | y << 8 | z << 16;
  o[4] = cluster_rank();
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(o[5]));
  asm volatile("{.reg .pred p; mov.pred p, %%is_explicit_cluster; selp.u32 %0, 1, 0, p;}" : "=r"(o[6]));
  __shared__ u32 here;
  asm volatile("getctarank.shared::cluster.u32 %0, %1;" : "=r"(o[7]) : "r"(mapa(shared_address(&here), 3)));
}
TEST(Cluster, Registers) {
  Array<u32> out(6 * 4 * 8);
  launch({.grid = dim3(6, 4), .cluster = dim3(2, 2)}, registers, out.get());
  std::vector<u32> want;
  for (u32 y = 0; y < 4; ++y)
    for (u32 x = 0; x < 6; ++x)
      want.insert(want.end(), {x / 2 | y / 2 << 8, 3 | 2 << 8 | 1 << 16, x % 2 | y % 2 << 8,
                               2 | 2 << 8 | 1 << 16, x % 2 + y % 2 * 2, 4, 1, 3});
  expect_same(out.host(), want);
}

// Reads, writes and atomics on the neighbour's shared memory; by PTX addresses and by generic pointers.
__global__ void __cluster_dims__(4, 1, 1) exchange(u32* out) {
  __shared__ u32 mine[64], inbox[64], count[2];
  const u32 t = threadIdx.x, rank = cluster_rank(), next = (rank + 1) % 4;
  mine[t] = rank * 1000 + t, inbox[t] = 0;
  if (t < 2) count[t] = 0;
  cluster_sync();
  u32 read;
  asm volatile("ld.shared::cluster.u32 %0, [%1];"
               : "=r"(read)
               : "r"(mapa(shared_address(&mine[63 - t]), next))
               : "memory");
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(mapa(shared_address(&inbox[t ^ 5]), next)),
               "r"(read * 2)
               : "memory");
  const auto cluster = cooperative_groups::this_cluster();
  for (u32 r = 0; r < 4; ++r) {
    asm volatile("red.shared::cluster.add.u32 [%0], %1;" ::"r"(mapa(shared_address(&count[0]), r)),
                 "r"(rank + 1)
                 : "memory");
    atomicMax(cluster.map_shared_rank(&count[1], r), rank * 64 + t);
  }
  const u32 through_pointer = cluster.map_shared_rank(mine, next)[t];
  u32 of;
  asm volatile(
      "{.reg .pred p, q; isspacep.shared::cluster p, %1; isspacep.shared::cta q, %1; selp.u32 %0, 1, 0, p; "
      "@q add.u32 %0, %0, 2;}"
      : "=r"(of)
      : "l"(cluster.map_shared_rank(mine, next)));
  cluster_sync();
  u32* o = out + (blockIdx.x * 64 + t) * 6;
  o[0] = read, o[1] = inbox[t], o[2] = count[0], o[3] = count[1], o[4] = through_pointer, o[5] = of;
}
TEST(Cluster, Exchange) {
  Array<u32> out(8 * 64 * 6);
  exchange<<<8, 64>>>(out.get());  // the cluster is the kernel's own
  CUDA_OK(cudaDeviceSynchronize());
  std::vector<u32> want;
  for (u32 b = 0; b < 8; ++b)
    for (u32 t = 0; t < 64; ++t) {
      const u32 rank = b % 4, next = (rank + 1) % 4;
      want.insert(want.end(), {next * 1000 + 63 - t, (rank * 1000 + 63 - (t ^ 5)) * 2, 64 * 10, 3 * 64 + 63,
                               next * 1000 + t, 1});
    }
  expect_same(out.host(), want);
}

// Each block signals the next one's mbarrier: a plain remote arrival, st.async, red.async, a bulk copy.
__global__ void signal(u32* out) {
  __shared__ __align__(16) u32 inbox[2][32], sum[4], source[32];
  __shared__ __align__(8) u64 barriers[3];
  const u32 t = threadIdx.x, rank = cluster_rank(), next = (rank + 1) % 2;
  const u32 bar0 = shared_address(&barriers[0]), bar1 = shared_address(&barriers[1]),
            bar2 = shared_address(&barriers[2]);
  source[t] = rank * 500 + t * t;
  inbox[0][t] = inbox[1][t] = 0;
  if (t < 4) sum[t] = 10 * t;
  if (t == 0) {
    mbarrier_init(bar0, 32);
    mbarrier_init(bar1, 1);
    mbarrier_init(bar2, 1);
    mbarrier_arrive_expect_tx(bar1, 32 * 4 + 4 * 4);
    mbarrier_arrive_expect_tx(bar2, 128);
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  cluster_sync();
  const u32 remote0 = mapa(bar0, next), remote1 = mapa(bar1, next), remote2 = mapa(bar2, next);
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(
                   mapa(shared_address(&inbox[0][31 - t]), next)),
               "r"(rank * 100 + t), "r"(remote1)
               : "memory");
  if (t < 4)
    asm volatile(
        "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%0], %1, [%2];" ::
            "r"(mapa(shared_address(&sum[t]), next)),
        "r"(t + 1), "r"(remote1)
        : "memory");
  if (t == 0)
    asm volatile(
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], 128, [%2];" ::"r"(
            mapa(shared_address(inbox[1]), next)),
        "r"(shared_address(source)), "r"(remote2)
        : "memory");
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(remote0) : "memory");
  asm volatile(
      "{\n.reg .pred p;\nw: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], 0;\n@!p bra "
      "w;\n}" ::"r"(bar0)
      : "memory");
  mbarrier_wait(bar1, 0);
  mbarrier_wait(bar2, 0);
  u32* o = out + (blockIdx.x * 32 + t) * 3;
  o[0] = inbox[0][t], o[1] = inbox[1][t], o[2] = sum[t % 4];
  cluster_sync();
}
TEST(Cluster, Signals) {
  Array<u32> out(4 * 32 * 3);
  launch({.grid = 4, .cluster = 2}, signal, out.get());
  std::vector<u32> want;
  for (u32 b = 0; b < 4; ++b)
    for (u32 t = 0; t < 32; ++t) {
      const u32 from = 1 - b % 2;
      want.insert(want.end(), {from * 100 + 31 - t, from * 500 + t * t, t % 4 * 11 + 1});
    }
  expect_same(out.host(), want);
}

// A bulk copy from global memory into two of four blocks, each of which hears of it on its own barrier.
__global__ void multicast(const u32* in, u32* out) {
  __shared__ __align__(16) u32 inbox[64];
  __shared__ __align__(8) u64 barrier;
  const u32 bar = shared_address(&barrier), rank = cluster_rank();
  inbox[threadIdx.x] = 5;
  if (threadIdx.x == 0) mbarrier_init(bar, 1);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  if (threadIdx.x == 0 && rank % 2) mbarrier_arrive_expect_tx(bar, 256);
  cluster_sync();
  if (threadIdx.x == 0 && rank == 2)
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], "
        "256, [%2], %3;" ::"r"(shared_address(inbox)),
        "l"(in), "r"(bar), "h"(uint16_t(0b1010))
        : "memory");
  if (rank % 2) mbarrier_wait(bar, 0);
  out[blockIdx.x * 64 + threadIdx.x] = inbox[threadIdx.x];
  cluster_sync();
}
TEST(Cluster, BulkMulticast) {
  std::vector<u32> x(64), want;
  for (u32 i = 0; i < 64; ++i) x[i] = i * 13;
  for (u32 rank = 0; rank < 4; ++rank)
    for (u32 i = 0; i < 64; ++i) want.push_back(rank % 2 ? x[i] : 5);
  Array<u32> in(x), out(256);
  launch({.grid = 4, .block = 64, .cluster = 4}, multicast, in.get(), out.get());
  expect_same(out.host(), want);
}

// The barrier in two halves, many times; relaxed arrival where nothing has to be seen.
__global__ void halves(u32* out) {
  __shared__ u32 slot[2];
  const u32 rank = cluster_rank();
  u32 sum = 0;
  for (u32 r = 0; r < 6; ++r) {
    if (threadIdx.x == 0) slot[r % 2] = blockIdx.x * 10 + r;
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
    sum += r;  // work between arrival and wait
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
    u32 v;
    asm volatile("ld.shared::cluster.u32 %0, [%1];"
                 : "=r"(v)
                 : "r"(mapa(shared_address(&slot[r % 2]), (rank + r) % 8))
                 : "memory");
    sum += v;
  }
  asm volatile("barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;" ::: "memory");
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
TEST(Cluster, SplitBarrier) {
  Array<u32> out(16 * 64);
  launch({.grid = 16, .block = 64, .cluster = 8}, halves, out.get());
  std::vector<u32> want;
  for (u32 b = 0; b < 16; ++b) {
    u32 sum = 0;
    for (u32 r = 0; r < 6; ++r) sum += r + (b / 8 * 8 + (b + r) % 8) * 10 + r;
    want.insert(want.end(), 64, sum);
  }
  expect_same(out.host(), want);
}

TEST(Cluster, RefusedShapes) {
  Array<u32> out(64);
  EXPECT_NE(try_launch({.grid = 6, .cluster = 4}, registers, out.get()), cudaSuccess)
      << "grid not a multiple";
  cudaGetLastError();
  EXPECT_NE(try_launch({.grid = 16, .cluster = 16}, registers, out.get()), cudaSuccess)
      << "beyond the portable size";
  cudaGetLastError();
}

}  // namespace
}  // namespace silicon
