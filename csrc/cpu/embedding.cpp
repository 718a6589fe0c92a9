// What: token embedding over a shard of the vocabulary, and its gradient.
// Precision: FP32; the gradient of a row is one chain of additions per leaf, tokens ascending.
#include "ops/embedding.h"

#include <cstring>

#include "cpu/cpu_ops.h"
#include "cpu/row_sum.h"

namespace contender::cpu {

void embedding(const Exec&, const EmbeddingArgs& a) {
  CHECK(a.table.cols == a.y.cols, "table has {} columns, y {}", a.table.cols, a.y.cols);
  const size_t bytes = static_cast<size_t>(a.y.cols) * sizeof(float);
  for (int64_t t = 0; t < a.y.rows; ++t) {
    const int64_t row = a.tokens[t] - a.vocab_begin;
    if (0 <= row && row < a.table.rows) {
      std::memcpy(a.y.row(t), a.table.row(row), bytes);
    } else {
      std::memset(a.y.row(t), 0, bytes);
    }
  }
}

void embedding_bwd(const Exec& exec, const EmbeddingBwdArgs& a) {
  const int64_t vocab = a.dtable.rows, h = a.dtable.cols;
  CHECK(a.dy.cols == h && a.dtable.contiguous(), "dy has {} columns, dtable {} (row stride {})", a.dy.cols, h,
        a.dtable.ld);
  CHECK(exec.workspace_bytes >= embedding_bwd_workspace_bytes(vocab, h, a.segments.num_leaves),
        "workspace of {} bytes", exec.workspace_bytes);
  check_segments(a.segments, a.dy.rows);
  canonical_row_sum(a.segments, vocab * h, a.dtable.f32(), static_cast<float*>(exec.workspace),
                    [&](int64_t begin, int64_t end, float* table) {
                      for (int64_t t = begin; t < end; ++t) {
                        const int64_t row = a.tokens[t] - a.vocab_begin;
                        if (row < 0 || row >= vocab) continue;
                        float* __restrict acc = table + row * h;
                        const float* __restrict dy = a.dy.row(t);
                        for (int64_t c = 0; c < h; ++c) acc[c] += dy[c];
                      }
                    });
}

}  // namespace contender::cpu
