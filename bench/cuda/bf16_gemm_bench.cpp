// BF16 products on wgmma: forward, dgrad, per expert, per head, weight gradients with one leaf and with the
// eight of training. Baseline: cuBLAS (per expert: one call for each).
#include <cmath>

#include "bench/cuda/cublas.h"
#include "bench/cuda/gemm_rows.h"
#include "bench/cuda/weight.h"
#include "cuda/gemm/bf16_gemm.h"
#include "ops/linear.h"

namespace contender::bench {
namespace {

// Terms below 1, summed with signs.
void expect(Check& check, DType dtype, double got, double want, int64_t terms) {
  check.near(got, want, tolerance_of(dtype, want, 100 * std::sqrt(static_cast<double>(terms))));
}

// Rows times a weight of each group, or back: y [m, out] = x [m, in] w'.
struct Forward {
  const GemmRow& r;
  bool back;
  int64_t in, out;
  Weight w;
  DeviceData x, y, offsets;

  Forward(const GemmRow& r, bool back)
      : r(r),
        back(back),
        in(back ? r.shape.n : r.shape.k),
        out(back ? r.shape.k : r.shape.n),
        w(r.shape.n, r.shape.k, r.shape.groups),
        x(DeviceData::random(kActivation, r.m, in, 1)),
        y(kActivation, r.m, out),
        offsets(DeviceData::of(r.offsets)) {}
  void run() const {
    const auto* table = offsets.as<int32_t>();
    if (r.grouped() && back) {
      cuda::bf16_gemm(
          {}, GroupedLinearDgradArgs{.dy = x.tensor(), .w = w.view(), .dx = y.tensor(), .offsets = table});
    } else if (r.grouped()) {
      cuda::bf16_gemm({},
                      GroupedLinearArgs{.x = x.tensor(), .w = w.view(), .y = y.tensor(), .offsets = table});
    } else if (back) {
      cuda::bf16_gemm({}, LinearDgradArgs{.dy = x.tensor(), .w = w.view(), .dx = y.tensor()});
    } else {
      cuda::bf16_gemm({}, LinearArgs{.x = x.tensor(), .w = w.view(), .y = y.tensor()});
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
void forward(const GemmRow& r, bool back) {
  const Forward f(r, back);
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

std::string explain(const GemmRow& r, bool back) {
  return cuda::bf16_gemm_explain({.m = r.m,
                                  .n = back ? r.shape.k : r.shape.n,
                                  .k = back ? r.shape.n : r.shape.k,
                                  .layers = r.shape.groups,
                                  .grouped = r.grouped()});
}

void wgrad_rows(int32_t leaves) {
  const std::string suffix = leaves == 1 ? "" : fmt::format("_{}_leaves", leaves);
  const auto run = [leaves](const GemmRow& r) { wgrad(r, leaves); };
  gemm_rows("bf16_wgrad" + suffix, kDenseTraining, run);
  gemm_rows("bf16_grouped_wgrad" + suffix, kExpertsTraining, run);
}

// What matters most first: a run of limited time leaves out the last.
const Family family("bf16_gemm", [] {
  const auto forth = [](const GemmRow& r) { forward(r, false); };
  const auto back = [](const GemmRow& r) { forward(r, true); };
  const auto why_forth = [](const GemmRow& r) { return explain(r, false); };
  const auto why_back = [](const GemmRow& r) { return explain(r, true); };
  gemm_rows("bf16_gemm", kDenseForward, forth, why_forth);
  gemm_rows("bf16_grouped_gemm", kExpertsForward, forth, why_forth);
  wgrad_rows(8);
  gemm_rows("bf16_gemm_dgrad", kDenseTraining, back, why_back);
  gemm_rows("bf16_grouped_gemm_dgrad", kExpertsTraining, back, why_back);
  const std::vector<HeadsShape> shapes = {{4096, 128, 128, 512}, {128, 128, 128, 512}, {4096, 16, 128, 512}};
  constexpr HeadsShape kSmall = {40, 2, 32, 64};
  rows("bf16_heads_gemm/exact", shapes, {kSmall}, [](const HeadsShape& s) { heads(s, false); });
  rows("bf16_heads_gemm_transposed/exact", shapes, {kSmall}, [](const HeadsShape& s) { heads(s, true); });
  wgrad_rows(1);
});

}  // namespace
}  // namespace contender::bench
