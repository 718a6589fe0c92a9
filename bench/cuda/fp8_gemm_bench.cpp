// Block-scaled FP8 products on wgmma: dense, per expert, weight gradients, of one leaf and of several.
// Baseline of the dense ones: cuBLASLt on the same codes and scales; by expert it has none.
#include <cmath>

#include "bench/cuda/cublas_fp8.h"
#include "bench/cuda/gemm_rows.h"
#include "cuda/common/dispatch.h"
#include "cuda/gemm/fp8_gemm.h"
#include "cuda/ops.h"
#include "ops/gemm.h"

namespace contender::bench {
namespace {

// Codes in 1x128 blocks of a random activation [rows, cols].
struct Fp8Rows {
  DeviceData codes, scale;
  Fp8Rows(int64_t rows, int64_t cols, uint64_t seed)
      : codes(DType::kE4M3, rows, cols), scale(DType::kF32, rows, ceil_div(cols, kFp8Block)) {
    if (values_wanted())
      cuda::quantize({}, {.x = DeviceData::random(kActivation, rows, cols, seed).tensor(), .q = tensor()});
  }
  QTensor tensor() const { return {.data = codes.tensor(), .scale = scale.tensor()}; }
};
// Of weights [groups * n, k], in 128x128 blocks.
struct Fp8Weight {
  DeviceData codes, scale;
  explicit Fp8Weight(const cuda::GemmShape& s)
      : codes(DType::kE4M3, s.groups * s.n, s.k),
        scale(DType::kF32, s.groups * ceil_div(s.n, kFp8Block), ceil_div(s.k, kFp8Block)) {
    if (values_wanted())
      cuda::quantize_weight({}, {.x = DeviceData::random(DType::kF32, s.groups * s.n, s.k, 2).tensor(),
                                 .num_groups = s.groups,
                                 .q = tensor()});
  }
  QTensor tensor() const {
    return {.data = codes.tensor(), .scale = scale.tensor(), .layout = QLayout::k128x128};
  }
};
// The rows of each group, in so many leaves of equal size.
std::vector<RowSegment> leaf_table(const GemmRow& r, int32_t leaves) {
  std::vector<RowSegment> table;
  for (int64_t g = 0; g < r.shape.groups; ++g) {
    const auto edge = [&](int32_t l) { return static_cast<int32_t>(r.begin(g) + r.rows_of(g) * l / leaves); };
    for (int32_t l = 0; l < leaves; ++l) table.push_back({edge(l), edge(l + 1), static_cast<int32_t>(g), l});
  }
  return table;
}
std::vector<RowPlace> places_of(const std::vector<RowSegment>& table) {
  std::vector<RowPlace> places = {{}};
  for (const RowSegment& s : table)
    places.push_back(
        {s.end, places.back().block + static_cast<int32_t>(ceil_div(int64_t{s.end} - s.begin, kFp8Block))});
  return places;
}
struct Chains {
  int32_t leaves;
  std::vector<RowSegment> table;
  std::vector<RowPlace> places;
  DeviceData device_table, device_places;
  Chains(const GemmRow& r, int32_t leaves)
      : leaves(leaves),
        table(leaf_table(r, leaves)),
        places(places_of(table)),
        device_table(DeviceData::of(table)),
        device_places(DeviceData::of(places)) {}
  RowSegments segments() const {
    return {device_table.as<RowSegment>(), static_cast<int32_t>(table.size()), leaves,
            device_places.as<RowPlace>()};
  }
};
// Of an activation [rows, cols], transposed, in 128x1 blocks of each chain.
struct Fp8Columns {
  DeviceData codes, scale;
  Fp8Columns(const GemmRow& r, const Chains& chains, int64_t cols, uint64_t seed)
      : codes(DType::kE4M3, cols, r.m),
        scale(DType::kF32, max_row_blocks(r.m, r.shape.groups * chains.leaves), cols) {
    if (values_wanted())
      cuda::quantize_transposed({}, {.x = DeviceData::random(kActivation, r.m, cols, seed).tensor(),
                                     .t = tensor(),
                                     .num_groups = r.shape.groups,
                                     .segments = chains.segments()});
  }
  QTransposed tensor() const { return {.data = codes.tensor(), .scale = scale.tensor()}; }
};

// Codes times the scales of their blocks.
std::vector<double> dequantised(std::vector<double> codes, const std::vector<double>& scales) {
  for (size_t i = 0; i < codes.size(); ++i) codes[i] *= scales[i / kFp8Block];
  return codes;
}
// The tensor cores cut each sum 13 bits below its largest term, so an error is a share of all terms' sizes.
void expect(Check& check, DType dtype, double got, const std::vector<double>& a,
            const std::vector<double>& b) {
  double terms = 0;
  for (size_t i = 0; i < a.size(); ++i) terms += std::abs(a[i] * b[i]);
  const double want = dot(a, b);
  check.near(got, want, tolerance_of(dtype, want, terms) + terms / 4096);
}

// Scales [rows, blocks of k] as cublas_fp8.h wants them: columns outermost, or rows of a multiple of 4.
DeviceData relaid(const DeviceData& scale, int64_t k, bool columns_outermost) {
  const int64_t rows = scale.tensor().rows, blocks = ceil_div(k, kFp8Block), ld = round_up(blocks, 4);
  const std::vector<double> from = scale.block(0, rows, 0, blocks);
  std::vector<float> to(static_cast<size_t>(rows * ld), 1.0f);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t b = 0; b < blocks; ++b)
      to[static_cast<size_t>(columns_outermost ? b * rows + r : r * ld + b)] =
          static_cast<float>(from[static_cast<size_t>(r * blocks + b)]);
  }
  return DeviceData::of(to);
}

void forward(const GemmRow& r) {
  const auto [name, n, k, groups] = r.shape;
  const Fp8Rows a(r.m, k, 1);
  const Fp8Weight b(r.shape);
  const DeviceData d(kActivation, r.m, n), offsets = DeviceData::of(r.offsets);
  Work work = {.cost = fp8_gemm_cost(r.m, n, k, kActivation, r.busy_groups()),
               .call =
                   [&] {
                     if (!r.grouped()) {
                       cuda::fp8_gemm({}, {.a = a.tensor(), .b = b.tensor(), .d = d.tensor()});
                     } else {
                       cuda::fp8_grouped_gemm({}, {.a = a.tensor(),
                                                   .b = b.tensor(),
                                                   .d = d.tensor(),
                                                   .num_groups = groups,
                                                   .offsets = offsets.as<int32_t>()});
                     }
                   },
               .check =
                   [&](Check& check) {
                     for (const int64_t row : samples(r.m, 8)) {
                       const std::vector<double> a_row = dequantised(a.codes.row(row), a.scale.row(row));
                       const int64_t g = r.group_of(row), blocks = ceil_div(n, kFp8Block);
                       for (const int64_t c : samples(n, 8))
                         expect(check, kActivation, d.at(row, c), a_row,
                                dequantised(b.codes.row(g * n + c), b.scale.row(g * blocks + c / kFp8Block)));
                     }
                   },
               .tensor_rate = 2};
  if (r.grouped() || !library_wanted()) return measure(work);
  const DeviceData x_scale = relaid(a.scale, k, true), w_scale = relaid(b.scale, k, false);
  const CublasFp8Product library(
      {.codes = a.codes.as<void>(), .scale = x_scale.as<void>(), .rows = r.m},
      {.codes = b.codes.as<void>(), .scale = w_scale.as<void>(), .rows = n, .square_blocks = true}, k,
      d.tensor());
  if (library.possible()) work.baseline = [&] { library.run(); };
  measure(work);
}

// Exact: summed over leaves, as any layout would. Fast: one chain for each group.
void wgrad(const GemmRow& r, int32_t leaves) {
  const auto [name, n, k, groups] = r.shape;
  const DeviceData dw(DType::kF32, groups * n, k);
  const Chains chains(r, leaves);
  const Fp8Columns dy(r, chains, n, 1), x(r, chains, k, 2);
  Work work = {.cost = fp8_wgrad_cost(r.m, n, k, groups, false),
               .call =
                   [&] {
                     cuda::fp8_wgrad({}, {.dy = dy.tensor(),
                                          .x = x.tensor(),
                                          .dw = dw.tensor(),
                                          .accumulate = false,
                                          .num_groups = groups,
                                          .segments = chains.segments()});
                   },
               .check =
                   [&](Check& check) {
                     for (const int64_t g : samples(groups, 4)) {
                       const auto tokens = [&](const Fp8Columns& t, int64_t c) {
                         std::vector<double> all;
                         for (int64_t i = g * leaves; i < (g + 1) * leaves; ++i) {
                           const RowPlace *at = &chains.places[static_cast<size_t>(i)], *end = at + 1;
                           const std::vector<double> part =
                               dequantised(t.codes.block(c, 1, at->row, end->row - at->row),
                                           t.scale.block(at->block, end->block - at->block, c, 1));
                           all.insert(all.end(), part.begin(), part.end());
                         }
                         return all;
                       };
                       for (const int64_t row : samples(n, 4)) {
                         const std::vector<double> dy_row = tokens(dy, row);
                         for (const int64_t c : samples(k, 4))
                           expect(check, DType::kF32, dw.at(g * n + row, c), dy_row, tokens(x, c));
                       }
                     }
                   },
               .tensor_rate = 2};
  // Blocks of 128x1 of the transposed codes are the library's 1x128.
  const CublasFp8Product library({.codes = dy.codes.as<void>(), .scale = dy.scale.as<void>(), .rows = n},
                                 {.codes = x.codes.as<void>(), .scale = x.scale.as<void>(), .rows = k}, r.m,
                                 dw.tensor());
  if (!r.grouped() && leaves == 1 && library.possible()) work.baseline = [&] { library.run(); };
  measure(work);
}

std::string explain(const GemmRow& r) {
  return cuda::explain_fp8_gemm(
      {.m = r.m, .n = r.shape.n, .k = r.shape.k, .num_groups = r.shape.groups, .num_sms = cuda::sm_count()});
}

const Family family("fp8_gemm", [] {
  gemm_rows("fp8_gemm", kDenseForward, forward, explain);
  gemm_rows("fp8_grouped_gemm", kExpertsForward, forward, explain);
  constexpr int32_t kDenseLeaves = 4, kExpertLeaves = 8;  // data slots of a tp group, and of an ep group
  const auto with = [](int32_t leaves) { return [leaves](const GemmRow& r) { wgrad(r, leaves); }; };
  gemm_rows(fmt::format("fp8_wgrad_{}_leaves", kDenseLeaves), kDenseTraining, with(kDenseLeaves));
  gemm_rows("fp8_wgrad", kDenseTraining, with(1));
  gemm_rows(fmt::format("fp8_grouped_wgrad_{}_leaves", kExpertLeaves), kExpertsTraining, with(kExpertLeaves));
  gemm_rows("fp8_grouped_wgrad", kExpertsTraining, with(1));
});

}  // namespace
}  // namespace contender::bench
