// The products of ops/linear.h: on wgmma (cuda/gemm), or on mma.sync where TMA cannot read the operands.
// Which of the two depends on the layer's shapes and strides alone, never on M, so that all batches of a
// layer have the same bits.
#include "cuda/gemm/bf16_gemm.h"
#include "cuda/linear/mma_gemm.h"
#include "cuda/ops.h"

namespace contender::cuda {
namespace {

void multiply(const Exec& exec, const Product& p) {
  bf16_gemm_refuses(p).empty() ? bf16_gemm(exec, p) : mma_gemm(exec, p);
}
void sum_rows(const Exec& exec, const WgradProduct& p) {
  bf16_wgrad_refuses(p).empty() ? bf16_wgrad(exec, p) : mma_wgrad(exec, p);
}

}  // namespace

void linear(const Exec& exec, const LinearArgs& args) { multiply(exec, product_of(args)); }
void linear_dgrad(const Exec& exec, const LinearDgradArgs& args) { multiply(exec, product_of(args)); }
void linear_wgrad(const Exec& exec, const LinearWgradArgs& args) { sum_rows(exec, product_of(args)); }
void grouped_linear(const Exec& exec, const GroupedLinearArgs& args) { multiply(exec, product_of(args)); }
void grouped_linear_dgrad(const Exec& exec, const GroupedLinearDgradArgs& args) {
  multiply(exec, product_of(args));
}
void heads_linear(const Exec& exec, const HeadsLinearArgs& args) { multiply(exec, product_of(args)); }
void heads_wgrad(const Exec& exec, const HeadsWgradArgs& args) { sum_rows(exec, product_of(args)); }

}  // namespace contender::cuda
