#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "base/error.h"
#include "tests/grpo/tiny_trainer.h"

namespace contender {
namespace {

using namespace testing_trainer;

TEST(Sft, LossFallsFromAGuessToNearlyNothing) {
  TinyTrainer t(tiny_run(), "sft");
  t->sft_step();
  EXPECT_NEAR(t.metric("loss"), std::log(272), 0.5);
  EXPECT_NEAR(t.metric("entropy"), std::log(272), 0.5);
  for (int step = 1; step < 60; ++step) t->sft_step();
  EXPECT_LT(t.metric("loss"), 0.5);
  EXPECT_EQ(t->state().step, 60);
  EXPECT_EQ(t->state().updates, 60);
  EXPECT_EQ(t->state().prompt_cursor, 60 * 32);
  EXPECT_TRUE(std::isnan(t.metric("mtp_loss")));
}

TEST(Sft, LossIsTheMeanOverTargetTokensOfTheSolutions) {
  RunConfig c = tiny_run();
  c.sft.batch_size = 3;
  TinyTrainer t(c, "sft"), before(c, "sft");
  t->sft_step();
  const auto prompts = make_prompt_source(c.task, Split::kTrain, c.seed, t->tokenizer());
  double sum = 0, targets = 0;
  int64_t tokens = 0;
  for (int64_t i = 0; i < 3; ++i) {
    const Prompt p = prompts->at(shuffled_index(c.seed, prompts->size(), i));
    SampleGroup g{.prompt = p, .samples = std::vector<Sample>(1)};
    std::vector<int32_t>& completion = g.samples[0].completion.tokens = t->tokenizer().encode(p.solution);
    completion.push_back(t->tokenizer().eos());
    const auto logp = logps(before.trainer, {g});
    for (float l : logp[0]) sum -= l, targets += 1;
    tokens += std::ssize(p.tokens) + std::ssize(completion);
  }
  EXPECT_NEAR(t.metric("loss"), sum / targets, 1e-6);
  EXPECT_EQ(t.metric("tokens"), tokens);
}

TEST(Sft, MtpLossFallsToo) {
  RunConfig c = tiny_run("mtp");
  c.sft.mtp_loss_weight = 0.3;
  TinyTrainer t(c, "sft");
  t->sft_step();
  const double first = t.metric("mtp_loss");
  EXPECT_NEAR(first, std::log(272), 1);
  for (int step = 1; step < 60; ++step) t->sft_step();
  EXPECT_LT(t.metric("mtp_loss"), 0.6 * first);
}

TEST(Sft, LearningRateWarmsUpAndFollowsACosine) {
  RunConfig c = tiny_run();
  c.sft = {.steps = 10, .batch_size = 2, .lr = 1e-3, .lr_min = 1e-4, .warmup_steps = 2};
  TinyTrainer t(c, "sft");
  for (int step = 0; step < 10; ++step) {
    t->sft_step();
    const double expected =
        step < 2 ? 1e-3 * (step + 1) / 2 : 1e-4 + 0.5 * 9e-4 * (1 + std::cos(M_PI * (step - 2) / 8));
    EXPECT_NEAR(t.metric("lr"), expected, 1e-12) << step;
  }
}

TEST(Sft, LearnsTheSolutionsOfAFileAndNamesALineWithoutOne) {
  RunConfig c = tiny_run();
  const std::string file = ::testing::TempDir() + "sft_train.jsonl",
                    held_out = ::testing::TempDir() + "sft_eval.jsonl";
  std::ofstream(held_out) << R"({"prompt": "4+5=", "answer": "9"})"
                          << "\n";
  const std::string solved =
      R"({"prompt": "3+5=", "answer": "8", "solution": "<think>8</think><answer>8</answer>"})"
      "\n";
  c.task = {.name = "jsonl", .train_files = {file}, .eval_files = {held_out}, .max_prompt_tokens = 12};
  c.sft.batch_size = 2;
  std::ofstream(file) << solved;
  {
    TinyTrainer t(c, "sft");
    t->sft_step();
    const double first = t.metric("loss");
    EXPECT_EQ(
        t.metric("tokens"),
        2 * std::ssize(t->tokenizer().encode("<user>3+5=<assistant><think>8</think><answer>8</answer>")) + 2);
    for (int step = 1; step < 30; ++step) t->sft_step();
    EXPECT_LT(t.metric("loss"), 0.1 * first);
  }
  std::ofstream(file) << solved << "\n"
                      << R"({"prompt": "3+6=", "answer": "9"})";
  try {
    TinyTrainer t(c, "sft");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    EXPECT_EQ(e.what(), file + ":3: \"solution\" is missing, which a stage of kind sft learns from");
  }
  TinyTrainer rl(c);  // needs none
}

TEST(Sft, ASolutionBeyondTheContextIsNamed) {
  RunConfig c = tiny_run();
  c.task = {.name = "sort",
            .difficulty = 6,
            .max_prompt_tokens = 24,
            .eval_problems = 4};  // a thought of every insertion
  TinyTrainer t(c, "sft");
  try {
    t->sft_step();
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    EXPECT_NE(std::string(e.what()).find("model.max_position_embeddings"), std::string::npos) << e.what();
  }
}

// --- rejection sampling ---

// As it travels in a checkpoint: whole sequences, with the place of their first target in `sample`.
std::vector<Sample> rejection_set(const Trainer& trainer) {
  const auto memory = trainer.save_memory();
  size_t at = 0;
  return unpack_samples(memory.at("rejection"), at).second;
}

TEST(Rejection, TrainsOnTheRightCompletionsAlone) {
  RunConfig c = tiny_run();
  c.sft.num_prompts = 16;
  c.sft.samples_per_prompt = 8;
  c.sft.lr = c.sft.lr_min = 1e-3;
  TinyTrainer t(c, "rejection", &warm_weights());
  t->collect_rejection_set();
  const std::vector<Sample> kept = rejection_set(t.trainer);
  for (const Sample& s : kept) {
    const auto& tokens = s.completion.tokens;
    const std::string prompt = t->tokenizer().decode({tokens.begin(), tokens.begin() + s.completion.sample}),
                      text = t->tokenizer().decode({tokens.begin() + s.completion.sample, tokens.end()});
    const int a = prompt.at(6) - '0', b = prompt.at(8) - '0';
    EXPECT_EQ(prompt, fmt::format("<user>{}+{}=<assistant>", a, b));
    EXPECT_TRUE(text.ends_with(fmt::format("<answer>{}</answer>", a + b))) << text;
    EXPECT_EQ(verify_format(text), 1);
    EXPECT_EQ(tokens.back(), t->tokenizer().eos());
  }
  EXPECT_GT(kept.size(), 8u);
  EXPECT_LT(kept.size(), 16u * 8u);
  EXPECT_GT(t->state().tokens_generated, 0);

  t->sft_step();
  const double first = t.metric("loss");
  EXPECT_LT(first, 1);  // its own samples do not surprise it
  for (int step = 1; step < 20; ++step) t->sft_step();
  EXPECT_LT(t.metric("loss"), first);
  t->collect_rejection_set();
  EXPECT_GT(rejection_set(t.trainer).size(), kept.size());  // of the same prompts more are right now
}

TEST(Rejection, TheSetSurvivesACheckpoint) {
  RunConfig c = tiny_run();
  c.sft.num_prompts = 8;
  TinyTrainer t(c, "rejection", &warm_weights()), resumed(c, "rejection", &warm_weights());
  t->collect_rejection_set();
  resumed->load_memory(t->save_memory());
  t->sft_step();
  resumed->sft_step();
  EXPECT_EQ(resumed->policy_weights().fingerprint(), t->policy_weights().fingerprint());
}

TEST(Rejection, NothingRightIsAnErrorWithAWayOut) {
  RunConfig c = tiny_run();
  c.sft.num_prompts = 4;
  c.sft.samples_per_prompt = 2;
  TinyTrainer t(c, "rejection");
  try {
    t->collect_rejection_set();
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    EXPECT_NE(std::string(e.what()).find(
                  "none of 4 x 2 completions was right; start from a better policy or raise sft.num_prompts"),
              std::string::npos)
        << e.what();
  }
}

TEST(Rejection, AsksForNoMorePromptsThanThereAre) {
  RunConfig c = tiny_run();
  const std::string file = ::testing::TempDir() + "rejection_train.jsonl",
                    held_out = ::testing::TempDir() + "rejection_eval.jsonl";
  std::ofstream(file) << R"({"prompt": "3+5=", "answer": "8"})"
                      << "\n";
  std::ofstream(held_out) << R"({"prompt": "4+5=", "answer": "9"})"
                          << "\n";
  c.task = {.name = "jsonl", .train_files = {file}, .eval_files = {held_out}, .max_prompt_tokens = 12};
  c.sft.num_prompts = 256;
  c.sft.samples_per_prompt = 32;
  TinyTrainer t(c, "rejection", &warm_weights());
  t->collect_rejection_set();
  t->sft_step();
  EXPECT_TRUE(std::isfinite(t.metric("loss")));
}

}  // namespace
}  // namespace contender
