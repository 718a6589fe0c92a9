// Rows of the embedding table, and its gradient: every row of the table is written, most as zeros.
#include <cmath>

#include "base/philox.h"
#include "bench/cuda/gpu_bench.h"
#include "cuda/ops.h"
#include "ops/embedding.h"

namespace contender::bench {
namespace {

constexpr int32_t kLeaves = 8;

struct Shape {
  int64_t tokens, vocab, h;
  std::string text() const { return fmt::format("{}of{}x{}", tokens, vocab, h); }
};

struct Operands {
  Shape s;
  std::vector<int32_t> list;
  DeviceData tokens;
  // Frequent and rare ones: ids fall off towards the end.
  explicit Operands(const Shape& s) : s(s), list(ids()), tokens(DeviceData::of(list)) {}
  std::vector<int32_t> ids() const {
    std::vector<int32_t> all;
    for (int64_t t = 0; t < s.tokens; ++t) {
      const double u = uniform01(philox(7, RandomStream::kTest, static_cast<uint64_t>(t))[0]);
      all.push_back(static_cast<int32_t>(u * u * u * static_cast<double>(s.vocab)));
    }
    return all;
  }
};

void embedding(const Shape& s) {
  const Operands o(s);
  const DeviceData table = DeviceData::random(DType::kF32, s.vocab, s.h, 1), y(kActivation, s.tokens, s.h);
  measure({.cost = embedding_cost(s.tokens, s.h, kActivation, DType::kF32),
           .call =
               [&] {
                 cuda::embedding(
                     {}, {.tokens = o.tokens.as<int32_t>(), .table = table.tensor(), .y = y.tensor()});
               },
           .check =
               [&](Check& check) {
                 for (const int64_t t : samples(s.tokens, 16)) {
                   const std::vector<double> want = table.row(o.list[static_cast<size_t>(t)]), got = y.row(t);
                   for (size_t c = 0; c < want.size(); ++c)
                     check.near(got[c], want[c], std::abs(want[c]) / 256);
                 }
               }});
}
void embedding_bwd(const Shape& s) {
  const Operands o(s);
  const DeviceData dy = DeviceData::random(kActivation, s.tokens, s.h, 1), dtable(DType::kF32, s.vocab, s.h);
  const Segments segments(s.tokens, kLeaves);
  const Scratch scratch(embedding_bwd_workspace_bytes(s.vocab, s.h, kLeaves));
  measure({.cost = embedding_bwd_cost(s.tokens, s.vocab, s.h, kActivation),
           .call =
               [&] {
                 cuda::embedding_bwd(scratch.exec(), {.tokens = o.tokens.as<int32_t>(),
                                                      .dy = dy.tensor(),
                                                      .dtable = dtable.tensor(),
                                                      .segments = segments.get()});
               },
           .check =
               [&](Check& check) {
                 for (const int64_t i : samples(s.tokens, 4)) {
                   const int32_t id = o.list[static_cast<size_t>(i)];
                   std::vector<double> want(static_cast<size_t>(s.h));
                   for (int64_t t = 0; t < s.tokens; ++t) {
                     if (o.list[static_cast<size_t>(t)] != id) continue;
                     const std::vector<double> row = dy.row(t);
                     for (size_t c = 0; c < row.size(); ++c) want[c] += row[c];
                   }
                   const std::vector<double> got = dtable.row(id);
                   for (size_t c = 0; c < want.size(); ++c) check.near(got[c], want[c], 1e-3);
                 }
               }});
}

const Family family("embedding", [] {
  const std::vector<Shape> shapes = {{16384, 129280, 7168}, {16384, 102400, 2048}, {16384, 152064, 3584}};
  constexpr Shape kSmall = {256, 512, 1024};
  rows("embedding", shapes, {kSmall}, embedding);
  rows("embedding_bwd", shapes, {kSmall}, embedding_bwd);
});

}  // namespace
}  // namespace contender::bench
