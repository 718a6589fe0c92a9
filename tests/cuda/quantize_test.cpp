#include "ops/quantize.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "cpu/cpu_ops.h"
#include "cuda/ops.h"
#include "tests/cuda/device_array.h"
#include "tests/cuda/segment_table.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceTensor;
using test::Matrix;
using test::same_bits;

// A quantised matrix on the device beside one on the host, padded alike.
struct QuantizedPair {
  int64_t rows, cols, ld;
  QLayout layout;
  std::vector<uint8_t> codes;
  Matrix scale;
  DeviceArray<uint8_t> device_codes;
  DeviceTensor device_scale;

  QuantizedPair(int64_t rows, int64_t cols, int64_t padding, int64_t scale_padding, QLayout layout)
      : rows(rows),
        cols(cols),
        ld(cols + padding),
        layout(layout),
        codes(static_cast<size_t>(rows * ld), 0xFF),
        scale(Matrix::poisoned(layout == QLayout::k1x128 ? rows : ceil_div(rows, 128),
                               layout == QLayout::k128x1 ? cols : ceil_div(cols, 128), scale_padding)),
        device_codes(rows * ld),
        device_scale(DType::kF32, scale) {}
  QTensor host() {
    return {.data = {codes.data(), DType::kE4M3, rows, cols, ld}, .scale = scale.tensor(), .layout = layout};
  }
  QTensor device() const {
    return {.data = {device_codes.data(), DType::kE4M3, rows, cols, ld},
            .scale = device_scale.tensor(),
            .layout = layout};
  }
  // Bit for bit, padding included; a NaN's sign aside.
  void expect_equal() const {
    const std::vector<uint8_t> got = device_codes.download();
    for (int64_t i = 0; i < rows * ld; ++i) {
      const bool nan = (codes[i] & 0x7F) == 0x7F && i % ld < cols;
      ASSERT_EQ(nan ? got[i] & 0x7F : got[i], nan ? 0x7F : codes[i]) << i / ld << " " << i % ld;
    }
    EXPECT_TRUE(same_bits(device_scale.download().values, scale.values));
  }
};

struct QuantShape {
  int64_t rows, cols, padding;
};
std::ostream& operator<<(std::ostream& o, const QuantShape& s) {
  return o << s.rows << "x" << s.cols << "+" << s.padding;
}

class CudaQuantize : public testing::TestWithParam<std::tuple<DType, QLayout, QuantShape>> {
 protected:
  DType dtype() const { return std::get<0>(GetParam()); }
  // Magnitudes over ten decades, so that a wrong scale shows; the first block zero, one NaN, one infinity.
  Matrix input() const {
    const auto [rows, cols, padding] = std::get<2>(GetParam());
    Matrix x = Matrix::random(rows, cols, 42, padding, 10.0);
    for (int64_t r = 0; r < std::min<int64_t>(rows, 128); ++r) {
      for (int64_t c = 0; c < std::min<int64_t>(cols, 128); ++c) x.at(r, c) = 0;
    }
    if (rows > 0 && cols > 1) x.at(rows - 1, 1) = -0.0f;
    if (rows > 1 && cols > 128) {
      x.at(rows - 1, cols - 1) = NAN;
      x.at(rows / 2, 128) = -INFINITY;
    }
    return test::rounded(x, dtype());
  }
};

TEST_P(CudaQuantize, EqualsTheCpuBackend) {
  const auto [rows, cols, padding] = std::get<2>(GetParam());
  Matrix x = input();
  QuantizedPair q(rows, cols, padding, 3, std::get<1>(GetParam()));
  const DeviceTensor device(dtype(), x);
  cpu::quantize({}, {.x = x.tensor(), .q = q.host()});
  cuda::quantize({}, {.x = device.tensor(), .q = q.device()});
  q.expect_equal();
  const std::vector<uint8_t> first = q.device_codes.download();
  cuda::quantize({}, {.x = device.tensor(), .q = q.device()});
  EXPECT_EQ(q.device_codes.download(), first);

  Matrix want = Matrix::poisoned(rows, cols, padding);
  const DeviceTensor y(DType::kF32, want);
  cpu::dequantize({}, {.q = q.host(), .y = want.tensor()});
  cuda::dequantize({}, {.q = q.device(), .y = y.tensor()});
  const Matrix got = y.download();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      if (std::isnan(want.at(r, c))) {
        ASSERT_TRUE(std::isnan(got.at(r, c)));
      } else {
        ASSERT_TRUE(same_bits(got.at(r, c), want.at(r, c))) << r << " " << c;
      }
    }
  }
  EXPECT_TRUE(got.padding_untouched());
}
INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaQuantize,
    testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                     testing::Values(QLayout::k1x128, QLayout::k128x1, QLayout::k128x128),
                     testing::Values(QuantShape{0, 64, 0}, QuantShape{1, 1, 0}, QuantShape{1, 136, 8},
                                     QuantShape{130, 129, 2}, QuantShape{150, 300, 0},
                                     QuantShape{256, 256, 16}, QuantShape{257, 200, 0})));

// Scales of every magnitude, mantissas next to all ones, quotients at and beside the middles between codes:
// of weights the short division is the long one.
class CudaQuantizeDivision : public testing::TestWithParam<QLayout> {};
TEST_P(CudaQuantizeDivision, IsCorrectlyRounded) {
  constexpr int64_t kRows = 600;
  Matrix x = Matrix::random(kRows, 128, 43, 0, 3.0);
  for (int64_t r = 0; r < kRows; ++r) {
    const uint32_t exponent = static_cast<uint32_t>(r) % 250 + 2;
    const uint32_t mantissa =
        r % 3 == 0 ? 0x7FFFFF - static_cast<uint32_t>(r) / 3 % 4 : philox(1, RandomStream::kTest, r)[0] >> 9;
    const float amax = std::bit_cast<float>(exponent << 23 | mantissa), scale = amax / 448.0f;
    for (int64_t c = 1; c < 128; ++c) {
      const int code = static_cast<int>(c) % 126;
      const float middle =
          (e4m3_to_float(static_cast<uint8_t>(code)) + e4m3_to_float(static_cast<uint8_t>(code + 1))) / 2;
      const float v = middle * scale;
      const float beside[3] = {v, std::nextafterf(v, 0.0f), std::nextafterf(v, INFINITY)};
      x.at(r, c) = r % 2 == 0 ? std::min(beside[c % 3], amax) : std::clamp(x.at(r, c) * amax, -amax, amax);
    }
    x.at(r, 0) = amax;
  }
  const DeviceTensor device(DType::kF32, x);
  if (GetParam() == QLayout::k1x128) {
    QuantizedPair q(kRows, 128, 0, 0, GetParam());
    cpu::quantize({}, {.x = x.tensor(), .q = q.host()});
    cuda::quantize({}, {.x = device.tensor(), .q = q.device()});
    q.expect_equal();
    return;
  }
  for (int64_t r = 0; r < kRows; ++r) {  // a scale for each row
    QuantizedPair q(1, 128, 0, 0, GetParam());
    cpu::quantize({}, {.x = x.tensor().row_range(r, r + 1), .q = q.host()});
    cuda::quantize({}, {.x = device.tensor().row_range(r, r + 1), .q = q.device()});
    q.expect_equal();
  }
}
INSTANTIATE_TEST_SUITE_P(Layouts, CudaQuantizeDivision, testing::Values(QLayout::k1x128, QLayout::k128x128));

// A row's codes and scales depend on the row alone.
TEST(CudaQuantizeRows, AreIndependent) {
  const Matrix x = Matrix::random(70, 300, 44);
  const DeviceTensor device(DType::kBF16, x);
  QuantizedPair all(70, 300, 0, 0, QLayout::k1x128), one(1, 300, 0, 0, QLayout::k1x128);
  cuda::quantize({}, {.x = device.tensor(), .q = all.device()});
  const std::vector<uint8_t> codes = all.device_codes.download();
  const Matrix scale = all.device_scale.download();
  for (const int64_t r : {0, 33, 69}) {
    cuda::quantize({}, {.x = device.tensor().row_range(r, r + 1), .q = one.device()});
    const std::vector<uint8_t> alone = one.device_codes.download();
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), codes.begin() + r * 300));
    for (int64_t b = 0; b < 3; ++b)
      EXPECT_TRUE(same_bits(one.device_scale.download().at(0, b), scale.at(r, b)));
  }
}

// All 256 codes.
TEST(CudaDequantize, EveryCode) {
  QuantizedPair q(2, 128, 0, 0, QLayout::k1x128);
  for (int i = 0; i < 256; ++i) q.codes[i] = static_cast<uint8_t>(i);
  q.device_codes.upload(q.codes);
  q.device_scale.upload({{1.0f, 0.37f}, 2, 1, 1});
  const DeviceTensor y(DType::kF32, 2, 128);
  cuda::dequantize({}, {.q = q.device(), .y = y.tensor()});
  const Matrix got = y.download();
  for (int i = 0; i < 256; ++i) {
    const float want = e4m3_to_float(static_cast<uint8_t>(i)) * (i < 128 ? 1.0f : 0.37f);
    const float value = got.at(i / 128, i % 128);
    EXPECT_TRUE(std::isnan(want) ? std::isnan(value) : same_bits(value, want)) << i;
  }
}

// Codes and scales on the device beside those on the host; what must stay is 0x55, or NaN.
struct Codes {
  std::vector<uint8_t> host;
  Matrix host_scale;
  DeviceArray<uint8_t> device;
  DeviceTensor scale;
  Codes(int64_t bytes, int64_t scale_rows, int64_t scale_cols)
      : host(static_cast<size_t>(bytes), 0x55),
        host_scale(Matrix::poisoned(scale_rows, scale_cols, 4)),
        device(host),
        scale(DType::kF32, host_scale) {}
  // Bit for bit; a NaN's sign aside.
  void expect_equal(const char* what) const {
    std::vector<uint8_t> got = device.download();
    for (size_t i = 0; i < host.size(); ++i) {
      const bool nan = (host[i] & 0x7F) == 0x7F;
      ASSERT_EQ(nan ? got[i] & 0x7F : got[i], nan ? 0x7F : host[i]) << what << " code " << i;
    }
    EXPECT_TRUE(same_bits(scale.download().values, host_scale.values)) << what;
  }
};

struct GroupShape {
  int64_t rows, cols, padding;   // of x
  int64_t ld;                    // of the transposed codes
  std::vector<int32_t> offsets;  // or none
};
std::vector<int32_t> many_groups() {  // more than a warp has lanes
  std::vector<int32_t> offsets = {0};
  for (int g = 0; g < 70; ++g) offsets.push_back(offsets.back() + (g == 40 ? 131 : g % 4));
  return offsets;
}
class CudaQuantizeTransposed : public testing::TestWithParam<std::tuple<DType, GroupShape>> {};

TEST_P(CudaQuantizeTransposed, EqualsTheCpuBackend) {
  const auto& [dtype, shape] = GetParam();
  const auto& [rows, cols, padding, ld, offsets] = shape;
  const int64_t groups = std::max<int64_t>(1, std::ssize(offsets) - 1);
  Matrix x = Matrix::random(rows, cols, 45, padding, 10.0);
  if (rows > 1) x.at(rows / 2, cols - 1) = NAN;
  for (int64_t r = 0; r < std::min<int64_t>(rows, 128); ++r) x.at(r, 0) = 0;
  x = test::rounded(x, dtype == DType::kE4M3 ? DType::kF32 : dtype);
  const DeviceTensor device_x(dtype == DType::kBF16 ? dtype : DType::kF32, x);
  QuantizedPair stored(rows, cols, padding, 0, QLayout::k1x128);
  if (dtype == DType::kE4M3) {
    cpu::quantize({}, {.x = x.tensor(), .q = stored.host()});
    cuda::quantize({}, {.x = device_x.tensor(), .q = stored.device()});
  }
  Codes t(cols * ld, max_row_blocks(rows, groups) + 1, cols);
  QuantizedPair q(rows, cols, padding, 1, QLayout::k1x128);
  const DeviceArray<int32_t> device_offsets(offsets);

  QuantizeTransposedArgs host = {
      .x = x.tensor(),
      .t = {.data = {t.host.data(), DType::kE4M3, cols, rows, ld}, .scale = t.host_scale.tensor()},
      .num_groups = groups,
      .offsets = offsets.empty() ? nullptr : offsets.data()};
  QuantizeTransposedArgs device = host;
  device.x = device_x.tensor();
  device.t = {.data = {t.device.data(), DType::kE4M3, cols, rows, ld}, .scale = t.scale.tensor()};
  device.offsets = offsets.empty() ? nullptr : device_offsets.data();
  if (dtype == DType::kE4M3) {
    host.x = stored.host().data;
    host.x_scale = stored.host().scale;
    device.x = stored.device().data;
    device.x_scale = stored.device().scale;
  } else {
    host.q = q.host();
    device.q = q.device();
  }
  cpu::quantize_transposed({}, host);
  cuda::quantize_transposed({}, device);
  t.expect_equal("transposed");
  q.expect_equal();
  const std::vector<uint8_t> first = t.device.download();
  device.q = {};
  cuda::quantize_transposed({}, device);
  EXPECT_EQ(t.device.download(), first);
}
INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaQuantizeTransposed,
    testing::Combine(testing::Values(DType::kF32, DType::kBF16, DType::kE4M3),
                     testing::Values(GroupShape{0, 16, 0, 16, {}}, GroupShape{1, 1, 0, 1, {}},
                                     GroupShape{128, 128, 0, 128, {}}, GroupShape{300, 272, 8, 304, {}},
                                     GroupShape{257, 130, 1, 259, {}}, GroupShape{0, 16, 0, 16, {0, 0, 0}},
                                     GroupShape{400, 144, 0, 400, {0, 5, 5, 150, 290, 397}},
                                     GroupShape{240, 24, 0, 240, many_groups()})));

struct ChainShape {
  int64_t rows, cols, groups;
  int32_t leaves;
  int parts;
};
class CudaQuantizeChains : public testing::TestWithParam<std::tuple<DType, ChainShape>> {};

// Places, and the codes of rows gathered from wherever the parts of a leaf lie.
TEST_P(CudaQuantizeChains, EqualsTheCpuBackend) {
  const auto& [dtype, shape] = GetParam();
  const auto& [rows, cols, groups, leaves, parts] = shape;
  const int64_t chains = groups * leaves;
  // As chunks have it: each part of the rows is sorted by chain; some rows at its end are nobody's.
  std::vector<RowSegment> table(static_cast<size_t>(chains * parts));
  for (int part = 0; part < parts; ++part) {
    int32_t at = narrow<int32_t>(rows * part / parts);
    const int32_t end = narrow<int32_t>(rows * (part + 1) / parts) - part;
    for (int64_t c = 0; c < chains; ++c) {
      const uint32_t roll = philox(49, RandomStream::kTest, static_cast<uint64_t>(c), part)[0];
      const int32_t wanted = roll % 3 == 0 ? 0 : narrow<int32_t>(roll % (2 * rows / parts / chains + 2));
      const int32_t n = std::min(wanted, end - at);
      table[static_cast<size_t>(c * parts + part)] = {at, at + n, narrow<int32_t>(c / leaves),
                                                      narrow<int32_t>(c % leaves)};
      at += n;
    }
  }
  const test::SegmentTable segments(table, leaves);
  std::vector<RowPlace> host_places(static_cast<size_t>(chains + 1));
  const DeviceArray<RowPlace> places(chains + 1);
  RowSegments host_segments = segments.host(), device_segments = segments.device();
  cpu::row_places(
      {}, {.segments = host_segments, .num_groups = groups, .rows = rows, .places = host_places.data()});
  cuda::row_places(
      {}, {.segments = device_segments, .num_groups = groups, .rows = rows, .places = places.data()});
  const std::vector<RowPlace> got_places = places.download();
  for (int64_t c = 0; c <= chains; ++c) {
    ASSERT_EQ(got_places[c].row, host_places[c].row) << c;
    ASSERT_EQ(got_places[c].block, host_places[c].block) << c;
  }
  host_segments.places = host_places.data();
  device_segments.places = places.data();

  Matrix x = test::rounded(Matrix::random(rows, cols, 50, 8, 10.0), DType::kBF16);
  const DeviceTensor device_x(dtype == DType::kBF16 ? dtype : DType::kF32, x);
  QuantizedPair stored(rows, cols, 8, 0, QLayout::k1x128), q(rows, cols, 8, 1, QLayout::k1x128);
  const int64_t ld = round_up(rows, 16);
  Codes t(cols * ld, max_row_blocks(rows, chains), cols);
  QuantizeTransposedArgs host = {
      .x = x.tensor(),
      .t = {.data = {t.host.data(), DType::kE4M3, cols, rows, ld}, .scale = t.host_scale.tensor()},
      .num_groups = groups,
      .segments = host_segments};
  QuantizeTransposedArgs device = {
      .x = device_x.tensor(),
      .t = {.data = {t.device.data(), DType::kE4M3, cols, rows, ld}, .scale = t.scale.tensor()},
      .num_groups = groups,
      .segments = device_segments};
  if (dtype == DType::kE4M3) {
    cpu::quantize({}, {.x = x.tensor(), .q = stored.host()});
    cuda::quantize({}, {.x = device_x.tensor(), .q = stored.device()});
    host.x = stored.host().data, host.x_scale = stored.host().scale;
    device.x = stored.device().data, device.x_scale = stored.device().scale;
  } else {
    host.q = q.host();
    device.q = q.device();
  }
  cpu::quantize_transposed({}, host);
  cuda::quantize_transposed({}, device);
  t.expect_equal("transposed");
  q.expect_equal();
}
INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaQuantizeChains,
    testing::Combine(testing::Values(DType::kF32, DType::kBF16, DType::kE4M3),
                     testing::Values(ChainShape{300, 136, 1, 1, 1}, ChainShape{530, 24, 1, 4, 1},
                                     ChainShape{700, 144, 3, 2, 2}, ChainShape{900, 16, 20, 32, 2})));

// Codes and scales of a group's rows depend on them alone, wherever the group lies.
TEST(CudaQuantizeTransposedGroups, AreIndependent) {
  constexpr int64_t kRows = 150, kCols = 64, kShift = 37, kAll = 200;
  const Matrix x = Matrix::random(kRows, kCols, 46);
  Matrix moved = Matrix::random(kAll, kCols, 47);
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t c = 0; c < kCols; ++c) moved.at(kShift + r, c) = x.at(r, c);
  const DeviceTensor alone_x(DType::kBF16, x), moved_x(DType::kBF16, moved);
  const Codes alone(kCols * 160, 2, kCols), among(kCols * 208, max_row_blocks(kAll, 3), kCols);
  const DeviceArray<int32_t> offsets(std::vector<int32_t>{0, kShift, kShift + kRows, kAll});
  cuda::quantize_transposed({}, {.x = alone_x.tensor(),
                                 .t = {.data = {alone.device.data(), DType::kE4M3, kCols, kRows, 160},
                                       .scale = alone.scale.tensor()}});
  cuda::quantize_transposed({}, {.x = moved_x.tensor(),
                                 .t = {.data = {among.device.data(), DType::kE4M3, kCols, kAll, 208},
                                       .scale = among.scale.tensor()},
                                 .num_groups = 3,
                                 .offsets = offsets.data()});
  const std::vector<uint8_t> a = alone.device.download(), b = among.device.download();
  const Matrix sa = alone.scale.download(), sb = among.scale.download();
  for (int64_t c = 0; c < kCols; ++c) {
    EXPECT_TRUE(std::equal(a.begin() + c * 160, a.begin() + c * 160 + kRows, b.begin() + c * 208 + kShift));
    for (int64_t block = 0; block < 2; ++block)
      EXPECT_TRUE(same_bits(sa.at(block, c), sb.at(block + 1, c))) << block << " " << c;
  }
}

struct WeightShape {
  int64_t groups, n, k, padding;
};
class CudaQuantizeWeight : public testing::TestWithParam<WeightShape> {};

TEST_P(CudaQuantizeWeight, EqualsTheCpuBackend) {
  const auto [groups, n, k, padding] = GetParam();
  Matrix x = Matrix::random(groups * n, k, 48, padding, 10.0);
  if (n > 1) x.at(groups * n - 1, k - 1) = NAN;
  const DeviceTensor device(DType::kF32, x);
  const int64_t n_blocks = ceil_div(n, 128), k_blocks = ceil_div(k, 128);
  Codes q(groups * n * (k + padding), groups * n_blocks, k_blocks),
      t(groups * k * (n + padding), groups * k_blocks, n_blocks);
  const auto form = [&](void* codes, int64_t rows, int64_t cols, const Tensor& scale) {
    return QTensor{.data = {codes, DType::kE4M3, rows, cols, cols + padding},
                   .scale = scale,
                   .layout = QLayout::k128x128};
  };
  cpu::quantize_weight({}, {.x = x.tensor(),
                            .num_groups = groups,
                            .q = form(q.host.data(), groups * n, k, q.host_scale.tensor()),
                            .transposed = form(t.host.data(), groups * k, n, t.host_scale.tensor())});
  const QuantizeWeightArgs args = {.x = device.tensor(),
                                   .num_groups = groups,
                                   .q = form(q.device.data(), groups * n, k, q.scale.tensor()),
                                   .transposed = form(t.device.data(), groups * k, n, t.scale.tensor())};
  cuda::quantize_weight({}, args);
  q.expect_equal("q");
  t.expect_equal("transposed");
  // Each alone has the same bits.
  const std::vector<uint8_t> codes = q.device.download(), turned = t.device.download();
  q.device.upload(std::vector<uint8_t>(codes.size(), 0x55));
  t.device.upload(std::vector<uint8_t>(turned.size(), 0x55));
  cuda::quantize_weight({}, {.x = args.x, .num_groups = groups, .q = args.q});
  cuda::quantize_weight({}, {.x = args.x, .num_groups = groups, .transposed = args.transposed});
  EXPECT_EQ(q.device.download(), codes);
  EXPECT_EQ(t.device.download(), turned);
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaQuantizeWeight,
                         testing::Values(WeightShape{1, 0, 16, 0}, WeightShape{1, 1, 1, 0},
                                         WeightShape{1, 128, 256, 0}, WeightShape{3, 48, 144, 16},
                                         WeightShape{2, 272, 132, 0}, WeightShape{2, 131, 66, 1}));

// Roundings to the two neighbours are as frequent as their distances ask: no bias. Of n values spread evenly
// between two codes, those rounded up are n / 2 within 5 sigma, in every kind of block.
TEST(CudaQuantizeRounding, HasNoBias) {
  constexpr int64_t kSide = 128;
  Matrix x = Matrix::poisoned(kSide, kSide);
  for (int64_t r = 0; r < kSide; ++r) {
    for (int64_t c = 0; c < kSide; ++c) {
      const auto place = static_cast<uint64_t>(r * kSide + c);
      x.at(r, c) =
          r == 0 || c == 0
              ? 448.0f  // the largest of every row, column and square
              : 16.0f + 2.0f * static_cast<float>(uniform01(philox(5, RandomStream::kTest, place)[0]));
    }
  }
  const auto expect_even = [&](const std::vector<uint8_t>& codes, const char* what) {
    const uint8_t upper = float_to_e4m3(18.0f), lower = float_to_e4m3(16.0f);
    int64_t up = 0, n = 0;
    for (int64_t i = kSide; i < kSide * kSide; ++i) {
      if (i % kSide == 0) continue;
      ASSERT_TRUE(codes[i] == upper || codes[i] == lower) << what << " " << int{codes[i]};
      up += codes[i] == upper;
      ++n;
    }
    EXPECT_LE(std::abs(static_cast<double>(up) - static_cast<double>(n) / 2),
              2.5 * std::sqrt(static_cast<double>(n)))
        << what;
  };
  const DeviceTensor device(DType::kF32, x);
  QuantizedPair q(kSide, kSide, 0, 0, QLayout::k1x128), w(kSide, kSide, 0, 0, QLayout::k128x128);
  const Codes t(kSide * kSide, 1, kSide);
  cuda::quantize_transposed(
      {}, {.x = device.tensor(),
           .t = {.data = {t.device.data(), DType::kE4M3, kSide, kSide}, .scale = t.scale.tensor()},
           .q = q.device()});
  cuda::quantize_weight({}, {.x = device.tensor(), .q = w.device()});
  expect_even(q.device_codes.download(), "1x128");
  expect_even(t.device.download(), "128x1");
  expect_even(w.device_codes.download(), "128x128");
}

// Groups past the rows: exit code 10 + that of the error.
[[noreturn]] void quantize_past_the_rows() {
  dup2(STDERR_FILENO, STDOUT_FILENO);  // a kernel's words go to stdout
  try {
    const DeviceTensor x(DType::kF32, 4, 16);
    const Codes t(16 * 16, 2, 16);
    const DeviceArray<int32_t> offsets(std::vector<int32_t>{0, 3, 5});
    cuda::quantize_transposed(
        {}, {.x = x.tensor(),
             .t = {.data = {t.device.data(), DType::kE4M3, 16, 4, 16}, .scale = t.scale.tensor()},
             .num_groups = 2,
             .offsets = offsets.data()});
    CUDA_CHECK(cudaDeviceSynchronize());
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    std::_Exit(10 + static_cast<int>(e.code()));
  }
  std::_Exit(0);
}
TEST(CudaQuantizeDeathTest, GroupsPastTheRows) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(quantize_past_the_rows(), testing::ExitedWithCode(11),
              "quantize_transposed: group 1 has rows \\[3, 5\\) of 4\n(.*\n)*.*a kernel failed");
}

// A table whose segments are none: the same.
[[noreturn]] void place_segments_backwards() {
  dup2(STDERR_FILENO, STDOUT_FILENO);
  try {
    const test::SegmentTable table({{0, 3, 0, 0}, {3, 2, 0, 1}}, 2);
    const DeviceArray<RowPlace> places(3);
    cuda::row_places({}, {.segments = table.device(), .rows = 4, .places = places.data()});
    CUDA_CHECK(cudaDeviceSynchronize());
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    std::_Exit(10 + static_cast<int>(e.code()));
  }
  std::_Exit(0);
}
TEST(CudaQuantizeDeathTest, SegmentsBackwards) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(place_segments_backwards(), testing::ExitedWithCode(11),
              "row_places: part 0 of group 0, leaf 1: rows \\[3, 2\\) of 4");
}

TEST(CudaQuantizeErrors, WrongScaleAndDtype) {
  const DeviceTensor x(DType::kF32, 1, 2), y(DType::kBF16, 1, 2);
  QuantizedPair q(1, 2, 0, 0, QLayout::k1x128);
  q.layout = QLayout::k128x1;  // would need a scale per column
  EXPECT_THROW(cuda::quantize({}, {.x = x.tensor(), .q = q.device()}), Error);
  q.layout = QLayout::k1x128;
  EXPECT_THROW(cuda::dequantize({}, {.q = q.device(), .y = y.tensor()}), Error);
}

}  // namespace
}  // namespace contender
