#include "ops/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace contender {
namespace {

constexpr int kMantissaBits = 3;
constexpr int kBias = 7;
constexpr float kMax = 448.0f;

// An empty q is always right.
void check_codes(const QTensor& q, QLayout layout, int64_t rows, int64_t cols, int64_t scale_rows,
                 const char* name) {
  if (!q.data) return;
  CHECK(q.layout == layout, "{}: layout {}", name, static_cast<int>(q.layout));
  CHECK(q.data.dtype == DType::kE4M3 && q.data.rows == rows && q.data.cols == cols,
        "{}: {} [{}, {}], expected F8_E4M3 [{}, {}]", name, dtype_name(q.data.dtype), q.data.rows,
        q.data.cols, rows, cols);
  CHECK(q.scale.dtype == DType::kF32 && q.scale.rows == scale_rows &&
            q.scale.cols == ceil_div(cols, kQuantizeBlock),
        "{}: scale {} [{}, {}], expected F32 [{}, {}]", name, dtype_name(q.scale.dtype), q.scale.rows,
        q.scale.cols, scale_rows, ceil_div(cols, kQuantizeBlock));
}

}  // namespace

uint8_t float_to_e4m3(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  const uint32_t sign = bits >> 31 << 7;
  if (std::isnan(v)) return static_cast<uint8_t>(sign | 0x7F);
  const float magnitude = std::min(std::abs(v), kMax);
  uint32_t code;
  if (magnitude < 0x1p-6f) {
    // Subnormal: at 2^14 the last bit of a float weighs 2^-9, the step of these codes, so the addition rounds
    // to it.
    code = std::bit_cast<uint32_t>(magnitude + 0x1p14f) - std::bit_cast<uint32_t>(0x1p14f);
  } else {
    constexpr int kDropped = 23 - kMantissaBits;
    const uint32_t m = std::bit_cast<uint32_t>(magnitude);
    const uint32_t rounded =
        m + (uint32_t{1} << (kDropped - 1)) - 1 + (m >> kDropped & 1);  // to nearest, ties to even
    code = (rounded >> kDropped) - (uint32_t{127 - kBias} << kMantissaBits);
  }
  return static_cast<uint8_t>(sign | code);
}

float e4m3_to_float(uint8_t v) {
  const int exponent = v >> kMantissaBits & 15, mantissa = v & 7;
  float magnitude;
  if ((v & 0x7F) == 0x7F) {
    magnitude = std::nanf("");
  } else if (exponent == 0) {
    magnitude = static_cast<float>(mantissa) * 0x1p-9f;
  } else {
    magnitude = std::bit_cast<float>(static_cast<uint32_t>(exponent + 127 - kBias) << 23 |
                                     static_cast<uint32_t>(mantissa) << (23 - kMantissaBits));
  }
  return v & 0x80 ? -magnitude : magnitude;
}

Cost quantize_cost(int64_t rows, int64_t cols, QLayout layout, DType activation) {
  const int64_t scales = layout == QLayout::k1x128   ? rows * ceil_div(cols, 128)
                         : layout == QLayout::k128x1 ? ceil_div(rows, 128) * cols
                                                     : ceil_div(rows, 128) * ceil_div(cols, 128);
  const int64_t n = rows * cols;
  return {.flops = 2 * static_cast<double>(n),
          .bytes = static_cast<double>(n * (dtype_size(activation) + 1) + 4 * scales)};
}

namespace {
void check_table(const RowSegments& s, int64_t num_groups) {
  CHECK(s.num_leaves >= 1 && std::has_single_bit(static_cast<uint32_t>(s.num_leaves)) && s.count >= 0 &&
            s.count % (num_groups * s.num_leaves) == 0,
        "{} segments are no table of {} groups x {} leaves, a power of two", s.count, num_groups,
        s.num_leaves);
}
}  // namespace

int64_t check_chains(const RowSegments& s, const int32_t* offsets, int64_t num_groups) {
  CHECK(num_groups >= 1, "{} groups", num_groups);
  if (!s.data) {
    CHECK(offsets || num_groups == 1, "{} groups without offsets", num_groups);
    return 1;
  }
  check_table(s, num_groups);
  CHECK(!offsets && s.places, "segments{}{}", offsets ? " and offsets" : "",
        s.places ? "" : " without places");
  return s.num_leaves;
}

void check_row_places(const RowPlacesArgs& args) {
  CHECK(args.num_groups >= 1 && args.rows >= 0 && args.rows <= std::numeric_limits<int32_t>::max(),
        "{} groups, {} rows", args.num_groups, args.rows);
  check_table(args.segments, args.num_groups);
  CHECK(args.segments.data && args.places, "no segments, or no room for places");
}

void check_quantize_transposed(const QuantizeTransposedArgs& args) {
  const int64_t rows = args.x.rows, cols = args.x.cols;
  const auto& [data, scale] = args.t;
  const int64_t leaves = check_chains(args.segments, args.offsets, args.num_groups);
  CHECK(data.dtype == DType::kE4M3 && data.rows == cols && data.cols == rows,
        "t: {} [{}, {}], expected F8_E4M3 [{}, {}]", dtype_name(data.dtype), data.rows, data.cols, cols,
        rows);
  const int64_t blocks = max_row_blocks(rows, args.num_groups * leaves);
  CHECK(scale.dtype == DType::kF32 && scale.rows >= blocks && scale.cols == cols,
        "t: scale {} [{}, {}], expected F32 [{}, {}]", dtype_name(scale.dtype), scale.rows, scale.cols,
        blocks, cols);
  if (args.x.dtype == DType::kE4M3) {
    CHECK(!args.q.data, "x is quantised by rows already");
    check_codes({args.x, args.x_scale, QLayout::k1x128}, QLayout::k1x128, rows, cols, rows, "x");
  } else {
    CHECK(!args.x_scale, "x is {} and has scales", dtype_name(args.x.dtype));
    check_codes(args.q, QLayout::k1x128, rows, cols, rows, "q");
  }
}

void check_quantize_weight(const QuantizeWeightArgs& args) {
  const int64_t groups = args.num_groups;
  CHECK(args.x.dtype == DType::kF32 && groups >= 1 && args.x.rows % groups == 0, "x: {} [{}, {}], {} groups",
        dtype_name(args.x.dtype), args.x.rows, args.x.cols, groups);
  const int64_t n = args.x.rows / groups, k = args.x.cols;
  check_codes(args.q, QLayout::k128x128, groups * n, k, groups * ceil_div(n, kQuantizeBlock), "q");
  check_codes(args.transposed, QLayout::k128x128, groups * k, n, groups * ceil_div(k, kQuantizeBlock),
              "transposed");
}

Cost quantize_transposed_cost(int64_t rows, int64_t cols, DType source, bool with_rows, int64_t num_groups) {
  const int64_t n = rows * cols, row_scales = rows * ceil_div(cols, kQuantizeBlock);
  const bool stored = source == DType::kE4M3;
  const int64_t bytes = n * (dtype_size(source) + 1 + with_rows) +
                        4 * row_scales * (int64_t{stored} + with_rows) +
                        4 * max_row_blocks(rows, num_groups) * cols;
  return {.flops = static_cast<double>(n * (2 + stored + with_rows)), .bytes = static_cast<double>(bytes)};
}

Cost quantize_weight_cost(int64_t n, int64_t k, int64_t num_groups) {
  const int64_t scales = ceil_div(n, kQuantizeBlock) * ceil_div(k, kQuantizeBlock);
  return {.flops = 2 * static_cast<double>(num_groups * n * k),
          .bytes = static_cast<double>(num_groups * (n * k * (4 + 1 + 1) + 2 * 4 * scales))};
}

}  // namespace contender
