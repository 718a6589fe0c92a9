// The one attention operator: ragged queries (length >= 1) over a paged key/value cache, causal.
//
// Prefill, decode, speculation and training are cases of it. MLA uses the absorbed form: one key/value head,
// d_qk = kv_lora + rope, and the value is the first kv_lora columns of the key row (v_offset = 0). The
// expanded 192/128 form and GQA are the same operator with other strides.
//
// Contract: o[t, h] depends only on q[t, h] and on rows 0..position of its sequence, in one order of
// summation anchored at position 0: scores are chains over d; the maximum, the sum of exponentials and p*v
// are accumulated in ascending key order by fixed blocks of kAttentionBlock keys. It does not depend on the
// number of queries, their split into calls, the page size or the neighbours. Rows of the cache past a
// sequence's length are never read (they may hold NaN).
#pragma once

#include "ops/exec.h"

namespace contender {

inline constexpr int64_t kAttentionBlock = 16;  // keys per summation block; page sizes are multiples of it

// One sequence's queries in the batch.
struct AttentionSeq {
  int32_t q_begin = 0;     // first row in q / o
  int32_t q_len = 0;       // >= 1
  int32_t kv_len = 0;      // keys visible to the LAST query; query i sees kv_len - q_len + i + 1 keys
  int32_t page_table = 0;  // index of the first page id of this sequence in `page_ids`
};

struct AttentionShape {
  int64_t num_heads = 0;     // query heads (local)
  int64_t num_kv_heads = 0;  // 1 for absorbed MLA
  int64_t d_qk = 0;
  int64_t d_v = 0;
  int64_t page_size = 0;  // rows per page
  int64_t row_width = 0;  // floats per cache row
  int64_t k_stride = 0;   // columns from one kv head's key to the next
  int64_t v_offset = 0;   // column of the first value
  int64_t v_stride = 0;   // columns from one kv head's value to the next
  float scale = 1.0f;     // on q.k
};

struct AttentionArgs {
  AttentionShape shape;
  Tensor q;                            // [T, num_heads * d_qk]
  Tensor kv;                           // [num_pages * page_size, row_width]
  const AttentionSeq* seqs = nullptr;  // [num_seqs]
  int64_t num_seqs = 0;
  const int32_t* page_ids = nullptr;
  Tensor o;    // [T, num_heads * d_v]
  Tensor lse;  // [T, num_heads] natural log of the sum of exp(scale * q.k), or empty
};

// dkv is in cache rows, like kv, and overwritten for every row 0..kv_len-1 of every sequence (keys and
// values; where they share columns, as in MLA, the two gradients of a slice are added: dk + dv). Each
// sequence must have q_len == kv_len (training). The sum over query heads that share a kv head is cut into
// `head_slices` equal virtual slices of the heads (chain over heads, then queries ascending, inside one;
// fixed binary tree over slices, a power of two of them) so that heads sharded over ranks give the same bits.
struct AttentionBwdArgs {
  AttentionShape shape;
  Tensor q, kv;
  const AttentionSeq* seqs = nullptr;
  int64_t num_seqs = 0;
  const int32_t* page_ids = nullptr;
  Tensor o, lse;            // of the forward
  Tensor dout;              // [T, num_heads * d_v]
  Tensor dq;                // [T, num_heads * d_qk] overwritten
  Tensor dkv;               // [num_pages * page_size, row_width]
  int32_t head_slices = 1;  // used when num_kv_heads == 1 and num_heads > 1; num_heads % head_slices == 0
};

int64_t attention_workspace_bytes(const AttentionShape& shape, int64_t max_q_len, int64_t max_kv_len);
int64_t attention_bwd_workspace_bytes(const AttentionShape& shape, int64_t max_kv_len, int32_t head_slices);
// `seqs` are the host's here; q, o, their gradients, kv and dkv are of the activations' dtype.
Cost attention_cost(const AttentionShape& shape, const AttentionSeq* seqs, int64_t num_seqs,
                    DType activation = DType::kF32);
Cost attention_bwd_cost(const AttentionShape& shape, const AttentionSeq* seqs, int64_t num_seqs,
                        DType activation = DType::kF32);

}  // namespace contender
