// The tiny checkpoints of tests/fixtures/hf (tools/fixtures/make_hf_models.py) and what transformers makes of
// them, on the ranks that are there.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>

#include "hub/load.h"
#include "hub/model_config.h"
#include "tests/model/tiny_model.h"

namespace contender::testing_hub {

inline std::string fixture(const std::string& family) { return "tests/fixtures/hf/" + family; }

inline const std::vector<std::string>& families() {
  static const std::vector<std::string> list = {
      "llama",       "llama3",    "qwen2",           "qwen2_yarn", "qwen3", "qwen3_moe", "deepseek_v2_lite",
      "deepseek_v2", "moonlight", "deepseek_v3_fp8", "deepseek_v3"};
  return list;
}

struct Expected {
  std::vector<int32_t> tokens, greedy;
  size_t prompt = 0;
  std::vector<float> logits;  // [tokens, vocab]
  // Of the last token of the first so many, from one batch padded on the left, and on the right.
  std::vector<int32_t> padded;
  std::vector<float> left, right;  // [padded, vocab]
};

inline std::vector<float> floats_of_base64(const std::string& text) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  uint32_t bits = 0;
  int have = 0;
  for (const char c : text) {
    const size_t value = digits.find(c);
    if (value == std::string::npos) continue;
    bits = bits << 6 | static_cast<uint32_t>(value);
    if ((have += 6) >= 8) bytes += static_cast<char>(bits >> (have -= 8) & 255);
  }
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

inline Expected expected(const std::string& family) {
  const nlohmann::json j = nlohmann::json::parse(std::ifstream(fixture(family) + "/expected.json"));
  return {.tokens = j.at("tokens"),
          .greedy = j.at("greedy"),
          .prompt = j.at("prompt"),
          .logits = floats_of_base64(j.at("logits")),
          .padded = j.at("padded"),
          .left = floats_of_base64(j.at("left")),
          .right = floats_of_base64(j.at("right"))};
}

inline RunConfig hub_config(const std::string& dir) {
  RunConfig c;
  c.model = read_model_config(dir);
  c.model.path = dir;
  c.train.token_budget = 256;
  c.rollout.max_tokens_per_step = 256;
  c.rollout.max_sequences = 4;
  return c;
}

// The model of a directory, one sequence at a time.
class HubModel {
 public:
  explicit HubModel(const RunConfig& config)
      : tiny_(config),
        cache_(tiny_.machine.device.get(), config.model, tiny_.machine.mesh->shape().tp, kPages, kPageSize,
               DType::kF32) {
    const ModelFiles files(config.model.path);
    files.check(config.model);
    load_weights(files, config.model, tiny_.weights);
  }
  // Rows of logits of the last `count` tokens of a sequence, of which the cache holds all but the last
  // `fresh`.
  std::vector<float> logits(const std::vector<int32_t>& sequence, int32_t fresh, int32_t count) {
    const auto len = static_cast<int32_t>(sequence.size());
    TokenBatch b;
    std::vector<int32_t> rows;
    for (int32_t i = len - fresh; i < len; ++i) {
      b.tokens.push_back(sequence[static_cast<size_t>(i)]);
      b.positions.push_back(i);
      b.cache_rows.push_back(i);
      if (i >= len - count) rows.push_back(i - (len - fresh));
    }
    b.seqs = {{.q_begin = 0, .q_len = fresh, .kv_len = len, .page_table = 0}};
    for (int32_t page = 0; page < kPages; ++page) b.page_ids.push_back(page);
    split_rows_evenly(b, tiny_.machine.mesh->shape().tp);
    const ArenaScope scope(tiny_.machine.arena);
    tiny_.model.send_rollout(b, cache_, rows);
    const Tensor t = tiny_.model.run_rollout();
    return {t.f32(), t.f32() + t.numel()};
  }
  // The `count` likeliest tokens behind `sequence`, one after the other.
  std::vector<int32_t> greedy(std::vector<int32_t> sequence, size_t count) {
    const size_t prompt = sequence.size();
    for (auto fresh = static_cast<int32_t>(prompt); sequence.size() < prompt + count; fresh = 1) {
      const std::vector<float> row = logits(sequence, fresh, 1);
      sequence.push_back(static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin()));
    }
    return {sequence.begin() + static_cast<int64_t>(prompt), sequence.end()};
  }
  WeightStore& weights() { return tiny_.weights; }

 private:
  static constexpr int32_t kPages = 8, kPageSize = 16;
  testing_model::TinyModel tiny_;
  KvCache cache_;
};

inline double largest_gap(const std::vector<float>& a, const std::vector<float>& b) {
  CHECK(a.size() == b.size(), "{} and {} logits", a.size(), b.size());
  double gap = 0;
  for (size_t i = 0; i < a.size(); ++i)
    gap = std::max(gap, a[i] == a[i] ? std::abs(double(a[i]) - double(b[i])) : 1e30);
  return gap;
}

// FP32 sums of a hundred terms in another order differ by 1e-6 of logits up to 10.
inline constexpr double kLogitTolerance = 1e-4;

}  // namespace contender::testing_hub
