#include "model/model.h"

#include <algorithm>

#include "model/layers.h"

namespace contender {

// Rows that predict a token, and what the head made of them.
struct HeadRows {
  std::vector<int32_t> rows, targets;
  Tensor h;  // [rows, H] normed
  std::vector<HeadStats> stats;
};

// What one training forward keeps.
struct SavedPass {
  const PackedBatch* batch = nullptr;
  int64_t arena_mark = 0;
  std::vector<BlockSaved> blocks;
  Tensor x_final, rstd_final;  // residual stream before the final norm (own)
  HeadRows head;
  float inv_temperature = 1;
};

struct Model::Impl {
  const RunConfig& config;
  const ModelConfig& m;
  Runtime rt;
  WeightStore* w;
  std::vector<float> rope_values;
  Tensor rope_table;
  std::vector<BlockParams> blocks;
  int embed, head, final_norm;
  BlockParams mtp_block;
  bool tied;
  int32_t slices;  // local virtual slices
  SavedPass train;
  std::vector<std::vector<int64_t>> load;  // [layers][experts] tokens routed since the last bias update

  Impl(const RunConfig& c, const Runtime& r, WeightStore* weights)
      : config(c), m(c.model), rt(r), w(weights) {
    rope_values = contender::rope_table(rope_config(m), m.max_position_embeddings);
    const int64_t dim = rope_config(m).dim;
    rope_table = f32_tensor(rope_values.data(), m.max_position_embeddings, dim);
    for (int64_t l = 0; l < m.num_hidden_layers; ++l)
      blocks.push_back(find_block(*w, fmt::format("layers.{}", l)));
    embed = w->find("embed");
    tied = m.tie_word_embeddings;
    head = tied ? embed : w->find("head");
    final_norm = w->find("final_norm");
    if (m.num_nextn_predict_layers > 0) mtp_block = find_block(*w, "mtp.block");
    slices = static_cast<int32_t>(div_exact(virtual_slices(m), rt.mesh->shape().tp));
    load.assign(m.num_hidden_layers, std::vector<int64_t>(m.n_routed_experts));
  }

  int64_t tp_rank() const { return rt.mesh->tp().rank(); }
  int64_t vocab_begin() const { return tp_rank() * (m.vocab_size / rt.mesh->shape().tp); }

  Pass make_pass(const TokenBatch& batch, bool training) const {
    Pass p{.m = m,
           .mesh_config = config.mesh,
           .rt = rt,
           .ops = *rt.ops,
           .exec = rt.exec,
           .w = *w,
           .batch = batch,
           .rope_table = rope_table};
    p.rows = batch.num_tokens();
    p.own = batch.counts.at(tp_rank());
    for (int64_t t = 0; t < tp_rank(); ++t) p.own_begin += batch.counts[t];
    p.slices = slices;
    p.attention = attention_shape(m, rt.mesh->shape().tp, kAttentionBlock);
    p.train = training;
    const int64_t slots = config.mesh.data_slots / rt.mesh->size();
    p.max_own = std::max(slots * config.train.token_budget, config.rollout.max_tokens_per_step);
    p.own_slots = {0, static_cast<int32_t>(p.own)};
    CHECK(p.own <= p.max_own, "{} own tokens, at most {}", p.own, p.max_own);
    if (training && config.train.recompute != "none")
      p.recompute = config.train.recompute == "full" ? Recompute::kFull : Recompute::kSelective;
    return p;
  }

  // A pass over packed slots: which rows are which leaf of the canonical sums.
  Pass make_packed_pass(const PackedBatch& batch, bool training) const {
    Pass p = make_pass(batch.tokens, training);
    const auto& offsets = batch.slot_offsets;
    const int64_t group_slots = static_cast<int64_t>(offsets.size()) - 1,
                  own_slots = group_slots / rt.mesh->shape().tp;
    const int64_t first = tp_rank() * own_slots;
    p.expanded = m.mla() && m.mla_form == "expanded";
    p.own_slots.clear();
    for (int64_t s = 0; s <= own_slots; ++s) p.own_slots.push_back(offsets[first + s] - offsets[first]);
    for (int32_t s = 0; s < own_slots; ++s)
      p.own_segments.push_back({p.own_slots[s], p.own_slots[s + 1], 0, s});
    for (int32_t s = 0; s < group_slots; ++s) p.group_segments.push_back({offsets[s], offsets[s + 1], 0, s});
    return p;
  }

  // A tied table has the embedding's and the head's gradients of each use side by side.
  int embed_use(int use) const { return tied ? 2 * use : use; }
  int head_use(int use) const { return tied ? 2 * use + 1 : use; }

  // Embedding of the own rows.
  Tensor embed_forward(const Pass& p, const std::vector<int32_t>& tokens) const {
    const Tensor x = p.arena().f32(p.rows, m.hidden_size);
    p.ops.embedding(
        p.exec, {.tokens = tokens.data(), .table = w->master(embed), .vocab_begin = vocab_begin(), .y = x});
    return reduce_rows(p, p.arena(), x);
  }
  void embed_backward(const Pass& p, const std::vector<int32_t>& tokens, const Tensor& dx, int use) const {
    p.ops.embedding_bwd(p.exec, {.tokens = tokens.data(),
                                 .dy = gather_rows(p, p.temp(), dx),
                                 .vocab_begin = vocab_begin(),
                                 .dtable = w->grad(embed, embed_use(use)),
                                 .segments = p.group_leaves()});
  }

  // Norm of the own rows, then the given rows of the whole group.
  Tensor head_input(const Pass& p, const Tensor& x, int norm_param, const std::vector<int32_t>& rows,
                    Tensor* rstd) const {
    const Tensor y = norm(p, p.arena(), x, {}, norm_param, rstd);
    const Tensor all = gather_rows(p, p.arena(), y);
    const Tensor selected = p.arena().f32(static_cast<int64_t>(rows.size()), m.hidden_size);
    p.ops.gather_rows(p.exec, {.x = all, .index = rows.data(), .y = selected});
    return selected;
  }

  void count_load(const Pass& p, int64_t layer, const MoeSaved& s) {
    if (!p.m.moe_layer(layer)) return;
    const int32_t* expert = s.expert.i32();
    for (int64_t i = 0; i < s.expert.numel(); ++i) ++load[layer][expert[i]];
  }

  std::vector<HeadStats> head_stats(const Pass& p, const Tensor& h, const std::vector<int32_t>& targets,
                                    float inv_temperature) const {
    const int64_t rows = h.rows, tp = rt.mesh->shape().tp;
    std::vector<HeadStats> stats(rows);
    if (rows == 0 && tp == 1) return stats;
    std::vector<HeadPartial> mine(rows * slices), all(rows * slices * tp);
    p.ops.head_partial(p.exec, {.h = h,
                                .w = w->view(head),
                                .vocab_begin = vocab_begin(),
                                .targets = targets.data(),
                                .inv_temperature = inv_temperature,
                                .slices = slices,
                                .partials = mine.data()});
    if (tp == 1) {
      all = mine;
    } else {  // [tp][rows][slices] -> [rows][tp * slices]
      constexpr int64_t kWords = sizeof(HeadPartial) / sizeof(float);
      std::vector<HeadPartial> blocks(all.size());
      const std::vector<int64_t> counts(tp, rows);
      rt.mesh->tp()
          .all_gather_rows("tp_head", f32_tensor(&mine.data()->max, rows, slices * kWords),
                           f32_tensor(&blocks.data()->max, tp * rows, slices * kWords), counts.data())
          .wait();
      for (int64_t t = 0; t < tp; ++t)
        for (int64_t r = 0; r < rows; ++r)
          std::copy_n(&blocks[(t * rows + r) * slices], slices, &all[(r * tp + t) * slices]);
    }
    p.ops.head_finish(p.exec, {.partials = all.data(),
                               .rows = rows,
                               .slices = static_cast<int32_t>(slices * tp),
                               .stats = stats.data()});
    return stats;
  }

  // Gradient of the normed own rows from those of the head rows' log-probs. Rows of a slot are a leaf.
  Tensor head_backward(const Pass& p, const PackedBatch& batch, const HeadRows& r, float inv_temperature,
                       const std::vector<float>& dlogp, const std::vector<float>& dentropy, int use) const {
    std::vector<RowSegment> leaves;
    auto first_at = [&](int32_t row) {
      return static_cast<int32_t>(std::lower_bound(r.rows.begin(), r.rows.end(), row) - r.rows.begin());
    };
    for (int32_t slot = 0; slot + 1 < static_cast<int32_t>(batch.slot_offsets.size()); ++slot)
      leaves.push_back({first_at(batch.slot_offsets[slot]), first_at(batch.slot_offsets[slot + 1]), 0, slot});
    const Tensor dh = p.temp().f32(r.h.rows, m.hidden_size);
    p.ops.head_bwd(p.exec, {.h = r.h,
                            .w = w->view(head),
                            .vocab_begin = vocab_begin(),
                            .targets = r.targets.data(),
                            .inv_temperature = inv_temperature,
                            .slices = slices,
                            .stats = r.stats.data(),
                            .dlogp = dlogp.data(),
                            .dentropy = dentropy.empty() ? nullptr : dentropy.data(),
                            .dh = dh,
                            .dw = w->grad(head, head_use(use)),
                            .segments = {leaves.data(), int32_t(leaves.size()), int32_t(leaves.size())}});
    const Tensor dy = p.temp().f32(p.rows, m.hidden_size);
    p.rt.device->zero(p.exec.stream, dy.data, dy.numel() * 4);
    p.ops.scatter_rows(p.exec, {.x = dh, .index = r.rows.data(), .y = dy});
    return reduce_rows(p, p.temp(), dy);
  }

  // Multi-token prediction (DeepSeek-V3, section 2.2), forward and backward at once: from the main model's
  // last hidden state and the embedding of the next token, through one block, to the token after it. Adds to
  // dx, the gradient of that hidden state.
  void mtp_step(const Pass& p, const PackedBatch& batch, const Tensor& x, const Tensor& dx, MtpLoss& loss,
                int64_t total_targets) {
    const ArenaScope saved_scope(p.arena()), scope(p.temp());
    const int64_t h = m.hidden_size;
    const int hidden_norm = w->find("mtp.hidden_norm"), embed_norm = w->find("mtp.embed_norm"),
              proj = w->find("mtp.proj"), last_norm = w->find("mtp.final_norm");
    // Row i sees token i + 1 and predicts token i + 2: head row i + 1's target. Consecutive head rows are of
    // one sequence.
    std::vector<int32_t> next =
        batch.tokens
            .tokens;  // shifted by one; the last row of a sequence gets a stranger, and predicts nothing
    if (!next.empty()) std::rotate(next.begin(), next.begin() + 1, next.end());
    HeadRows r;
    for (size_t i = 0; i + 1 < batch.head_rows.size(); ++i) {
      if (batch.head_rows[i + 1] != batch.head_rows[i] + 1) continue;
      r.rows.push_back(batch.head_rows[i]);
      r.targets.push_back(batch.targets[i + 1]);
    }

    Tensor rstd_h, rstd_e, rstd_last;
    const Tensor e = embed_forward(p, next), both = p.arena().f32(p.own, 2 * h);
    norm_into(p, e, {}, embed_norm, both.col_range(0, h), &rstd_e);
    norm_into(p, x, {}, hidden_norm, both.col_range(h, 2 * h), &rstd_h);
    BlockSaved saved;
    const Tensor kv = p.arena().f32(cache_rows(batch.tokens), p.attention.row_width);
    const Tensor z =
        block_forward(p, m.num_hidden_layers, mtp_block, linear(p, p.arena(), both, proj), kv, saved);
    r.h = head_input(p, z, last_norm, r.rows, &rstd_last);
    r.stats = head_stats(p, r.h, r.targets, 1.0f);
    for (const HeadStats& s : r.stats) loss.sum.add(-s.logp), ++loss.count;

    const std::vector<float> dlogp(r.rows.size(), -loss.weight / static_cast<float>(total_targets));
    const Tensor dz = p.temp().f32(p.own, h), dboth = p.temp().f32(p.own, 2 * h), de = p.temp().f32(p.own, h);
    norm_backward(p, head_backward(p, batch, r, 1.0f, dlogp, {}, 1), z, rstd_last, last_norm, dz, false,
                  p.own_leaves());
    block_backward(p, m.num_hidden_layers, mtp_block, saved, dz);
    linear_backward(p, dz, both, proj, dboth, p.own_leaves());
    norm_backward(p, dboth.col_range(0, h), e, rstd_e, embed_norm, de, false, p.own_leaves());
    norm_backward(p, dboth.col_range(h, 2 * h), x, rstd_h, hidden_norm, dx, true, p.own_leaves());
    embed_backward(p, next, de, 1);
  }

  Tensor run_blocks(const Pass& p, Tensor x, const KvCache& cache) {
    for (int64_t l = 0; l < m.num_hidden_layers; ++l) {
      BlockSaved s;
      x = block_forward(p, l, blocks[l], x, cache.layer(l), s);
    }
    return x;
  }

  int64_t cache_rows(const TokenBatch& b) const {
    return static_cast<int64_t>(b.page_ids.size()) * kAttentionBlock;
  }
};

Model::Model(const RunConfig& config, const Runtime& runtime, WeightStore* weights)
    : impl_(std::make_unique<Impl>(config, runtime, weights)) {}
Model::~Model() = default;
const ModelConfig& Model::config() const { return impl_->m; }
const Runtime& Model::runtime() const { return impl_->rt; }
WeightStore& Model::weights() const { return *impl_->w; }

Tensor Model::forward_logits(const TokenBatch& batch, const KvCache& cache,
                             const std::vector<int32_t>& rows) {
  Impl& s = *impl_;
  Pass p = s.make_pass(batch, false);
  p.attention.page_size = cache.page_size();
  const int64_t tp = s.rt.mesh->shape().tp, count = static_cast<int64_t>(rows.size()), vocab = s.m.vocab_size;
  const Tensor logits = p.arena().f32(count, vocab);
  const ArenaScope scope(p.arena());
  const Tensor x = s.run_blocks(p, s.embed_forward(p, batch.tokens), cache);
  const Tensor h = s.head_input(p, x, s.final_norm, rows, nullptr);
  if (tp == 1) {
    p.ops.linear(p.exec, {.x = h, .w = s.w->view(s.head), .y = logits});
    return logits;
  }
  const Tensor mine = linear(p, p.arena(), h, s.head), blocks = p.arena().f32(tp * count, vocab / tp);
  const std::vector<int64_t> counts(tp, count);
  s.rt.mesh->tp().all_gather_rows("tp_logits", mine, blocks, counts.data()).wait();
  for (int64_t t = 0; t < tp; ++t)
    copy(p, blocks.row_range(t * count, (t + 1) * count),
         logits.col_range(t * vocab / tp, (t + 1) * vocab / tp));
  return logits;
}

std::vector<HeadStats> Model::forward_logp(const PackedBatch& batch, float inv_temperature) {
  Impl& s = *impl_;
  const Pass p = s.make_packed_pass(batch, false);
  const ArenaScope scope(p.arena());
  Tensor x = s.embed_forward(p, batch.tokens.tokens);
  const Tensor kv = p.arena().f32(s.cache_rows(batch.tokens), p.attention.row_width);
  for (int64_t l = 0; l < s.m.num_hidden_layers; ++l) {
    BlockSaved saved;
    x = block_forward(p, l, s.blocks[l], x, kv, saved);
  }
  return s.head_stats(p, s.head_input(p, x, s.final_norm, batch.head_rows, nullptr), batch.targets,
                      inv_temperature);
}

const std::vector<HeadStats>& Model::forward_train(const PackedBatch& batch, float inv_temperature) {
  Impl& s = *impl_;
  SavedPass& t = s.train;
  CHECK(t.batch == nullptr, "forward_train without a backward in between");
  const Pass p = s.make_packed_pass(batch, true);
  t.batch = &batch;
  t.inv_temperature = inv_temperature;
  t.arena_mark = p.arena().mark();
  t.blocks.assign(s.m.num_hidden_layers, {});
  Tensor x = s.embed_forward(p, batch.tokens.tokens);
  for (int64_t l = 0; l < s.m.num_hidden_layers; ++l) {
    if (p.recompute != Recompute::kFull) {
      const Tensor kv = p.arena().f32(s.cache_rows(batch.tokens), p.attention.row_width);
      x = block_forward(p, l, s.blocks[l], x, kv, t.blocks[l]);
      s.count_load(p, l, t.blocks[l].moe);
      continue;
    }
    // Full recompute keeps the block's input only: its output is made in the place after it.
    t.blocks[l].input = x;
    const Tensor y = p.arena().f32(p.own, s.m.hidden_size);
    const ArenaScope scope(p.arena());
    const Tensor kv = p.arena().f32(s.cache_rows(batch.tokens), p.attention.row_width);
    BlockSaved saved;
    copy(p, block_forward(p, l, s.blocks[l], x, kv, saved), y);
    s.count_load(p, l, saved.moe);
    x = y;
  }
  t.x_final = x;
  t.head = {
      batch.head_rows, batch.targets, s.head_input(p, x, s.final_norm, batch.head_rows, &t.rstd_final), {}};
  t.head.stats = s.head_stats(p, t.head.h, batch.targets, inv_temperature);
  return t.head.stats;
}

void Model::backward(const std::vector<float>& dlogp, const std::vector<float>& dentropy, MtpLoss* mtp,
                     int64_t total_targets) {
  Impl& s = *impl_;
  SavedPass& t = s.train;
  CHECK(t.batch != nullptr && dlogp.size() == t.head.stats.size(), "{} gradients for {} head rows",
        dlogp.size(), t.head.stats.size());
  const PackedBatch& batch = *t.batch;
  const Pass p = s.make_packed_pass(batch, true);
  const ArenaScope scope(p.temp());
  const Tensor dx = p.temp().f32(p.own, s.m.hidden_size);
  norm_backward(p, s.head_backward(p, batch, t.head, t.inv_temperature, dlogp, dentropy, 0), t.x_final,
                t.rstd_final, s.final_norm, dx, false, p.own_leaves());
  if (mtp && mtp->weight > 0 && s.m.num_nextn_predict_layers > 0) {
    s.mtp_step(p, batch, t.x_final, dx, *mtp, total_targets);
    s.w->reduce_layer(s.m.num_hidden_layers + 1);
  }
  s.w->reduce_layer(s.m.num_hidden_layers);

  for (int64_t l = s.m.num_hidden_layers - 1; l >= 0; --l) {
    if (p.recompute == Recompute::kFull) {
      const ArenaScope again(p.arena());
      const Tensor kv = p.arena().f32(s.cache_rows(batch.tokens), p.attention.row_width);
      BlockSaved saved;
      block_forward(p, l, s.blocks[l], t.blocks[l].input, kv, saved);
      block_backward(p, l, s.blocks[l], saved, dx);
    } else {
      block_backward(p, l, s.blocks[l], t.blocks[l], dx);
    }
    s.w->reduce_layer(l);
  }
  s.embed_backward(p, batch.tokens.tokens, dx, 0);
  s.w->reduce_layer(-1);
  p.arena().release(t.arena_mark);
  t.batch = nullptr;
}

double Model::update_router_bias(double speed) {
  Impl& s = *impl_;
  double worst = 1;
  for (int64_t l = 0; l < s.m.num_hidden_layers; ++l) {
    if (!s.m.moe_layer(l)) continue;
    std::vector<int64_t>& load = s.load[l];
    s.rt.mesh->world().all_reduce_sum("expert_load", load.data(), static_cast<int64_t>(load.size()));
    int64_t total = 0, most = 0;
    for (int64_t n : load) total += n, most = std::max(most, n);
    const int64_t experts = static_cast<int64_t>(load.size());
    if (total > 0) worst = std::max(worst, double(most) * double(experts) / double(total));
    if (s.blocks[l].router_bias >= 0 && speed > 0) {
      float* bias = s.w->master(s.blocks[l].router_bias).f32();
      for (int64_t e = 0; e < experts; ++e) {
        const int64_t excess = load[e] * experts - total;
        if (excess != 0) bias[e] += static_cast<float>(excess > 0 ? -speed : speed);
      }
    }
    std::fill(load.begin(), load.end(), 0);
  }
  return worst;
}

}  // namespace contender
