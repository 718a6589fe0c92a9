// A policy without arithmetic: it writes each token (and the weight version) into its cache row, and its
// logits are a hash of the prefix as read back through the page tables. So wrong pages, stale rows, wrong
// positions and lost copies change the tokens.
#pragma once

#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cpu/cpu_ops.h"
#include "rollout/engine_core.h"

namespace contender::rollout_test {

inline constexpr int64_t kVocab = 32;
inline constexpr int32_t kStop = 31;

inline uint64_t mix(uint64_t h, uint64_t v) {
  h = (h ^ v) * 0x9E3779B97F4A7C15ull;
  return h ^ (h >> 29);
}
inline uint64_t cache_value(int64_t version, int32_t token) {
  return static_cast<uint64_t>(version * 100 + token + 1);
}
// Logit of token j after the prefix whose rows hash to h.
inline float fake_logit(uint64_t h, int64_t j) { return static_cast<float>(mix(h, j) >> 50); }

// Stands in for Ops::sample: a hash of the row of logits and the key.
inline void fake_draw(const float* logits, const SampleParams& params, const SampleKey& key, int32_t* token,
                      float* logp, float* logp_sampled) {
  uint64_t h = mix(mix(mix(mix(mix(17, key.seed), key.step), key.prompt), key.sample), key.position);
  for (int64_t j = 0; j < kVocab; ++j) h = mix(h, static_cast<uint64_t>(logits[j]));
  *token = static_cast<int32_t>((h >> 20) % kVocab);
  *logp = -static_cast<float>(h >> 44) * 1e-3f;
  *logp_sampled = *logp * params.temperature;
}
inline void fake_sample(const Exec&, const SampleArgs& a) {
  for (int64_t i = 0; i < a.logits.rows; ++i) {
    fake_draw(a.logits.row(i), a.params[i], a.keys[i], a.token + i, a.logp + i, a.logp_sampled + i);
  }
}

struct FakePolicy final : RolloutPolicy {
  Arena* arena = nullptr;
  int64_t version = 0;
  int64_t max_tokens_seen = 0, max_rows_seen = 0, forwards = 0;
  bool other_rank_works = false;
  const KvCache* last_cache = nullptr;

  void send(TokenBatch& batch, const KvCache& cache, const std::vector<int32_t>& rows) override {
    logits = [this, &batch, &cache, &rows] { return logits_of(batch, cache, rows); };
  }
  Tensor forward() override { return logits(); }
  std::function<Tensor()> logits;

  Tensor logits_of(const TokenBatch& batch, const KvCache& cache, const std::vector<int32_t>& rows) {
    last_cache = &cache;
    if (forwards++ == 0) poison(cache);
    max_tokens_seen = std::max(max_tokens_seen, batch.num_tokens());
    max_rows_seen = std::max(max_rows_seen, static_cast<int64_t>(rows.size()));
    for (int64_t t = 0; t < batch.num_tokens(); ++t) write(cache, batch, t);
    std::vector<uint64_t> hashes(batch.tokens.size(), 0);
    for (const AttentionSeq& s : batch.seqs) {
      uint64_t h = 0;
      for (int64_t r = 0; r < s.kv_len; ++r) {
        h = mix(h, read(cache,
                        batch.page_ids[s.page_table + r / cache.page_size()] * cache.page_size() +
                            r % cache.page_size(),
                        r));
        const int64_t query = r - (s.kv_len - s.q_len);
        if (query >= 0) hashes[s.q_begin + query] = h;
      }
    }
    const Tensor logits = arena->f32(static_cast<int64_t>(rows.size()), kVocab);
    for (size_t i = 0; i < rows.size(); ++i) {
      for (int64_t j = 0; j < kVocab; ++j)
        logits.row(static_cast<int64_t>(i))[j] = fake_logit(hashes[rows[i]], j);
    }
    return logits;
  }
  bool any_rank_has_work(bool mine) override { return mine || other_rank_works; }

 private:
  void poison(const KvCache& cache) {
    for (int64_t l = 0; l < 2; ++l) {
      std::fill_n(cache.layer(l).f32(), cache.layer(l).numel(), std::numeric_limits<float>::quiet_NaN());
    }
  }
  void write(const KvCache& cache, const TokenBatch& batch, int64_t t) {
    for (int64_t l = 0; l < 2; ++l) {
      float* row = cache.layer(l).row(batch.cache_rows[t]);
      row[0] = static_cast<float>(cache_value(version, batch.tokens[t]));
      row[cache.layer(l).cols - 1] = static_cast<float>(batch.positions[t]);
    }
  }
  // The value of both layers, or nonsense when a layer or a position is not what it must be.
  uint64_t read(const KvCache& cache, int64_t row, int64_t position) {
    const float* a = cache.layer(0).row(row);
    const float* b = cache.layer(1).row(row);
    const int64_t last = cache.layer(0).cols - 1;
    const bool right =
        a[0] == b[0] && a[last] == static_cast<float>(position) && b[last] == static_cast<float>(position);
    return right ? static_cast<uint64_t>(a[0]) : 999'999;
  }
};

// A device, an arena and an engine around the fake.
struct FakeEngine {
  std::unique_ptr<Device> device = make_cpu_device();
  Arena arena{device.get(), 4 << 20, "test arena", "nothing"};
  Ops ops;
  FakePolicy policy;
  std::unique_ptr<EngineCore> core;

  explicit FakeEngine(const RolloutConfig& rollout, uint64_t seed = 5) {
    RunConfig config;
    config.model.vocab_size = kVocab;
    config.model.num_hidden_layers = 2;
    config.model.max_position_embeddings = 160;
    config.task.max_prompt_tokens = 100;
    config.rl.max_new_tokens = 60;
    config.rollout = rollout;
    ops.gather_rows = cpu::gather_rows;
    ops.sample = fake_sample;
    policy.arena = &arena;
    const Runtime runtime{.device = device.get(), .ops = &ops, .mesh = nullptr, .arena = &arena, .exec = {}};
    core = std::make_unique<EngineCore>(config, 1, runtime, &policy, seed, 0, 0);
  }
  Scheduler& scheduler() { return core->scheduler(); }
  void set_weights(int64_t version) {
    policy.version = version;
    core->set_weights(version);
  }
  std::vector<Completion> run() {
    while (core->step()) {
    }
    return scheduler().take_completions();
  }
};

// What the fake says one sequence alone must be, continuing `c` at `version` for at most `tokens` more
// tokens.
inline void extend_expected(const RolloutRequest& request, uint64_t seed, int64_t version, int32_t tokens,
                            Completion& c) {
  std::vector<float> logits(kVocab);
  for (int32_t n = 0; n < tokens && !c.finished && std::ssize(c.tokens) < request.max_new_tokens; ++n) {
    uint64_t h = 0;
    for (const int32_t t : request.prompt) h = mix(h, cache_value(version, t));
    for (const int32_t t : c.tokens) h = mix(h, cache_value(version, t));
    for (int64_t j = 0; j < kVocab; ++j) logits[j] = fake_logit(h, j);
    const SampleKey key{seed, request.step, request.prompt_index, static_cast<uint32_t>(c.sample),
                        static_cast<uint32_t>(c.tokens.size())};
    int32_t token;
    float logp, logp_sampled;
    fake_draw(logits.data(), request.params, key, &token, &logp, &logp_sampled);
    c.tokens.push_back(token);
    c.logp.push_back(logp);
    c.logp_sampled.push_back(logp_sampled);
    c.version.push_back(version);
    for (const int32_t stop : request.stop_tokens) c.finished |= token == stop;
  }
}

}  // namespace contender::rollout_test
