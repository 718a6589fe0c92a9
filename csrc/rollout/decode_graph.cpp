// Decoding as one launch: a forward in which every sequence has one token, and the draw of its next one, are
// a graph of the device's work, recorded once per number of sequences (rounded up to a power of two).
#include <algorithm>
#include <bit>

#include "rollout/engine_core.h"

namespace contender {

// Rows that pad a batch have a sequence of their own: one key, in the cache's page of zeros; nothing of them
// is written, and what they draw is not looked at. Tables of pages have the same place in every batch.
void EngineCore::pad_batch(TokenBatch& b, int64_t count) const {
  const int32_t pages = static_cast<int32_t>(table_pages_);
  std::vector<int32_t> page_ids(count * table_pages_, static_cast<int32_t>(cache_.num_pages()));
  for (int64_t i = 0; i < count; ++i) {
    const int32_t row = static_cast<int32_t>(i);
    if (i < std::ssize(b.seqs)) {
      AttentionSeq& s = b.seqs[i];
      std::copy_n(b.page_ids.begin() + s.page_table, ceil_div(s.kv_len, cache_.page_size()),
                  page_ids.begin() + i * table_pages_);
      s.page_table = row * pages;
    } else {
      b.tokens.push_back(0);
      b.positions.push_back(0);
      b.cache_rows.push_back(-1);
      b.seqs.push_back({.q_begin = row, .q_len = 1, .kv_len = 1, .page_table = row * pages});
    }
  }
  b.page_ids = std::move(page_ids);
}

bool EngineCore::decode_by_graph(StepPlan& plan) {
  const int64_t live = std::ssize(plan.draws);
  const bool decode = live > 0 && plan.num_single == live && plan.batch.num_tokens() == live;
  if (!use_graphs_ || !decode) return false;
  for (const AttentionSeq& s : plan.batch.seqs)
    if (s.kv_len > table_pages_ * cache_.page_size()) return false;
  const int64_t count = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(live)));
  pad_batch(plan.batch, count);
  for (int64_t row = live; row < count; ++row) plan.rows.push_back(static_cast<int32_t>(row));
  params_.resize(count), keys_.resize(count);
  policy_->send(plan.batch, cache_, plan.rows);
  const SampleArgs args = send_keys(count, 0);
  const auto work = [&] { sample(policy_->forward(), args); };

  // The first batch of a size runs as it is, so that every kernel has been loaded when the second is
  // recorded.
  DecodeGraph& g = graphs_[count];
  Device& device = *runtime_.device;
  Stream* stream = runtime_.exec.stream;
  if (g.token != args.token) {
    if (g.graph) device.release(std::exchange(g.graph, nullptr));
    g.token = args.token;
    work();
  } else {
    if (!g.graph) g.graph = device.capture(stream, work);
    device.launch(stream, g.graph);
  }
  params_.resize(live), keys_.resize(live);
  drawn_.push_back({0, results_.add(args.token, live), results_.add(args.logp, live),
                    results_.add(args.logp_sampled, live)});
  return true;
}

}  // namespace contender
