// Device functions: structs by value and by reference, calls in calls.
#include "tests/ptxsim/silicon/harness.h"

namespace silicon {
namespace {

using u8 = uint8_t;
using u32 = uint32_t;

struct Pair {
  double x;
  u32 y[3];
};
__device__ __noinline__ Pair combine(Pair a, const Pair& b, u8 scale) {
  a.x = a.x * scale + b.x;
  for (int i = 0; i < 3; ++i) a.y[i] += b.y[2 - i];
  return a;
}
__global__ void structs(u32* out, double* reals) {
  const u32 t = threadIdx.x;
  Pair a = {t + 0.5, {t, 2 * t, 3 * t}};
  const Pair b = {100.0, {1, 2, 3}};
  if (t % 3) a = combine(a, b, u8(t));
  reals[t] = a.x;
  out[t] = a.y[0] + a.y[1] * 10 + a.y[2] * 100;
}
TEST(Calls, Structs) {
  Array<u32> out(64);
  Array<double> reals(64);
  launch({.block = 64}, structs, out.get(), reals.get());
  std::vector<u32> want;
  std::vector<double> want_reals;
  for (u32 t = 0; t < 64; ++t) {
    want_reals.push_back(t % 3 ? (t + 0.5) * t + 100 : t + 0.5);
    want.push_back(t % 3 ? (t + 3) + (2 * t + 2) * 10 + (3 * t + 1) * 100 : 321 * t);
  }
  expect_same(out.host(), want);
  expect_same(reals.host(), want_reals);
}

// Depth after depth: calls in calls in a loop, arguments in memory.
__device__ __noinline__ u32 leaf(const u32* v, u32 n) {
  u32 sum = 0;
  for (u32 i = 0; i < n; ++i) sum = sum * 7 + v[i];
  return sum;
}
__device__ __noinline__ u32 middle(u32* v, u32 n) {
  const u32 before = leaf(v, n);
  for (u32 i = 0; i < n; ++i) v[i] ^= before >> i;
  return leaf(v, n / 2) + before;
}
__global__ void nested(u32* out) {
  u32 v[8], r = 0;
  for (u32 i = 0; i < 8; ++i) v[i] = threadIdx.x * i;
  for (u32 i = 0; i < threadIdx.x % 5; ++i) r += middle(v, 3 + i);
  out[threadIdx.x] = r;
}
u32 host_leaf(const u32* v, u32 n) {
  u32 sum = 0;
  for (u32 i = 0; i < n; ++i) sum = sum * 7 + v[i];
  return sum;
}
TEST(Calls, Nested) {
  Array<u32> out(64);
  launch({.block = 64}, nested, out.get());
  std::vector<u32> want;
  for (u32 t = 0; t < 64; ++t) {
    u32 v[8], r = 0;
    for (u32 i = 0; i < 8; ++i) v[i] = t * i;
    for (u32 k = 0; k < t % 5; ++k) {
      const u32 n = 3 + k, before = host_leaf(v, n);
      for (u32 i = 0; i < n; ++i) v[i] ^= before >> i;
      r += host_leaf(v, n / 2) + before;
    }
    want.push_back(r);
  }
  expect_same(out.host(), want);
}

}  // namespace
}  // namespace silicon
