// Packing: sequences into packs of at most `budget` tokens, rounds x slots of them, made globally, so that
// every layout trains on the same packs in the same places.
#pragma once

#include <cstdint>
#include <vector>

namespace contender {

// packs[round][slot] lists sequence indices, ascending. Longest first into the pack with the fewest tokens
// (ties: the first), so that packs are balanced; where that does not fit, into the fullest pack that still
// has room (best fit); with as few rounds as one of them needs. Every round has all slots, so every rank has
// the same number. Throws Error(kConfig) when a sequence is longer than the budget.
using Packs = std::vector<std::vector<std::vector<int32_t>>>;
Packs pack_sequences(const std::vector<int64_t>& lengths, int64_t slots, int64_t budget);

}  // namespace contender
