// wgmma: every N, every type, both sources of A, both orders of 16-bit operands, every swizzle, groups in
// flight, and what the accumulator of FP8 loses over a deep product.
#include "tests/ptxsim/silicon/tensor_core.h"
#include "tests/ptxsim/silicon/wgmma.cuh"

namespace silicon {
namespace {

using u8 = uint8_t;
using u32 = uint32_t;
using u64 = uint64_t;

enum Variant {
  kBf16SS,
  kF16SS,
  kTf32SS,
  kE4m3SS,
  kE5m2SS,
  kE4m3E5m2SS,
  kE5m2E4m3SS,  // A and B in shared memory, K-major
  kBf16RS,
  kF16RS,
  kTf32RS,
  kE4m3RS,  // A in registers
  kBf16TransA,
  kBf16TransB,
  kF16TransBoth,
  kBf16RSTransB,  // MN-major
  kBf16Negated,   // A negated
};
#define BF16(N) WGMMA_DEFINE(N, kBf16SS, "k16.f32.bf16.bf16", "%4", "1, 1, 0, 0")
WGMMA_EVERY_N(BF16)
#define REGISTERS "{%0, %1, %2, %3}"
WGMMA_DEFINE(64, kF16SS, "k16.f32.f16.f16", "%4", "1, 1, 0, 0")
WGMMA_DEFINE(64, kTf32SS, "k8.f32.tf32.tf32", "%4", "1, 1")
WGMMA_DEFINE(64, kE4m3SS, "k32.f32.e4m3.e4m3", "%4", "1, 1")
WGMMA_DEFINE(256, kE4m3SS, "k32.f32.e4m3.e4m3", "%4", "1, 1")
WGMMA_DEFINE(64, kE5m2SS, "k32.f32.e5m2.e5m2", "%4", "1, 1")
WGMMA_DEFINE(64, kE4m3E5m2SS, "k32.f32.e4m3.e5m2", "%4", "1, 1")
WGMMA_DEFINE(64, kE5m2E4m3SS, "k32.f32.e5m2.e4m3", "%4", "1, 1")
WGMMA_DEFINE(64, kBf16RS, "k16.f32.bf16.bf16", REGISTERS, "1, 1, 0")
WGMMA_DEFINE(64, kF16RS, "k16.f32.f16.f16", REGISTERS, "1, 1, 0")
WGMMA_DEFINE(64, kTf32RS, "k8.f32.tf32.tf32", REGISTERS, "1, 1")
WGMMA_DEFINE(64, kE4m3RS, "k32.f32.e4m3.e4m3", REGISTERS, "1, 1")
WGMMA_DEFINE(64, kBf16TransA, "k16.f32.bf16.bf16", "%4", "1, 1, 1, 0")
WGMMA_DEFINE(64, kBf16TransB, "k16.f32.bf16.bf16", "%4", "1, 1, 0, 1")
WGMMA_DEFINE(64, kF16TransBoth, "k16.f32.f16.f16", "%4", "1, 1, 1, 1")
WGMMA_DEFINE(64, kBf16RSTransB, "k16.f32.bf16.bf16", REGISTERS, "1, 1, 1")
WGMMA_DEFINE(64, kBf16Negated, "k16.f32.bf16.bf16", "%4", "-1, 1, 0, 0")

// An operand in shared memory as the descriptor describes it.
struct Operand {
  u32 bytes, leading, stride, swizzle;
  u32 step, steps_per_block,
      block;  // where the next 32 bytes of K begin: + step, but + block after steps_per_block
};
struct Problem {
  Operand a, b;
  int steps;
  int add_first;  // 0: D = A B, whatever D held
};
__device__ u64 descriptor(const Operand& o, u32 base, int step) {
  return wgmma_descriptor(base + step / o.steps_per_block * o.block + step % o.steps_per_block * o.step,
                          o.leading, o.stride, o.swizzle);
}

// d: fragments, 64 x N. image: A then B as they lie in shared memory. fragments: A in registers, 4 words per
// lane and step.
template <int N, int kVariant>
__global__ void __launch_bounds__(128)
    multiply(const __grid_constant__ Problem p, const u8* image, const u32* fragments, float* d) {
  extern __shared__ u8 memory[];
  u8* s = memory + (1024 - shared_address(memory) % 1024) % 1024;
  for (u32 i = threadIdx.x * 16; i < p.a.bytes + p.b.bytes; i += 128 * 16)
    *reinterpret_cast<uint4*>(s + i) = *reinterpret_cast<const uint4*>(image + i);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  float r[N / 2];
  for (int i = 0; i < N / 2; ++i) r[i] = d[threadIdx.x * (N / 2) + i];
  const u32 base = shared_address(s);
  for (int k = 0; k < p.steps; ++k) {
    u32 a[4];
    for (int i = 0; i < 4; ++i) a[i] = fragments[(k * 128 + threadIdx.x) * 4 + i];
    wgmma_fence();
    wgmma(Wgmma<N, kVariant>{}, r, a, descriptor(p.a, base, k), descriptor(p.b, base + p.a.bytes, k),
          k > 0 || p.add_first);
    wgmma_commit();
    wgmma_wait<0>();
  }
  for (int i = 0; i < N / 2; ++i) d[threadIdx.x * (N / 2) + i] = r[i];
}

enum class Order { kK, kMn };  // which index is contiguous
u32 swizzle_bytes(u32 swizzle) { return swizzle == 0 ? 16 : 256u >> swizzle; }
u32 swizzled(u32 swizzle, u32 address) {
  return swizzle == 0 ? address
                      : address ^ ((address >> 3) & (swizzle == 1   ? 0x70u
                                                     : swizzle == 2 ? 0x30u
                                                                    : 0x10u));
}
// Lays out rows x k elements (rows: M of A, N of B; at(r, k)) and appends to `image`.
template <typename At>
Operand lay_out(const Format& f, Order order, u32 swizzle, int rows, int depth, At at,
                std::vector<u8>& image) {
  const u32 width = f.bits == 19 ? 4 : f.bits / 8, span = swizzle_bytes(swizzle);
  Operand o{};
  o.swizzle = swizzle;
  const u32 start = u32(image.size());
  if (order == Order::kK) {
    const u32 kbytes = depth * width;
    o.stride = 8 * span;
    o.leading = swizzle == 0 ? rows * 16 : 16;
    o.block = rows * span;
    if (swizzle == 0)
      o.step = 2 * o.leading, o.steps_per_block = 1 << 20;
    else
      o.step = 32, o.steps_per_block = span / 32;
    o.bytes = rows * kbytes;
  } else {
    const u32 mn_blocks = (rows * width + span - 1) / span, k_blocks = depth / 8;
    o.stride = swizzle == 0 ? 128 : 8 * span;  // between groups of 8 along K (swizzled) or along MN (none)
    o.leading = swizzle == 0 ? rows / 8 * 128 : k_blocks * o.stride;
    if (swizzle == 0)
      o.step = 2 * o.leading;
    else
      o.step = 2 * o.stride;
    o.steps_per_block = 1 << 20;
    o.bytes = swizzle == 0 ? k_blocks * o.leading : mn_blocks * o.leading;
  }
  o.bytes = (o.bytes + 1023) / 1024 * 1024;
  image.resize(start + o.bytes, 0xFF);
  for (int r = 0; r < rows; ++r)
    for (int k = 0; k < depth; ++k) {
      u32 at_byte;
      if (order == Order::kK && swizzle == 0)
        at_byte = r / 8 * o.stride + k * width / 16 * o.leading + r % 8 * 16 + k * width % 16;
      else if (order == Order::kK)
        at_byte = k * width / span * o.block + r / 8 * o.stride + r % 8 * span + k * width % span;
      else if (swizzle == 0)
        at_byte = r / 8 * o.stride + k / 8 * o.leading + k % 8 * 16 + r % 8 * 2;
      else
        at_byte = r * 2 / span * o.leading + k / 8 * o.stride + k % 8 * span + r * 2 % span;
      const u32 bits = f.bits == 19 ? encode(f, at(r, k)) << 13 : encode(f, at(r, k));
      std::memcpy(&image[start + swizzled(swizzle, at_byte)], &bits, width);
    }
  return o;
}

struct Options {
  Format fa = kBf16, fb = kBf16;
  Order order_a = Order::kK, order_b = Order::kK;
  u32 swizzle_a = 1, swizzle_b = 1;
  bool add_first = true;
};
template <int N, int kVariant>
std::vector<float> run(const Matrix& a, const Matrix& b, const Matrix& c, const Options& o) {
  const int per_word = o.fa.bits == 19 ? 1 : 32 / o.fa.bits, depth = 8 * per_word;  // of one instruction
  Problem p{};
  p.steps = a.columns / depth;
  p.add_first = o.add_first;
  std::vector<u8> image;
  p.a = lay_out(
      o.fa, o.order_a, o.swizzle_a, 64, a.columns, [&](int r, int k) { return a.at(r, k); }, image);
  p.b = lay_out(
      o.fb, o.order_b, o.swizzle_b, N, a.columns, [&](int r, int k) { return b.at(k, r); }, image);
  std::vector<u32> fragments(p.steps * 512, 0);
  for (int k = 0; k < p.steps; ++k)
    for (int t = 0; t < 128; ++t)
      for (int i = 0; i < 4; ++i)
        for (int e = 0; e < per_word; ++e) {
          const int row = t / 32 * 16 + t % 32 / 4 + 8 * (i % 2),
                    column = k * depth + t % 4 * per_word + e + i / 2 * 4 * per_word;
          const u32 bits =
              o.fa.bits == 19 ? encode(o.fa, a.at(row, column)) << 13 : encode(o.fa, a.at(row, column));
          fragments[(k * 128 + t) * 4 + i] |= bits << (e * (32 / per_word));
        }
  const auto index = [](int i) {  // of the fragment's i-th float
    const int t = i / (N / 2), j = i % (N / 2);
    return (t / 32 * 16 + t % 32 / 4 + 8 * (j / 2 % 2)) * N + j / 4 * 8 + t % 4 * 2 + j % 2;
  };
  std::vector<float> frag(64 * N), d(64 * N);
  for (int i = 0; i < 64 * N; ++i) frag[i] = o.add_first ? float(c.v[index(i)]) : NAN;
  Array<u8> di(image);
  Array<u32> df(fragments);
  Array<float> dd(frag);
  launch({.block = 128, .shared = u32(image.size()) + 1024}, multiply<N, kVariant>, p, di.get(), df.get(),
         dd.get());
  const std::vector<float> got = dd.host();
  for (int i = 0; i < 64 * N; ++i) d[index(i)] = got[i];
  return d;
}
// Once with whole numbers, which must come out exact, once over decades.
template <int N, int kVariant>
void check(int depth, const char* what, const Options& o) {
  const uint64_t seed = N * 100 + kVariant;
  const bool fp8 = o.fa.bits == 8;
  Matrix a = whole_numbers(64, depth, 4, seed), b = whole_numbers(depth, N, 4, seed + 1),
         c = whole_numbers(64, N, 9, seed + 2);
  expect_exact(a, b, c, run<N, kVariant>(a, b, c, o), what);
  a = reals(o.fa, 64, depth, -4, 4, seed + 3), b = reals(o.fb, depth, N, -4, 4, seed + 4),
  c = reals(kF32, 64, N, -6, 6, seed + 5);
  const int step = 256 / (o.fa.bits == 19 ? 32 : o.fa.bits);
  expect_product(a, b, c, run<N, kVariant>(a, b, c, o), step, fp8 ? 13 : 24, fp8 ? 13 : 23, what);
}

template <int N>
void check_n() {
  const Matrix a = whole_numbers(64, 32, 4, N), b = whole_numbers(32, N, 4, N + 1),
               c = whole_numbers(64, N, 9, N + 2);
  Options o;
  o.swizzle_a = o.swizzle_b = 2;
  expect_exact(a, b, c, run<N, kBf16SS>(a, b, c, o), ("N = " + std::to_string(N)).c_str());
}
#define CHECK_N(N) check_n<N>();
TEST(Wgmma, EveryN){WGMMA_EVERY_N(CHECK_N)}

TEST(Wgmma, EveryType) {
  check<64, kBf16SS>(64, "bf16", {});
  check<64, kF16SS>(64, "f16", {kF16, kF16});
  check<64, kTf32SS>(32, "tf32", {kTf32, kTf32});
  check<64, kE4m3SS>(128, "e4m3", {kE4m3, kE4m3});
  check<64, kE5m2SS>(128, "e5m2", {kE5m2, kE5m2});
  check<64, kE4m3E5m2SS>(128, "e4m3 x e5m2", {kE4m3, kE5m2});
  check<64, kE5m2E4m3SS>(128, "e5m2 x e4m3", {kE5m2, kE4m3});
  check<256, kE4m3SS>(128, "e4m3 N = 256", {kE4m3, kE4m3});
}
TEST(Wgmma, RegisterA) {
  check<64, kBf16RS>(64, "bf16", {});
  check<64, kF16RS>(64, "f16", {kF16, kF16});
  check<64, kTf32RS>(32, "tf32", {kTf32, kTf32});
  check<64, kE4m3RS>(128, "e4m3", {kE4m3, kE4m3});
  Options o;
  o.order_b = Order::kMn;
  check<64, kBf16RSTransB>(64, "bf16, B with N contiguous", o);
}
TEST(Wgmma, EverySwizzle) {
  for (u32 s = 0; s < 4; ++s) {
    Options o;
    o.swizzle_a = s, o.swizzle_b = (s + 1) % 4;
    check<64, kBf16SS>(64, "K-major", o);
    Options fp8 = {kE4m3, kE4m3};
    fp8.swizzle_a = s, fp8.swizzle_b = (s + 2) % 4;
    check<64, kE4m3SS>(128, "fp8", fp8);
    Options a = o, b = o, both = {kF16, kF16};
    a.order_a = Order::kMn;
    check<64, kBf16TransA>(64, "A with M contiguous", a);
    b.order_b = Order::kMn;
    check<64, kBf16TransB>(64, "B with N contiguous", b);
    both.order_a = both.order_b = Order::kMn, both.swizzle_a = s, both.swizzle_b = (s + 3) % 4;
    check<64, kF16TransBoth>(32, "both", both);
  }
}
TEST(Wgmma, ScaleAndOverwrite) {
  Matrix a = whole_numbers(64, 64, 4, 1), b = whole_numbers(64, 64, 4, 2), c = whole_numbers(64, 64, 9, 3),
         zero(64, 64);
  Options o;
  std::vector<float> d = run<64, kBf16Negated>(a, b, c, o);
  for (double& v : a.v) v = -v;
  expect_exact(a, b, c, d, "A negated");
  o.add_first = false;
  expect_exact(a, b, zero, run<64, kBf16SS>(a, b, c, o), "D overwritten");
}

// Over 1024 products FP8 with its short accumulator is far from FP32: 1e-3 and more of the result's size,
// below 1e-1.
TEST(Wgmma, Fp8LosesOverADeepProduct) {
  const Matrix a = reals(kE4m3, 64, 1024, -1, 1, 1), b = reals(kE4m3, 1024, 64, -1, 1, 2), c(64, 64);
  Matrix positive_a = a, positive_b = b;
  for (double& v : positive_a.v) v = std::fabs(v);
  for (double& v : positive_b.v) v = std::fabs(v);
  Options o = {kE4m3, kE4m3};
  o.add_first = false;
  const std::vector<float> d = run<64, kE4m3SS>(positive_a, positive_b, c, o);
  double worst = 0;
  for (int m = 0; m < 64; ++m)
    for (int n = 0; n < 64; ++n) {
      double sum = 0;
      for (int k = 0; k < 1024; ++k) sum += positive_a.at(m, k) * positive_b.at(k, n);
      worst = std::max(worst, std::fabs(d[m * 64 + n] - sum) / sum);
    }
  EXPECT_GT(worst, 1e-3);
  EXPECT_LT(worst, 1e-1);
}

// The accumulator in f16: two sums per register.
__global__ void __launch_bounds__(128) half_sums(const __grid_constant__ Problem p, const u8* image, u32* d) {
  extern __shared__ u8 memory[];
  u8* s = memory + (1024 - shared_address(memory) % 1024) % 1024;
  for (u32 i = threadIdx.x * 16; i < p.a.bytes + p.b.bytes; i += 128 * 16)
    *reinterpret_cast<uint4*>(s + i) = *reinterpret_cast<const uint4*>(image + i);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  const u32 base = shared_address(s);
  u32 r[4] = {};
  wgmma_fence();
  for (int k = 0; k < 4; ++k)
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f16.f16.f16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
                 : "+r"(r[0]), "+r"(r[1]), "+r"(r[2]), "+r"(r[3])
                 : "l"(descriptor(p.a, base, k)), "l"(descriptor(p.b, base + p.a.bytes, k))
                 : "memory");
  wgmma_commit();
  wgmma_wait<0>();
  for (int i = 0; i < 4; ++i) d[threadIdx.x * 4 + i] = r[i];
}
TEST(Wgmma, HalfAccumulator) {
  const Matrix a = whole_numbers(64, 64, 4, 1), b = whole_numbers(64, 16, 4, 2), c(64, 16);
  std::vector<u8> image;
  Problem p{};
  p.a = lay_out(
      kF16, Order::kK, 1, 64, 64, [&](int r, int k) { return a.at(r, k); }, image);
  p.b = lay_out(
      kF16, Order::kK, 1, 16, 64, [&](int r, int k) { return b.at(k, r); }, image);
  Array<u8> di(image);
  Array<u32> dd(128 * 4);
  launch({.block = 128, .shared = u32(image.size()) + 1024}, half_sums, p, di.get(), dd.get());
  const std::vector<u32> got = dd.host();
  std::vector<float> d(64 * 16);
  for (int i = 0; i < 64 * 16; ++i) {
    const int t = i / 8, j = i % 8;
    d[(t / 32 * 16 + t % 32 / 4 + 8 * (j / 2 % 2)) * 16 + j / 4 * 8 + t % 4 * 2 + j % 2] =
        float(decode(kF16, got[t * 4 + j / 2] >> 16 * (j % 2) & 65535));
  }
  expect_exact(a, b, c, d, "f16 accumulator");
}

// Two groups in flight; the first is read while the second may still run.
__global__ void __launch_bounds__(128) groups(const __grid_constant__ Problem p, const u8* image, float* d) {
  extern __shared__ u8 memory[];
  u8* s = memory + (1024 - shared_address(memory) % 1024) % 1024;
  for (u32 i = threadIdx.x * 16; i < p.a.bytes + p.b.bytes; i += 128 * 16)
    *reinterpret_cast<uint4*>(s + i) = *reinterpret_cast<const uint4*>(image + i);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  const u32 base = shared_address(s);
  float x[32] = {}, y[32] = {};
  u32 none[4] = {};
  wgmma_fence();
  wgmma(Wgmma<64, kBf16SS>{}, x, none, descriptor(p.a, base, 0), descriptor(p.b, base + p.a.bytes, 0), 0);
  wgmma(Wgmma<64, kBf16SS>{}, x, none, descriptor(p.a, base, 1), descriptor(p.b, base + p.a.bytes, 1), 1);
  wgmma_commit();
  wgmma(Wgmma<64, kBf16SS>{}, y, none, descriptor(p.a, base, 2), descriptor(p.b, base + p.a.bytes, 2), 0);
  wgmma(Wgmma<64, kBf16SS>{}, y, none, descriptor(p.a, base, 3), descriptor(p.b, base + p.a.bytes, 3), 1);
  wgmma_commit();
  wgmma_wait<1>();
  for (int i = 0; i < 32; ++i) d[threadIdx.x * 32 + i] = x[i];
  wgmma_wait<0>();
  for (int i = 0; i < 32; ++i) d[(128 + threadIdx.x) * 32 + i] = y[i];
}
TEST(Wgmma, TwoGroupsInFlight) {
  const Matrix a = whole_numbers(64, 64, 4, 1), b = whole_numbers(64, 64, 4, 2);
  std::vector<u8> image;
  Problem p{};
  p.a = lay_out(
      kBf16, Order::kK, 1, 64, 64, [&](int r, int k) { return a.at(r, k); }, image);
  p.b = lay_out(
      kBf16, Order::kK, 1, 64, 64, [&](int r, int k) { return b.at(k, r); }, image);
  Array<u8> di(image);
  Array<float> dd(2 * 64 * 64);
  launch({.block = 128, .shared = u32(image.size()) + 1024}, groups, p, di.get(), dd.get());
  std::vector<float> want(2 * 64 * 64);
  for (int i = 0; i < 2 * 64 * 64; ++i) {
    const int half = i / 4096, t = i / 32 % 128, j = i % 32;
    const int m = t / 32 * 16 + t % 32 / 4 + 8 * (j / 2 % 2), n = j / 4 * 8 + t % 4 * 2 + j % 2;
    for (int k = 0; k < 32; ++k) want[i] += float(a.at(m, half * 32 + k) * b.at(half * 32 + k, n));
  }
  expect_same(dd.host(), want);
}

}  // namespace
}  // namespace silicon
