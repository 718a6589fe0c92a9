// Tensor tiles: load, store, reduce in 1 to 5 dimensions with every swizzle, out of bounds, multicast,
// changed maps.
#include "tests/ptxsim/silicon/formats.h"
#include "tests/ptxsim/silicon/harness.h"
#include "tests/ptxsim/silicon/mbarrier.cuh"
#include "tests/ptxsim/silicon/tensor_map.h"

namespace silicon {
namespace {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using Start = std::array<int, kMaxRank>;

struct Coordinates {
  int c[kMaxRank];
};
Coordinates coordinates(const Start& s) { return {{s[0], s[1], s[2], s[3], s[4]}}; }

#define LOAD(rank, list, ...)                                                                \
  asm volatile("cp.async.bulk.tensor." #rank                                                 \
               "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, " list \
               "], [%2];" ::"r"(to),                                                         \
               "l"(map), "r"(bar), __VA_ARGS__                                               \
               : "memory")
__device__ void load_tile(const void* map, u32 to, u32 bar, int rank, const int* c) {
  if (rank == 1) LOAD(1, "{%3}", "r"(c[0]));
  if (rank == 2) LOAD(2, "{%3, %4}", "r"(c[0]), "r"(c[1]));
  if (rank == 3) LOAD(3, "{%3, %4, %5}", "r"(c[0]), "r"(c[1]), "r"(c[2]));
  if (rank == 4) LOAD(4, "{%3, %4, %5, %6}", "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
  if (rank == 5) LOAD(5, "{%3, %4, %5, %6, %7}", "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]), "r"(c[4]));
}
#define STORE(rank, list, ...)                                                                 \
  asm volatile("cp.async.bulk.tensor." #rank "d.global.shared::cta.tile.bulk_group [%0, " list \
               "], [%1];" ::"l"(map),                                                          \
               "r"(from), __VA_ARGS__                                                          \
               : "memory")
__device__ void store_tile(const void* map, u32 from, int rank, const int* c) {
  if (rank == 1) STORE(1, "{%2}", "r"(c[0]));
  if (rank == 2) STORE(2, "{%2, %3}", "r"(c[0]), "r"(c[1]));
  if (rank == 3) STORE(3, "{%2, %3, %4}", "r"(c[0]), "r"(c[1]), "r"(c[2]));
  if (rank == 4) STORE(4, "{%2, %3, %4, %5}", "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
  if (rank == 5) STORE(5, "{%2, %3, %4, %5, %6}", "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]), "r"(c[4]));
}

__device__ u8* aligned(u8* p) { return p + (1024 - shared_address(p) % 1024) % 1024; }
constexpr u32 kTile = 16384;  // at most

__global__ void load(const __grid_constant__ CUtensorMap map, int rank, Coordinates at, u32 bytes, u8* out) {
  extern __shared__ u8 memory[];
  __shared__ __align__(8) u64 barrier;
  u8* tile = aligned(memory);
  const u32 bar = shared_address(&barrier);
  if (threadIdx.x == 0) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
    mbarrier_init(bar, 1);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(bar, bytes);
    load_tile(&map, shared_address(tile), bar, rank, at.c);
  }
  mbarrier_wait(bar, 0);
  for (u32 i = threadIdx.x; i < bytes; i += blockDim.x) out[i] = tile[i];
}
__global__ void store(const __grid_constant__ CUtensorMap map, int rank, Coordinates at, u32 bytes,
                      const u8* in) {
  extern __shared__ u8 memory[];
  u8* tile = aligned(memory);
  for (u32 i = threadIdx.x; i < bytes; i += blockDim.x) tile[i] = in[i];
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  if (threadIdx.x == 0) {
    store_tile(&map, shared_address(tile), rank, at.c);
    asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;" ::: "memory");
  }
}

struct Case {
  TensorSpec spec;
  Start start{};
};
CUtensorMapDataType type_of(int width) {
  return width == 1   ? CU_TENSOR_MAP_DATA_TYPE_UINT8
         : width == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16
         : width == 4 ? CU_TENSOR_MAP_DATA_TYPE_INT32
                      : CU_TENSOR_MAP_DATA_TYPE_INT64;
}
// Random sizes, padded strides, a box that may hang over any edge.
Case random_case(Random& random, int rank) {
  Case c;
  TensorSpec& s = c.spec;
  s.rank = rank;
  s.width = 1 << random.below(4);
  s.type = type_of(s.width);
  s.swizzle = CUtensorMapSwizzle(random.below(4));
  const u32 row =
      s.swizzle == CU_TENSOR_MAP_SWIZZLE_NONE ? 16 * (1 + random.below(6)) : 16u << int(s.swizzle);
  u32 left = 8192 / row;
  u64 pitch = 0;
  for (int i = 0; i < rank; ++i) {
    s.box[i] = i == 0 ? row / s.width : 1 + random.below(std::min(left, 9u));
    if (i > 0) left /= s.box[i];
    s.size[i] = i == 0 ? s.box[0] / 2 + 1 + random.below(2 * s.box[0]) : 1 + random.below(12);
    pitch = i == 0 ? (s.size[0] * s.width + 15) / 16 * 16 + 16 * random.below(3)
                   : pitch * s.size[i] + 16 * random.below(2);
    s.stride[i] = pitch;  // of dimension i + 1
    c.start[i] = int(random.below(u32(s.size[i]) + s.box[i])) - int(s.box[i]) + 1;
  }
  return c;
}
std::string describe(const Case& c) {
  std::string text = "width " + std::to_string(c.spec.width) + " swizzle " + std::to_string(c.spec.swizzle);
  for (int i = 0; i < c.spec.rank; ++i)
    text += " | size " + std::to_string(c.spec.size[i]) + " box " + std::to_string(c.spec.box[i]) + " at " +
            std::to_string(c.start[i]);
  return text;
}
std::vector<u8> random_bytes(size_t n, u64 seed) {
  std::vector<u8> x(n);
  Random random(seed);
  for (u8& v : x) v = u8(random.bits());
  return x;
}

void check_load(const Case& c, u64 seed) {
  const std::vector<u8> x = random_bytes(c.spec.bytes(), seed);
  std::vector<u8> want(c.spec.tile_bytes(), 0);
  for_tile(c.spec, c.start, [&](u32 shared, int64_t global) {
    if (global >= 0) std::memcpy(&want[shared], &x[global], c.spec.width);
  });
  Array<u8> tensor(x), out(want.size());
  launch({.block = 64, .shared = kTile + 1024}, load, make_map(c.spec, tensor.get()), c.spec.rank,
         coordinates(c.start), u32(want.size()), out.get());
  expect_same(out.host(), want, describe(c).c_str());
}
void check_store(const Case& c, u64 seed) {
  const std::vector<u8> tile = random_bytes(c.spec.tile_bytes(), seed);
  std::vector<u8> want = random_bytes(c.spec.bytes(), seed + 1);
  Array<u8> tensor(want), in(tile);
  for_tile(c.spec, c.start, [&](u32 shared, int64_t global) {
    if (global >= 0) std::memcpy(&want[global], &tile[shared], c.spec.width);
  });
  launch({.block = 64, .shared = kTile + 1024}, store, make_map(c.spec, tensor.get()), c.spec.rank,
         coordinates(c.start), u32(tile.size()), in.get());
  expect_same(tensor.host(), want, describe(c).c_str());
}
TEST(Tma, LoadsAndStores) {
  Random random(1);
  for (int i = 0; i < 60; ++i) {
    Case c = random_case(random, 1 + i % 5);
    check_load(c, i);
    for (int& at : c.start) at = std::max(at, 0);  // stores begin inside
    check_store(c, i);
    if (HasFailure()) return;
  }
}
TEST(Tma, EverySwizzleOverAFullTile) {
  for (int swizzle = 0; swizzle < 4; ++swizzle) {
    Case c;
    c.spec.width = 2, c.spec.type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
    c.spec.swizzle = CUtensorMapSwizzle(swizzle);
    const u32 row = swizzle == 0 ? 64 : 16u << swizzle;
    c.spec.size = {96, 70}, c.spec.stride = {192}, c.spec.box = {row / 2, 64};
    c.start = {8, 3};
    check_load(c, swizzle);
    check_store(c, swizzle);
  }
}
TEST(Tma, SteppedBox) {
  Case c;
  c.spec.size = {40, 30, 8}, c.spec.stride = {160, 4800}, c.spec.box = {16, 9, 5},
  c.spec.step = {1, 2, 3, 1, 1}, c.spec.rank = 3;
  c.start = {4, 1, 2};
  check_load(c, 7);
}

// --- reductions ---
#define OPS(X) X("add") X("min") X("max") X("and") X("or") X("xor") X("inc") X("dec")
__global__ void reduce(const __grid_constant__ CUtensorMap map, int op, int x, int y, const u32* in) {
  __shared__ __align__(1024) u32 tile[8 * 16];
  for (u32 i = threadIdx.x; i < 128; i += blockDim.x) tile[i] = in[i];
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncwarp();
  if (threadIdx.x != 0) return;
  int k = 0;
#define REDUCE(name)                                                       \
  if (op == k++)                                                           \
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta." name \
                 ".tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map),     \
                 "r"(x), "r"(y), "r"(shared_address(tile))                 \
                 : "memory");
  OPS(REDUCE)
  asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;" ::: "memory");
}
u32 reduced(int op, u32 a, u32 b) {
  const u32 r[] = {a + b, std::min(a, b), std::max(a, b),     a & b,
                   a | b, a ^ b,          a >= b ? 0 : a + 1, a == 0 || a > b ? b : a - 1};
  return r[op];
}
TEST(Tma, Reductions) {
  Random random(2);
  TensorSpec s;
  s.size = {20, 11}, s.stride = {96}, s.box = {16, 8};
  const Start at = {7, 5};
  for (int op = 0; op < 8; ++op) {
    std::vector<u32> tile(128), x(11 * 24);
    for (u32& v : tile) v = u32(random.wide(32));
    for (u32& v : x) v = u32(random.wide(32));
    std::vector<u32> want = x;
    for_tile(s, at, [&](u32 shared, int64_t global) {
      if (global >= 0) want[global / 4] = reduced(op, x[global / 4], tile[shared / 4]);
    });
    Array<u32> tensor(x), in(tile);
    launch({}, reduce, make_map(s, tensor.get()), op, at[0], at[1], in.get());
    expect_same(tensor.host(), want, ("op " + std::to_string(op)).c_str());
  }
  // Two floating types of addition.
  for (const bool bf16 : {false, true}) {
    s = {}, s.size = {20, 11}, s.stride = {96}, s.box = {16, 8};
    if (bf16) s.width = 2, s.size[0] = 40, s.box[0] = 32;
    s.type = bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    const Format& f = bf16 ? kBf16 : kF32;
    const int per_word = bf16 ? 2 : 1;
    std::vector<u32> tile(128), x(11 * 24);
    const auto fill = [&](std::vector<u32>& v) {
      for (u32& w : v)
        w = bf16 ? encode(f, random.real(-4, 4)) << 16 | encode(f, random.real(-4, 4))
                 : encode(f, random.real(-4, 4));
    };
    fill(tile), fill(x);
    std::vector<u32> want = x;
    for_tile(s, at, [&](u32 shared, int64_t global) {
      if (global < 0) return;
      const int a = int(global % 4) * 8, b = int(shared % 4) * 8;
      const u32 mask = per_word == 2 ? 65535 : ~0u;
      u32& w = want[global / 4];
      const u32 sum =
          encode(f, add_sticky(decode(f, w >> a & mask), decode(f, tile[shared / 4] >> b & mask)));
      w = (w & ~(mask << a)) | sum << a;
    });
    Array<u32> tensor(x), in(tile);
    launch({}, reduce, make_map(s, tensor.get()), 0, at[0], at[1], in.get());
    expect_same(tensor.host(), want, bf16 ? "bf16" : "f32");
  }
}

// --- multicast: every block of a cluster loads one slice into all of them ---
__global__ void multicast(const __grid_constant__ CUtensorMap map, u32* out) {
  __shared__ __align__(1024) u32 tile[4][8 * 16];
  __shared__ __align__(8) u64 barrier;
  const u32 bar = shared_address(&barrier);
  u32 rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  if (threadIdx.x == 0) {
    mbarrier_init(bar, 1);
    mbarrier_arrive_expect_tx(bar, 4 * 512);
  }
  asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
  if (threadIdx.x == 0)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%2, %3}],"
        " [%4], %5;" ::"r"(shared_address(tile[rank])),
        "l"(&map), "r"(int(16 * rank)), "r"(int(blockIdx.x / 4 * 8)), "r"(bar), "h"(uint16_t(15))
        : "memory");
  mbarrier_wait(bar, 0);
  for (u32 i = threadIdx.x; i < 512; i += blockDim.x)
    out[blockIdx.x * 512 + i] = tile[i / 128][i % 128] + rank;
  asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
}
TEST(Tma, Multicast) {
  TensorSpec s;
  s.size = {64, 16}, s.stride = {256}, s.box = {16, 8};
  std::vector<u32> x(64 * 16), want;
  for (u32 i = 0; i < x.size(); ++i) x[i] = i * 77;
  for (u32 b = 0; b < 8; ++b)
    for (u32 t = 0; t < 4; ++t)
      for (u32 i = 0; i < 128; ++i) want.push_back(x[(b / 4 * 8 + i / 16) * 64 + t * 16 + i % 16] + b % 4);
  Array<u32> tensor(x), out(want.size());
  launch({.grid = 8, .block = 64, .cluster = 4}, multicast, make_map(s, tensor.get()), out.get());
  expect_same(out.host(), want);
}

// --- a map built in shared memory from another one, published through global memory ---
__global__ void replace(const __grid_constant__ CUtensorMap map, CUtensorMap* scratch, u32* tensor,
                        u32* out) {
  __shared__ __align__(128) CUtensorMap local;
  __shared__ __align__(1024) u32 tile[8 * 16];
  __shared__ __align__(8) u64 barrier;
  const u32 bar = shared_address(&barrier), at = shared_address(&local);
  if (threadIdx.x == 0) mbarrier_init(bar, 1);
  for (u32 i = threadIdx.x; i < sizeof(CUtensorMap) / 4; i += 32)
    reinterpret_cast<u32*>(&local)[i] = reinterpret_cast<const u32*>(&map)[i];
  __syncwarp();
  if (threadIdx.x == 0) {
    asm volatile("tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%0], %1;" ::"r"(at),
                 "l"(tensor)
                 : "memory");
    asm volatile("tensormap.replace.tile.rank.shared::cta.b1024.b32 [%0], 1;" ::"r"(at) : "memory");
    asm volatile("tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%0], 0, %1;" ::"r"(at), "r"(14)
                 : "memory");
    asm volatile("tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%0], 1, %1;" ::"r"(at), "r"(7)
                 : "memory");
    asm volatile("tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [%0], 0, %1;" ::"r"(at),
                 "l"(u64(80))
                 : "memory");
    asm volatile("tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [%0], 0, %1;" ::"r"(at), "r"(16)
                 : "memory");
    asm volatile("tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [%0], 1, %1;" ::"r"(at), "r"(8)
                 : "memory");
    asm volatile("tensormap.replace.tile.element_stride.shared::cta.b1024.b32 [%0], 1, 1;" ::"r"(at)
                 : "memory");
    asm volatile("tensormap.replace.tile.swizzle_mode.shared::cta.b1024.b32 [%0], 2;" ::"r"(at) : "memory");
  }
  __syncwarp();
  asm volatile(
      "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%0], [%1], "
      "128;" ::"l"(scratch),
      "r"(at)
      : "memory");
  if (threadIdx.x == 0) {
    asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(scratch) : "memory");
    mbarrier_arrive_expect_tx(bar, 512);
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
        "%3}], [%4];" ::"r"(shared_address(tile)),
        "l"(scratch), "r"(2), "r"(1), "r"(bar)
        : "memory");
  }
  mbarrier_wait(bar, 0);
  for (u32 i = threadIdx.x; i < 128; i += 32) out[i] = tile[i];
}
TEST(Tma, ReplacedMap) {
  TensorSpec old;
  old.size = {100, 100}, old.stride = {400}, old.box = {8, 4};
  TensorSpec s;
  s.size = {14, 7}, s.stride = {80}, s.box = {16, 8}, s.swizzle = CU_TENSOR_MAP_SWIZZLE_64B;
  std::vector<u32> x(7 * 20), want(128, 0);
  for (u32 i = 0; i < x.size(); ++i) x[i] = i * 31 + 1;
  for_tile(s, {2, 1}, [&](u32 shared, int64_t global) {
    if (global >= 0) want[shared / 4] = x[global / 4];
  });
  Array<u32> other(10000), tensor(x), out(128);
  Array<CUtensorMap> scratch(1);
  launch({}, replace, make_map(old, other.get()), scratch.get(), tensor.get(), out.get());
  expect_same(out.host(), want);
}

// --- hints: a cache policy, a prefetch ---
__global__ void hinted(const __grid_constant__ CUtensorMap map, u32* out) {
  __shared__ __align__(1024) u32 tile[8 * 16];
  __shared__ __align__(8) u64 barrier;
  const u32 bar = shared_address(&barrier);
  u64 policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 0.5;" : "=l"(policy));
  if (threadIdx.x == 0) {
    mbarrier_init(bar, 1);
    asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(&map), "r"(0), "r"(0)
                 : "memory");
    mbarrier_arrive_expect_tx(bar, 512);
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(tile)),
        "l"(&map), "r"(0), "r"(0), "r"(bar), "l"(policy)
        : "memory");
  }
  __syncwarp();
  mbarrier_wait(bar, 0);
  for (u32 i = threadIdx.x; i < 128; i += 32) out[i] = tile[i];
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncwarp();
  if (threadIdx.x == 0) {
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group.L2::cache_hint [%0, {%1, %2}], [%3], "
        "%4;" ::"l"(&map),
        "r"(16), "r"(8), "r"(shared_address(tile)), "l"(policy)
        : "memory");
    asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;" ::: "memory");
  }
}
TEST(Tma, Hints) {
  TensorSpec s;
  s.size = {32, 16}, s.stride = {128}, s.box = {16, 8};
  std::vector<u32> x(512), tile;
  for (u32 i = 0; i < 512; ++i) x[i] = i * 3;
  std::vector<u32> want = x;
  for (u32 i = 0; i < 128; ++i)
    tile.push_back(x[i / 16 * 32 + i % 16]), want[(8 + i / 16) * 32 + 16 + i % 16] = tile.back();
  Array<u32> tensor(x), out(128);
  launch({}, hinted, make_map(s, tensor.get()), out.get());
  expect_same(out.host(), tile);
  expect_same(tensor.host(), want);
}

// --- maps that cannot be ---
TEST(Tma, RefusedMaps) {
  Array<u8> p(4096);
  CUtensorMap map;
  TensorSpec good;
  good.size = {64, 8}, good.stride = {256}, good.box = {16, 8};
  EXPECT_EQ(encode_map(good, p.get(), &map), CUDA_SUCCESS);
  EXPECT_EQ(encode_map(good, p.get() + 8, &map), CUDA_ERROR_INVALID_VALUE) << "address not aligned to 16";
  const auto refused = [&](auto change) {
    TensorSpec s = good;
    change(s);
    return encode_map(s, p.get(), &map);
  };
  EXPECT_EQ(refused([](TensorSpec& s) { s.stride[0] = 264; }), CUDA_ERROR_INVALID_VALUE)
      << "stride not a multiple of 16";
  EXPECT_EQ(refused([](TensorSpec& s) { s.box[0] = 257; }), CUDA_ERROR_INVALID_VALUE) << "box beyond 256";
  EXPECT_EQ(refused([](TensorSpec& s) { s.box[0] = 3; }), CUDA_ERROR_INVALID_VALUE) << "12 bytes wide";
  EXPECT_EQ(refused([](TensorSpec& s) { s.size[1] = 0; }), CUDA_ERROR_INVALID_VALUE) << "no rows";
  EXPECT_EQ(refused([](TensorSpec& s) { s.rank = 6; }), CUDA_ERROR_INVALID_VALUE) << "six dimensions";
  EXPECT_EQ(refused([](TensorSpec& s) { s.swizzle = CU_TENSOR_MAP_SWIZZLE_32B; }), CUDA_ERROR_INVALID_VALUE)
      << "64 bytes wide in a swizzle of 32";
}

}  // namespace
}  // namespace silicon
