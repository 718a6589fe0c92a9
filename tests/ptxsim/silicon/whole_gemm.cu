// Whole Hopper products: TMA, mbarriers, wgmma; a producer warp and two consumer warpgroups that take turns
// on the tensor cores (ping-pong), persistent. bf16, and e4m3 with 1x128 / 128x128 scales promoted to f32
// every 128 of K.
#include <cuda.h>

#include "formats.h"
#include "harness.h"

namespace silicon {
namespace {

constexpr int kTileM = 64, kTileN = 128, kRowBytes = 128, kStages = 4;
constexpr int kThreads = 3 * 128;

struct alignas(1024) Stage {
  uint8_t a[kTileM * kRowBytes];
  uint8_t b[kTileN * kRowBytes];
};
struct Smem {
  Stage stage[kStages];
  uint64_t full[kStages], empty[kStages];
};

__device__ void barrier_init(uint64_t* b, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}
__device__ void barrier_arrive(uint64_t* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
__device__ void barrier_expect(uint64_t* b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
               : "memory");
}
__device__ void barrier_wait(uint64_t* b, int parity) {
  asm volatile(
      "{\n .reg .pred p;\n WAIT:\n mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n @!p bra "
      "WAIT;\n}\n" ::"r"(shared_address(b)),
      "r"(parity)
      : "memory");
}
__device__ void tile_load(void* to, const CUtensorMap* map, int x, int y, uint64_t* b) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
      "%3}], [%4];" ::"r"(shared_address(to)),
      "l"(map), "r"(x), "r"(y), "r"(shared_address(b))
      : "memory");
}
// K-major, 128-byte swizzle: rows of 128 bytes, groups of 8 rows 1024 bytes apart.
__device__ uint64_t descriptor(const void* p) {
  return (shared_address(p) & 0x3ffff) >> 4 | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 |
         uint64_t(1) << 62;
}

#define D8(d, k)                                                                              \
  "+f"(d[k]), "+f"(d[k + 1]), "+f"(d[k + 2]), "+f"(d[k + 3]), "+f"(d[k + 4]), "+f"(d[k + 5]), \
      "+f"(d[k + 6]), "+f"(d[k + 7])
#define D64(d) D8(d, 0), D8(d, 8), D8(d, 16), D8(d, 24), D8(d, 32), D8(d, 40), D8(d, 48), D8(d, 56)
#define D64_NAMES                                                                                            \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%" \
  "28,%29,%30,"                                                                                              \
  "%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56," \
  "%57,%58,%59,"                                                                                             \
  "%60,%61,%62,%63}"

template <bool kFp8>
__device__ void multiply(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
  if constexpr (kFp8) {
    asm volatile(
        "{\n .reg .pred p;\n setp.ne.b32 p, %66, 0;\n "
        "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 " D64_NAMES ", %64, %65, p, 1, 1;\n}\n"
        : D64(d)
        : "l"(a), "l"(b), "r"(accumulate));
  } else {
    asm volatile(
        "{\n .reg .pred p;\n setp.ne.b32 p, %66, 0;\n "
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " D64_NAMES ", %64, %65, p, 1, 1, 0, 0;\n}\n"
        : D64(d)
        : "l"(a), "l"(b), "r"(accumulate));
  }
}

struct Args {
  CUtensorMap a, b;  // [M, K] and [N, K], rows of K
  float* d;          // [M, N]
  const float* sfa;  // [M, K / 128]; fp8 only
  const float* sfb;  // [N / 128, K / 128]
  int m, n, k_blocks;
};

template <bool kFp8>
__global__ void __launch_bounds__(kThreads, 1) ping_pong(const __grid_constant__ Args args) {
  extern __shared__ __align__(1024) uint8_t raw[];
  Smem& s = *reinterpret_cast<Smem*>(raw);
  if (threadIdx.x == 0) {
    for (int k = 0; k < kStages; ++k) {
      barrier_init(&s.full[k], 1);
      barrier_init(&s.empty[k], 1);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  const int role = threadIdx.x / 128;
  const int tiles_n = args.n / kTileN, tiles = args.m / kTileM * tiles_n;
  if (role == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) {
      int it = 0;
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x)
        for (int k = 0; k < args.k_blocks; ++k, ++it) {
          const int stage = it % kStages;
          barrier_wait(&s.empty[stage], it / kStages & 1 ^ 1);
          barrier_expect(&s.full[stage], sizeof(Stage));
          const int elements = kFp8 ? kRowBytes : kRowBytes / 2;
          tile_load(s.stage[stage].a, &args.a, k * elements, tile / tiles_n * kTileM, &s.full[stage]);
          tile_load(s.stage[stage].b, &args.b, k * elements, tile % tiles_n * kTileN, &s.full[stage]);
        }
    }
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  const int me = role - 1, thread = threadIdx.x % 128;
  // The first warpgroup need not wait for its first turn.
  if (me == 1) asm volatile("bar.arrive 1, 256;" ::: "memory");
  int round = 0;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, ++round) {
    if (round % 2 != me) continue;
    asm volatile("bar.sync %0, 256;" ::"r"(1 + me) : "memory");
    float part[64], d[64] = {};
    const int row = tile / tiles_n * kTileM + thread / 32 * 16 + thread % 32 / 4,
              column = tile % tiles_n * kTileN + thread % 4 * 2;
    for (int k = 0; k < args.k_blocks; ++k) {
      const int it = round * args.k_blocks + k, stage = it % kStages;
      barrier_wait(&s.full[stage], it / kStages & 1);
      float(&to)[64] = kFp8 ? part : d;
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
      for (int step = 0; step < 4; ++step)
        multiply<kFp8>(to, descriptor(s.stage[stage].a + step * 32), descriptor(s.stage[stage].b + step * 32),
                       kFp8 ? step != 0 : k + step != 0);
      asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
      for (int j = 0; j < 64; ++j) asm volatile("" : "+f"(to[j])::"memory");
      if (thread == 0) barrier_arrive(&s.empty[stage]);
      if constexpr (kFp8) {
        const float sb = args.sfb[tile % tiles_n * args.k_blocks + k];
        const float s0 = args.sfa[row * args.k_blocks + k] * sb,
                    s1 = args.sfa[(row + 8) * args.k_blocks + k] * sb;
        for (int j = 0; j < 64; ++j) d[j] += part[j] * (j & 2 ? s1 : s0);
      }
    }
    asm volatile("bar.arrive %0, 256;" ::"r"(2 - me) : "memory");
    for (int j = 0; j < 64; j += 2) {
      const float2 pair = {d[j], d[j + 1]};
      *reinterpret_cast<float2*>(args.d + (row + (j & 2 ? 8 : 0)) * args.n + column + j / 4 * 8) = pair;
    }
  }
  // Takes the turn that is left over, so that no barrier ends half full.
  if (round % 2 != me) return;
  asm volatile("bar.sync %0, 256;" ::"r"(1 + me) : "memory");
}

CUtensorMap tensor_map(void* p, CUtensorMapDataType type, int rows, int row_elements, int element_bytes,
                       int box_rows) {
  static const auto encode_tiled = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found),
          "entry point");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(f);
  }();
  CUtensorMap map{};
  const cuuint64_t size[2] = {cuuint64_t(row_elements), cuuint64_t(rows)},
                   stride[1] = {cuuint64_t(row_elements) * element_bytes};
  const cuuint32_t box[2] = {cuuint32_t(kRowBytes / element_bytes), cuuint32_t(box_rows)}, step[2] = {1, 1};
  EXPECT_EQ(CUDA_SUCCESS, encode_tiled(&map, type, 2, p, size, stride, box, step,
                                       CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                       CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  return map;
}

TEST(WholeGemm, PingPongBf16) {
  const int m = 192, n = 256, k = 320;
  Random random(1);
  std::vector<uint16_t> a(m * k), b(n * k);
  for (uint16_t& v : a) v = uint16_t(encode(kBf16, random.real(-4, 2)));
  for (uint16_t& v : b) v = uint16_t(encode(kBf16, random.real(-4, 2)));
  Array<uint16_t> da(a), db(b);
  Array<float> d(m * n);
  Args args{tensor_map(da.get(), CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, m, k, 2, kTileM),
            tensor_map(db.get(), CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, n, k, 2, kTileN),
            d.get(),
            nullptr,
            nullptr,
            m,
            n,
            k / 64};
  launch({.grid = 2, .block = kThreads, .shared = sizeof(Smem)}, ping_pong<false>, args);
  const std::vector<float> got = d.host();
  double worst = 0;
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double sum = 0, size = 0;
      for (int l = 0; l < k; ++l) {
        const double p = decode(kBf16, a[i * k + l]) * decode(kBf16, b[j * k + l]);
        sum += p;
        size += std::abs(p);
      }
      worst = std::max(worst, std::abs(got[i * n + j] - sum) / size);
    }
  // Sums cut to 24 bits, k / 16 of them.
  EXPECT_LT(worst, 20 * 0x1p-22);
}

TEST(WholeGemm, PingPongFp8Scaled) {
  const int m = 192, n = 256, k = 1024;
  Random random(2);
  std::vector<uint8_t> a(m * k), b(n * k);
  std::vector<float> sfa(m * k / 128), sfb(n / 128 * k / 128);
  for (uint8_t& v : a) v = uint8_t(encode(kE4m3, random.real(-6, 8)));
  for (uint8_t& v : b) v = uint8_t(encode(kE4m3, random.real(-6, 8)));
  for (float& v : sfa) v = float(std::abs(random.real(-12, 4)));
  for (float& v : sfb) v = float(std::abs(random.real(-12, 4)));
  Array<uint8_t> da(a), db(b);
  Array<float> dsfa(sfa), dsfb(sfb), d(m * n);
  Args args{tensor_map(da.get(), CU_TENSOR_MAP_DATA_TYPE_UINT8, m, k, 1, kTileM),
            tensor_map(db.get(), CU_TENSOR_MAP_DATA_TYPE_UINT8, n, k, 1, kTileN),
            d.get(),
            dsfa.get(),
            dsfb.get(),
            m,
            n,
            k / 128};
  launch({.grid = 2, .block = kThreads, .shared = sizeof(Smem)}, ping_pong<true>, args);
  const std::vector<float> got = d.host();
  double worst = 0;
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double sum = 0, size = 0;
      for (int l = 0; l < k; ++l) {
        const double p = decode(kE4m3, a[i * k + l]) * decode(kE4m3, b[j * k + l]) *
                         sfa[i * (k / 128) + l / 128] * sfb[j / 128 * (k / 128) + l / 128];
        sum += p;
        size += std::abs(p);
      }
      worst = std::max(worst, std::abs(got[i * n + j] - sum) / size);
    }
  // Within 128 of K the tensor core keeps 13 bits below the largest product; promotion keeps that from
  // growing with K.
  EXPECT_LT(worst, 0x1p-9);
}

}  // namespace
}  // namespace silicon
