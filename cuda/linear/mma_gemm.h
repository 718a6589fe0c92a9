// Products of any shape and alignment on mma.sync (mma_gemm.cu): for what bf16_gemm and bf16_wgrad refuse.
#pragma once

#include "cuda/gemm/bf16_product.h"

namespace contender::cuda {

void mma_gemm(const Exec& exec, const Product& product);
void mma_wgrad(const Exec& exec, const WgradProduct& product);

}  // namespace contender::cuda
