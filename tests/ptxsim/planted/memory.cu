// Addresses that are not the kernel's, and values that nobody wrote.
#include "bugs.h"

namespace planted {
namespace {

__global__ void scale(float* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= n) x[i] = 2 * x[i];  // < n
}
PLANTED(global_past_the_end, "[bounds.global]") { run(1, 64, 0, scale, zeros<float>(32), 32); }

__global__ void store_one(int* x) { *x = 1; }
PLANTED(global_null, "[bounds.global]") { run(1, 1, 0, store_one, static_cast<int*>(nullptr)); }

PLANTED(global_use_after_free, "freed") {
  int* x = zeros<int>(64);
  ok(cudaFree(x));
  run(1, 1, 0, store_one, x);
}

__global__ void load_vector(const float* x, float4* y) { y[0] = *reinterpret_cast<const float4*>(x + 1); }
PLANTED(global_misaligned, "[alignment]") { run(1, 1, 0, load_vector, zeros<float>(16), zeros<float4>(1)); }

__global__ void shared_past_the_end(int* y, int n) {
  extern __shared__ int tile[];
  tile[threadIdx.x + n] = 1;
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x + n];
}
PLANTED(shared_bounds, "[bounds.shared]") { run(1, 32, 128, shared_past_the_end, zeros<int>(32), 1); }

__global__ void local_past_the_end(int* y, int n) {
  int a[8];
  for (int k = 0; k < n; ++k) a[k ^ 1] = k;
  y[0] = a[y[1]] + a[y[2]];
}
PLANTED(local_bounds, "[bounds.local]") { run(1, 1, 0, local_past_the_end, zeros<int>(8), 1000); }

__global__ void shared_never_written(int* y) {
  __shared__ int tile[64];
  tile[threadIdx.x] = int(threadIdx.x);
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x + 16];  // 16 of them
}
PLANTED(shared_uninitialised, "[uninitialised.shared]") {
  run(1, 32, 0, shared_never_written, zeros<int>(32));
}

__global__ void copy(const int* x, int* y) { y[threadIdx.x] = x[threadIdx.x]; }
PLANTED(global_uninitialised, "[uninitialised.global]") {
  int* x;
  ok(cudaMalloc(&x, 128));
  run(1, 32, 0, copy, x, zeros<int>(32));
}

__global__ void __cluster_dims__(2) peer_is_gone(int* y) {
  __shared__ volatile int value;
  uint32_t rank, there;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  value = int(rank);
  asm volatile("barrier.cluster.arrive.aligned;\n barrier.cluster.wait.aligned;" ::: "memory");
  if (rank == 1) return;  // without a second cluster barrier
  asm volatile("mapa.shared::cluster.u32 %0, %1, 1;" : "=r"(there) : "r"(smem(const_cast<int*>(&value))));
  int v = 0;
  for (int k = 0; k < 10000; ++k) {
    int more;
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(more) : "r"(there) : "memory");
    v += more;
  }
  *y = v;
}
PLANTED(cluster_block_has_exited, "has exited") { run(2, 1, 0, peer_is_gone, zeros<int>(1)); }

__global__ void checks(int n) {
  if (n != 3) __trap();
}
PLANTED(trap, "[trap]") { run(1, 32, 0, checks, 4); }

}  // namespace
}  // namespace planted
