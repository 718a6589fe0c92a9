// Products of block-scaled FP8 on the CPU, with the sums of Hopper's tensor cores (ops/gemm.h): the bits that
// the CUDA kernels give.
#pragma once

#include "ops/gemm.h"

namespace contender::cpu {

void fp8_gemm(const Exec&, const Fp8GemmArgs&);
void fp8_grouped_gemm(const Exec&, const Fp8GroupedGemmArgs&);
void fp8_wgrad(const Exec&, const Fp8WgradArgs&);

}  // namespace contender::cpu
