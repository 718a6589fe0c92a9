// A keyed permutation of [0, size) in O(1) memory: a balanced Feistel network (Luby, Rackoff, 1988) on the
// smallest even number of bits that holds the size, and cycle walking (Black, Rogaway, "Ciphers with
// arbitrary finite domains", 2002) for the rest.
#include <algorithm>
#include <bit>

#include "base/error.h"
#include "base/philox.h"
#include "data/prompts.h"

namespace contender {
namespace {

constexpr uint32_t kRounds = 8;

uint64_t permute_bits(uint64_t seed, uint64_t epoch, int half_bits, uint64_t value) {
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  uint64_t left = value >> half_bits;
  uint64_t right = value & mask;
  for (uint32_t round = 0; round < kRounds; ++round) {
    const uint64_t mixed =
        left ^ (philox(seed, RandomStream::kShuffle, epoch, round, static_cast<uint32_t>(right))[0] & mask);
    left = right;
    right = mixed;
  }
  return left << half_bits | right;
}

}  // namespace

int64_t shuffled_index(uint64_t seed, int64_t size, int64_t position) {
  CHECK(size > 0 && position >= 0, "size {} position {}", size, position);
  const uint64_t count = static_cast<uint64_t>(size);
  const uint64_t epoch = static_cast<uint64_t>(position) / count;
  uint64_t value = static_cast<uint64_t>(position) % count;
  const int half_bits = std::max(1, (static_cast<int>(std::bit_width(count - 1)) + 1) / 2);
  // The cycle of a value below `count` returns to one, at the latest to itself; fewer than 4 rounds on
  // average.
  do {
    value = permute_bits(seed, epoch, half_bits, value);
  } while (value >= count);
  return static_cast<int64_t>(value);
}

}  // namespace contender
