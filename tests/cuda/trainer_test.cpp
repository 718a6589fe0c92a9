// Whole GRPO updates on CUDA, teacher-forced: the CPU's run samples the completions, and CUDA trains on the
// same, beside a plain BF16 implementation (backends.h). And how often an update, a forward and a step of the
// engine wait for the device.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/cuda/backends.h"
#include "tests/grpo/tiny_trainer.h"

namespace contender {
namespace {

using namespace test;
using testing_trainer::plant;
using testing_trainer::TinyTrainer;
using Groups = std::vector<SampleGroup>;

constexpr int kSteps = 5;

RunConfig nano(const std::string& name) {
  const size_t fp8 = name.find("_fp8");
  RunConfig c = load_config(fmt::format("configs/{}.toml", name.substr(0, fp8)), {}, 1);
  if (fp8 != std::string::npos) c.train.precision = "fp8";
  c.dir = testing::TempDir();
  return c;
}

struct StepResult {
  std::vector<float> logp;  // of every completion token, before the update
  double loss, kl, entropy, grad_norm;
};
struct RunResult {
  std::vector<StepResult> steps;
  std::vector<float> weights;  // after the last update
};

std::vector<float> all_weights(TinyTrainer& t) {
  std::vector<float> all;
  WeightStore& w = t->policy_weights();
  for (int p = 0; p < std::ssize(w.specs()); ++p) {
    const std::vector<float> values = values_of(*t.machine.device, w.master(p));
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

// In one forward, of this trainer's present weights.
std::vector<float> forced_logp(TinyTrainer& t, const Groups& groups) {
  std::vector<TrainSequence> sequences;
  for (const SampleGroup& g : groups) {
    for (const Sample& s : g.samples) {
      sequences.push_back(
          {.tokens = g.prompt.tokens, .first_target = static_cast<int32_t>(g.prompt.tokens.size())});
      std::vector<int32_t>& tokens = sequences.back().tokens;
      tokens.insert(tokens.end(), s.completion.tokens.begin(), s.completion.tokens.end());
    }
  }
  const size_t slots = static_cast<size_t>(t.config.mesh.data_slots);
  std::vector<std::vector<const TrainSequence*>> packs(slots);
  for (size_t i = 0; i < sequences.size(); ++i) packs[i * slots / sequences.size()].push_back(&sequences[i]);
  std::vector<float> logp;
  for (const HeadStats& h : t->policy().forward_logp(make_packed_batch(packs, 1), 1.0f))
    logp.push_back(h.logp);
  return logp;
}

// The samples of the CPU's own run of some updates, with their rewards and log-probs.
std::vector<Groups> sampled_by_the_cpu(const RunConfig& config, int steps) {
  TinyTrainer t(on(Backend::kCpu, config));
  std::vector<Groups> batches;
  for (int step = 0; step < steps; ++step) {
    t->rl_step();
    batches.push_back(t->last_batch());
  }
  return batches;
}

RunResult run_updates(const RunConfig& config, Backend backend, const std::vector<Groups>& batches) {
  TinyTrainer t(on(backend, config), "rl", nullptr, ops_of(backend), make_device(backend));
  RunResult r;
  for (const Groups& groups : batches) {
    StepResult s = {.logp = forced_logp(t, groups)};
    plant(t.trainer, groups);
    t->rl_step();
    EXPECT_EQ(t.metric("skipped"), 0);
    s.loss = t.metric("loss"), s.kl = t.metric("kl"), s.entropy = t.metric("entropy");
    s.grad_norm = t.metric("grad_norm");
    r.steps.push_back(s);
  }
  r.weights = all_weights(t);
  return r;
}

// What the run has added to the weights that every run begins with.
std::vector<float> moved(const RunConfig& config, const RunResult& run) {
  TinyTrainer fresh(on(Backend::kCpu, config));
  std::vector<float> d = run.weights, start = all_weights(fresh);
  for (size_t i = 0; i < d.size(); ++i) d[i] -= start[i];
  return d;
}

struct Distance {
  double mean = 0, most = 0, max = 0;  // most: 99 of 100 are no larger
};
Distance distance(const std::vector<float>& a, const std::vector<float>& b) {
  Distance d;
  EXPECT_EQ(a.size(), b.size());
  std::vector<double> all;
  for (size_t i = 0; i < a.size(); ++i) {
    all.push_back(std::abs(double(a[i]) - double(b[i])));
    d.mean += all.back() / static_cast<double>(a.size());
  }
  std::ranges::sort(all);
  d.most = all.at(all.size() * 99 / 100);
  d.max = all.back();
  return d;
}

class CudaUpdates : public testing::TestWithParam<const char*> {};

TEST_P(CudaUpdates, FiveTeacherForcedStepsFollowTheCpu) {
  const RunConfig config = nano(GetParam());
  const std::vector<Groups> batches = sampled_by_the_cpu(config, kSteps);
  Choices& c = choices();
  c = {.use = Choices::Use::kRecord};
  const RunResult cuda = run_updates(config, Backend::kCuda, batches);
  const auto recorded = c.calls;
  c.use = Choices::Use::kFollow;
  const RunResult bf16 = run_updates(config, Backend::kBf16, batches);
  c.calls = recorded;
  const RunResult cpu = run_updates(config, Backend::kCpu, batches);
  EXPECT_TRUE(c.calls.empty());
  // In FP8 a rounding to BF16 may turn a code, which is a sixteenth of its value: all is less alike.
  const bool fp8 = config.train.precision == "fp8";
  EXPECT_LE(c.differed, c.followed / (fp8 ? 15 : 50));  // where two experts are all but equal
  EXPECT_LE(c.largest_gap, fp8 ? 0.15 : 0.03);
  c = {};

  for (int i = 0; i < kSteps; ++i) {
    SCOPED_TRACE(i);
    const StepResult &want = cpu.steps[i], &plain = bf16.steps[i], &got = cuda.steps[i];
    const Distance d = distance(got.logp, want.logp), p = distance(plain.logp, want.logp);
    EXPECT_GT(want.logp.size(), 200u);
    EXPECT_LE(d.mean, 2 * p.mean);
    EXPECT_LE(d.most, 2 * p.most);
    EXPECT_LE(d.max, 4 * p.max);  // the largest of hundreds varies more than their mean
    // A mean of ratio times advantage, which is of the size of 1: it moves no more than twice what log-probs
    // do.
    EXPECT_NEAR(got.loss, want.loss, 2 * d.mean);
    EXPECT_NEAR(got.kl, want.kl, 0.05 * want.kl);
    EXPECT_NEAR(got.entropy, want.entropy, 0.02);
    EXPECT_NEAR(got.grad_norm, want.grad_norm, (fp8 ? 0.1 : 0.05) * want.grad_norm);
  }
  EXPECT_GT(cpu.steps.back().kl, 0.1);  // five updates have gone somewhere
  const std::vector<float> cuda_moved = moved(config, cuda), bf16_moved = moved(config, bf16),
                           cpu_moved = moved(config, cpu);
  EXPECT_LE(relative_error(cuda_moved, cpu_moved), 2 * relative_error(bf16_moved, cpu_moved));
  EXPECT_LE(relative_error(cuda_moved, cpu_moved),
            fp8 ? 0.45 : 0.3);  // AdamW takes a small gradient's sign, which rounding turns
}

// The host waits once for what log-probs of the reference, the update, and a step of the engine leave behind.
TEST(CudaHostWaits, OneForEachOfTheStepsParts) {
  RunConfig config = nano("nano");
  config.rl.prompts_per_step = 2;
  config.mesh.data_slots = 1;
  config.train.token_budget = 96;  // several packs
  const std::vector<Groups> batches = sampled_by_the_cpu(config, 2);
  for (const double kl_beta : {0.0, 0.1}) {
    config.rl.kl_beta = kl_beta;
    TinyTrainer t(on(Backend::kCuda, config), "rl", nullptr, cuda_ops(), make_device(Backend::kCuda));
    for (int step = 0; step < 2; ++step) {
      plant(t.trainer, batches[step]);
      const int64_t before = t.machine.device->host_waits();
      t->rl_step();
      EXPECT_EQ(t.machine.device->host_waits() - before, kl_beta > 0 ? 2 : 1) << step;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, CudaUpdates, testing::Values("nano", "nano_gqa", "nano_fp8"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace contender
