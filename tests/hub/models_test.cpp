// Every family against transformers: logits of a fixed sequence, and 64 greedy tokens.
#include <gtest/gtest.h>

#include "tests/hub/tiny_hub_model.h"

namespace contender {
namespace {

using namespace testing_hub;

class HubFamilies : public ::testing::TestWithParam<std::string> {};

TEST_P(HubFamilies, LogitsAreThoseOfTransformers) {
  const Expected e = expected(GetParam());
  HubModel model(hub_config(fixture(GetParam())));
  const auto count = static_cast<int32_t>(e.tokens.size());
  const double gap = largest_gap(model.logits(e.tokens, count, count), e.logits);
  RecordProperty("gap", std::to_string(gap));
  EXPECT_LT(gap, kLogitTolerance);
}

// Nothing is padded here: a sequence has the logits that it has there between paddings.
TEST_P(HubFamilies, PaddedBatchesOfTransformersAgree) {
  const Expected e = expected(GetParam());
  HubModel model(hub_config(fixture(GetParam())));
  std::vector<float> last;
  for (const int32_t n : e.padded) {
    const std::vector<float> row = model.logits({e.tokens.begin(), e.tokens.begin() + n}, n, 1);
    last.insert(last.end(), row.begin(), row.end());
  }
  EXPECT_EQ(e.padded.size(), 3u);
  EXPECT_LT(largest_gap(last, e.left), kLogitTolerance);
  EXPECT_LT(largest_gap(last, e.right), kLogitTolerance);
}

TEST_P(HubFamilies, GreedyTokensAreThoseOfTransformers) {
  const Expected e = expected(GetParam());
  HubModel model(hub_config(fixture(GetParam())));
  EXPECT_EQ(
      model.greedy({e.tokens.begin(), e.tokens.begin() + static_cast<int64_t>(e.prompt)}, e.greedy.size()),
      e.greedy);
}

INSTANTIATE_TEST_SUITE_P(All, HubFamilies, ::testing::ValuesIn(families()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace contender
