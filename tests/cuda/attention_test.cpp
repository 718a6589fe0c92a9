#include "ops/attention.h"

#include <gtest/gtest.h>

#include <limits>
#include <ostream>

#include "cuda/ops.h"
#include "tests/cpu/attention_inputs.h"
#include "tests/cuda/device_array.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceTensor;
using test::Matrix;
using test::same_bits;

constexpr int64_t kPadding = 8;  // columns between rows, NaN

// Keys of all kv heads, then values, then unused columns.
AttentionShape gqa_shape(int64_t heads, int64_t kv_heads, int64_t d_qk, int64_t d_v) {
  AttentionShape s = test::gqa_shape(heads, kv_heads, d_qk, d_v);
  s.row_width = kv_heads * (d_qk + d_v) + 8;
  return s;
}

struct Result {
  Matrix o, lse;
};

struct Case {
  AttentionShape shape;
  std::vector<int64_t> lengths;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.shape.num_heads << " heads, " << c.shape.num_kv_heads << " kv heads, " << c.shape.d_qk << "/"
       << c.shape.d_v;
}

// Sequences of given lengths, with queries at every position: q row = sum of earlier lengths + position.
struct Batch {
  AttentionShape shape;
  std::vector<Matrix> kv;
  std::vector<int64_t> first_row;
  Matrix q;

  explicit Batch(const Case& c) : shape(c.shape) {
    int64_t total = 0;
    for (int64_t n : c.lengths) {
      kv.push_back(test::rounded(Matrix::random(n, shape.row_width, 10 + kv.size(), 0, 1.0), DType::kBF16));
      first_row.push_back(total);
      total += n;
    }
    q = test::rounded(Matrix::random(total, shape.num_heads * shape.d_qk, 5, kPadding, 1.0), DType::kBF16);
  }
  int64_t longest() const {
    int64_t n = 0;
    for (const Matrix& m : kv) n = std::max(n, m.rows);
    return n;
  }
  DeviceTensor empty_o() const { return {DType::kBF16, q.rows, shape.num_heads * shape.d_v, kPadding}; }
  DeviceTensor empty_lse() const { return {DType::kF32, q.rows, shape.num_heads, 1}; }

  // Runs queries [begin, end) of each sequence in one call, in an order of sequences and a page size of its
  // own. Cache rows of positions from `end` on, and all that belong to nobody, are NaN.
  void run(const DeviceTensor& o, const Tensor& lse, int64_t begin, int64_t end, int64_t page_size = 16,
           bool reverse = false) const {
    AttentionShape s = shape;
    s.page_size = page_size;
    const test::PagedRows cache = test::paged(kv, s.row_width, page_size, true);
    Matrix rows = Matrix::poisoned(cache.rows.rows, s.row_width, kPadding);
    std::vector<AttentionSeq> seqs;
    for (size_t i = 0; i < kv.size(); ++i) {
      const int64_t last = std::min(end, kv[i].rows);
      if (begin >= last) continue;
      for (int64_t p = 0; p < last; ++p) {
        for (int64_t c = 0; c < s.row_width; ++c) rows.at(cache.at(i, p, page_size), c) = kv[i].at(p, c);
      }
      seqs.push_back({.q_begin = static_cast<int32_t>(first_row[i] + begin),
                      .q_len = static_cast<int32_t>(last - begin),
                      .kv_len = static_cast<int32_t>(last),
                      .page_table = cache.page_table[i]});
    }
    if (reverse) std::reverse(seqs.begin(), seqs.end());
    const DeviceTensor dq(DType::kBF16, q), dkv(DType::kBF16, rows);
    const DeviceArray<AttentionSeq> dseqs(seqs);
    const DeviceArray<int32_t> pages(cache.page_ids);
    cuda::attention({}, {.shape = s,
                         .q = dq.tensor(),
                         .kv = dkv.tensor(),
                         .seqs = dseqs.data(),
                         .num_seqs = dseqs.size(),
                         .page_ids = pages.data(),
                         .o = o.tensor(),
                         .lse = lse});
    CUDA_CHECK(cudaDeviceSynchronize());
  }
  Result whole() const {
    const DeviceTensor o = empty_o(), lse = empty_lse();
    run(o, lse.tensor(), 0, longest());
    return {o.download(), lse.download()};
  }
};

class CudaAttention : public testing::TestWithParam<Case> {};

// p is rounded to BF16 before it meets v, and so is the result: one BF16 rounding of sum(p |v|) / sum(p) and
// one of o. The scores, up to about 10, are FP32 sums of d_qk exact products; tensor cores may cut where FP32
// rounds, an error of a whole ulp instead of a half one.
TEST_P(CudaAttention, MatchesDouble) {
  const Batch b(GetParam());
  const Result got = b.whole();
  const AttentionShape& s = b.shape;
  const double half = test::eps_of(DType::kBF16), single = test::kEps * 60 * static_cast<double>(s.d_qk + 40);
  for (size_t i = 0; i < b.kv.size(); ++i) {
    for (int64_t h = 0; h < s.num_heads; ++h) {
      const int64_t g = h / (s.num_heads / s.num_kv_heads), n = b.kv[i].rows;
      const ref::Rows q = test::columns(b.q, b.first_row[i], n, h * s.d_qk, s.d_qk);
      const ref::Rows k = test::columns(b.kv[i], 0, n, g * s.k_stride, s.d_qk);
      ref::Rows v = test::columns(b.kv[i], 0, n, s.v_offset + g * s.v_stride, s.d_v);
      const ref::AttentionHead want = ref::attention(q, k, v, s.scale);
      for (auto& row : v) {
        for (double& x : row) x = std::abs(x);
      }
      const ref::AttentionHead size = ref::attention(q, k, v, s.scale);
      for (int64_t t = 0; t < n; ++t) {
        const int64_t row = b.first_row[i] + t;
        test::expect_close(got.lse.at(row, h), want.lse[t], 1 + std::abs(want.lse[t]), single, "lse", t, h);
        for (int64_t c = 0; c < s.d_v; ++c) {
          const double error = half * std::abs(want.o[t][c]) + (half + 2 * single) * size.o[t][c];
          test::expect_close(got.o.at(row, h * s.d_v + c), want.o[t][c], error, 1.0, "o", t, h * s.d_v + c);
        }
      }
    }
  }
  EXPECT_TRUE(got.o.padding_untouched() && got.lse.padding_untouched());
}

// Prefill of everything, one token at a time, and uneven chunks, with other page sizes and neighbours: the
// same bits.
TEST_P(CudaAttention, AnySplitGivesTheSameBits) {
  const Batch b(GetParam());
  const Result whole = b.whole();
  for (int64_t chunk : {1, 5, 21}) {
    const DeviceTensor o = b.empty_o(), lse = b.empty_lse();
    int64_t step = 0;
    for (int64_t begin = 0; begin < b.longest(); begin += chunk, ++step)
      b.run(o, lse.tensor(), begin, begin + chunk, step % 2 ? 48 : 16, step % 3 == 1);
    EXPECT_TRUE(same_bits(o.download().values, whole.o.values)) << "chunks of " << chunk;
    EXPECT_TRUE(same_bits(lse.download().values, whole.lse.values)) << "chunks of " << chunk;
  }
}

// A key that a query does not see leaves no trace in it, whatever it holds.
TEST_P(CudaAttention, MaskedKeysContributeNothing) {
  Batch b(GetParam());
  const Result clean = b.whole();
  for (Matrix& kv : b.kv) {
    for (int64_t c = 0; c < kv.cols; ++c)
      kv.at(kv.rows - 1, c) = c % 2 ? std::numeric_limits<float>::infinity() : std::nanf("");
  }
  const Result dirty = b.whole();
  for (size_t i = 0; i < b.kv.size(); ++i) {
    const int64_t last = b.first_row[i] + b.kv[i].rows - 1;
    for (int64_t t = b.first_row[i]; t < last; ++t) {
      for (int64_t c = 0; c < clean.o.cols; ++c)
        ASSERT_TRUE(same_bits(clean.o.at(t, c), dirty.o.at(t, c))) << t << " " << c;
      for (int64_t h = 0; h < clean.lse.cols; ++h)
        ASSERT_TRUE(same_bits(clean.lse.at(t, h), dirty.lse.at(t, h))) << t << " " << h;
    }
    EXPECT_TRUE(std::isnan(dirty.o.at(last, 0)));
  }
}

TEST_P(CudaAttention, LseIsOptional) {
  const Batch b(GetParam());
  const Result want = b.whole();
  const DeviceTensor o = b.empty_o();
  b.run(o, {}, 0, b.longest());
  EXPECT_TRUE(same_bits(o.download().values, want.o.values));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaAttention,
    testing::Values(Case{test::mla_shape(4, 48, 32), {20, 1, 37}}, Case{test::mla_shape(20, 24, 16), {33}},
                    Case{test::mla_shape(3, 88, 72), {18, 5}}, Case{test::mla_shape(16, 576, 512), {21}},
                    Case{gqa_shape(2, 2, 192, 128), {23, 2}}, Case{gqa_shape(8, 2, 64, 64), {35, 16}},
                    Case{gqa_shape(1, 1, 128, 128), {131}}, Case{gqa_shape(4, 4, 32, 16), {9, 24}},
                    Case{gqa_shape(4, 2, 16, 16), {24, 3}}, Case{gqa_shape(4, 2, 32, 32), {17, 1}},
                    Case{gqa_shape(2, 1, 8, 8), {18}}));

// More sequences than a warp finds at once; a query head's result does not depend on which others are there.
TEST(CudaAttentionBatch, ManySequencesAndSomeHeads) {
  Case c = {test::mla_shape(5, 48, 32), {}};
  for (int64_t i = 0; i < 70; ++i) c.lengths.push_back(1 + i * 7 % 13);
  Batch b(c);
  const Result all = b.whole();
  const Matrix q = b.q;
  b.shape.num_heads = 1;
  b.q = Matrix::poisoned(q.rows, b.shape.d_qk, kPadding);
  for (int64_t t = 0; t < q.rows; ++t) {
    for (int64_t d = 0; d < b.shape.d_qk; ++d) b.q.at(t, d) = q.at(t, 3 * b.shape.d_qk + d);
  }
  const Result one = b.whole();
  for (int64_t t = 0; t < q.rows; ++t) {
    for (int64_t d = 0; d < b.shape.d_v; ++d)
      ASSERT_TRUE(same_bits(one.o.at(t, d), all.o.at(t, 3 * b.shape.d_v + d))) << t << " " << d;
  }
}

// What fills up a batch of decoding: sequences of one token that share a page of zeros. Their results are
// zeros, and their neighbours do not notice.
TEST(CudaAttentionBatch, PaddingReadsAPageOfZeros) {
  const AttentionShape shape = test::mla_shape(4, 48, 32);
  const Matrix q = test::rounded(Matrix::random(5, 4 * 48, 30, kPadding, 1.0), DType::kBF16);
  Matrix rows = test::rounded(Matrix::random(32, 48, 31, kPadding, 1.0), DType::kBF16);
  for (int64_t r = 0; r < 16; ++r) std::fill_n(&rows.at(r, 0), 48, 0.0f);
  const DeviceTensor dq(DType::kBF16, q), dkv(DType::kBF16, rows);
  const DeviceArray<int32_t> pages(std::vector<int32_t>{0, 1});
  const auto run = [&](const std::vector<AttentionSeq>& seqs) {
    const DeviceTensor o(DType::kBF16, 5, 4 * 32, kPadding), lse(DType::kF32, 5, 4);
    const DeviceArray<AttentionSeq> dseqs(seqs);
    cuda::attention({}, {.shape = shape,
                         .q = dq.tensor(),
                         .kv = dkv.tensor(),
                         .seqs = dseqs.data(),
                         .num_seqs = dseqs.size(),
                         .page_ids = pages.data(),
                         .o = o.tensor(),
                         .lse = lse.tensor()});
    return Result{o.download(), lse.download()};
  };
  const AttentionSeq real = {.q_begin = 1, .q_len = 1, .kv_len = 9, .page_table = 1};
  std::vector<AttentionSeq> all;
  for (int32_t t = 0; t < 5; ++t) all.push_back({.q_begin = t, .q_len = 1, .kv_len = 1, .page_table = 0});
  all[1] = real;
  const Result alone = run({real}), padded = run(all);
  for (int64_t t = 0; t < 5; ++t) {
    for (int64_t c = 0; c < padded.o.cols; ++c)
      ASSERT_TRUE(same_bits(padded.o.at(t, c), t == 1 ? alone.o.at(t, c) : 0.0f)) << t << " " << c;
    for (int64_t h = 0; h < 4; ++h)
      ASSERT_TRUE(same_bits(padded.lse.at(t, h), t == 1 ? alone.lse.at(t, h) : 0.0f)) << t << " " << h;
  }
}

TEST(CudaAttentionInput, NoSequences) {
  const Batch b({test::mla_shape(2, 16, 16), {}});
  const DeviceTensor o = b.empty_o();
  EXPECT_NO_THROW(b.run(o, {}, 0, 1));
}

TEST(CudaAttentionInput, BadInputIsRefused) {
  Batch b({test::mla_shape(2, 16, 16), {20}});
  const DeviceTensor o = b.empty_o(), lse = b.empty_lse();
  EXPECT_THROW(b.run(o, lse.tensor(), 0, 20, 24), Error);  // page size
  EXPECT_THROW(b.run(o, o.tensor(), 0, 20), Error);        // lse of the wrong type
  const Batch odd({test::mla_shape(2, 20, 16), {20}});
  EXPECT_THROW(odd.run(odd.empty_o(), lse.tensor(), 0, 20), Error);
  const Batch wide({test::mla_shape(1, 528, 520), {20}});
  EXPECT_THROW(wide.run(wide.empty_o(), {}, 0, 20), Error);
}

}  // namespace
}  // namespace contender
