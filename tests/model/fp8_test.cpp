// train.precision = "fp8" on whole small models: beside FP32, under recomputation, and in training.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/grpo/tiny_trainer.h"

namespace contender {
namespace {

using namespace testing_model;
using testing_trainer::TinyTrainer;

RunConfig nano(const std::string& name, const std::string& precision) {
  RunConfig c = load_config(fmt::format("configs/{}.toml", name), {}, 1);
  c.device = "cpu";
  c.dir = testing::TempDir();
  c.train.precision = precision;
  if (c.model.n_routed_experts > 0)
    c.model.num_experts_per_tok = c.model.n_routed_experts;  // no choice differs
  return c;
}

struct PassResult {
  std::vector<float> logp;
  std::map<std::string, std::vector<float>> grads;
};

PassResult run_pass(const RunConfig& config, const Ops& ops = cpu_ops()) {
  TinyModel t(config, ops);
  const PackedBatch batch = packed(t, random_sequences(12, 3));
  t.weights.begin_step();
  t.weights.begin_round();
  PassResult r;
  const HeadStats* stats = t.model.forward_train(batch, 1.0f);
  std::vector<float> dlogp;
  for (size_t i = 0; i < batch.head_rows.size(); ++i) {
    r.logp.push_back(stats[i].logp);
    dlogp.push_back(std::sin(1.0f + float(i)));
  }
  t.model.backward(dlogp, {});
  t.weights.finish_reduce();
  for (int p = 0; p < std::ssize(t.weights.specs()); ++p) {
    const ParamSpec& s = t.weights.specs()[p];
    if (s.frozen) continue;
    const Tensor g = t.weights.grad(p);
    r.grads[s.name] = {g.f32(), g.f32() + g.numel()};
  }
  return r;
}

double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(double(got[i]) - double(want[i]), 2);
    norm += std::pow(double(want[i]), 2);
  }
  return std::sqrt(error / std::max(norm, 1e-30));
}
double worst_gradient(const PassResult& got, const PassResult& want, std::string* name = nullptr) {
  double worst = 0;
  for (const auto& [n, g] : want.grads) {
    const double e = relative_error(got.grads.at(n), g);
    if (e > worst && name) *name = n;
    worst = std::max(worst, e);
  }
  return worst;
}

// A code is within 1/16 of its value, 2.6% in the mean square of evenly spread mantissas; two of them in a
// product, 3.7%, and what they add up to over two layers and back.
constexpr double kLogpError = 0.03, kGradientError = 0.35;

class Fp8Model : public testing::TestWithParam<const char*> {};

TEST_P(Fp8Model, FollowsFp32) {
  const PassResult want = run_pass(nano(GetParam(), "bf16")), got = run_pass(nano(GetParam(), "fp8"));
  EXPECT_LT(relative_error(got.logp, want.logp), kLogpError);
  std::string name;
  EXPECT_LT(worst_gradient(got, want, &name), kGradientError) << name;
  EXPECT_GT(relative_error(got.logp, want.logp), 1e-4) << "no FP8 in it";
  RecordProperty("logp", std::to_string(relative_error(got.logp, want.logp)));
  RecordProperty("gradient", name + " " + std::to_string(worst_gradient(got, want)));
}

TEST_P(Fp8Model, RecomputationGivesTheSameBits) {
  RunConfig config = nano(GetParam(), "fp8");
  const PassResult want = run_pass(config);
  for (const char* policy : {"selective", "full"}) {
    config.train.recompute = policy;
    const PassResult got = run_pass(config);
    EXPECT_EQ(got.logp, want.logp) << policy;
    EXPECT_EQ(got.grads, want.grads) << policy;
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, Fp8Model, testing::Values("nano", "nano_gqa"),
                         [](const auto& info) { return std::string(info.param); });

// The bounds above would see codes that are read with other scales.
TEST(Fp8ModelBounds, SeePlantedErrors) {
  const PassResult want = run_pass(nano("nano", "bf16"));
  Ops ops = cpu_ops();
  ops.swiglu_quantize = [](const Exec& exec, const SwigluQuantizeArgs& a) {
    cpu_ops().swiglu_quantize(exec, a);
    for (int64_t r = 0; r < a.q.scale.rows; ++r) a.q.scale.row(r)[0] *= 2;
  };
  const PassResult forward = run_pass(nano("nano", "fp8"), ops);
  EXPECT_TRUE(relative_error(forward.logp, want.logp) > kLogpError ||
              worst_gradient(forward, want) > kGradientError);
  ops = cpu_ops();
  ops.quantize_transposed = [](const Exec& exec, const QuantizeTransposedArgs& a) {
    cpu_ops().quantize_transposed(exec, a);
    if (a.t.scale.rows > 1)
      std::swap_ranges(a.t.scale.row(0), a.t.scale.row(0) + a.t.scale.cols, a.t.scale.row(1));
  };
  EXPECT_GT(worst_gradient(run_pass(nano("nano", "fp8"), ops), want), kGradientError);
}

// 40 SFT steps from random weights: the mean of the losses. Over six seeds, 60 steps of nano lie 0.7% above
// FP32, all of it from rounding in the forward (csrc/model/README.md); this holds one seed to twice that.
TEST(Fp8Sft, LossStaysByThatOfFp32) {
  double sum[2] = {};
  for (const bool fp8 : {false, true}) {
    RunConfig c = nano("nano_gqa", fp8 ? "fp8" : "bf16");
    c.train.spike_factor = 0;
    c.sft = {.steps = 40, .batch_size = 16, .lr = 1e-3, .lr_min = 1e-3};
    TinyTrainer t(c, "sft");
    for (int i = 0; i < 40; ++i) {
      t->sft_step();
      sum[fp8] += t.metric("loss");
    }
    EXPECT_LT(t.metric("loss"), 2.5);
  }
  EXPECT_NEAR(sum[1] / sum[0], 1, 0.015);
  EXPECT_NE(sum[1], sum[0]);
}

// Before anything is allocated.
TEST(Leaves, MoreThanABackendSumsAreRefused) {
  RunConfig c = nano("nano", "fp8");
  const auto bytes = [&] {
    return WeightStore::bytes(param_specs(c.model, {}), c, StoreRole::kTrain, MeshShape{});
  };
  c.mesh.data_slots = kMaxLeaves;
  EXPECT_GT(bytes(), 0);
  c.mesh.data_slots = 2 * kMaxLeaves;
  try {
    bytes();
    ADD_FAILURE() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    EXPECT_NE(std::string(e.what()).find("mesh.data_slots = 1024: a rank"), std::string::npos) << e.what();
  }
}

// Slices that FP8 makes apart are whole blocks.
TEST(Fp8Slices, AreWholeBlocks) {
  EXPECT_EQ(fp8_slices(512, 4), 4);
  EXPECT_EQ(fp8_slices(256, 4), 2);
  EXPECT_EQ(fp8_slices(384, 4), 1);
  EXPECT_EQ(fp8_slices(384, 1), 1);
  EXPECT_EQ(fp8_slices(64, 4), 1);
}

}  // namespace
}  // namespace contender
