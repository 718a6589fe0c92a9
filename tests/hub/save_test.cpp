// Models out: what was read is what is written, tensor by tensor, in one file or in many.
#include "hub/save.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/hub/tiny_hub_model.h"

namespace contender {
namespace {

namespace fs = std::filesystem;
using namespace testing_hub;

std::string fresh_dir(const std::string& name) {
  const fs::path dir = fs::path(::testing::TempDir()) / fmt::format("hub_{}_{}", name, ::getpid());
  fs::remove_all(dir);
  return dir.string();
}

TensorReader reader_of(const ModelFiles& files) {
  return [&files](const ModelTensor& t, float* values) {
    files.read(t.name, t.cols, 0, t.rows, 0, t.cols, values, t.cols);
  };
}

// Names, dtypes, shapes and bytes.
void expect_same_tensors(const ModelFiles& a, const ModelFiles& b) {
  ASSERT_EQ(a.tensors().size(), b.tensors().size());
  for (const auto& [name, stored] : a.tensors()) {
    const StoredTensor* other = b.find(name);
    ASSERT_NE(other, nullptr) << name;
    EXPECT_EQ(stored.type, other->type) << name;
    ASSERT_EQ(stored.shape, other->shape) << name;
    EXPECT_EQ(std::memcmp(stored.data, other->data, static_cast<size_t>(stored.bytes)), 0) << name;
  }
}

void round_trip(const std::string& family, DType dtype, int64_t max_shard_bytes) {
  const std::string dir = fresh_dir("round_trip");
  const ModelConfig model = read_model_config(fixture(family));
  const ModelFiles files(fixture(family));
  save_model(dir, model, reader_of(files),
             {.dtype = dtype,
              .selection_bias = dtype,
              .max_shard_bytes = max_shard_bytes,
              .companions = fixture(family)});
  const ModelFiles written(dir);
  written.check(read_model_config(dir));
  expect_same_tensors(files, written);
  EXPECT_FALSE(fs::exists(dir + ".tmp"));
  EXPECT_EQ(read_special_ids(dir).eos, "257");
  EXPECT_TRUE(fs::exists(dir + "/generation_config.json"));
  EXPECT_THROW(save_model(dir, model, reader_of(files), {}), Error) << "the directory is there already";
  fs::remove_all(dir);
}

TEST(HubSave, Bf16ModelsComeOutByteEqual) {
  for (const char* family : {"qwen2", "moonlight"}) {
    round_trip(family, DType::kBF16, 1 << 30);
    round_trip(family, DType::kBF16, 10'000);
  }
}

TEST(HubSave, F32ModelsComeOutByteEqual) {
  for (const char* family : {"llama", "llama3", "qwen3", "qwen3_moe", "deepseek_v2", "deepseek_v3"})
    round_trip(family, DType::kF32, 20'000);
}

TEST(HubSave, RoundingIsToNearestEven) {
  const std::string dir = fresh_dir("rounding");
  const ModelConfig model = read_model_config(fixture("llama"));
  save_model(dir, model,
             [](const ModelTensor& t, float* values) {
               for (int64_t i = 0; i < t.rows * t.cols; ++i)
                 values[i] = 1.0f + static_cast<float>(i % 4) * 0x1p-8f;
             },
             {});
  float row[4];
  ModelFiles(dir).read("model.norm.weight", 32, 0, 1, 0, 4, row, 4);
  EXPECT_EQ(std::vector<float>(row, row + 4),
            (std::vector<float>{1.0f, 1.0f, 1.0f + 0x1p-7f, 1.0f + 0x1p-6f}));
  fs::remove_all(dir);
}

// The module's own copies of embedding and head are written, accepted when they are the same, and refused
// when they are not.
TEST(HubSave, MtpModulesShareTheTables) {
  const std::string dir = fresh_dir("mtp");
  ModelConfig model = read_model_config(fixture("deepseek_v3"));
  model.num_nextn_predict_layers = 1;
  bool spoil = false;
  const auto values_of = [&](const ModelTensor& t, float* values) {
    const std::string& name = t.copy_of.empty() ? t.name : t.copy_of;
    for (int64_t i = 0; i < t.rows * t.cols; ++i)
      values[i] = static_cast<float>((i + name.size()) % 13) * 0.25f;
    if (spoil && !t.copy_of.empty()) values[t.rows * t.cols - 1] += 1;
  };
  for (const bool spoilt : {false, true}) {
    spoil = spoilt;
    fs::remove_all(dir);
    save_model(dir, model, values_of, {});
    RunConfig config = hub_config(dir);
    EXPECT_EQ(config.model.num_nextn_predict_layers, 1);
    if (spoilt) {
      EXPECT_THROW(HubModel{config}, Error);
      config.model.num_nextn_predict_layers = 0;
    }
    HubModel loaded(config);
    const Tensor head = loaded.weights().master(loaded.weights().find("head"));
    EXPECT_EQ(head.f32()[0], static_cast<float>(std::string("lm_head.weight").size() % 13) * 0.25f);
  }
  fs::remove_all(dir);
}

TEST(HubSave, Fp8ComesOutAsTheValuesItMeans) {
  const std::string dir = fresh_dir("fp8");
  const ModelFiles files(fixture("deepseek_v3_fp8"));
  save_model(dir, read_model_config(fixture("deepseek_v3_fp8")), reader_of(files), {.dtype = DType::kF32});
  const Expected e = expected("deepseek_v3_fp8");
  HubModel model(hub_config(dir));
  const auto count = static_cast<int32_t>(e.tokens.size());
  EXPECT_LT(largest_gap(model.logits(e.tokens, count, count), e.logits), kLogitTolerance);
  fs::remove_all(dir);
}

}  // namespace
}  // namespace contender
