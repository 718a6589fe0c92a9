// A tiny model with all it runs on, for tests of the engine over the real thing; and full-sequence log-probs
// to compare with.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/philox.h"
#include "rollout/engine.h"
#include "tests/model/tiny_model.h"

namespace contender::rollout_test {

using testing_model::TinyModel;

// The tiny model of model/, with a vocabulary that makes stop tokens likely and room for completions.
inline RunConfig rollout_config(const std::string& form, const MeshShape& shape = {}) {
  RunConfig config = testing_model::tiny_config(form);
  config.model.vocab_size = 48;
  config.model.max_position_embeddings = 96;
  config.train.token_budget = 1024;
  config.rollout = {.max_sequences = 64};
  config.mesh.tp = shape.tp;
  config.mesh.dp = shape.dp;
  config.mesh.ep = shape.ep;
  return config;
}

// Prompts of 1 to 40 tokens, groups of 1 to 5 samples, some with stop tokens, some truncated.
inline std::vector<RolloutRequest> tiny_requests(int32_t count) {
  std::vector<RolloutRequest> requests;
  PhiloxSequence random(21, RandomStream::kTest, 5);
  for (int32_t i = 0; i < count; ++i) {
    RolloutRequest r;
    r.id = r.prompt_index = static_cast<uint32_t>(i);
    r.step = 9;
    r.prompt.resize(i == 0 ? 1 : i == 1 ? 16 : 1 + random.below(40));
    for (int32_t& t : r.prompt) t = static_cast<int32_t>(random.below(47));
    r.num_samples = 1 + static_cast<int32_t>(random.below(5));
    r.max_new_tokens = 2 + static_cast<int32_t>(random.below(i % 2 ? 12 : 40));
    r.params.temperature = i % 3 == 0 ? 0.7f : 1.0f;
    if (i % 4 == 1) r.params.top_p = 0.9f;
    if (i % 3 != 1) r.stop_tokens = {5, 17};
    if (i % 4 == 3) {  // short prompt, long answer: these outgrow a small cache together
      r.prompt.resize(1);
      r.max_new_tokens = 70;
      r.stop_tokens.clear();
    }
    requests.push_back(r);
  }
  return requests;
}

using Results = std::map<std::pair<uint64_t, int32_t>, Completion>;

inline Results by_id(std::vector<Completion> completions) {
  Results results;
  for (Completion& c : completions) {
    const std::pair<uint64_t, int32_t> key(c.id, c.sample);
    CHECK(results.emplace(key, std::move(c)).second, "completion {} sample {} twice", key.first, key.second);
  }
  return results;
}

inline Results run(RolloutEngine& engine, const std::vector<RolloutRequest>& requests) {
  for (const RolloutRequest& r : requests) engine.submit(r);
  while (engine.step()) {
  }
  return by_id(engine.poll());
}

// log p of every completion's tokens by one full-sequence forward per temperature, in the order of the
// completion's tokens.
inline std::map<std::pair<uint64_t, int32_t>, std::vector<float>> full_sequence_logp(
    TinyModel& tiny, const std::vector<RolloutRequest>& requests, const Results& results) {
  std::map<std::pair<uint64_t, int32_t>, std::vector<float>> logp;
  for (const float temperature : {0.7f, 1.0f}) {
    std::vector<TrainSequence> sequences;
    std::vector<std::pair<uint64_t, int32_t>> keys;
    for (const auto& [key, c] : results) {
      const RolloutRequest& r = requests.at(key.first);
      if (r.params.temperature != temperature) continue;
      TrainSequence s{.tokens = r.prompt, .first_target = static_cast<int32_t>(r.prompt.size())};
      s.tokens.insert(s.tokens.end(), c.tokens.begin(), c.tokens.end());
      sequences.push_back(s);
      keys.push_back(key);
    }
    const int64_t slots = tiny.config.mesh.data_slots / tiny.machine.mesh->shape().dp;
    std::vector<std::vector<const TrainSequence*>> packs(slots);
    for (size_t i = 0; i < sequences.size(); ++i) {
      sequences[i].id = static_cast<int32_t>(i);
      packs[i * slots / sequences.size()].push_back(&sequences[i]);
    }
    const auto stats =
        tiny.model.forward_logp(make_packed_batch(packs, tiny.machine.mesh->shape().tp), 1.0f / temperature);
    size_t next = 0;
    for (size_t i = 0; i < sequences.size(); ++i) {
      for (size_t t = 0; t < results.at(keys[i]).tokens.size(); ++t)
        logp[keys[i]].push_back(stats.at(next++).logp);
    }
    CHECK(next == stats.size(), "{} of {} head rows", next, stats.size());
  }
  return logp;
}

}  // namespace contender::rollout_test
