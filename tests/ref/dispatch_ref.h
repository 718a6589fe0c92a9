// The plans of the expert exchange by sorting lists of rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

#include "ops/dispatch.h"

namespace contender::ref {

struct SendPlan {
  std::vector<int32_t> pos, source, counts, header, load;
  int32_t overflow = 0;
};
struct ArrivalPlan {
  std::vector<int32_t> arrival, counts, rows, offsets;
  std::vector<RowSegment> segments;
  int32_t overflow = 0;
};

inline size_t header_at(const DispatchShape& s, int64_t peer, int64_t c, int64_t e, int64_t slot) {
  return static_cast<size_t>(((peer * s.chunks + c) * s.experts + e) * s.slots + slot);
}

inline SendPlan send_plan(const DispatchShape& s, const std::vector<int32_t>& expert,
                          const std::vector<int32_t>& slot_begin) {
  const auto n = static_cast<int64_t>(expert.size()), tokens = n / s.top_k;
  SendPlan p;
  p.pos.resize(expert.size());
  p.source.assign(static_cast<size_t>(s.chunks * s.ep * s.capacity), -1);
  p.counts.assign(static_cast<size_t>(s.chunks * s.ep), 0);
  p.header.assign(static_cast<size_t>(s.chunks * s.ep * s.experts * s.slots), 0);
  p.load.assign(static_cast<size_t>(s.ep * s.experts), 0);
  // (chunk, expert, token, choice) ascending is the order of all blocks.
  std::vector<std::tuple<int64_t, int32_t, int64_t, int64_t>> rows;
  for (int64_t i = 0; i < n; ++i) {
    int64_t chunk = 0;
    while (i / s.top_k >= tokens * (chunk + 1) / s.chunks) ++chunk;
    rows.emplace_back(chunk, expert[i], i / s.top_k, i);
  }
  std::sort(rows.begin(), rows.end());
  std::vector<int32_t> wanted(p.counts.size(), 0);
  for (const auto& [chunk, e, token, i] : rows) {
    const int64_t peer = e / s.experts, block = chunk * s.ep + peer, place = wanted[block]++;
    ++p.load[e];
    p.pos[i] = static_cast<int32_t>(block * s.capacity + std::min(place, s.capacity - 1));
    if (place >= s.capacity) {
      p.overflow = std::max(p.overflow, wanted[block]);
      continue;
    }
    p.source[block * s.capacity + place] = static_cast<int32_t>(token);
    ++p.counts[block];
    const auto slot =
        std::upper_bound(slot_begin.begin() + 1, slot_begin.end(), token) - slot_begin.begin() - 1;
    ++p.header[header_at(s, peer, chunk, e % s.experts, slot)];
  }
  return p;
}

inline ArrivalPlan arrival_plan(const DispatchShape& s, const std::vector<int32_t>& header, int64_t room) {
  ArrivalPlan p;
  p.arrival.assign(static_cast<size_t>(s.chunks * room), -1);
  p.segments.resize(static_cast<size_t>(s.experts * s.ep * s.slots * s.chunks));
  for (int64_t c = 0; c < s.chunks; ++c) {
    // What lies in the blocks, a row at a time, and then its sorted order.
    std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t>>
        rows;  // expert, peer, slot, row of the buffer
    for (int64_t peer = 0; peer < s.ep; ++peer) {
      int64_t place = 0;
      for (int64_t e = 0; e < s.experts; ++e) {
        for (int64_t slot = 0; slot < s.slots; ++slot) {
          for (int32_t i = 0; i < header[header_at(s, peer, c, e, slot)]; ++i, ++place) {
            if (place < s.capacity) rows.emplace_back(e, peer, slot, peer * s.capacity + place);
          }
        }
      }
      p.counts.push_back(static_cast<int32_t>(std::min(place, s.capacity)));
      if (place > s.capacity) p.overflow = std::max(p.overflow, static_cast<int32_t>(place));
    }
    std::sort(rows.begin(), rows.end());
    if (std::ssize(rows) > room) p.overflow = std::max(p.overflow, static_cast<int32_t>(rows.size()));
    rows.resize(static_cast<size_t>(std::min<int64_t>(std::ssize(rows), room)));
    p.rows.push_back(static_cast<int32_t>(rows.size()));
    for (size_t i = 0; i < rows.size(); ++i)
      p.arrival[c * room + i] = static_cast<int32_t>(std::get<3>(rows[i]));
    const auto first = [&](int64_t e, int64_t peer, int64_t slot) {
      const auto at = std::lower_bound(rows.begin(), rows.end(), std::tuple(e, peer, slot, int64_t{0}));
      return static_cast<int32_t>(at - rows.begin());
    };
    for (int64_t e = 0; e <= s.experts; ++e) p.offsets.push_back(first(e, 0, 0));
    for (int64_t e = 0; e < s.experts; ++e) {
      for (int64_t leaf = 0; leaf < s.ep * s.slots; ++leaf) {
        const int64_t peer = leaf / s.slots, slot = leaf % s.slots;
        p.segments[(e * s.ep * s.slots + leaf) * s.chunks + c] = {
            static_cast<int32_t>(c * room) + first(e, peer, slot),
            static_cast<int32_t>(c * room) + first(e, peer, slot + 1), static_cast<int32_t>(e),
            static_cast<int32_t>(leaf)};
      }
    }
  }
  return p;
}

}  // namespace contender::ref
