// BF16 products on wgmma: forward, dgrad, per expert, per head, weight gradients with one leaf and with the
// eight of training; those that blocks may split in mode fast as well. Baseline: cuBLAS (per expert: one call
// for each).
#include <array>
#include <cmath>

#include "bench/cuda/cublas.h"
#include "bench/cuda/gemm_rows.h"
#include "bench/cuda/weight.h"
#include "cuda/gemm/bf16_gemm.h"
#include "ops/linear.h"

namespace contender::bench {
namespace {

using cuda::Mode;

// Terms below 1, summed with signs.
void expect(Check& check, DType dtype, double got, double want, int64_t terms) {
  check.near(got, want, tolerance_of(dtype, want, 100 * std::sqrt(static_cast<double>(terms))));
}

// Rows times a weight of each group, or back: y [m, out] = x [m, in] w'.
struct Forward {
  const GemmRow& r;
  bool back;
  Mode mode;
  int64_t in, out;
  Weight w;
  DeviceData x, y, offsets;
  Scratch scratch;

  Forward(const GemmRow& r, bool back, Mode mode)
      : r(r),
        back(back),
        mode(mode),
        in(back ? r.shape.n : r.shape.k),
        out(back ? r.shape.k : r.shape.n),
        w(r.shape.n, r.shape.k, r.shape.groups),
        x(DeviceData::random(kActivation, r.m, in, 1)),
        y(kActivation, r.m, out),
        offsets(DeviceData::of(r.offsets)),
        scratch(split_space(mode, r.m, out)) {}
  void run() const {
    const auto* table = offsets.as<int32_t>();
    const Exec exec = scratch.exec();
    if (r.grouped() && back) {
      cuda::bf16_gemm(
          exec, GroupedLinearDgradArgs{.dy = x.tensor(), .w = w.view(), .dx = y.tensor(), .offsets = table});
    } else if (r.grouped()) {
      cuda::bf16_gemm(exec,
                      GroupedLinearArgs{.x = x.tensor(), .w = w.view(), .y = y.tensor(), .offsets = table});
    } else if (back) {
      cuda::bf16_gemm(exec, LinearDgradArgs{.dy = x.tensor(), .w = w.view(), .dx = y.tensor()}, {-1, mode});
    } else {
      cuda::bf16_gemm(exec, LinearArgs{.x = x.tensor(), .w = w.view(), .y = y.tensor()}, {-1, mode});
    }
  }
  void check(Check& check) const {
    const DeviceData b = w.rounded();
    for (const int64_t row : samples(r.m, 8)) {
      const std::vector<double> x_row = x.row(row);
      const int64_t first = r.group_of(row) * w.n;
      for (const int64_t c : samples(out, 4))
        expect(check, kActivation, y.at(row, c),
               dot(x_row, back ? b.block(first, w.n, c, 1) : b.row(first + c)), in);
    }
  }
  void library() const {
    for (int64_t g = 0; g < r.shape.groups; ++g) {
      if (r.rows_of(g) == 0) continue;
      cublas_product({.m = r.rows_of(g),
                      .n = out,
                      .k = in,
                      .x = x.as<uint16_t>() + r.begin(g) * in,
                      .ldx = in,
                      .w = w.view().group(g).forward,
                      .ldw = w.k,
                      .y = y.as<uint16_t>() + r.begin(g) * out,
                      .ldy = out,
                      .w_transposed = back});
    }
  }
};
void forward(const GemmRow& r, bool back, Mode mode) {
  const Forward f(r, back, mode);
  Cost cost;
  for (int64_t g = 0; g < r.shape.groups; ++g)
    if (r.rows_of(g) > 0) cost += linear_cost(r.rows_of(g), r.shape.n, r.shape.k, kActivation, DType::kBF16);
  Work work = {.cost = cost,
               .call = [&] { f.run(); },
               .check = [&](Check& check) { f.check(check); },
               .tensor_rate = 1};
  if (have_cublas()) work.baseline = [&] { f.library(); };
  measure(work);
}

// Equal leaves of each group's rows.
DeviceData segments_of(const GemmRow& r, int32_t leaves) {
  std::vector<RowSegment> list;
  for (int64_t g = 0; g < r.shape.groups; ++g) {
    const auto at = [&](int32_t leaf) { return narrow<int32_t>(r.begin(g) + r.rows_of(g) * leaf / leaves); };
    for (int32_t leaf = 0; leaf < leaves; ++leaf)
      list.push_back({at(leaf), at(leaf + 1), narrow<int32_t>(g), leaf});
  }
  return DeviceData::of(list);
}

void wgrad(const GemmRow& r, int32_t leaves) {
  const auto [name, n, k, groups] = r.shape;
  const DeviceData dy = DeviceData::random(kActivation, r.m, n, 1),
                   x = DeviceData::random(kActivation, r.m, k, 2), dw(DType::kF32, groups * n, k),
                   segments = segments_of(r, leaves);
  const RowSegments table = {segments.as<RowSegment>(), narrow<int32_t>(groups * leaves), leaves};
  Cost cost = linear_cost(r.m, n, k, kActivation, DType::kF32);
  cost.bytes += static_cast<double>((groups - 1) * n * k * 4);
  Work work = {.cost = cost,
               .call =
                   [&] {
                     cuda::bf16_wgrad({}, LinearWgradArgs{.dy = dy.tensor(),
                                                          .x = x.tensor(),
                                                          .dw = dw.tensor(),
                                                          .segments = table,
                                                          .num_groups = groups});
                   },
               .check =
                   [&](Check& check) {
                     for (const int64_t g : samples(groups, 4)) {
                       for (const int64_t row : samples(n, 4)) {
                         const std::vector<double> dy_column = dy.block(r.begin(g), r.rows_of(g), row, 1);
                         for (const int64_t c : samples(k, 4))
                           expect(check, DType::kF32, dw.at(g * n + row, c),
                                  dot(dy_column, x.block(r.begin(g), r.rows_of(g), c, 1)), r.rows_of(g));
                       }
                     }
                   },
               .tensor_rate = 1};
  if (have_cublas()) {
    work.baseline = [&] {
      for (int64_t g = 0; g < groups; ++g) {
        if (r.rows_of(g) == 0) continue;
        cublas_product({.m = n,
                        .n = k,
                        .k = r.rows_of(g),
                        .x = dy.as<uint16_t>() + r.begin(g) * n,
                        .ldx = n,
                        .w = x.as<uint16_t>() + r.begin(g) * k,
                        .ldw = k,
                        .y = dw.as<float>() + g * n * k,
                        .ldy = k,
                        .y_dtype = DType::kF32,
                        .x_transposed = true,
                        .w_transposed = true});
      }
    };
  }
  measure(work);
}

// Absorbed MLA: heads side by side in a row, y_h [m, n] = x_h [m, k] w_h^T, or back.
struct HeadsShape {
  int64_t m, heads, n, k;
  std::string text() const { return fmt::format("{}x{}x{}x{}", m, heads, n, k); }
};
void heads(const HeadsShape& s, bool transposed) {
  const Weight w(s.n, s.k, s.heads);
  const int64_t in = transposed ? s.n : s.k, out = transposed ? s.k : s.n;
  const DeviceData x = DeviceData::random(kActivation, s.m, s.heads * in, 1),
                   y(kActivation, s.m, s.heads * out);
  Cost cost;
  for (int64_t h = 0; h < s.heads; ++h) cost += linear_cost(s.m, s.n, s.k, kActivation, DType::kBF16);
  Work work = {.cost = cost,
               .call =
                   [&] {
                     cuda::bf16_gemm({}, HeadsLinearArgs{.x = x.tensor(),
                                                         .x_stride = in,
                                                         .w = w.view(),
                                                         .y = y.tensor(),
                                                         .y_stride = out,
                                                         .transposed = transposed});
                   },
               .check =
                   [&](Check& check) {
                     const DeviceData b = w.rounded();
                     for (const int64_t h : samples(s.heads, 3)) {
                       for (const int64_t r : samples(s.m, 4)) {
                         for (const int64_t c : samples(out, 4)) {
                           const double want =
                               dot(x.block(r, 1, h * in, in),
                                   transposed ? b.block(h * s.n, s.n, c, 1) : b.row(h * s.n + c));
                           expect(check, kActivation, y.at(r, h * out + c), want, in);
                         }
                       }
                     }
                   },
               .tensor_rate = 1};
  if (have_cublas()) {
    work.baseline = [&] {
      cublas_product({.m = s.m,
                      .n = out,
                      .k = in,
                      .x = x.as<void>(),
                      .ldx = s.heads * in,
                      .w = w.forward.as<void>(),
                      .ldw = s.k,
                      .y = y.as<void>(),
                      .ldy = s.heads * out,
                      .w_transposed = transposed,
                      .batch = s.heads,
                      .x_step = in,
                      .w_step = packed_forward_bytes(s.n, s.k, kCudaWeights) / 2,
                      .y_step = out});
    };
  }
  measure(work);
}

void heads_wgrad(const HeadsShape& p) {
  constexpr int32_t kLeaves = 8;
  const DeviceData dy = DeviceData::random(kActivation, p.m, p.heads * p.n, 1),
                   x = DeviceData::random(kActivation, p.m, p.heads * p.k, 2),
                   dw(DType::kF32, p.heads * p.n, p.k);
  const Segments segments(p.m, kLeaves);
  Cost cost;
  for (int64_t h = 0; h < p.heads; ++h) cost += linear_cost(p.m, p.n, p.k, kActivation, DType::kF32);
  Work work = {.cost = cost,
               .call =
                   [&] {
                     cuda::bf16_wgrad({}, HeadsWgradArgs{.dy = dy.tensor(),
                                                         .dy_stride = p.n,
                                                         .x = x.tensor(),
                                                         .x_stride = p.k,
                                                         .dw = dw.tensor(),
                                                         .num_heads = p.heads,
                                                         .segments = segments.get()});
                   },
               .check =
                   [&](Check& check) {
                     for (const int64_t r : samples(p.heads * p.n, 4)) {
                       for (const int64_t c : samples(p.k, 4)) {
                         const double want = dot(dy.column(r), x.column(r / p.n * p.k + c));
                         check.near(dw.at(r, c), want, 1e-3 * std::sqrt(static_cast<double>(p.m)));
                       }
                     }
                   },
               .tensor_rate = 1};
  if (have_cublas()) {
    work.baseline = [&] {
      cublas_product({.m = p.n,
                      .n = p.k,
                      .k = p.m,
                      .x = dy.as<void>(),
                      .ldx = p.heads * p.n,
                      .w = x.as<void>(),
                      .ldw = p.heads * p.k,
                      .y = dw.as<void>(),
                      .ldy = p.k,
                      .y_dtype = DType::kF32,
                      .x_transposed = true,
                      .w_transposed = true,
                      .batch = p.heads,
                      .x_step = p.n,
                      .w_step = p.k,
                      .y_step = p.n * p.k});
    };
  }
  measure(work);
}

std::string explain(const GemmRow& r, bool back, Mode mode) {
  const int64_t n = back ? r.shape.k : r.shape.n;
  return cuda::bf16_gemm_explain({.m = r.m,
                                  .n = n,
                                  .k = back ? r.shape.n : r.shape.k,
                                  .layers = r.shape.groups,
                                  .grouped = r.grouped(),
                                  .mode = mode,
                                  .workspace_bytes = split_space(mode, r.m, n)});
}

// Forward or dgrad.
void product_rows(const std::string& name, const GemmSweep& sweep, bool back, Mode mode = Mode::kExact) {
  gemm_rows(
      name, sweep, [=](const GemmRow& r) { forward(r, back, mode); },
      [=](const GemmRow& r) { return explain(r, back, mode); }, mode);
}

void wgrad_rows(int32_t leaves) {
  const std::string suffix = leaves == 1 ? "" : fmt::format("_{}_leaves", leaves);
  const auto run = [leaves](const GemmRow& r) { wgrad(r, leaves); };
  gemm_rows("bf16_wgrad" + suffix, kDenseTraining, run);
  gemm_rows("bf16_grouped_wgrad" + suffix, kExpertsTraining, run);
}

// What matters most first: a run of limited time leaves out the last.
const Family family("bf16_gemm", [] {
  product_rows("bf16_gemm", kDenseForward, false);
  product_rows("bf16_grouped_gemm", kExpertsForward, false);
  wgrad_rows(8);
  product_rows("bf16_gemm_dgrad", kDenseTraining, true);
  product_rows("bf16_grouped_gemm_dgrad", kExpertsTraining, true);
  const std::vector<HeadsShape> shapes = {{4096, 128, 128, 512}, {128, 128, 128, 512}, {4096, 16, 128, 512}};
  constexpr HeadsShape kSmall = {40, 2, 32, 64};
  rows("bf16_heads_gemm/exact", shapes, {kSmall}, [](const HeadsShape& s) { heads(s, false); });
  rows("bf16_heads_gemm_transposed/exact", shapes, {kSmall}, [](const HeadsShape& s) { heads(s, true); });
  rows("bf16_heads_wgrad/exact", shapes, {kSmall}, heads_wgrad);
  wgrad_rows(1);
  product_rows("bf16_gemm", kDenseForward, false, Mode::kFast);
  product_rows("bf16_gemm_dgrad", kDenseTraining, true, Mode::kFast);
  if (!small_shapes()) return;
  // One tile of each kind over 256 rows a leaf: tests/e2e/sim_cost.sh counts.
  for (const auto& [leaves, n, k] :
       {std::array<int64_t, 3>{1, 128, 256}, {4, 128, 128}, {8, 128, 128}, {64, 64, 128}, {512, 64, 64}})
    gemm_row(fmt::format("bf16_wgrad_tile_{}_leaves", leaves), {{"tile", n, k}, 256 * leaves, false},
             [leaves](const GemmRow& r) { wgrad(r, narrow<int32_t>(leaves)); });
});

}  // namespace
}  // namespace contender::bench
