// Block-scaled FP8 products on wgmma: dense in both modes, added to a sum, quantised on their way out; per
// expert, sorted and of fixed capacity; weight gradients, of one leaf and of several. Baseline of the dense
// ones: cuBLASLt on the same codes and scales; by expert it has none; of quantised results: two launches.
#include <array>
#include <cmath>
#include <numeric>

#include "bench/cuda/cublas_fp8.h"
#include "bench/cuda/gemm_rows.h"
#include "cuda/common/dispatch.h"
#include "cuda/gemm/fp8_gemm.h"
#include "cuda/ops.h"
#include "ops/gemm.h"

namespace contender::bench {
namespace {

using cuda::Mode;

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
double error_of(DType dtype, const std::vector<double>& a, const std::vector<double>& b) {
  double terms = 0;
  for (size_t i = 0; i < a.size(); ++i) terms += std::abs(a[i] * b[i]);
  return tolerance_of(dtype, dot(a, b), terms) + terms / 4096;
}
void expect(Check& check, DType dtype, double got, const std::vector<double>& a,
            const std::vector<double>& b) {
  check.near(got, dot(a, b), error_of(dtype, a, b));
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

// What all of y = x w^T have in common.
struct Forward {
  const GemmRow& r;
  int64_t n, k;
  Fp8Rows a;
  Fp8Weight b;

  explicit Forward(const GemmRow& r) : r(r), n(r.shape.n), k(r.shape.k), a(r.m, k, 1), b(r.shape) {}
  std::vector<double> a_row(int64_t row) const { return dequantised(a.codes.row(row), a.scale.row(row)); }
  // The weights of column c for this row.
  std::vector<double> b_row(int64_t row, int64_t c) const {
    const int64_t g = r.group_of(row);
    return dequantised(b.codes.row(g * n + c), b.scale.row(g * ceil_div(n, kFp8Block) + c / kFp8Block));
  }
  void check_row(Check& check, const DeviceData& d, int64_t row) const {
    const std::vector<double> from = a_row(row);
    for (const int64_t c : samples(n, 8)) expect(check, kActivation, d.at(row, c), from, b_row(row, c));
  }
  Cost cost(DType d = kActivation) const { return fp8_gemm_cost(r.m, n, k, d, r.busy_groups()); }
};

void dense(const GemmRow& r, Mode mode) {
  const Forward f(r);
  const DeviceData d(kActivation, r.m, f.n);
  const Scratch scratch(split_space(mode, r.m, f.n));
  Work work = {.cost = f.cost(),
               .call =
                   [&] {
                     cuda::fp8_gemm(scratch.exec(), {.a = f.a.tensor(), .b = f.b.tensor(), .d = d.tensor()},
                                    mode);
                   },
               .check =
                   [&](Check& check) {
                     for (const int64_t row : samples(r.m, 8)) f.check_row(check, d, row);
                   },
               .tensor_rate = 2};
  if (!library_wanted()) return measure(work);
  const DeviceData x_scale = relaid(f.a.scale, f.k, true), w_scale = relaid(f.b.scale, f.k, false);
  const CublasFp8Product library(
      {.codes = f.a.codes.as<void>(), .scale = x_scale.as<void>(), .rows = r.m},
      {.codes = f.b.codes.as<void>(), .scale = w_scale.as<void>(), .rows = f.n, .square_blocks = true}, f.k,
      d.tensor());
  if (library.possible()) work.baseline = [&] { library.run(); };
  measure(work);
}

void grouped(const GemmRow& r) {
  const Forward f(r);
  const DeviceData d(kActivation, r.m, f.n), offsets = DeviceData::of(r.offsets);
  measure({.cost = f.cost(),
           .call =
               [&] {
                 cuda::fp8_grouped_gemm({}, {.a = f.a.tensor(),
                                             .b = f.b.tensor(),
                                             .d = d.tensor(),
                                             .num_groups = r.shape.groups,
                                             .offsets = offsets.as<int32_t>()});
               },
           .check =
               [&](Check& check) {
                 for (const int64_t row : samples(r.m, 8)) f.check_row(check, d, row);
               },
           .tensor_rate = 2});
}

// Experts of one capacity; the device has the rows of each: in turns a quarter more than `rows`, and less.
struct MaskedShape {
  int64_t groups, rows, capacity, n, k;
  std::string text() const { return fmt::format("{}x{}of{}x{}x{}", groups, rows, capacity, n, k); }
  std::vector<int32_t> counts() const {
    std::vector<int32_t> list;
    for (int64_t g = 0; g < groups; ++g)
      list.push_back(narrow<int32_t>(groups == 1 ? rows : g % 2 == 0 ? rows * 5 / 4 : rows * 3 / 4));
    return list;
  }
};
void masked(const MaskedShape& s) {
  const std::vector<int32_t> counts = s.counts();
  const GemmRow r({"masked", s.n, s.k, s.groups}, s.groups * s.capacity, false);
  const Forward f(r);
  const DeviceData d(kActivation, r.m, s.n), device_counts = DeviceData::of(counts);
  measure({.cost = fp8_gemm_cost(std::accumulate(counts.begin(), counts.end(), int64_t{0}), s.n, s.k,
                                 kActivation, s.groups),
           .call =
               [&] {
                 cuda::fp8_grouped_gemm({}, {.a = f.a.tensor(),
                                             .b = f.b.tensor(),
                                             .d = d.tensor(),
                                             .num_groups = s.groups,
                                             .counts = device_counts.as<int32_t>()});
               },
           .check =
               [&](Check& check) {
                 for (int64_t g = 0; g < s.groups; ++g) {
                   const int64_t first = g * s.capacity, count = counts[static_cast<size_t>(g)];
                   for (const int64_t row : samples(count, 4)) f.check_row(check, d, first + row);
                   if (count < s.capacity)  // rows of none stay as they were
                     check.equal(std::isnan(d.at(first + count, 0)), true);
                 }
               },
           .tensor_rate = 2});
}

// The sum of a product in virtual slices; each call adds once more.
void accumulated(const GemmRow& r, Mode mode) {
  const Forward f(r);
  const DeviceData d(DType::kF32, r.m, f.n);
  const Scratch scratch(split_space(mode, r.m, f.n));
  CUDA_CHECK(cudaMemset(d.as<void>(), 0, static_cast<size_t>(4 * r.m * f.n)));
  int calls = 0;
  Cost cost = f.cost(DType::kF32);
  cost.bytes += static_cast<double>(4 * r.m * f.n);  // d is read too
  measure({.cost = cost,
           .call =
               [&] {
                 cuda::fp8_gemm(scratch.exec(),
                                {.a = f.a.tensor(), .b = f.b.tensor(), .d = d.tensor(), .accumulate = true},
                                mode);
                 ++calls;
               },
           .check =
               [&](Check& check) {
                 for (const int64_t row : samples(r.m, 8)) {
                   const std::vector<double> from = f.a_row(row);
                   for (const int64_t c : samples(f.n, 8))
                     expect(check, DType::kF32, d.at(row, c) / calls, from, f.b_row(row, c));
                 }
               },
           .tensor_rate = 2});
}

// q alone, for the next product, from results as BF16 would keep them; beside the product and then quantize.
void quantised(const GemmRow& r) {
  const Forward f(r);
  const int64_t blocks = ceil_div(f.n, kFp8Block);
  const DeviceData codes(DType::kE4M3, r.m, f.n), scale(DType::kF32, r.m, blocks), d(kActivation, r.m, f.n);
  const QTensor q = {.data = codes.tensor(), .scale = scale.tensor()};
  Tensor none = d.tensor();
  none.data = nullptr;
  Cost cost = f.cost();
  cost.bytes -= static_cast<double>(r.m * (f.n - 4 * blocks));  // a byte for two, and scales
  measure({.cost = cost,
           .call = [&] { cuda::fp8_gemm({}, {.a = f.a.tensor(), .b = f.b.tensor(), .d = none, .q = q}); },
           .check =
               [&](Check& check) {
                 for (const int64_t row : samples(r.m, 8)) {
                   const std::vector<double> from = f.a_row(row), scales = scale.row(row),
                                             got = dequantised(codes.row(row), scales);
                   for (const int64_t c : samples(f.n, 8)) {
                     const std::vector<double> to = f.b_row(row, c);
                     const double want = dot(from, to), step = scales[static_cast<size_t>(c / kFp8Block)];
                     // Three bits of fraction; below 2^-6 steps of 2^-9.
                     check.near(got[static_cast<size_t>(c)], want,
                                std::max(std::abs(want) / 16, step / 1024) + error_of(kActivation, from, to));
                   }
                 }
               },
           .baseline =
               [&] {
                 cuda::fp8_gemm({}, {.a = f.a.tensor(), .b = f.b.tensor(), .d = d.tensor()});
                 cuda::quantize({}, {.x = d.tensor(), .q = q});
               },
           .tensor_rate = 2});
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

std::string explain(const GemmRow& r, Mode mode, bool with_q = false) {
  return cuda::explain_fp8_gemm({.m = r.m,
                                 .n = r.shape.n,
                                 .k = r.shape.k,
                                 .num_groups = r.shape.groups,
                                 .quantised = with_q,
                                 .num_sms = cuda::sm_count(),
                                 .mode = mode,
                                 .workspace_bytes = split_space(mode, r.m, r.shape.n)});
}
ExplainRow explained(Mode mode, bool with_q = false) {
  return [=](const GemmRow& r) { return explain(r, mode, with_q); };
}

// Two experts of DeepSeek-V3, of which others publish times: so many groups of so many rows each.
void expert_rows(const std::string& name, const std::vector<std::pair<int64_t, int64_t>>& groups_of_rows,
                 const RunRow& run, Mode mode = Mode::kExact, bool with_q = false) {
  const auto add = [&](const cuda::GemmShape& s, int64_t m) {
    gemm_row(name, {s, m, false}, run, explained(mode, with_q), mode);
  };
  if (small_shapes()) return add({"small", 144, 208}, 96);
  for (const auto& [groups, rows] : groups_of_rows) {
    add({"up", 4096, 7168, groups}, groups * rows);
    add({"down", 7168, 2048, groups}, groups * rows);
  }
}

// What matters most first: a run of limited time leaves out the last.
const Family family("fp8_gemm", [] {
  const auto dense_rows = [](Mode mode) {
    gemm_rows(
        "fp8_gemm", kDenseForward, [mode](const GemmRow& r) { dense(r, mode); }, explained(mode), mode);
  };
  dense_rows(Mode::kExact);
  if (!small_shapes()) expert_rows("fp8_grouped_gemm", {{4, 8192}, {8, 4096}}, grouped);
  std::vector<MaskedShape> capacities;
  for (const auto& [groups, rows] : {std::pair<int64_t, int64_t>{1, 1024}, {2, 512}, {4, 256}}) {
    capacities.push_back({groups, rows, 4096, 4096, 7168});
    capacities.push_back({groups, rows, 4096, 7168, 2048});
  }
  rows("fp8_masked_gemm/exact", capacities, {{3, 24, 32, 144, 208}}, masked);
  gemm_rows("fp8_grouped_gemm", kExpertsForward, grouped, explained(Mode::kExact));
  expert_rows("fp8_gemm_quantised", {{1, 64}, {1, 4096}}, quantised, Mode::kExact, true);
  for (const Mode mode : {Mode::kExact, Mode::kFast})
    expert_rows(
        "fp8_gemm_accumulate", {{1, 64}, {1, 4096}}, [mode](const GemmRow& r) { accumulated(r, mode); },
        mode);
  constexpr int32_t kDenseLeaves = 4, kExpertLeaves = 8;  // data slots of a tp group, and of an ep group
  const auto with = [](int32_t leaves) { return [leaves](const GemmRow& r) { wgrad(r, leaves); }; };
  gemm_rows(fmt::format("fp8_wgrad_{}_leaves", kDenseLeaves), kDenseTraining, with(kDenseLeaves));
  gemm_rows("fp8_wgrad", kDenseTraining, with(1));
  gemm_rows(fmt::format("fp8_grouped_wgrad_{}_leaves", kExpertLeaves), kExpertsTraining, with(kExpertLeaves));
  gemm_rows("fp8_grouped_wgrad", kExpertsTraining, with(1));
  dense_rows(Mode::kFast);
  // The one expert of a rank, over the data slots of an ep group of 256.
  if (!small_shapes()) return gemm_row("fp8_wgrad_256_leaves", {{"up", 4096, 7168}, 65536, false}, with(256));
  // One tile of each kind, or of its cluster, over 256 tokens a leaf: tests/e2e/sim_cost.sh counts.
  for (const auto& [leaves, n, k] :
       {std::array<int64_t, 3>{1, 128, 256}, {8, 128, 128}, {16, 128, 128}, {64, 64, 128}, {512, 64, 128}})
    gemm_row(fmt::format("fp8_wgrad_tile_{}_leaves", leaves),
             {{"tile", n, k}, 256 * std::max<int64_t>(leaves, 4), false}, with(narrow<int32_t>(leaves)));
});

}  // namespace
}  // namespace contender::bench
