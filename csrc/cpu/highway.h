// Highway with static dispatch, as the whole CPU backend includes it: 16 (AVX-512) or 8 (AVX2) float lanes.
#pragma once

// Highway counts a target only when AES and PCLMUL come with it, which x86-64-v3 does not promise. Nothing
// here uses them.
#define HWY_DISABLE_PCLMUL_AES
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#if !HWY_NATIVE_FMA || HWY_TARGET > HWY_AVX2
#error \
    "the CPU backend needs an x86-64 with AVX2 and FMA, or AVX-512: compile with -march=native or -march=x86-64-v3"
#endif

namespace contender::cpu {

namespace hn = hwy::HWY_NAMESPACE;

}  // namespace contender::cpu
