#include "data/bpe.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>

#include "base/error.h"

namespace contender {
namespace {

constexpr size_t kShortWord = 48;  // bytes up to which looking through all pairs is faster than a heap

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

uint64_t mix(uint64_t key) {
  key *= 0x9e3779b97f4a7c15u;
  return key ^ key >> 29;
}

}  // namespace

BpeModel::BpeModel(const std::array<int32_t, 256>& byte_ids, const std::vector<BpeMerge>& merges,
                   std::unordered_map<std::string, int32_t> whole_words)
    : byte_ids_(byte_ids),
      slots_(std::bit_ceil(2 * merges.size() + 2)),
      whole_words_(std::move(whole_words)) {
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const BpeMerge& m = merges[rank];
    Slot& slot = const_cast<Slot&>(find(m.left, m.right));
    CHECK(slot.merged < 0, "the pair of merge {} occurs twice", rank);
    slot = {pair_key(m.left, m.right), static_cast<uint32_t>(rank), m.merged};
  }
}

// The slot of the pair, or the empty one where it would stand.
const BpeModel::Slot& BpeModel::find(int32_t left, int32_t right) const {
  const uint64_t key = pair_key(left, right), mask = slots_.size() - 1;
  uint64_t at = mix(key) & mask;
  while (slots_[at].pair != key && slots_[at].merged >= 0) at = (at + 1) & mask;
  return slots_[at];
}

void BpeModel::encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& tokens) const {
  if (word.size() > BpeScratch::kWordBytes) {
    if (!whole_words_.empty()) {
      const auto whole = whole_words_.find(std::string(word));
      if (whole != whole_words_.end()) return tokens.push_back(whole->second);
    }
    return word.size() <= kShortWord ? merge_short(word, tokens) : merge_long(word, scratch, tokens);
  }
  const uint64_t hash = XXH3_64bits(word.data(), word.size());
  BpeScratch::Word& known = scratch.words_[hash & (BpeScratch::kWords - 1)];
  if (known.bytes == word.size() && std::memcmp(known.text, word.data(), word.size()) == 0) {
    tokens.insert(tokens.end(), known.ids, known.ids + known.tokens);
    return;
  }
  const size_t before = tokens.size();
  const auto whole = whole_words_.empty() ? whole_words_.end() : whole_words_.find(std::string(word));
  if (whole != whole_words_.end()) {
    tokens.push_back(whole->second);
  } else {
    merge_short(word, tokens);
  }
  const size_t count = tokens.size() - before;
  if (count > BpeScratch::kWordTokens) return;
  known.bytes = static_cast<uint8_t>(word.size());
  known.tokens = static_cast<uint8_t>(count);
  std::memcpy(known.text, word.data(), word.size());
  std::copy(tokens.end() - static_cast<int64_t>(count), tokens.end(), known.ids);
}

void BpeModel::merge_short(std::string_view word, std::vector<int32_t>& tokens) const {
  std::array<int32_t, kShortWord> ids, merged;
  std::array<uint32_t, kShortWord> ranks;
  size_t n = 0;
  for (const char byte : word) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(byte)];
    if (id >= 0) ids[n++] = id;
  }
  const auto look_up = [&](size_t at) {
    const bool last = at + 1 >= n;
    const Slot& slot = last ? slots_[0] : find(ids[at], ids[at + 1]);
    ranks[at] = last || slot.merged < 0 ? kNoRank : slot.rank;
    merged[at] = slot.merged;
  };
  for (size_t i = 0; i < n; ++i) look_up(i);
  while (n > 1) {
    const size_t best = static_cast<size_t>(
        std::min_element(ranks.begin(), ranks.begin() + static_cast<int64_t>(n)) - ranks.begin());
    if (ranks[best] == kNoRank) break;
    ids[best] = merged[best];
    for (size_t i = best + 2; i < n; ++i) {
      ids[i - 1] = ids[i];
      ranks[i - 1] = ranks[i];
      merged[i - 1] = merged[i];
    }
    --n;
    look_up(best);
    if (best > 0) look_up(best - 1);
  }
  tokens.insert(tokens.end(), ids.begin(), ids.begin() + static_cast<int64_t>(n));
}

void BpeModel::merge_long(std::string_view word, BpeScratch& s, std::vector<int32_t>& tokens) const {
  CHECK(word.size() < size_t{1} << 31, "a word of {} bytes", word.size());
  s.ids_.clear();
  for (const char byte : word) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(byte)];
    if (id >= 0) s.ids_.push_back(id);
  }
  const int32_t n = static_cast<int32_t>(s.ids_.size());
  s.next_.resize(s.ids_.size());
  s.previous_.resize(s.ids_.size());
  s.ranks_.resize(s.ids_.size());
  s.heap_.clear();
  const auto enqueue = [&](int32_t at) {
    const int32_t next = s.next_[at];
    const Slot* slot = next < n ? &find(s.ids_[at], s.ids_[next]) : nullptr;
    s.ranks_[at] = slot && slot->merged >= 0 ? slot->rank : kNoRank;
    if (s.ranks_[at] != kNoRank)
      s.heap_.push_back(static_cast<uint64_t>(s.ranks_[at]) << 32 | static_cast<uint32_t>(at));
    return s.ranks_[at] != kNoRank;
  };
  for (int32_t i = 0; i < n; ++i) {
    s.next_[i] = i + 1;
    s.previous_[i] = i - 1;
    enqueue(i);
  }
  std::make_heap(s.heap_.begin(), s.heap_.end(), std::greater<>());
  while (!s.heap_.empty()) {
    std::pop_heap(s.heap_.begin(), s.heap_.end(), std::greater<>());
    const int32_t at = static_cast<int32_t>(s.heap_.back() & UINT32_MAX);
    const uint32_t rank = static_cast<uint32_t>(s.heap_.back() >> 32);
    s.heap_.pop_back();
    if (s.ranks_[at] != rank) continue;  // one of the pair has been merged with another since
    const int32_t gone = s.next_[at];
    s.ids_[at] = find(s.ids_[at], s.ids_[gone]).merged;
    s.ranks_[gone] = kNoRank;
    s.next_[at] = s.next_[gone];
    if (s.next_[at] < n) s.previous_[s.next_[at]] = at;
    for (const int32_t left : {s.previous_[at], at}) {
      if (left >= 0 && enqueue(left)) std::push_heap(s.heap_.begin(), s.heap_.end(), std::greater<>());
    }
  }
  for (int32_t i = 0; i < n; i = s.next_[i]) tokens.push_back(s.ids_[i]);
}

}  // namespace contender
