// The engine over a tiny real model, one rank: the same tokens and log-probs in every batch, equal to the bit
// to a full-sequence forward.
#include "rollout/engine.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "rollout/engine_core.h"
#include "tests/rollout/tiny_model.h"

namespace contender {
namespace {

using namespace rollout_test;

void expect_same(const Results& want, const Results& got) {
  ASSERT_EQ(want.size(), got.size());
  for (const auto& [key, w] : want) {
    const auto it = got.find(key);
    ASSERT_NE(it, got.end());
    EXPECT_EQ(w.tokens, it->second.tokens) << key.first << " sample " << key.second;
    EXPECT_EQ(w.logp, it->second.logp) << key.first << " sample " << key.second;
    EXPECT_EQ(w.logp_sampled, it->second.logp_sampled);
    EXPECT_EQ(w.finished, it->second.finished);
  }
}

class RolloutEngineOverModel : public testing::TestWithParam<const char*> {
 protected:
  RolloutEngineOverModel() : tiny_(rollout_config(GetParam())), requests_(tiny_requests(12)) {}
  Results run_with(const RolloutConfig& rollout, const std::vector<RolloutRequest>& requests,
                   RolloutStats* stats = nullptr) {
    RunConfig config = tiny_.config;
    config.rollout = rollout;
    RolloutEngine engine(config, &tiny_.model, 77);
    const Results results = run(engine, requests);
    if (stats) *stats = engine.take_stats();
    return results;
  }
  TinyModel tiny_;
  std::vector<RolloutRequest> requests_;
};

TEST_P(RolloutEngineOverModel, SameBitsInEveryBatch) {
  const Results want = run_with({.max_sequences = 64}, requests_);
  ASSERT_EQ(std::count_if(want.begin(), want.end(), [](auto& kv) { return kv.second.tokens.size() > 1; }) > 8,
            true);
  expect_same(want, run_with({.max_sequences = 1}, requests_));
  expect_same(want, run_with({.max_sequences = 3, .max_tokens_per_step = 11}, requests_));
  expect_same(want, run_with({.max_sequences = 64, .page_size = 32, .max_tokens_per_step = 64}, requests_));

  RolloutStats stats;
  expect_same(want, run_with({.max_sequences = 64, .kv_pages = 9}, requests_, &stats));
  EXPECT_GT(stats.preemptions, 0);
  EXPECT_LE(stats.peak_pages, 9);

  std::vector<RolloutRequest> singles;
  for (auto r = requests_.rbegin(); r != requests_.rend(); ++r) {
    for (int32_t i = 0; i < r->num_samples; ++i) {
      singles.push_back(*r);
      singles.back().num_samples = 1;
      singles.back().first_sample = i;
    }
  }
  expect_same(want, run_with({.max_sequences = 7}, singles));
}

TEST_P(RolloutEngineOverModel, LogpIsThatOfAFullSequenceForward) {
  const Results results =
      run_with({.max_sequences = 5, .kv_pages = 14, .max_tokens_per_step = 37}, requests_);
  const auto logp = full_sequence_logp(tiny_, requests_, results);
  int64_t truncated = 0;
  for (const auto& [key, c] : results) {
    EXPECT_EQ(c.logp, logp.at(key)) << key.first << " sample " << key.second;
    truncated += c.logp != c.logp_sampled;
  }
  EXPECT_GT(truncated, 0);
}

TEST_P(RolloutEngineOverModel, ContinuesUnderNewWeights) {
  RolloutEngine engine(tiny_.config, &tiny_.model, 77);
  for (const RolloutRequest& r : requests_) engine.submit(r);
  for (int i = 0; i < 6; ++i) engine.step();
  tiny_.weights.initialize(4);
  tiny_.weights.set_version(1);
  engine.set_weights(1);
  const std::string state = engine.save_state();
  while (engine.step()) {
  }
  const Results results = by_id(engine.poll());
  const auto new_logp = full_sequence_logp(tiny_, requests_, results);
  int64_t old_tokens = 0, new_tokens = 0, wrong = 0;
  for (const auto& [key, c] : results) {
    for (size_t t = 0; t < c.tokens.size(); ++t) {
      (c.version[t] == 0 ? old_tokens : new_tokens) += 1;
      wrong += c.version[t] == 1 && c.logp[t] != new_logp.at(key)[t];
    }
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(old_tokens, 20);
  EXPECT_GT(new_tokens, 20);

  RolloutEngine resumed(tiny_.config, &tiny_.model, 77);
  resumed.load_state(state);
  while (resumed.step()) {
  }
  expect_same(results, by_id(resumed.poll()));
}

// The comparison above can fail: one bit of one KV row, flipped once, reaches the log-probs of the sequences
// that read it.
TEST_P(RolloutEngineOverModel, OneFlippedBitOfTheCacheIsSeen) {
  struct Flipping final : RolloutPolicy {
    Model* model = nullptr;
    bool flip = false;
    int64_t forwards = 0;
    void send(TokenBatch& batch, const KvCache& cache, const std::vector<int32_t>& rows) override {
      if (flip && forwards++ == 3) {
        const int32_t row =
            batch.page_ids[batch.seqs[0].page_table] * static_cast<int32_t>(cache.page_size());
        *reinterpret_cast<uint32_t*>(cache.layer(1).row(row)) ^= 1u << 20;
      }
      split_rows_evenly(batch, 1);
      model->send_rollout(batch, cache, rows);
    }
    Tensor forward() override { return model->run_rollout(); }
    bool any_rank_has_work(bool mine) override { return mine; }
  };
  const RolloutRequest request{.id = 0, .prompt = {1, 2, 3, 4, 5}, .max_new_tokens = 20};
  const RolloutRequest other{.id = 1, .prompt_index = 1, .prompt = {7, 8}, .max_new_tokens = 20};
  for (const bool flip : {false, true}) {
    Flipping policy;
    policy.model = &tiny_.model;
    policy.flip = flip;
    EngineCore core(tiny_.config, 1, tiny_.machine.runtime(), &policy, 77, 0, 0);
    core.scheduler().submit(request);
    core.scheduler().submit(other);
    while (core.step()) {
    }
    const Results results = by_id(core.scheduler().take_completions());
    const auto logp = full_sequence_logp(tiny_, {request, other}, results);
    const std::vector<float>& got = results.at({0, 0}).logp;
    EXPECT_EQ(got != logp.at({0, 0}), flip);
    EXPECT_TRUE(std::equal(got.begin(), got.begin() + 3, logp.at({0, 0}).begin()));  // drawn before
    EXPECT_EQ(results.at({1, 0}).logp, logp.at({1, 0}));
  }
}

TEST_P(RolloutEngineOverModel, PaddingOfTheVocabularyIsNeverDrawn) {
  RolloutEngine engine(tiny_.config, &tiny_.model, 77, 20);
  for (const auto& [key, c] : run(engine, tiny_requests(4))) {
    for (const int32_t t : c.tokens) EXPECT_LT(t, 20);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, RolloutEngineOverModel, testing::Values("mla", "gqa_qk_norm"));

}  // namespace
}  // namespace contender
