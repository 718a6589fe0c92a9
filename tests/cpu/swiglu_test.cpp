#include "ops/swiglu.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "tests/cpu/op_inputs.h"
#include "tests/ref/swiglu_ref.h"

namespace contender {
namespace {

using test::kEps;
using test::Matrix;
using test::same_bits;

class CpuSwiglu : public testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(CpuSwiglu, ForwardAndBackward) {
  const auto [m, n] = GetParam();
  Matrix x = Matrix::random(m, 2 * n, 1, 1, 2.0), dy = Matrix::random(m, n, 2, 2);
  for (int64_t r = 0; r < m; ++r) x.at(r, 0) *= 30;  // into both tails of the sigmoid
  Matrix y = Matrix::poisoned(m, n, 1), dx = Matrix::poisoned(m, 2 * n, 3);
  cpu::swiglu({}, {.gate_up = x.tensor(), .y = y.tensor()});
  cpu::swiglu_bwd({}, {.dy = dy.tensor(), .gate_up = x.tensor(), .dgate_up = dx.tensor()});
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t c = 0; c < n; ++c) {
      const double g = x.at(r, c), u = x.at(r, n + c), d = dy.at(r, c), step = 1e-6;
      const double want = ref::swiglu(g, u);
      test::expect_close(y.at(r, c), want, std::abs(want), 10 * kEps, "y", r, c);
      const double dg = d * (ref::swiglu(g + step, u) - ref::swiglu(g - step, u)) / (2 * step);
      test::expect_close(dx.at(r, c), dg, std::abs(d * u) * (1 + std::abs(g)), 20 * kEps + 1e-9, "dgate", r,
                         c);
      const double du = d * ref::silu(g);
      test::expect_close(dx.at(r, n + c), du, std::abs(du), 10 * kEps, "dup", r, c);
    }
  }
  EXPECT_TRUE(y.padding_untouched() && dx.padding_untouched());
}
INSTANTIATE_TEST_SUITE_P(Shapes, CpuSwiglu,
                         testing::Values(std::tuple(0, 4), std::tuple(1, 1), std::tuple(3, 15),
                                         std::tuple(5, 16), std::tuple(9, 83)));

// An element's bits do not depend on its column: the vector body and the tail agree.
TEST(CpuSwiglu, PlaceDoesNotMatter) {
  constexpr int64_t kN = 37;
  const float g = 0.7310585f, u = -1.25f;
  Matrix x = Matrix::poisoned(1, 2 * kN), y = Matrix::poisoned(1, kN), dy = y, dx = x;
  for (int64_t c = 0; c < kN; ++c) {
    x.at(0, c) = g;
    x.at(0, kN + c) = u;
    dy.at(0, c) = 0.3f;
  }
  cpu::swiglu({}, {.gate_up = x.tensor(), .y = y.tensor()});
  cpu::swiglu_bwd({}, {.dy = dy.tensor(), .gate_up = x.tensor(), .dgate_up = dx.tensor()});
  for (int64_t c = 1; c < kN; ++c) {
    EXPECT_TRUE(same_bits(y.at(0, c), y.at(0, 0)));
    EXPECT_TRUE(same_bits(dx.at(0, c), dx.at(0, 0)) && same_bits(dx.at(0, kN + c), dx.at(0, kN)));
  }
}

// A slice is a call of its own; a quantised block of 128 columns may lie in several.
TEST(CpuSwiglu, SlicesAreCallsOfTheirOwn) {
  constexpr int64_t kRows = 3, kWidth = 50, kSlices = 4, kCols = kWidth * kSlices, kBlocks = 2;
  Matrix x = Matrix::random(kRows, 2 * kCols, 6, 1), dy = Matrix::random(kRows, kCols, 7),
         y = Matrix::poisoned(kRows, kCols), want = y, y_fused = y,
         dx = Matrix::poisoned(kRows, 2 * kCols, 1), want_dx = dx;
  cpu::swiglu({}, {.gate_up = x.tensor(), .y = y.tensor(), .slices = kSlices});
  cpu::swiglu_bwd({}, {.dy = dy.tensor(), .gate_up = x.tensor(), .dgate_up = dx.tensor(), .slices = kSlices});
  for (int64_t s = 0; s < kSlices; ++s) {
    const Tensor part = x.tensor().col_range(2 * s * kWidth, 2 * (s + 1) * kWidth);
    cpu::swiglu({}, {.gate_up = part, .y = want.tensor().col_range(s * kWidth, (s + 1) * kWidth)});
    cpu::swiglu_bwd({}, {.dy = dy.tensor().col_range(s * kWidth, (s + 1) * kWidth),
                         .gate_up = part,
                         .dgate_up = want_dx.tensor().col_range(2 * s * kWidth, 2 * (s + 1) * kWidth)});
  }
  EXPECT_TRUE(same_bits(y.values, want.values) && same_bits(dx.values, want_dx.values));
  std::vector<uint8_t> codes(kRows * kCols, 0x7F), want_codes = codes;
  Matrix scale = Matrix::poisoned(kRows, kBlocks), want_scale = scale;
  cpu::quantize(
      {}, {.x = want.tensor(),
           .q = {.data = {want_codes.data(), DType::kE4M3, kRows, kCols}, .scale = want_scale.tensor()}});
  cpu::swiglu_quantize({},
                       {.swiglu = {.gate_up = x.tensor(), .y = y_fused.tensor(), .slices = kSlices},
                        .q = {.data = {codes.data(), DType::kE4M3, kRows, kCols}, .scale = scale.tensor()}});
  EXPECT_TRUE(same_bits(y_fused.values, want.values));
  EXPECT_EQ(codes, want_codes);
  EXPECT_TRUE(same_bits(scale.values, want_scale.values));
  EXPECT_THROW(cpu::swiglu({}, {.gate_up = x.tensor(), .y = y.tensor(), .slices = 3}), Error);
}

TEST(CpuSwiglu, QuantizeIsTheComposition) {
  constexpr int64_t kRows = 2, kCols = 200, kBlocks = 2;
  Matrix x = Matrix::random(kRows, 2 * kCols, 5), y = Matrix::poisoned(kRows, kCols), y_fused = y;
  cpu::swiglu({}, {.gate_up = x.tensor(), .y = y.tensor()});
  std::vector<uint8_t> want(kRows * kCols, 0x7F), got = want;
  Matrix want_scale = Matrix::poisoned(kRows, kBlocks), got_scale = want_scale;
  cpu::quantize({}, {.x = y.tensor(),
                     .q = {.data = {want.data(), DType::kE4M3, kRows, kCols}, .scale = want_scale.tensor()}});
  for (const Tensor& y_out : {Tensor(), y_fused.tensor()}) {
    std::fill(got.begin(), got.end(), 0x7F);
    cpu::swiglu_quantize(
        {}, {.swiglu = {.gate_up = x.tensor(), .y = y_out},
             .q = {.data = {got.data(), DType::kE4M3, kRows, kCols}, .scale = got_scale.tensor()}});
    EXPECT_EQ(got, want);
    EXPECT_TRUE(same_bits(got_scale.values, want_scale.values));
  }
  EXPECT_TRUE(same_bits(y_fused.values, y.values));
}

}  // namespace
}  // namespace contender
