// The same tokens and log-probs, to the bit, in every layout of the mesh and for every way to deal the
// prompts.
#include <gtest/gtest.h>

#include "rollout/engine.h"
#include "tests/rollout/tiny_model.h"

namespace contender {
namespace {

using namespace rollout_test;

std::vector<MeshShape> layouts(int np) {
  std::vector<MeshShape> all;
  for (int tp = 1; tp <= np; tp *= 2) {
    for (int ep = 1; ep <= np; ep *= 2) all.push_back({.tp = tp, .dp = np / tp, .ep = ep});
  }
  return all;
}

int job_size() { return launcher_info().size; }

Results run_share(TinyModel& tiny, const RolloutConfig& rollout, const std::vector<RolloutRequest>& requests,
                  bool all_to_first) {
  RunConfig config = tiny.config;
  config.rollout = rollout;
  RolloutEngine engine(config, &tiny.model, 77);
  const Mesh& mesh = *tiny.machine.mesh;
  const uint64_t dp = mesh.shape().dp, mine = mesh.rank() / mesh.shape().tp;
  std::vector<RolloutRequest> share;
  for (const RolloutRequest& r : requests) {
    if ((all_to_first ? 0 : r.id % dp) == mine) share.push_back(r);
  }
  return run(engine, share);
}

class RolloutLayouts : public testing::TestWithParam<const char*> {};

TEST_P(RolloutLayouts, SameBitsWhateverTheMeshAndTheDealing) {
  const auto requests = tiny_requests(9);
  TinyModel alone(
      rollout_config(GetParam(), {.dp = job_size()}));  // every rank runs everything, without exchanges
  RolloutEngine engine(alone.config, &alone.model, 77);
  const Results want = run(engine, requests);
  for (const MeshShape& shape : layouts(job_size())) {
    TinyModel tiny(rollout_config(GetParam(), shape));
    for (const bool all_to_first : {false, true}) {  // true: the other ranks of an ep group only keep step
      for (const int64_t kv_pages : {0, 9}) {
        SCOPED_TRACE(fmt::format("tp {} ep {} all_to_first {} kv_pages {}", shape.tp, shape.ep, all_to_first,
                                 kv_pages));
        const RolloutConfig rollout{.max_sequences = 6, .kv_pages = kv_pages, .max_tokens_per_step = 30};
        for (const auto& [key, c] : run_share(tiny, rollout, requests, all_to_first)) {
          EXPECT_EQ(c.tokens, want.at(key).tokens) << key.first << " sample " << key.second;
          EXPECT_EQ(c.logp, want.at(key).logp) << key.first << " sample " << key.second;
        }
      }
    }
  }
}

TEST_P(RolloutLayouts, LogpIsThatOfAFullSequenceForward) {
  if (job_size() < 2) GTEST_SKIP() << "tests/rollout/engine_test.cpp has the case of one rank";
  TinyModel tiny(rollout_config(GetParam(), {.tp = 2, .dp = job_size() / 2, .ep = 2}));
  const auto requests = tiny_requests(9);
  const Results got = run_share(tiny, {.max_sequences = 5}, requests, false);
  const auto logp = full_sequence_logp(tiny, requests, got);
  for (const auto& [key, c] : got) EXPECT_EQ(c.logp, logp.at(key)) << key.first << " sample " << key.second;
}

INSTANTIATE_TEST_SUITE_P(Families, RolloutLayouts, testing::Values("mla", "gqa_qk_norm"));

}  // namespace
}  // namespace contender
