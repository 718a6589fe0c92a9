// Weights that are missing, extra, damaged or hostile: one line, naming the file.
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/hub/tiny_hub_model.h"

namespace contender {
namespace {

namespace fs = std::filesystem;
using namespace testing_hub;

// A copy of a fixture that a test may spoil.
class HubFiles : public ::testing::Test {
 protected:
  std::string copy_of(const std::string& family) {
    const fs::path dir = fs::path(::testing::TempDir()) / ("hub_files_" + std::to_string(::getpid()));
    fs::remove_all(dir);
    fs::copy(fixture(family), dir);
    return dir.string();
  }
  static std::string problem(const std::string& dir) {
    try {
      const ModelConfig m = read_model_config(dir);
      ModelFiles(dir).check(m);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kConfig) << e.what();
      EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
      return e.what();
    }
    return "";
  }
  static std::string text_of(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void write(const std::string& path, const std::string& text) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
  }
  static void replace(const std::string& path, const std::string& from, const std::string& to) {
    std::string text = text_of(path);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    write(path, text.replace(at, from.size(), to));
  }
  static void expect(const std::string& problem, const std::string& part) {
    EXPECT_NE(problem.find(part), std::string::npos) << problem;
  }
};

TEST_F(HubFiles, MissingExtraAndWrongShapesAreListedTogether) {
  const std::string dir = copy_of("llama3"), file = dir + "/model.safetensors";
  EXPECT_EQ(problem(dir), "");
  replace(file, "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_prox.weight");
  replace(dir + "/config.json", "\"intermediate_size\": 80", "\"intermediate_size\": 96");
  const std::string said = problem(dir);
  expect(said, "1 missing: model.layers.0.mlp.up_proj.weight");
  expect(said, "1 unknown to the model: model.layers.0.mlp.up_prox.weight");
  expect(said, "model.layers.0.mlp.gate_proj.weight is [80, 32], the model has [96, 32]");
}

TEST_F(HubFiles, ShardsAndTheirIndex) {
  std::string dir = copy_of("llama");
  const std::string index = dir + "/model.safetensors.index.json";
  std::string shard;
  for (const auto& entry : fs::directory_iterator(dir))
    if (const std::string name = entry.path().filename(); name.ends_with(".safetensors")) shard = name;
  const std::string good = text_of(index);
  for (const std::string& hostile :
       {std::string("../x.safetensors"), std::string("/etc/passwd"), std::string(""),
        std::string(".hidden.safetensors"), std::string("sub/x.safetensors")}) {
    nlohmann::json j = nlohmann::json::parse(good);
    j["weight_map"]["lm_head.weight"] = hostile;
    write(index, j.dump());
    expect(problem(dir), "is not the name of a safetensors file in this directory");
  }
  nlohmann::json j = nlohmann::json::parse(good);
  j["weight_map"]["made.up"] = shard;
  write(index, j.dump());
  expect(problem(dir), "1 tensors are not where the index says: made.up in ");
  j = nlohmann::json::parse(good);
  j["weight_map"].erase("model.layers.0.input_layernorm.weight");
  write(index, j.dump());
  expect(problem(dir), "1 tensors are not in the index: model.layers.0.input_layernorm.weight");
  for (const char* bad : {"{", "[]", "{\"weight_map\": 3}", "{\"weight_map\": {\"a\": 1}}",
                          "{\"weight_map\": {\"a\": \"b.safetensors\", \"a\": \"c.safetensors\"}}"}) {
    write(index, bad);
    expect(problem(dir), "not an index of weights");
  }
  write(index, good);
  EXPECT_EQ(problem(dir), "");
  fs::remove(dir + "/" + shard);
  expect(problem(dir), shard + ": the file is missing");
}

TEST_F(HubFiles, DamagedFiles) {
  const std::string dir = copy_of("qwen3"), file = dir + "/model.safetensors";
  const std::string good = text_of(file);
  write(file, good.substr(0, good.size() - 1));
  expect(problem(dir), "model.safetensors: the tensors end at byte");
  write(file, good + "x");
  expect(problem(dir), "the tensors end at byte");
  write(file, std::string("\xff\xff\xff\xff\xff\x00\x00\x00", 8) + good.substr(8));
  expect(problem(dir), "more than 100 MB");
  write(file, "");
  expect(problem(dir), "not a safetensors file");
  write(file, good);
  replace(file, "\"F32\"", "\"F16\"");
  expect(problem(dir), "shape x dtype differs");
  write(file, good);
  replace(file, "\"data_offsets\":[0,", "\"data_offsets\":[4,");
  EXPECT_NE(problem(dir), "");
  fs::remove(file);
  expect(problem(dir), "no weights");
}

TEST_F(HubFiles, Fp8NeedsItsScales) {
  const std::string dir = copy_of("deepseek_v3_fp8"), file = dir + "/model.safetensors";
  replace(file, "model.layers.0.mlp.up_proj.weight_scale_inv", "model.layers.0.mlp.up_proj.weight_scale_inw");
  expect(problem(dir), "1 missing: model.layers.0.mlp.up_proj.weight_scale_inv");
}

// Scales are those of the place in the whole tensor, wherever a piece of it begins.
TEST_F(HubFiles, Fp8PiecesHaveTheValuesOfTheWhole) {
  const ModelFiles files(fixture("deepseek_v3_fp8"));
  int64_t widest = 0;
  for (const auto& [name, t] : files.tensors()) {
    if (t.type != "F8_E4M3") continue;
    const int64_t rows = t.rows(), cols = t.cols();
    widest = std::max(widest, cols);
    std::vector<float> whole(static_cast<size_t>(rows * cols)), piece(whole.size());
    files.read(name, cols, 0, rows, 0, cols, whole.data(), cols);
    for (const int64_t row : {int64_t{0}, rows / 3, rows - 1}) {
      for (const int64_t col : {int64_t{0}, cols / 3, cols - 1}) {
        const int64_t width = cols - col;
        files.read(name, cols, row, rows - row, col, width, piece.data(), width);
        for (int64_t r = row; r < rows; ++r)
          for (int64_t c = col; c < cols; ++c)
            ASSERT_EQ(piece[static_cast<size_t>((r - row) * width + c - col)],
                      whole[static_cast<size_t>(r * cols + c)])
                << name << " [" << r << ", " << c << "] of the piece from " << row << ", " << col;
      }
    }
  }
  EXPECT_GT(widest, 128);  // two blocks
}

TEST_F(HubFiles, EveryTruncationIsRefused) {
  const std::string dir = copy_of("qwen2"), file = dir + "/model.safetensors", good = text_of(file);
  for (size_t length = 0; length < good.size(); length += 1 + length / 7) {
    write(file, good.substr(0, length));
    EXPECT_NE(problem(dir), "") << length;
  }
}

}  // namespace
}  // namespace contender
