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

// A batch in device memory.
struct DeviceBatch {
  const int32_t* tokens = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* cache_rows = nullptr;
  const AttentionSeq* seqs = nullptr;
  const int32_t* page_ids = nullptr;
  const int32_t* slot_begin = nullptr;  // [slots + 1] own rows of each owned slot, from own_begin
};

// Rows that predict a token, what the head is given of them, and what it makes of them. Device memory.
struct HeadRows {
  int64_t count = 0;
  const int32_t* rows = nullptr;     // [count] of the batch
  const int32_t* targets = nullptr;  // [count]
  RowSegments leaves;                // the tp group's slots, over these rows
  Tensor h;                          // [count, H] normed
  HeadStats* stats = nullptr;        // [count]
};

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
  DeviceBatch device;
  HeadRows head;
  int64_t rows = 0, own = 0, own_begin = 0;
  int64_t max_own = 0;  // bound agreed by all ranks (capacity of exchanges)
  int32_t slices = 1;   // virtual slices of tensor-parallel dimensions on this rank
  AttentionShape attention;
  bool train = false;
  bool expanded = false;  // MLA's fast path, for full sequences
  Recompute recompute = Recompute::kNone;
  int64_t own_slots = 1;
  RowSegments own_leaves;       // the owned slots, over own rows
  RowSegments group_leaves;     // the tp group's slots, over rows
  Tensor update;                // [own, H] what the last sublayer adds to the residual stream, not added yet
  int32_t* overflow = nullptr;  // of the expert exchange, see ops/dispatch.h
  int32_t* load = nullptr;      // [layers, experts] counts tokens routed, or null

  Arena& arena() const { return *rt.arena; }
  Arena& temp() const { return *rt.temp; }
  // Where a tensor that the backward would like to keep goes: cheap ones are dropped and made again under
  // `selective`.
  Arena& keep(bool cheap = false) const {
    return train && !(cheap && recompute == Recompute::kSelective) ? arena() : temp();
  }
  bool alone() const { return batch.counts.size() == 1; }  // no tensor parallelism
  const int32_t* own_positions() const { return device.positions + own_begin; }
  Tensor act(Arena& arena, int64_t rows, int64_t cols) const {
    return arena.tensor(ops.activation, rows, cols);
  }
  // What reduce_rows takes: partial sums travel in FP32, a sum that is complete is an activation.
  Tensor partial(Arena& arena, int64_t rows, int64_t cols) const {
    return alone() ? act(arena, rows, cols) : arena.f32(rows, cols);
  }
};

// What a product reads: rows in the activation dtype, in FP8 (1x128), or both, as its readers want it. What
// is made for FP8 products alone never exists in the activation dtype; their weight gradients read the codes
// too.
struct Activation {
  Tensor x;
  QTensor q;
  Activation() = default;
  Activation(const Tensor& t) : x(t) {}
  Activation row_range(int64_t begin, int64_t end) const;
};
enum class Form : uint8_t { kPlain, kFp8, kBoth };
// As the products with `param` read it.
Form form_for(const Pass& p, int param);
Activation empty_activation(const Pass& p, Arena& out, int64_t rows, int64_t cols, Form form);

// Rows of codes have their scales behind them, so that a row travels as one: its bytes, and how `cols`
// columns lie in them.
int64_t code_row_bytes(int64_t cols);
QTensor code_rows(const Tensor& bytes, int64_t cols);
Tensor code_bytes(const QTensor& q);

// Small verbs over the operator table, so that a layer reads as its formula.
Tensor linear(const Pass& p, const Tensor& y, const Activation& x, int param, int32_t slices = 1,
              const float* bias = nullptr);  // returns y
// The same by expert: rows [offsets[g], offsets[g + 1]) with group g.
void grouped_linear(const Pass& p, const Tensor& y, const Activation& x, int param, const int32_t* offsets);
void grouped_linear_dgrad(const Pass& p, const Tensor& dx, const Tensor& dy, int param,
                          const int32_t* offsets);
void linear_backward(const Pass& p, const Tensor& dy, const Activation& x, int param, const Tensor& dx,
                     const RowSegments& leaves, int32_t slices = 1);
// Both gradients of products by expert, from one look at dy.
void grouped_linear_backward(const Pass& p, const Tensor& dy, const Activation& x, int param,
                             const Tensor& dx, const int32_t* offsets, const RowSegments& leaves);
// dw of every expert over sorted rows, those of all chunks.
void grouped_wgrad(const Pass& p, const Tensor& dy, const Activation& x, int param,
                   const RowSegments& leaves);
// rstd: where to keep the statistics when training, or null.
Tensor norm(const Pass& p, Arena& out, const Tensor& x, int param, Tensor* rstd);
void norm_into(const Pass& p, const Tensor& x, int param, const Activation& y, Tensor* rstd);
Activation norm(const Pass& p, Arena& out, const Tensor& x, int param, Tensor* rstd, Form form);
// x + delta, normed. The sum becomes the residual stream x: a new tensor where the backward needs it (or the
// old one), else in place.
Activation add_norm(const Pass& p, Arena& out, Tensor& x, const Tensor& delta, int param, Tensor* rstd,
                    Form form);
// y = silu(gate) * up.
void swiglu(const Pass& p, const Tensor& gate_up, const Activation& y, int32_t slices = 1);
void norm_backward(const Pass& p, const Tensor& dy, const Tensor& x, const Tensor& rstd, int param,
                   const Tensor& dx, bool accumulate, const RowSegments& leaves, int use = 0);
void copy(const Pass& p, const Tensor& from, const Tensor& to);
// Rows of the whole tp group from the ranks' own rows, and back: the sum over ranks of their rows, each rank
// its own.
Tensor gather_rows(const Pass& p, Arena& out, const Tensor& own);
Activation gather_rows(const Pass& p, Arena& out, const Activation& own);
Tensor reduce_rows(const Pass& p, Arena& out, const Tensor& rows);
void reduce_rows_into(const Pass& p, const Tensor& rows, const Tensor& own);
// Rows that `count` (device memory) says are used, of `room`: exactly where the host can read it, else all.
int64_t used_rows(const Pass& p, const int32_t* count, int64_t room);

struct AttentionSaved {
  Tensor x, rstd;                   // residual stream
  Activation y;                     // its norm
  Tensor latents, q_rstd, kv_rstd;  // MLA, own rows: down-projections before their norms
  Tensor latents_all;   // MLA, rows: [q latent, not in FP8 | kv latent | rope key], normed, rotated
  Activation y_all;     // rows: normed input, where q or qkv is projected from it
  Activation q_latent;  // rows: MLA, normed, what q is projected from otherwise
  Tensor q, qkv;        // rows: MLA q after RoPE; GQA [q | k | v] before q/k norm
  Tensor qk_rstd;       // GQA with q/k norm
  Tensor q_attn, kv, o_attn, lse;  // what the attention operator saw
  Tensor o;                        // rows: input of the output projection
};
struct FfnSaved {
  Tensor x, rstd, gate_up;
  Activation y, y_all, act;
};
// Where tokens travel, as ops/dispatch.h lays it out; device memory.
struct MoePlan {
  int32_t* source = nullptr;     // [chunks, ep, capacity]
  int32_t* sent = nullptr;       // [chunks, ep]
  int32_t* header = nullptr;     // [ep, chunks, experts, slots] to each peer
  int32_t* arrived = nullptr;    // the same, from each peer; with ep = 1 it is header
  int32_t* arrival = nullptr;    // [chunks, room]
  int32_t* received = nullptr;   // [chunks, ep]
  int32_t* rows = nullptr;       // [chunks]
  int32_t* offsets = nullptr;    // [chunks, experts + 1]
  RowSegment* leaves = nullptr;  // [experts, ep * slots, chunks]
};
struct MoeSaved {
  Tensor x, rstd;
  Activation y;
  Tensor scores, expert, weight, pos;  // router, own rows
  Tensor shared_gate_up;
  Activation shared_act;
  MoePlan plan;
  Activation x_in, act;  // [chunks * room, ...] expert inputs, sorted by (chunk, expert, peer, token)
  Tensor gate_up;
  Tensor returned;  // [chunks * ep * capacity, H] expert outputs, where their inputs were sent from
};
struct BlockSaved {
  Tensor input;  // residual stream, own rows; all that full recompute keeps
  AttentionSaved attn;
  FfnSaved ffn;
  MoeSaved moe;
};

// Each adds `delta` (unless empty) to the residual stream x, and leaves its output for the own rows:
// attention in the scratch arena (returned), the others in p.update. `kv` is the layer's part of the cache.
Tensor mla_forward(const Pass& p, const BlockParams& b, Tensor& x, const Tensor& delta, const Tensor& kv,
                   AttentionSaved& s);
Tensor gqa_forward(const Pass& p, const BlockParams& b, Tensor& x, const Tensor& delta, const Tensor& kv,
                   AttentionSaved& s);
void ffn_forward(const Pass& p, const BlockParams& b, Tensor& x, const Tensor& delta, FfnSaved& s);
void moe_forward(const Pass& p, const BlockParams& b, int64_t layer, Tensor& x, const Tensor& delta,
                 MoeSaved& s);
// dx: gradient of the residual stream, own rows; on entry that of the output, on exit the sublayer's part is
// added.
void mla_backward(const Pass& p, const BlockParams& b, const AttentionSaved& s, const Tensor& dx);
void gqa_backward(const Pass& p, const BlockParams& b, const AttentionSaved& s, const Tensor& dx);
void ffn_backward(const Pass& p, const BlockParams& b, const FfnSaved& s, const Tensor& dx);
void moe_backward(const Pass& p, const BlockParams& b, const MoeSaved& s, const Tensor& dx);

// norm, attention, norm, router, dispatch, experts, combine. The residual stream is x + delta on entry; on
// return it is the result + p.update.
Tensor block_forward(const Pass& p, int64_t layer, const BlockParams& b, Tensor x, const Tensor& delta,
                     const Tensor& kv, BlockSaved& s);
void block_backward(const Pass& p, int64_t layer, const BlockParams& b, const BlockSaved& s,
                    const Tensor& dx);

}  // namespace contender
