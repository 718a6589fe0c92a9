// The whole model on CUDA against the CPU backend: what a training forward keeps, gradients of every
// parameter, log-probs over five teacher-forced GRPO updates; and the sampler's log-probs against a
// full-sequence forward, bit for bit.
#include <gtest/gtest.h>

#include <cmath>

#include "cpu/cpu_ops.h"
#include "cuda/backend.h"
#include "grpo/token_columns.h"
#include "grpo/trainer.h"
#include "rollout/engine.h"
#include "tests/model/tiny_model.h"

extern "C" const contender::cuda::Library* contender_cuda_backend(int version);

namespace contender {
namespace {

using testing_model::TinyModel;

enum class Where { kCpu, kCuda };

RunConfig nano(const std::string& name, Where where) {
  RunConfig c = load_config(fmt::format("configs/{}.toml", name), {}, 1);
  c.device = where == Where::kCuda ? "cuda" : "cpu";
  return c;
}

TinyModel make_model(const RunConfig& c) {
  if (c.device == "cpu") return TinyModel(c);
  const cuda::Library& library = *contender_cuda_backend(cuda::kLibraryVersion);
  return TinyModel(c, *library.ops, library.make_device(0, 1));
}

std::vector<float> read(const TinyModel& t, const Tensor& x) {
  std::vector<float> values(x.numel());
  t.machine.device->download(t.machine.device->compute_stream(), values.data(), x.data, x.numel() * 4);
  return values;
}

double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(double(got[i]) - double(want[i]), 2);
    norm += std::pow(double(want[i]), 2);
  }
  return std::sqrt(error / std::max(norm, 1e-30));
}

class CudaModel : public testing::TestWithParam<std::string> {};

TEST_P(CudaModel, GradientsAgreeWithTheCpu) {
  std::vector<std::vector<float>> grads[2];
  std::vector<HeadStats> stats[2];
  const std::vector<TrainSequence> sequences = testing_model::random_sequences(12, 3);
  std::vector<std::string> names;
  for (const Where where : {Where::kCpu, Where::kCuda}) {
    const int i = where == Where::kCuda;
    TinyModel t = make_model(nano(GetParam(), where));
    const PackedBatch batch = testing_model::packed(t, sequences);
    t.weights.begin_step();
    t.weights.begin_round();
    Readback results(t.machine.device.get(), t.machine.runtime().exec.stream);
    const auto place = results.add(t.model.forward_train(batch, 0.8f), std::ssize(batch.head_rows));
    std::vector<float> dlogp, dentropy;
    for (size_t k = 0; k < batch.head_rows.size(); ++k)
      dlogp.push_back(std::sin(1.0f + float(k))), dentropy.push_back(0.1f * std::cos(float(k)));
    t.model.backward(dlogp, dentropy);
    t.weights.finish_reduce();
    results.download();
    stats[i].assign(results.all(place).begin(), results.all(place).end());
    for (int p = 0; p < std::ssize(t.weights.specs()); ++p) {
      const ParamSpec& s = t.weights.specs()[p];
      if (s.frozen) continue;
      if (i == 0) names.push_back(s.name);
      for (int u = 0; u < s.uses; ++u) {
        std::vector<float> g = read(t, t.weights.grad(p, u));
        if (u == 0) {
          grads[i].push_back(g);
        } else {
          grads[i].back().insert(grads[i].back().end(), g.begin(), g.end());
        }
      }
    }
  }
  for (size_t k = 0; k < stats[0].size(); ++k) {
    EXPECT_NEAR(stats[1][k].logp, stats[0][k].logp, 0.05) << k;
    EXPECT_NEAR(stats[1][k].entropy, stats[0][k].entropy, 0.05) << k;
  }
  for (size_t p = 0; p < names.size(); ++p) {
    const double e = relative_error(grads[1][p], grads[0][p]);
    EXPECT_LT(e, 0.04) << names[p];
    printf("%-40s %.4f\n", names[p].c_str(), e);
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, CudaModel, testing::Values("nano", "nano_gqa"));

}  // namespace
}  // namespace contender
