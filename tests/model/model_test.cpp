// The hand-written backward of whole models against finite differences, and recomputation against none.
#include <gtest/gtest.h>

#include <cmath>

#include "grpo/token_columns.h"
#include "tests/model/tiny_model.h"

namespace contender {
namespace {

using namespace testing_model;

std::vector<float> coefficients(size_t n) {
  std::vector<float> c(n);
  PhiloxSequence random(3, RandomStream::kTest, 2);
  for (float& v : c) v = 0.1f * (random.uniform() - 0.5f);
  return c;
}

double objective(TinyModel& t, const PackedBatch& batch, const std::vector<float>& c) {
  t.weights.repack();
  const auto stats = t.model.forward_logp(batch, 0.8f);
  double sum = 0;
  for (size_t i = 0; i < c.size(); ++i) sum += double(c[i]) * double(stats[i].logp);
  return sum;
}

class ModelGradient : public ::testing::TestWithParam<const char*> {};

TEST_P(ModelGradient, EveryParameterAgreesWithFiniteDifferences) {
  RunConfig config = tiny_config(GetParam());
  // All experts of all groups are chosen, so that a small step cannot change the selection.
  config.model.n_group = config.model.topk_group = 1;
  config.model.num_experts_per_tok = 8;
  TinyModel t(config);
  const auto sequences = random_sequences(6, 11);
  const PackedBatch batch = packed(t, sequences);
  const std::vector<float> c = coefficients(batch.head_rows.size());

  t.weights.begin_step();
  t.weights.begin_round();
  const HeadStats* stats = t.model.forward_train(batch, 0.8f);
  const auto again = t.model.forward_logp(batch, 0.8f);
  for (size_t i = 0; i < again.size(); ++i) EXPECT_EQ(stats[i].logp, again[i].logp) << i;
  t.model.backward(c, {});
  t.weights.finish_reduce();

  for (int p = 0; p < int(t.weights.specs().size()); ++p) {
    const ParamSpec& spec = t.weights.specs()[p];
    if (spec.frozen) continue;
    Tensor w = t.weights.master(p);
    std::vector<double> grad(w.numel(), 0.0);
    for (int64_t u = 0; u < spec.uses; ++u)
      for (int64_t i = 0; i < w.numel(); ++i) grad[i] += t.weights.grad(p, int(u)).f32()[i];
    // One random direction over the whole tensor.
    std::vector<float> keep(w.f32(), w.f32() + w.numel()), direction(w.numel());
    PhiloxSequence random(5, RandomStream::kTest, 100 + p);
    for (float& d : direction) d = random.uniform() - 0.5f;
    double expected = 0, scale = 0;
    for (int64_t i = 0; i < w.numel(); ++i) expected += grad[i] * direction[i], scale += grad[i] * grad[i];
    const float step = 4e-3f / std::sqrt(float(w.numel())) * 8;
    for (int64_t i = 0; i < w.numel(); ++i) w.f32()[i] = keep[i] + step * direction[i];
    const double up = objective(t, batch, c);
    for (int64_t i = 0; i < w.numel(); ++i) w.f32()[i] = keep[i] - step * direction[i];
    const double down = objective(t, batch, c);
    std::copy(keep.begin(), keep.end(), w.f32());
    const double numeric = (up - down) / (2.0 * step);
    EXPECT_GT(scale, 0) << spec.name << ": no gradient";
    EXPECT_NEAR(numeric, expected, 0.03 * std::abs(expected) + 0.03 * std::sqrt(scale) + 2e-4) << spec.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, ModelGradient,
                         ::testing::Values("moe", "expanded", "mla_no_q_lora", "softmax", "dense", "gqa",
                                           "gqa_bias", "gqa_qk_norm", "gqa_tied"));

// The MTP module has its own forward inside the backward: its cross-entropy is what backward() reports.
double mtp_sum(TinyModel& t, const PackedBatch& batch) {
  t.weights.repack();
  t.weights.begin_step();
  t.weights.begin_round();
  t.model.forward_train(batch, 1.0f);
  Readback results(t.machine.device.get(), nullptr);
  MtpLoss mtp{.weight = 1, .results = &results};
  t.model.backward(std::vector<float>(batch.head_rows.size(), 0.0f), {}, &mtp, 1);
  t.weights.finish_reduce();
  results.download();
  TokenSums sums;
  sums.add_mtp(mtp, results);
  EXPECT_GT(sums.mtp_count, 0);
  return sums.mtp.value();
}

TEST(ModelMtp, GradientsReachModuleEmbeddingHeadAndModel) {
  RunConfig config = tiny_config("mtp");
  config.model.n_group = config.model.topk_group = 1;
  config.model.num_experts_per_tok = 8;
  config.model.initializer_range = 0.15;
  TinyModel t(config);
  const auto sequences = random_sequences(6, 11);
  const PackedBatch batch = packed(t, sequences);
  mtp_sum(t, batch);
  for (const char* name :
       {"embed", "head", "mtp.proj", "mtp.hidden_norm", "mtp.embed_norm", "mtp.block.attn.q_b",
        "mtp.block.moe.experts_down", "mtp.final_norm", "layers.1.moe.shared_down", "layers.0.ffn.gate_up"}) {
    const int p = t.weights.find(name);
    Tensor w = t.weights.master(p);
    mtp_sum(t, batch);
    std::vector<float> grad(w.numel(), 0.0f), keep(w.f32(), w.f32() + w.numel());
    for (int64_t u = 0; u < t.weights.specs()[p].uses; ++u)
      for (int64_t i = 0; i < w.numel(); ++i) grad[i] += t.weights.grad(p, int(u)).f32()[i];
    // Along the gradient the objective changes most: up - down = 2 step |g|.
    double norm = 0;
    for (float g : grad) norm += double(g) * g;
    norm = std::sqrt(norm);
    ASSERT_GT(norm, 0) << name;
    const double step = 0.02 / std::max(1.0, norm);
    for (int64_t i = 0; i < w.numel(); ++i) w.f32()[i] = float(keep[i] + step * grad[i] / norm);
    const double up = mtp_sum(t, batch);
    for (int64_t i = 0; i < w.numel(); ++i) w.f32()[i] = float(keep[i] - step * grad[i] / norm);
    const double down = mtp_sum(t, batch);
    std::copy(keep.begin(), keep.end(), w.f32());
    EXPECT_NEAR((up - down) / (2 * step), norm, 0.03 * norm + 5e-3) << name;
  }
}

TEST(ModelMla, ExpandedFormIsTheAbsorbedOneUpToRounding) {
  RunConfig config = tiny_config("moe");
  TinyModel absorbed(config);
  config.model.mla_form = "expanded";
  TinyModel expanded(config);
  const auto sequences = random_sequences(6, 11);
  const auto a = absorbed.model.forward_logp(packed(absorbed, sequences), 1.0f);
  const auto b = expanded.model.forward_logp(packed(expanded, sequences), 1.0f);
  ASSERT_EQ(a.size(), b.size());
  double gap = 0;
  for (size_t i = 0; i < a.size(); ++i) gap = std::max(gap, std::abs(double(a[i].logp) - double(b[i].logp)));
  EXPECT_LT(gap, 2e-3);
  EXPECT_GT(gap, 0);  // another order of summation: equal bits would mean that one form runs in both places
}

TEST(ModelBatch, IdsOutsideTheVocabularyAreRefused) {
  TinyModel t(tiny_config("moe"));
  for (const int32_t id : {-1, 272}) {
    for (const size_t at : {0, 2}) {  // a token, and a target that is no token of the batch's inputs
      std::vector<TrainSequence> sequences = {{.tokens = {1, 2, 3}}};
      sequences[0].tokens[at] = id;
      try {
        t.model.forward_logp(packed(t, sequences), 1.0f);
        ADD_FAILURE() << id << " at " << at;
      } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find(fmt::format("of the batch is {}, the vocabulary has 272", id)),
                  std::string::npos)
            << e.what();
      }
    }
  }
}

TEST(ModelRecompute, SelectiveAndFullGiveTheBitsOfNone) {
  std::vector<std::vector<float>> grads;
  for (const char* policy : {"none", "selective", "full"}) {
    for (const char* form : {"moe", "gqa_qk_norm"}) {
      RunConfig config = tiny_config(form);
      config.train.recompute = policy;
      TinyModel t(config);
      const auto sequences = random_sequences(6, 11);
      const PackedBatch batch = packed(t, sequences);
      t.weights.begin_step();
      t.weights.begin_round();
      t.model.forward_train(batch, 1.0f);
      t.model.backward(coefficients(batch.head_rows.size()), {});
      t.weights.finish_reduce();
      grads.emplace_back(t.weights.grad_shard(), t.weights.grad_shard() + t.weights.shard_numel());
    }
  }
  EXPECT_EQ(grads[0], grads[2]);
  EXPECT_EQ(grads[0], grads[4]);
  EXPECT_EQ(grads[1], grads[3]);
  EXPECT_EQ(grads[1], grads[5]);
}

}  // namespace
}  // namespace contender
