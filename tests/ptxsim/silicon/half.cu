// f16 and bf16 arithmetic, scalar and packed, against doubles rounded once.
#include "tests/ptxsim/silicon/formats.h"
#include "tests/ptxsim/silicon/harness.h"

namespace silicon {
namespace {

using u16 = uint16_t;
using u32 = uint32_t;

double relu(double v) { return v <= 0 ? 0.0 : v; }
double ftz_f16(double v) { return std::fabs(v) < 0x1p-14 ? std::copysign(0.0, v) : v; }
double saturated(double v) { return v != v ? 0.0 : std::min(std::max(v, 0.0), 1.0); }

// x, y, z: the inputs as doubles; what these give is rounded to the format.
#define EITHER(X, t)                                                                         \
  X("add." t " %0, %1, %2;", add_sticky(x, y))                                               \
  X("add.rn." t " %0, %1, %2;", add_sticky(x, y))                                            \
  X("sub." t " %0, %1, %2;", add_sticky(x, -y))                                              \
  X("mul." t " %0, %1, %2;", x* y)                                                           \
  X("fma.rn." t " %0, %1, %2, %3;", add_sticky(x* y, z))                                     \
  X("fma.rn.relu." t " %0, %1, %2, %3;", relu(add_sticky(x* y, z)))                          \
  X("neg." t " %0, %1;", -x)                                                                 \
  X("abs." t " %0, %1;", std::fabs(x))                                                       \
  X("min." t " %0, %1, %2;", minimum(x, y))                                                  \
  X("max." t " %0, %1, %2;", maximum(x, y))                                                  \
  X("min.NaN." t " %0, %1, %2;", nan_or(minimum(x, y), x, y))                                \
  X("max.NaN." t " %0, %1, %2;", nan_or(maximum(x, y), x, y))                                \
  X("min.xorsign.abs." t " %0, %1, %2;", xorsign(minimum(std::fabs(x), std::fabs(y)), x, y)) \
  X("max.xorsign.abs." t " %0, %1, %2;", xorsign(maximum(std::fabs(x), std::fabs(y)), x, y))
#define ONLY_F16(X, t)                                                  \
  X("add.sat." t " %0, %1, %2;", saturated(add_sticky(x, y)))           \
  X("mul.sat." t " %0, %1, %2;", saturated(x* y))                       \
  X("fma.rn.sat." t " %0, %1, %2, %3;", saturated(add_sticky(x* y, z))) \
  X("mul.ftz." t " %0, %1, %2;", ftz_f16(decode(kF16, encode(kF16, ftz_f16(x) * ftz_f16(y)))))
#define COMPARES(X, t)                                                                             \
  X("{.reg .pred p; setp.lt." t " p, %1, %2; selp.b16 %0, %3, %1, p;}", x < y ? z : x)             \
  X("{.reg .pred p; setp.geu." t " p, %1, %2; selp.b16 %0, %3, %1, p;}", !(x < y) ? z : x)         \
  X("{.reg .pred p; setp.ne." t " p, %1, %2; selp.b16 %0, %3, %1, p;}", x<y || x> y ? z : x)       \
  X("{.reg .pred p; setp.nan." t " p, %1, %2; selp.b16 %0, %3, %1, p;}", x != x || y != y ? z : x) \
  X("set.le." t "." t " %0, %1, %2;", x <= y ? 1.0 : 0.0)
// Two predicates: one of the low halves, one of the high ones.
#define COMPARES_2(X, t)                                                                         \
  X("{.reg .pred p, q; .reg .b16 l, h, m, n; mov.b32 {l, h}, %3; mov.b32 {m, n}, %1; setp.lt." t \
    " p|q, %1, %2;"                                                                              \
    " selp.b16 l, l, m, p; selp.b16 h, h, n, q; mov.b32 %0, {l, h};}",                           \
    x < y ? z : x)                                                                               \
  X("set.gt." t "." t " %0, %1, %2;", x > y ? 1.0 : 0.0)

template <const Format& F, typename G>
u16 scalar(u16 a, u16 b, u16 c, G g) {
  return u16(encode(F, g(decode(F, a), decode(F, b), decode(F, c))));
}
template <const Format& F, typename G>
u32 packed(u32 a, u32 b, u32 c, G g) {
  return u32(scalar<F>(u16(a >> 16), u16(b >> 16), u16(c >> 16), g)) << 16 |
         scalar<F>(u16(a), u16(b), u16(c), g);
}
#define LAMBDA(...) \
  [](double x, double y, double z) { return (void)x, (void)y, (void)z, double(__VA_ARGS__); }
#define HOST_F16(ptx, ...) \
  {ptx, [](u16 a, u16 b, u16 c) { return scalar<kF16>(a, b, c, LAMBDA(__VA_ARGS__)); }},
#define HOST_BF16(ptx, ...) \
  {ptx, [](u16 a, u16 b, u16 c) { return scalar<kBf16>(a, b, c, LAMBDA(__VA_ARGS__)); }},
#define HOST_F16X2(ptx, ...) \
  {ptx, [](u32 a, u32 b, u32 c) { return packed<kF16>(a, b, c, LAMBDA(__VA_ARGS__)); }},
#define HOST_BF16X2(ptx, ...) \
  {ptx, [](u32 a, u32 b, u32 c) { return packed<kBf16>(a, b, c, LAMBDA(__VA_ARGS__)); }},
#define DEVICE16(ptx, ...)                     \
  asm(ptx : "=h"(d) : "h"(a), "h"(b), "h"(c)); \
  out[k++ * n + i] = d;
#define DEVICE32(ptx, ...)                     \
  asm(ptx : "=r"(d) : "r"(a), "r"(b), "r"(c)); \
  out[k++ * n + i] = d;

#define OPS_F16(X) EITHER(X, "f16") ONLY_F16(X, "f16") COMPARES(X, "f16")
#define OPS_BF16(X) EITHER(X, "bf16") COMPARES(X, "bf16")
#define OPS_F16X2(X) EITHER(X, "f16x2") ONLY_F16(X, "f16x2") COMPARES_2(X, "f16x2")
#define OPS_BF16X2(X) EITHER(X, "bf16x2") COMPARES_2(X, "bf16x2")
#define APPROXIMATE_F16(X) \
  X("ex2.approx.f16 %0, %1;", std::exp2(x)) X("tanh.approx.f16 %0, %1;", std::tanh(x))
#define APPROXIMATE_BF16(X) \
  X("ex2.approx.ftz.bf16 %0, %1;", std::exp2(x)) X("tanh.approx.bf16 %0, %1;", std::tanh(x))

const Op<u16, u16> kOpsF16[] = {OPS_F16(HOST_F16)}, kOpsBf16[] = {OPS_BF16(HOST_BF16)},
                   kApproximateF16[] = {APPROXIMATE_F16(HOST_F16)},
                   kApproximateBf16[] = {APPROXIMATE_BF16(HOST_BF16)};
const Op<u32, u32> kOpsF16x2[] = {OPS_F16X2(HOST_F16X2)}, kOpsBf16x2[] = {OPS_BF16X2(HOST_BF16X2)};

#define KERNEL(name, T, ops)                             \
  __global__ void name(const T* in, int n, T* out) {     \
    const int i = blockIdx.x * blockDim.x + threadIdx.x; \
    if (i >= n) return;                                  \
    const T a = in[i], b = in[n + i], c = in[2 * n + i]; \
    T d;                                                 \
    int k = 0;                                           \
    ops                                                  \
  }
KERNEL(run_f16, u16, OPS_F16(DEVICE16))
KERNEL(run_bf16, u16, OPS_BF16(DEVICE16))
KERNEL(run_f16x2, u32, OPS_F16X2(DEVICE32))
KERNEL(run_bf16x2, u32, OPS_BF16X2(DEVICE32))
KERNEL(approximate_f16, u16, APPROXIMATE_F16(DEVICE16))
KERNEL(approximate_bf16, u16, APPROXIMATE_BF16(DEVICE16))

template <const Format& F, typename T>
bool same_numbers(T got, T want) {
  for (int shift = 0; shift < int(sizeof(T)) * 8; shift += 16) {
    const u16 g = u16(got >> shift), w = u16(want >> shift);
    if (g != w && !(std::isnan(decode(F, g)) && std::isnan(decode(F, w)))) return false;
  }
  return true;
}

template <typename T, size_t N>
void run(void (*kernel)(const T*, int, T*), const Op<T, T> (&ops)[N], const std::vector<T>& x,
         bool (*ok)(T, T)) {
  const int n = int(x.size() / 3);
  Array<T> in(x), out(N * n);
  launch({.grid = dim3((n + 255) / 256), .block = 256}, kernel, in.get(), n, out.get());
  expect_table(ops, std::vector<T>(x.begin(), x.begin() + n),
               std::vector<T>(x.begin() + n, x.begin() + 2 * n), std::vector<T>(x.begin() + 2 * n, x.end()),
               out.host(), ok);
}

// Random bits (all exponents, NaN and infinity among them), and numbers near each other.
template <typename T>
std::vector<T> inputs(const Format& f, double range) {
  Random random(f.exponent);
  const auto number = [&] { return encode(f, random.real(-range, range)); };
  constexpr int n = 1500;
  std::vector<T> x(3 * n);
  for (int i = 0; i < 3 * n; ++i) x[i] = i % 3 ? T(u32(number()) << 16 | number()) : T(random.bits());
  for (int i = 0; i < n; i += 5) x[n + i] = x[i] + T(i % 7);
  return x;
}

TEST(Half, F16) { run(run_f16, kOpsF16, inputs<u16>(kF16, 12), same_numbers<kF16, u16>); }
TEST(Half, Bf16) { run(run_bf16, kOpsBf16, inputs<u16>(kBf16, 30), same_numbers<kBf16, u16>); }
TEST(Half, F16x2) { run(run_f16x2, kOpsF16x2, inputs<u32>(kF16, 12), same_numbers<kF16, u32>); }
TEST(Half, Bf16x2) { run(run_bf16x2, kOpsBf16x2, inputs<u32>(kBf16, 30), same_numbers<kBf16, u32>); }

// The ISA's bounds (2^-9.9 relative and 2^-10.9 absolute for f16, 2^-7 and 2^-8 for bf16) plus rounding to
// the format.
template <const Format& F>
bool close(u16 got, u16 want) {
  const double g = decode(F, got), w = decode(F, want), unit = std::ldexp(1.0, -F.mantissa);
  return std::fabs(g - w) <= 1.6 * unit * std::max(std::fabs(w), 0x1p-14);
}
TEST(Half, Approximations) {
  std::vector<u16> x(3 * 512), y(3 * 512);
  Random random(5);
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = random.real(-6, 3);
    x[i] = u16(encode(kF16, v)), y[i] = u16(encode(kBf16, v));
  }
  run(approximate_f16, kApproximateF16, x, close<kF16>);
  run(approximate_bf16, kApproximateBf16, y, close<kBf16>);
}

}  // namespace
}  // namespace silicon
