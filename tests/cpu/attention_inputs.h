// Sequences in a paged cache for the attention tests: pages in shuffled order, everything that belongs to
// nobody is NaN.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "ops/attention.h"
#include "tests/cpu/op_inputs.h"
#include "tests/ref/attention_ref.h"

namespace contender::test {

// MLA in the absorbed form: the value is the head of the key row.
inline AttentionShape mla_shape(int64_t heads, int64_t d_qk, int64_t d_v) {
  return {.num_heads = heads,
          .num_kv_heads = 1,
          .d_qk = d_qk,
          .d_v = d_v,
          .page_size = 16,
          .row_width = d_qk,
          .k_stride = d_qk,
          .v_offset = 0,
          .v_stride = d_v,
          .scale = 0.2f};
}
// Keys of all kv heads, then values, then three unused columns.
inline AttentionShape gqa_shape(int64_t heads, int64_t kv_heads, int64_t d_qk, int64_t d_v) {
  return {.num_heads = heads,
          .num_kv_heads = kv_heads,
          .d_qk = d_qk,
          .d_v = d_v,
          .page_size = 16,
          .row_width = kv_heads * (d_qk + d_v) + 3,
          .k_stride = d_qk,
          .v_offset = kv_heads * d_qk,
          .v_stride = d_v,
          .scale = 0.15f};
}

struct PagedRows {
  Matrix rows;
  std::vector<int32_t> page_ids;
  std::vector<int32_t> page_table;  // first entry of each sequence

  // The cache row of position p of sequence s.
  int64_t at(size_t s, int64_t p, int64_t page_size) const {
    return page_ids[static_cast<size_t>(page_table[s] + p / page_size)] * page_size + p % page_size;
  }
};

// Copies dense [length, width] rows of each sequence into pages.
inline PagedRows paged(const std::vector<Matrix>& sequences, int64_t width, int64_t page_size, bool shuffle) {
  PagedRows p;
  int64_t pages = 0;
  for (const Matrix& s : sequences) {
    p.page_table.push_back(static_cast<int32_t>(pages));
    pages += ceil_div(s.rows, page_size);
  }
  p.page_ids.resize(static_cast<size_t>(pages));
  std::iota(p.page_ids.begin(), p.page_ids.end(), 1);  // page 0 belongs to nobody
  for (int64_t i = pages - 1; shuffle && i > 0; --i) {
    std::swap(p.page_ids[i],
              p.page_ids[random_below(static_cast<int32_t>(i + 1), 77, static_cast<uint64_t>(i))]);
  }
  p.rows = Matrix::poisoned((pages + 2) * page_size, width, 1);
  for (size_t s = 0; s < sequences.size(); ++s) {
    for (int64_t r = 0; r < sequences[s].rows; ++r) {
      for (int64_t c = 0; c < width; ++c) p.rows.at(p.at(s, r, page_size), c) = sequences[s].at(r, c);
    }
  }
  return p;
}

// Columns [begin, begin + count) of the first `rows` rows, in double.
inline ref::Rows columns(const Matrix& m, int64_t row0, int64_t rows, int64_t begin, int64_t count) {
  ref::Rows out;
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<double> row;
    for (int64_t c = 0; c < count; ++c) row.push_back(m.at(row0 + r, begin + c));
    out.push_back(row);
  }
  return out;
}

}  // namespace contender::test
