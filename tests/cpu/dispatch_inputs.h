// What the tests of the plans share: choices of experts, cases, and outputs that are poisoned first.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "tests/cpu/op_inputs.h"
#include "tests/ref/dispatch_ref.h"

namespace contender::test {

inline constexpr int32_t kPoison = -77;

struct DispatchCase {
  DispatchShape shape;
  int64_t tokens = 0;
  int64_t room = 0;
};

// Ragged on purpose: no tokens, fewer tokens than chunks or slots, blocks and rooms too small.
inline std::vector<DispatchCase> dispatch_cases() {
  return {
      {{.ep = 1, .experts = 4, .top_k = 2, .slots = 2, .chunks = 1, .capacity = 14}, 7, 30},
      {{.ep = 1, .experts = 1, .top_k = 1, .slots = 1, .chunks = 1, .capacity = 1}, 1, 1},
      {{.ep = 2, .experts = 4, .top_k = 3, .slots = 4, .chunks = 2, .capacity = 40}, 23, 80},
      {{.ep = 4, .experts = 2, .top_k = 2, .slots = 2, .chunks = 3, .capacity = 20}, 50, 60},
      {{.ep = 2, .experts = 3, .top_k = 2, .slots = 4, .chunks = 4, .capacity = 4}, 2, 100},  // 2 tokens
      {{.ep = 2, .experts = 3, .top_k = 2, .slots = 4, .chunks = 2, .capacity = 4}, 0, 100},  // none
      {{.ep = 2, .experts = 3, .top_k = 2, .slots = 1, .chunks = 2, .capacity = 0}, 0, 0},
      {{.ep = 2, .experts = 4, .top_k = 3, .slots = 4, .chunks = 2, .capacity = 9}, 23, 80},   // small blocks
      {{.ep = 2, .experts = 4, .top_k = 3, .slots = 4, .chunks = 2, .capacity = 40}, 23, 31},  // small rooms
      {{.ep = 8, .experts = 32, .top_k = 8, .slots = 8, .chunks = 2, .capacity = 600}, 700, 4000},
  };
}

// Distinct experts for each token; low ones are chosen more often, the last never where others suffice.
inline std::vector<int32_t> random_experts(const DispatchShape& s, int64_t tokens, uint64_t seed) {
  const auto all = static_cast<int32_t>(s.ep * s.experts);
  const int32_t usable = all > s.top_k ? all - 1 : all;
  std::vector<int32_t> chosen;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<int32_t> order(static_cast<size_t>(usable));
    std::iota(order.begin(), order.end(), 0);
    for (int64_t j = 0; j < s.top_k; ++j) {
      const auto left = usable - static_cast<int32_t>(j);
      const auto i = static_cast<uint64_t>(t * s.top_k + j);
      const int32_t at = std::min(random_below(left, seed, 2 * i), random_below(left, seed, 2 * i + 1));
      chosen.push_back(order[at]);
      order.erase(order.begin() + at);
    }
  }
  return chosen;
}

// Uneven slots; the second has no tokens.
inline std::vector<int32_t> slot_bounds(int64_t slots, int64_t tokens) {
  std::vector<int32_t> begin = {0};
  for (int64_t i = 1; i < slots; ++i)
    begin.push_back(i == 2 ? begin[1] : static_cast<int32_t>(tokens * i * i / (slots * slots)));
  begin.push_back(static_cast<int32_t>(tokens));
  return begin;
}

// A third of the counts is 0.
inline std::vector<int32_t> random_header(const DispatchShape& s, uint64_t seed) {
  std::vector<int32_t> header(static_cast<size_t>(s.ep * s.chunks * s.experts * s.slots));
  for (size_t i = 0; i < header.size(); ++i) header[i] = std::max(0, random_below(6, seed, i) - 2);
  return header;
}

struct SendBuffers {
  DispatchShape shape;
  int64_t tokens;
  std::vector<int32_t> pos, source, counts, header, load;
  int32_t overflow = 0;

  SendBuffers(const DispatchShape& s, int64_t n)
      : shape(s),
        tokens(n),
        pos(static_cast<size_t>(n * s.top_k), kPoison),
        source(static_cast<size_t>(s.chunks * s.ep * s.capacity + 1), kPoison),
        counts(static_cast<size_t>(s.chunks * s.ep), kPoison),
        header(static_cast<size_t>(s.chunks * s.ep * s.experts * s.slots), kPoison),
        load(static_cast<size_t>(s.ep * s.experts), 0) {}
  SendPlanArgs args(const int32_t* expert, const int32_t* slot_begin) {
    return {.shape = shape,
            .expert = i32_tensor(const_cast<int32_t*>(expert), tokens, shape.top_k),
            .slot_begin = slot_begin,
            .pos = i32_tensor(pos.data(), tokens, shape.top_k),
            .source = source.data(),
            .counts = counts.data(),
            .header = header.data(),
            .load = load.data(),
            .overflow = &overflow};
  }
  void expect_equal(ref::SendPlan want) const {
    want.source.push_back(kPoison);  // nothing is written past the end
    EXPECT_EQ(pos, want.pos);
    EXPECT_EQ(source, want.source);
    EXPECT_EQ(counts, want.counts);
    EXPECT_EQ(header, want.header);
    EXPECT_EQ(load, want.load);
    EXPECT_EQ(overflow, want.overflow);
  }
};

struct ArrivalBuffers {
  DispatchShape shape;
  int64_t room;
  std::vector<int32_t> arrival, counts, rows, offsets;
  std::vector<RowSegment> segments;
  int32_t overflow = 0;

  ArrivalBuffers(const DispatchShape& s, int64_t room)
      : shape(s),
        room(room),
        arrival(static_cast<size_t>(s.chunks * room + 1), kPoison),
        counts(static_cast<size_t>(s.chunks * s.ep), kPoison),
        rows(static_cast<size_t>(s.chunks), kPoison),
        offsets(static_cast<size_t>(s.chunks * (s.experts + 1)), kPoison),
        segments(static_cast<size_t>(s.experts * s.ep * s.slots * s.chunks),
                 RowSegment{kPoison, kPoison, kPoison, kPoison}) {}
  ArrivalPlanArgs args(const int32_t* header) {
    return {.shape = shape,
            .header = header,
            .room = room,
            .arrival = arrival.data(),
            .counts = counts.data(),
            .rows = rows.data(),
            .offsets = offsets.data(),
            .segments = segments.data(),
            .overflow = &overflow};
  }
  void expect_equal(ref::ArrivalPlan want) const {
    want.arrival.push_back(kPoison);
    EXPECT_EQ(arrival, want.arrival);
    EXPECT_EQ(counts, want.counts);
    EXPECT_EQ(rows, want.rows);
    EXPECT_EQ(offsets, want.offsets);
    ASSERT_EQ(segments.size(), want.segments.size());
    for (size_t i = 0; i < segments.size(); ++i) {
      const RowSegment &a = segments[i], &b = want.segments[i];
      ASSERT_TRUE(a.begin == b.begin && a.end == b.end && a.group == b.group && a.leaf == b.leaf)
          << "segment " << i << ": [" << a.begin << ", " << a.end << "), expected [" << b.begin << ", "
          << b.end << ")";
    }
    EXPECT_EQ(overflow, want.overflow);
  }
};

}  // namespace contender::test
