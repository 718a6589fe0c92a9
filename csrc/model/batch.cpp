#include "model/model.h"

namespace contender {

void split_rows_evenly(TokenBatch& batch, int tp) {
  const int64_t rows = batch.num_tokens();
  batch.counts.resize(tp);
  for (int t = 0; t < tp; ++t) batch.counts[t] = rows * (t + 1) / tp - rows * t / tp;
}

PackedBatch make_packed_batch(const std::vector<std::vector<const TrainSequence*>>& slots, int tp) {
  PackedBatch b;
  TokenBatch& t = b.tokens;
  b.slot_offsets.push_back(0);
  for (const auto& slot : slots) {
    for (const TrainSequence* s : slot) {
      const int32_t begin = static_cast<int32_t>(t.num_tokens()),
                    len = static_cast<int32_t>(s->tokens.size());
      CHECK(len >= 1 && s->first_target >= 1, "sequence {}: {} tokens, first target {}", s->id, len,
            s->first_target);
      const int32_t first_page = static_cast<int32_t>(t.page_ids.size());
      t.seqs.push_back({.q_begin = begin, .q_len = len, .kv_len = len, .page_table = first_page});
      for (int32_t p = 0; p < ceil_div(len, kAttentionBlock); ++p) t.page_ids.push_back(first_page + p);
      for (int32_t i = 0; i < len; ++i) {
        t.tokens.push_back(s->tokens[i]);
        t.positions.push_back(i);
        t.cache_rows.push_back(first_page * static_cast<int32_t>(kAttentionBlock) + i);
        if (i + 1 < len && i + 1 >= s->first_target) {
          b.head_rows.push_back(begin + i);
          b.targets.push_back(s->tokens[i + 1]);
        }
      }
      b.sequence_ids.push_back(s->id);
    }
    b.slot_offsets.push_back(static_cast<int32_t>(t.num_tokens()));
  }
  const int64_t per_rank = div_exact(static_cast<int64_t>(slots.size()), tp);
  for (int r = 0; r < tp; ++r)
    t.counts.push_back(b.slot_offsets[(r + 1) * per_rank] - b.slot_offsets[r * per_rank]);
  return b;
}

}  // namespace contender
