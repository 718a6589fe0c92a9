// The whole model on CUDA against the CPU backend, tensor by tensor: everything that a training forward
// keeps, and the gradient of every parameter. The BF16 rule: the relative L2 error against the CPU's FP32 is
// at most twice that of a plain BF16 implementation (backends.h).
#include <gtest/gtest.h>

#include <map>

#include "grpo/token_columns.h"
#include "tests/cuda/backends.h"

namespace contender {
namespace {

using namespace test;
using testing_model::TinyModel;
using Tensors = std::map<std::string, std::vector<float>>;

constexpr float kInvTemperature = 0.8f;

struct PassResult {
  Tensors kept, grads;
  std::vector<float> logp, entropy;
};

// Of the cache's rows those that the batch has written.
std::vector<float> written(const std::vector<float>& rows, const TokenBatch& batch) {
  int64_t num_rows = std::ssize(batch.page_ids) * kAttentionBlock, width = std::ssize(rows) / num_rows;
  std::vector<float> out;
  for (const int32_t row : batch.cache_rows)
    out.insert(out.end(), rows.begin() + row * width, rows.begin() + (row + 1) * width);
  return out;
}

Tensors kept_by(TinyModel& t, const PackedBatch& batch) {
  Tensors kept;
  for (const auto& [name, tensor] : t.model.kept_tensors()) {
    kept[name] = values_of(*t.machine.device, tensor);
    if (name.ends_with(".kv")) kept[name] = written(kept[name], batch.tokens);
  }
  return kept;
}

Tensors gradients_of(TinyModel& t) {
  Tensors grads;
  for (int p = 0; p < std::ssize(t.weights.specs()); ++p) {
    const ParamSpec& s = t.weights.specs()[p];
    for (int u = 0; u < s.uses && !s.frozen; ++u) {
      const std::vector<float> plane = values_of(*t.machine.device, t.weights.grad(p, u));
      grads[s.name].insert(grads[s.name].end(), plane.begin(), plane.end());
    }
  }
  return grads;
}

PassResult run_pass(const RunConfig& config, Backend backend, const Ops& ops = ops_of(Backend::kCpu)) {
  TinyModel t(on(backend, config), ops, make_device(backend));
  const std::vector<TrainSequence> sequences = testing_model::random_sequences(12, 3);
  const PackedBatch batch = testing_model::packed(t, sequences);
  t.weights.begin_step();
  t.weights.begin_round();
  Readback results(t.machine.device.get(), t.machine.runtime().exec.stream);
  const auto place = results.add(t.model.forward_train(batch, kInvTemperature), std::ssize(batch.head_rows));
  PassResult r;
  if (config.train.recompute == "none") r.kept = kept_by(t, batch);
  std::vector<float> dlogp, dentropy;
  for (size_t k = 0; k < batch.head_rows.size(); ++k)
    dlogp.push_back(std::sin(1.0f + float(k))), dentropy.push_back(0.1f * std::cos(float(k)));
  MtpLoss mtp{.weight = 10};
  t.model.backward(dlogp, dentropy, &mtp, std::ssize(batch.head_rows));
  t.weights.finish_reduce();
  results.download();
  for (const HeadStats& h : results.all(place)) r.logp.push_back(h.logp), r.entropy.push_back(h.entropy);
  r.grads = gradients_of(t);
  return r;
}

PassResult run_pass_on(const RunConfig& config, Backend backend) {
  return run_pass(config, backend, ops_of(backend));
}

// One rounding to BF16: below this there is nothing to compare.
constexpr double kOneRounding = 1.0 / 512;

// Names of the tensors whose error is more than twice that of BF16.
std::vector<std::string> beyond_the_rule(const Tensors& got, const Tensors& bf16, const Tensors& cpu) {
  std::vector<std::string> names;
  EXPECT_EQ(got.size(), cpu.size());
  for (const auto& [name, want] : cpu) {
    const double e = relative_error(got.at(name), want), plain = relative_error(bf16.at(name), want);
    if (!(e <= 2 * std::max(plain, kOneRounding)))
      names.push_back(fmt::format("{}: {:.5f}, BF16 {:.5f}", name, e, plain));
  }
  return names;
}

std::vector<std::string> all_beyond(const PassResult& got, const PassResult& bf16, const PassResult& cpu) {
  std::vector<std::string> names = beyond_the_rule(got.kept, bf16.kept, cpu.kept);
  for (const std::string& name : beyond_the_rule(got.grads, bf16.grads, cpu.grads))
    names.push_back("d " + name);
  return names;
}

// CUDA chooses experts; the others follow.
struct ThreePasses {
  explicit ThreePasses(const RunConfig& config) {
    Choices& c = choices();
    c = {.use = Choices::Use::kRecord};
    cuda = run_pass_on(config, Backend::kCuda);
    const auto recorded = c.calls;
    c.use = Choices::Use::kFollow;
    bf16 = run_pass_on(config, Backend::kBf16);
    c = {.use = Choices::Use::kFollow, .calls = recorded};
    cpu = run_pass_on(config, Backend::kCpu);
    c.calls = recorded;
    followed = std::exchange(c, {});
  }
  PassResult cuda, bf16, cpu;
  Choices followed;  // by the CPU; its calls can be followed again
};

RunConfig form(const std::string& name) {
  if (const size_t end = name.find("_fp8"); end != std::string::npos) {
    RunConfig c = form(name.substr(0, end));
    c.train.precision = "fp8";
    return c;
  }
  if (name.starts_with("nano")) return load_config(fmt::format("configs/{}.toml", name), {}, 1);
  RunConfig c = testing_model::tiny_config(name);
  c.model.intermediate_size = 64;
  c.model.initializer_range = 0.15;
  return c;
}

class CudaModel : public testing::TestWithParam<const char*> {};

TEST_P(CudaModel, KeepsAndDifferentiatesWhatTheCpuDoes) {
  const RunConfig config = form(GetParam());
  const ThreePasses p(config);
  for (const std::string& name : all_beyond(p.cuda, p.bf16, p.cpu)) ADD_FAILURE() << name;
  EXPECT_GE(p.cuda.kept.size(), 20u);
  // Other experts, or groups of them, were chosen where two are all but equal, and hardly anywhere.
  // In FP8, whose codes are a sixteenth apart, where they are a little less equal.
  const bool fp8 = config.train.precision == "fp8";
  EXPECT_LE(p.followed.differed, p.followed.followed / (fp8 ? 15 : 50));
  if (config.model.n_group == 1) {
    EXPECT_LE(p.followed.largest_gap, fp8 ? 0.1 : 0.01);
  }
  // Sums of hundreds of products with independent roundings: a few ulps of BF16 of the largest logit.
  EXPECT_LT(relative_error(p.cuda.logp, p.cpu.logp),
            2 * std::max(kOneRounding, relative_error(p.bf16.logp, p.cpu.logp)));
  EXPECT_LT(relative_error(p.cuda.entropy, p.cpu.entropy),
            2 * std::max(kOneRounding, relative_error(p.bf16.entropy, p.cpu.entropy)));
}

INSTANTIATE_TEST_SUITE_P(Forms, CudaModel,
                         testing::Values("nano", "nano_gqa", "nano_fp8", "nano_gqa_fp8", "moe", "expanded",
                                         "mla_no_q_lora", "softmax", "dense", "mtp", "gqa_bias", "gqa_tied"),
                         [](const auto& info) { return std::string(info.param); });

// The rule would see an operator that is a little wrong.
TEST(CudaModelRule, SeesPlantedErrors) {
  const RunConfig config = form("nano");
  const ThreePasses p(config);
  const auto caught = [&](const char* what, auto plant) {
    choices() = p.followed;
    Ops ops = ops_of(Backend::kBf16);
    plant(ops);
    EXPECT_FALSE(all_beyond(run_pass(config, Backend::kBf16, ops), p.bf16, p.cpu).empty()) << what;
    choices() = {};
  };
  caught("RoPE turns the other way", [](Ops& o) {
    o.rope = [](const Exec& exec, const RopeArgs& a) {
      RopeArgs wrong = a;
      wrong.inverse = !a.inverse;
      bf16_ops().rope(exec, wrong);
    };
  });
  caught("scale of the softmax", [](Ops& o) {
    o.attention = [](const Exec& exec, const AttentionArgs& a) {
      AttentionArgs wrong = a;
      wrong.shape.scale *= 1.05f;
      bf16_ops().attention(exec, wrong);
    };
  });
  caught("scale of the softmax, backward alone", [](Ops& o) {
    o.attention_bwd = [](const Exec& exec, const AttentionBwdArgs& a) {
      AttentionBwdArgs wrong = a;
      wrong.shape.scale *= 1.05f;
      bf16_ops().attention_bwd(exec, wrong);
    };
  });
  caught("weights of the experts", [](Ops& o) {
    o.router = [](const Exec& exec, const RouterArgs& a) {
      RouterArgs wrong = a;
      wrong.shape.scale *= 1.03f;
      follow_router(exec, wrong);
    };
  });
}

class CudaRecompute : public testing::TestWithParam<const char*> {};

TEST_P(CudaRecompute, SelectiveAndFullGiveTheBitsOfNone) {
  RunConfig config = form(GetParam());
  const PassResult want = run_pass_on(config, Backend::kCuda);
  for (const char* policy : {"selective", "full"}) {
    config.train.recompute = policy;
    const PassResult got = run_pass_on(config, Backend::kCuda);
    EXPECT_EQ(got.logp, want.logp) << policy;
    for (const auto& [name, grad] : want.grads)
      EXPECT_TRUE(got.grads.at(name) == grad) << policy << " " << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, CudaRecompute, testing::Values("nano", "nano_gqa", "gqa_bias", "nano_fp8"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace contender
