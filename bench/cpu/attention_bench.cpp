// Attention forward and backward: whole sequences (training), one query over a long cache (decode). Flops
// count visible pairs only, bytes the cache rows, queries and outputs once.
#include <cmath>

#include "bench/cpu/op_bench.h"
#include "cpu/cpu_ops.h"
#include "tests/ref/attention_ref.h"

namespace contender::bench {
namespace {

constexpr int64_t kPage = 16;

// Absorbed MLA: one kv head whose value is the head of its key.
AttentionShape mla(int64_t heads, int64_t d_qk, int64_t d_v) {
  return {.num_heads = heads,
          .num_kv_heads = 1,
          .d_qk = d_qk,
          .d_v = d_v,
          .page_size = kPage,
          .row_width = d_qk,
          .k_stride = d_qk,
          .v_stride = d_v,
          .scale = 0.1f};
}
AttentionShape gqa(int64_t heads, int64_t kv_heads, int64_t d) {
  return {.num_heads = heads,
          .num_kv_heads = kv_heads,
          .d_qk = d,
          .d_v = d,
          .page_size = kPage,
          .row_width = 2 * kv_heads * d,
          .k_stride = d,
          .v_offset = kv_heads * d,
          .v_stride = d,
          .scale = 0.1f};
}

// `count` sequences of kv_len keys, queries at the last q_len positions. Pages follow each other, as a
// training pack's do, or lie in steps through the pool, as a busy rollout's.
struct Problem {
  AttentionShape shape;
  int64_t count, q_len, kv_len, rows;
  std::vector<float> q, kv, o, lse, dout, dq, dkv;
  std::vector<AttentionSeq> seqs;
  std::vector<int32_t> page_ids;

  Problem(const AttentionShape& s, int64_t n, int64_t q_length, int64_t kv_length, bool scattered)
      : shape(s), count(n), q_len(q_length), kv_len(kv_length), rows(n * q_length) {
    const int64_t pages = ceil_div(kv_len, kPage), pool = n * pages;
    for (int64_t i = 0; i < pool; ++i)
      page_ids.push_back(static_cast<int32_t>(scattered ? (i % pages) * n + i / pages : i));
    for (int64_t i = 0; i < n; ++i) {
      seqs.push_back({.q_begin = static_cast<int32_t>(i * q_len),
                      .q_len = static_cast<int32_t>(q_len),
                      .kv_len = static_cast<int32_t>(kv_len),
                      .page_table = static_cast<int32_t>(i * pages)});
    }
    q = random_values(rows * s.num_heads * s.d_qk, 1);
    kv = random_values(pool * kPage * s.row_width, 2);
    dout = random_values(rows * s.num_heads * s.d_v, 3);
    o.resize(dout.size());
    lse.resize(static_cast<size_t>(rows * s.num_heads));
    dq.resize(q.size());
    dkv.resize(kv.size());
  }
  Tensor wide(std::vector<float>& v, int64_t d) { return f32_tensor(v.data(), rows, shape.num_heads * d); }
  Tensor cache(std::vector<float>& v) {
    return f32_tensor(v.data(), static_cast<int64_t>(v.size()) / shape.row_width, shape.row_width);
  }
  void forward(const Exec& exec) {
    cpu::attention(exec, {.shape = shape,
                          .q = wide(q, shape.d_qk),
                          .kv = cache(kv),
                          .seqs = seqs.data(),
                          .num_seqs = count,
                          .page_ids = page_ids.data(),
                          .o = wide(o, shape.d_v),
                          .lse = wide(lse, 1)});
  }
  void backward(const Exec& exec, int32_t slices) {
    cpu::attention_bwd(exec, {.shape = shape,
                              .q = wide(q, shape.d_qk),
                              .kv = cache(kv),
                              .seqs = seqs.data(),
                              .num_seqs = count,
                              .page_ids = page_ids.data(),
                              .o = wide(o, shape.d_v),
                              .lse = wide(lse, 1),
                              .dout = wide(dout, shape.d_v),
                              .dq = wide(dq, shape.d_qk),
                              .dkv = cache(dkv),
                              .head_slices = slices});
  }
  // The last query of the last sequence, last head, against double.
  bool right() const {
    const int64_t h = shape.num_heads - 1, g = shape.num_kv_heads - 1;
    const float* q_row = &q[static_cast<size_t>(((rows - 1) * shape.num_heads + h) * shape.d_qk)];
    ref::Rows keys, values;
    for (int64_t i = 0; i < kv_len; ++i) {
      const int64_t page = page_ids[static_cast<size_t>(seqs.back().page_table + i / kPage)];
      const float* row = &kv[static_cast<size_t>((page * kPage + i % kPage) * shape.row_width)];
      const float* k = row + g * shape.k_stride;
      const float* v = row + shape.v_offset + g * shape.v_stride;
      keys.emplace_back(k, k + shape.d_qk);
      values.emplace_back(v, v + shape.d_v);
    }
    const ref::AttentionHead want =
        ref::attention({std::vector<double>(q_row, q_row + shape.d_qk)}, keys, values, shape.scale);
    return std::abs(o.back() - want.o[0].back()) < 1e-5;
  }
};

void forward(benchmark::State& state, const AttentionShape& shape, bool scattered) {
  Problem p(shape, state.range(0), state.range(1), state.range(2), scattered);
  Workspace workspace(attention_workspace_bytes(shape, p.q_len, p.kv_len));
  p.forward(workspace.exec());
  if (!p.right()) return state.SkipWithError("wrong result");
  time_calls(state, attention_cost(shape, p.seqs.data(), p.count), [&] { p.forward(workspace.exec()); });
}

void backward(benchmark::State& state, const AttentionShape& shape, int32_t slices) {
  Problem p(shape, state.range(0), state.range(1), state.range(1), false);
  Workspace workspace(attention_workspace_bytes(shape, p.q_len, p.kv_len));
  Workspace workspace_bwd(attention_bwd_workspace_bytes(shape, p.kv_len, slices));
  p.forward(workspace.exec());
  if (!p.right()) return state.SkipWithError("wrong result");
  time_calls(state, attention_bwd_cost(shape, p.seqs.data(), p.count),
             [&] { p.backward(workspace_bwd.exec(), slices); });
}

void attention_mla_train(benchmark::State& state) { forward(state, mla(4, 48, 32), false); }
void attention_mla_decode(benchmark::State& state) { forward(state, mla(4, 48, 32), true); }
void attention_mla_v3_train(benchmark::State& state) { forward(state, mla(16, 576, 512), false); }
void attention_gqa_train(benchmark::State& state) { forward(state, gqa(8, 2, 64), false); }
void attention_gqa_decode(benchmark::State& state) { forward(state, gqa(8, 2, 128), true); }
void attention_bwd_mla(benchmark::State& state) { backward(state, mla(4, 48, 32), 4); }
void attention_bwd_gqa(benchmark::State& state) { backward(state, gqa(8, 2, 64), 1); }

// sequences, queries, keys
BENCHMARK(attention_mla_train)
    ->Args({40, 24, 24})
    ->Args({32, 48, 48})
    ->Args({6, 256, 256})
    ->Args({2, 1024, 1024});
BENCHMARK(attention_mla_decode)
    ->Args({64, 1, 40})
    ->Args({256, 1, 48})
    ->Args({256, 1, 256})
    ->Args({64, 1, 1024});
BENCHMARK(attention_mla_v3_train)->Args({1, 256, 256});
BENCHMARK(attention_gqa_train)->Args({32, 48, 48})->Args({2, 1024, 1024});
BENCHMARK(attention_gqa_decode)->Args({64, 1, 64})->Args({64, 1, 1024});
// sequences, tokens
BENCHMARK(attention_bwd_mla)->Args({40, 24})->Args({32, 48})->Args({6, 256})->Args({2, 1024});
BENCHMARK(attention_bwd_gqa)->Args({32, 48})->Args({2, 1024});

}  // namespace
}  // namespace contender::bench
