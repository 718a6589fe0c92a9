// The engine over a fake policy, against each sequence alone: batching, paging, sharing, preemption, stops,
// weights, state.
#include "rollout/engine_core.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/philox.h"
#include "tests/rollout/fake_policy.h"

namespace contender {
namespace {

using namespace rollout_test;
using Key = std::pair<uint64_t, int32_t>;
using Results = std::map<Key, Completion>;
constexpr uint64_t kSeed = 5;

// Prompts of 1 to 70 tokens (a page has 16), groups of 1 to 6 samples, 1 to 90 new tokens.
std::vector<RolloutRequest> make_requests(int32_t count) {
  std::vector<RolloutRequest> requests;
  PhiloxSequence random(11, RandomStream::kTest, 3);
  for (int32_t i = 0; i < count; ++i) {
    RolloutRequest r;
    r.id = 100 + i;
    r.prompt_index = 7 * i;
    r.step = 3;
    const uint32_t kinds[] = {1, 15, 16, 17, 32, 1 + random.below(70)};
    r.prompt.resize(kinds[i % 6]);
    for (int32_t& t : r.prompt) t = static_cast<int32_t>(random.below(kVocab));
    r.num_samples = 1 + static_cast<int32_t>(random.below(6));
    r.params.temperature = 0.5f + random.uniform();
    r.max_new_tokens = 1 + static_cast<int32_t>(random.below(i % 2 == 0 ? 90 : 20));
    if (i % 4 == 1 || i % 4 == 2) r.stop_tokens = {kStop, static_cast<int32_t>(random.below(kVocab))};
    requests.push_back(r);
  }
  return requests;
}

Results expected(const std::vector<RolloutRequest>& requests, uint64_t seed = kSeed) {
  Results all;
  for (const RolloutRequest& r : requests) {
    for (int32_t i = 0; i < r.num_samples; ++i) {
      Completion c{.id = r.id, .sample = r.first_sample + i};
      extend_expected(r, seed, 0, r.max_new_tokens, c);
      all[{r.id, c.sample}] = c;
    }
  }
  return all;
}

Results collect(const std::vector<Completion>& completions) {
  Results all;
  for (const Completion& c : completions) {
    EXPECT_TRUE(all.emplace(Key{c.id, c.sample}, c).second) << c.id << " sample " << c.sample << " twice";
  }
  return all;
}

void expect_same(const Results& want, const Results& got) {
  ASSERT_EQ(want.size(), got.size());
  for (const auto& [key, w] : want) {
    const auto it = got.find(key);
    ASSERT_NE(it, got.end()) << key.first << " sample " << key.second;
    const Completion& g = it->second;
    EXPECT_EQ(w.tokens, g.tokens) << key.first << " sample " << key.second;
    EXPECT_EQ(w.logp, g.logp);
    EXPECT_EQ(w.logp_sampled, g.logp_sampled);
    EXPECT_EQ(w.version, g.version);
    EXPECT_EQ(w.finished, g.finished);
    EXPECT_EQ(w.cancelled, g.cancelled);
  }
}

struct Outcome {
  Results results;
  RolloutStats stats;
  int64_t max_tokens_seen = 0, max_rows_seen = 0;
};

Outcome run_all(const RolloutConfig& rollout, const std::vector<RolloutRequest>& requests) {
  FakeEngine engine(rollout);
  for (const RolloutRequest& r : requests) engine.scheduler().submit(r);
  Outcome out{.results = collect(engine.run())};
  out.stats = engine.scheduler().take_stats();
  out.max_tokens_seen = engine.policy.max_tokens_seen;
  out.max_rows_seen = engine.policy.max_rows_seen;
  EXPECT_TRUE(engine.scheduler().idle());
  EXPECT_FALSE(engine.core->step());
  EXPECT_EQ(engine.arena.mark(), 0);
  return out;
}

TEST(RolloutEngineCore, EverySequenceAsIfAloneWhateverTheLimits) {
  const auto requests = make_requests(30);
  const Results want = expected(requests);
  int64_t stops = 0, cuts = 0, generated = 0;
  for (const auto& [key, c] : want) {
    (c.finished ? stops : cuts) += 1;
    generated += std::ssize(c.tokens);
  }
  ASSERT_GT(stops, 10);
  ASSERT_GT(cuts, 10);
  int64_t preemptions = 0;
  for (const int64_t max_sequences : {1, 3, 64}) {
    for (const int64_t tokens : {1, 7, 33, 4096}) {
      for (const int64_t pages : {10, 13, 37, 0}) {
        SCOPED_TRACE(fmt::format("max_sequences {} tokens {} pages {}", max_sequences, tokens, pages));
        const Outcome out = run_all(
            {.max_sequences = max_sequences, .kv_pages = pages, .max_tokens_per_step = tokens}, requests);
        expect_same(want, out.results);
        EXPECT_LE(out.max_tokens_seen, tokens);
        EXPECT_LE(out.max_rows_seen, max_sequences);
        EXPECT_EQ(out.stats.tokens_generated, generated);
        EXPECT_LE(out.stats.peak_pages, pages > 0 ? pages : max_sequences * 10 + 1);
        EXPECT_TRUE(pages > 0 || out.stats.preemptions == 0);
        preemptions += out.stats.preemptions;
      }
    }
  }
  EXPECT_GT(preemptions, 100);
}

TEST(RolloutEngineCore, CacheIsOfTheLongestStageNotOfTheModel) {
  RunConfig c;
  c.model.max_position_embeddings = 131072;
  c.rollout = {.max_sequences = 8, .page_size = 16};
  c.task.max_prompt_tokens = 100;
  c.rl.max_new_tokens = 60;
  EXPECT_EQ(rollout_kv_pages(c), 8 * 10 + 1);
  c.stages = {{"rl", "short", c.sft, c.rl, c.task, c.reward}, {"rl", "long", c.sft, c.rl, c.task, c.reward}};
  c.stages[1].rl.max_new_tokens = 301;  // 401 tokens: 26 pages
  EXPECT_EQ(rollout_kv_pages(c), 8 * 26 + 1);
  c.model.max_position_embeddings = 400;
  EXPECT_EQ(rollout_kv_pages(c), 8 * 25 + 1);
  c.rollout.kv_pages = 7;
  EXPECT_EQ(rollout_kv_pages(c), 7);
}

// Eight sequences of full length at once, of one prompt whose last page is partial: none loses its pages.
TEST(RolloutEngineCore, CacheHoldsEverySequenceAtItsLongest) {
  FakeEngine engine({.max_sequences = 8});
  engine.scheduler().submit(
      {.id = 1, .prompt = std::vector<int32_t>(99, 3), .num_samples = 8, .max_new_tokens = 61});
  EXPECT_EQ(engine.run().size(), 8u);
  EXPECT_EQ(engine.scheduler().take_stats().preemptions, 0);
}

TEST(RolloutEngineCore, SeedReachesTheKeys) {
  const auto requests = make_requests(4);
  FakeEngine engine({.max_sequences = 8}, 6);
  for (const auto& r : requests) engine.scheduler().submit(r);
  expect_same(expected(requests, 6), collect(engine.run()));
}

TEST(RolloutEngineCore, OrderOfSubmissionDoesNotMatter) {
  auto requests = make_requests(24);
  const Results want = expected(requests);
  std::reverse(requests.begin(), requests.end());
  expect_same(want, run_all({.max_sequences = 5, .kv_pages = 20}, requests).results);
  std::rotate(requests.begin(), requests.begin() + 7, requests.end());
  expect_same(want, run_all({.max_sequences = 9, .kv_pages = 30}, requests).results);
}

TEST(RolloutEngineCore, SamplesSharedOrSubmittedOneByOne) {
  const auto requests = make_requests(20);
  std::vector<RolloutRequest> singles;
  for (const RolloutRequest& r : requests) {
    for (int32_t i = 0; i < r.num_samples; ++i) {
      singles.push_back(r);
      singles.back().num_samples = 1;
      singles.back().first_sample = i;
    }
  }
  const Outcome shared = run_all({.max_sequences = 64}, requests);
  const Outcome alone = run_all({.max_sequences = 64}, singles);
  expect_same(shared.results, alone.results);
  int64_t prompt_tokens = 0;
  for (const auto& r : requests) prompt_tokens += std::ssize(r.prompt);
  EXPECT_EQ(shared.stats.tokens_prefilled, prompt_tokens);  // each prompt once
  EXPECT_GT(alone.stats.tokens_prefilled, 2 * prompt_tokens);
  EXPECT_LT(shared.stats.peak_pages, alone.stats.peak_pages);
}

TEST(RolloutEngineCore, SlotsRefillAsSequencesEnd) {
  RolloutRequest r{.id = 1, .prompt = {1, 2, 3}, .num_samples = 40, .max_new_tokens = 10};
  const Outcome out = run_all({.max_sequences = 8}, {r});
  // One prompt forward draws all first tokens; then 40 samples of 9 forwards in 8 slots.
  EXPECT_EQ(out.stats.forwards, 1 + 5 * 9);
  EXPECT_EQ(out.stats.tokens_prefilled, 3);
  // Long and short ones together: the long one runs through, short ones take turns in the other slot.
  std::vector<RolloutRequest> mixed = {{.id = 1, .prompt = {4}, .max_new_tokens = 31}};
  for (uint64_t i = 0; i < 5; ++i) mixed.push_back({.id = 2 + i, .prompt = {5}, .max_new_tokens = 6});
  EXPECT_EQ(run_all({.max_sequences = 2}, mixed).stats.forwards, 31);
}

TEST(RolloutEngineCore, WeightsChangeInFlight) {
  const auto requests = make_requests(20);
  for (const int64_t pages : {12, 60, 0}) {
    FakeEngine engine({.max_sequences = 7, .kv_pages = pages, .max_tokens_per_step = 50});
    for (const auto& r : requests) engine.scheduler().submit(r);
    for (int64_t version = 1; engine.core->step(); ++version) {
      if (version % 5 == 0) engine.set_weights(version);
    }
    const Results got = collect(engine.scheduler().take_completions());
    int64_t mixed = 0;
    for (const RolloutRequest& r : requests) {
      for (int32_t i = 0; i < r.num_samples; ++i) {
        const auto it = got.find({r.id, i});
        ASSERT_NE(it, got.end());
        const Completion& g = it->second;
        Completion want{.id = r.id, .sample = i};
        for (const int64_t version : g.version) extend_expected(r, kSeed, version, 1, want);
        EXPECT_EQ(want.tokens, g.tokens);
        EXPECT_EQ(want.logp, g.logp);
        EXPECT_EQ(want.finished, g.finished);
        EXPECT_TRUE(std::is_sorted(g.version.begin(), g.version.end()));
        EXPECT_TRUE(g.finished || std::ssize(g.tokens) == r.max_new_tokens);
        mixed += g.version.front() != g.version.back();
      }
    }
    EXPECT_GT(mixed, 10);
  }
}

TEST(RolloutEngineCore, OneWrongRowChangesTokens) {
  // The check above can fail: new weights without set_weights leave rows of the old version, and other tokens
  // come out.
  const auto requests = make_requests(6);
  const Results want = expected(requests);
  FakeEngine engine({.max_sequences = 8});
  for (const auto& r : requests) engine.scheduler().submit(r);
  for (int i = 0; i < 4; ++i) engine.core->step();
  const KvCache& cache = *engine.policy.last_cache;
  cache.layer(0).f32()[0] += 1.0f;  // first row of the first page: a prompt's
  const Results got = collect(engine.run());
  int64_t changed = 0;
  for (const auto& [key, c] : want) changed += c.tokens != got.at(key).tokens;
  EXPECT_GT(changed, 0);
  EXPECT_LT(changed, std::ssize(want));
}

TEST(RolloutEngineCore, CancelGivesBackWhatThereIs) {
  auto requests = make_requests(12);
  const Results want = expected(requests);
  FakeEngine engine({.max_sequences = 6, .kv_pages = 16});
  for (const auto& r : requests) engine.scheduler().submit(r);
  std::vector<Completion> done;
  for (int i = 0; i < 8; ++i) engine.core->step();
  engine.scheduler().cancel(requests[0].id);   // running
  engine.scheduler().cancel(requests[3].id);   // running or waiting
  engine.scheduler().cancel(requests[11].id);  // not started
  engine.scheduler().cancel(424242);           // unknown
  const Results got = collect(engine.run());
  ASSERT_EQ(got.size(), want.size());
  int64_t cancelled = 0, empty = 0;
  for (const auto& [key, w] : want) {
    const Completion& g = got.at(key);
    if (!g.cancelled) {
      EXPECT_EQ(w.tokens, g.tokens);
      continue;
    }
    ++cancelled;
    empty += g.tokens.empty();
    EXPECT_FALSE(g.finished);
    ASSERT_LE(g.tokens.size(), w.tokens.size());
    EXPECT_TRUE(std::equal(g.tokens.begin(), g.tokens.end(), w.tokens.begin()));
    EXPECT_EQ(g.tokens.size(), g.logp.size());
  }
  EXPECT_GT(cancelled, requests[11].num_samples);
  EXPECT_EQ(empty, requests[11].num_samples);
  // All pages came back: the same work fits again.
  for (const auto& r : requests) engine.scheduler().submit(r);
  EXPECT_EQ(engine.run().size(), want.size());
}

TEST(RolloutEngineCore, ASequenceInFlightCanBeLookedAt) {
  RolloutRequest r = make_requests(1)[0];
  r.max_new_tokens = 12;
  FakeEngine engine({.max_sequences = 4, .max_tokens_per_step = 64});
  EXPECT_EQ(engine.scheduler().in_flight(r.id), nullptr);
  engine.scheduler().submit(r);
  const std::vector<int32_t> want = expected({r}).at({r.id, r.first_sample}).tokens;
  std::vector<int32_t> seen;
  while (const Completion* c = engine.scheduler().in_flight(r.id)) {
    ASSERT_GE(c->tokens.size(), seen.size());
    seen = c->tokens;
    ASSERT_TRUE(std::equal(seen.begin(), seen.end(), want.begin()));
    ASSERT_TRUE(engine.core->step());
  }
  EXPECT_EQ(seen.size() + 1, want.size());  // the last one is with the completion
}

TEST(RolloutEngineCore, PromptsHaveNames) {
  EXPECT_EQ(prompt_name(7), "prompt 7");
  EXPECT_EQ(prompt_name(kEvaluationPrompts + 7), "prompt 7 of the evaluation");
  EXPECT_EQ(prompt_name(kGivenPrompts), "prompt 0 of the command line");
}

TEST(RolloutEngineCore, SaveAndLoadContinueBitEqual) {
  const auto requests = make_requests(24);
  const Results want = expected(requests);
  const RolloutConfig rollout{.max_sequences = 6, .kv_pages = 24, .max_tokens_per_step = 40};
  for (const int steps : {0, 1, 9, 40, 120}) {
    FakeEngine before(rollout);
    for (const auto& r : requests) before.scheduler().submit(r);
    for (int i = 0; i < steps; ++i) before.core->step();
    std::vector<Completion> all;
    if (steps > 30) all = before.scheduler().take_completions();
    for (int i = 0; i < 3; ++i) before.core->step();  // some completions stay unread
    const std::string state = before.scheduler().save();
    FakeEngine after({.max_sequences = 4, .kv_pages = 30, .max_tokens_per_step = 25});
    after.scheduler().load(state, nullptr);
    EXPECT_EQ(after.scheduler().save(), state);
    const auto rest = after.run();
    all.insert(all.end(), rest.begin(), rest.end());
    expect_same(want, collect(all));
  }
}

TEST(RolloutEngineCore, StatesConcatenateAndDealOutById) {
  const auto requests = make_requests(16);
  FakeEngine a({.max_sequences = 6}), b({.max_sequences = 6});
  for (const auto& r : requests) (r.id % 4 == 0 ? a : b).scheduler().submit(r);
  for (int i = 0; i < 10; ++i) a.core->step(), b.core->step();
  const std::string state = a.scheduler().save() + b.scheduler().save();
  FakeEngine c({.max_sequences = 6}), d({.max_sequences = 6});
  c.scheduler().load(state, [](uint64_t id) { return id % 2 == 0; });
  d.scheduler().load(state, [](uint64_t id) { return id % 2 == 1; });
  auto all = c.run();
  const auto rest = d.run();
  all.insert(all.end(), rest.begin(), rest.end());
  expect_same(expected(requests), collect(all));
}

template <class F>
void expect_error(ExitCode code, const std::vector<std::string>& words, F&& f) {
  try {
    f();
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    for (const std::string& w : words)
      EXPECT_NE(std::string(e.what()).find(w), std::string::npos) << e.what();
  }
}

TEST(RolloutEngineCore, RequestsThatCannotFitSayWhy) {
  FakeEngine engine({.max_sequences = 4, .kv_pages = 5});
  const auto request = [](size_t prompt, int32_t new_tokens) {
    return RolloutRequest{.id = 1, .prompt = std::vector<int32_t>(prompt, 3), .max_new_tokens = new_tokens};
  };
  expect_error(ExitCode::kConfig, {"101 tokens", "model.max_position_embeddings", "160"},
               [&] { engine.scheduler().submit(request(101, 60)); });
  expect_error(ExitCode::kOutOfMemory, {"6 KV pages", "rollout.kv_pages is 5"},
               [&] { engine.scheduler().submit(request(22, 60)); });
  expect_error(ExitCode::kInternal, {"no tokens"}, [&] { engine.scheduler().submit(request(0, 6)); });
  EXPECT_TRUE(engine.scheduler().idle());
  engine.scheduler().submit(request(21, 60));  // 80 rows: exactly 5 pages
  EXPECT_EQ(engine.run().front().tokens.size(), 60u);
  RolloutRequest group = request(21, 60);  // and a group of which each alone needs all pages
  group.num_samples = 3;
  engine.scheduler().submit(group);
  EXPECT_EQ(engine.run().size(), 3u);
}

TEST(RolloutEngineCore, BrokenStateIsAnError) {
  FakeEngine engine({.max_sequences = 4});
  engine.scheduler().submit({.id = 1, .prompt = {1, 2, 3}, .max_new_tokens = 6});
  engine.core->step();
  const std::string state = engine.scheduler().save();
  for (const size_t cut : {size_t{1}, size_t{8}, size_t{30}, state.size() - 1}) {
    FakeEngine other({.max_sequences = 4});
    expect_error(ExitCode::kNoCheckpoint, {"rollout state"},
                 [&] { other.scheduler().load(state.substr(0, cut), nullptr); });
  }
  std::string strange = state;
  strange[8] ^= 1;
  expect_error(ExitCode::kNoCheckpoint, {"format"}, [&] { engine.scheduler().load(strange, nullptr); });
}

TEST(RolloutEngineCore, IdleRankKeepsStepWithItsGroup) {
  FakeEngine engine({.max_sequences = 4});
  EXPECT_FALSE(engine.core->step());
  EXPECT_EQ(engine.policy.forwards, 0);
  engine.policy.other_rank_works = true;
  EXPECT_TRUE(engine.core->step());  // an empty batch, for the exchanges inside
  EXPECT_EQ(engine.policy.forwards, 1);
  EXPECT_EQ(engine.policy.max_tokens_seen, 0);
}

}  // namespace
}  // namespace contender
