#include "ops/head.h"

#include <gtest/gtest.h>

#include "cuda/gemm/bf16_gemm.h"
#include "ops/head_blocks.h"
#include "ops/sampling.h"
#include "tests/cuda/products.h"
#include "tests/ref/head_ref.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceTensor;
using test::DeviceWeight;
using test::DeviceWorkspace;
using test::kEps;
using test::Matrix;
using test::same_bits;

const double kBf16Eps = test::eps_of(DType::kBF16);

Matrix rows_of(const Matrix& m, int64_t begin, int64_t end) {
  Matrix part = Matrix::poisoned(end - begin, m.cols, m.ld - m.cols);
  std::copy(m.values.begin() + begin * m.ld, m.values.begin() + end * m.ld, part.values.begin());
  return part;
}
template <class T>
std::vector<T> range_of(const std::vector<T>& v, int64_t begin, int64_t end) {
  return {v.begin() + begin, v.begin() + end};
}

// Two parts of each leaf, rows in order, none in leaf 1, every third part followed by a row that is in no
// leaf.
std::vector<RowSegment> dense_segments(int64_t rows, int32_t leaves) {
  std::vector<RowSegment> s;
  int32_t begin = 0;
  for (int32_t i = 0; i < 2 * leaves; ++i) {
    const auto last = static_cast<int32_t>(rows);
    const int32_t end = i / 2 == 1 ? begin : i + 1 == 2 * leaves ? last : begin + (last - begin) / 3;
    s.push_back({begin, end, 0, i / 2});
    begin = std::min(last, end + (i % 3 == 2 ? 1 : 0));
  }
  return s;
}

// A head with its inputs on the host; outputs of every run start poisoned.
struct Head {
  Matrix x, w;
  std::vector<int32_t> targets;
  std::vector<float> dlogp, dentropy;
  float inv_temperature = 1;

  Head(int64_t m, int64_t h, int64_t v)
      : x(test::rounded(Matrix::random(m, h, 31, h % 8 == 0 ? 8 : 3, 1.0), DType::kBF16)),
        w(test::rounded(Matrix::random(v, h, 32, 0, 1.0), DType::kBF16)),
        dlogp(test::random_values(m, 34)),
        dentropy(test::random_values(m, 35)) {
    for (int64_t r = 0; r < m; ++r)
      targets.push_back(test::random_below(static_cast<int32_t>(v), 33, static_cast<uint64_t>(r)));
  }
  Head rows(int64_t begin, int64_t end) const {
    Head part = *this;
    part.x = rows_of(x, begin, end);
    part.targets = range_of(targets, begin, end);
    part.dlogp = range_of(dlogp, begin, end);
    if (!dentropy.empty()) part.dentropy = range_of(dentropy, begin, end);
    return part;
  }

  // Statistics by `ranks` shards of `slices` slices each. `workspace`: bytes, 0: as many as asked for.
  std::vector<HeadStats> forward(int64_t ranks, int32_t slices, int64_t workspace = 0) const {
    const int64_t m = x.rows, width = w.rows / ranks;
    const DeviceTensor dx(DType::kBF16, x);
    const DeviceArray<int32_t> d_targets(targets);
    std::vector<HeadPartial> all(static_cast<size_t>(m * ranks * slices));
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const DeviceWeight shard(rows_of(w, rank * width, (rank + 1) * width), 1);
      const DeviceWorkspace space(workspace > 0 ? workspace : head_workspace_bytes(x.cols, width, slices));
      const DeviceArray<HeadPartial> partials(m * slices);
      cuda::head_partial(space.exec(), {.h = dx.tensor(),
                                        .w = shard.view,
                                        .vocab_begin = rank * width,
                                        .targets = d_targets.data(),
                                        .inv_temperature = inv_temperature,
                                        .slices = slices,
                                        .partials = partials.data()});
      const std::vector<HeadPartial> local = partials.download();
      for (int64_t r = 0; r < m; ++r)
        std::copy_n(local.begin() + r * slices, slices, all.begin() + (r * ranks + rank) * slices);
    }
    const DeviceArray<HeadPartial> partials(all);
    const DeviceArray<HeadStats> stats(m);
    cuda::head_finish({}, {.partials = partials.data(),
                           .rows = m,
                           .slices = static_cast<int32_t>(ranks * slices),
                           .stats = stats.data()});
    return stats.download();
  }

  struct Gradients {
    Matrix dh, dw;
  };
  struct Backward {
    int64_t rank = 0, ranks = 1;
    int32_t slices = 1, leaves = 1;
    DType dh = DType::kF32;
    int64_t columns = 0;  // of a round, for a smaller workspace than asked for
  };
  // dh and dw of one rank.
  Gradients backward(const std::vector<HeadStats>& stats, const std::vector<RowSegment>& segments,
                     const Backward& b) const {
    const int64_t m = x.rows, h = x.cols, width = w.rows / b.ranks;
    const DeviceWeight shard(rows_of(w, b.rank * width, (b.rank + 1) * width), 1);
    const DeviceTensor dx(DType::kBF16, x), dh(b.dh, m, h, 4), dw(DType::kF32, width, h, 4);
    const DeviceArray<int32_t> d_targets(targets);
    const DeviceArray<HeadStats> d_stats(stats);
    const DeviceArray<float> d_dlogp(dlogp), d_dentropy(dentropy);
    const DeviceArray<RowSegment> d_segments(segments);
    const DeviceWorkspace space(b.columns > 0 ? head_bwd_sum_bytes(m, h, b.slices) + 2 * m * b.columns
                                              : head_bwd_workspace_bytes(m, h, width, b.slices, b.leaves));
    cuda::head_bwd(space.exec(), {.h = dx.tensor(),
                                  .w = shard.view,
                                  .vocab_begin = b.rank * width,
                                  .targets = d_targets.data(),
                                  .inv_temperature = inv_temperature,
                                  .slices = b.slices,
                                  .stats = d_stats.data(),
                                  .dlogp = d_dlogp.data(),
                                  .dentropy = dentropy.empty() ? nullptr : d_dentropy.data(),
                                  .dh = dh.tensor(),
                                  .dw = dw.tensor(),
                                  .segments = {.data = d_segments.data(),
                                               .count = static_cast<int32_t>(segments.size()),
                                               .num_leaves = b.leaves}});
    return {dh.download(), dw.download()};
  }

  struct RefRow {
    ref::HeadRow row;
    double magnitude = 0;  // largest sum of magnitudes of a z
  };
  RefRow ref_row(int64_t r) const {
    RefRow result;
    std::vector<double> logits;
    for (int64_t j = 0; j < w.rows; ++j) {
      double sum = 0, magnitude = 0;
      for (int64_t c = 0; c < x.cols; ++c) {
        const double term = static_cast<double>(x.at(r, c)) * w.at(j, c);
        sum += term;
        magnitude += std::abs(term) * inv_temperature;
      }
      logits.push_back(sum);
      result.magnitude = std::max(result.magnitude, magnitude);
    }
    result.row = ref::head_row(logits, inv_temperature, targets[r]);
    return result;
  }
};

void expect_same(const HeadStats& a, const HeadStats& b, int64_t row) {
  EXPECT_TRUE(same_bits(a.lse, b.lse) && same_bits(a.logp, b.logp) && same_bits(a.entropy, b.entropy))
      << "row " << row << ": " << a.lse << " " << b.lse << ", " << a.logp << " " << b.logp << ", "
      << a.entropy << " " << b.entropy;
}

struct HeadCase {
  int64_t m, h, v;
  int32_t slices, leaves;
  float inv_temperature;
  DType dh = DType::kF32;
};
class CudaHead : public testing::TestWithParam<HeadCase> {};

// A z is wrong by its chain and two roundings; lse, logp and p follow, the statistics' trees add a few
// roundings. dlogits are rounded to BF16, and so is dh where it is BF16.
TEST_P(CudaHead, StatsAndGradientsAreNearDouble) {
  const HeadCase& c = GetParam();
  Head head(c.m, c.h, c.v);
  head.inv_temperature = c.inv_temperature;
  const std::vector<HeadStats> stats = head.forward(1, c.slices);
  const std::vector<RowSegment> segments = dense_segments(c.m, c.leaves);
  const Head::Gradients got =
      head.backward(stats, segments, {.slices = c.slices, .leaves = c.leaves, .dh = c.dh});
  Matrix dw = Matrix::poisoned(c.v, c.h), dw_scale = dw;
  std::fill(dw.values.begin(), dw.values.end(), 0.0f);
  dw_scale = dw;
  for (int64_t r = 0; r < c.m; ++r) {
    const auto [want, magnitude] = head.ref_row(r);
    const double z_error = test::chain_eps(c.h, 1) * magnitude + 60 * kEps * (1 + std::abs(want.lse));
    EXPECT_LE(z_error, 1e-3);
    test::expect_close(stats[r].lse, want.lse, 1, z_error, "lse", r);
    test::expect_close(stats[r].logp, want.logp, 1, 2 * z_error, "logp", r);
    test::expect_close(stats[r].entropy, want.entropy, 2 + std::abs(want.entropy), 4 * z_error, "entropy", r);
    const std::vector<double> d =
        ref::head_dlogits(want, c.inv_temperature, head.targets[r], head.dlogp[r], head.dentropy[r]);
    const bool in_leaf = std::any_of(segments.begin(), segments.end(),
                                     [&](const RowSegment& s) { return s.begin <= r && r < s.end; });
    // What an error of z does to dlogits, as a share of p.
    const double slope =
        c.inv_temperature *
        (std::abs(head.dlogp[r]) + std::abs(head.dentropy[r]) * (2 + std::abs(want.lse) + magnitude));
    std::vector<double> d_error;
    for (size_t j = 0; j < d.size(); ++j)
      d_error.push_back(std::abs(d[j]) * kBf16Eps +
                        slope * 4 * z_error * (std::exp(want.z[j] - want.lse) + kEps));
    for (int64_t k = 0; k < c.h; ++k) {
      double sum = 0, error = 0;
      for (int64_t j = 0; j < c.v; ++j) {
        sum += d[j] * head.w.at(j, k);
        error += (d_error[j] + std::abs(d[j]) * test::chain_eps(c.v, c.slices)) * std::abs(head.w.at(j, k));
        if (!in_leaf) continue;
        dw.at(j, k) += static_cast<float>(d[j] * head.x.at(r, k));
        dw_scale.at(j, k) +=
            static_cast<float>((d_error[j] + std::abs(d[j]) * (test::chain_eps(c.m, c.leaves) + 50 * kEps)) *
                               std::abs(head.x.at(r, k)));
      }
      if (c.dh == DType::kBF16) error += std::abs(sum) * kBf16Eps;
      test::expect_close(got.dh.at(r, k), sum, error, 1.01, "dh", r, k);
    }
  }
  for (int64_t j = 0; j < c.v; ++j) {
    for (int64_t k = 0; k < c.h; ++k)
      test::expect_close(got.dw.at(j, k), dw.at(j, k), dw_scale.at(j, k), 1.01, "dw", j, k);
  }
  EXPECT_TRUE(got.dh.padding_untouched() && got.dw.padding_untouched());
}
// No rows, one; one block of columns in a slice, several, tails; several row tiles.
INSTANTIATE_TEST_SUITE_P(Shapes, CudaHead,
                         testing::Values(HeadCase{0, 8, 16, 1, 1, 1.0f}, HeadCase{0, 8, 300, 1, 4, 1.0f},
                                         HeadCase{1, 32, 52, 4, 1, 0.8f}, HeadCase{7, 24, 300, 4, 8, 1.6f},
                                         HeadCase{70, 40, 272, 2, 4, 1.0f, DType::kBF16},
                                         HeadCase{5, 8, 8, 1, 1, 1.0f}, HeadCase{140, 16, 1032, 1, 64, 0.5f},
                                         HeadCase{3, 72, 2112, 4, 2, 1.0f, DType::kBF16}));

struct Drawn {
  std::vector<int32_t> token;
  std::vector<float> logp;
};
// Tokens of the logits that linear makes in F32.
Drawn draw(const Matrix& x, const DeviceWeight& w, float temperature, int32_t slices, int64_t limit) {
  const int64_t m = x.rows;
  const DeviceTensor dx(DType::kBF16, x), logits(DType::kF32, m, w.view.n, 4);
  const LinearArgs product = {.x = dx.tensor(), .w = w.view, .y = logits.tensor()};
  EXPECT_EQ(cuda::bf16_gemm_refuses(product), "") << "the head is made by other instructions";
  cuda::linear({}, product);
  const DeviceArray<SampleParams> params(
      std::vector<SampleParams>(static_cast<size_t>(m), {.temperature = temperature}));
  std::vector<SampleKey> key(static_cast<size_t>(m));
  for (int64_t r = 0; r < m; ++r) key[r] = {.seed = 7, .position = static_cast<uint32_t>(r)};
  const DeviceArray<SampleKey> keys(key);
  const DeviceArray<int32_t> token(m);
  const DeviceArray<float> logp(m), logp_sampled(m);
  cuda::sample({}, {.logits = logits.tensor(),
                    .params = params.data(),
                    .keys = keys.data(),
                    .slices = slices,
                    .vocab_limit = limit,
                    .token = token.data(),
                    .logp = logp.data(),
                    .logp_sampled = logp_sampled.data()});
  return {token.download(), logp.download()};
}

struct LogpCase {
  int64_t m, h, v, padding;  // of the vocabulary, never drawn
  float temperature;
};
class CudaHeadLogp : public testing::TestWithParam<LogpCase> {};

// The sampler's log-prob of the token that it drew, to the bit, for every cut of the vocabulary.
TEST_P(CudaHeadLogp, EqualsTheSampler) {
  const LogpCase& c = GetParam();
  Head head(c.m, c.h, c.v);
  const DeviceWeight w(head.w, 1);
  head.inv_temperature = c.temperature == 0 ? 1.0f : 1.0f / c.temperature;
  for (const int32_t slices : {1, 2, 4}) {
    const Drawn d = draw(head.x, w, c.temperature, slices, c.v - c.padding);
    head.targets = d.token;
    for (const int64_t ranks : {1, 2}) {
      if (slices % ranks != 0) continue;
      const std::vector<HeadStats> stats = head.forward(ranks, static_cast<int32_t>(slices / ranks));
      for (int64_t r = 0; r < c.m; ++r) {
        ASSERT_TRUE(0 <= d.token[r] && d.token[r] < c.v - c.padding);
        ASSERT_TRUE(same_bits(stats[r].logp, d.logp[r]))
            << "row " << r << ", slices " << slices << ": " << stats[r].logp << ", sampled " << d.logp[r];
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaHeadLogp,
                         testing::Values(LogpCase{1, 64, 52, 0, 1.0f}, LogpCase{13, 24, 1000, 0, 0.3f},
                                         LogpCase{13, 40, 1024, 24, 0.0f}, LogpCase{140, 24, 560, 3, 1.7f},
                                         LogpCase{200, 16, 96, 0, 0.7f}, LogpCase{2, 200, 4, 0, 1.0f},
                                         LogpCase{2, 8, 16'900, 0, 1.3f}));

// A row alone, or in another place, has the bits that it has among others; rows that do not fit the workspace
// go in chunks. Two blocks of columns in a slice.
TEST(CudaHeadInvariance, Rows) {
  const Head all(300, 24, 320);
  const std::vector<HeadStats> stats = all.forward(1, 2);
  const std::vector<HeadStats> chunks = all.forward(1, 2, 130 * 2 * 2 * sizeof(HeadPartial)),
                               few = all.forward(1, 2, 100 * 2 * 2 * sizeof(HeadPartial));
  for (int64_t r = 0; r < 300; ++r) expect_same(stats[r], chunks[r], r), expect_same(stats[r], few[r], r);
  const Matrix dh = all.backward(stats, {{0, 300, 0, 0}}, {.slices = 2, .dh = DType::kBF16}).dh;
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {131, 132}, {299, 300}, {57, 190}}) {
    const Head part = all.rows(begin, end);
    const std::vector<HeadStats> own = part.forward(1, 2);
    for (int64_t r = begin; r < end; ++r) expect_same(own[r - begin], stats[r], r);
    const std::vector<RowSegment> rows = {{0, static_cast<int32_t>(end - begin), 0, 0}};
    test::expect_same(part.backward(own, rows, {.slices = 2, .dh = DType::kBF16}).dh,
                      rows_of(dh, begin, end));
  }
}

// However many columns a round has: parts of slices, whole ones, all.
class CudaHeadRounds : public testing::TestWithParam<int> {};
TEST_P(CudaHeadRounds, GiveTheSameBits) {
  const auto slices = static_cast<int32_t>(GetParam());
  Head head(70, 40, 1312);
  const std::vector<HeadStats> stats = head.forward(1, slices);
  const std::vector<RowSegment> segments = dense_segments(70, 4);
  const Head::Gradients whole = head.backward(stats, segments, {.slices = slices, .leaves = 4});
  for (const int64_t columns : {128, 384, 700, 1300}) {
    const Head::Gradients got =
        head.backward(stats, segments, {.slices = slices, .leaves = 4, .columns = columns});
    test::expect_same(got.dh, whole.dh);
    test::expect_same(got.dw, whole.dw);
  }
}
INSTANTIATE_TEST_SUITE_P(Slices, CudaHeadRounds, testing::Values(1, 2, 4));

// Four slices on one rank, on two, on four: every bit, the tree of dh continued between the ranks. 272: of
// configs/nano.toml, whose slices of 68 columns begin at no multiple of 16 bytes.
TEST(CudaHeadInvariance, VocabularyShards) {
  for (const int64_t vocab : {672, 272}) {
    const Head head(66, 32, vocab);
    const std::vector<HeadStats> stats = head.forward(1, 4);
    const std::vector<RowSegment> segments = dense_segments(66, 8);
    const Head::Gradients whole = head.backward(stats, segments, {.slices = 4, .leaves = 8});
    for (const int64_t ranks : {2, 4}) {
      const auto slices = static_cast<int32_t>(4 / ranks);
      const std::vector<HeadStats> shards = head.forward(ranks, slices);
      for (int64_t r = 0; r < 66; ++r) expect_same(stats[r], shards[r], r);
      std::vector<Matrix> dh;
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const Head::Gradients part =
            head.backward(stats, segments, {.rank = rank, .ranks = ranks, .slices = slices, .leaves = 8});
        dh.push_back(part.dh);
        test::expect_same(part.dw, rows_of(whole.dw, rank * vocab / ranks, (rank + 1) * vocab / ranks));
      }
      for (size_t i = 0; i < dh[0].values.size(); ++i) {
        for (size_t step = 1; step < dh.size(); step *= 2)
          for (size_t d = 0; d < dh.size(); d += 2 * step) dh[d].values[i] += dh[d + step].values[i];
      }
      test::expect_same(dh[0], whole.dh);
    }
  }
}

// Rows without a gradient give dh = +0 and nothing to dw, even when their statistics are NaN; no dentropy is
// one of 0.
TEST(CudaHeadInvariance, RowsWithoutGradient) {
  Head head(20, 16, 136);
  std::vector<HeadStats> stats = head.forward(1, 1);
  std::fill(head.dentropy.begin(), head.dentropy.end(), 0.0f);
  head.dlogp[5] = head.dlogp[18] = head.dlogp[19] = 0;
  const Head::Gradients clean = head.backward(stats, {{0, 20, 0, 0}}, {});
  stats[18] = stats[5] = {NAN, NAN, NAN};
  head.targets[19] = -1;
  head.dentropy.clear();
  const Head::Gradients got = head.backward(stats, {{0, 20, 0, 0}}, {});
  test::expect_same(got.dh, clean.dh);
  test::expect_same(got.dw, clean.dw);
  for (const int64_t r : {5, 18, 19}) {
    for (int64_t k = 0; k < 16; ++k) EXPECT_TRUE(same_bits(got.dh.at(r, k), 0.0f)) << r << " " << k;
  }
  head.x.at(5, 2) = INFINITY;  // in no leaf, but in dh
  const Matrix dh = head.backward(stats, {{0, 5, 0, 0}, {6, 20, 0, 0}}, {}).dh;
  for (int64_t k = 0; k < 16; ++k) EXPECT_TRUE(same_bits(dh.at(5, k), 0.0f)) << k;
  head.dlogp[0] = head.dlogp[18] = 1;  // and where there is one, a NaN is not lost
  EXPECT_TRUE(std::isnan(head.backward(stats, {{0, 20, 0, 0}}, {}).dh.at(18, 0)));
}

// NaN and infinity in a row come out as NaN, of that row alone.
TEST(CudaHead, NotFinite) {
  Head head(4, 16, 160);
  const std::vector<HeadStats> clean = head.forward(1, 1);
  head.x.at(1, 3) = NAN;
  head.x.at(2, 7) = INFINITY;
  const std::vector<HeadStats> stats = head.forward(1, 1);
  EXPECT_TRUE(std::isnan(stats[1].logp) && std::isnan(stats[2].logp));
  for (const int64_t r : {0, 3}) expect_same(stats[r], clean[r], r);
}

// Enough tiles of 128 x 128 for every SM: rows have the bits that they have where tiles are small.
TEST(CudaHeadInvariance, LargeTiles) {
  int sms = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
  const int64_t side = static_cast<int64_t>(std::ceil(std::sqrt(sms))) * 128 - 40;
  for (const auto& [h, v] : {std::pair<int64_t, int64_t>{32, side}, {side, 32}}) {
    const Head all(side, h, v), part = all.rows(70, 130);
    const std::vector<HeadStats> stats(static_cast<size_t>(side), {.lse = 9, .logp = -5, .entropy = 3});
    const std::vector<RowSegment> rows = {{70, 130, 0, 0}}, own = {{0, 60, 0, 0}};
    const Head::Gradients got = all.backward(stats, rows, {.slices = 2}),
                          want = part.backward(range_of(stats, 70, 130), own, {.slices = 2});
    test::expect_same(rows_of(got.dh, 70, 130), want.dh);
    test::expect_same(got.dw, want.dw);
  }
}

// Two launches for the partials, one where a slice is one block, one to finish, three for a round; and a
// replay gives the bits of the call.
TEST(CudaHeadGraph, Launches) {
  const Head head(9, 16, 320);
  const DeviceWeight w(head.w, 1);
  const DeviceTensor x(DType::kBF16, head.x), dh(DType::kBF16, 9, 16), dw(DType::kF32, 320, 16);
  const DeviceArray<int32_t> targets(head.targets);
  const DeviceArray<float> dlogp(head.dlogp), dentropy(head.dentropy);
  const std::vector<RowSegment> rows = {{0, 9, 0, 0}};
  const DeviceArray<RowSegment> segments(rows);
  const DeviceArray<HeadPartial> partials(9 * 4);
  const DeviceArray<HeadStats> stats(9);
  const DeviceWorkspace space(head_bwd_workspace_bytes(9, 16, 320, 4, 1));
  const auto with_space = [&](Exec exec) {
    exec.workspace = space.exec().workspace;
    exec.workspace_bytes = space.exec().workspace_bytes;
    return exec;
  };
  const auto partial = [&](int32_t slices) {
    return test::Captured([&](const Exec& exec) {
      cuda::head_partial(with_space(exec), {.h = x.tensor(),
                                            .w = w.view,
                                            .targets = targets.data(),
                                            .slices = slices,
                                            .partials = partials.data()});
    });
  };
  const test::Captured one_slice = partial(1), four_slices = partial(4), finish([&](const Exec&exec) {
    cuda::head_finish(exec, {.partials = partials.data(), .rows = 9, .slices = 4, .stats = stats.data()});
  });
  const test::Captured backward([&](const Exec& exec) {
    cuda::head_bwd(with_space(exec), {.h = x.tensor(),
                                      .w = w.view,
                                      .targets = targets.data(),
                                      .slices = 4,
                                      .stats = stats.data(),
                                      .dlogp = dlogp.data(),
                                      .dentropy = dentropy.data(),
                                      .dh = dh.tensor(),
                                      .dw = dw.tensor(),
                                      .segments = {.data = segments.data(), .count = 1}});
  });
  EXPECT_EQ(one_slice.launches(), 2);
  EXPECT_EQ(four_slices.launches(), 1);
  EXPECT_EQ(finish.launches(), 1);
  EXPECT_EQ(backward.launches(), 3);
  four_slices.replay();
  finish.replay();
  backward.replay();
  const std::vector<HeadStats> want = head.forward(1, 4), got = stats.download();
  for (int64_t r = 0; r < 9; ++r) expect_same(got[r], want[r], r);
  const Head::Gradients g = head.backward(want, rows, {.slices = 4, .dh = DType::kBF16});
  for (int64_t r = 0; r < 9; ++r) {
    for (int64_t k = 0; k < 16; ++k) EXPECT_TRUE(same_bits(dh.download().at(r, k), g.dh.at(r, k)));
  }
}

TEST(CudaHeadErrors, SayWhatIsWrong) {
  const DeviceWeight w(6, 8, 36), narrow(6, 4, 36);
  const DeviceTensor x(DType::kBF16, 2, 8), x4(DType::kBF16, 2, 4), dh(DType::kF32, 2, 8),
      dw(DType::kF32, 6, 8);
  const DeviceArray<HeadPartial> partials(8);
  const DeviceArray<HeadStats> stats(2);
  const DeviceArray<int32_t> targets(2);
  const DeviceWorkspace space(head_bwd_workspace_bytes(2, 8, 6, 2, 1));
  HeadPartialArgs args = {
      .h = x.tensor(), .w = w.view, .targets = targets.data(), .slices = 4, .partials = partials.data()};
  EXPECT_THROW(cuda::head_partial(space.exec(), args), Error);  // 6 % 4
  args.slices = 2;
  args.w.format = kCpuWeights;
  EXPECT_THROW(cuda::head_partial(space.exec(), args), Error);
  args.w = w.view;
  args.h = dh.tensor();
  EXPECT_THROW(cuda::head_partial(space.exec(), args), Error);  // F32
  args.h = x4.tensor();
  args.w = narrow.view;
  EXPECT_THROW(cuda::head_partial(space.exec(), args), Error);  // hidden size 4
  const DeviceWeight wide(300, 8, 36);
  args.h = x.tensor();
  args.w = wide.view;
  EXPECT_THROW(cuda::head_partial({}, args), Error);  // no workspace
  EXPECT_THROW(
      cuda::head_finish({}, {.partials = partials.data(), .rows = 2, .slices = 3, .stats = stats.data()}),
      Error);
  HeadBwdArgs bwd = {.h = x.tensor(),
                     .w = w.view,
                     .targets = targets.data(),
                     .stats = stats.data(),
                     .dh = dh.tensor(),
                     .dw = dw.tensor()};
  EXPECT_THROW(cuda::head_bwd({}, bwd), Error);  // no workspace
  bwd.w.forward = nullptr;
  EXPECT_THROW(cuda::head_bwd(space.exec(), bwd), Error);
}

}  // namespace
}  // namespace contender
