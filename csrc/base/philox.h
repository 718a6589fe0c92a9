// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC'11).
//
// A draw is a pure function of (seed, stream, counters): never of rank, batch slot, thread or call order.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace contender {

// One namespace per consumer, so that two uses of the same counters never meet.
enum class RandomStream : uint32_t {
  kInit = 1,
  kSample = 2,
  kPrompts = 3,
  kShuffle = 4,
  kTask = 5,
  kTest = 6,
  kFault = 7
};

using PhiloxBlock = std::array<uint32_t, 4>;

inline PhiloxBlock philox4x32(PhiloxBlock ctr, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * ctr[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * ctr[2];
    ctr = {static_cast<uint32_t>(p1 >> 32) ^ ctr[1] ^ k0, static_cast<uint32_t>(p1),
           static_cast<uint32_t>(p0 >> 32) ^ ctr[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return ctr;
}

// Four words for (seed, stream, c0, c1, c2). The stream and the high half of the seed share one key word.
inline PhiloxBlock philox(uint64_t seed, RandomStream stream, uint64_t c0, uint32_t c1 = 0, uint32_t c2 = 0) {
  return philox4x32({static_cast<uint32_t>(c0), static_cast<uint32_t>(c0 >> 32), c1, c2},
                    static_cast<uint32_t>(seed),
                    static_cast<uint32_t>(seed >> 32) ^ (static_cast<uint32_t>(stream) * 0x85EBCA6Bu));
}

// Uniform in (0, 1): 23 bits, centred; with 24 the largest would round to 1.
inline float uniform01(uint32_t word) { return (static_cast<float>(word >> 9) + 0.5f) * (1.0f / 8388608.0f); }

// Standard normal from two words (Box-Muller, in double so that every libm gives the same float).
inline float normal01(uint32_t a, uint32_t b) {
  const double u = (static_cast<double>(a) + 0.5) * (1.0 / 4294967296.0);
  const double v = (static_cast<double>(b) + 0.5) * (1.0 / 4294967296.0);
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v));
}

// Sequential convenience for host code (task generators, shuffles): draws words 0, 1, 2, ... of one key.
class PhiloxSequence {
 public:
  PhiloxSequence(uint64_t seed, RandomStream stream, uint64_t key0, uint32_t key1 = 0)
      : seed_(seed), stream_(stream), key0_(key0), key1_(key1) {}
  uint32_t next() {
    if (used_ == 4) {
      block_ = philox(seed_, stream_, key0_, key1_, index_++);
      used_ = 0;
    }
    return block_[used_++];
  }
  // Uniform integer in [0, n), n >= 1; multiply-shift, bias below 2^-32 * n.
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((uint64_t{next()} * n) >> 32); }
  int64_t in_range(int64_t lo, int64_t hi) { return lo + below(static_cast<uint32_t>(hi - lo + 1)); }
  float uniform() { return uniform01(next()); }

 private:
  uint64_t seed_;
  RandomStream stream_;
  uint64_t key0_;
  uint32_t key1_;
  uint32_t index_ = 0;
  PhiloxBlock block_{};
  int used_ = 4;
};

}  // namespace contender
