#include "cpu/fp8_gemm.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "tests/cpu/fp8_inputs.h"

namespace contender {
namespace {

using test::Fp8Columns;
using test::Fp8Matrix;
using test::Matrix;
using test::same_bits;

struct Fp8Shape {
  int64_t m, n, k;
};
class Fp8Gemm : public testing::TestWithParam<Fp8Shape> {};

// Bit for bit the chain of the contract, added one product at a time in double.
TEST_P(Fp8Gemm, IsTheChain) {
  const auto [m, n, k] = GetParam();
  Fp8Matrix a(m, k, QLayout::k1x128, 1), b(n, k, QLayout::k128x128, 2);
  Matrix d = Matrix::poisoned(m, n, 4);
  cpu::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = d.tensor()});
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j)
      ASSERT_TRUE(same_bits(d.at(i, j), ref::fp8_chain(a.operand(), b.operand(), i, j, 0, k)))
          << i << " " << j;
  }
  EXPECT_TRUE(d.padding_untouched());
  const Matrix once = d;
  cpu::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = d.tensor(), .accumulate = true});
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) ASSERT_TRUE(same_bits(d.at(i, j), once.at(i, j) + once.at(i, j)));
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, Fp8Gemm,
                         testing::Values(Fp8Shape{0, 16, 16}, Fp8Shape{1, 16, 16}, Fp8Shape{3, 48, 144},
                                         Fp8Shape{66, 144, 272}, Fp8Shape{65, 16, 512}));

// The two rules at K = 4096, and that the first of them sees a product that is promoted only once.
TEST(Fp8GemmRules, HoldAndSeeAMissingPromotion) {
  constexpr int64_t kM = 16, kN = 32, kK = 4096;
  for (const double decades : {0.0, 3.0}) {
    Fp8Matrix a(kM, kK, QLayout::k1x128, 3, 1, 0, decades), b(kN, kK, QLayout::k128x128, 4, 1, 0, decades);
    Matrix d = Matrix::poisoned(kM, kN);
    cpu::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = d.tensor()});
    std::vector<double> got, dequantised, exact;
    for (int64_t i = 0; i < kM; ++i) {
      for (int64_t j = 0; j < kN; ++j) {
        got.push_back(d.at(i, j));
        dequantised.push_back(ref::fp8_dot(a.operand(), b.operand(), i, j, 0, kK));
        double sum = 0;
        for (int64_t l = 0; l < kK; ++l) sum += a.value(i, l) * b.value(j, l);
        exact.push_back(sum);
      }
    }
    EXPECT_LT(ref::calc_diff(got, dequantised), 1e-7);
    EXPECT_LT(ref::calc_diff(got, exact), 1e-3);
  }
  // Scales of 1, so that nothing but the promotion differs.
  Fp8Matrix a(kM, kK, QLayout::k1x128, 5), b(kN, kK, QLayout::k128x128, 6);
  std::fill(a.scale.values.begin(), a.scale.values.end(), 1.0f);
  std::fill(b.scale.values.begin(), b.scale.values.end(), 1.0f);
  std::vector<double> promoted, planted, want;
  for (int64_t i = 0; i < kM; ++i) {
    for (int64_t j = 0; j < kN; ++j) {
      promoted.push_back(ref::fp8_chain(a.operand(), b.operand(), i, j, 0, kK));
      planted.push_back(ref::fp8_chain(a.operand(), b.operand(), i, j, 0, kK, kK));
      want.push_back(ref::fp8_dot(a.operand(), b.operand(), i, j, 0, kK));
    }
  }
  EXPECT_LT(ref::calc_diff(promoted, want), 1e-7);
  EXPECT_GT(ref::calc_diff(planted, want), 2e-7);
}

// A NaN code and a scale that is not finite reach the elements that they belong to, and no others.
TEST(Fp8GemmNonFinite, StaysWhereItBelongs) {
  Fp8Matrix a(5, 256, QLayout::k1x128, 7), b(160, 256, QLayout::k128x128, 8);
  Matrix clean = Matrix::poisoned(5, 160), d = clean;
  cpu::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = clean.tensor()});
  a.codes[static_cast<size_t>(2 * a.ld + 130)] = test::kNanCode;
  b.codes[static_cast<size_t>(17 * b.ld)] = 0xFF;
  a.scale.at(4, 1) = INFINITY;
  b.scale.at(1, 0) = NAN;
  cpu::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = d.tensor()});
  for (int64_t i = 0; i < 5; ++i) {
    for (int64_t j = 0; j < 160; ++j) {
      const bool touched = i == 2 || i == 4 || j == 17 || j >= 128;
      EXPECT_EQ(std::isfinite(d.at(i, j)), !touched) << i << " " << j;
      if (!touched) {
        EXPECT_TRUE(same_bits(d.at(i, j), clean.at(i, j)));
      }
    }
  }
}

// Each group is the plain product of its rows; rows of none stay as they are.
TEST(Fp8GroupedGemm, IsOneProductPerGroup) {
  constexpr int64_t kGroups = 4, kN = 144, kK = 272, kM = 24;
  Fp8Matrix a(kM, kK, QLayout::k1x128, 9), b(kGroups * kN, kK, QLayout::k128x128, 10, kGroups);
  const std::vector<int32_t> offsets = {0, 3, 3, 10, 21}, counts = {3, 0, 6, 1};
  const auto check = [&](const Matrix& d, const auto& group_of) {
    for (int64_t i = 0; i < kM; ++i) {
      const int64_t g = group_of(i);
      for (int64_t j = 0; j < kN; ++j) {
        if (g < 0) {
          ASSERT_TRUE(std::isnan(d.at(i, j)));
        } else {
          ASSERT_TRUE(same_bits(d.at(i, j), ref::fp8_chain(a.operand(i), b.operand(g), 0, j, 0, kK)));
        }
      }
    }
  };
  Matrix d = Matrix::poisoned(kM, kN);
  Fp8GroupedGemmArgs args{.a = a.tensor(), .b = b.tensor(), .d = d.tensor(), .num_groups = kGroups};
  args.offsets = offsets.data();
  cpu::fp8_grouped_gemm({}, args);
  check(d, [](int64_t i) { return i < 3 ? 0 : i < 10 ? 2 : i < 21 ? 3 : -1; });
  d = Matrix::poisoned(kM, kN);
  args.d = d.tensor();
  args.offsets = nullptr;
  args.counts = counts.data();
  cpu::fp8_grouped_gemm({}, args);
  check(d, [&](int64_t i) { return i % 6 < counts[static_cast<size_t>(i / 6)] ? i / 6 : -1; });
}

// Blocks begin anew in each group; empty groups add nothing, or give 0.
TEST(Fp8Wgrad, IsTheChainOfEachGroup) {
  constexpr int64_t kN = 16, kK = 32, kM = 420;
  const std::vector<int32_t> offsets = {0, 130, 130, 131, 400};
  Fp8Columns dy(kN, kM, offsets, 11), x(kK, kM, offsets, 12);
  Matrix dw = Matrix::poisoned(4 * kN, kK), start = Matrix::random(4 * kN, kK, 13);
  Fp8WgradArgs args{.dy = dy.tensor(), .x = x.tensor(), .dw = dw.tensor(), .accumulate = false};
  args.num_groups = 4;
  args.offsets = offsets.data();
  cpu::fp8_wgrad({}, args);
  Matrix sum = start;
  args.dw = sum.tensor();
  args.accumulate = true;
  cpu::fp8_wgrad({}, args);
  const int64_t first_block[] = {0, 2, 2, 3};
  for (int64_t g = 0; g < 4; ++g) {
    const size_t at = static_cast<size_t>(g);
    for (int64_t i = 0; i < kN; ++i) {
      for (int64_t j = 0; j < kK; ++j) {
        const float want = ref::fp8_chain(dy.operand(first_block[g]), x.operand(first_block[g]), i, j,
                                          offsets[at], offsets[at + 1]);
        ASSERT_TRUE(same_bits(dw.at(g * kN + i, j), want)) << g << " " << i << " " << j;
        ASSERT_TRUE(same_bits(sum.at(g * kN + i, j), start.at(g * kN + i, j) + want));
      }
    }
  }
}

// A chain for each leaf, from +0, in the tree over leaves; one without tokens is +0.
void expect_tree(int64_t n, int64_t k, const std::vector<int32_t>& offsets, int64_t leaves) {
  const int64_t chains = static_cast<int64_t>(offsets.size()) - 1, groups = chains / leaves;
  const int64_t m = offsets.back() + 10;  // some are nobody's
  Fp8Columns dy(n, m, offsets, 21), x(k, m, offsets, 22);
  std::vector<RowPlace> places;
  for (int32_t block = 0; const int32_t row : offsets) {
    if (!places.empty()) block += narrow<int32_t>(ceil_div(int64_t{row} - places.back().row, int64_t{128}));
    places.push_back({row, block});
  }
  std::vector<RowSegment> table(static_cast<size_t>(chains));
  Matrix dw = Matrix::poisoned(groups * n, k), start = Matrix::random(groups * n, k, 23), sum = start;
  Fp8WgradArgs args{
      .dy = dy.tensor(), .x = x.tensor(), .dw = dw.tensor(), .accumulate = false, .num_groups = groups};
  args.segments = {.data = table.data(),
                   .count = narrow<int32_t>(chains),
                   .num_leaves = narrow<int32_t>(leaves),
                   .places = places.data()};
  cpu::fp8_wgrad({}, args);
  args.dw = sum.tensor();
  args.accumulate = true;
  cpu::fp8_wgrad({}, args);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        std::vector<float> level;
        for (int64_t l = 0; l < leaves; ++l) {
          const RowPlace* at = places.data() + g * leaves + l;
          level.push_back(
              ref::fp8_chain(dy.operand(at->block), x.operand(at->block), i, j, at[0].row, at[1].row));
        }
        for (; level.size() > 1; level.resize(level.size() / 2)) {
          for (size_t l = 0; l < level.size() / 2; ++l) level[l] = level[2 * l] + level[2 * l + 1];
        }
        ASSERT_TRUE(same_bits(dw.at(g * n + i, j), level[0])) << g << " " << i << " " << j;
        ASSERT_TRUE(same_bits(sum.at(g * n + i, j), start.at(g * n + i, j) + level[0]));
      }
    }
  }
}
TEST(Fp8Wgrad, LeavesAreSummedInTheTree) {
  expect_tree(80, 144, {0, 130, 130, 131, 140, 300, 300, 300, 410}, 4);  // 2 groups
  std::vector<int32_t> most = {0};
  for (int32_t leaf = 0; leaf < kMaxLeaves; ++leaf) most.push_back(most.back() + leaf % 3);
  expect_tree(16, 32, most, kMaxLeaves);
}

// q is quantised from d as d is stored.
TEST(Fp8GemmQuantised, EqualsProductThenQuantise) {
  constexpr int64_t kM = 67, kN = 208, kK = 144;
  Fp8Matrix a(kM, kK, QLayout::k1x128, 14), b(kN, kK, QLayout::k128x128, 15);
  Matrix d = Matrix::poisoned(kM, kN), scale = Matrix::poisoned(kM, 2), want_scale = scale;
  std::vector<uint8_t> codes(kM * kN), want_codes(kM * kN);
  const QTensor q{{codes.data(), DType::kE4M3, kM, kN}, scale.tensor(), QLayout::k1x128};
  cpu::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = d.tensor(), .q = q});
  cpu::quantize({}, {.x = d.tensor(),
                     .q = {{want_codes.data(), DType::kE4M3, kM, kN}, want_scale.tensor(), QLayout::k1x128}});
  EXPECT_EQ(codes, want_codes);
  EXPECT_TRUE(same_bits(scale.values, want_scale.values));
}

TEST(Fp8GemmErrors, NameTheNumbers) {
  Fp8Matrix a(4, 32, QLayout::k1x128, 16), b(32, 32, QLayout::k128x128, 17);
  Matrix d = Matrix::poisoned(4, 32);
  const auto expect_error = [&](const char* words, const auto& change) {
    Fp8GemmArgs args{.a = a.tensor(), .b = b.tensor(), .d = d.tensor()};
    change(args);
    try {
      cpu::fp8_gemm({}, args);
      ADD_FAILURE() << "no error: " << words;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
    }
  };
  using A = Fp8GemmArgs;
  expect_error("N = 24", [](A& x) { x.b.data.rows = 24; });
  expect_error("K = 20", [](A& x) { x.a.data.cols = x.b.data.cols = 20; });
  expect_error("a has 16 columns, b 32", [](A& x) { x.a.data.cols = 16; });
  expect_error("scales of a: F32 [4, 2]", [](A& x) { x.a.scale.cols = 2; });
  expect_error("scales of b: F32 [32, 1]", [](A& x) { x.b.scale.rows = 32; });
  expect_error("d [3, 32]", [](A& x) { x.d.rows = 3; });
  expect_error("layouts", [](A& x) { x.a.layout = QLayout::k128x1; });
  expect_error("accumulate", [](A& x) { x.d.dtype = DType::kBF16, x.accumulate = true; });
}

}  // namespace
}  // namespace contender
