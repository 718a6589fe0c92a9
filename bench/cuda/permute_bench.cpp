// Rows to the experts and back, sums of matrices and of rows, casts. Tokens go to top_k experts each, in a
// scattered order.
#include <cmath>
#include <numeric>

#include "bench/cuda/gpu_bench.h"
#include "cuda/ops.h"
#include "ops/permute.h"

namespace contender::bench {
namespace {

struct Shape {
  int64_t tokens, top_k, h;
  std::string text() const { return fmt::format("{}x{}x{}", tokens, top_k, h); }
  int64_t rows() const { return tokens * top_k; }
};
const std::vector<Shape> kShapes = {{8192, 8, 7168}, {16384, 6, 2048}, {128, 8, 7168}};
constexpr Shape kSmall = {48, 4, 1024};
const std::vector<RowsShape> kMatrices = {{16384, 7168}, {16384, 2048}, {128, 7168}};
constexpr RowsShape kSmallMatrix = {256, 1024};

struct Operands {
  Shape s;
  std::vector<int32_t> pos, source;
  DeviceData tokens, experts, weight, device_pos, device_source;
  explicit Operands(const Shape& s)
      : s(s),
        pos(scattered()),
        source(pos.size()),
        tokens(DeviceData::random(kActivation, s.tokens, s.h, 1)),
        experts(DeviceData::random(kActivation, s.rows(), s.h, 2)),
        weight(DeviceData::random(DType::kF32, s.tokens, s.top_k, 3)),
        device_pos(DeviceData::of(pos)),
        device_source(DeviceData::of(inverted())) {}
  // A step that shares no factor with the number of rows visits each once.
  std::vector<int32_t> scattered() const {
    int64_t step = s.rows() * 5 / 8;
    while (std::gcd(step, s.rows()) != 1) ++step;
    std::vector<int32_t> list;
    for (int64_t i = 0; i < s.rows(); ++i) list.push_back(narrow<int32_t>(i * step % s.rows()));
    return list;
  }
  std::vector<int32_t> inverted() {
    for (size_t i = 0; i < pos.size(); ++i)
      source[static_cast<size_t>(pos[i])] = narrow<int32_t>(static_cast<int64_t>(i) / s.top_k);
    return source;
  }
  Tensor places() const { return i32_tensor(device_pos.as<int32_t>(), s.tokens, s.top_k); }
  int32_t place(int64_t t, int64_t j) const { return pos[static_cast<size_t>(t * s.top_k + j)]; }
};

void equal_rows(Check& check, const std::vector<double>& got, const std::vector<double>& want) {
  for (size_t c = 0; c < want.size(); ++c) check.equal(got[c], want[c]);
}

void gather_rows(const Shape& s) {
  const Operands o(s);
  measure({.cost = rows_cost(s.rows(), s.h, 2, kActivation),
           .call =
               [&] {
                 cuda::gather_rows({}, {.x = o.tokens.tensor(),
                                        .index = o.device_source.as<int32_t>(),
                                        .y = o.experts.tensor()});
               },
           .check =
               [&](Check& check) {
                 for (const int64_t i : samples(s.rows(), 16))
                   equal_rows(check, o.experts.row(i), o.tokens.row(o.source[static_cast<size_t>(i)]));
               }});
}
void scatter_rows(const Shape& s) {
  const Operands o(s);
  const DeviceData y(kActivation, s.rows(), s.h);
  measure({.cost = rows_cost(s.rows(), s.h, 2, kActivation),
           .call =
               [&] {
                 cuda::scatter_rows(
                     {}, {.x = o.experts.tensor(), .index = o.device_pos.as<int32_t>(), .y = y.tensor()});
               },
           .check =
               [&](Check& check) {
                 for (const int64_t i : samples(s.rows(), 16))
                   equal_rows(check, y.row(o.pos[static_cast<size_t>(i)]), o.experts.row(i));
               }});
}
void combine(const Shape& s) {
  const Operands o(s);
  const DeviceData y(kActivation, s.tokens, s.h);
  measure(
      {.cost = rows_cost(s.tokens + s.rows(), s.h, 1, kActivation),
       .call =
           [&] {
             cuda::combine(
                 {},
                 {.x = o.experts.tensor(), .pos = o.places(), .weight = o.weight.tensor(), .y = y.tensor()});
           },
       .check =
           [&](Check& check) {
             for (const int64_t t : samples(s.tokens, 8)) {
               std::vector<double> want(static_cast<size_t>(s.h));
               for (int64_t j = 0; j < s.top_k; ++j) {
                 const std::vector<double> x = o.experts.row(o.place(t, j));
                 for (size_t c = 0; c < want.size(); ++c) want[c] += o.weight.at(t, j) * x[c];
               }
               const std::vector<double> got = y.row(t);
               for (size_t c = 0; c < want.size(); ++c)
                 check.near(got[c], want[c], tolerance_of(kActivation, want[c], 1));
             }
           }});
}
void combine_bwd(const Shape& s) {
  const Operands o(s);
  const DeviceData dx(kActivation, s.rows(), s.h), dweight(DType::kF32, s.tokens, s.top_k);
  measure({.cost = rows_cost(s.tokens + 2 * s.rows(), s.h, 1, kActivation),
           .call =
               [&] {
                 cuda::combine_bwd({}, {.dy = o.tokens.tensor(),
                                        .x = o.experts.tensor(),
                                        .pos = o.places(),
                                        .weight = o.weight.tensor(),
                                        .dx = dx.tensor(),
                                        .dweight = dweight.tensor()});
               },
           .check =
               [&](Check& check) {
                 for (const int64_t t : samples(s.tokens, 4)) {
                   const std::vector<double> dy = o.tokens.row(t);
                   for (int64_t j = 0; j < s.top_k; ++j) {
                     const std::vector<double> x = o.experts.row(o.place(t, j)), got = dx.row(o.place(t, j));
                     const double weight = o.weight.at(t, j);
                     double dot = 0;
                     for (size_t c = 0; c < dy.size(); ++c) {
                       dot += dy[c] * x[c];
                       check.near(got[c], weight * dy[c], tolerance_of(kActivation, weight * dy[c], 1));
                     }
                     check.near(dweight.at(t, j), dot, 1e-4 * std::sqrt(static_cast<double>(s.h)));
                   }
                 }
               }});
}

void add(const RowsShape& s) {
  const DeviceData a = DeviceData::random(kActivation, s.rows, s.cols, 1),
                   b = DeviceData::random(kActivation, s.rows, s.cols, 2), y(kActivation, s.rows, s.cols);
  measure({.cost = rows_cost(s.rows, s.cols, 3, kActivation),
           .call = [&] { cuda::add({}, {.a = a.tensor(), .b = b.tensor(), .y = y.tensor()}); },
           .check =
               [&](Check& check) {
                 for (const int64_t r : samples(s.rows, 8)) {
                   const std::vector<double> x = a.row(r), z = b.row(r), got = y.row(r);
                   for (size_t c = 0; c < x.size(); ++c)
                     check.near(got[c], x[c] + z[c], tolerance_of(kActivation, got[c], 1));
                 }
               }});
}
void cast(const RowsShape& s) {
  const DeviceData x = DeviceData::random(DType::kF32, s.rows, s.cols, 1), y(kActivation, s.rows, s.cols);
  Cost cost = rows_cost(s.rows, s.cols, 1);
  cost += rows_cost(s.rows, s.cols, 1, kActivation);
  measure({.cost = cost,
           .call = [&] { cuda::gather_rows({}, {.x = x.tensor(), .y = y.tensor()}); },
           .check =
               [&](Check& check) {
                 for (const int64_t r : samples(s.rows, 8)) {
                   const std::vector<double> from = x.row(r), got = y.row(r);
                   for (size_t c = 0; c < from.size(); ++c)
                     check.near(got[c], from[c], std::abs(from[c]) / 256);
                 }
               }});
}
// The keys of MLA's heads, out of rows [key | value].
void copy_heads(const RowsShape& s) {
  constexpr int64_t kKey = 128, kBoth = 256;
  const int64_t heads = s.cols / kBoth;
  const DeviceData x = DeviceData::random(kActivation, s.rows, s.cols, 1),
                   y(kActivation, s.rows, heads * kKey);
  measure({.cost = rows_cost(s.rows, heads * kKey, 2, kActivation),
           .call =
               [&] {
                 cuda::copy_heads({}, {.x = x.tensor(),
                                       .x_heads = {.count = heads, .stride = kBoth},
                                       .y = y.tensor(),
                                       .y_heads = {.count = heads, .stride = kKey},
                                       .width = kKey});
               },
           .check =
               [&](Check& check) {
                 for (const int64_t r : samples(s.rows, 8)) {
                   const std::vector<double> from = x.row(r), got = y.row(r);
                   for (int64_t c = 0; c < heads * kKey; ++c)
                     check.equal(got[c], from[c / kKey * kBoth + c % kKey]);
                 }
               }});
}
void column_sum(const RowsShape& s) {
  const DeviceData dy = DeviceData::random(kActivation, s.rows, s.cols, 1), sum(DType::kF32, 1, s.cols);
  const Segments segments(s.rows, 8);
  const Scratch scratch(column_sum_workspace_bytes(s.cols, 8));
  measure({.cost = rows_cost(s.rows, s.cols, 1, kActivation),
           .call =
               [&] {
                 cuda::column_sum(scratch.exec(),
                                  {.dy = dy.tensor(), .sum = sum.tensor(), .segments = segments.get()});
               },
           .check =
               [&](Check& check) {
                 for (const int64_t c : samples(s.cols, 8)) {
                   double want = 0;
                   for (const double v : dy.column(c)) want += v;
                   check.near(sum.at(0, c), want, 1e-4 * std::sqrt(static_cast<double>(s.rows)));
                 }
               }});
}

const Family family("permute", [] {
  rows("gather_rows", kShapes, {kSmall}, gather_rows);
  rows("scatter_rows", kShapes, {kSmall}, scatter_rows);
  rows("combine", kShapes, {kSmall}, combine);
  rows("combine_bwd", kShapes, {kSmall}, combine_bwd);
  rows("add", kMatrices, {kSmallMatrix}, add);
  rows("cast", kMatrices, {kSmallMatrix}, cast);
  rows("copy_heads", std::vector<RowsShape>{{16384, 32768}, {16384, 4096}}, {kSmallMatrix}, copy_heads);
  rows("column_sum", kMatrices, {{256, 1024}, {2048, 1024}}, column_sum);
});

}  // namespace
}  // namespace contender::bench
