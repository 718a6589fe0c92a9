#include "ops/attention.h"

#include <gtest/gtest.h>

#include <ostream>

#include "cpu/cpu_ops.h"
#include "cpu/vec_math.h"
#include "tests/cpu/attention_inputs.h"

namespace contender {
namespace {

using test::kEps;
using test::Matrix;
using test::same_bits;

struct Result {
  Matrix o, lse;
};

// Sequences of given lengths, with queries at every position: q row = sum of earlier lengths + position.
struct Batch {
  AttentionShape shape;
  std::vector<Matrix> kv;
  std::vector<int64_t> first_row;
  Matrix q;

  Batch(const AttentionShape& s, const std::vector<int64_t>& lengths) : shape(s) {
    int64_t total = 0;
    for (int64_t n : lengths) {
      kv.push_back(Matrix::random(n, s.row_width, 10 + kv.size(), 0, 1.0));
      first_row.push_back(total);
      total += n;
    }
    q = Matrix::random(total, s.num_heads * s.d_qk, 5, 2, 1.0);
  }
  Result empty() const {
    return {Matrix::poisoned(q.rows, shape.num_heads * shape.d_v, 1),
            Matrix::poisoned(q.rows, shape.num_heads, 1)};
  }
  // Runs queries [begin, end) of each sequence in one call, in an order of sequences and a page size of its
  // own.
  void run(Result& out, int64_t begin, int64_t end, int64_t page_size, bool reverse) {
    AttentionShape s = shape;
    s.page_size = page_size;
    test::PagedRows cache = test::paged(kv, s.row_width, page_size, true);
    std::vector<AttentionSeq> seqs;
    int64_t max_kv = 1, max_q = 1;
    for (size_t i = 0; i < kv.size(); ++i) {
      const int64_t last = std::min(end, kv[i].rows);
      if (begin >= last) continue;
      for (int64_t p = last; p < kv[i].rows; ++p) {  // positions that do not exist yet
        for (int64_t c = 0; c < s.row_width; ++c) cache.rows.at(cache.at(i, p, page_size), c) = std::nanf("");
      }
      seqs.push_back({.q_begin = static_cast<int32_t>(first_row[i] + begin),
                      .q_len = static_cast<int32_t>(last - begin),
                      .kv_len = static_cast<int32_t>(last),
                      .page_table = cache.page_table[i]});
      max_kv = std::max(max_kv, last);
      max_q = std::max(max_q, last - begin);
    }
    if (reverse) std::reverse(seqs.begin(), seqs.end());
    test::Workspace workspace(attention_workspace_bytes(s, max_q, max_kv));
    cpu::attention(workspace.exec(), {.shape = s,
                                      .q = q.tensor(),
                                      .kv = cache.rows.tensor(),
                                      .seqs = seqs.data(),
                                      .num_seqs = static_cast<int64_t>(seqs.size()),
                                      .page_ids = cache.page_ids.data(),
                                      .o = out.o.tensor(),
                                      .lse = out.lse.tensor()});
  }
  int64_t longest() const {
    int64_t n = 0;
    for (const Matrix& m : kv) n = std::max(n, m.rows);
    return n;
  }
};

struct Case {
  AttentionShape shape;
  std::vector<int64_t> lengths;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.shape.num_heads << " heads, " << c.shape.num_kv_heads << " kv heads, " << c.shape.d_qk << "/"
       << c.shape.d_v;
}

class CpuAttention : public testing::TestWithParam<Case> {};

TEST_P(CpuAttention, MatchesDouble) {
  Batch b(GetParam().shape, GetParam().lengths);
  Result got = b.empty();
  b.run(got, 0, b.longest(), 16, false);
  const AttentionShape& s = b.shape;
  for (size_t i = 0; i < b.kv.size(); ++i) {
    for (int64_t h = 0; h < s.num_heads; ++h) {
      const int64_t g = h / (s.num_heads / s.num_kv_heads), n = b.kv[i].rows;
      const ref::Rows v = test::columns(b.kv[i], 0, n, s.v_offset + g * s.v_stride, s.d_v);
      const ref::AttentionHead want =
          ref::attention(test::columns(b.q, b.first_row[i], n, h * s.d_qk, s.d_qk),
                         test::columns(b.kv[i], 0, n, g * s.k_stride, s.d_qk), v, s.scale);
      double v_max = 0;
      for (const auto& row : v) {
        for (double x : row) v_max = std::max(v_max, std::abs(x));
      }
      for (int64_t t = 0; t < n; ++t) {  // scores reach about 10, with d_qk roundings in each
        const double eps = kEps * 30 * static_cast<double>(s.d_qk + 40);
        test::expect_close(got.lse.at(b.first_row[i] + t, h), want.lse[t], 1 + std::abs(want.lse[t]), eps,
                           "lse", t, h);
        for (int64_t c = 0; c < s.d_v; ++c) {
          test::expect_close(got.o.at(b.first_row[i] + t, h * s.d_v + c), want.o[t][c], v_max, eps, "o", t,
                             h * s.d_v + c);
        }
      }
    }
  }
  EXPECT_TRUE(got.o.padding_untouched() && got.lse.padding_untouched());
}

// Prefill of everything, one token at a time, and uneven chunks, with other page sizes and neighbours: the
// same bits.
TEST_P(CpuAttention, AnySplitGivesTheSameBits) {
  Batch b(GetParam().shape, GetParam().lengths);
  Result whole = b.empty();
  b.run(whole, 0, b.longest(), 16, false);
  for (int64_t chunk : {1, 3, 16, 21}) {
    Result parts = b.empty();
    int64_t step = 0;
    for (int64_t begin = 0; begin < b.longest(); begin += chunk, ++step) {
      b.run(parts, begin, begin + chunk, step % 2 ? 48 : 16, step % 3 == 1);
    }
    EXPECT_TRUE(same_bits(parts.o.values, whole.o.values)) << "chunks of " << chunk;
    EXPECT_TRUE(same_bits(parts.lse.values, whole.lse.values)) << "chunks of " << chunk;
  }
}

// A key that a query does not see leaves no trace in it, whatever it holds.
TEST_P(CpuAttention, MaskedKeysContributeNothing) {
  Batch b(GetParam().shape, GetParam().lengths);
  Result clean = b.empty(), dirty = clean;
  b.run(clean, 0, b.longest(), 16, false);
  for (Matrix& kv : b.kv) {
    for (int64_t c = 0; c < kv.cols; ++c)
      kv.at(kv.rows - 1, c) = c % 2 ? std::numeric_limits<float>::infinity() : std::nanf("");
  }
  b.run(dirty, 0, b.longest(), 16, false);
  for (size_t i = 0; i < b.kv.size(); ++i) {
    for (int64_t t = b.first_row[i]; t + 1 < b.first_row[i] + b.kv[i].rows; ++t) {
      for (int64_t c = 0; c < clean.o.cols; ++c)
        ASSERT_TRUE(same_bits(clean.o.at(t, c), dirty.o.at(t, c))) << t << " " << c;
    }
  }
}

// A query head's result does not depend on which other heads are present (heads sharded over ranks).
TEST_P(CpuAttention, HeadsAreIndependent) {
  const Case& c = GetParam();
  if (c.shape.num_kv_heads != 1 || c.shape.num_heads == 1) return;
  Batch all(c.shape, c.lengths);
  Result want = all.empty();
  all.run(want, 0, all.longest(), 16, false);
  Batch one = all;
  one.shape.num_heads = 1;
  for (int64_t h = 0; h < c.shape.num_heads; ++h) {
    one.q = Matrix::poisoned(all.q.rows, c.shape.d_qk);
    for (int64_t t = 0; t < all.q.rows; ++t) {
      for (int64_t d = 0; d < c.shape.d_qk; ++d) one.q.at(t, d) = all.q.at(t, h * c.shape.d_qk + d);
    }
    Result got = one.empty();
    one.run(got, 0, one.longest(), 16, false);
    for (int64_t t = 0; t < all.q.rows; ++t) {
      for (int64_t d = 0; d < c.shape.d_v; ++d)
        ASSERT_TRUE(same_bits(got.o.at(t, d), want.o.at(t, h * c.shape.d_v + d)));
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CpuAttention,
                         testing::Values(Case{test::mla_shape(4, 48, 32), {20, 1, 37}},
                                         Case{test::mla_shape(20, 24, 16), {33}},
                                         Case{test::mla_shape(3, 80, 70), {18, 5}},
                                         Case{test::gqa_shape(8, 2, 64, 64), {35, 16}},
                                         Case{test::gqa_shape(2, 2, 128, 128), {50}},
                                         Case{test::gqa_shape(1, 1, 5, 3), {17, 2, 1}}));

// The order of the contract, written out element by element: the same bits.
TEST(CpuAttentionOrder, ChainsAreAsStated) {
  constexpr int64_t kQk = 20, kV = 12, kLength = 43;
  Batch b(test::gqa_shape(2, 1, kQk, kV), {kLength});
  Result got = b.empty();
  b.run(got, 0, kLength, 16, false);
  const Matrix& kv = b.kv[0];
  for (int64_t h = 0; h < 2; ++h) {
    for (int64_t t = 0; t < kLength; ++t) {
      std::vector<float> s(static_cast<size_t>(t + 1), 0.0f);
      for (int64_t key = 0; key <= t; ++key) {
        for (int64_t c = 0; c < kQk; ++c) s[key] = std::fma(b.q.at(t, h * kQk + c), kv.at(key, c), s[key]);
        s[key] *= b.shape.scale;
      }
      const float max = *std::max_element(s.begin(), s.end());
      float sums[kAttentionBlock] = {};
      for (int64_t key = 0; key <= t; ++key)
        sums[key % kAttentionBlock] += s[key] = cpu::scalar_exp(s[key] - max);
      for (int64_t n = kAttentionBlock / 2; n > 0; n /= 2) {
        for (int64_t i = 0; i < n; ++i) sums[i] += sums[i + n];
      }
      const float inverse = 1.0f / sums[0];
      for (int64_t c = 0; c < kV; ++c) {
        float o = 0;
        for (int64_t key = 0; key <= t; ++key) o = std::fma(s[key], kv.at(key, kQk + c), o);
        ASSERT_TRUE(same_bits(got.o.at(t, h * kV + c), o * inverse)) << t << " " << c;
      }
      ASSERT_TRUE(same_bits(got.lse.at(t, h), max + std::log(sums[0])));
    }
  }
}

TEST(CpuAttentionInput, NoSequences) {
  Batch b(test::mla_shape(2, 16, 16), {});
  Result out = b.empty();
  b.run(out, 0, 1, 16, false);
}

TEST(CpuAttentionInput, BadInputIsRefused) {
  Batch b(test::mla_shape(2, 16, 16), {20});
  Result out = b.empty();
  EXPECT_THROW(b.run(out, 0, 20, 24, false), Error);  // page size
  b.shape.row_width = 15;
  EXPECT_THROW(b.run(out, 0, 20, 16, false), Error);
}

}  // namespace
}  // namespace contender
