// Kernels whose speed in the simulator is measured: `ptxsim_bench NAME` checks one, runs it, and prints the
// best milliseconds of a launch. bench/ptxsim/run.sh puts them beside their bars.
#include <cuda.h>
#include <cuda_runtime.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "bench/ptxsim/kernels.h"
#include "tests/ptxsim/silicon/formats.h"
#include "tests/ptxsim/silicon/mbarrier.cuh"
#include "tests/ptxsim/silicon/wgmma.cuh"

namespace {

using namespace silicon;

__device__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// --- fp32: C = A B, 64 x 64 tiles of 256 threads, 4 x 4 sums each ---
constexpr int kF32 = 512, kF32Tile = 64, kF32Depth = 16;
__global__ void __launch_bounds__(256) fp32_tiled(const float* a, const float* b, float* c) {
  __shared__ float sa[kF32Depth][kF32Tile + 4], sb[kF32Depth][kF32Tile];
  const int t = threadIdx.x, tx = t % 16 * 4, ty = t / 16 * 4, m0 = blockIdx.y * kF32Tile,
            n0 = blockIdx.x * kF32Tile;
  float sum[4][4] = {};
  for (int k0 = 0; k0 < kF32; k0 += kF32Depth) {
    for (int i = t; i < kF32Tile * kF32Depth; i += 256) {
      sa[i % kF32Depth][i / kF32Depth] = a[(m0 + i / kF32Depth) * kF32 + k0 + i % kF32Depth];
      sb[i / kF32Tile][i % kF32Tile] = b[(k0 + i / kF32Tile) * kF32 + n0 + i % kF32Tile];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kF32Depth; ++k) {
      const float4 x = *reinterpret_cast<const float4*>(&sa[k][ty]),
                   y = *reinterpret_cast<const float4*>(&sb[k][tx]);
      const float av[4] = {x.x, x.y, x.z, x.w}, bv[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] = fmaf(av[i], bv[j], sum[i][j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i)
    *reinterpret_cast<float4*>(&c[(m0 + ty + i) * kF32 + n0 + tx]) =
        make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
}

// --- wgmma: FP8 1024^3, 128 x 128 tiles, TMA into two stages of K = 128, one warpgroup ---
constexpr int kFp8 = 1024, kTile = 128, kStages = 2;
struct Smem {
  alignas(1024) uint8_t a[kStages][kTile * 128], b[kStages][kTile * 128];
  alignas(8) uint64_t full[kStages];
};
WGMMA_DEFINE(128, 0, "k32.f32.e4m3.e4m3", "%4", "1, 1")
__device__ void load_tile(const CUtensorMap* map, void* to, uint64_t* bar, int k, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
      "%3}], [%4];" ::"r"(shared_address(to)),
      "l"(map), "r"(k), "r"(row), "r"(shared_address(bar))
      : "memory");
}
__global__ void __launch_bounds__(128) wgmma_fp8(const __grid_constant__ CUtensorMap map_a,
                                                 const __grid_constant__ CUtensorMap map_b, float* d) {
  extern __shared__ __align__(1024) uint8_t memory[];
  Smem& s = *reinterpret_cast<Smem*>(memory);
  const int m0 = blockIdx.y * kTile, n0 = blockIdx.x * kTile, steps = kFp8 / 128;
  if (threadIdx.x == 0)
    for (int i = 0; i < kStages; ++i) mbarrier_init(shared_address(&s.full[i]), 1);
  __syncthreads();
  const auto fetch = [&](int k) {
    const int stage = k % kStages;
    mbarrier_arrive_expect_tx(shared_address(&s.full[stage]), 2 * kTile * 128);
    load_tile(&map_a, s.a[stage], &s.full[stage], k * 128, m0);
    load_tile(&map_b, s.b[stage], &s.full[stage], k * 128, n0);
  };
  if (threadIdx.x == 0)
    for (int k = 0; k < kStages; ++k) fetch(k);
  float top[64] = {}, bottom[64] = {};
  uint32_t none[4] = {};
  for (int k = 0; k < steps; ++k) {
    const int stage = k % kStages;
    mbarrier_wait(shared_address(&s.full[stage]), k / kStages & 1);
    const uint32_t a = shared_address(s.a[stage]), b = shared_address(s.b[stage]);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint64_t db = wgmma_descriptor(b + i * 32, 16, 1024, 1);
      wgmma(Wgmma<128, 0>{}, top, none, wgmma_descriptor(a + i * 32, 16, 1024, 1), db, 1);
      wgmma(Wgmma<128, 0>{}, bottom, none, wgmma_descriptor(a + 64 * 128 + i * 32, 16, 1024, 1), db, 1);
    }
    wgmma_commit();
    wgmma_wait<0>();
    __syncthreads();
    if (threadIdx.x == 0 && k + kStages < steps) fetch(k + kStages);
  }
  const int row = m0 + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = n0 + threadIdx.x % 4 * 2;
  for (int i = 0; i < 64; ++i) {
    const int at = (row + 8 * (i / 2 % 2)) * kFp8 + column + i / 4 * 8 + i % 2;
    d[at] = top[i];
    d[at + 64 * kFp8] = bottom[i];
  }
}

// --- memory-bound: y = a x + y ---
constexpr int kElements = 8 << 20;
__global__ void axpy(float a, const float4* x, float4* y) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < kElements / 4; i += gridDim.x * blockDim.x) {
    const float4 u = x[i], v = y[i];
    y[i] = make_float4(fmaf(a, u.x, v.x), fmaf(a, u.y, v.y), fmaf(a, u.z, v.z), fmaf(a, u.w, v.w));
  }
}

__global__ void nothing() {}

void check(cudaError_t e) {
  if (e == cudaSuccess) return;
  std::fprintf(stderr, "ptxsim_bench: %s\n", cudaGetErrorString(e));
  std::exit(1);
}
void require(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "ptxsim_bench: %s: wrong result, not timed\n", what);
  std::exit(1);
}
template <typename T>
T* device(const std::vector<T>& v) {
  T* p = nullptr;
  check(cudaMalloc(&p, v.size() * sizeof(T)));
  check(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
  return p;
}
template <typename T>
std::vector<T> host(const T* p, size_t n) {
  std::vector<T> v(n);
  check(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
  return v;
}
uint64_t random_bits() {
  static uint64_t s = 1;
  s = s * 6364136223846793005ull + 1442695040888963407ull;
  return s >> 33;
}
double random_real() { return double(random_bits()) / (1u << 30) - 1; }
// The best of so many runs, in milliseconds; the first one, which decodes the kernel, does not count.
template <typename F>
double best_of(int runs, F f) {
  double best = 1e30;
  for (int i = 0; i <= runs; ++i) {
    const double ms = milliseconds([&] {
      f();
      check(cudaGetLastError());
      check(cudaDeviceSynchronize());
    });
    if (i > 0 || runs == 0) best = std::min(best, ms);
  }
  return best;
}

double run_fp32(int runs) {
  std::vector<float> a(kF32 * kF32), b(kF32 * kF32);
  for (float& v : a) v = float(random_real());
  for (float& v : b) v = float(random_real());
  float *da = device(a), *db = device(b), *dc = device(std::vector<float>(kF32 * kF32, NAN));
  const auto run = [&] { fp32_tiled<<<dim3(kF32 / kF32Tile, kF32 / kF32Tile), 256>>>(da, db, dc); };
  run();
  const std::vector<float> c = host(dc, kF32 * kF32);
  for (int i = 0; i < kF32 * kF32; i += 997) {
    float sum = 0;
    for (int k = 0; k < kF32; ++k) sum = std::fma(a[i / kF32 * kF32 + k], b[k * kF32 + i % kF32], sum);
    require(sum == c[i], "fp32_tiled");
  }
  return best_of(runs, run);
}

CUtensorMap map_of(void* p) {
  void* f = nullptr;
  cudaDriverEntryPointQueryResult found;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found));
  CUtensorMap map;
  const cuuint64_t size[] = {kFp8, kFp8}, stride[] = {kFp8};
  const cuuint32_t box[] = {128, kTile}, step[] = {1, 1};
  require(reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(f)(
              &map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, p, size, stride, box, step,
              CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
              CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS,
          "cuTensorMapEncodeTiled");
  return map;
}
double run_wgmma(int runs) {
  std::vector<uint8_t> a(kFp8 * kFp8), b(kFp8 * kFp8);
  for (uint8_t& v : a) v = uint8_t(encode(kE4m3, random_real()));
  for (uint8_t& v : b) v = uint8_t(encode(kE4m3, random_real()));
  uint8_t *da = device(a), *db = device(b);
  float* d = device(std::vector<float>(kFp8 * kFp8, NAN));
  const CUtensorMap map_a = map_of(da), map_b = map_of(db);
  check(cudaFuncSetAttribute(wgmma_fp8, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Smem)));
  const auto run = [&] {
    wgmma_fp8<<<dim3(kFp8 / kTile, kFp8 / kTile), 128, sizeof(Smem)>>>(map_a, map_b, d);
  };
  run();
  const std::vector<float> got = host(d, kFp8 * kFp8);
  for (int i = 0; i < kFp8 * kFp8; i += 9973) {
    double sum = 0, size = 0;
    for (int k = 0; k < kFp8; ++k) {
      const double p = decode(kE4m3, a[i / kFp8 * kFp8 + k]) * decode(kE4m3, b[i % kFp8 * kFp8 + k]);
      sum += p, size += std::fabs(p);
    }
    require(std::fabs(got[i] - sum) < size * 0x1p-8, "wgmma_fp8");
  }
  return best_of(runs, run);
}

double run_axpy(int runs) {
  std::vector<float> x(kElements), y(kElements);
  for (float& v : x) v = float(random_real());
  for (float& v : y) v = float(random_real());
  float *dx = device(x), *dy = device(y);
  const auto run = [&] {
    axpy<<<264, 256>>>(0.5f, reinterpret_cast<const float4*>(dx), reinterpret_cast<float4*>(dy));
  };
  run();
  const std::vector<float> got = host(dy, kElements);
  for (int i = 0; i < kElements; ++i) require(got[i] == std::fma(0.5f, x[i], y[i]), "axpy");
  return best_of(runs, run);
}

}  // namespace

int main(int argc, char** argv) {
  const char* name = argc > 1 ? argv[1] : "";
  double ms = 0;
  const int runs = argc > 2 ? std::atoi(argv[2]) : 3;
  if (!std::strcmp(name, "fp32"))
    ms = run_fp32(runs);
  else if (!std::strcmp(name, "wgmma"))
    ms = run_wgmma(runs);
  else if (!std::strcmp(name, "axpy"))
    ms = run_axpy(runs);
  else if (!std::strcmp(name, "launch"))
    ms = best_of(200, [] { nothing<<<132, 256>>>(); });
  else if (!std::strcmp(name, "startup"))
    ms = start_up(argv[0]);
  else
    return std::fprintf(stderr, "usage: ptxsim_bench fp32|wgmma|axpy|launch|startup [runs]\n"), 2;
  std::printf("%.4f\n", ms);
}
