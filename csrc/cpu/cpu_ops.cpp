#include "cpu/cpu_ops.h"

namespace contender {

const Ops& cpu_ops() {
  static const Ops ops = {
      .name = "cpu",
      .activation = DType::kF32,
      .pack_weight = cpu::pack_weight,
      .linear = cpu::linear,
      .linear_dgrad = cpu::linear_dgrad,
      .linear_wgrad = cpu::linear_wgrad,
      .grouped_linear = cpu::grouped_linear,
      .grouped_linear_dgrad = cpu::grouped_linear_dgrad,
      .heads_linear = cpu::heads_linear,
      .heads_wgrad = cpu::heads_wgrad,
      .fp8_gemm = cpu::fp8_gemm,
      .fp8_grouped_gemm = cpu::fp8_grouped_gemm,
      .fp8_wgrad = cpu::fp8_wgrad,
      .rms_norm = cpu::rms_norm,
      .rms_norm_bwd = cpu::rms_norm_bwd,
      .rms_norm_quantize = cpu::rms_norm_quantize,
      .head_norm = cpu::head_norm,
      .head_norm_bwd = cpu::head_norm_bwd,
      .rope = cpu::rope,
      .attention = cpu::attention,
      .attention_bwd = cpu::attention_bwd,
      .swiglu = cpu::swiglu,
      .swiglu_bwd = cpu::swiglu_bwd,
      .swiglu_quantize = cpu::swiglu_quantize,
      .router = cpu::router,
      .router_bwd = cpu::router_bwd,
      .send_plan = cpu::send_plan,
      .arrival_plan = cpu::arrival_plan,
      .gather_rows = cpu::gather_rows,
      .scatter_rows = cpu::scatter_rows,
      .combine = cpu::combine,
      .combine_bwd = cpu::combine_bwd,
      .copy_heads = cpu::copy_heads,
      .add = cpu::add,
      .column_sum = cpu::column_sum,
      .embedding = cpu::embedding,
      .embedding_bwd = cpu::embedding_bwd,
      .head_partial = cpu::head_partial,
      .head_finish = cpu::head_finish,
      .head_bwd = cpu::head_bwd,
      .token_loss = cpu::token_loss,
      .sample = cpu::sample,
      .adamw = cpu::adamw,
      .square_sum = cpu::square_sum,
      .quantize = cpu::quantize,
      .dequantize = cpu::dequantize,
      .quantize_transposed = cpu::quantize_transposed,
      .quantize_weight = cpu::quantize_weight,
  };
  return ops;
}

}  // namespace contender
