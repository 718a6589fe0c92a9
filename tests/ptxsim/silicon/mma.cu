// ldmatrix, stmatrix, movmatrix, and every shape of mma.sync on f16, bf16, tf32 and fp8.
#include "tests/ptxsim/silicon/tensor_core.h"

namespace silicon {
namespace {

using u16 = uint16_t;
using u32 = uint32_t;

// --- matrices of 8 x 8 16-bit elements ---
__global__ void matrices(const u16* in, u32* loaded, u16* stored) {
  __shared__ __align__(128) u16 s[4][8][8], t[4][8][8];
  const u32 lane = threadIdx.x;
  for (u32 i = lane; i < 256; i += 32) (&s[0][0][0])[i] = in[i], (&t[0][0][0])[i] = 0;
  __syncwarp();
  // Row r of matrix m comes from lane 8 m + r; rows are given in reverse to see that the addresses count.
  const u32 row = shared_address(&s[lane / 8][7 - lane % 8][0]),
            to = shared_address(&t[lane / 8][lane % 8][0]);
  u32 r[4], *o = loaded + lane * 16;
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(o[0]) : "r"(row) : "memory");
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
               : "=r"(o[1])
               : "r"(row)
               : "memory");
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(o[2]), "=r"(o[3])
               : "r"(row)
               : "memory");
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared::cta.b16 {%0, %1}, [%2];"
               : "=r"(o[4]), "=r"(o[5])
               : "r"(row)
               : "memory");
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
  for (int i = 0; i < 4; ++i) o[6 + i] = r[i];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(o[10]), "=r"(o[11]), "=r"(o[12]), "=r"(o[13])
               : "r"(row)
               : "memory");
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(o[14]) : "r"(r[0]));
  o[15] = 0;
  const auto flush = [&](u32 at) {
    __syncwarp();
    for (u32 i = lane; i < 256; i += 32) stored[at * 256 + i] = (&t[0][0][0])[i], (&t[0][0][0])[i] = 0;
    __syncwarp();
  };
  asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(to), "r"(r[0]) : "memory");
  flush(0);
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(to), "r"(r[0]),
               "r"(r[1])
               : "memory");
  flush(1);
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
  flush(2);
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
  flush(3);
}
TEST(Mma, MatrixLoadsAndStores) {
  std::vector<u16> x(256), stored(4 * 256, 0);
  Random random(1);
  for (u16& v : x) v = u16(random.bits());
  const auto at = [&](int m, int r, int c) { return u32(x[m * 64 + (7 - r) * 8 + c]); };
  std::vector<u32> loaded;
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, c = lane % 4 * 2;
    const auto plain = [&](int m) { return at(m, g, c) | at(m, g, c + 1) << 16; };
    const auto transposed = [&](int m) { return at(m, c, g) | at(m, c + 1, g) << 16; };
    loaded.insert(loaded.end(), {plain(0), transposed(0), plain(0), plain(1), transposed(0), transposed(1),
                                 plain(0), plain(1), plain(2), plain(3), transposed(0), transposed(1),
                                 transposed(2), transposed(3), transposed(0), 0});
  }
  for (int m = 0; m < 4; ++m)
    for (int r = 0; r < 8; ++r)
      for (int c = 0; c < 8; ++c) {
        const int i = m * 64 + r * 8 + c;
        if (m < 1) stored[i] = u16(at(m, r, c));
        if (m < 2) stored[256 + i] = u16(at(m, c, r));
        stored[512 + i] = u16(at(m, r, c));
        stored[768 + i] = u16(at(m, c, r));
      }
  Array<u16> in(x), out(4 * 256);
  Array<u32> got(32 * 16);
  launch({}, matrices, in.get(), got.get(), out.get());
  expect_same(got.host(), loaded, "loaded");
  expect_same(out.host(), stored, "stored");
}

// --- mma.sync ---
#define SHAPES_4_2(X)                          \
  X("m16n8k16", "bf16.bf16", kBf16, kBf16, 16) \
  X("m16n8k16", "f16.f16", kF16, kF16, 16)     \
  X("m16n8k8", "tf32.tf32", kTf32, kTf32, 8)   \
  X("m16n8k32", "e4m3.e4m3", kE4m3, kE4m3, 32) \
  X("m16n8k32", "e5m2.e4m3", kE5m2, kE4m3, 32) \
  X("m16n8k32", "e4m3.e5m2", kE4m3, kE5m2, 32) X("m16n8k32", "e5m2.e5m2", kE5m2, kE5m2, 32)
#define SHAPES_2_1(X)                        \
  X("m16n8k8", "bf16.bf16", kBf16, kBf16, 8) \
  X("m16n8k8", "f16.f16", kF16, kF16, 8) X("m16n8k4", "tf32.tf32", kTf32, kTf32, 4)
struct MmaShape {
  const char* name;
  Format a, b;
  int k;
};
#define ROW(shape, types, a, b, k) {shape "." types, a, b, k},
const MmaShape kShapes[] = {SHAPES_4_2(ROW) SHAPES_2_1(ROW)};

__global__ void multiply(int which, const u32* a, const u32* b, float* d) {
  const u32 lane = threadIdx.x;
  a += lane * 4, b += lane * 2, d += lane * 4;
  int k = 0;
#define RUN_4_2(shape, types, ...)                                    \
  if (which == k++)                                                   \
    asm volatile("mma.sync.aligned." shape ".row.col.f32." types      \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}," \
                 " {%0, %1, %2, %3};"                                 \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#define RUN_2_1(shape, types, ...)                                \
  if (which == k++)                                               \
    asm volatile("mma.sync.aligned." shape ".row.col.f32." types  \
                 ".f32 {%0, %1, %2, %3}, {%4, %5}, {%6},"         \
                 " {%0, %1, %2, %3};"                             \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) \
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]));
  SHAPES_4_2(RUN_4_2)
  SHAPES_2_1(RUN_2_1)
}
__global__ void multiply_f16(const u32* a, const u32* b, u32* d) {
  const u32 lane = threadIdx.x;
  a += lane * 4, b += lane * 2, d += lane * 2;
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
      : "+r"(d[0]), "+r"(d[1])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// tf32 sits in the high bits of a word.
u32 element(const Format& f, double v) { return f.bits == 19 ? encode(f, v) << 13 : encode(f, v); }
std::vector<u32> fragments(const Format& f, const Matrix& m, bool is_a, int registers) {
  const int bits = f.bits == 19 ? 32 : f.bits, per_word = 32 / bits;
  std::vector<u32> words(32 * registers, 0);
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < registers; ++i)
      for (int e = 0; e < per_word; ++e) {
        const int g = lane / 4, k = lane % 4 * per_word + e + (is_a ? i / 2 : i) * 4 * per_word;
        if (k >= (is_a ? m.columns : m.rows)) continue;
        words[lane * registers + i] |= element(f, is_a ? m.at(g + 8 * (i % 2), k) : m.at(k, g)) << bits * e;
      }
  return words;
}
int accumulator_index(int lane, int i) { return (lane / 4 + 8 * (i / 2)) * 8 + lane % 4 * 2 + i % 2; }

std::vector<float> run(int which, const Matrix& a, const Matrix& b, const Matrix& c) {
  const MmaShape& s = kShapes[which];
  std::vector<float> frag(128), d(128);
  for (int i = 0; i < 128; ++i) frag[i] = float(c.v[accumulator_index(i / 4, i % 4)]);
  Array<u32> da(fragments(s.a, a, true, 4)), db(fragments(s.b, b, false, 2));
  Array<float> dd(frag);
  launch({}, multiply, which, da.get(), db.get(), dd.get());
  const std::vector<float> got = dd.host();
  for (int i = 0; i < 128; ++i) d[accumulator_index(i / 4, i % 4)] = got[i];
  return d;
}
TEST(Mma, EveryShapeExact) {
  for (size_t i = 0; i < std::size(kShapes); ++i) {
    const Matrix a = whole_numbers(16, kShapes[i].k, 7, i), b = whole_numbers(kShapes[i].k, 8, 4, i + 50),
                 c = whole_numbers(16, 8, 99, i + 99);
    expect_exact(a, b, c, run(int(i), a, b, c), kShapes[i].name);
  }
}
TEST(Mma, EveryShapeOverDecades) {
  for (size_t i = 0; i < std::size(kShapes); ++i) {
    const MmaShape& s = kShapes[i];
    const Matrix a = reals(s.a, 16, s.k, -4, 4, i), b = reals(s.b, s.k, 8, -4, 4, i + 50),
                 c = reals(kF32, 16, 8, -6, 6, i + 99);
    const bool fp8 = s.a.bits == 8;
    expect_product(a, b, c, run(int(i), a, b, c), s.k, fp8 ? 13 : 24, fp8 ? 13 : 23, s.name);
  }
}
TEST(Mma, SpecialValues) {
  Matrix a = whole_numbers(16, 16, 3, 1), b = whole_numbers(16, 8, 3, 2), c = whole_numbers(16, 8, 3, 3);
  for (double& v : b.v) v = std::fabs(v) + 1;
  a.at(2, 3) = INFINITY, a.at(5, 1) = -INFINITY, a.at(7, 7) = NAN, a.at(9, 0) = INFINITY,
          a.at(9, 15) = -INFINITY;
  expect_exact(a, b, c, run(0, a, b, c), "bf16");
  expect_exact(a, b, c, run(1, a, b, c), "f16");
}
TEST(Mma, HalfAccumulator) {
  const Matrix a = whole_numbers(16, 16, 7, 1), b = whole_numbers(16, 8, 4, 2),
               c = whole_numbers(16, 8, 99, 3);
  std::vector<u32> frag(64);
  for (int i = 0; i < 128; ++i)
    frag[i / 2] |= encode(kF16, c.v[accumulator_index(i / 4, i % 4)]) << 16 * (i % 2);
  Array<u32> da(fragments(kF16, a, true, 4)), db(fragments(kF16, b, false, 2)), dd(frag);
  launch({}, multiply_f16, da.get(), db.get(), dd.get());
  const std::vector<u32> got = dd.host();
  std::vector<float> d(128);
  for (int i = 0; i < 128; ++i)
    d[accumulator_index(i / 4, i % 4)] = float(decode(kF16, got[i / 2] >> 16 * (i % 2) & 65535));
  expect_exact(a, b, c, d, "f16 accumulator");
}

}  // namespace
}  // namespace silicon
