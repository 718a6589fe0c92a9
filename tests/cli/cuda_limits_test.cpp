#include "cli/cuda_limits.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/config_schema.h"
#include "base/error.h"
#include "cli/cli.h"
#include "hub/model_config.h"

namespace contender {
namespace {

using Lines = std::vector<std::string>;

template <class F>
Lines problems_with(const F& change) {
  ModelConfig m;
  m.n_routed_experts = 8;
  EXPECT_EQ(cuda_problems(m), Lines());
  change(m);
  return cuda_problems(m);
}

TEST(CudaLimits, NameTheKeyAndItsValue) {
  EXPECT_EQ(problems_with([](ModelConfig& m) { m.hidden_size = 68; }),
            Lines({"model.hidden_size: 68: CUDA needs a multiple of 8"}));
  EXPECT_EQ(problems_with([](ModelConfig& m) {
              m.hidden_size = 16392;
              m.vocab_size = (1 << 20) + 1;
            }),
            Lines({"model.hidden_size: 16392: CUDA needs at most 16384",
                   "model.vocab_size: 1048577: CUDA needs at most 1048576"}));
  EXPECT_EQ(problems_with([](ModelConfig& m) { m.kv_lora_rank = 12; }),
            Lines({"model.kv_lora_rank: 12: CUDA needs a multiple of 8"}));
  EXPECT_EQ(problems_with([](ModelConfig& m) { m.kv_lora_rank = 512, m.qk_rope_head_dim = 72; }),
            Lines({"model.kv_lora_rank + qk_rope_head_dim: 584: CUDA needs at most 576"}));
  EXPECT_EQ(problems_with([](ModelConfig& m) { m.n_routed_experts = 2048, m.num_experts_per_tok = 33; }),
            Lines({"model.n_routed_experts: 2048: CUDA needs at most 1024",
                   "model.num_experts_per_tok: 33: CUDA needs at most 32"}));
}

TEST(CudaLimits, OfAttentionAreThoseOfItsForm) {
  EXPECT_EQ(problems_with([](ModelConfig& m) { m.v_head_dim = 30; }), Lines());
  EXPECT_EQ(problems_with([](ModelConfig& m) { m.v_head_dim = 30, m.mla_form = "expanded"; }),
            Lines({"model.v_head_dim: 30: CUDA needs a multiple of 8"}));
  const auto gqa = [](int64_t head_dim) {
    return problems_with([&](ModelConfig& m) { m.family = "gqa", m.head_dim = head_dim; });
  };
  EXPECT_EQ(gqa(64), Lines());
  EXPECT_EQ(gqa(256), Lines());
  EXPECT_EQ(gqa(12), Lines({"model.head_dim: 12: CUDA needs a multiple of 8"}));
  EXPECT_EQ(gqa(264), Lines({"model.head_dim: 264: CUDA needs at most 256"}));
}

TEST(CudaLimits, EveryConfigOfTheRepositoryFits) {
  for (const auto& file : std::filesystem::directory_iterator("configs")) {
    if (file.path().extension() != ".toml") continue;
    std::vector<MissingInput> missing;
    const RunConfig c = load_config_before_files(file.path(), {}, 0, read_model_config, missing);
    EXPECT_EQ(cuda_problems(c.model), Lines()) << file.path();
  }
}

// The plan for a GPU, and the doctor's look at a config for one.
TEST(CudaLimits, PlanAndDoctorRefuseWhatARunWould) {
  const std::vector<std::string> config = {"configs/nano_gqa.toml", "--set", "model.head_dim=12"};
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"plan", "--hardware", "h800"}, {"plan", "--set", "run.device=cuda"}}) {
    std::vector<std::string> all = words;
    all.insert(all.end(), config.begin(), config.end());
    try {
      plan_text(*parse_arguments(all).command);
      ADD_FAILURE() << words[1];
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kConfig);
      EXPECT_EQ(std::string(e.what()),
                "model.head_dim: 12: CUDA needs a multiple of 8; run.device = \"cpu\" "
                "takes every size");
    }
  }
}

}  // namespace
}  // namespace contender
