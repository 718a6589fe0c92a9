// Ops: the table of functions through which the model calls a backend, filled once at start. There is no
// other way to a kernel.
#pragma once

#include "ops/attention.h"
#include "ops/dispatch.h"
#include "ops/embedding.h"
#include "ops/gemm.h"
#include "ops/head.h"
#include "ops/linear.h"
#include "ops/loss.h"
#include "ops/norm.h"
#include "ops/optimizer.h"
#include "ops/permute.h"
#include "ops/quantize.h"
#include "ops/rope.h"
#include "ops/router.h"
#include "ops/sampling.h"
#include "ops/swiglu.h"

namespace contender {

template <class Args>
using Op = void (*)(const Exec&, const Args&);

struct Ops {
  const char* name = "";           // "cpu", "cuda"
  DType activation = DType::kF32;  // dtype of activation tensors
  WeightFormat weights = kCpuWeights;

  Op<PackWeightArgs> pack_weight = nullptr;
  Op<LinearArgs> linear = nullptr;
  Op<LinearDgradArgs> linear_dgrad = nullptr;
  Op<LinearWgradArgs> linear_wgrad = nullptr;
  Op<GroupedLinearArgs> grouped_linear = nullptr;
  Op<GroupedLinearDgradArgs> grouped_linear_dgrad = nullptr;
  Op<HeadsLinearArgs> heads_linear = nullptr;
  Op<HeadsWgradArgs> heads_wgrad = nullptr;
  Op<Fp8GemmArgs> fp8_gemm = nullptr;
  Op<Fp8GroupedGemmArgs> fp8_grouped_gemm = nullptr;
  Op<Fp8WgradArgs> fp8_wgrad = nullptr;

  Op<RmsNormArgs> rms_norm = nullptr;
  Op<RmsNormBwdArgs> rms_norm_bwd = nullptr;
  Op<RmsNormQuantizeArgs> rms_norm_quantize = nullptr;
  Op<HeadNormArgs> head_norm = nullptr;
  Op<HeadNormBwdArgs> head_norm_bwd = nullptr;
  Op<RopeArgs> rope = nullptr;
  Op<AttentionArgs> attention = nullptr;
  Op<AttentionBwdArgs> attention_bwd = nullptr;
  Op<SwigluArgs> swiglu = nullptr;
  Op<SwigluBwdArgs> swiglu_bwd = nullptr;
  Op<SwigluQuantizeArgs> swiglu_quantize = nullptr;

  Op<RouterArgs> router = nullptr;
  Op<RouterBwdArgs> router_bwd = nullptr;
  Op<SendPlanArgs> send_plan = nullptr;
  Op<ArrivalPlanArgs> arrival_plan = nullptr;
  Op<GatherRowsArgs> gather_rows = nullptr;
  Op<ScatterRowsArgs> scatter_rows = nullptr;
  Op<CombineArgs> combine = nullptr;
  Op<CombineBwdArgs> combine_bwd = nullptr;
  Op<CopyHeadsArgs> copy_heads = nullptr;
  Op<AddArgs> add = nullptr;
  Op<ColumnSumArgs> column_sum = nullptr;

  Op<EmbeddingArgs> embedding = nullptr;
  Op<EmbeddingBwdArgs> embedding_bwd = nullptr;
  Op<HeadPartialArgs> head_partial = nullptr;
  Op<HeadFinishArgs> head_finish = nullptr;
  Op<HeadBwdArgs> head_bwd = nullptr;
  Op<TokenLossArgs> token_loss = nullptr;
  Op<SampleArgs> sample = nullptr;

  Op<AdamwArgs> adamw = nullptr;
  Op<SquareSumArgs> square_sum = nullptr;
  Op<QuantizeArgs> quantize = nullptr;
  Op<DequantizeArgs> dequantize = nullptr;
  Op<QuantizeTransposedArgs> quantize_transposed = nullptr;
  Op<QuantizeWeightArgs> quantize_weight = nullptr;
  Op<RowPlacesArgs> row_places = nullptr;
};

}  // namespace contender
