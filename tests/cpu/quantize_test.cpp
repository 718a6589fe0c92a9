#include "ops/quantize.h"

#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "tests/cpu/op_inputs.h"

namespace contender {
namespace {

using test::Matrix;
using test::same_bits;

// The value of a code by its definition: 1 sign, 4 exponent (bias 7), 3 mantissa bits; S.1111.111 is NaN.
double code_value(int code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code & 0x80 ? -magnitude : magnitude;
}

// The nearest code of a finite value by search over all 127 magnitudes; of two equally near, the even one.
uint8_t nearest_code(float v) {
  static const std::vector<double> kValues = [] {
    std::vector<double> values;
    for (int code = 0; code < 127; ++code) values.push_back(code_value(code));
    return values;
  }();
  const double magnitude = std::abs(static_cast<double>(v));
  int best = 0;
  for (int code = 1; code < 127; ++code) {
    const double d = std::abs(kValues[code] - magnitude), d_best = std::abs(kValues[best] - magnitude);
    if (d < d_best || (d == d_best && code % 2 == 0)) best = code;
  }
  return static_cast<uint8_t>(best | (std::signbit(v) ? 0x80 : 0));
}

TEST(E4m3, EveryCodeKeepsItsValue) {
  for (int code = 0; code < 256; ++code) {
    const float v = e4m3_to_float(static_cast<uint8_t>(code));
    if ((code & 0x7F) == 0x7F) {
      EXPECT_TRUE(std::isnan(v));
    } else {
      EXPECT_EQ(v, code_value(code)) << code;
      EXPECT_EQ(std::signbit(v), code >= 128) << code;
    }
    EXPECT_EQ(float_to_e4m3(v) & 0x7F, code & 0x7F) << code;
  }
}

// Every code, every midpoint between two codes, and the floats next to each; then random values over all
// decades.
TEST(E4m3, RoundsToNearestEven) {
  std::vector<float> values = test::random_values(4000, 41, 6.0, 1000.0);
  for (int code = 0; code < 126; ++code) {
    const float here = static_cast<float>(code_value(code));
    const float middle = static_cast<float>((code_value(code) + code_value(code + 1)) / 2);
    for (const float v : {here, middle}) {
      for (const float w : {v, std::nextafterf(v, 1e9f), std::nextafterf(v, -1e9f)})
        values.insert(values.end(), {w, -w});
    }
  }
  for (const float v : values) ASSERT_EQ(float_to_e4m3(v), nearest_code(v)) << v;
}

TEST(E4m3, SaturatesAndPropagatesNan) {
  EXPECT_EQ(float_to_e4m3(448.0f), 0x7E);
  EXPECT_EQ(float_to_e4m3(464.0f), 0x7E);
  EXPECT_EQ(float_to_e4m3(1e30f), 0x7E);
  EXPECT_EQ(float_to_e4m3(INFINITY), 0x7E);
  EXPECT_EQ(float_to_e4m3(-INFINITY), 0xFE);
  EXPECT_EQ(float_to_e4m3(NAN) & 0x7F, 0x7F);
  EXPECT_EQ(float_to_e4m3(1e-30f), 0x00);
  EXPECT_EQ(float_to_e4m3(-0.0f), 0x80);
}

// amax / 448, of activations the power of two that is not below it.
float scale_of(float amax, QLayout layout) {
  const float scale = amax / 448.0f;
  if (amax == 0) return 1.0f;
  return layout == QLayout::k128x128 ? scale : std::exp2(std::ceil(std::log2(scale)));
}

struct Blocks {
  QLayout layout;
  int64_t rows, cols;  // of a block
};

class CpuQuantize : public testing::TestWithParam<std::tuple<Blocks, int, int>> {
 protected:
  std::vector<uint8_t> codes;
  Matrix scale;
  QTensor quantized(const Matrix& x, const Blocks& b) {
    codes.assign(static_cast<size_t>(x.rows * (x.cols + 3)), 0x55);
    scale = Matrix::poisoned(ceil_div(x.rows, b.rows), ceil_div(x.cols, b.cols), 1);
    return {.data = {codes.data(), DType::kE4M3, x.rows, x.cols, x.cols + 3},
            .scale = scale.tensor(),
            .layout = b.layout};
  }
};

TEST_P(CpuQuantize, ScalesCodesAndBack) {
  const auto [block, rows, cols] = GetParam();
  Matrix x = Matrix::random(rows, cols, 42, 2, 5.0), y = Matrix::poisoned(rows, cols, 1);
  for (int64_t r = 0; r < std::min<int64_t>(rows, block.rows); ++r) {  // the first block is zero
    for (int64_t c = 0; c < std::min<int64_t>(cols, block.cols); ++c) x.at(r, c) = 0;
  }
  const QTensor q = quantized(x, block);
  cpu::quantize({}, {.x = x.tensor(), .q = q});
  cpu::dequantize({}, {.q = q, .y = y.tensor()});
  for (int64_t br = 0; br < scale.rows; ++br) {
    for (int64_t bc = 0; bc < scale.cols; ++bc) {
      float amax = 0;
      for (int64_t r = br * block.rows; r < std::min<int64_t>(rows, (br + 1) * block.rows); ++r) {
        for (int64_t c = bc * block.cols; c < std::min<int64_t>(cols, (bc + 1) * block.cols); ++c)
          amax = std::max(amax, std::abs(x.at(r, c)));
      }
      const float want = scale_of(amax, block.layout);
      ASSERT_TRUE(same_bits(scale.at(br, bc), want)) << br << " " << bc;
      for (int64_t r = br * block.rows; r < std::min<int64_t>(rows, (br + 1) * block.rows); ++r) {
        for (int64_t c = bc * block.cols; c < std::min<int64_t>(cols, (bc + 1) * block.cols); ++c) {
          const uint8_t code = codes[r * (cols + 3) + c];
          ASSERT_EQ(code, nearest_code(x.at(r, c) / want)) << r << " " << c;
          ASSERT_TRUE(same_bits(y.at(r, c), static_cast<float>(code_value(code)) * want));
          // Half a step of 3 mantissa bits, or of the subnormals.
          EXPECT_LE(std::abs(y.at(r, c) - x.at(r, c)),
                    std::max(std::abs(x.at(r, c)) / 15.9f, want * 0x1p-10f));
        }
      }
    }
  }
  EXPECT_TRUE(scale.padding_untouched() && y.padding_untouched());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = cols; c < cols + 3; ++c) ASSERT_EQ(codes[r * (cols + 3) + c], 0x55);
  }
}

// What 1x128 blocks have stored is exact in 128x1 blocks, but for what is small beside their largest.
TEST(CpuQuantizeTwice, LosesNothingTheSecondTime) {
  constexpr int64_t kRows = 200, kCols = 300;
  Matrix x = Matrix::random(kRows, kCols, 47, 0, 2.0), row_scale = Matrix::poisoned(kRows, 3),
         scale = Matrix::poisoned(2, kCols), once = x, twice = x;
  std::vector<uint8_t> codes(kRows * kCols), turned(kRows * kCols), back(kRows * kCols);
  const QTensor q = {.data = {codes.data(), DType::kE4M3, kRows, kCols}, .scale = row_scale.tensor()};
  cpu::quantize({}, {.x = x.tensor(), .q = q});
  cpu::dequantize({}, {.q = q, .y = once.tensor()});
  cpu::quantize_transposed(
      {}, {.x = q.data,
           .x_scale = q.scale,
           .t = {.data = {turned.data(), DType::kE4M3, kCols, kRows}, .scale = scale.tensor()}});
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t c = 0; c < kCols; ++c) back[r * kCols + c] = turned[c * kRows + r];
  cpu::dequantize({}, {.q = {.data = {back.data(), DType::kE4M3, kRows, kCols},
                             .scale = scale.tensor(),
                             .layout = QLayout::k128x1},
                       .y = twice.tensor()});
  int64_t small = 0;
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < kCols; ++c) {
      const float step = scale.at(r / 128, c) * 0x1p-9f;  // of the subnormals
      if (std::abs(once.at(r, c)) < 8 * step) {
        EXPECT_LE(std::abs(twice.at(r, c) - once.at(r, c)), step / 2);
        ++small;
      } else {
        ASSERT_TRUE(same_bits(twice.at(r, c), once.at(r, c))) << r << " " << c;
      }
    }
  }
  EXPECT_LT(small, kRows * kCols / 10);
}

TEST_P(CpuQuantize, NanStaysWhereItIs) {
  const auto [block, rows, cols] = GetParam();
  Matrix x = Matrix::random(rows, cols, 43), y = Matrix::poisoned(rows, cols);
  if (rows == 0) return;
  x.at(rows / 2, cols / 2) = NAN;
  const QTensor q = quantized(x, block);
  cpu::quantize({}, {.x = x.tensor(), .q = q});
  cpu::dequantize({}, {.q = q, .y = y.tensor()});
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c)
      ASSERT_EQ(std::isnan(y.at(r, c)), r == rows / 2 && c == cols / 2) << r << " " << c;
  }
}

constexpr Blocks kLayouts[] = {
    {QLayout::k1x128, 1, 128}, {QLayout::k128x1, 128, 1}, {QLayout::k128x128, 128, 128}};
INSTANTIATE_TEST_SUITE_P(Shapes, CpuQuantize,
                         testing::Combine(testing::ValuesIn(kLayouts), testing::Values(0, 1, 128, 150),
                                          testing::Values(1, 129, 300)));

struct GroupedRows {
  int64_t rows, cols;
  std::vector<int32_t> offsets;  // or none
};
class CpuQuantizeTransposed : public testing::TestWithParam<GroupedRows> {};

// Group by group the 128x1 blocks of its rows, transposed, and the 1x128 blocks; stored codes count as the
// values they stand for. What no group has stays as it was.
TEST_P(CpuQuantizeTransposed, IsTheCompositionByGroup) {
  const auto& [rows, cols, offsets] = GetParam();
  const int64_t groups = std::max<int64_t>(1, std::ssize(offsets) - 1), ld = rows + 3;
  const int64_t blocks = max_row_blocks(rows, groups), col_blocks = ceil_div(cols, 128);
  Matrix x = Matrix::random(rows, cols, 44, 2, 5.0), stored_scale = Matrix::poisoned(rows, col_blocks);
  std::vector<uint8_t> stored(static_cast<size_t>(rows * cols));
  const QTensor q = {.data = {stored.data(), DType::kE4M3, rows, cols}, .scale = stored_scale.tensor()};
  cpu::quantize({}, {.x = x.tensor(), .q = q});
  for (const bool from_stored : {false, true}) {
    Matrix value = x;
    if (from_stored) cpu::dequantize({}, {.q = q, .y = value.tensor()});
    std::vector<uint8_t> codes(static_cast<size_t>(cols * ld), 0x55), row_codes(stored.size(), 0x55);
    std::vector<uint8_t> want = codes, want_rows = row_codes;
    Matrix scale = Matrix::poisoned(blocks + 1, cols, 1), want_scale = scale,
           row_scale = Matrix::poisoned(rows, col_blocks), want_row_scale = row_scale;
    int64_t block = 0;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = offsets.empty() ? 0 : offsets[g], end = offsets.empty() ? rows : offsets[g + 1];
      const int64_t n = end - begin;
      std::vector<uint8_t> part(static_cast<size_t>(n * cols));
      const Tensor values = value.tensor().row_range(begin, end);
      cpu::quantize({}, {.x = values,
                         .q = {.data = {part.data(), DType::kE4M3, n, cols},
                               .scale = want_scale.tensor().row_range(block, block + ceil_div(n, 128)),
                               .layout = QLayout::k128x1}});
      for (int64_t r = 0; r < n; ++r)
        for (int64_t c = 0; c < cols; ++c) want[c * ld + begin + r] = part[r * cols + c];
      block += ceil_div(n, 128);
      std::copy_n(stored.data() + begin * cols, n * cols, want_rows.data() + begin * cols);
      for (int64_t r = begin; r < end; ++r)
        for (int64_t b = 0; b < col_blocks; ++b) want_row_scale.at(r, b) = stored_scale.at(r, b);
    }
    EXPECT_LE(block, blocks);
    QuantizeTransposedArgs args = {
        .x = from_stored ? q.data : x.tensor(),
        .t = {.data = {codes.data(), DType::kE4M3, cols, rows, ld}, .scale = scale.tensor()},
        .num_groups = groups,
        .offsets = offsets.empty() ? nullptr : offsets.data()};
    if (from_stored) {
      args.x_scale = q.scale;
    } else {
      args.q = {.data = {row_codes.data(), DType::kE4M3, rows, cols}, .scale = row_scale.tensor()};
    }
    cpu::quantize_transposed({}, args);
    EXPECT_EQ(codes, want);
    EXPECT_TRUE(same_bits(scale.values, want_scale.values));
    if (from_stored) continue;
    EXPECT_EQ(row_codes, want_rows);
    EXPECT_TRUE(same_bits(row_scale.values, want_row_scale.values));
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CpuQuantizeTransposed,
                         testing::Values(GroupedRows{0, 5, {}}, GroupedRows{1, 1, {}},
                                         GroupedRows{300, 130, {}}, GroupedRows{0, 3, {0, 0, 0}},
                                         GroupedRows{290, 129, {0, 1, 1, 130, 283}}));

// Leaves are quantised apart, their rows wherever parts of them lie: the same as if they lay one after the
// other, groups of one leaf each.
TEST(CpuQuantizeTransposed, ChainsAreGroupsOfGatheredRows) {
  constexpr int64_t kRows = 420, kCols = 140;
  // 2 groups, 2 leaves, 2 parts each.
  const std::vector<RowSegment> table = {{0, 100, 0, 0},   {200, 250, 0, 0}, {100, 101, 0, 1},
                                         {250, 250, 0, 1}, {101, 101, 1, 0}, {250, 250, 1, 0},
                                         {101, 190, 1, 1}, {260, 400, 1, 1}};
  const std::vector<int32_t> offsets = {0, 150, 151, 151, 380};
  std::vector<RowPlace> places(5);
  RowSegments segments = {.data = table.data(), .count = 8, .num_leaves = 2};
  cpu::row_places({}, {.segments = segments, .num_groups = 2, .rows = kRows, .places = places.data()});
  segments.places = places.data();
  const int32_t blocks[] = {0, 2, 3, 3, 5};
  for (size_t c = 0; c < 5; ++c) {
    EXPECT_EQ(places[c].row, offsets[c]);
    EXPECT_EQ(places[c].block, blocks[c]);
  }
  Matrix x = Matrix::random(kRows, kCols, 48), gathered = Matrix::poisoned(kRows, kCols);
  int64_t to = 0;
  for (const RowSegment& s : table)
    for (int64_t r = s.begin; r < s.end; ++r, ++to)
      for (int64_t c = 0; c < kCols; ++c) gathered.at(to, c) = x.at(r, c);
  std::vector<uint8_t> codes(kRows * kCols, 0x55), want = codes, rows(kRows * kCols, 0x55);
  const int64_t max_blocks = max_row_blocks(kRows, 4);
  Matrix scale = Matrix::poisoned(max_blocks, kCols), want_scale = scale,
         row_scale = Matrix::poisoned(kRows, 2);
  cpu::quantize_transposed(
      {}, {.x = x.tensor(),
           .t = {.data = {codes.data(), DType::kE4M3, kCols, kRows}, .scale = scale.tensor()},
           .q = {.data = {rows.data(), DType::kE4M3, kRows, kCols}, .scale = row_scale.tensor()},
           .num_groups = 2,
           .segments = segments});
  cpu::quantize_transposed(
      {}, {.x = gathered.tensor(),
           .t = {.data = {want.data(), DType::kE4M3, kCols, kRows}, .scale = want_scale.tensor()},
           .num_groups = 4,
           .offsets = offsets.data()});
  EXPECT_EQ(codes, want);
  EXPECT_TRUE(same_bits(scale.values, want_scale.values));
  // 1x128 codes stay at their rows.
  std::vector<uint8_t> row(kCols);
  float row_scales[2];
  for (const int64_t r : {int64_t{100}, int64_t{399}}) {
    cpu::quantize(
        {}, {.x = x.tensor().row_range(r, r + 1),
             .q = {.data = {row.data(), DType::kE4M3, 1, kCols}, .scale = f32_tensor(row_scales, 1, 2)}});
    EXPECT_TRUE(std::equal(row.begin(), row.end(), rows.begin() + r * kCols));
  }
  EXPECT_EQ(rows[195 * kCols], 0x55);
}

// Group by group the 128x128 blocks, and their transposes with the same scales.
TEST(CpuQuantizeWeight, IsTheCompositionByGroup) {
  for (const auto& [groups, n, k] : {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1}, {2, 130, 257}}) {
    Matrix x = Matrix::random(groups * n, k, 45, 1, 5.0);
    const int64_t n_blocks = ceil_div(n, 128), k_blocks = ceil_div(k, 128);
    std::vector<uint8_t> codes(static_cast<size_t>(groups * n * k), 0x55), transposed = codes, want = codes;
    Matrix scale = Matrix::poisoned(groups * n_blocks, k_blocks),
           scale_t = Matrix::poisoned(groups * k_blocks, n_blocks), want_scale = scale;
    cpu::quantize_weight({}, {.x = x.tensor(),
                              .num_groups = groups,
                              .q = {.data = {codes.data(), DType::kE4M3, groups * n, k},
                                    .scale = scale.tensor(),
                                    .layout = QLayout::k128x128},
                              .transposed = {.data = {transposed.data(), DType::kE4M3, groups * k, n},
                                             .scale = scale_t.tensor(),
                                             .layout = QLayout::k128x128}});
    for (int64_t g = 0; g < groups; ++g)
      cpu::quantize({}, {.x = x.tensor().row_range(g * n, (g + 1) * n),
                         .q = {.data = {want.data() + g * n * k, DType::kE4M3, n, k},
                               .scale = want_scale.tensor().row_range(g * n_blocks, (g + 1) * n_blocks),
                               .layout = QLayout::k128x128}});
    EXPECT_EQ(codes, want);
    EXPECT_TRUE(same_bits(scale.values, want_scale.values));
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t r = 0; r < n; ++r)
        for (int64_t c = 0; c < k; ++c)
          ASSERT_EQ(transposed[(g * k + c) * n + r], codes[(g * n + r) * k + c]) << g << " " << r << " " << c;
      for (int64_t r = 0; r < n_blocks; ++r)
        for (int64_t c = 0; c < k_blocks; ++c)
          ASSERT_TRUE(same_bits(scale_t.at(g * k_blocks + c, r), scale.at(g * n_blocks + r, c)));
    }
  }
}

TEST(CpuQuantizeErrors, TablesOfSegments) {
  std::vector<RowPlace> places(3);
  const auto expect_error = [&](const std::vector<RowSegment>& table, const char* words) {
    try {
      cpu::row_places({},
                      {.segments = {.data = table.data(), .count = int32_t(table.size()), .num_leaves = 2},
                       .rows = 10,
                       .places = places.data()});
      ADD_FAILURE() << "no error: " << words;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
    }
  };
  expect_error({{0, 4, 0, 0}, {4, 11, 0, 1}}, "rows [4, 11) of 10");
  expect_error({{0, 4, 0, 0}, {4, 3, 0, 1}}, "rows [4, 3)");
  expect_error({{0, 4, 0, 0}, {4, 5, 0, 0}}, "leaf 0");
  expect_error({{0, 8, 0, 0}, {4, 10, 0, 1}}, "14 rows of 10");
  expect_error({{0, 8, 0, 0}}, "no table");
}

TEST(CpuQuantizeErrors, GroupsAndShapes) {
  Matrix x = Matrix::random(4, 3, 46), scale = Matrix::poisoned(1, 3);
  std::vector<uint8_t> codes(12);
  const std::vector<int32_t> past = {0, 5}, back = {0, 3, 2};
  QuantizeTransposedArgs args = {.x = x.tensor(),
                                 .t = {.data = {codes.data(), DType::kE4M3, 3, 4}, .scale = scale.tensor()},
                                 .offsets = past.data()};
  EXPECT_THROW(cpu::quantize_transposed({}, args), Error);
  args.offsets = back.data();
  args.num_groups = 2;  // may need two blocks
  EXPECT_THROW(cpu::quantize_transposed({}, args), Error);
  args.num_groups = 1;
  args.offsets = nullptr;
  args.x_scale = scale.tensor();  // F32 has none
  EXPECT_THROW(cpu::quantize_transposed({}, args), Error);
  EXPECT_THROW(cpu::quantize_weight({}, {.x = x.tensor(), .num_groups = 3}), Error);
}

TEST(CpuQuantizeErrors, SmallBlocksAndWrongScale) {
  // A block whose scale would underflow counts as zero.
  Matrix x = Matrix::poisoned(1, 2), scale = Matrix::poisoned(1, 1);
  x.at(0, 0) = 0x1p-149f;
  x.at(0, 1) = -0x1p-149f;
  std::vector<uint8_t> codes(2, 0x55);
  QTensor q = {
      .data = {codes.data(), DType::kE4M3, 1, 2}, .scale = scale.tensor(), .layout = QLayout::k1x128};
  cpu::quantize({}, {.x = x.tensor(), .q = q});
  EXPECT_EQ(scale.at(0, 0), 1.0f);
  EXPECT_EQ(codes[0], 0x00);
  EXPECT_EQ(codes[1], 0x80);
  q.layout = QLayout::k128x1;  // would need a scale per column
  EXPECT_THROW(cpu::quantize({}, {.x = x.tensor(), .q = q}), Error);
}

}  // namespace
}  // namespace contender
