// f32 and f64 arithmetic: exact bits in every rounding mode, documented bounds for the approximations.
#include <algorithm>
#include <cfenv>
#include <limits>

#include "tests/ptxsim/silicon/formats.h"
#include "tests/ptxsim/silicon/harness.h"

namespace silicon {
namespace {

// Runs f(a, b, c) in a rounding mode. The volatiles keep the arithmetic between the two calls.
template <typename T, typename F>
T rounded(int mode, T a, T b, T c, F f) {
  volatile T x = a, y = b, z = c;
  std::fesetround(mode);
  volatile T r = f(x, y, z);
  std::fesetround(FE_TONEAREST);
  return r;
}
float ftz(float v) { return std::fabs(v) < 0x1p-126f ? std::copysign(0.0f, v) : v; }
float sat(float v) { return v != v ? 0.0f : v <= 0 ? 0.0f : std::min(v, 1.0f); }
#define ROUNDED(T, mode, ...) \
  rounded<T>(mode, a, b, c, [](T a, T b, T c) { return (void)a, (void)b, (void)c, T(__VA_ARGS__); })
#define MODES(X, T, op, type, operands, ...)                                     \
  X(op ".rn." type " %0, " operands ";", ROUNDED(T, FE_TONEAREST, __VA_ARGS__))  \
  X(op ".rz." type " %0, " operands ";", ROUNDED(T, FE_TOWARDZERO, __VA_ARGS__)) \
  X(op ".rm." type " %0, " operands ";", ROUNDED(T, FE_DOWNWARD, __VA_ARGS__))   \
  X(op ".rp." type " %0, " operands ";", ROUNDED(T, FE_UPWARD, __VA_ARGS__))
#define COMPARE(X, type, rel, ...) \
  X("{.reg .pred p; setp." rel "." type " p, %1, %2; selp." type " %0, %3, %1, p;}", (__VA_ARGS__) ? c : a)
#define UNORDERED (a != a || b != b)
#define BOTH_TYPES(X, T, t)                                                                          \
  MODES(X, T, "add", t, "%1, %2", a + b)                                                             \
  MODES(X, T, "sub", t, "%1, %2", a - b)                                                             \
  MODES(X, T, "mul", t, "%1, %2", a* b)                                                              \
  MODES(X, T, "fma", t, "%1, %2, %3", std::fma(a, b, c))                                             \
  MODES(X, T, "div", t, "%1, %2", a / b)                                                             \
  MODES(X, T, "sqrt", t, "%1", std::sqrt(a))                                                         \
  MODES(X, T, "rcp", t, "%1", T(1) / a)                                                              \
  X("min." t " %0, %1, %2;", minimum(a, b))                                                          \
  X("max." t " %0, %1, %2;", maximum(a, b))                                                          \
  X("abs." t " %0, %1;", std::fabs(a))                                                               \
  X("neg." t " %0, %1;", -a)                                                                         \
  X("copysign." t " %0, %1, %2;", std::copysign(b, a))                                               \
  X("cvt.rni." t "." t " %0, %1;", std::nearbyint(a))                                                \
  X("cvt.rzi." t "." t " %0, %1;", std::trunc(a))                                                    \
  X("cvt.rmi." t "." t " %0, %1;", std::floor(a))                                                    \
  X("cvt.rpi." t "." t " %0, %1;", std::ceil(a))                                                     \
  COMPARE(X, t, "eq", a == b)                                                                        \
  COMPARE(X, t, "ne", a != b && !UNORDERED)                                                          \
  COMPARE(X, t, "lt", a < b)                                                                         \
  COMPARE(X, t, "le", a <= b)                                                                        \
  COMPARE(X, t, "gt", a > b)                                                                         \
  COMPARE(X, t, "ge", a >= b)                                                                        \
  COMPARE(X, t, "equ", a == b || UNORDERED)                                                          \
  COMPARE(X, t, "neu", a != b)                                                                       \
  COMPARE(X, t, "ltu", !(a >= b))                                                                    \
  COMPARE(X, t, "leu", !(a > b))                                                                     \
  COMPARE(X, t, "gtu", !(a <= b))                                                                    \
  COMPARE(X, t, "geu", !(a < b))                                                                     \
  COMPARE(X, t, "num", !UNORDERED)                                                                   \
  COMPARE(X, t, "nan", UNORDERED)                                                                    \
  X("{.reg .pred p; testp.finite." t " p, %1; selp." t " %0, %2, %3, p;}", std::isfinite(a) ? b : c) \
  X("{.reg .pred p; testp.infinite." t " p, %1; selp." t " %0, %2, %3, p;}", std::isinf(a) ? b : c)  \
  X("{.reg .pred p; testp.number." t " p, %1; selp." t " %0, %2, %3, p;}", a == a ? b : c)           \
  X("{.reg .pred p; testp.notanumber." t " p, %1; selp." t " %0, %2, %3, p;}", a != a ? b : c)       \
  X("{.reg .pred p; testp.normal." t " p, %1; selp." t " %0, %2, %3, p;}",                           \
    std::isnormal(a) || a == 0 ? b : c)                                                              \
  X("{.reg .pred p; testp.subnormal." t " p, %1; selp." t " %0, %2, %3, p;}",                        \
    std::fpclassify(a) == FP_SUBNORMAL ? b : c)

#define OPS32(X)                                                                                             \
  BOTH_TYPES(X, float, "f32")                                                                                \
  X("add.ftz.f32 %0, %1, %2;", ftz(ftz(a) + ftz(b)))                                                         \
  X("mul.ftz.f32 %0, %1, %2;", ftz(ftz(a) * ftz(b)))                                                         \
  X("fma.rn.ftz.f32 %0, %1, %2, %3;", ftz(std::fma(ftz(a), ftz(b), ftz(c))))                                 \
  X("add.sat.f32 %0, %1, %2;", sat(a + b))                                                                   \
  X("mul.sat.f32 %0, %1, %2;", sat(a* b))                                                                    \
  X("fma.rn.sat.f32 %0, %1, %2, %3;", sat(std::fma(a, b, c)))                                                \
  X("cvt.sat.f32.f32 %0, %1;", sat(a))                                                                       \
  X("cvt.ftz.f32.f32 %0, %1;", ftz(a))                                                                       \
  X("min.ftz.f32 %0, %1, %2;", minimum(ftz(a), ftz(b)))                                                      \
  X("min.NaN.f32 %0, %1, %2;", nan_or(minimum(a, b), a, b))                                                  \
  X("max.NaN.f32 %0, %1, %2;", nan_or(maximum(a, b), a, b))                                                  \
  X("min.xorsign.abs.f32 %0, %1, %2;", xorsign(minimum(std::fabs(a), std::fabs(b)), a, b))                   \
  X("max.NaN.xorsign.abs.f32 %0, %1, %2;", nan_or(xorsign(maximum(std::fabs(a), std::fabs(b)), a, b), a, b)) \
  X("set.lt.f32.f32 %0, %1, %2;", a < b ? 1.0f : 0.0f)                                                       \
  X("{.reg .pred p; setp.lt.ftz.f32 p, %1, %2; selp.f32 %0, %3, %1, p;}", ftz(a) < ftz(b) ? c : a)           \
  X("slct.f32.f32 %0, %1, %2, %3;", c >= 0 ? a : b)                                                          \
  X("mov.f32 %0, 0f3FB504F3;", 0x1.6a09e6p0f)                                                                \
  X("{.reg .b32 t; mov.b32 t, %1; xor.b32 t, t, 0x80000000; mov.b32 %0, t;}", -a)

#define OPS64(X)               \
  BOTH_TYPES(X, double, "f64") \
  X("mov.f64 %0, 0d3FF6A09E667F3BCD;", 0x1.6a09e667f3bcdp0)

// Relative error 2^-21 (the ISA promises 2 ulp or less, exponents in the normal range).
#define APPROXIMATE(X)                                      \
  X("rcp.approx.f32 %0, %1;", 1.0 / a)                      \
  X("rsqrt.approx.f32 %0, %1;", 1.0 / std::sqrt(double(a))) \
  X("sqrt.approx.f32 %0, %1;", std::sqrt(double(a)))        \
  X("div.approx.f32 %0, %1, %2;", double(a) / b)            \
  X("div.full.f32 %0, %1, %2;", double(a) / b)              \
  X("ex2.approx.f32 %0, %3;", std::exp2(double(c)))
// Absolute error 2^-20 over one period, 2^-20 relative or absolute for the logarithm.
#define PERIODIC(X)                                \
  X("sin.approx.f32 %0, %3;", std::sin(double(c))) \
  X("cos.approx.f32 %0, %3;", std::cos(double(c))) \
  X("lg2.approx.f32 %0, %1;", std::log2(double(a)))

#define HOST(ptx, ...) \
  {ptx, [](Word a, Word b, Word c) -> Word { return (void)a, (void)b, (void)c, Word(__VA_ARGS__); }},
#define DEVICE32(ptx, ...)                     \
  asm(ptx : "=f"(d) : "f"(a), "f"(b), "f"(c)); \
  out[k++ * n + i] = d;
#define DEVICE64(ptx, ...)                     \
  asm(ptx : "=d"(d) : "d"(a), "d"(b), "d"(c)); \
  out[k++ * n + i] = d;

namespace w32 {
using Word = float;
const Op<Word, Word> kOps[] = {OPS32(HOST)}, kApproximate[] = {APPROXIMATE(HOST)},
                     kPeriodic[] = {PERIODIC(HOST)},
                     kTanh[] = {HOST("tanh.approx.f32 %0, %1;", std::tanh(double(a)))};
}  // namespace w32
namespace w64 {
using Word = double;
const Op<Word, Word> kOps[] = {OPS64(HOST)};
}  // namespace w64

#define KERNEL(name, T, ops)                             \
  __global__ void name(const T* x, int n, T* out) {      \
    const int i = blockIdx.x * blockDim.x + threadIdx.x; \
    if (i >= n) return;                                  \
    const T a = x[i], b = x[n + i], c = x[2 * n + i];    \
    T d;                                                 \
    int k = 0;                                           \
    ops                                                  \
  }
KERNEL(run32, float, OPS32(DEVICE32))
KERNEL(run64, double, OPS64(DEVICE64))
KERNEL(run_approximate, float, APPROXIMATE(DEVICE32))
KERNEL(run_periodic, float, PERIODIC(DEVICE32))
KERNEL(run_tanh, float, DEVICE32("tanh.approx.f32 %0, %1;"))

template <typename T, size_t N>
void run(void (*kernel)(const T*, int, T*), const Op<T, T> (&ops)[N], const std::vector<T>& x,
         bool (*ok)(T, T) = same<T>) {
  const int n = int(x.size() / 3);
  Array<T> in(x), out(N * n);
  launch({.grid = dim3((n + 255) / 256), .block = 256}, kernel, in.get(), n, out.get());
  expect_table(ops, std::vector<T>(x.begin(), x.begin() + n),
               std::vector<T>(x.begin() + n, x.begin() + 2 * n), std::vector<T>(x.begin() + 2 * n, x.end()),
               out.host(), ok);
}

// Every pair of the special values, then neighbours (cancellation, ties) and random numbers over all
// exponents.
template <typename T>
std::vector<T> inputs(int seed) {
  using L = std::numeric_limits<T>;
  const T special[] = {T(0),
                       -T(0),
                       L::infinity(),
                       -L::infinity(),
                       L::quiet_NaN(),
                       L::denorm_min(),
                       -L::min(),
                       L::max(),
                       L::lowest(),
                       T(1),
                       -T(1),
                       T(2.5),
                       T(-3.5),
                       L::min() * T(1.5),
                       1 + L::epsilon(),
                       L::min() / 2};
  constexpr int n = 1000;
  Random random(seed);
  std::vector<T> x(3 * n);
  for (int i = 0; i < 3 * n; ++i) {
    const double range = i % 3 == 0 ? 4 : i % 3 == 1 ? 30 : L::max_exponent - 1;
    x[i] = T(random.real(-range, range));
  }
  for (int i = 0; i < 256; ++i)
    x[i] = special[i / 16], x[n + i] = special[i % 16], x[2 * n + i] = special[i * 7 % 16];
  for (int i = 256; i < 400; ++i) x[n + i] = std::nextafter(i % 2 ? x[i] : -x[i], T(0));
  for (int i = 256; i < 400; i += 3) x[2 * n + i] = -x[i] * x[n + i];
  return x;
}

TEST(Float, Single) { run(run32, w32::kOps, inputs<float>(1)); }
TEST(Float, Double) { run(run64, w64::kOps, inputs<double>(2)); }

std::vector<float> moderate(double range_a, double range_c) {
  Random random(3);
  std::vector<float> x(3000);
  for (int i = 0; i < 1000; ++i) {
    x[i] = std::fabs(float(random.real(-range_a, range_a)));
    x[1000 + i] = float(random.real(-40, 40));
    x[2000 + i] = float((random.unit() * 2 - 1) * range_c);
  }
  return x;
}
bool within(double got, double want, double relative, double absolute) {
  return std::fabs(got - want) <= relative * std::fabs(want) + absolute;
}

TEST(Float, Approximations) {
  run(
      run_approximate, w32::kApproximate, moderate(60, 100),
      +[](float g, float w) { return within(g, w, 0x1p-21, 0); });
  run(
      run_periodic, w32::kPeriodic, moderate(60, 6.28),
      +[](float g, float w) { return within(g, w, 0x1p-21, 0x1p-20); });
  run(
      run_tanh, w32::kTanh, moderate(3, 1), +[](float g, float w) { return within(g, w, 0x1p-10, 0); });
}

// What the approximations give where no rounding is involved.
__global__ void approximate_specials(const float* x, float* out) {
  const float v = x[threadIdx.x];
  float r[8];
  asm("rcp.approx.f32 %0, %1;" : "=f"(r[0]) : "f"(v));
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(r[1]) : "f"(v));
  asm("sqrt.approx.f32 %0, %1;" : "=f"(r[2]) : "f"(v));
  asm("ex2.approx.f32 %0, %1;" : "=f"(r[3]) : "f"(v));
  asm("lg2.approx.f32 %0, %1;" : "=f"(r[4]) : "f"(v));
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r[5]) : "f"(v));
  asm("tanh.approx.f32 %0, %1;" : "=f"(r[6]) : "f"(v));
  asm("sin.approx.f32 %0, %1;" : "=f"(r[7]) : "f"(v));
  for (int i = 0; i < 8; ++i) out[threadIdx.x * 8 + i] = r[i];
}
TEST(Float, ApproximationsOfSpecials) {
  const float inf = INFINITY, nan = NAN;
  const std::vector<float> x = {0.0f, -0.0f, inf, -inf, nan};
  const std::vector<float> want = {
      inf,   inf,  0.0f,  1.0f, -inf, 1.0f, 0.0f,  0.0f,   // 0
      -inf,  -inf, -0.0f, 1.0f, -inf, 1.0f, -0.0f, -0.0f,  // -0
      0.0f,  0.0f, inf,   inf,  inf,  inf,  1.0f,  nan,    // inf
      -0.0f, nan,  nan,   0.0f, nan,  0.0f, -1.0f, nan,    // -inf
      nan,   nan,  nan,   nan,  nan,  nan,  nan,   nan,
  };
  Array<float> in(x), out(want.size());
  launch({.block = 5}, approximate_specials, in.get(), out.get());
  expect_same(out.host(), want);
}

// The C++ operators and functions as nvcc compiles them: libdevice code, not single instructions.
__global__ void library(const double* x, double* out) {
  const double v = x[threadIdx.x];
  const float f = float(v);
  double* o = out + threadIdx.x * 10;
  o[0] = exp(v), o[1] = log(v), o[2] = sin(v), o[3] = pow(v, 1.7), o[4] = cbrt(v);
  o[5] = expf(f), o[6] = logf(f), o[7] = sinf(f), o[8] = powf(f, 1.7f), o[9] = erff(f);
}
TEST(Float, LibraryFunctions) {
  std::vector<double> x(64);
  Random random(4);
  for (double& v : x) v = float(std::fabs(random.real(-6, 6)));
  Array<double> in(x), out(640);
  launch({.block = 64}, library, in.get(), out.get());
  const std::vector<double> got = out.host();
  for (int i = 0; i < 64; ++i) {
    const double v = x[i];
    const double want[] = {std::exp(v), std::log(v), std::sin(v), std::pow(v, 1.7), std::cbrt(v),
                           std::exp(v), std::log(v), std::sin(v), std::pow(v, 1.7), std::erf(v)};
    for (int k = 0; k < 10; ++k) {
      const double error = k < 5 ? 0x1p-51 : 0x1p-21;  // 2 ulp of double, 4 of float
      EXPECT_TRUE(within(got[i * 10 + k], want[k], error, error * 0x1p-2))
          << "function " << k << " of " << v << ": " << got[i * 10 + k] << ", expected " << want[k];
    }
  }
}

}  // namespace
}  // namespace silicon
