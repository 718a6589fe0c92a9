#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>

#include "cuda/ops.h"
#include "ops/attention.h"
#include "tests/cpu/attention_inputs.h"
#include "tests/cuda/device_array.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceTensor;
using test::DeviceWorkspace;
using test::Matrix;
using test::same_bits;

constexpr int64_t kPadding = 8;  // columns between rows, NaN

struct Case {
  AttentionShape shape;
  std::vector<int64_t> lengths;
  int32_t head_slices;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.shape.num_heads << " heads, " << c.shape.num_kv_heads << " kv heads, " << c.shape.d_qk << "/"
       << c.shape.d_v << ", " << c.head_slices << " slices";
}

// Keys of all kv heads, then values, then unused columns.
AttentionShape gqa_shape(int64_t heads, int64_t kv_heads, int64_t d_qk, int64_t d_v) {
  AttentionShape s = test::gqa_shape(heads, kv_heads, d_qk, d_v);
  s.row_width = kv_heads * (d_qk + d_v) + 8;
  return s;
}

Matrix random_bf16(int64_t rows, int64_t cols, uint64_t seed, int64_t padding) {
  return test::rounded(Matrix::random(rows, cols, seed, padding, 1.0), DType::kBF16);
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
      kv_dense.push_back(random_bf16(n, s.row_width, 20 + kv_dense.size(), 0));
      seqs.push_back({.q_begin = static_cast<int32_t>(total),
                      .q_len = static_cast<int32_t>(n),
                      .kv_len = static_cast<int32_t>(n)});
      total += n;
    }
    cache = test::paged(kv_dense, s.row_width, page_size, shuffle);
    for (size_t i = 0; i < seqs.size(); ++i) seqs[i].page_table = cache.page_table[i];
    q = random_bf16(total, s.num_heads * s.d_qk, 6, kPadding);
    dout = random_bf16(total, s.num_heads * s.d_v, 7, kPadding);
  }
  // Room for `blocks` blocks, each with the open terms of the tree.
  void run(int32_t head_slices, int64_t blocks = 3, DType dkv_type = DType::kF32) {
    Matrix rows = Matrix::poisoned(cache.rows.rows, shape.row_width, kPadding);
    for (int64_t r = 0; r < rows.rows; ++r) std::copy_n(&cache.rows.at(r, 0), rows.cols, &rows.at(r, 0));
    const DeviceTensor dev_q(DType::kBF16, q), dev_kv(DType::kBF16, rows), dev_dout(DType::kBF16, dout);
    const DeviceTensor dev_o(DType::kBF16, q.rows, dout.cols, kPadding),
        dev_lse(DType::kF32, q.rows, shape.num_heads);
    const DeviceTensor dev_dq(DType::kBF16, q.rows, q.cols, kPadding),
        dev_dkv(dkv_type, rows.rows, rows.cols, 1);
    const DeviceArray<AttentionSeq> dev_seqs(seqs);
    const DeviceArray<int32_t> pages(cache.page_ids);
    cuda::attention({}, {.shape = shape,
                         .q = dev_q.tensor(),
                         .kv = dev_kv.tensor(),
                         .seqs = dev_seqs.data(),
                         .num_seqs = dev_seqs.size(),
                         .page_ids = pages.data(),
                         .o = dev_o.tensor(),
                         .lse = dev_lse.tensor()});
    int64_t levels = 0;
    while (1 << levels < head_slices) ++levels;
    const DeviceWorkspace workspace(blocks * levels * 16 * shape.row_width * 4);
    cuda::attention_bwd(workspace.exec(), {.shape = shape,
                                           .q = dev_q.tensor(),
                                           .kv = dev_kv.tensor(),
                                           .seqs = dev_seqs.data(),
                                           .num_seqs = dev_seqs.size(),
                                           .page_ids = pages.data(),
                                           .o = dev_o.tensor(),
                                           .lse = dev_lse.tensor(),
                                           .dout = dev_dout.tensor(),
                                           .dq = dev_dq.tensor(),
                                           .dkv = dev_dkv.tensor(),
                                           .head_slices = head_slices});
    o = dev_o.download();
    lse = dev_lse.download();
    dq = dev_dq.download();
    dkv = dev_dkv.download();
  }
  float dkv_at(size_t seq, int64_t position, int64_t c) const {
    return dkv.at(cache.at(seq, position, shape.page_size), c);
  }
};

// The gradients of one sequence in double, each with a bound of the error of the kernels: p and ds are
// rounded to BF16 before they are multiplied, and the FP32 sums may cut instead of round. o is an input here,
// rounded as it is: the forward's test bounds its error.
struct Gradient {
  double value = 0, error = 0;
  void add(double w, double w_error, double x) {
    value += w * x;
    error += w_error * std::abs(x);
  }
};
struct Gradients {
  std::vector<std::vector<Gradient>> dq, dkv;
};

Gradients reference(const Problem& p, size_t seq) {
  const AttentionShape& s = p.shape;
  const int64_t n = p.seqs[seq].q_len, row0 = p.seqs[seq].q_begin;
  const double half = test::eps_of(DType::kBF16), single = test::kEps * 60 * static_cast<double>(s.d_qk + 40);
  const Matrix& kv = p.kv_dense[seq];
  Gradients g;
  g.dq.assign(static_cast<size_t>(n), std::vector<Gradient>(static_cast<size_t>(p.q.cols)));
  g.dkv.assign(static_cast<size_t>(n), std::vector<Gradient>(static_cast<size_t>(s.row_width)));
  for (int64_t h = 0; h < s.num_heads; ++h) {
    const int64_t kv_head = h / (s.num_heads / s.num_kv_heads), kc = kv_head * s.k_stride,
                  vc = s.v_offset + kv_head * s.v_stride;
    const ref::AttentionHead fwd =
        ref::attention(test::columns(p.q, row0, n, h * s.d_qk, s.d_qk), test::columns(kv, 0, n, kc, s.d_qk),
                       test::columns(kv, 0, n, vc, s.d_v), s.scale);
    for (int64_t t = 0; t < n; ++t) {
      const float* q = p.q.values.data() + (row0 + t) * p.q.ld + h * s.d_qk;
      const float* dout = p.dout.values.data() + (row0 + t) * p.dout.ld + h * s.d_v;
      double delta = 0, delta_size = 0;
      for (int64_t c = 0; c < s.d_v; ++c) {
        const double x = double{dout[c]} * p.o.at(row0 + t, h * s.d_v + c);
        delta += x;
        delta_size += std::abs(x);
      }
      for (int64_t key = 0; key <= t; ++key) {
        double score = 0, dp = 0, dp_size = 0;
        for (int64_t c = 0; c < s.d_qk; ++c) score += double{q[c]} * kv.at(key, kc + c);
        for (int64_t c = 0; c < s.d_v; ++c) {
          dp += double{dout[c]} * kv.at(key, vc + c);
          dp_size += std::abs(double{dout[c]} * kv.at(key, vc + c));
        }
        const double prob = std::exp(score * s.scale - fwd.lse[t]), ds = prob * (dp - delta) * s.scale;
        const double ds_error = half * std::abs(ds) + prob * s.scale * single * (dp_size + delta_size);
        for (int64_t c = 0; c < s.d_qk; ++c) {
          g.dq[t][h * s.d_qk + c].add(ds, ds_error, kv.at(key, kc + c));
          g.dkv[key][kc + c].add(ds, ds_error, q[c]);
        }
        for (int64_t c = 0; c < s.d_v; ++c) g.dkv[key][vc + c].add(prob, (half + 2 * single) * prob, dout[c]);
      }
    }
  }
  return g;
}

class CudaAttentionBwd : public testing::TestWithParam<Case> {};

TEST_P(CudaAttentionBwd, MatchesDouble) {
  const Case& param = GetParam();
  Problem p(param.shape, param.lengths, 16, true);
  p.run(param.head_slices);
  const double half = test::eps_of(DType::kBF16);
  for (size_t i = 0; i < p.seqs.size(); ++i) {
    const Gradients want = reference(p, i);
    for (int64_t t = 0; t < p.seqs[i].q_len; ++t) {
      for (int64_t c = 0; c < p.q.cols; ++c) {
        const Gradient& g = want.dq[t][c];
        test::expect_close(p.dq.at(p.seqs[i].q_begin + t, c), g.value, g.error + half * std::abs(g.value),
                           1.01, "dq", t, c);
      }
      for (int64_t c = 0; c < p.shape.row_width; ++c) {
        const Gradient& g = want.dkv[t][c];
        test::expect_close(p.dkv_at(i, t, c), g.value, g.error, 1.01, "dkv", t, c);
      }
    }
  }
  EXPECT_TRUE(p.dq.padding_untouched() && p.dkv.padding_untouched());
}

// Every row of a sequence is written, all columns, and no other row.
TEST_P(CudaAttentionBwd, OverwritesExactlyItsRows) {
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

// Pages, their order, the neighbours and the number of blocks change no bit.
TEST_P(CudaAttentionBwd, PlacementDoesNotMatter) {
  const Case& param = GetParam();
  Problem all(param.shape, param.lengths, 16, true);
  all.run(param.head_slices);
  Problem other(param.shape, param.lengths, 48, false);
  std::reverse(other.seqs.begin(), other.seqs.end());
  other.run(param.head_slices, 1);
  EXPECT_TRUE(same_bits(all.dq.values, other.dq.values));
  Problem half(param.shape, param.lengths, 16, true);
  half.run(param.head_slices, 2, DType::kBF16);
  for (size_t i = 0; i < all.seqs.size(); ++i) {
    for (int64_t t = 0; t < all.seqs[i].kv_len; ++t) {
      for (int64_t c = 0; c < param.shape.row_width; ++c) {
        ASSERT_TRUE(same_bits(all.dkv_at(i, t, c), other.dkv_at(i, t, c))) << t << " " << c;
        ASSERT_TRUE(same_bits(test::rounded(all.dkv_at(i, t, c), DType::kBF16), half.dkv_at(i, t, c)));
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaAttentionBwd,
    testing::Values(Case{test::mla_shape(4, 48, 32), {20, 1, 37, 70}, 4},
                    Case{test::mla_shape(6, 24, 16), {19}, 2}, Case{test::mla_shape(3, 88, 72), {18, 5}, 1},
                    Case{test::mla_shape(2, 576, 512), {9, 17}, 2}, Case{gqa_shape(8, 2, 64, 64), {35, 9}, 1},
                    Case{gqa_shape(2, 2, 192, 128), {23}, 1}, Case{gqa_shape(1, 1, 128, 128), {67, 2}, 1},
                    Case{gqa_shape(4, 4, 32, 16), {9, 24}, 1}, Case{gqa_shape(4, 2, 16, 16), {24, 3}, 4},
                    Case{gqa_shape(4, 2, 32, 32), {17, 1}, 4}, Case{gqa_shape(1, 1, 32, 16), {20}, 4}));

// Heads sharded over ranks: the tree over the results of calls with one slice's heads each is the whole's
// result, bit for bit.
TEST(CudaAttentionBwdShards, SlicesComposeAcrossRanks) {
  constexpr int32_t kSlices = 4;
  const AttentionShape shape = test::mla_shape(8, 48, 32);
  Problem whole(shape, {37, 20}, 16, true);
  whole.run(kSlices);
  std::vector<Problem> parts;
  for (int rank = 0; rank < 2; ++rank) {
    AttentionShape local = shape;
    local.num_heads = shape.num_heads / 2;
    Problem p(local, {37, 20}, 16, true);
    const int64_t head0 = rank * local.num_heads;
    for (int64_t t = 0; t < whole.q.rows; ++t) {
      for (int64_t c = 0; c < p.q.cols; ++c) p.q.at(t, c) = whole.q.at(t, head0 * shape.d_qk + c);
      for (int64_t c = 0; c < p.dout.cols; ++c) p.dout.at(t, c) = whole.dout.at(t, head0 * shape.d_v + c);
    }
    p.run(kSlices / 2);
    for (int64_t t = 0; t < whole.q.rows; ++t) {
      for (int64_t c = 0; c < p.q.cols; ++c)
        ASSERT_TRUE(same_bits(p.dq.at(t, c), whole.dq.at(t, head0 * shape.d_qk + c))) << t << " " << c;
    }
    parts.push_back(std::move(p));
  }
  for (size_t i = 0; i < whole.seqs.size(); ++i) {
    for (int64_t t = 0; t < whole.seqs[i].kv_len; ++t) {
      for (int64_t c = 0; c < shape.row_width; ++c)
        ASSERT_TRUE(same_bits(whole.dkv_at(i, t, c), parts[0].dkv_at(i, t, c) + parts[1].dkv_at(i, t, c)))
            << i << " " << t << " " << c;
    }
  }
}

// The stated workspace has room for a block, however short the sequences are.
TEST(CudaAttentionBwdInput, ShortSequencesFitTheWorkspace) {
  for (int64_t length : {1, 2, 3, 15, 17}) {
    for (int32_t slices : {2, 8}) {
      Problem p(test::mla_shape(8, 48, 32), {length, 1}, 16, true);
      const int64_t bytes = attention_bwd_workspace_bytes(p.shape, length, slices);
      const int64_t block_bytes = (slices == 2 ? 1 : 3) * 16 * p.shape.row_width * int64_t{sizeof(float)};
      EXPECT_NO_THROW(p.run(slices, bytes / block_bytes)) << length;
    }
  }
}

TEST(CudaAttentionBwdInput, BadInputIsRefused) {
  Problem p(test::mla_shape(6, 48, 32), {20}, 16, true);
  EXPECT_THROW(p.run(4), Error);     // 6 heads in 4 slices
  EXPECT_THROW(p.run(2, 0), Error);  // no room for one block
  Problem none(test::mla_shape(2, 16, 16), {}, 16, true);
  EXPECT_NO_THROW(none.run(1));
}

}  // namespace
}  // namespace contender
