#include <gtest/gtest.h>

#include <ostream>

#include "cpu/cpu_ops.h"
#include "cpu/lanes.h"
#include "cpu/vec_math.h"
#include "ops/attention.h"
#include "tests/cpu/attention_inputs.h"

namespace contender {
namespace {

using test::kEps;
using test::Matrix;
using test::same_bits;

struct Case {
  AttentionShape shape;
  std::vector<int64_t> lengths;
  int32_t head_slices;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.shape.num_heads << " heads, " << c.shape.num_kv_heads << " kv heads, " << c.shape.d_qk << "/"
       << c.shape.d_v << ", " << c.head_slices << " slices";
}

// A forward and a backward over whole sequences.
struct Problem {
  AttentionShape shape;
  std::vector<Matrix> kv_dense;
  test::PagedRows cache;
  std::vector<AttentionSeq> seqs;
  Matrix q, dout, o, lse, dq, dkv;

  Problem(const AttentionShape& s, const std::vector<int64_t>& lengths, int64_t page_size, bool shuffle)
      : shape(s) {
    shape.page_size = page_size;
    int64_t total = 0;
    for (int64_t n : lengths) {
      kv_dense.push_back(Matrix::random(n, s.row_width, 20 + kv_dense.size(), 0, 1.0));
      seqs.push_back({.q_begin = static_cast<int32_t>(total),
                      .q_len = static_cast<int32_t>(n),
                      .kv_len = static_cast<int32_t>(n)});
      total += n;
    }
    cache = test::paged(kv_dense, s.row_width, page_size, shuffle);
    for (size_t i = 0; i < seqs.size(); ++i) seqs[i].page_table = cache.page_table[i];
    q = Matrix::random(total, s.num_heads * s.d_qk, 6, 1, 1.0);
    dout = Matrix::random(total, s.num_heads * s.d_v, 7, 2, 1.0);
  }
  int64_t longest() const {
    int64_t n = 1;
    for (const AttentionSeq& s : seqs) n = std::max<int64_t>(n, s.kv_len);
    return n;
  }
  void run(int32_t head_slices) {
    o = Matrix::poisoned(q.rows, shape.num_heads * shape.d_v);
    lse = Matrix::poisoned(q.rows, shape.num_heads);
    dq = Matrix::poisoned(q.rows, q.cols, 3);
    dkv = Matrix::poisoned(cache.rows.rows, shape.row_width, 1);
    const int64_t count = static_cast<int64_t>(seqs.size());
    test::Workspace forward(attention_workspace_bytes(shape, longest(), longest()));
    cpu::attention(forward.exec(), {.shape = shape,
                                    .q = q.tensor(),
                                    .kv = cache.rows.tensor(),
                                    .seqs = seqs.data(),
                                    .num_seqs = count,
                                    .page_ids = cache.page_ids.data(),
                                    .o = o.tensor(),
                                    .lse = lse.tensor()});
    test::Workspace backward(attention_bwd_workspace_bytes(shape, longest(), head_slices));
    cpu::attention_bwd(backward.exec(), {.shape = shape,
                                         .q = q.tensor(),
                                         .kv = cache.rows.tensor(),
                                         .seqs = seqs.data(),
                                         .num_seqs = count,
                                         .page_ids = cache.page_ids.data(),
                                         .o = o.tensor(),
                                         .lse = lse.tensor(),
                                         .dout = dout.tensor(),
                                         .dq = dq.tensor(),
                                         .dkv = dkv.tensor(),
                                         .head_slices = head_slices});
  }
  float dkv_at(size_t seq, int64_t position, int64_t c) const {
    return dkv.at(cache.at(seq, position, shape.page_size), c);
  }
};

class CpuAttentionBwd : public testing::TestWithParam<Case> {};

// The loss sum(dout * o) of one sequence as a function of its queries and cache rows, in double.
double loss(const AttentionShape& s, const ref::Rows& q, const ref::Rows& kv, const ref::Rows& dout) {
  auto cut = [](const ref::Rows& rows, int64_t begin, int64_t n) {
    ref::Rows out;
    for (const auto& row : rows) out.emplace_back(row.begin() + begin, row.begin() + begin + n);
    return out;
  };
  double sum = 0;
  for (int64_t h = 0; h < s.num_heads; ++h) {
    const int64_t g = h / (s.num_heads / s.num_kv_heads);
    const ref::AttentionHead out = ref::attention(cut(q, h * s.d_qk, s.d_qk), cut(kv, g * s.k_stride, s.d_qk),
                                                  cut(kv, s.v_offset + g * s.v_stride, s.d_v), s.scale);
    for (size_t t = 0; t < q.size(); ++t) {
      for (int64_t c = 0; c < s.d_v; ++c) sum += out.o[t][c] * dout[t][h * s.d_v + c];
    }
  }
  return sum;
}

// A sample of the elements of dq and dkv against central differences.
TEST_P(CpuAttentionBwd, MatchesFiniteDifferences) {
  const Case& param = GetParam();
  Problem p(param.shape, param.lengths, 16, true);
  p.run(param.head_slices);
  const AttentionShape& s = p.shape;
  for (size_t i = 0; i < p.seqs.size(); ++i) {
    const int64_t n = p.seqs[i].q_len, row0 = p.seqs[i].q_begin;
    const ref::Rows q = test::columns(p.q, row0, n, 0, p.q.cols),
                    kv = test::columns(p.kv_dense[i], 0, n, 0, s.row_width),
                    dout = test::columns(p.dout, row0, n, 0, p.dout.cols);
    auto slope = [&](bool in_q, int64_t r, int64_t c) {
      const double step = 1e-5;
      ref::Rows up = in_q ? q : kv, down = up;
      up[r][c] += step;
      down[r][c] -= step;
      return in_q ? (loss(s, up, kv, dout) - loss(s, down, kv, dout)) / (2 * step)
                  : (loss(s, q, up, dout) - loss(s, q, down, dout)) / (2 * step);
    };
    double dq_max = 1e-3, dkv_max = 1e-3;  // a single token's dq is 0 but for rounding
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t c = 0; c < p.q.cols; ++c)
        dq_max = std::max<double>(dq_max, std::abs(p.dq.at(row0 + t, c)));
      for (int64_t c = 0; c < s.row_width; ++c)
        dkv_max = std::max<double>(dkv_max, std::abs(p.dkv_at(i, t, c)));
    }
    for (uint64_t k = 0; k < 12; ++k) {
      const int64_t t = test::random_below(static_cast<int32_t>(n), 8, 4 * k);
      const int64_t cq = test::random_below(static_cast<int32_t>(p.q.cols), 8, 4 * k + 1);
      const int64_t ck = test::random_below(static_cast<int32_t>(s.row_width), 8, 4 * k + 2);
      test::expect_close(p.dq.at(row0 + t, cq), slope(true, t, cq), dq_max, 2e-5, "dq", t, cq);
      test::expect_close(p.dkv_at(i, t, ck), slope(false, t, ck), dkv_max, 2e-5, "dkv", t, ck);
    }
  }
  EXPECT_TRUE(p.dq.padding_untouched() && p.dkv.padding_untouched());
}

// Every row of a sequence is written, all columns, and no other row.
TEST_P(CpuAttentionBwd, OverwritesExactlyItsRows) {
  const Case& param = GetParam();
  Problem p(param.shape, param.lengths, 32, true);
  p.run(param.head_slices);
  std::vector<bool> owned(static_cast<size_t>(p.dkv.rows), false);
  for (size_t i = 0; i < p.seqs.size(); ++i) {
    for (int64_t t = 0; t < p.seqs[i].kv_len; ++t) owned[p.cache.at(i, t, 32)] = true;
  }
  for (int64_t r = 0; r < p.dkv.rows; ++r) {
    for (int64_t c = 0; c < p.shape.row_width; ++c)
      ASSERT_EQ(std::isnan(p.dkv.at(r, c)), !owned[r]) << r << " " << c;
  }
  for (int64_t r = 0; r < p.dq.rows; ++r) {
    for (int64_t c = 0; c < p.dq.cols; ++c) ASSERT_FALSE(std::isnan(p.dq.at(r, c)));
  }
}

// Pages, their order and the neighbours change no bit.
TEST_P(CpuAttentionBwd, PlacementDoesNotMatter) {
  const Case& param = GetParam();
  Problem all(param.shape, param.lengths, 16, true);
  all.run(param.head_slices);
  Problem other(param.shape, param.lengths, 48, false);
  std::reverse(other.seqs.begin(), other.seqs.end());
  other.run(param.head_slices);
  EXPECT_TRUE(same_bits(all.dq.values, other.dq.values));
  for (size_t i = 0; i < all.seqs.size(); ++i) {
    for (int64_t t = 0; t < all.seqs[i].kv_len; ++t) {
      for (int64_t c = 0; c < param.shape.row_width; ++c)
        ASSERT_TRUE(same_bits(all.dkv_at(i, t, c), other.dkv_at(i, t, c)));
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CpuAttentionBwd,
                         testing::Values(Case{test::mla_shape(4, 48, 32), {20, 1, 37}, 4},
                                         Case{test::mla_shape(6, 24, 16), {19}, 2},
                                         Case{test::mla_shape(3, 80, 70), {18, 5}, 1},
                                         Case{test::gqa_shape(8, 2, 64, 64), {35, 9}, 1},
                                         Case{test::gqa_shape(2, 2, 32, 40), {23}, 1},
                                         Case{test::gqa_shape(1, 1, 5, 3), {17, 2, 1}, 1}));

// Heads sharded over ranks: the tree over the results of calls with one slice's heads each is the whole's
// result, bit for bit.
class CpuAttentionBwdShards : public testing::TestWithParam<int> {};

TEST_P(CpuAttentionBwdShards, SlicesComposeAcrossRanks) {
  constexpr int32_t kSlices = 4;
  const int ranks = GetParam();
  const AttentionShape shape = test::mla_shape(8, 48, 32);
  Problem whole(shape, {37, 20}, 16, true);
  whole.run(kSlices);
  std::vector<Problem> parts;
  for (int rank = 0; rank < ranks; ++rank) {
    AttentionShape local = shape;
    local.num_heads = shape.num_heads / ranks;
    Problem p(local, {37, 20}, 16, true);
    const int64_t head0 = rank * local.num_heads;
    for (int64_t t = 0; t < whole.q.rows; ++t) {
      for (int64_t c = 0; c < p.q.cols; ++c) p.q.at(t, c) = whole.q.at(t, head0 * shape.d_qk + c);
      for (int64_t c = 0; c < p.dout.cols; ++c) p.dout.at(t, c) = whole.dout.at(t, head0 * shape.d_v + c);
    }
    p.run(kSlices / ranks);
    for (int64_t t = 0; t < whole.q.rows; ++t) {
      for (int64_t c = 0; c < p.q.cols; ++c)
        ASSERT_TRUE(same_bits(p.dq.at(t, c), whole.dq.at(t, head0 * shape.d_qk + c)));
    }
    parts.push_back(std::move(p));
  }
  for (size_t i = 0; i < whole.seqs.size(); ++i) {
    for (int64_t t = 0; t < whole.seqs[i].kv_len; ++t) {
      for (int64_t c = 0; c < shape.row_width; ++c) {
        auto at = [&](size_t r) { return parts[r].dkv_at(i, t, c); };
        const float want = ranks == 4 ? (at(0) + at(1)) + (at(2) + at(3)) : at(0) + at(1);
        ASSERT_TRUE(same_bits(whole.dkv_at(i, t, c), want)) << i << " " << t << " " << c;
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Ranks, CpuAttentionBwdShards, testing::Values(2, 4));

// The order of the contract, written out element by element: the same bits. Two slices of two heads.
TEST(CpuAttentionBwdOrder, ChainsAreAsStated) {
  constexpr int64_t kHeads = 4, kQk = 20, kV = 12, kLength = 21;
  const AttentionShape shape = test::mla_shape(kHeads, kQk, kV);
  Problem p(shape, {kLength}, 16, false);
  p.run(2);
  const Matrix& kv = p.kv_dense[0];
  auto gradients = [&](int64_t h, int64_t t, int64_t key) {  // {p, ds}
    float s = 0, dp = 0;
    for (int64_t c = 0; c < kQk; ++c) s = std::fma(p.q.at(t, h * kQk + c), kv.at(key, c), s);
    for (int64_t c = 0; c < kV; ++c) dp = std::fma(p.dout.at(t, h * kV + c), kv.at(key, c), dp);
    const float delta = cpu::row_dot(&p.dout.at(t, h * kV), &p.o.at(t, h * kV), kV);
    const float prob = cpu::scalar_exp(s * shape.scale - p.lse.at(t, h));
    return std::pair(prob, (prob * (dp - delta)) * shape.scale);
  };
  for (int64_t key = 0; key < kLength; ++key) {
    for (int64_t c = 0; c < kQk; ++c) {
      float slice[2];
      for (int64_t i = 0; i < 2; ++i) {
        float dk = 0, dv = 0;
        for (int64_t h = 2 * i; h < 2 * i + 2; ++h) {
          for (int64_t t = key; t < kLength; ++t) {
            const auto [prob, ds] = gradients(h, t, key);
            dk = std::fma(ds, p.q.at(t, h * kQk + c), dk);
            if (c < kV) dv = std::fma(prob, p.dout.at(t, h * kV + c), dv);
          }
        }
        slice[i] = c < kV ? dk + dv : dk;
      }
      ASSERT_TRUE(same_bits(p.dkv_at(0, key, c), slice[0] + slice[1])) << key << " " << c;
    }
  }
  for (int64_t h = 0; h < kHeads; ++h) {
    for (int64_t t = 0; t < kLength; ++t) {
      for (int64_t c = 0; c < kQk; ++c) {
        float dq = 0;
        for (int64_t key = 0; key <= t; ++key) dq = std::fma(gradients(h, t, key).second, kv.at(key, c), dq);
        ASSERT_TRUE(same_bits(p.dq.at(t, h * kQk + c), dq)) << t << " " << c;
      }
    }
  }
}

TEST(CpuAttentionBwdInput, PartialSequencesAreRefused) {
  Problem p(test::mla_shape(2, 16, 16), {20}, 16, false);
  p.run(1);
  p.seqs[0].q_len = 19;
  EXPECT_THROW(p.run(1), Error);
}

}  // namespace
}  // namespace contender
