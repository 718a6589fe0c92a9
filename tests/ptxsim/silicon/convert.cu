// cvt between every pair of types the kernels use: all roundings, saturation, NaN and out-of-range values.
#include <limits>

#include "tests/ptxsim/silicon/formats.h"
#include "tests/ptxsim/silicon/harness.h"

namespace silicon {
namespace {

using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s32 = int32_t;
using s64 = int64_t;

constexpr Round kRn = Round::kNearestEven, kRna = Round::kNearestAway, kRz = Round::kZero, kRm = Round::kDown,
                kRp = Round::kUp;

// Float to integer: clamped; NaN is 0, or the top bit where either side has 64 bits.
template <typename I>
u64 to_integer(double x, Round mode, bool from_f64) {
  constexpr int kBits = sizeof(I) * 8;
  if (x != x) return from_f64 || kBits == 64 ? u64(1) << (kBits - 1) : 0;
  const double r = mode == kRn   ? std::nearbyint(x)
                   : mode == kRz ? std::trunc(x)
                   : mode == kRm ? std::floor(x)
                                 : std::ceil(x);
  const long double low = std::numeric_limits<I>::min(), high = std::numeric_limits<I>::max();
  const I v = r <= low ? std::numeric_limits<I>::min() : r >= high ? std::numeric_limits<I>::max() : I(r);
  return u64(std::make_unsigned_t<I>(v));
}
// Integer to a format: exact long double first, then its sticky double.
u32 from_integer(const Format& f, long double v, Round mode) {
  const double high = double(v);
  return encode(f, add_sticky(high, double(v - high)), mode);
}
u64 from_integer_f64(s64 v, int direction) {  // direction: 0 nearest, -1 zero
  double d = double(v);
  if (direction && std::fabs((long double)d) > std::fabs((long double)v)) d = std::nextafter(d, 0.0);
  u64 bits;
  std::memcpy(&bits, &d, 8);
  return bits;
}
u32 float_bits(double v) { return encode(kF32, v); }
u32 tf32(double v, Round mode) { return encode(kTf32, v, mode) << 13; }
double relu(double v) { return v <= 0 ? 0.0 : v; }
u32 fp8_pair(const Format& f, double high, double low) {
  return encode(f, high, kRn, true) << 8 | encode(f, low, kRn, true);
}
u32 f16_pair(const Format& f, u32 v, bool clamp) {
  const double low = decode(f, v & 255), high = decode(f, v >> 8 & 255);
  return encode(kF16, clamp ? relu(low) : low) | encode(kF16, clamp ? relu(high) : high) << 16;
}
u32 fp8_of_f16(const Format& f, u32 v, bool clamp) {
  const double low = decode(kF16, v & 65535), high = decode(kF16, v >> 16);
  return clamp ? fp8_pair(f, relu(high), relu(low)) : fp8_pair(f, high, low);
}

#define INTEGER_MODES(X, from, is64, to, I)                         \
  X("cvt.rni." to "." from " %0, %1;", to_integer<I>(a, kRn, is64)) \
  X("cvt.rzi." to "." from " %0, %1;", to_integer<I>(a, kRz, is64)) \
  X("cvt.rmi." to "." from " %0, %1;", to_integer<I>(a, kRm, is64)) \
  X("cvt.rpi." to "." from " %0, %1;", to_integer<I>(a, kRp, is64))
#define VIA16(cvt) "{.reg .b16 t; " cvt " t, %1; cvt.u32.u16 %0, t;}"
#define VIA16_2(cvt) "{.reg .b16 t; " cvt " t, %1, %2; cvt.u32.u16 %0, t;}"

// f32 (a, b) to 32 bits.
#define FROM_F32(X)                                                                              \
  INTEGER_MODES(X, "f32", false, "s32", s32)                                                     \
  INTEGER_MODES(X, "f32", false, "u32", u32)                                                     \
  X(VIA16("cvt.rzi.s16.f32"), to_integer<int16_t>(a, kRz, false))                                \
  X(VIA16("cvt.rni.u16.f32"), to_integer<u16>(a, kRn, false))                                    \
  X(VIA16("cvt.rzi.u8.f32"), to_integer<uint8_t>(a, kRz, false))                                 \
  X(VIA16("cvt.rn.f16.f32"), encode(kF16, a))                                                    \
  X(VIA16("cvt.rz.f16.f32"), encode(kF16, a, kRz))                                               \
  X(VIA16("cvt.rm.f16.f32"), encode(kF16, a, kRm))                                               \
  X(VIA16("cvt.rp.f16.f32"), encode(kF16, a, kRp))                                               \
  X(VIA16("cvt.rn.relu.f16.f32"), encode(kF16, relu(a)))                                         \
  X(VIA16("cvt.rn.bf16.f32"), encode(kBf16, a))                                                  \
  X(VIA16("cvt.rz.bf16.f32"), encode(kBf16, a, kRz))                                             \
  X(VIA16("cvt.rn.relu.bf16.f32"), encode(kBf16, relu(a)))                                       \
  X("cvt.rn.f16x2.f32 %0, %1, %2;", encode(kF16, a) << 16 | encode(kF16, b))                     \
  X("cvt.rz.f16x2.f32 %0, %1, %2;", encode(kF16, a, kRz) << 16 | encode(kF16, b, kRz))           \
  X("cvt.rn.bf16x2.f32 %0, %1, %2;", encode(kBf16, a) << 16 | encode(kBf16, b))                  \
  X("cvt.rz.bf16x2.f32 %0, %1, %2;", encode(kBf16, a, kRz) << 16 | encode(kBf16, b, kRz))        \
  X("cvt.rn.relu.bf16x2.f32 %0, %1, %2;", encode(kBf16, relu(a)) << 16 | encode(kBf16, relu(b))) \
  X(VIA16_2("cvt.rn.satfinite.e4m3x2.f32"), fp8_pair(kE4m3, a, b))                               \
  X(VIA16_2("cvt.rn.satfinite.e5m2x2.f32"), fp8_pair(kE5m2, a, b))                               \
  X(VIA16_2("cvt.rn.satfinite.relu.e4m3x2.f32"), fp8_pair(kE4m3, relu(a), relu(b)))
// tf32 keeps 19 bits; what a NaN becomes is left open, so these see none.
#define TO_TF32(X)                             \
  X("cvt.rna.tf32.f32 %0, %1;", tf32(a, kRna)) \
  X("cvt.rn.tf32.f32 %0, %1;", tf32(a, kRn))   \
  X("cvt.rz.tf32.f32 %0, %1;", tf32(a, kRz))
// f64 (a) to 64 bits; shorter results in the low half.
#define VIA32(cvt) "{.reg .b32 t; " cvt " t, %1; cvt.u64.u32 %0, t;}"
#define FROM_F64(X)                                          \
  INTEGER_MODES(X, "f64", true, "s64", s64)                  \
  INTEGER_MODES(X, "f64", true, "u64", u64)                  \
  X(VIA32("cvt.rni.s32.f64"), to_integer<s32>(a, kRn, true)) \
  X(VIA32("cvt.rzi.u32.f64"), to_integer<u32>(a, kRz, true)) \
  X(VIA32("cvt.rn.f32.f64"), encode(kF32, a))                \
  X(VIA32("cvt.rz.f32.f64"), encode(kF32, a, kRz))           \
  X(VIA32("cvt.rm.f32.f64"), encode(kF32, a, kRm))           \
  X(VIA32("cvt.rp.f32.f64"), encode(kF32, a, kRp))           \
  X("{.reg .b16 t; cvt.rn.f16.f64 t, %1; cvt.u64.u16 %0, t;}", encode(kF16, a))
#define FROM_F32_TO_64(X)                    \
  INTEGER_MODES(X, "f32", false, "s64", s64) \
  INTEGER_MODES(X, "f32", false, "u64", u64)
// Bits (a) of integers to bits of floats.
#define FROM_B32(X)                                                                \
  X("cvt.rn.f32.s32 %0, %1;", encode(kF32, s32(a)))                                \
  X("cvt.rz.f32.s32 %0, %1;", encode(kF32, s32(a), kRz))                           \
  X("cvt.rm.f32.s32 %0, %1;", encode(kF32, s32(a), kRm))                           \
  X("cvt.rp.f32.s32 %0, %1;", encode(kF32, s32(a), kRp))                           \
  X("cvt.rn.f32.u32 %0, %1;", encode(kF32, a))                                     \
  X("cvt.rz.f32.u32 %0, %1;", encode(kF32, a, kRz))                                \
  X(VIA16("cvt.rn.f16.s32"), encode(kF16, s32(a)))                                 \
  X(VIA16("cvt.rn.f16.u32"), encode(kF16, a))                                      \
  X(VIA16("cvt.rn.bf16.s32"), encode(kBf16, s32(a)))                               \
  X(VIA16("cvt.rz.bf16.u32"), encode(kBf16, a, kRz))                               \
  X("{.reg .b16 t; cvt.u16.u32 t, %1; cvt.rn.f32.u16 %0, t;}", float_bits(u16(a))) \
  X("{.reg .b16 t; cvt.u16.u32 t, %1; cvt.rn.f32.s16 %0, t;}", float_bits(int16_t(a)))
#define FROM_B64(X)                                           \
  X(VIA32("cvt.rn.f32.s64"), from_integer(kF32, s64(a), kRn)) \
  X(VIA32("cvt.rz.f32.s64"), from_integer(kF32, s64(a), kRz)) \
  X(VIA32("cvt.rp.f32.u64"), from_integer(kF32, a, kRp))      \
  X(VIA32("cvt.rn.f32.u64"), from_integer(kF32, a, kRn))      \
  X("cvt.rn.f64.s64 %0, %1;", from_integer_f64(s64(a), 0))    \
  X("cvt.rz.f64.s64 %0, %1;", from_integer_f64(s64(a), -1))
// 16 bits (the low ones of a) to 32.
#define SPLIT "{.reg .b16 t, u; mov.b32 {t, u}, %1; "
#define FROM_B16(X)                                                                                        \
  X(SPLIT "cvt.f32.f16 %0, t;}", float_bits(decode(kF16, u16(a))))                                         \
  X(SPLIT "cvt.f32.bf16 %0, t;}", float_bits(decode(kBf16, u16(a))))                                       \
  X(SPLIT "cvt.rni.s32.f16 %0, t;}", to_integer<s32>(decode(kF16, u16(a)), kRn, false))                    \
  X(SPLIT "cvt.rzi.u32.f16 %0, t;}", to_integer<u32>(decode(kF16, u16(a)), kRz, false))                    \
  X(SPLIT "cvt.rni.f16.f16 t, t; cvt.u32.u16 %0, t;}", encode(kF16, std::nearbyint(decode(kF16, u16(a))))) \
  X(SPLIT "cvt.rmi.f16.f16 t, t; cvt.u32.u16 %0, t;}", encode(kF16, std::floor(decode(kF16, u16(a)))))     \
  X(SPLIT "cvt.rn.f16x2.e4m3x2 %0, t;}", f16_pair(kE4m3, a, false))                                        \
  X(SPLIT "cvt.rn.f16x2.e5m2x2 %0, t;}", f16_pair(kE5m2, a, false))                                        \
  X(SPLIT "cvt.rn.relu.f16x2.e4m3x2 %0, t;}", f16_pair(kE4m3, a, true))                                    \
  X(VIA16("cvt.rn.satfinite.e4m3x2.f16x2"), fp8_of_f16(kE4m3, a, false))                                   \
  X(VIA16("cvt.rn.satfinite.e5m2x2.f16x2"), fp8_of_f16(kE5m2, a, false))                                   \
  X(VIA16("cvt.rn.satfinite.relu.e5m2x2.f16x2"), fp8_of_f16(kE5m2, a, true))

#define HOST_u32_float(ptx, ...) \
  {ptx, [](float a, float b, float) { return (void)a, (void)b, u32(__VA_ARGS__); }},
#define HOST_u64_float(ptx, ...) {ptx, [](float a, float, float) { return u64(__VA_ARGS__); }},
#define HOST_u64_double(ptx, ...) {ptx, [](double a, double, double) { return u64(__VA_ARGS__); }},
#define HOST_u32_u32(ptx, ...) {ptx, [](u32 a, u32, u32) { return u32(__VA_ARGS__); }},
#define HOST_u64_u64(ptx, ...) {ptx, [](u64 a, u64, u64) { return u64(__VA_ARGS__); }},
const Op<u32, float> kFromF32[] = {FROM_F32(HOST_u32_float)}, kToTf32[] = {TO_TF32(HOST_u32_float)};
const Op<u64, float> kFromF32To64[] = {FROM_F32_TO_64(HOST_u64_float)};
const Op<u64, double> kFromF64[] = {FROM_F64(HOST_u64_double)};
const Op<u32, u32> kFromB32[] = {FROM_B32(HOST_u32_u32)}, kFromB16[] = {FROM_B16(HOST_u32_u32)};
const Op<u64, u64> kFromB64[] = {FROM_B64(HOST_u64_u64)};

#define KERNEL(name, D, S, list)                         \
  __global__ void name(const S* in, int n, D* out) {     \
    const int i = blockIdx.x * blockDim.x + threadIdx.x; \
    if (i >= n) return;                                  \
    const S a = in[i], b = in[n + i];                    \
    D d;                                                 \
    int k = 0;                                           \
    list                                                 \
  }
#define D_U32_F(ptx, ...)              \
  asm(ptx : "=r"(d) : "f"(a), "f"(b)); \
  out[k++ * n + i] = d;
#define D_U64_F(ptx, ...)              \
  asm(ptx : "=l"(d) : "f"(a), "f"(b)); \
  out[k++ * n + i] = d;
#define D_U64_D(ptx, ...)              \
  asm(ptx : "=l"(d) : "d"(a), "d"(b)); \
  out[k++ * n + i] = d;
#define D_U32_U(ptx, ...)              \
  asm(ptx : "=r"(d) : "r"(a), "r"(b)); \
  out[k++ * n + i] = d;
#define D_U64_U(ptx, ...)              \
  asm(ptx : "=l"(d) : "l"(a), "l"(b)); \
  out[k++ * n + i] = d;
KERNEL(from_f32, u32, float, FROM_F32(D_U32_F))
KERNEL(to_tf32, u32, float, TO_TF32(D_U32_F))
KERNEL(from_f32_to_64, u64, float, FROM_F32_TO_64(D_U64_F))
KERNEL(from_f64, u64, double, FROM_F64(D_U64_D))
KERNEL(from_b32, u32, u32, FROM_B32(D_U32_U))
KERNEL(from_b16, u32, u32, FROM_B16(D_U32_U))
KERNEL(from_b64, u64, u64, FROM_B64(D_U64_U))

template <typename D, typename S, size_t N>
void run(void (*kernel)(const S*, int, D*), const Op<D, S> (&ops)[N], const std::vector<S>& a,
         const std::vector<S>& b, bool (*ok)(D, D) = same<D>) {
  const int n = int(a.size());
  std::vector<S> both = a;
  both.insert(both.end(), b.begin(), b.end());
  Array<S> in(both);
  Array<D> out(N * n);
  launch({.grid = dim3((n + 255) / 256), .block = 256}, kernel, in.get(), n, out.get());
  expect_table(ops, a, b, b, out.host(), ok);
}

// Around every format's limits and ties, then all magnitudes.
template <typename T>
std::vector<T> floats(int n, int seed, bool with_nan) {
  Random random(seed);
  std::vector<T> x;
  for (double v :
       {0.0,     -0.0,    0.5,       1.5,      2.5,      -0.5,    448.0,   464.0,     465.0,   -480.0,
        57344.0, 61440.0, 65504.0,   65519.9,  65520.0,  0x1p-9,  0x1p-10, 0x1.8p-10, 0x1p-16, 0x1p-17,
        0x1p-24, 0x1p-25, 0x1.8p-25, 0x1p-133, 0x1p-134, 0x1p31,  -0x1p31, 0x1p32,    0x1p63,  -0x1p63,
        0x1p64,  3.3e38,  -3.4e38,   127.5,    255.5,    32767.5, 65535.5})
    x.push_back(T(v)), x.push_back(-T(v) * (1 + std::numeric_limits<T>::epsilon()));
  if (with_nan) x.insert(x.end(), {T(NAN), T(INFINITY), T(-INFINITY)});
  while (int(x.size()) < n) {
    T v = T(random.real(-40, 70));
    if (x.size() % 3 == 0) v = T(random.real(-12, 16));
    if (x.size() % 4 == 0) v = T(std::ldexp(std::nearbyint(std::ldexp(random.real(-8, 12), 5)), -5));  // ties
    x.push_back(v);
  }
  return x;
}

TEST(Convert, FromF32) {
  run(from_f32, kFromF32, floats<float>(2000, 1, true), floats<float>(2000, 2, true));
  run(to_tf32, kToTf32, floats<float>(1000, 3, false), floats<float>(1000, 3, false));
  run(from_f32_to_64, kFromF32To64, floats<float>(1000, 4, true), floats<float>(1000, 4, true));
}
TEST(Convert, FromF64) {
  run(from_f64, kFromF64, floats<double>(2000, 5, true), floats<double>(2000, 5, true));
}

TEST(Convert, FromIntegers) {
  Random random(6);
  std::vector<u32> x(2000);
  std::vector<u64> y(2000);
  for (u32& v : x) v = u32(random.wide(32));
  for (u64& v : y) v = random.wide(64);
  run(from_b32, kFromB32, x, x);
  run(from_b64, kFromB64, y, y);
}
TEST(Convert, FromEvery16Bits) {
  std::vector<u32> x(65536);
  for (u32 i = 0; i < x.size(); ++i) x[i] = i | (i * 40503u) << 16;
  // A NaN of 16 bits becomes some NaN of 32.
  run(
      from_b16, kFromB16, x, x, +[](u32 got, u32 want) {
        return got == want || (want == 0x7FFFFFFF && (got & 0x7FFFFFFF) > 0x7F800000);
      });
}

}  // namespace
}  // namespace silicon
