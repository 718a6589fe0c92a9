// Rotary embedding: all heads of MLA and of GQA, and MLA's one shared key.
#include <cmath>

#include "bench/cuda/gpu_bench.h"
#include "cuda/ops.h"
#include "ops/rope.h"

namespace contender::bench {
namespace {

// `heads` heads of `width` columns, the last `dim` of each are rotated.
struct Shape {
  int64_t tokens, heads, width, dim;
  std::string text() const { return fmt::format("{}x{}x{}of{}", tokens, heads, dim, width); }
};
constexpr int64_t kPositions = 4096;

void rope(const Shape& s, bool interleaved, DType dtype) {
  const DeviceData x = DeviceData::random(dtype, s.tokens, s.heads * s.width, 1),
                   y(dtype, s.tokens, s.heads * s.width);
  const std::vector<float> angles = rope_table({.dim = s.dim}, kPositions);
  std::vector<int32_t> where;
  for (int64_t t = 0; t < s.tokens; ++t) where.push_back(static_cast<int32_t>(t % kPositions));
  const DeviceData table = DeviceData::of(angles), positions = DeviceData::of(where);
  const Heads heads = {.count = s.heads, .stride = s.width, .offset = s.width - s.dim};
  const RopeArgs args = {.x = x.tensor(),
                         .x_heads = heads,
                         .y = y.tensor(),
                         .y_heads = heads,
                         .positions = positions.as<int32_t>(),
                         .table = f32_tensor(table.as<float>(), kPositions, s.dim),
                         .interleaved = interleaved};
  measure({.cost = rope_cost(s.tokens, s.heads, s.dim, dtype),
           .call = [&] { cuda::rope({}, args); },
           .check =
               [&](Check& check) {
                 for (const int64_t t : samples(s.tokens, 8)) {
                   const std::vector<double> before = x.row(t), after = y.row(t);
                   for (const int64_t h : samples(s.heads, 4)) {
                     for (int64_t i = 0; i < s.dim / 2; ++i) {
                       const int64_t first = heads.column(h) + (interleaved ? 2 * i : i),
                                     second = first + (interleaved ? 1 : s.dim / 2),
                                     angle = t % kPositions * s.dim + i;
                       const double a = before[first], b = before[second], cos = angles[angle],
                                    sin = angles[angle + s.dim / 2];
                       check.near(after[first], a * cos - b * sin, tolerance_of(dtype, a * cos - b * sin, 1));
                       check.near(after[second], a * sin + b * cos,
                                  tolerance_of(dtype, a * sin + b * cos, 1));
                     }
                   }
                 }
               }});
}

const Family family("rope", [] {
  constexpr Shape kSmall = {64, 16, 192, 64};
  rows("rope_mla", std::vector<Shape>{{16384, 128, 192, 64}, {16384, 16, 192, 64}, {128, 128, 192, 64}},
       {kSmall}, [](const Shape& s) { rope(s, true, kActivation); });
  rows("rope_mla_key", std::vector<Shape>{{16384, 1, 576, 64}}, {{512, 1, 576, 64}},
       [](const Shape& s) { rope(s, true, kActivation); });
  rows("rope_gqa", std::vector<Shape>{{16384, 28, 128, 128}, {16384, 4, 128, 128}}, {{64, 28, 128, 128}},
       [](const Shape& s) { rope(s, false, kActivation); });
});

}  // namespace
}  // namespace contender::bench
