// The rollout engine on CUDA: tokens and log-probs that no batch, cache or neighbour changes, equal to the
// bit to a full-sequence forward; what it waits for; and input that cannot be used.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

#include "rollout/engine.h"
#include "tests/cuda/backends.h"
#include "tests/rollout/tiny_model.h"

namespace contender {
namespace {

using namespace test;
using namespace rollout_test;

RunConfig engine_config(const std::string& form) {
  RunConfig config = rollout_config(form);
  config.model.intermediate_size = 64;
  config.model.initializer_range = 0.15;
  return config;
}

struct CudaTinyModel : TinyModel {
  explicit CudaTinyModel(const RunConfig& c)
      : TinyModel(on(Backend::kCuda, c), cuda_ops(), make_device(Backend::kCuda)) {}
  Results run_with(const RolloutConfig& rollout, const std::vector<RolloutRequest>& requests,
                   RolloutStats* stats = nullptr) {
    RunConfig c = config;
    c.rollout = rollout;
    RolloutEngine engine(c, &model, 77);
    const Results results = run(engine, requests);
    if (stats) *stats = engine.take_stats();
    return results;
  }
};

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

// Three answers to a prompt of one token outgrow a cache of four pages.
std::vector<RolloutRequest> requests_of_all_kinds() {
  std::vector<RolloutRequest> requests = tiny_requests(6);
  for (RolloutRequest& r : requests) r.max_new_tokens = std::min(r.max_new_tokens, 16);
  requests.back() = {
      .id = 5, .prompt_index = 5, .step = 9, .prompt = {3}, .num_samples = 3, .max_new_tokens = 36};
  return requests;
}

class CudaRollout : public testing::TestWithParam<const char*> {};

// Prompts from one token on, groups of samples that share a prompt, sequences that lose their pages and come
// back.
TEST_P(CudaRollout, SameBitsInEveryBatchAndFromAFullForward) {
  CudaTinyModel tiny(engine_config(GetParam()));
  const std::vector<RolloutRequest> requests = requests_of_all_kinds();
  const Results want = tiny.run_with({.max_sequences = 64}, requests);
  int64_t truncated = 0;
  const auto logp = full_sequence_logp(tiny, requests, want);
  for (const auto& [key, c] : want) {
    EXPECT_EQ(c.logp, logp.at(key)) << key.first << " sample " << key.second;
    truncated += c.logp != c.logp_sampled;
  }
  EXPECT_GT(truncated, 0);
  expect_same(want, tiny.run_with({.max_sequences = 5, .max_tokens_per_step = 11}, requests));
  RolloutStats stats;
  expect_same(want, tiny.run_with({.max_sequences = 64, .kv_pages = 4}, requests, &stats));
  EXPECT_GT(stats.preemptions, 0);
}

// One wait for every step that draws, whatever else it does.
TEST(CudaRolloutWaits, OnceAStep) {
  CudaTinyModel tiny(engine_config("mla"));
  RunConfig config = tiny.config;
  config.rollout = {.max_sequences = 5, .kv_pages = 6, .max_tokens_per_step = 11};
  RolloutEngine engine(config, &tiny.model, 77);
  for (const RolloutRequest& r : tiny_requests(3)) engine.submit(r);
  const auto waits = [&] { return tiny.machine.device->host_waits(); };
  int64_t steps = 0, waited = 0;
  for (int64_t before = waits(); engine.step(); before = waits()) {
    EXPECT_LE(waits() - before, 1);
    steps += 1, waited += waits() - before;
  }
  EXPECT_GT(steps, 10);
  EXPECT_GT(waited, steps / 2);
}

// --- input that cannot be used ---

template <class F>
void expect_error(ExitCode code, const std::string& words, F f) {
  try {
    f();
    ADD_FAILURE() << "no error: " << words;
  } catch (const Error& e) {
    EXPECT_EQ(static_cast<int>(e.code()), static_cast<int>(code)) << e.what();
    EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
  }
}

TEST(CudaBadInput, LogitsThatAreNotNumbersEndTheRun) {
  CudaTinyModel tiny(engine_config("mla"));
  RolloutEngine engine(tiny.config, &tiny.model, 77);
  engine.submit({.id = 3, .prompt_index = 3, .prompt = {1}, .num_samples = 2, .max_new_tokens = 8});
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(engine.step());
  const int gamma = tiny.weights.find("final_norm");
  tiny.weights.set_master(gamma, 0, std::vector<float>(tiny.weights.master(gamma).numel(), NAN));
  tiny.weights.repack();
  expect_error(ExitCode::kNonFinite, "the logits of prompt 3, sample 0, token 4 are not finite",
               [&] { engine.step(); });
}

TEST(CudaBadInput, IdsOutsideTheVocabulary) {
  CudaTinyModel tiny(engine_config("mla"));
  for (const int32_t id : {-1, 48}) {
    const TrainSequence sequence{.tokens = {1, 2, id}};
    expect_error(ExitCode::kInternal, fmt::format("is {}, the vocabulary has 48", id), [&] {
      tiny.model.forward_logp(make_packed_batch({{&sequence}, {}, {}, {}}, 1), 1.0f);
    });
    RolloutEngine engine(tiny.config, &tiny.model, 77);
    engine.submit({.prompt = {1, id, 3}});
    expect_error(ExitCode::kInternal, fmt::format("is {}, the vocabulary has 48", id),
                 [&] { engine.step(); });
  }
}

TEST(CudaBadInput, MoreThanTheCacheHolds) {
  RunConfig config = engine_config("mla");
  config.rollout.kv_pages = 2;
  CudaTinyModel tiny(config);
  RolloutEngine engine(tiny.config, &tiny.model, 77);
  expect_error(ExitCode::kOutOfMemory, "rollout.kv_pages is 2", [&] {
    engine.submit({.prompt = {1, 2}, .max_new_tokens = 60});
  });
  for (uint32_t i = 0; i < 3; ++i)  // one after the other
    engine.submit({.id = i, .prompt_index = i, .prompt = {1, 2}, .num_samples = 2, .max_new_tokens = 17});
  while (engine.step()) {
  }
  EXPECT_EQ(engine.poll().size(), 6u);
}

TEST(CudaBadInput, MemoryOutInTheMiddleOfAStepNamesTheSetting) {
  CudaTinyModel tiny(engine_config("mla"));
  tiny.machine.arena = Arena(tiny.machine.device.get(), 1 << 16, "activation arena", "train.token_budget");
  const TrainSequence sequence{.tokens = std::vector<int32_t>(90, 7)};
  const PackedBatch batch = make_packed_batch({{&sequence}, {&sequence}, {&sequence}, {&sequence}}, 1);
  expect_error(ExitCode::kOutOfMemory, "train.token_budget", [&] { tiny.model.forward_train(batch, 1.0f); });
}

TEST(CudaBadInput, MemoryThatTheDeviceDoesNotHave) {
  ::setenv("CONTENDER_MEMORY_LIMIT", "3000000", 1);
  expect_error(ExitCode::kOutOfMemory, "lower a setting that sizes one of them",
               [] { CudaTinyModel tiny(engine_config("mla")); });
  ::unsetenv("CONTENDER_MEMORY_LIMIT");
}

// A rank without sequences, a slot without them, and a batch that most experts get nothing of.
TEST(CudaBadInput, EmptyBatchesAreNoWork) {
  CudaTinyModel tiny(engine_config("mla"));
  EXPECT_TRUE(tiny.model.forward_logp(make_packed_batch({{}, {}, {}, {}}, 1), 1.0f).empty());
  const PackedBatch nothing = make_packed_batch({{}, {}, {}, {}}, 1);
  const TrainSequence sequence{.tokens = {1, 2}};
  const PackedBatch one_token = make_packed_batch({{}, {&sequence}, {}, {}}, 1);
  const auto gradients = [&](const PackedBatch& batch) {
    tiny.weights.begin_step();
    tiny.weights.begin_round();
    tiny.model.forward_train(batch, 1.0f);
    tiny.model.backward(std::vector<float>(batch.head_rows.size(), 1.0f), {});
    tiny.weights.finish_reduce();
    return values_of(*tiny.machine.device,
                     f32_tensor(tiny.weights.grad_shard(), 1, tiny.weights.shard_numel()));
  };
  for (const float g : gradients(nothing)) ASSERT_EQ(g, 0);
  bool any = false;
  for (const float g : gradients(one_token)) {
    ASSERT_TRUE(std::isfinite(g));
    any = any || g != 0;
  }
  EXPECT_TRUE(any);
}

// What a kernel finds wrong is said in its words, and ends the process with 1: the GPU's context is lost.
TEST(CudaBadInputDeathTest, AKernelThatTrapsSaysWhy) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const auto gather_outside = [] {
    ::dup2(2, 1);
    const std::unique_ptr<Device> device = make_device(Backend::kCuda);
    Stream* stream = device->compute_stream();
    Arena arena(device.get(), 1 << 16, "activation arena", "train.token_budget");
    const Tensor x = arena.tensor(DType::kBF16, 4, 32), y = arena.tensor(DType::kBF16, 1, 32);
    const int32_t row = 4;
    Upload up;
    const auto index = up.add(&row, 1);
    up.send(*device, stream, arena);
    try {
      cuda_ops().gather_rows({.stream = stream}, {.x = x, .index = up.at(index), .y = y});
      device->synchronize(stream);
    } catch (const Error& e) {
      fmt::print(stderr, "{}\n", e.what());
      std::_Exit(static_cast<int>(e.code()));
    }
  };
  EXPECT_EXIT(gather_outside(), testing::ExitedWithCode(static_cast<int>(ExitCode::kInternal)),
              "move_rows: index.0. = 4 of 4 rows(.|\n)*GPU 0 of .*: a kernel failed, seen by ");
}

INSTANTIATE_TEST_SUITE_P(Families, CudaRollout, testing::Values("mla", "gqa_qk_norm"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace contender
