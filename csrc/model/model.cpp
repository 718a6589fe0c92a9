#include "model/model.h"

#include <algorithm>
#include <optional>

#include "model/layers.h"
#include "model/sizes.h"

namespace contender {
namespace {

// Segments of one leaf for each slot: rows [offsets[s], offsets[s + 1]).
std::vector<RowSegment> slot_leaves(const std::vector<int32_t>& offsets) {
  std::vector<RowSegment> leaves;
  for (int32_t s = 0; s + 1 < std::ssize(offsets); ++s) leaves.push_back({offsets[s], offsets[s + 1], 0, s});
  return leaves;
}
// Of a table with one segment for each leaf.
std::vector<RowPlace> places_of(const std::vector<RowSegment>& leaves) {
  std::vector<RowPlace> places = {{}};
  for (const RowSegment& s : leaves) {
    const RowPlace at = places.back();
    places.push_back({at.row + s.end - s.begin,
                      at.block + static_cast<int32_t>(ceil_div(int64_t{s.end} - s.begin, kQuantizeBlock))});
  }
  return places;
}
RowSegments as_segments(const RowSegment* device, int64_t count, const RowPlace* places = nullptr) {
  return {device, static_cast<int32_t>(count), static_cast<int32_t>(count), places};
}

}  // namespace

// What one training forward keeps.
struct SavedPass {
  const PackedBatch* batch = nullptr;
  std::optional<Pass> pass;
  int64_t arena_mark = 0;
  std::vector<BlockSaved> blocks;
  Tensor x_final, rstd_final;  // residual stream before the final norm (own)
  float inv_temperature = 1;
};

struct Model::Impl {
  const RunConfig& config;
  const ModelConfig& m;
  Runtime rt;
  WeightStore* w;
  Buffer rope_buffer, counts;  // counts: [layers][experts] tokens routed since the last bias update, overflow
  Tensor rope_table;
  std::vector<BlockParams> blocks;
  int embed, head, final_norm;
  BlockParams mtp_block;
  bool tied;
  int32_t slices;  // local virtual slices
  SavedPass train;
  std::optional<Pass> rollout;
  const KvCache* rollout_cache = nullptr;
  Readback::Place<int32_t> counts_place;

  Impl(const RunConfig& c, const Runtime& r, WeightStore* weights)
      : config(c), m(c.model), rt(r), w(weights) {
    const std::vector<float> values = contender::rope_table(rope_config(m), m.max_position_embeddings);
    rope_buffer = Buffer(rt.device, std::ssize(values) * 4, "RoPE table");
    rt.device->upload(rt.exec.stream, rope_buffer.data(), values.data(), rope_buffer.bytes());
    rope_table = f32_tensor(rope_buffer.f32(), m.max_position_embeddings, rope_config(m).dim);
    counts = Buffer(rt.device, (load_counts() + 1) * 4, "expert counts");
    rt.device->zero(rt.exec.stream, counts.data(), counts.bytes());
    for (int64_t l = 0; l < m.num_hidden_layers; ++l)
      blocks.push_back(find_block(*w, fmt::format("layers.{}", l)));
    embed = w->find("embed");
    tied = m.tie_word_embeddings;
    head = tied ? embed : w->find("head");
    final_norm = w->find("final_norm");
    if (m.num_nextn_predict_layers > 0) mtp_block = find_block(*w, "mtp.block");
    slices = static_cast<int32_t>(div_exact(virtual_slices(m), rt.mesh->shape().tp));
  }

  int64_t tp_rank() const { return rt.mesh->tp().rank(); }
  int64_t vocab_begin() const { return tp_rank() * (m.vocab_size / rt.mesh->shape().tp); }
  int64_t load_counts() const {
    return (m.num_hidden_layers + m.num_nextn_predict_layers) * m.n_routed_experts;
  }
  int32_t* load() const { return static_cast<int32_t*>(counts.data()); }

  // Everything about a batch but its place on the device.
  Pass make_host_pass(const TokenBatch& batch, bool training) const {
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
    p.overflow = load() + load_counts();
    if (training) p.load = load();
    if (training && config.train.recompute != "none")
      p.recompute = config.train.recompute == "full" ? Recompute::kFull : Recompute::kSelective;
    return p;
  }

  // Behind here no operator looks: a rank's part of the vocabulary has zeros for the ids of others.
  void check_ids(const char* what, const std::vector<int32_t>& ids) const {
    const auto bad = std::ranges::find_if(ids, [&](int32_t id) { return id < 0 || id >= m.vocab_size; });
    CHECK(bad == ids.end(), "{} {} of the batch is {}, the vocabulary has {}", what, bad - ids.begin(), *bad,
          m.vocab_size);
  }

  // Sends the batch, its leaves and its head rows to the device, in one copy.
  void send(Pass& p, const std::vector<int32_t>& own_slots, const std::vector<int32_t>& group_slots,
            const std::vector<int32_t>& head_rows, const std::vector<int32_t>& targets) const {
    const TokenBatch& b = p.batch;
    check_ids("token", b.tokens);
    check_ids("target", targets);
    const std::vector<RowSegment> own = slot_leaves(own_slots), group = slot_leaves(group_slots),
                                  of_head = slot_leaves(head_offsets(head_rows, group_slots));
    Upload up;
    const auto tokens = up.add(b.tokens), positions = up.add(b.positions), cache_rows = up.add(b.cache_rows),
               page_ids = up.add(b.page_ids), slot_begin = up.add(own_slots), rows = up.add(head_rows),
               wanted = up.add(targets);
    const auto seqs = up.add(b.seqs);
    const auto own_place = up.add(own), group_place = up.add(group), head_place = up.add(of_head);
    const auto own_chains = up.add(places_of(own)), group_chains = up.add(places_of(group));
    up.send(*rt.device, rt.exec.stream, p.arena());
    p.device = {.tokens = up.at(tokens),
                .positions = up.at(positions),
                .cache_rows = up.at(cache_rows),
                .seqs = up.at(seqs),
                .page_ids = up.at(page_ids),
                .slot_begin = up.at(slot_begin)};
    p.own_slots = std::ssize(own);
    p.own_leaves = as_segments(up.at(own_place), std::ssize(own), up.at(own_chains));
    p.group_leaves = as_segments(up.at(group_place), std::ssize(group), up.at(group_chains));
    p.head = {.count = std::ssize(head_rows),
              .rows = up.at(rows),
              .targets = up.at(wanted),
              .leaves = as_segments(up.at(head_place), std::ssize(of_head))};
    p.update = p.act(p.arena(), p.own, m.hidden_size);
  }

  // Where the rows of each slot begin among ascending head rows.
  static std::vector<int32_t> head_offsets(const std::vector<int32_t>& head_rows,
                                           const std::vector<int32_t>& slots) {
    std::vector<int32_t> offsets;
    for (const int32_t row : slots)
      offsets.push_back(static_cast<int32_t>(std::ranges::lower_bound(head_rows, row) - head_rows.begin()));
    return offsets;
  }

  // A pass over the tokens of a rollout: no leaves.
  Pass make_rollout_pass(const TokenBatch& batch, int64_t page_size, const std::vector<int32_t>& rows) const {
    Pass p = make_host_pass(batch, false);
    p.attention.page_size = page_size;
    p.max_own = config.rollout.max_tokens_per_step;
    CHECK(p.own <= p.max_own, "{} own tokens, at most {}", p.own, p.max_own);
    send(p, {0, static_cast<int32_t>(p.own)}, {0}, rows, {});
    return p;
  }

  // A pass over packed slots: which rows are which leaf of the canonical sums.
  Pass make_packed_pass(const PackedBatch& batch, bool training) const {
    Pass p = make_host_pass(batch.tokens, training);
    const std::vector<int32_t>& offsets = batch.slot_offsets;
    const int64_t own_slots = (std::ssize(offsets) - 1) / rt.mesh->shape().tp, first = tp_rank() * own_slots;
    p.expanded = m.mla() && m.mla_form == "expanded";
    p.max_own = own_slots * config.train.token_budget;
    CHECK(p.own <= p.max_own, "{} own tokens, at most {}", p.own, p.max_own);
    std::vector<int32_t> own;
    for (int64_t s = 0; s <= own_slots; ++s) own.push_back(offsets[first + s] - offsets[first]);
    send(p, own, offsets, batch.head_rows, batch.targets);
    return p;
  }

  // A tied table has the embedding's and the head's gradients of each use side by side.
  int embed_use(int use) const { return tied ? 2 * use : use; }
  int head_use(int use) const { return tied ? 2 * use + 1 : use; }

  // Embedding of the own rows.
  Tensor embed_forward(const Pass& p, const int32_t* tokens) const {
    const Tensor x = p.partial(p.arena(), p.rows, m.hidden_size);
    p.ops.embedding(p.exec,
                    {.tokens = tokens, .table = w->master(embed), .vocab_begin = vocab_begin(), .y = x});
    return reduce_rows(p, p.arena(), x);
  }
  void embed_backward(const Pass& p, const int32_t* tokens, const Tensor& dx, int use) const {
    p.ops.embedding_bwd(p.exec, {.tokens = tokens,
                                 .dy = gather_rows(p, p.temp(), dx),
                                 .vocab_begin = vocab_begin(),
                                 .dtable = w->grad(embed, embed_use(use)),
                                 .segments = p.group_leaves});
  }

  // Norm of the own rows of x + delta, then the head rows of the whole group. x becomes the sum.
  Tensor head_input(const Pass& p, Tensor& x, const Tensor& delta, int norm_param, const HeadRows& r,
                    Tensor* rstd) const {
    const Tensor all =
        gather_rows(p, p.arena(), add_norm(p, p.arena(), x, delta, norm_param, rstd, Form::kPlain).x);
    const Tensor selected = p.act(p.arena(), r.count, m.hidden_size);
    p.ops.gather_rows(p.exec, {.x = all, .index = r.rows, .y = selected});
    return selected;
  }

  HeadStats* head_stats(const Pass& p, const HeadRows& r, float inv_temperature) const {
    const int64_t tp = rt.mesh->shape().tp;
    constexpr int64_t kWords = sizeof(HeadPartial) / sizeof(float);
    auto* stats = static_cast<HeadStats*>(p.arena().bytes(r.count * int64_t{sizeof(HeadStats)}));
    const ArenaScope scope(p.temp());
    const Tensor mine = p.temp().f32(r.count, slices * kWords);
    p.ops.head_partial(p.exec, {.h = r.h,
                                .w = w->view(head),
                                .vocab_begin = vocab_begin(),
                                .targets = r.targets,
                                .inv_temperature = inv_temperature,
                                .slices = slices,
                                .partials = static_cast<HeadPartial*>(mine.data)});
    Tensor all = mine;
    if (tp > 1) {  // [tp][rows][slices] -> [rows][tp * slices]
      const Tensor blocks = p.temp().f32(tp * r.count, mine.cols);
      const std::vector<int64_t> counts(tp, r.count);
      rt.mesh->tp().all_gather_rows("tp_head", mine, blocks, counts.data()).wait();
      all = p.temp().f32(r.count, tp * mine.cols);
      for (int64_t t = 0; t < tp; ++t)
        copy(p, blocks.row_range(t * r.count, (t + 1) * r.count),
             all.col_range(t * mine.cols, (t + 1) * mine.cols));
    }
    p.ops.head_finish(p.exec, {.partials = static_cast<HeadPartial*>(all.data),
                               .rows = r.count,
                               .slices = static_cast<int32_t>(slices * tp),
                               .stats = stats});
    return stats;
  }

  // Gradient of the normed own rows from those of the head rows' log-probs. Rows of a slot are a leaf.
  Tensor head_backward(const Pass& p, const HeadRows& r, float inv_temperature, const float* dlogp,
                       const float* dentropy, int use) const {
    const Tensor dy = p.partial(p.temp(), p.rows, m.hidden_size),
                 dh = p.temp().tensor(dy.dtype, r.count, m.hidden_size);
    p.ops.head_bwd(p.exec, {.h = r.h,
                            .w = w->view(head),
                            .vocab_begin = vocab_begin(),
                            .targets = r.targets,
                            .inv_temperature = inv_temperature,
                            .slices = slices,
                            .stats = r.stats,
                            .dlogp = dlogp,
                            .dentropy = dentropy,
                            .dh = dh,
                            .dw = w->grad(head, head_use(use)),
                            .segments = r.leaves});
    p.rt.device->zero(p.exec.stream, dy.data, dy.numel() * dtype_size(dy.dtype));
    p.ops.scatter_rows(p.exec, {.x = dh, .index = r.rows, .y = dy});
    return reduce_rows(p, p.temp(), dy);
  }

  // The MTP module predicts token i + 2 from row i: head row i + 1's target. Consecutive head rows are of one
  // sequence.
  static void mtp_rows(const PackedBatch& batch, std::vector<int32_t>& rows, std::vector<int32_t>& targets) {
    for (size_t i = 0; i + 1 < batch.head_rows.size(); ++i) {
      if (batch.head_rows[i + 1] != batch.head_rows[i] + 1) continue;
      rows.push_back(batch.head_rows[i]);
      targets.push_back(batch.targets[i + 1]);
    }
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
    std::vector<int32_t> shifted = batch.tokens.tokens;  // the last row of a sequence gets a stranger, and
    if (!shifted.empty())
      std::rotate(shifted.begin(), shifted.begin() + 1, shifted.end());  // predicts nothing
    std::vector<int32_t> rows, targets;
    mtp_rows(batch, rows, targets);
    const std::vector<float> weights(rows.size(), -loss.weight / static_cast<float>(total_targets));
    const std::vector<RowSegment> leaves = slot_leaves(head_offsets(rows, batch.slot_offsets));
    Upload up;
    const auto next_place = up.add(shifted), rows_place = up.add(rows), targets_place = up.add(targets);
    const auto dlogp = up.add(weights);
    const auto leaves_place = up.add(leaves);
    up.send(*rt.device, rt.exec.stream, p.arena());
    const int32_t* next = up.at(next_place);
    HeadRows r = {.count = std::ssize(rows),
                  .rows = up.at(rows_place),
                  .targets = up.at(targets_place),
                  .leaves = as_segments(up.at(leaves_place), std::ssize(leaves))};

    Tensor rstd_h, rstd_e, rstd_last;
    const Tensor e = embed_forward(p, next), both = p.act(p.arena(), p.own, 2 * h);
    norm_into(p, e, embed_norm, both.col_range(0, h), &rstd_e);
    norm_into(p, x, hidden_norm, both.col_range(h, 2 * h), &rstd_h);
    BlockSaved saved;
    Tensor z = block_forward(p, m.num_hidden_layers, mtp_block,
                             linear(p, p.act(p.arena(), p.own, h), both, proj), {}, new_kv(p), saved);
    r.h = head_input(p, z, p.update, last_norm, r, &rstd_last);
    r.stats = head_stats(p, r, 1.0f);
    if (loss.results) loss.places.push_back(loss.results->add(r.stats, r.count));

    const Tensor dz = p.act(p.temp(), p.own, h), dboth = p.act(p.temp(), p.own, 2 * h),
                 de = p.act(p.temp(), p.own, h);
    norm_backward(p, head_backward(p, r, 1.0f, up.at(dlogp), nullptr, 1), z, rstd_last, last_norm, dz, false,
                  p.own_leaves);
    block_backward(p, m.num_hidden_layers, mtp_block, saved, dz);
    linear_backward(p, dz, both, proj, dboth, p.own_leaves);
    norm_backward(p, dboth.col_range(0, h), e, rstd_e, embed_norm, de, false, p.own_leaves);
    norm_backward(p, dboth.col_range(h, 2 * h), x, rstd_h, hidden_norm, dx, true, p.own_leaves);
    embed_backward(p, next, de, 1);
  }

  // Cache rows of a pass over full sequences: those of one layer.
  Tensor new_kv(const Pass& p) const {
    return p.act(p.arena(), std::ssize(p.batch.page_ids) * kAttentionBlock, p.attention.row_width);
  }
};

Model::Model(const RunConfig& config, const Runtime& runtime, WeightStore* weights)
    : impl_(std::make_unique<Impl>(config, runtime, weights)) {}
Model::~Model() = default;
const ModelConfig& Model::config() const { return impl_->m; }
const Runtime& Model::runtime() const { return impl_->rt; }
WeightStore& Model::weights() const { return *impl_->w; }

void Model::send_rollout(const TokenBatch& batch, const KvCache& cache, const std::vector<int32_t>& rows) {
  Impl& s = *impl_;
  s.rollout.emplace(s.make_rollout_pass(batch, cache.page_size(), rows));
  s.rollout_cache = &cache;
}

Tensor Model::run_rollout() {
  Impl& s = *impl_;
  CHECK(s.rollout.has_value(), "run_rollout without send_rollout");
  const Pass& p = *s.rollout;
  const int64_t tp = s.rt.mesh->shape().tp, count = p.head.count, vocab = s.m.vocab_size;
  const Tensor logits = p.arena().f32(count, vocab);
  const ArenaScope scope(p.arena());
  Tensor x = s.embed_forward(p, p.device.tokens), delta;
  for (int64_t l = 0; l < s.m.num_hidden_layers; ++l) {
    BlockSaved saved;
    x = block_forward(p, l, s.blocks[l], x, delta, s.rollout_cache->layer(l), saved);
    delta = p.update;
  }
  const Tensor h = s.head_input(p, x, delta, s.final_norm, p.head, nullptr);
  if (tp == 1) return linear(p, logits, h, s.head);
  const Tensor mine = linear(p, p.arena().f32(count, vocab / tp), h, s.head),
               blocks = p.arena().f32(tp * count, vocab / tp);
  const std::vector<int64_t> counts(tp, count);
  s.rt.mesh->tp().all_gather_rows("tp_logits", mine, blocks, counts.data()).wait();
  for (int64_t t = 0; t < tp; ++t)
    copy(p, blocks.row_range(t * count, (t + 1) * count),
         logits.col_range(t * vocab / tp, (t + 1) * vocab / tp));
  return logits;
}

Readback::Place<HeadStats> Model::forward_logp(const PackedBatch& batch, float inv_temperature,
                                               Readback& results) {
  Impl& s = *impl_;
  const ArenaScope scope(*s.rt.arena);
  Pass p = s.make_packed_pass(batch, false);
  Tensor x = s.embed_forward(p, p.device.tokens), delta;
  const Tensor kv = s.new_kv(p);
  for (int64_t l = 0; l < s.m.num_hidden_layers; ++l) {
    BlockSaved saved;
    x = block_forward(p, l, s.blocks[l], x, delta, kv, saved);
    delta = p.update;
  }
  p.head.h = s.head_input(p, x, delta, s.final_norm, p.head, nullptr);
  return results.add(s.head_stats(p, p.head, inv_temperature), p.head.count);
}

std::vector<HeadStats> Model::forward_logp(const PackedBatch& batch, float inv_temperature) {
  Readback results(impl_->rt.device, impl_->rt.exec.stream);
  const auto place = forward_logp(batch, inv_temperature, results);
  results.download();
  return {results.at(place), results.at(place) + place.count};
}

const HeadStats* Model::forward_train(const PackedBatch& batch, float inv_temperature) {
  Impl& s = *impl_;
  SavedPass& t = s.train;
  CHECK(!t.pass, "forward_train without a backward in between");
  t.arena_mark = s.rt.arena->mark();
  t.batch = &batch;
  t.inv_temperature = inv_temperature;
  t.blocks.assign(s.m.num_hidden_layers, {});
  Pass& p = t.pass.emplace(s.make_packed_pass(batch, true));
  Tensor x = s.embed_forward(p, p.device.tokens), delta;
  for (int64_t l = 0; l < s.m.num_hidden_layers; ++l) {
    if (p.recompute != Recompute::kFull) {
      x = block_forward(p, l, s.blocks[l], x, delta, s.new_kv(p), t.blocks[l]);
      delta = p.update;
      continue;
    }
    // Full recompute keeps the block's input only: its output is made in the place after it.
    t.blocks[l].input = x;
    const Tensor y = p.act(p.arena(), p.own, s.m.hidden_size);
    const ArenaScope scope(p.arena());
    BlockSaved saved;
    p.ops.add(p.exec,
              {.a = block_forward(p, l, s.blocks[l], x, {}, s.new_kv(p), saved), .b = p.update, .y = y});
    x = y;
  }
  p.head.h = s.head_input(p, x, delta, s.final_norm, p.head, &t.rstd_final);
  t.x_final = x;
  return p.head.stats = s.head_stats(p, p.head, inv_temperature);
}

void Model::backward(const std::vector<float>& dlogp, const std::vector<float>& dentropy, MtpLoss* mtp,
                     int64_t total_targets) {
  Impl& s = *impl_;
  const int64_t rows = s.train.pass ? s.train.pass->head.count : -1;
  CHECK(std::ssize(dlogp) == rows && (dentropy.empty() || std::ssize(dentropy) == rows),
        "{} gradients for {} head rows", dlogp.size(), rows);
  Upload up;
  const auto a = up.add(dlogp), b = up.add(dentropy);
  up.send(*s.rt.device, s.rt.exec.stream, *s.rt.arena);
  backward(up.at(a), dentropy.empty() ? nullptr : up.at(b), mtp, total_targets);
}

void Model::backward(const float* dlogp, const float* dentropy, MtpLoss* mtp, int64_t total_targets) {
  Impl& s = *impl_;
  SavedPass& t = s.train;
  CHECK(t.pass.has_value(), "backward without a forward_train");
  const Pass& p = *t.pass;
  {
    const ArenaScope scope(p.temp());
    const Tensor dx = p.act(p.temp(), p.own, s.m.hidden_size);
    norm_backward(p, s.head_backward(p, p.head, t.inv_temperature, dlogp, dentropy, 0), t.x_final,
                  t.rstd_final, s.final_norm, dx, false, p.own_leaves);
    if (mtp && mtp->weight > 0 && s.m.num_nextn_predict_layers > 0) {
      s.mtp_step(p, *t.batch, t.x_final, dx, *mtp, total_targets);
      s.w->reduce_layer(s.m.num_hidden_layers + 1);
    }
    s.w->reduce_layer(s.m.num_hidden_layers);

    for (int64_t l = s.m.num_hidden_layers - 1; l >= 0; --l) {
      if (p.recompute == Recompute::kFull) {
        const ArenaScope again(p.arena());
        Pass second = p;
        second.load = nullptr;  // counted in the first forward
        BlockSaved saved;
        block_forward(second, l, s.blocks[l], t.blocks[l].input, {}, s.new_kv(p), saved);
        block_backward(p, l, s.blocks[l], saved, dx);
      } else {
        block_backward(p, l, s.blocks[l], t.blocks[l], dx);
      }
      s.w->reduce_layer(l);
    }
    s.embed_backward(p, p.device.tokens, dx, 0);
    s.w->reduce_layer(-1);
  }
  p.arena().release(t.arena_mark);
  t.pass.reset();
}

void Model::read_counts(Readback& results) {
  impl_->counts_place = results.add(impl_->load(), impl_->load_counts() + 1);
}

void Model::check_counts(const Readback& results) const {
  check_dispatch_overflow(results.at(impl_->counts_place)[impl_->load_counts()]);
}

double Model::update_router_bias(const Readback& results, double speed) {
  Impl& s = *impl_;
  const int64_t experts = s.m.n_routed_experts;
  const int32_t* counted = results.at(s.counts_place);
  double worst = 1;
  for (int64_t l = 0; l < s.m.num_hidden_layers; ++l) {
    if (!s.m.moe_layer(l)) continue;
    std::vector<int64_t> load(counted + l * experts, counted + (l + 1) * experts);
    s.rt.mesh->world().all_reduce_sum("expert_load", load.data(), experts);
    int64_t total = 0, most = 0;
    for (int64_t n : load) total += n, most = std::max(most, n);
    if (total > 0) worst = std::max(worst, double(most) * double(experts) / double(total));
    if (s.blocks[l].router_bias < 0 || speed <= 0) continue;
    std::vector<float> step(experts, 0.0f);
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t excess = load[e] * experts - total;
      if (excess != 0) step[e] = static_cast<float>(excess > 0 ? -speed : speed);
    }
    const ArenaScope scope(*s.rt.temp);
    const Tensor bias = f32_tensor(s.w->master(s.blocks[l].router_bias).f32(), 1, experts),
                 delta = s.rt.temp->f32(1, experts);
    s.rt.device->upload(s.rt.exec.stream, delta.data, step.data(), experts * 4);
    s.rt.ops->add(s.rt.exec, {.a = bias, .b = delta, .y = bias});
  }
  s.rt.device->zero(s.rt.exec.stream, s.counts.data(), s.counts.bytes());
  return worst;
}

std::vector<std::pair<std::string, Tensor>> Model::kept_tensors() const {
  const SavedPass& t = impl_->train;
  CHECK(t.pass && t.pass->recompute == Recompute::kNone,
        "a forward_train without recomputation has to be in progress");
  std::vector<std::pair<std::string, Tensor>> kept;
  std::string prefix;
  const auto add = [&](const char* name, const Tensor& tensor) {
    if (tensor) kept.emplace_back(prefix + name, tensor);
  };
  // Codes: their values are not kept.
  const auto add_plain = [&](const char* name, const Activation& a) { add(name, a.x); };
  for (size_t l = 0; l < t.blocks.size(); ++l) {
    const AttentionSaved& a = t.blocks[l].attn;
    const FfnSaved& f = t.blocks[l].ffn;
    const MoeSaved& m = t.blocks[l].moe;
    prefix = fmt::format("layers.{}.attn.", l);
    add("x", a.x), add_plain("y", a.y), add("rstd", a.rstd), add("latents", a.latents),
        add("q_rstd", a.q_rstd);
    add("kv_rstd", a.kv_rstd), add("latents_all", a.latents_all), add("q", a.q);
    if (a.qk_rstd) add("qkv", a.qkv), add("qk_rstd", a.qk_rstd);
    add("q_attn", a.q_attn), add("kv", a.kv), add("o_attn", a.o_attn), add("lse", a.lse), add("o", a.o);
    prefix = fmt::format("layers.{}.ffn.", l);
    add("x", f.x), add_plain("y", f.y), add("rstd", f.rstd), add("gate_up", f.gate_up),
        add_plain("act", f.act);
    prefix = fmt::format("layers.{}.moe.", l);
    add("x", m.x), add_plain("y", m.y), add("rstd", m.rstd), add("scores", m.scores), add("expert", m.expert);
    add("weight", m.weight), add("shared_gate_up", m.shared_gate_up), add_plain("shared_act", m.shared_act);
    add_plain("x_in", m.x_in), add("gate_up", m.gate_up), add_plain("act", m.act),
        add("returned", m.returned);
  }
  prefix = "final_norm.";
  add("x", t.x_final), add("rstd", t.rstd_final), add("h", t.pass->head.h);
  return kept;
}

}  // namespace contender
