// The way of tokens to their experts, laid out on the device: sending order and sorted arrival, all experts
// on one rank.
#include <set>

#include "bench/cuda/gpu_bench.h"
#include "cuda/ops.h"
#include "ops/dispatch.h"
#include "ops/permute.h"

namespace contender::bench {
namespace {

constexpr int64_t kSlots = 8, kChunks = 2;

struct Shape {
  int64_t tokens, top_k, experts;
  std::string text() const { return fmt::format("{}x{}of{}", tokens, top_k, experts); }
};

struct Plan {
  Shape s;
  DispatchShape shape;
  DeviceData expert, slot_begin, pos, source, counts, header, overflow, arrived, rows, offsets, segments;
  Scratch send_scratch, arrival_scratch;

  explicit Plan(const Shape& s)
      : s(s),
        shape{.experts = s.experts,
              .top_k = s.top_k,
              .slots = kSlots,
              .chunks = kChunks,
              .capacity = ceil_div(s.tokens, kChunks) * s.top_k},
        expert(DeviceData::of(choices())),
        slot_begin(DeviceData::of(slots())),
        pos(DType::kI32, s.tokens, s.top_k),
        source(DType::kI32, kChunks, shape.capacity),
        counts(DType::kI32, 1, kChunks),
        header(DType::kI32, kChunks, s.experts * kSlots),
        overflow(DeviceData::of(std::vector<int32_t>{0})),
        arrived(DType::kI32, 1, kChunks),
        rows(DType::kI32, 1, kChunks),
        offsets(DType::kI32, kChunks, s.experts + 1),
        segments(DType::kI32, s.experts * kSlots * kChunks, 4),
        send_scratch(send_plan_workspace_bytes(s.tokens, shape)),
        arrival_scratch(arrival_plan_workspace_bytes(shape)) {}
  std::vector<int32_t> choices() const {
    std::vector<int32_t> all;
    for (int64_t t = 0; t < s.tokens; ++t) {
      for (int64_t j = 0; j < s.top_k; ++j)  // distinct in a row: less than `experts` apart
        all.push_back(narrow<int32_t>((t * 7919 + j * (s.experts / s.top_k)) % s.experts));
    }
    return all;
  }
  std::vector<int32_t> slots() const {
    std::vector<int32_t> all;
    for (int64_t i = 0; i <= kSlots; ++i) all.push_back(narrow<int32_t>(s.tokens * i / kSlots));
    return all;
  }
  void send() const {
    cuda::send_plan(send_scratch.exec(), {.shape = shape,
                                          .expert = i32_tensor(expert.as<int32_t>(), s.tokens, s.top_k),
                                          .slot_begin = slot_begin.as<int32_t>(),
                                          .pos = pos.tensor(),
                                          .source = source.as<int32_t>(),
                                          .counts = counts.as<int32_t>(),
                                          .header = header.as<int32_t>(),
                                          .overflow = overflow.as<int32_t>()});
  }
  void arrive() const {
    cuda::arrival_plan(arrival_scratch.exec(), {.shape = shape,
                                                .header = header.as<int32_t>(),
                                                .room = shape.capacity,
                                                .counts = arrived.as<int32_t>(),
                                                .rows = rows.as<int32_t>(),
                                                .offsets = offsets.as<int32_t>(),
                                                .segments = segments.as<RowSegment>(),
                                                .overflow = overflow.as<int32_t>()});
  }
};

void send_plan(const Shape& s) {
  const Plan p(s);
  measure({.cost = rows_cost(s.tokens, s.top_k, 3),  // choice read, place and source written
           .call = [&] { p.send(); },
           .check =
               [&](Check& check) {
                 std::set<double> places;
                 for (const int64_t t : samples(s.tokens, 64)) {
                   for (const double at : p.pos.row(t)) {
                     const auto place = static_cast<int64_t>(at);
                     check.equal(p.source.at(place / p.shape.capacity, place % p.shape.capacity),
                                 static_cast<double>(t));
                     check.equal(places.insert(at).second, true);
                   }
                 }
               }});
}
void arrival_plan(const Shape& s) {
  const Plan p(s);
  p.send();
  measure(
      {.cost = rows_cost(kChunks * s.experts, kSlots, 5),  // a count read, a segment of four words written
       .call = [&] { p.arrive(); },
       .check =
           [&](Check& check) {
             for (int64_t c = 0; c < kChunks; ++c) {
               const std::vector<double> counts = p.header.row(c), offsets = p.offsets.row(c);
               double begin = 0;
               for (int64_t e = 0; e < s.experts; ++e) {
                 check.equal(offsets[static_cast<size_t>(e)], begin);
                 for (int64_t i = 0; i < kSlots; ++i) {
                   const std::vector<double> segment = p.segments.row((e * kSlots + i) * kChunks + c);
                   const double rows = counts[static_cast<size_t>(e * kSlots + i)];
                   check.equal(segment[0], static_cast<double>(c * p.shape.capacity) + begin);
                   check.equal(segment[1] - segment[0], rows);
                   begin += rows;
                 }
               }
               check.equal(p.rows.at(0, c), begin);
             }
           }});
}

const Family family("dispatch", [] {
  const std::vector<Shape> shapes = {{16384, 8, 256}, {16384, 6, 64}, {128, 8, 256}};
  constexpr Shape kSmall = {96, 4, 16};
  rows("send_plan", shapes, {kSmall}, send_plan);
  rows("arrival_plan", shapes, {kSmall}, arrival_plan);
});

}  // namespace
}  // namespace contender::bench
