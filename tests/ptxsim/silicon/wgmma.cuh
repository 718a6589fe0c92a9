// wgmma by accumulator width. Operands of the asm: %0-%3 A in registers, %4 and %5 descriptors, %6 whether D
// is added to, D from %7 on.
#pragma once

#include <cstdint>

namespace silicon {

// The names of D's registers, and their constraints, for each N.
// clang-format off
#define WGMMA_D8 "%7, %8, %9, %10"
#define WGMMA_D16 WGMMA_D8 ", %11, %12, %13, %14"
#define WGMMA_D24 WGMMA_D16 ", %15, %16, %17, %18"
#define WGMMA_D32 WGMMA_D24 ", %19, %20, %21, %22"
#define WGMMA_D40 WGMMA_D32 ", %23, %24, %25, %26"
#define WGMMA_D48 WGMMA_D40 ", %27, %28, %29, %30"
#define WGMMA_D56 WGMMA_D48 ", %31, %32, %33, %34"
#define WGMMA_D64 WGMMA_D56 ", %35, %36, %37, %38"
#define WGMMA_D72 WGMMA_D64 ", %39, %40, %41, %42"
#define WGMMA_D80 WGMMA_D72 ", %43, %44, %45, %46"
#define WGMMA_D88 WGMMA_D80 ", %47, %48, %49, %50"
#define WGMMA_D96 WGMMA_D88 ", %51, %52, %53, %54"
#define WGMMA_D104 WGMMA_D96 ", %55, %56, %57, %58"
#define WGMMA_D112 WGMMA_D104 ", %59, %60, %61, %62"
#define WGMMA_D120 WGMMA_D112 ", %63, %64, %65, %66"
#define WGMMA_D128 WGMMA_D120 ", %67, %68, %69, %70"
#define WGMMA_D136 WGMMA_D128 ", %71, %72, %73, %74"
#define WGMMA_D144 WGMMA_D136 ", %75, %76, %77, %78"
#define WGMMA_D152 WGMMA_D144 ", %79, %80, %81, %82"
#define WGMMA_D160 WGMMA_D152 ", %83, %84, %85, %86"
#define WGMMA_D168 WGMMA_D160 ", %87, %88, %89, %90"
#define WGMMA_D176 WGMMA_D168 ", %91, %92, %93, %94"
#define WGMMA_D184 WGMMA_D176 ", %95, %96, %97, %98"
#define WGMMA_D192 WGMMA_D184 ", %99, %100, %101, %102"
#define WGMMA_D200 WGMMA_D192 ", %103, %104, %105, %106"
#define WGMMA_D208 WGMMA_D200 ", %107, %108, %109, %110"
#define WGMMA_D216 WGMMA_D208 ", %111, %112, %113, %114"
#define WGMMA_D224 WGMMA_D216 ", %115, %116, %117, %118"
#define WGMMA_D232 WGMMA_D224 ", %119, %120, %121, %122"
#define WGMMA_D240 WGMMA_D232 ", %123, %124, %125, %126"
#define WGMMA_D248 WGMMA_D240 ", %127, %128, %129, %130"
#define WGMMA_D256 WGMMA_D248 ", %131, %132, %133, %134"
#define WGMMA_O8 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define WGMMA_O16 WGMMA_O8, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define WGMMA_O24 WGMMA_O16, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define WGMMA_O32 WGMMA_O24, "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define WGMMA_O40 WGMMA_O32, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
#define WGMMA_O48 WGMMA_O40, "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define WGMMA_O56 WGMMA_O48, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define WGMMA_O64 WGMMA_O56, "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define WGMMA_O72 WGMMA_O64, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
#define WGMMA_O80 WGMMA_O72, "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define WGMMA_O88 WGMMA_O80, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43])
#define WGMMA_O96 WGMMA_O88, "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define WGMMA_O104 WGMMA_O96, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51])
#define WGMMA_O112 WGMMA_O104, "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define WGMMA_O120 WGMMA_O112, "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59])
#define WGMMA_O128 WGMMA_O120, "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define WGMMA_O136 WGMMA_O128, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
#define WGMMA_O144 WGMMA_O136, "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define WGMMA_O152 WGMMA_O144, "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75])
#define WGMMA_O160 WGMMA_O152, "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define WGMMA_O168 WGMMA_O160, "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83])
#define WGMMA_O176 WGMMA_O168, "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define WGMMA_O184 WGMMA_O176, "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91])
#define WGMMA_O192 WGMMA_O184, "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define WGMMA_O200 WGMMA_O192, "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99])
#define WGMMA_O208 WGMMA_O200, "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define WGMMA_O216 WGMMA_O208, "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107])
#define WGMMA_O224 WGMMA_O216, "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define WGMMA_O232 WGMMA_O224, "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115])
#define WGMMA_O240 WGMMA_O232, "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define WGMMA_O248 WGMMA_O240, "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123])
#define WGMMA_O256 WGMMA_O248, "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
#define WGMMA_EVERY_N(X) X(8) X(16) X(24) X(32) X(40) X(48) X(56) X(64) X(72) X(80) X(88) X(96) X(104) X(112) X(120) X(128) X(136) X(144) X(152) X(160) X(168) X(176) X(184) X(192) X(200) X(208) X(216) X(224) X(232) X(240) X(248) X(256)
// clang-format on

// Defines wgmma(Wgmma<N, variant>{}, d, a, desc_a, desc_b, add): `shape` as in "k16.f32.bf16.bf16", `a` "%4"
// or
// "{%0, %1, %2, %3}", `tail` the immediates.
template <int N, int kVariant>
struct Wgmma {};
#define WGMMA_DEFINE(N, variant, shape, a_operand, tail)                                                  \
  __device__ __forceinline__ void wgmma(Wgmma<N, variant>, float(&d)[N / 2], uint32_t(&a)[4],             \
                                        uint64_t desc_a, uint64_t desc_b, int add) {                      \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %6, 0; wgmma.mma_async.sync.aligned.m64n" #N shape        \
                 " {" WGMMA_D##N "}, " a_operand ", %5, p, " tail ";}"                                    \
                 : "+r"(a[0]), "+r"(a[1]), "+r"(a[2]), "+r"(a[3]), "+l"(desc_a), "+l"(desc_b), "+r"(add), \
                   WGMMA_O##N                                                                             \
                 :                                                                                        \
                 : "memory");                                                                             \
  }

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// swizzle: 0 none, 1 128 bytes, 2 64, 3 32; offsets in bytes.
__device__ inline uint64_t wgmma_descriptor(uint32_t shared, uint32_t leading, uint32_t stride,
                                            uint32_t swizzle) {
  return uint64_t(shared >> 4 & 0x3FFF) | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 |
         uint64_t(swizzle) << 62;
}

}  // namespace silicon
