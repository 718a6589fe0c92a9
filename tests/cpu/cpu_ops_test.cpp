#include "cpu/cpu_ops.h"

#include <gtest/gtest.h>

#include <cstddef>

namespace contender {
namespace {

template <class... Entry>
void expect_complete(const Entry&... entry) {
  int index = 0;
  const auto expect_filled = [&](bool filled) {
    EXPECT_TRUE(filled) << "entry " << index;
    ++index;
  };
  (expect_filled(entry != nullptr), ...);
  // The caller's list is complete: the entries are the rest of the struct, from the first one on.
  EXPECT_EQ(sizeof(Ops), offsetof(Ops, pack_weight) + sizeof...(entry) * sizeof(void*));
}

// The model calls through the table without asking: no entry may be empty.
TEST(CpuOps, EveryEntryIsFilled) {
  const Ops& o = cpu_ops();
  EXPECT_STREQ(o.name, "cpu");
  EXPECT_EQ(o.activation, DType::kF32);
  expect_complete(o.pack_weight, o.linear, o.linear_dgrad, o.linear_wgrad, o.grouped_linear,
                  o.grouped_linear_dgrad, o.heads_linear, o.heads_wgrad, o.fp8_gemm, o.fp8_grouped_gemm,
                  o.fp8_wgrad, o.rms_norm, o.rms_norm_bwd, o.rms_norm_quantize, o.head_norm, o.head_norm_bwd,
                  o.rope, o.attention, o.attention_bwd, o.swiglu, o.swiglu_bwd, o.swiglu_quantize, o.router,
                  o.router_bwd, o.send_plan, o.arrival_plan, o.gather_rows, o.scatter_rows, o.combine,
                  o.combine_bwd, o.copy_heads, o.add, o.column_sum, o.embedding, o.embedding_bwd,
                  o.head_partial, o.head_finish, o.head_bwd, o.token_loss, o.sample, o.adamw, o.square_sum,
                  o.quantize, o.dequantize, o.quantize_transposed, o.quantize_weight, o.row_places);
}

}  // namespace
}  // namespace contender
