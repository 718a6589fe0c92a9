// Hugging Face weights into the shards of every layout: the logits are those of transformers on each.
#include <gtest/gtest.h>

#include "tests/hub/tiny_hub_model.h"

namespace contender {
namespace {

using namespace testing_hub;

class HubLayouts : public ::testing::TestWithParam<std::string> {};

TEST_P(HubLayouts, LogitsAreThoseOfTransformersInEveryLayout) {
  const int np = launcher_info().size;
  const Expected e = expected(GetParam());
  const auto count = static_cast<int32_t>(e.tokens.size());
  for (int tp = 1; tp <= np; tp *= 2) {
    for (int ep = 1; ep <= np; ep *= 2) {
      RunConfig config = hub_config(fixture(GetParam()));
      if (virtual_slices(config.model) % tp != 0 || (ep > 1 && config.model.n_routed_experts == 0)) continue;
      config.mesh.tp = tp;
      config.mesh.ep = ep;
      HubModel model(config);
      EXPECT_LT(largest_gap(model.logits(e.tokens, count, count), e.logits), kLogitTolerance)
          << "tp " << tp << " ep " << ep;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, HubLayouts,
                         ::testing::Values("llama", "qwen2", "qwen3_moe", "deepseek_v3", "deepseek_v3_fp8"));

}  // namespace
}  // namespace contender
