#include "check/shared_shadow.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace ptxsim::check {

Zeros::Zeros(size_t count) : count_(count) {
  void* p = mmap(nullptr, count * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<uint64_t*>(p);
}

Zeros::~Zeros() {
  if (data_) munmap(data_, count_ * sizeof(uint64_t));
}

void Zeros::clear() {
  if (data_) madvise(data_, count_ * sizeof(uint64_t), MADV_DONTNEED);
}

void SharedShadow::reset(uint32_t bytes) {
  const uint32_t words = (bytes + 3) / 4 + 1;
  if (words > words_) {
    words_ = words;
    writes_ = Zeros(words);
    bytes_ = Zeros();
    planes_.clear();
  }
  for (const uint32_t actor : readers_)
    if (actor < planes_.size() && planes_[actor])
      planes_[actor]->last = 0, planes_[actor]->low = ~0u, planes_[actor]->high = 0;
  readers_.clear();
  last_write_ = 0;
  initialised_.assign((bytes + 63) / 64 + 1, 0);
}

void SharedShadow::clear() {
  writes_.clear();
  bytes_.clear();
  for (auto& p : planes_)
    if (p) p->words.clear();
}

Epoch* SharedShadow::bytes_of_word(uint32_t word) {
  if (!bytes_.data()) bytes_ = Zeros(size_t{words_} * 4);
  return bytes_.data() + size_t{word} * 4;
}

Epoch* SharedShadow::split(uint32_t word) {
  Epoch* at = bytes_of_word(word);
  Epoch& whole = writes_.data()[word];
  if (!(whole & kSplit)) {
    for (uint32_t b = 0; b < 4; ++b) at[b] = (whole & ~kLaneBits) | lane_of_byte(lanes_of(whole), b);
    whole |= kSplit;
  }
  return at;
}

Plane& SharedShadow::new_plane(uint32_t actor) {
  if (actor >= planes_.size()) planes_.resize(actor + 1);
  if (!planes_[actor]) {
    planes_[actor] = std::make_unique<Plane>();
    planes_[actor]->words = Zeros(words_);
  }
  Plane& p = *planes_[actor];
  if (p.high == 0) {  // first read of this cluster
    p.high = 1;
    readers_.push_back(actor);
  }
  return p;
}

}  // namespace ptxsim::check
