#include "ops/linear.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "tests/cpu/op_inputs.h"
#include "tests/ref/linear_ref.h"
#include "tests/ref/row_sum_ref.h"

namespace contender {
namespace {

using test::kEps;
using test::Matrix;
using test::same_bits;
using test::Workspace;

// A weight [groups * n, k] with both packed forms.
struct PackedWeight {
  Matrix master;
  Workspace forward, backward;
  WeightView view;

  PackedWeight(int64_t n, int64_t k, uint64_t seed, int64_t groups = 1)
      : master(Matrix::random(groups * n, k, seed, 3)),
        forward(groups * packed_forward_bytes(n, k)),
        backward(groups * packed_backward_bytes(n, k)) {
    view = {.forward = forward.exec().workspace,
            .backward = backward.exec().workspace,
            .n = n,
            .k = k,
            .num_groups = groups};
    cpu::pack_weight({}, {.master = master.tensor(),
                          .forward = forward.exec().workspace,
                          .backward = backward.exec().workspace,
                          .n = n,
                          .k = k,
                          .num_groups = groups});
  }
  float at(int64_t g, int64_t n, int64_t k) const { return master.at(g * view.n + n, k); }
};

// One element against the contract's chain (equal bits) and the double sum (error of a chain of k roundings).
template <class A, class B>
void expect_chain(float got, const A& a, const B& b, int64_t i, int64_t j, int64_t k, int32_t slices = 1) {
  const float want = ref::chain_dot(a, b, i, j, k, slices);
  ASSERT_TRUE(same_bits(got, want)) << "[" << i << ", " << j << "] = " << got << ", the chain gives " << want;
  const ref::DoubleDot exact = ref::double_dot(a, b, i, j, k);
  test::expect_close(got, exact.value, exact.magnitude, kEps * static_cast<double>(k + 2), "dot", i, j);
}

class CpuLinear : public testing::TestWithParam<std::tuple<int, int, int, int>> {};

TEST_P(CpuLinear, ForwardIsTheChain) {
  const auto [m, n, k, slices] = GetParam();
  Matrix x = Matrix::random(m, k, 1, 5), y = Matrix::poisoned(m, n, 2);
  PackedWeight w(n, k, 2);
  Workspace workspace(linear_workspace_bytes(m, n, k, slices));
  cpu::linear(workspace.exec(), {.x = x.tensor(), .w = w.view, .y = y.tensor(), .slices = slices});
  const auto a = [&](int64_t i, int64_t l) { return x.at(i, l); };
  const auto b = [&](int64_t l, int64_t j) { return w.at(0, j, l); };
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) expect_chain(y.at(i, j), a, b, i, j, k, slices);
  }
  EXPECT_TRUE(y.padding_untouched());
}

TEST_P(CpuLinear, DgradIsTheChain) {
  const auto [m, k, n, slices] = GetParam();  // n is contracted here
  Matrix dy = Matrix::random(m, n, 3, 1), dx = Matrix::poisoned(m, k, 7);
  PackedWeight w(n, k, 4);
  Workspace workspace(linear_workspace_bytes(m, n, k, slices));
  cpu::linear_dgrad(workspace.exec(), {.dy = dy.tensor(), .w = w.view, .dx = dx.tensor(), .slices = slices});
  const auto a = [&](int64_t i, int64_t l) { return dy.at(i, l); };
  const auto b = [&](int64_t l, int64_t j) { return w.at(0, l, j); };
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < k; ++j) expect_chain(dx.at(i, j), a, b, i, j, n, slices);
  }
  EXPECT_TRUE(dx.padding_untouched());
}

// Bias and the old value are added after the chain, one rounding each.
TEST_P(CpuLinear, BiasAndAccumulate) {
  const auto [m, n, k, slices] = GetParam();
  Matrix x = Matrix::random(m, k, 5), plain = Matrix::poisoned(m, n), old = Matrix::random(m, n, 6, 2),
         bias = Matrix::random(1, n, 7);
  Matrix y = old, dx_old = Matrix::random(m, k, 8, 1), dx = dx_old, dx_plain = Matrix::poisoned(m, k),
         dy = Matrix::random(m, n, 9);
  PackedWeight w(n, k, 10);
  Workspace workspace(linear_workspace_bytes(m, n, k, slices));
  cpu::linear(workspace.exec(), {.x = x.tensor(), .w = w.view, .y = plain.tensor(), .slices = slices});
  cpu::linear(workspace.exec(), {.x = x.tensor(),
                                 .w = w.view,
                                 .y = y.tensor(),
                                 .bias = bias.values.data(),
                                 .slices = slices,
                                 .accumulate = true});
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j)
      ASSERT_TRUE(same_bits(y.at(i, j), old.at(i, j) + (plain.at(i, j) + bias.at(0, j))));
  }
  EXPECT_TRUE(y.padding_untouched());
  cpu::linear_dgrad(workspace.exec(),
                    {.dy = dy.tensor(), .w = w.view, .dx = dx_plain.tensor(), .slices = slices});
  cpu::linear_dgrad(
      workspace.exec(),
      {.dy = dy.tensor(), .w = w.view, .dx = dx.tensor(), .slices = slices, .accumulate = true});
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < k; ++j) ASSERT_TRUE(same_bits(dx.at(i, j), dx_old.at(i, j) + dx_plain.at(i, j)));
  }
  EXPECT_TRUE(dx.padding_untouched());
}

// Every number of rows up to two tiles, tails of a vector and of a panel, one and two row blocks, no rows,
// empty chains.
INSTANTIATE_TEST_SUITE_P(Rows, CpuLinear,
                         testing::Combine(testing::Range(0, 26), testing::Values(50), testing::Values(33),
                                          testing::Values(1)));
INSTANTIATE_TEST_SUITE_P(Shapes, CpuLinear,
                         testing::Combine(testing::Values(1, 13),
                                          testing::Values(1, 8, 15, 16, 17, 31, 32, 33, 64, 100),
                                          testing::Values(0, 1, 2, 16, 130), testing::Values(1)));
INSTANTIATE_TEST_SUITE_P(Slices, CpuLinear,
                         testing::Combine(testing::Values(1, 30), testing::Values(24, 40),
                                          testing::Values(8, 96), testing::Values(2, 4, 8)));
INSTANTIATE_TEST_SUITE_P(Blocks, CpuLinear,
                         testing::Combine(testing::Values(96, 97, 211), testing::Values(36),
                                          testing::Values(64), testing::Values(1, 4)));

// A row's bits do not depend on how many rows there are, on its place, or on the stride of x (1024 floats:
// rows that share a cache set are copied aside).
TEST(CpuLinearInvariance, RowKeepsItsBits) {
  constexpr int64_t kM = 120, kN = 70, kK = 1024;
  Matrix x = Matrix::random(kM, kK, 11), all = Matrix::poisoned(kM, kN);
  PackedWeight w(kN, kK, 12);
  Workspace workspace(linear_workspace_bytes(kM, kN, kK, 1));
  cpu::linear(workspace.exec(), {.x = x.tensor(), .w = w.view, .y = all.tensor()});
  for (const auto& [begin, end] : {std::pair{0, 1}, {3, 5}, {7, 20}, {19, 119}}) {
    Matrix y = Matrix::poisoned(end - begin, kN), wide = Matrix::poisoned(end - begin, kK, 33);
    for (int64_t r = begin; r < end; ++r) std::copy_n(&x.at(r, 0), kK, &wide.at(r - begin, 0));
    cpu::linear(workspace.exec(), {.x = wide.tensor(), .w = w.view, .y = y.tensor()});
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t j = 0; j < kN; ++j)
        ASSERT_TRUE(same_bits(y.at(r - begin, j), all.at(r, j))) << r << " " << j;
    }
  }
}

// Slices on two ranks, then the tree between them, are slices on one.
TEST(CpuLinearInvariance, SlicesContinueAcrossRanks) {
  constexpr int64_t kM = 9, kN = 37, kK = 64;
  Matrix x = Matrix::random(kM, kK, 13), whole = Matrix::poisoned(kM, kN);
  PackedWeight w(kN, kK, 14);
  Workspace workspace(linear_workspace_bytes(kM, kN, kK, 4));
  cpu::linear(workspace.exec(), {.x = x.tensor(), .w = w.view, .y = whole.tensor(), .slices = 4});
  std::vector<Matrix> part;
  for (int64_t rank = 0; rank < 2; ++rank) {
    PackedWeight local(kN, kK / 2, 1);
    local.master = Matrix::poisoned(kN, kK / 2);
    for (int64_t j = 0; j < kN; ++j)
      std::copy_n(&w.master.at(j, rank * kK / 2), kK / 2, &local.master.at(j, 0));
    cpu::pack_weight({}, {.master = local.master.tensor(),
                          .forward = local.forward.exec().workspace,
                          .n = kN,
                          .k = kK / 2,
                          .num_groups = 1});
    part.push_back(Matrix::poisoned(kM, kN));
    cpu::linear(workspace.exec(), {.x = x.tensor().col_range(rank * kK / 2, (rank + 1) * kK / 2),
                                   .w = local.view,
                                   .y = part[rank].tensor(),
                                   .slices = 2});
  }
  for (size_t i = 0; i < whole.values.size(); ++i) {
    ASSERT_TRUE(same_bits(whole.values[i], part[0].values[i] + part[1].values[i]));
  }
}

TEST(CpuLinearGrouped, GroupsIncludingEmptyOnes) {
  constexpr int64_t kN = 40, kK = 24, kGroups = 6;
  const std::vector<int32_t> offsets = {0, 0, 5, 5, 30, 31, 31};
  const int64_t m = offsets.back() + 3;  // rows of no group
  Matrix x = Matrix::random(m, kK, 15, 1), y = Matrix::poisoned(m, kN, 1), dy = Matrix::random(m, kN, 16, 1),
         dx = Matrix::poisoned(m, kK, 1);
  PackedWeight w(kN, kK, 17, kGroups);
  Workspace workspace(linear_workspace_bytes(m, kN, kK, 1));
  cpu::grouped_linear(workspace.exec(),
                      {.x = x.tensor(), .w = w.view, .y = y.tensor(), .offsets = offsets.data()});
  cpu::grouped_linear_dgrad(workspace.exec(),
                            {.dy = dy.tensor(), .w = w.view, .dx = dx.tensor(), .offsets = offsets.data()});
  for (int64_t g = 0; g < kGroups; ++g) {
    for (int64_t i = offsets[g]; i < offsets[g + 1]; ++i) {
      for (int64_t j = 0; j < kN; ++j) {
        expect_chain(
            y.at(i, j), [&](int64_t r, int64_t l) { return x.at(r, l); },
            [&](int64_t l, int64_t c) { return w.at(g, c, l); }, i, j, kK);
      }
      for (int64_t j = 0; j < kK; ++j) {
        expect_chain(
            dx.at(i, j), [&](int64_t r, int64_t l) { return dy.at(r, l); },
            [&](int64_t l, int64_t c) { return w.at(g, l, c); }, i, j, kN);
      }
    }
  }
  for (int64_t i = offsets.back(); i < m; ++i) {
    EXPECT_TRUE(std::isnan(y.at(i, 0)) && std::isnan(y.at(i, kN - 1)));
    EXPECT_TRUE(std::isnan(dx.at(i, 0)) && std::isnan(dx.at(i, kK - 1)));
  }
  EXPECT_TRUE(y.padding_untouched() && dx.padding_untouched());
}

TEST(CpuLinearHeads, StridedColumnsBothWays) {
  constexpr int64_t kM = 14, kHeads = 3, kN = 16, kK = 40, kNStride = 24, kKStride = 41;
  PackedWeight w(kN, kK, 18, kHeads);
  Matrix x = Matrix::random(kM, kHeads * kKStride, 19), y = Matrix::poisoned(kM, kHeads * kNStride);
  Matrix xt = Matrix::random(kM, kHeads * kNStride, 20), yt = Matrix::poisoned(kM, kHeads * kKStride);
  Workspace workspace(linear_workspace_bytes(kM, kN, kK, 1));
  cpu::heads_linear(
      workspace.exec(),
      {.x = x.tensor(), .x_stride = kKStride, .w = w.view, .y = y.tensor(), .y_stride = kNStride});
  cpu::heads_linear(workspace.exec(), {.x = xt.tensor(),
                                       .x_stride = kNStride,
                                       .w = w.view,
                                       .y = yt.tensor(),
                                       .y_stride = kKStride,
                                       .transposed = true});
  for (int64_t h = 0; h < kHeads; ++h) {
    for (int64_t i = 0; i < kM; ++i) {
      for (int64_t j = 0; j < kNStride; ++j) {
        if (j >= kN) {
          ASSERT_TRUE(std::isnan(y.at(i, h * kNStride + j)));
          continue;
        }
        expect_chain(
            y.at(i, h * kNStride + j), [&](int64_t r, int64_t l) { return x.at(r, h * kKStride + l); },
            [&](int64_t l, int64_t c) { return w.at(h, c, l); }, i, j, kK);
      }
      for (int64_t j = 0; j < kKStride; ++j) {
        if (j >= kK) {
          ASSERT_TRUE(std::isnan(yt.at(i, h * kKStride + j)));
          continue;
        }
        expect_chain(
            yt.at(i, h * kKStride + j), [&](int64_t r, int64_t l) { return xt.at(r, h * kNStride + l); },
            [&](int64_t l, int64_t c) { return w.at(h, l, c); }, i, j, kN);
      }
    }
  }
}

class CpuLinearWgrad : public testing::TestWithParam<std::tuple<int, int, int, int>> {};

TEST_P(CpuLinearWgrad, CanonicalSum) {
  const auto [m, n, k, leaves] = GetParam();
  Matrix dy = Matrix::random(m, n, 21, 1), x = Matrix::random(m, k, 22, 3), dw = Matrix::poisoned(n, k, 2);
  const std::vector<RowSegment> list = ref::test_segments(m, leaves);
  const RowSegments segments = {
      .data = list.data(), .count = static_cast<int32_t>(list.size()), .num_leaves = leaves};
  Workspace workspace(linear_wgrad_workspace_bytes(m, n, k, leaves));
  cpu::linear_wgrad(
      workspace.exec(),
      {.dy = dy.tensor(), .x = x.tensor(), .dw = dw.tensor(), .segments = segments, .num_groups = 1});
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const float want = ref::canonical_sum(
          segments, [&](float acc, int64_t r) { return std::fma(dy.at(r, i), x.at(r, j), acc); });
      ASSERT_TRUE(same_bits(dw.at(i, j), want))
          << "[" << i << ", " << j << "] = " << dw.at(i, j) << ", canonical " << want;
    }
  }
  EXPECT_TRUE(dw.padding_untouched());
}
INSTANTIATE_TEST_SUITE_P(Shapes, CpuLinearWgrad,
                         testing::Combine(testing::Values(0, 1, 3, 40), testing::Values(1, 6, 12, 13, 33, 50),
                                          testing::Values(1, 16, 17, 70), testing::Values(1, 2, 8)));
// More rows than a chunk, more results than a block.
INSTANTIATE_TEST_SUITE_P(Blocks, CpuLinearWgrad,
                         testing::Values(std::tuple{700, 30, 40, 1}, std::tuple{1100, 20, 33, 2},
                                         std::tuple{40, 520, 33, 4}, std::tuple{20, 520, 530, 1}));

TEST(CpuLinearWgradGroups, GroupsLeavesAndSegmentOrder) {
  constexpr int64_t kM = 60, kN = 20, kK = 35, kGroups = 5;
  // Group 1 is missing, group 3 has one leaf only, group 4's rows come before the others; an empty segment.
  const std::vector<RowSegment> list = {{30, 41, 0, 0}, {10, 20, 0, 0}, {20, 25, 0, 3}, {41, 60, 2, 1},
                                        {25, 25, 2, 2}, {26, 30, 3, 2}, {0, 4, 4, 0},   {6, 9, 4, 1}};
  Matrix dy = Matrix::random(kM, kN, 23), x = Matrix::random(kM, kK, 24),
         dw = Matrix::poisoned(kGroups * kN, kK);
  Workspace workspace(linear_wgrad_workspace_bytes(kM, kN, kK, 4));
  cpu::linear_wgrad(
      workspace.exec(),
      {.dy = dy.tensor(),
       .x = x.tensor(),
       .dw = dw.tensor(),
       .segments = {.data = list.data(), .count = static_cast<int32_t>(list.size()), .num_leaves = 4},
       .num_groups = kGroups});
  for (int32_t g = 0; g < kGroups; ++g) {
    std::vector<RowSegment> own;
    for (const RowSegment& s : list) {
      if (s.group == g) own.push_back(s);
    }
    const RowSegments segments = {
        .data = own.data(), .count = static_cast<int32_t>(own.size()), .num_leaves = 4};
    for (int64_t i = 0; i < kN; ++i) {
      for (int64_t j = 0; j < kK; ++j) {
        const float want = ref::canonical_sum(
            segments, [&](float acc, int64_t r) { return std::fma(dy.at(r, i), x.at(r, j), acc); });
        ASSERT_TRUE(same_bits(dw.at(g * kN + i, j), want)) << g << " " << i << " " << j;
      }
    }
  }
}

// The sums of the rows over each head's columns; the columns between heads enter nothing. No rows give 0.
TEST(CpuLinearHeads, WgradIsTheCanonicalSumOfEachHead) {
  constexpr int64_t kHeads = 3, kN = 16, kK = 40, kNStride = 24, kKStride = 41;
  for (const int32_t rows : {0, 1, 37}) {
    Matrix dy = Matrix::poisoned(rows, kHeads * kNStride), x = Matrix::poisoned(rows, kHeads * kKStride),
           dw = Matrix::poisoned(kHeads * kN, kK, 3);
    const Matrix dy_values = Matrix::random(rows, kHeads * kN, 27),
                 x_values = Matrix::random(rows, kHeads * kK, 28);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t h = 0; h < kHeads; ++h) {
        for (int64_t i = 0; i < kN; ++i) dy.at(r, h * kNStride + i) = dy_values.at(r, h * kN + i);
        for (int64_t j = 0; j < kK; ++j) x.at(r, h * kKStride + j) = x_values.at(r, h * kK + j);
      }
    }
    const std::vector<RowSegment> list = ref::test_segments(rows, 4);
    const RowSegments segments = {
        .data = list.data(), .count = static_cast<int32_t>(list.size()), .num_leaves = 4};
    Workspace workspace(linear_wgrad_workspace_bytes(rows, kN, kK, 4));
    cpu::heads_wgrad(workspace.exec(), {.dy = dy.tensor(),
                                        .dy_stride = kNStride,
                                        .x = x.tensor(),
                                        .x_stride = kKStride,
                                        .dw = dw.tensor(),
                                        .num_heads = kHeads,
                                        .segments = segments});
    for (int64_t h = 0; h < kHeads; ++h) {
      for (int64_t i = 0; i < kN; ++i) {
        for (int64_t j = 0; j < kK; ++j) {
          const float want = ref::canonical_sum(segments, [&](float acc, int64_t r) {
            return std::fma(dy_values.at(r, h * kN + i), x_values.at(r, h * kK + j), acc);
          });
          ASSERT_TRUE(same_bits(dw.at(h * kN + i, j), want)) << rows << " " << h << " " << i << " " << j;
        }
      }
    }
    EXPECT_TRUE(dw.padding_untouched());
  }
}

TEST(CpuLinearErrors, SayWhatIsWrong) {
  Matrix x = Matrix::random(3, 8, 25), y = Matrix::poisoned(3, 5);
  PackedWeight w(5, 8, 26);
  Workspace workspace(linear_workspace_bytes(3, 5, 8, 1));
  EXPECT_THROW(cpu::linear({}, {.x = x.tensor(), .w = w.view, .y = y.tensor()}), Error);  // no workspace
  EXPECT_THROW(cpu::linear(workspace.exec(), {.x = y.tensor(), .w = w.view, .y = y.tensor()}),
               Error);  // shapes
  EXPECT_THROW(cpu::linear(workspace.exec(), {.x = x.tensor(), .w = w.view, .y = y.tensor(), .slices = 3}),
               Error);  // 8 % 3
  const std::vector<RowSegment> unsorted = {{0, 1, 1, 0}, {1, 2, 0, 0}};
  Matrix dw = Matrix::poisoned(10, 8);
  Workspace wgrad(linear_wgrad_workspace_bytes(3, 5, 8, 1));
  EXPECT_THROW(
      cpu::linear_wgrad(wgrad.exec(), {.dy = y.tensor(),
                                       .x = x.tensor(),
                                       .dw = dw.tensor(),
                                       .segments = {.data = unsorted.data(), .count = 2, .num_leaves = 1},
                                       .num_groups = 2}),
      Error);
}

}  // namespace
}  // namespace contender
