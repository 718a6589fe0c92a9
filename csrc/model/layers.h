// Inside the model: one pass over the blocks, what it saves for the backward, and the layers as functions.
#pragma once

#include <cstdint>
#include <vector>

#include "model/model.h"

namespace contender {

// Indices of a block's parameters in the WeightStore, -1 where the form has none.
struct BlockParams {
  int attn_norm = -1, ffn_norm = -1, o = -1;
  int qkv_a = -1, q_a_norm = -1, q_b = -1, kv_a_norm = -1, w_uk = -1, w_uv = -1;  // MLA
  int qkv = -1, qkv_bias = -1, q_norm = -1, k_norm = -1;                          // GQA
  int gate_up = -1, down = -1;                                                    // dense FFN
  int router = -1, router_bias = -1, shared_gate_up = -1, shared_down = -1, experts_gate_up = -1,
      experts_down = -1;
};
BlockParams find_block(const WeightStore& w, const std::string& name);

enum class Recompute : uint8_t { kNone, kSelective, kFull };

// One forward (and backward) over a batch. `rows` = tokens of the tp group, `own` = tokens this rank owns,
// rows [own_begin, own_begin + own).
struct Pass {
  const ModelConfig& m;
  const MeshConfig& mesh_config;
  const Runtime& rt;
  const Ops& ops;
  const Exec& exec;
  WeightStore& w;
  const TokenBatch& batch;
  const Tensor& rope_table;
  int64_t rows = 0, own = 0, own_begin = 0;
  int64_t max_own = 0;  // bound agreed by all ranks (capacity of exchanges)
  int32_t slices = 1;   // virtual slices of tensor-parallel dimensions on this rank
  AttentionShape attention;
  bool train = false;
  bool expanded = false;  // MLA's fast path, for full sequences
  Recompute recompute = Recompute::kNone;
  std::vector<int32_t> own_slots = {0};    // [slots + 1] own rows of each owned slot, relative to own_begin
  std::vector<RowSegment> own_segments;    // leaves of the owned slots
  std::vector<RowSegment> group_segments;  // leaves of the tp group's slots, over rows

  Arena& arena() const { return *rt.arena; }
  Arena& temp() const { return *rt.temp; }
  // Where a tensor that the backward would like to keep goes: cheap ones are dropped and made again under
  // `selective`.
  Arena& keep(bool cheap = false) const {
    return train && !(cheap && recompute == Recompute::kSelective) ? arena() : temp();
  }
  RowSegments own_leaves() const {
    return {own_segments.data(), int32_t(own_segments.size()), int32_t(own_slots.size()) - 1};
  }
  RowSegments group_leaves() const {
    return {group_segments.data(), int32_t(group_segments.size()),
            int32_t((own_slots.size() - 1) * batch.counts.size())};
  }
  const int32_t* own_positions() const { return batch.positions.data() + own_begin; }
};

// Small verbs over the operator table, so that a layer reads as its formula.
Tensor linear(const Pass& p, Arena& out, const Tensor& x, int param, int32_t slices = 1,
              const float* bias = nullptr);
void linear_backward(const Pass& p, const Tensor& dy, const Tensor& x, int param, const Tensor& dx,
                     const RowSegments& leaves, int32_t slices = 1, bool accumulate = false);
Tensor norm(const Pass& p, Arena& out, const Tensor& x, const Tensor& delta, int param, Tensor* rstd);
void norm_into(const Pass& p, const Tensor& x, const Tensor& delta, int param, const Tensor& y, Tensor* rstd);
void norm_backward(const Pass& p, const Tensor& dy, const Tensor& x, const Tensor& rstd, int param,
                   const Tensor& dx, bool accumulate, const RowSegments& leaves, int use = 0);
void copy(const Pass& p, const Tensor& from, const Tensor& to);
// Rows of the whole tp group from the ranks' own rows, and back: the sum over ranks of their rows, each rank
// its own.
Tensor gather_rows(const Pass& p, Arena& out, const Tensor& own);
Tensor reduce_rows(const Pass& p, Arena& out, const Tensor& rows);

struct AttentionSaved {
  Tensor x, y, rstd;                // residual stream, its norm
  Tensor latents, q_rstd, kv_rstd;  // MLA, own rows: down-projections before their norms
  Tensor latents_all;               // MLA, rows: [q latent | kv latent | rope key], normed and rotated
  Tensor y_all;                     // rows: normed input, where q or qkv is projected from it
  Tensor q, qkv;                    // rows: MLA q after RoPE; GQA [q | k | v] before q/k norm
  Tensor qk_rstd;                   // GQA with q/k norm
  Tensor q_attn, kv, o_attn, lse;   // what the attention operator saw
  Tensor o;                         // rows: input of the output projection
};
struct FfnSaved {
  Tensor x, y, rstd, y_all, gate_up, act;
};
struct MoeSaved {
  Tensor x, y, rstd;
  Tensor scores, expert, weight, pos;  // router, own rows
  Tensor shared_gate_up, shared_act;
  std::vector<int32_t> source;       // [own * k] own row of each sent row, in sending order
  std::vector<int32_t> send_counts;  // [chunks][ep]
  std::vector<int32_t> recv_counts;  // [chunks][ep]
  std::vector<int32_t> arrival;      // [received] row in its chunk's receive buffer
  std::vector<int32_t> chunk_begin;  // [chunks + 1] received rows of each chunk
  std::vector<int32_t> offsets;      // [chunks][experts + 1] rows of each local expert, relative to the chunk
  std::vector<RowSegment> segments;  // (expert, slot) leaves over received rows
  Tensor x_in, gate_up, act;         // [received, ...] expert inputs, sorted by (chunk, expert, peer, token)
  Tensor returned;                   // [own * k, H] expert outputs, in sending order
};
struct BlockSaved {
  Tensor input;  // residual stream, own rows
  AttentionSaved attn;
  FfnSaved ffn;
  MoeSaved moe;
};

// Each returns the sublayer's output for the own rows, in the scratch arena. `x` is the residual stream;
// `delta` is added to it in place first. `kv` is the layer's part of the cache.
Tensor mla_forward(const Pass& p, const BlockParams& b, const Tensor& x, const Tensor& kv, AttentionSaved& s);
Tensor gqa_forward(const Pass& p, const BlockParams& b, const Tensor& x, const Tensor& kv, AttentionSaved& s);
Tensor ffn_forward(const Pass& p, const BlockParams& b, const Tensor& x, const Tensor& delta, FfnSaved& s);
Tensor moe_forward(const Pass& p, const BlockParams& b, const Tensor& x, const Tensor& delta, MoeSaved& s);
// dx: gradient of the residual stream, own rows; on entry that of the output, on exit the sublayer's part is
// added.
void mla_backward(const Pass& p, const BlockParams& b, const AttentionSaved& s, const Tensor& dx);
void gqa_backward(const Pass& p, const BlockParams& b, const AttentionSaved& s, const Tensor& dx);
void ffn_backward(const Pass& p, const BlockParams& b, const FfnSaved& s, const Tensor& dx);
void moe_backward(const Pass& p, const BlockParams& b, const MoeSaved& s, const Tensor& dx);

// norm, attention, norm, router, dispatch, experts, combine. Returns the new residual stream (own rows): in
// place of x, or when training a new one in the arena.
Tensor block_forward(const Pass& p, int64_t layer, const BlockParams& b, const Tensor& x, const Tensor& kv,
                     BlockSaved& s);
void block_backward(const Pass& p, int64_t layer, const BlockParams& b, const BlockSaved& s,
                    const Tensor& dx);

}  // namespace contender
