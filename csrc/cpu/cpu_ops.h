// The CPU backend: FP32 compute, one thread per rank, bit-exact by the contracts of ops/.
#pragma once

#include "ops/ops.h"

namespace contender {

const Ops& cpu_ops();

// One function per operator; the files have the names of ops/.
namespace cpu {
void pack_weight(const Exec&, const PackWeightArgs&);
void linear(const Exec&, const LinearArgs&);
void linear_dgrad(const Exec&, const LinearDgradArgs&);
void linear_wgrad(const Exec&, const LinearWgradArgs&);
void grouped_linear(const Exec&, const GroupedLinearArgs&);
void grouped_linear_dgrad(const Exec&, const GroupedLinearDgradArgs&);
void heads_linear(const Exec&, const HeadsLinearArgs&);
void heads_wgrad(const Exec&, const HeadsWgradArgs&);
void fp8_gemm(const Exec&, const Fp8GemmArgs&);
void fp8_grouped_gemm(const Exec&, const Fp8GroupedGemmArgs&);
void fp8_wgrad(const Exec&, const Fp8WgradArgs&);
void rms_norm(const Exec&, const RmsNormArgs&);
void rms_norm_bwd(const Exec&, const RmsNormBwdArgs&);
void rms_norm_quantize(const Exec&, const RmsNormQuantizeArgs&);
void head_norm(const Exec&, const HeadNormArgs&);
void head_norm_bwd(const Exec&, const HeadNormBwdArgs&);
void rope(const Exec&, const RopeArgs&);
void attention(const Exec&, const AttentionArgs&);
void attention_bwd(const Exec&, const AttentionBwdArgs&);
void swiglu(const Exec&, const SwigluArgs&);
void swiglu_bwd(const Exec&, const SwigluBwdArgs&);
void swiglu_quantize(const Exec&, const SwigluQuantizeArgs&);
void router(const Exec&, const RouterArgs&);
void router_bwd(const Exec&, const RouterBwdArgs&);
void send_plan(const Exec&, const SendPlanArgs&);
void arrival_plan(const Exec&, const ArrivalPlanArgs&);
void gather_rows(const Exec&, const GatherRowsArgs&);
void scatter_rows(const Exec&, const ScatterRowsArgs&);
void combine(const Exec&, const CombineArgs&);
void combine_bwd(const Exec&, const CombineBwdArgs&);
void copy_heads(const Exec&, const CopyHeadsArgs&);
void add(const Exec&, const AddArgs&);
void column_sum(const Exec&, const ColumnSumArgs&);
void embedding(const Exec&, const EmbeddingArgs&);
void embedding_bwd(const Exec&, const EmbeddingBwdArgs&);
void head_partial(const Exec&, const HeadPartialArgs&);
void head_finish(const Exec&, const HeadFinishArgs&);
void head_bwd(const Exec&, const HeadBwdArgs&);
void token_loss(const Exec&, const TokenLossArgs&);
void sample(const Exec&, const SampleArgs&);
void adamw(const Exec&, const AdamwArgs&);
void square_sum(const Exec&, const SquareSumArgs&);
void quantize(const Exec&, const QuantizeArgs&);
void dequantize(const Exec&, const DequantizeArgs&);
void quantize_transposed(const Exec&, const QuantizeTransposedArgs&);
void quantize_weight(const Exec&, const QuantizeWeightArgs&);
void row_places(const Exec&, const RowPlacesArgs&);
}  // namespace cpu
}  // namespace contender
