// wgmma: D [64, N] += A [64, k] B [N, k]^T of a warpgroup, operands in shared memory under the 128-byte
// swizzle, D in registers. BF16 (k = 16, either operand K-major or MN-major) and E4M3 (k = 32, K-major), FP32
// sums.
//
// Thread t of the warpgroup holds d[4 j + 2 h + e] = D[16 (t / 32) + t % 32 / 4 + 8 h][8 j + 2 (t % 4) + e].
// Operands in shared memory are blocks 128 bytes wide, as TMA writes them:
//   K-major:  rows of M (N) of 128 bytes of k; the next 32 bytes of k are 32 bytes on.
//   MN-major: rows of k of 64 elements of M (N); the next 16 of k are 2048 bytes on, the next 64 of M (N) a
//   block on.
// Order: wgmma_fence before the first wgmma that touches registers which others wrote, commit behind the
// last, wait, then wgmma_hold(d) before D is read.
// Source: PTX ISA 9.0, wgmma; matrix-descriptor.
#pragma once

#include <cstdint>

#include "cuda/common/ptx.cuh"

namespace contender::cuda {

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// The compiler moves no use of these registers across.
template <int kCount>
__device__ __forceinline__ void wgmma_hold(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

enum class Layout { kKMajor, kMnMajor };

// Of an operand at `base`, a multiple of 1024. block_bytes: from one block of 64 M (N) to the next, MN-major
// only. Steps along k add to the low word: `address / 16`.
template <Layout kLayout>
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t base, uint32_t block_bytes = 16) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kStride = uint64_t{1024 >> 4} << 32;
  return uint64_t{(base & 0x3ffffu) >> 4} | uint64_t{block_bytes >> 4} << 16 | kStride | kSwizzle128;
}
// From one step of k to the next, in units of the descriptor: 16 BF16 (32 E4M3).
template <Layout kLayout>
inline constexpr uint64_t kWgmmaStep = kLayout == Layout::kKMajor ? 32 >> 4 : 2048 >> 4;

// Instructions by N: wgmma_bf16<N, layouts>(d, a, b, add) and wgmma_e4m3<N>(d, a, b, add). add = 0: D is
// overwritten.
template <int N, Layout kA = Layout::kKMajor, Layout kB = Layout::kKMajor>
struct WgmmaBf16;
template <int N>
struct WgmmaE4m3;

// Names of D's registers and their constraints, each N from the one before.
// clang-format off
#define WGMMA_NAMES_8 "%0, %1, %2, %3"
#define WGMMA_NAMES_16 WGMMA_NAMES_8 ", %4, %5, %6, %7"
#define WGMMA_NAMES_24 WGMMA_NAMES_16 ", %8, %9, %10, %11"
#define WGMMA_NAMES_32 WGMMA_NAMES_24 ", %12, %13, %14, %15"
#define WGMMA_NAMES_40 WGMMA_NAMES_32 ", %16, %17, %18, %19"
#define WGMMA_NAMES_48 WGMMA_NAMES_40 ", %20, %21, %22, %23"
#define WGMMA_NAMES_56 WGMMA_NAMES_48 ", %24, %25, %26, %27"
#define WGMMA_NAMES_64 WGMMA_NAMES_56 ", %28, %29, %30, %31"
#define WGMMA_NAMES_72 WGMMA_NAMES_64 ", %32, %33, %34, %35"
#define WGMMA_NAMES_80 WGMMA_NAMES_72 ", %36, %37, %38, %39"
#define WGMMA_NAMES_88 WGMMA_NAMES_80 ", %40, %41, %42, %43"
#define WGMMA_NAMES_96 WGMMA_NAMES_88 ", %44, %45, %46, %47"
#define WGMMA_NAMES_104 WGMMA_NAMES_96 ", %48, %49, %50, %51"
#define WGMMA_NAMES_112 WGMMA_NAMES_104 ", %52, %53, %54, %55"
#define WGMMA_NAMES_120 WGMMA_NAMES_112 ", %56, %57, %58, %59"
#define WGMMA_NAMES_128 WGMMA_NAMES_120 ", %60, %61, %62, %63"
#define WGMMA_NAMES_136 WGMMA_NAMES_128 ", %64, %65, %66, %67"
#define WGMMA_NAMES_144 WGMMA_NAMES_136 ", %68, %69, %70, %71"
#define WGMMA_NAMES_152 WGMMA_NAMES_144 ", %72, %73, %74, %75"
#define WGMMA_NAMES_160 WGMMA_NAMES_152 ", %76, %77, %78, %79"
#define WGMMA_NAMES_168 WGMMA_NAMES_160 ", %80, %81, %82, %83"
#define WGMMA_NAMES_176 WGMMA_NAMES_168 ", %84, %85, %86, %87"
#define WGMMA_NAMES_184 WGMMA_NAMES_176 ", %88, %89, %90, %91"
#define WGMMA_NAMES_192 WGMMA_NAMES_184 ", %92, %93, %94, %95"
#define WGMMA_NAMES_200 WGMMA_NAMES_192 ", %96, %97, %98, %99"
#define WGMMA_NAMES_208 WGMMA_NAMES_200 ", %100, %101, %102, %103"
#define WGMMA_NAMES_216 WGMMA_NAMES_208 ", %104, %105, %106, %107"
#define WGMMA_NAMES_224 WGMMA_NAMES_216 ", %108, %109, %110, %111"
#define WGMMA_NAMES_232 WGMMA_NAMES_224 ", %112, %113, %114, %115"
#define WGMMA_NAMES_240 WGMMA_NAMES_232 ", %116, %117, %118, %119"
#define WGMMA_NAMES_248 WGMMA_NAMES_240 ", %120, %121, %122, %123"
#define WGMMA_NAMES_256 WGMMA_NAMES_248 ", %124, %125, %126, %127"
#define WGMMA_D_8 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define WGMMA_D_16 WGMMA_D_8, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define WGMMA_D_24 WGMMA_D_16, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define WGMMA_D_32 WGMMA_D_24, "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define WGMMA_D_40 WGMMA_D_32, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
#define WGMMA_D_48 WGMMA_D_40, "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define WGMMA_D_56 WGMMA_D_48, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define WGMMA_D_64 WGMMA_D_56, "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define WGMMA_D_72 WGMMA_D_64, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
#define WGMMA_D_80 WGMMA_D_72, "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define WGMMA_D_88 WGMMA_D_80, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43])
#define WGMMA_D_96 WGMMA_D_88, "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define WGMMA_D_104 WGMMA_D_96, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51])
#define WGMMA_D_112 WGMMA_D_104, "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define WGMMA_D_120 WGMMA_D_112, "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59])
#define WGMMA_D_128 WGMMA_D_120, "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define WGMMA_D_136 WGMMA_D_128, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
#define WGMMA_D_144 WGMMA_D_136, "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define WGMMA_D_152 WGMMA_D_144, "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75])
#define WGMMA_D_160 WGMMA_D_152, "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define WGMMA_D_168 WGMMA_D_160, "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83])
#define WGMMA_D_176 WGMMA_D_168, "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define WGMMA_D_184 WGMMA_D_176, "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91])
#define WGMMA_D_192 WGMMA_D_184, "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define WGMMA_D_200 WGMMA_D_192, "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99])
#define WGMMA_D_208 WGMMA_D_200, "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define WGMMA_D_216 WGMMA_D_208, "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107])
#define WGMMA_D_224 WGMMA_D_216, "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define WGMMA_D_232 WGMMA_D_224, "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115])
#define WGMMA_D_240 WGMMA_D_232, "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define WGMMA_D_248 WGMMA_D_240, "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123])
#define WGMMA_D_256 WGMMA_D_248, "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
// X(N, names of the descriptors and of the predicate's word, names of the layouts)
#define WGMMA_EVERY_N(X) \
  X(8, "%4", "%5", "%6", "%7", "%8") \
  X(16, "%8", "%9", "%10", "%11", "%12") \
  X(24, "%12", "%13", "%14", "%15", "%16") \
  X(32, "%16", "%17", "%18", "%19", "%20") \
  X(40, "%20", "%21", "%22", "%23", "%24") \
  X(48, "%24", "%25", "%26", "%27", "%28") \
  X(56, "%28", "%29", "%30", "%31", "%32") \
  X(64, "%32", "%33", "%34", "%35", "%36") \
  X(72, "%36", "%37", "%38", "%39", "%40") \
  X(80, "%40", "%41", "%42", "%43", "%44") \
  X(88, "%44", "%45", "%46", "%47", "%48") \
  X(96, "%48", "%49", "%50", "%51", "%52") \
  X(104, "%52", "%53", "%54", "%55", "%56") \
  X(112, "%56", "%57", "%58", "%59", "%60") \
  X(120, "%60", "%61", "%62", "%63", "%64") \
  X(128, "%64", "%65", "%66", "%67", "%68") \
  X(136, "%68", "%69", "%70", "%71", "%72") \
  X(144, "%72", "%73", "%74", "%75", "%76") \
  X(152, "%76", "%77", "%78", "%79", "%80") \
  X(160, "%80", "%81", "%82", "%83", "%84") \
  X(168, "%84", "%85", "%86", "%87", "%88") \
  X(176, "%88", "%89", "%90", "%91", "%92") \
  X(184, "%92", "%93", "%94", "%95", "%96") \
  X(192, "%96", "%97", "%98", "%99", "%100") \
  X(200, "%100", "%101", "%102", "%103", "%104") \
  X(208, "%104", "%105", "%106", "%107", "%108") \
  X(216, "%108", "%109", "%110", "%111", "%112") \
  X(224, "%112", "%113", "%114", "%115", "%116") \
  X(232, "%116", "%117", "%118", "%119", "%120") \
  X(240, "%120", "%121", "%122", "%123", "%124") \
  X(248, "%124", "%125", "%126", "%127", "%128") \
  X(256, "%128", "%129", "%130", "%131", "%132")
// clang-format on

#define WGMMA_DEFINE(N, a_name, b_name, add_name, a_layout, b_layout)                                        \
  template <Layout kA, Layout kB>                                                                            \
  struct WgmmaBf16<N, kA, kB> {                                                                              \
    static __device__ __forceinline__ void run(float (&d)[N / 2], uint64_t a, uint64_t b, int add) {         \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add_name ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N \
                   "k16.f32.bf16.bf16 {" WGMMA_NAMES_##N "}, " a_name ", " b_name ", p, 1, 1, " a_layout     \
                                                         ", " b_layout ";\n}"                                \
                   : WGMMA_D_##N                                                                             \
                   : "l"(a), "l"(b), "r"(add), "n"(kA == Layout::kMnMajor), "n"(kB == Layout::kMnMajor)      \
                   : "memory");                                                                              \
    }                                                                                                        \
  };                                                                                                         \
  template <>                                                                                                \
  struct WgmmaE4m3<N> {                                                                                      \
    static __device__ __forceinline__ void run(float (&d)[N / 2], uint64_t a, uint64_t b, int add) {         \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add_name ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N \
                   "k32.f32.e4m3.e4m3 {" WGMMA_NAMES_##N "}, " a_name ", " b_name ", p, 1, 1;\n}"            \
                   : WGMMA_D_##N                                                                             \
                   : "l"(a), "l"(b), "r"(add)                                                                \
                   : "memory");                                                                              \
    }                                                                                                        \
  };
WGMMA_EVERY_N(WGMMA_DEFINE)

template <int N, Layout kA = Layout::kKMajor, Layout kB = Layout::kKMajor>
__device__ __forceinline__ void wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, int add) {
  WgmmaBf16<N, kA, kB>::run(d, a, b, add);
}
template <int N>
__device__ __forceinline__ void wgmma_e4m3(float (&d)[N / 2], uint64_t a, uint64_t b, int add) {
  WgmmaE4m3<N>::run(d, a, b, add);
}

}  // namespace contender::cuda
