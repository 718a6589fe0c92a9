// Shadow of the shared memory of one block: per word who wrote it last, per reader and word when it was read
// last, per byte whether it was ever written.
//
// Costs. A store compares and replaces 8 bytes per word, and compares 8 bytes per word for each actor that
// may have read there and is not known as a whole (last, low, high of its plane rule out most). A load
// compares 8 bytes per word and stores 8 into the plane of its own warp. Both are straight loops over words
// for the compiler to vectorise. Nothing is cleared between clusters but the bits: clocks go on, so what is
// left is older than the base of the next cluster.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "check/clock.h"

namespace ptxsim::check {

// Zeros that take memory where they are touched.
class Zeros {
 public:
  Zeros() = default;
  explicit Zeros(size_t count);
  ~Zeros();
  Zeros(Zeros&& o) noexcept : data_(o.data_), count_(o.count_) { o.data_ = nullptr, o.count_ = 0; }
  Zeros& operator=(Zeros&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(count_, o.count_);
    return *this;
  }
  uint64_t* data() { return data_; }
  size_t count() const { return count_; }
  void clear();

 private:
  uint64_t* data_ = nullptr;
  size_t count_ = 0;
};

// When one actor read each word.
struct Plane {
  Zeros words;
  Clock last = 0;                // of all reads in this cluster
  uint32_t low = ~0u, high = 0;  // words read in this cluster: [low, high)
};

class SharedShadow {
 public:
  // For a block of a new cluster, whose shared memory ends at offset `bytes`.
  void reset(uint32_t bytes);
  // Forgets all epochs, when the clock has run out.
  void clear();

  Epoch* writes() { return writes_.data(); }
  // Four epochs per word, meaningful where the word is split.
  Epoch* bytes_of_word(uint32_t word);
  // Gives the bytes of a word epochs of their own.
  Epoch* split(uint32_t word);

  // The latest clock of all writes.
  Clock last_write() const { return last_write_; }
  void note_write(Clock clock) { last_write_ = std::max(last_write_, clock); }

  Plane& plane(uint32_t actor) {
    Plane* p = actor < planes_.size() ? planes_[actor].get() : nullptr;
    return p && p->high ? *p : new_plane(actor);
  }
  // Actors that read in this cluster.
  const std::vector<uint32_t>& readers() const { return readers_; }

  // First byte of [offset, offset + bytes) that was never written; ~0 where there is none.
  uint32_t first_uninitialised(uint32_t offset, uint32_t bytes) const {
    uint32_t none = ~0u;
    each_bits(offset, bytes, [&](uint32_t at, uint64_t mask) {
      const uint64_t missing = mask & ~initialised_[at];
      if (missing) none = at * 64 + static_cast<uint32_t>(__builtin_ctzll(missing));
      return !missing;
    });
    return none;
  }
  void set_initialised(uint32_t offset, uint32_t bytes) {
    each_bits(offset, bytes, [&](uint32_t at, uint64_t mask) {
      initialised_[at] |= mask;
      return true;
    });
  }

 private:
  Plane& new_plane(uint32_t actor);
  // f(index of 64 bits, mask) until it says no.
  template <class F>
  static void each_bits(uint32_t offset, uint32_t bytes, F f) {
    const uint32_t end = offset + bytes;
    uint64_t first = ~uint64_t{0} << offset % 64;
    for (uint32_t at = offset / 64; at < end / 64; ++at, first = ~uint64_t{0})
      if (!f(at, first)) return;
    if (end % 64) f(end / 64, first & ~(~uint64_t{0} << end % 64));
  }

  uint32_t words_ = 0;
  Clock last_write_ = 0;
  Zeros writes_, bytes_;
  std::vector<std::unique_ptr<Plane>> planes_;  // by actor
  std::vector<uint32_t> readers_;
  std::vector<uint64_t> initialised_;  // a bit per byte
};

}  // namespace ptxsim::check
