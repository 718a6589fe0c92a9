#include "ops/head.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "tests/cpu/op_inputs.h"
#include "tests/ref/head_ref.h"
#include "tests/ref/row_sum_ref.h"

namespace contender {
namespace {

using test::kEps;
using test::Matrix;
using test::same_bits;
using test::Workspace;

// A head with its inputs and every output, poisoned.
struct Head {
  int64_t m, h, v;
  Matrix x, w;
  std::vector<int32_t> targets;
  std::vector<float> dlogp, dentropy;
  std::vector<HeadStats> stats;
  Matrix dh, dw;

  Head(int64_t m, int64_t h, int64_t v)
      : m(m),
        h(h),
        v(v),
        x(Matrix::random(m, h, 31, 2, 1.0)),
        w(Matrix::random(v, h, 32, 0, 1.0)),
        stats(static_cast<size_t>(m)) {
    for (int64_t r = 0; r < m; ++r)
      targets.push_back(test::random_below(static_cast<int32_t>(v), 33, static_cast<uint64_t>(r)));
    dlogp = test::random_values(m, 34);
    dentropy = test::random_values(m, 35);
  }

  // Rows [begin, end) of the vocabulary as a rank holds them.
  struct Shard {
    Workspace forward, backward;
    WeightView view;
    Shard(Head& head, int64_t begin, int64_t end)
        : forward(packed_forward_bytes(end - begin, head.h)),
          backward(packed_backward_bytes(end - begin, head.h)) {
      view = {.forward = forward.exec().workspace,
              .backward = backward.exec().workspace,
              .n = end - begin,
              .k = head.h,
              .num_groups = 1};
      cpu::pack_weight({}, {.master = head.w.tensor().row_range(begin, end),
                            .forward = forward.exec().workspace,
                            .backward = backward.exec().workspace,
                            .n = end - begin,
                            .k = head.h,
                            .num_groups = 1});
    }
  };

  // Statistics by `ranks` shards of `slices` slices each.
  std::vector<HeadStats> forward(int64_t ranks, int32_t slices, float inv_temperature) {
    const int64_t width = v / ranks;
    std::vector<HeadPartial> all(static_cast<size_t>(m * ranks * slices)),
        local(static_cast<size_t>(m * slices));
    for (int64_t rank = 0; rank < ranks; ++rank) {
      Shard shard(*this, rank * width, (rank + 1) * width);
      Workspace workspace(head_workspace_bytes(h, width, slices));
      cpu::head_partial(workspace.exec(), {.h = x.tensor(),
                                           .w = shard.view,
                                           .vocab_begin = rank * width,
                                           .targets = targets.data(),
                                           .inv_temperature = inv_temperature,
                                           .slices = slices,
                                           .partials = local.data()});
      for (int64_t r = 0; r < m; ++r)
        std::copy_n(&local[r * slices], slices, &all[(r * ranks + rank) * slices]);
    }
    std::vector<HeadStats> result(static_cast<size_t>(m));
    cpu::head_finish({}, {.partials = all.data(),
                          .rows = m,
                          .slices = static_cast<int32_t>(ranks * slices),
                          .stats = result.data()});
    return result;
  }
  // dh summed over the shards' trees, dw row by row.
  void backward(int64_t ranks, int32_t slices, float inv_temperature, const RowSegments& segments) {
    const int64_t width = v / ranks;
    dw = Matrix::poisoned(v, h, 1);
    std::vector<Matrix> part;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      Shard shard(*this, rank * width, (rank + 1) * width);
      Workspace workspace(head_bwd_workspace_bytes(m, h, width, slices, segments.num_leaves));
      part.push_back(Matrix::poisoned(m, h, 3));
      cpu::head_bwd(workspace.exec(), {.h = x.tensor(),
                                       .w = shard.view,
                                       .vocab_begin = rank * width,
                                       .targets = targets.data(),
                                       .inv_temperature = inv_temperature,
                                       .slices = slices,
                                       .stats = stats.data(),
                                       .dlogp = dlogp.data(),
                                       .dentropy = dentropy.empty() ? nullptr : dentropy.data(),
                                       .dh = part.back().tensor(),
                                       .dw = dw.tensor().row_range(rank * width, (rank + 1) * width),
                                       .segments = segments});
    }
    dh = part[0];
    ASSERT_LE(ranks, 2);
    if (ranks == 1) return;
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < h; ++c) dh.at(r, c) = part[0].at(r, c) + part[1].at(r, c);
    }
  }
  ref::HeadRow ref_row(int64_t r, double inv_temperature) const {
    std::vector<double> logits;
    for (int64_t j = 0; j < v; ++j) {
      double sum = 0;
      for (int64_t c = 0; c < h; ++c) sum += static_cast<double>(x.at(r, c)) * w.at(j, c);
      logits.push_back(sum);
    }
    return ref::head_row(logits, inv_temperature, targets[r]);
  }
};

RowSegments as_segments(const std::vector<RowSegment>& list, int32_t leaves) {
  return {.data = list.data(), .count = static_cast<int32_t>(list.size()), .num_leaves = leaves};
}

class CpuHead : public testing::TestWithParam<std::tuple<int, int, int, int, float>> {};

// The logits are sums of h terms of size about 1; the softmax turns their absolute error into a relative one.
TEST_P(CpuHead, StatsAndGradientsAreNearDouble) {
  const auto [m, h, v, slices, inv_temperature] = GetParam();
  Head head(m, h, v);
  head.stats = head.forward(1, slices, inv_temperature);
  const std::vector<RowSegment> list = ref::test_segments(m, 4);
  head.backward(1, slices, inv_temperature, as_segments(list, 4));

  const double eps = 64 * kEps * (1 + inv_temperature) * (1 + h);
  std::vector<double> dw(static_cast<size_t>(v * h)), dw_scale(dw.size());
  for (int64_t r = 0; r < m; ++r) {
    const ref::HeadRow want = head.ref_row(r, inv_temperature);
    const double scale = 1 + std::abs(want.lse) + std::abs(want.logp);
    test::expect_close(head.stats[r].lse, want.lse, scale, eps, "lse", r);
    test::expect_close(head.stats[r].logp, want.logp, scale, eps, "logp", r);
    test::expect_close(head.stats[r].entropy, want.entropy, scale, eps, "entropy", r);
    const std::vector<double> d =
        ref::head_dlogits(want, inv_temperature, head.targets[r], head.dlogp[r], head.dentropy[r]);
    const bool in_leaf =
        std::any_of(list.begin(), list.end(), [&](const RowSegment& s) { return s.begin <= r && r < s.end; });
    const double d_scale = inv_temperature * (std::abs(head.dlogp[r]) + std::abs(head.dentropy[r]) * scale);
    for (int64_t c = 0; c < h; ++c) {
      double sum = 0, magnitude = 0;
      for (int64_t j = 0; j < v; ++j) {
        sum += d[j] * head.w.at(j, c);
        magnitude += std::abs(d[j] * head.w.at(j, c));
        if (!in_leaf) continue;
        dw[j * h + c] += d[j] * head.x.at(r, c);
        dw_scale[j * h + c] += d_scale * std::abs(head.x.at(r, c));
      }
      test::expect_close(head.dh.at(r, c), sum, magnitude + d_scale, eps, "dh", r, c);
    }
  }
  for (int64_t j = 0; j < v; ++j) {
    for (int64_t c = 0; c < h; ++c)
      test::expect_close(head.dw.at(j, c), dw[j * h + c], dw_scale[j * h + c], eps, "dw", j, c);
  }
  EXPECT_TRUE(head.dh.padding_untouched() && head.dw.padding_untouched());
}
INSTANTIATE_TEST_SUITE_P(Shapes, CpuHead,
                         testing::Combine(testing::Values(1, 7, 40), testing::Values(1, 24, 33),
                                          testing::Values(8, 52, 300), testing::Values(1, 4),
                                          testing::Values(1.0f, 1.0f / 0.6f)));
// No rows; more rows than a chunk; a vocabulary longer than a block of dw.
INSTANTIATE_TEST_SUITE_P(Edges, CpuHead,
                         testing::Values(std::tuple{0, 8, 16, 1, 1.0f}, std::tuple{300, 16, 20, 2, 1.0f},
                                         std::tuple{130, 8, 530, 1, 1.0f}));

// dL = sum(dlogp * logp + dentropy * entropy), L by the double reference at moved weights and inputs.
TEST(CpuHeadGradient, FiniteDifferences) {
  Head head(3, 5, 12);
  constexpr float kInvTemperature = 0.8f;
  head.stats = head.forward(1, 2, kInvTemperature);
  const std::vector<RowSegment> list = {{0, 3, 0, 0}};
  head.backward(1, 2, kInvTemperature, as_segments(list, 1));
  const auto loss = [&] {
    double sum = 0;
    for (int64_t r = 0; r < head.m; ++r) {
      const ref::HeadRow row = head.ref_row(r, kInvTemperature);
      sum +=
          static_cast<double>(head.dlogp[r]) * row.logp + static_cast<double>(head.dentropy[r]) * row.entropy;
    }
    return sum;
  };
  const auto slope = [&](float& value) {
    const float old = value;
    value = old + 1e-2f;
    const double high = loss(), step_high = value;
    value = old - 1e-2f;
    const double low = loss(), step_low = value;
    value = old;
    return (high - low) / (step_high - step_low);
  };
  for (int64_t c = 0; c < head.h; ++c) {
    for (int64_t r = 0; r < head.m; ++r) EXPECT_NEAR(head.dh.at(r, c), slope(head.x.at(r, c)), 1e-3);
    for (int64_t j = 0; j < head.v; ++j) EXPECT_NEAR(head.dw.at(j, c), slope(head.w.at(j, c)), 1e-3);
  }
}

// Two ranks with two slices each, or one with four: every bit.
TEST(CpuHeadInvariance, VocabularyShards) {
  Head one(150, 20, 88), two(150, 20, 88);
  one.stats = one.forward(1, 4, 0.9f);
  two.stats = two.forward(2, 2, 0.9f);
  for (int64_t r = 0; r < one.m; ++r) {
    ASSERT_TRUE(same_bits(one.stats[r].logp, two.stats[r].logp) &&
                same_bits(one.stats[r].entropy, two.stats[r].entropy) &&
                same_bits(one.stats[r].lse, two.stats[r].lse));
  }
  const std::vector<RowSegment> list = ref::test_segments(150, 8);
  one.backward(1, 4, 0.9f, as_segments(list, 8));
  two.backward(2, 2, 0.9f, as_segments(list, 8));
  for (int64_t c = 0; c < one.h; ++c) {
    for (int64_t r = 0; r < one.m; ++r)
      ASSERT_TRUE(same_bits(one.dh.at(r, c), two.dh.at(r, c))) << r << " " << c;
    for (int64_t j = 0; j < one.v; ++j)
      ASSERT_TRUE(same_bits(one.dw.at(j, c), two.dw.at(j, c))) << j << " " << c;
  }
}

// A row's statistics and dh do not depend on the rows beside it, and dw of a leaf not on how its rows fall
// into chunks.
TEST(CpuHeadInvariance, RowsAndLeaves) {
  Head all(290, 12, 40);
  all.stats = all.forward(1, 1, 1.0f);
  const std::vector<RowSegment> whole = {{0, 131, 0, 0}, {131, 290, 0, 1}};
  all.backward(1, 1, 1.0f, as_segments(whole, 2));
  Matrix sum = Matrix::poisoned(all.v, all.h);
  for (const auto& [begin, end] : {std::pair<int32_t, int32_t>{0, 131}, {131, 290}}) {
    Head part(end - begin, 12, 40);
    for (int32_t r = begin; r < end; ++r) {
      std::copy_n(&all.x.at(r, 0), all.h, &part.x.at(r - begin, 0));
      part.targets[r - begin] = all.targets[r];
      part.dlogp[r - begin] = all.dlogp[r];
      part.dentropy[r - begin] = all.dentropy[r];
    }
    part.stats = part.forward(1, 1, 1.0f);
    const std::vector<RowSegment> list = {{0, end - begin, 0, 0}};
    part.backward(1, 1, 1.0f, as_segments(list, 1));
    for (int32_t r = begin; r < end; ++r) {
      ASSERT_TRUE(same_bits(part.stats[r - begin].logp, all.stats[r].logp));
      for (int64_t c = 0; c < all.h; ++c) ASSERT_TRUE(same_bits(part.dh.at(r - begin, c), all.dh.at(r, c)));
    }
    for (int64_t j = 0; j < all.v; ++j) {
      for (int64_t c = 0; c < all.h; ++c)
        sum.at(j, c) = begin == 0 ? part.dw.at(j, c) : sum.at(j, c) + part.dw.at(j, c);
    }
  }
  for (int64_t j = 0; j < all.v; ++j) {
    for (int64_t c = 0; c < all.h; ++c)
      ASSERT_TRUE(same_bits(sum.at(j, c), all.dw.at(j, c))) << j << " " << c;
  }
}

// Rows without a gradient give dh = +0 and leave dw as if they were not there, even when their statistics are
// NaN.
TEST(CpuHeadInvariance, RowsWithoutGradient) {
  Head head(20, 9, 24);
  head.dentropy.clear();
  head.stats = head.forward(1, 1, 1.0f);
  const std::vector<RowSegment> every_row = {{0, 20, 0, 0}}, some_rows = {{0, 5, 0, 0}, {6, 17, 0, 0}};
  head.dlogp[5] = head.dlogp[17] = head.dlogp[18] = head.dlogp[19] = 0;
  head.stats[18].lse = std::nanf("");
  head.backward(1, 1, 1.0f, as_segments(every_row, 1));
  const Matrix dw = head.dw;
  for (int64_t c = 0; c < head.h; ++c) {
    for (const int64_t r : {5, 17, 18, 19}) ASSERT_TRUE(same_bits(head.dh.at(r, c), 0.0f));
  }
  head.backward(1, 1, 1.0f, as_segments(some_rows, 1));
  EXPECT_TRUE(std::equal(dw.values.begin(), dw.values.end(), head.dw.values.begin(),
                         [](float a, float b) { return std::isnan(a) ? std::isnan(b) : same_bits(a, b); }));
}

TEST(CpuHeadErrors, SayWhatIsWrong) {
  Head head(2, 4, 6);
  Head::Shard shard(head, 0, 6);
  std::vector<HeadPartial> partials(8);
  HeadPartialArgs args = {.h = head.x.tensor(),
                          .w = shard.view,
                          .targets = head.targets.data(),
                          .slices = 4,
                          .partials = partials.data()};
  Workspace workspace(head_workspace_bytes(4, 6, 4));
  EXPECT_THROW(cpu::head_partial(workspace.exec(), args), Error);  // 6 % 4
  args.slices = 2;
  EXPECT_THROW(cpu::head_partial({}, args), Error);  // no workspace
  EXPECT_NO_THROW(cpu::head_partial(workspace.exec(), args));
}

}  // namespace
}  // namespace contender
