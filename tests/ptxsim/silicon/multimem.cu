// multimem on a team of one: in the simulator every address is that of its only copy. A GPU needs a multicast
// object of several devices for it.
#include <cuda_bf16.h>

#include "tests/ptxsim/silicon/harness.h"

namespace silicon {
namespace {

using u32 = uint32_t;

__global__ void team(float* f, __nv_bfloat162* h, u32* n, float* out) {
  const u32 t = threadIdx.x;
  float v[4];
  asm volatile("multimem.ld_reduce.relaxed.sys.global.add.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3])
               : "l"(f + t * 4)
               : "memory");
  for (u32 i = 0; i < 4; ++i) out[t * 4 + i] = v[i];
  asm volatile("multimem.st.weak.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(f + t * 4), "f"(v[3]),
               "f"(v[2]), "f"(v[1]), "f"(v[0])
               : "memory");
  u32 pair;
  asm volatile("multimem.ld_reduce.weak.global.add.acc::f32.bf16x2 %0, [%1];"
               : "=r"(pair)
               : "l"(h + t)
               : "memory");
  asm volatile("multimem.red.relaxed.sys.global.add.bf16x2 [%0], %1;" ::"l"(h + t), "r"(pair) : "memory");
  asm volatile("multimem.red.release.gpu.global.add.u32 [%0], %1;" ::"l"(n), "r"(t) : "memory");
}
TEST(Multimem, TeamOfOne) {
  cudaDeviceProp p;
  CUDA_OK(cudaGetDeviceProperties(&p, 0));
  if (std::memcmp(p.uuid.bytes, "ptxsim", 6) != 0)
    GTEST_SKIP() << "needs a multicast object over several GPUs";
  std::vector<float> x(128), reversed(128);
  for (int i = 0; i < 128; ++i) x[i] = i + 0.5f;
  for (int i = 0; i < 128; ++i) reversed[i] = x[i / 4 * 4 + 3 - i % 4];
  std::vector<__nv_bfloat162> h(32);
  for (int i = 0; i < 32; ++i) h[i] = __floats2bfloat162_rn(float(i), -2.0f * i);
  Array<float> f(x), out(128);
  Array<__nv_bfloat162> dh(h);
  Array<u32> n(std::vector<u32>{0});
  launch({}, team, f.get(), dh.get(), n.get(), out.get());
  expect_same(out.host(), x);
  expect_same(f.host(), reversed);
  EXPECT_EQ(n.host()[0], 31u * 32 / 2);
  const std::vector<__nv_bfloat162> got = dh.host();
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(__low2float(got[i]), 2.0f * i);
    EXPECT_EQ(__high2float(got[i]), -4.0f * i);
  }
}

}  // namespace
}  // namespace silicon
