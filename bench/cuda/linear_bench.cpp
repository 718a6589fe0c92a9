// Products in BF16: plain, per expert, per head, their gradients, packing of weights. Baseline: cuBLAS (per
// expert: one call for each).
#include <cmath>

#include "bench/cuda/cublas.h"
#include "bench/cuda/gpu_bench.h"
#include "bench/cuda/weight.h"
#include "cuda/ops.h"
#include "ops/linear.h"
#include "ops/permute.h"

namespace contender::bench {
namespace {

struct Product {
  int64_t m, n, k;
  int64_t groups = 1;  // of m rows each
  std::string text() const {
    return groups == 1 ? fmt::format("{}x{}x{}", m, n, k) : fmt::format("{}x{}x{}x{}", groups, m, n, k);
  }
  int64_t rows() const { return m * groups; }
};

// DeepSeek-V3: q_b, kv_a with q_a, output, dense FFN; V2-Lite: dense FFN; Qwen-7B: both halves of the FFN.
const std::vector<Product> kTraining = {{8192, 8192, 8192},  {4096, 24576, 1536}, {4096, 2112, 7168},
                                        {4096, 7168, 16384}, {4096, 36864, 7168}, {4096, 21888, 2048},
                                        {4096, 37888, 3584}, {4096, 3584, 18944}};
const std::vector<Product> kDecode = {
    {64, 7168, 16384}, {128, 7168, 16384}, {64, 4096, 7168}, {128, 3584, 18944}};
// V3's and V2-Lite's experts.
const std::vector<Product> kExperts = {{8192, 4096, 7168, 4},
                                       {4096, 4096, 7168, 8},
                                       {4096, 7168, 2048, 8},
                                       {384, 2816, 2048, 64},
                                       {64, 4096, 7168, 32}};
constexpr Product kSmall = {64, 96, 128}, kSmallExperts = {40, 96, 64, 3};
// Absorbed MLA of V3 and V2-Lite: heads x (128 <-> 512).
struct HeadProduct {
  int64_t m, heads, n, k;
  std::string text() const { return fmt::format("{}x{}x{}x{}", m, heads, n, k); }
};
const std::vector<HeadProduct> kHeads = {{4096, 128, 128, 512}, {4096, 16, 128, 512}, {128, 128, 128, 512}};
constexpr HeadProduct kSmallHeads = {40, 2, 32, 64};

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Operands of the three products over groups of m rows.
struct Operands {
  Product p;
  Weight w;
  DeviceData x, dy, y, dx;
  DeviceData offsets;
  explicit Operands(const Product& p)
      : p(p),
        w(p.n, p.k, p.groups),
        x(DeviceData::random(kActivation, p.rows(), p.k, 1)),
        dy(DeviceData::random(kActivation, p.rows(), p.n, 2)),
        y(kActivation, p.rows(), p.n),
        dx(kActivation, p.rows(), p.k),
        offsets(DeviceData::of([&] {
          std::vector<int32_t> list;
          for (int64_t g = 0; g <= p.groups; ++g) list.push_back(narrow<int32_t>(g * p.m));
          return list;
        }())) {}
  void check_forward(Check& check) const {
    const DeviceData b = w.rounded();
    for (const int64_t r : samples(p.rows(), 8)) {
      const std::vector<double> x_row = x.row(r);
      for (const int64_t c : samples(p.n, 8))
        expect(check, y.at(r, c), dot(x_row, b.row(r / p.m * p.n + c)), p.k);
    }
  }
  void check_dgrad(Check& check) const {
    const DeviceData b = w.rounded();
    for (const int64_t r : samples(p.rows(), 8)) {
      const std::vector<double> dy_row = dy.row(r);
      for (const int64_t c : samples(p.k, 4))
        expect(check, dx.at(r, c), dot(dy_row, b.block(r / p.m * p.n, p.n, c, 1)), p.n);
    }
  }
  // Terms below 1, summed with signs.
  static void expect(Check& check, double got, double want, int64_t terms) {
    check.near(got, want, tolerance_of(kActivation, want, 100 * std::sqrt(static_cast<double>(terms))));
  }
  Cost cost(DType weight) const {
    Cost c;
    for (int64_t g = 0; g < p.groups; ++g) c += linear_cost(p.m, p.n, p.k, kActivation, weight);
    return c;
  }
  template <class F>
  std::function<void()> library(const F& product_of_group) const {
    if (!have_cublas()) return {};
    return [this, product_of_group] {
      for (int64_t g = 0; g < p.groups; ++g) cublas_product(product_of_group(g));
    };
  }
};

void forward(const Product& p) {
  const Operands o(p);
  const Scratch scratch(linear_workspace_bytes(p.m, p.n, p.k, 1));
  measure({.cost = o.cost(DType::kBF16),
           .call =
               [&] {
                 if (p.groups == 1) {
                   cuda::linear(scratch.exec(), {.x = o.x.tensor(), .w = o.w.view(), .y = o.y.tensor()});
                 } else {
                   cuda::grouped_linear(scratch.exec(), {.x = o.x.tensor(),
                                                         .w = o.w.view(),
                                                         .y = o.y.tensor(),
                                                         .offsets = o.offsets.as<int32_t>()});
                 }
               },
           .check = [&](Check& check) { o.check_forward(check); },
           .baseline = o.library([&](int64_t g) {
             return CublasProduct{.m = p.m,
                                  .n = p.n,
                                  .k = p.k,
                                  .x = o.x.as<uint16_t>() + g * p.m * p.k,
                                  .ldx = p.k,
                                  .w = o.w.view().group(g).forward,
                                  .ldw = p.k,
                                  .y = o.y.as<uint16_t>() + g * p.m * p.n,
                                  .ldy = p.n};
           })});
}
void dgrad(const Product& p) {
  const Operands o(p);
  const Scratch scratch(linear_workspace_bytes(p.m, p.n, p.k, 1));
  measure({.cost = o.cost(DType::kBF16),
           .call =
               [&] {
                 if (p.groups == 1) {
                   cuda::linear_dgrad(scratch.exec(),
                                      {.dy = o.dy.tensor(), .w = o.w.view(), .dx = o.dx.tensor()});
                 } else {
                   cuda::grouped_linear_dgrad(scratch.exec(), {.dy = o.dy.tensor(),
                                                               .w = o.w.view(),
                                                               .dx = o.dx.tensor(),
                                                               .offsets = o.offsets.as<int32_t>()});
                 }
               },
           .check = [&](Check& check) { o.check_dgrad(check); },
           .baseline = o.library([&](int64_t g) {
             return CublasProduct{.m = p.m,
                                  .n = p.k,
                                  .k = p.n,
                                  .x = o.dy.as<uint16_t>() + g * p.m * p.n,
                                  .ldx = p.n,
                                  .w = o.w.view().group(g).forward,
                                  .ldw = p.k,
                                  .y = o.dx.as<uint16_t>() + g * p.m * p.k,
                                  .ldy = p.k,
                                  .w_transposed = true};
           })});
}
// Eight leaves to a group, as in training.
void wgrad(const Product& p) {
  constexpr int32_t kLeaves = 8;
  const Operands o(p);
  const DeviceData dw(DType::kF32, p.groups * p.n, p.k);
  const Segments segments(p.rows(), kLeaves, narrow<int32_t>(p.groups));
  const Scratch scratch(linear_wgrad_workspace_bytes(p.rows(), p.n, p.k, kLeaves));
  measure({.cost = o.cost(DType::kF32),
           .call =
               [&] {
                 cuda::linear_wgrad(scratch.exec(), {.dy = o.dy.tensor(),
                                                     .x = o.x.tensor(),
                                                     .dw = dw.tensor(),
                                                     .segments = segments.get(),
                                                     .num_groups = p.groups});
               },
           .check =
               [&](Check& check) {
                 for (const int64_t r : samples(p.groups * p.n, 4)) {
                   const int64_t row0 = r / p.n * p.m;
                   const std::vector<double> dy_column = o.dy.block(row0, p.m, r % p.n, 1);
                   for (const int64_t c : samples(p.k, 4)) {
                     const double want = dot(dy_column, o.x.block(row0, p.m, c, 1));
                     check.near(dw.at(r, c), want, 1e-3 * std::sqrt(static_cast<double>(p.m)));
                   }
                 }
               },
           .baseline = o.library([&](int64_t g) {
             return CublasProduct{.m = p.n,
                                  .n = p.k,
                                  .k = p.m,
                                  .x = o.dy.as<uint16_t>() + g * p.m * p.n,
                                  .ldx = p.n,
                                  .w = o.x.as<uint16_t>() + g * p.m * p.k,
                                  .ldw = p.k,
                                  .y = dw.as<float>() + g * p.n * p.k,
                                  .ldy = p.k,
                                  .y_dtype = DType::kF32,
                                  .x_transposed = true,
                                  .w_transposed = true};
           })});
}

// y_h [m, n] = x_h [m, k] w_h^T, and back; heads side by side in a row.
void heads_linear(const HeadProduct& p, bool transposed) {
  const Weight w(p.n, p.k, p.heads);
  const int64_t in = transposed ? p.n : p.k, out = transposed ? p.k : p.n;
  const DeviceData x = DeviceData::random(kActivation, p.m, p.heads * in, 1),
                   y(kActivation, p.m, p.heads * out);
  const Scratch scratch(linear_workspace_bytes(p.m, p.n, p.k, 1));
  Cost cost;
  for (int64_t h = 0; h < p.heads; ++h) cost += linear_cost(p.m, p.n, p.k, kActivation, DType::kBF16);
  Work work = {.cost = cost,
               .call =
                   [&] {
                     cuda::heads_linear(scratch.exec(), {.x = x.tensor(),
                                                         .x_stride = in,
                                                         .w = w.view(),
                                                         .y = y.tensor(),
                                                         .y_stride = out,
                                                         .transposed = transposed});
                   },
               .check =
                   [&](Check& check) {
                     const DeviceData b = w.rounded();
                     for (const int64_t h : samples(p.heads, 3)) {
                       for (const int64_t r : samples(p.m, 4)) {
                         for (const int64_t c : samples(out, 4)) {
                           const double want =
                               dot(x.block(r, 1, h * in, in),
                                   transposed ? b.block(h * p.n, p.n, c, 1) : b.row(h * p.n + c));
                           Operands::expect(check, y.at(r, h * out + c), want, in);
                         }
                       }
                     }
                   }};
  if (have_cublas()) {
    work.baseline = [&] {
      cublas_product({.m = p.m,
                      .n = out,
                      .k = in,
                      .x = x.as<void>(),
                      .ldx = p.heads * in,
                      .w = w.forward.as<void>(),
                      .ldw = p.k,
                      .y = y.as<void>(),
                      .ldy = p.heads * out,
                      .w_transposed = transposed,
                      .batch = p.heads,
                      .x_step = in,
                      .w_step = packed_forward_bytes(p.n, p.k, kCudaWeights) / 2,
                      .y_step = out});
    };
  }
  measure(work);
}
void heads_wgrad(const HeadProduct& p) {
  constexpr int32_t kLeaves = 8;
  const DeviceData dy = DeviceData::random(kActivation, p.m, p.heads * p.n, 1),
                   x = DeviceData::random(kActivation, p.m, p.heads * p.k, 2),
                   dw(DType::kF32, p.heads * p.n, p.k);
  const Segments segments(p.m, kLeaves);
  const Scratch scratch(linear_wgrad_workspace_bytes(p.m, p.n, p.k, kLeaves));
  Cost cost;
  for (int64_t h = 0; h < p.heads; ++h) cost += linear_cost(p.m, p.n, p.k, kActivation, DType::kF32);
  Work work = {.cost = cost,
               .call =
                   [&] {
                     cuda::heads_wgrad(scratch.exec(), {.dy = dy.tensor(),
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
                   }};
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

void pack_weight(const RowsShape& s) {
  const Weight w(s.rows, s.cols, 1);
  measure({.cost = rows_cost(s.rows, s.cols, 2),  // four bytes in, two forms of two out
           .call = [&] { cuda::pack_weight({}, w.pack()); },
           .check =
               [&](Check& check) {
                 for (const int64_t r : samples(s.rows, 4)) {
                   for (const int64_t c : samples(s.cols, 4)) {
                     const auto value = [&](const DeviceData& d, int64_t i) {
                       const Tensor t = {d.as<void>(), DType::kBF16, 1, s.rows * s.cols};
                       uint16_t bits = 0;
                       CUDA_CHECK(
                           cudaMemcpy(&bits, static_cast<uint16_t*>(t.data) + i, 2, cudaMemcpyDeviceToHost));
                       return std::bit_cast<float>(uint32_t{bits} << 16);
                     };
                     const double want = w.master.at(r, c);
                     check.near(value(w.forward, r * s.cols + c), want, std::abs(want) / 256);
                     check.near(value(w.backward, c * s.rows + r), want, std::abs(want) / 256);
                   }
                 }
               }});
}

const Family family("linear", [] {
  std::vector<Product> forward_shapes = kTraining;
  forward_shapes.insert(forward_shapes.end(), kDecode.begin(), kDecode.end());
  rows("linear", forward_shapes, {kSmall}, forward);
  rows("linear_dgrad", kTraining, {kSmall}, dgrad);
  rows("linear_wgrad", kTraining, {kSmall}, wgrad);
  rows("grouped_linear", kExperts, {kSmallExperts}, forward);
  rows("grouped_linear_dgrad", kExperts, {kSmallExperts}, dgrad);
  rows("grouped_linear_wgrad", kExperts, {kSmallExperts}, wgrad);
  rows("heads_linear", kHeads, {kSmallHeads}, [](const HeadProduct& p) { heads_linear(p, false); });
  rows("heads_linear_transposed", kHeads, {kSmallHeads}, [](const HeadProduct& p) { heads_linear(p, true); });
  rows("heads_wgrad", kHeads, {kSmallHeads}, heads_wgrad);
  rows("pack_weight", std::vector<RowsShape>{{7168, 16384}, {7168, 18432}}, {{256, 512}}, pack_weight);
});

}  // namespace
}  // namespace contender::bench
