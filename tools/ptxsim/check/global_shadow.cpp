#include "check/global_shadow.h"

#include <sys/mman.h>

#include <algorithm>
#include <mutex>
#include <new>
#include <vector>

#include "check/checker.h"

namespace ptxsim {

namespace check {

namespace {

constexpr size_t kChunksOfSlab = 64;

uint64_t mask_of(uint32_t bit, uint32_t count) {
  return (count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1) << bit;
}

void* zeros(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  return p;
}

// What the chunks are cut from, and the tags of launches.
struct Store {
  std::mutex mutex;
  std::vector<RaceChunk*> slabs;
  size_t used = kChunksOfSlab;  // of the last slab
  uint32_t next_tag = 1, running = 0;

  std::vector<InitChunk*> bit_slabs;
  size_t bits_used = kChunksOfSlab;

  // Chunks whose bytes are all uninitialised share this one until a byte is written.
  InitChunk untouched{};

  RaceChunk* new_chunk() {
    std::lock_guard lock(mutex);
    if (used == kChunksOfSlab) {
      constexpr uintptr_t kHuge = 2 << 20;  // scattered accesses would miss the TLB most of the time
      const auto at = reinterpret_cast<uintptr_t>(zeros(kChunksOfSlab * sizeof(RaceChunk) + kHuge));
      slabs.push_back(reinterpret_cast<RaceChunk*>((at + kHuge - 1) & ~(kHuge - 1)));
      madvise(slabs.back(), kChunksOfSlab * sizeof(RaceChunk), MADV_HUGEPAGE);
      used = 0;
    }
    return slabs.back() + used++;
  }
  // All zeros.
  InitChunk* new_bits() {
    std::lock_guard lock(mutex);
    if (bits_used == kChunksOfSlab) {
      bit_slabs.push_back(static_cast<InitChunk*>(zeros(kChunksOfSlab * sizeof(InitChunk))));
      bits_used = 0;
    }
    return bit_slabs.back() + bits_used++;
  }
};

Store& store() {
  static Store* s = new Store;  // used by streams until the process ends
  return *s;
}

size_t chunk_in_region(uint64_t address) { return address >> kChunkShift & (kChunksOfRegion - 1); }

Region& made_region(uint64_t address) {
  if (Region* r = global_shadow::region(address)) return *r;
  auto* fresh = static_cast<Region*>(zeros(sizeof(Region)));
  Region* expected = nullptr;
  if (global_regions[address >> kRegionShift & (kRegions - 1)].compare_exchange_strong(expected, fresh))
    return *fresh;
  munmap(fresh, sizeof(Region));
  return *expected;
}

InitChunk* bits(uint64_t address) { return global_shadow::find(address).bits; }

InitChunk* own_bits(uint64_t address) {
  std::atomic<InitChunk*>& slot = made_region(address).bits[chunk_in_region(address)];
  InitChunk* chunk = slot.load(std::memory_order_acquire);
  if (chunk != &store().untouched) return chunk;
  InitChunk* fresh = store().new_bits();
  return slot.compare_exchange_strong(chunk, fresh) ? fresh : chunk;
}

void clear_races() {
  for (RaceChunk* slab : store().slabs) madvise(slab, kChunksOfSlab * sizeof(RaceChunk), MADV_DONTNEED);
}

}  // namespace

constinit std::array<std::atomic<Region*>, kRegions> global_regions{};

RaceChunk& global_shadow::races(uint64_t address) {
  std::atomic<RaceChunk*>& slot = made_region(address).races[chunk_in_region(address)];
  RaceChunk* chunk = slot.load(std::memory_order_acquire);
  if (chunk) return *chunk;
  RaceChunk* fresh = store().new_chunk();
  if (slot.compare_exchange_strong(chunk, fresh)) return *fresh;
  return *chunk;  // what two threads made at once stays unused: rare, and bounded by the threads that meet
}

uint64_t global_shadow::first_uninitialised(uint64_t address, uint64_t bytes) {
  for (uint64_t at = address, end = address + bytes; at < end;) {
    const uint64_t chunk_end = std::min(end, (at | (kChunkBytes - 1)) + 1);
    const InitChunk* chunk = bits(at);
    if (!chunk) {
      at = chunk_end;
      continue;
    }
    while (at < chunk_end) {
      const auto bit = static_cast<uint32_t>(at % 64),
                 here = static_cast<uint32_t>(std::min<uint64_t>(64 - bit, chunk_end - at));
      const uint64_t set = chunk->bits[at % kChunkBytes / 64].load(std::memory_order_relaxed);
      if (const uint64_t missing = mask_of(bit, here) & ~set)
        return at - bit + static_cast<uint32_t>(__builtin_ctzll(missing));
      at += here;
    }
  }
  return ~uint64_t{0};
}

void global_shadow::set_initialised(uint64_t address, uint64_t bytes) {
  for (uint64_t at = address, end = address + bytes; at < end;) {
    const uint64_t chunk_end = std::min(end, (at | (kChunkBytes - 1)) + 1);
    if (!bits(at)) {
      at = chunk_end;
      continue;
    }
    if (chunk_end - at ==
        kChunkBytes) {  // a chunk that nobody else may be looking at is kept: whole copies are few
      if (bits(at) == &store().untouched) {
        InitChunk* expected = &store().untouched;
        if (made_region(at).bits[chunk_in_region(at)].compare_exchange_strong(expected, nullptr)) {
          at = chunk_end;
          continue;
        }
      }
    }
    InitChunk* chunk = own_bits(at);
    if (!chunk) {
      at = chunk_end;
      continue;
    }
    while (at < chunk_end) {
      const auto bit = static_cast<uint32_t>(at % 64),
                 here = static_cast<uint32_t>(std::min<uint64_t>(64 - bit, chunk_end - at));
      std::atomic<uint64_t>& word = chunk->bits[at % kChunkBytes / 64];
      const uint64_t mask = mask_of(bit, here);
      if (here == 64) {
        word.store(mask, std::memory_order_relaxed);
      } else if ((word.load(std::memory_order_relaxed) & mask) != mask) {
        word.fetch_or(mask, std::memory_order_relaxed);
      }
      at += here;
    }
  }
}

// The allocator's: nobody else uses the range now, but neighbours may use the rest of its first and last
// chunk.
void global_shadow::set_uninitialised(uint64_t address, uint64_t bytes) {
  for (uint64_t at = address, end = address + bytes; at < end;) {
    const uint64_t chunk_end = std::min(end, (at | (kChunkBytes - 1)) + 1);
    std::atomic<InitChunk*>& slot = made_region(at).bits[chunk_in_region(at)];
    InitChunk* chunk = slot.load(std::memory_order_acquire);
    if (chunk == &store().untouched) {
      at = chunk_end;
    } else if (!chunk && chunk_end - at == kChunkBytes) {
      slot.store(&store().untouched, std::memory_order_release);
      at = chunk_end;
    } else {
      if (!chunk) {
        InitChunk* fresh = store().new_bits();
        for (auto& word : fresh->bits) word.store(~uint64_t{0}, std::memory_order_relaxed);
        if (slot.compare_exchange_strong(chunk, fresh)) chunk = fresh;
      }
      while (at < chunk_end) {
        const auto bit = static_cast<uint32_t>(at % 64),
                   here = static_cast<uint32_t>(std::min<uint64_t>(64 - bit, chunk_end - at));
        chunk->bits[at % kChunkBytes / 64].fetch_and(~mask_of(bit, here), std::memory_order_relaxed);
        at += here;
      }
    }
  }
}

uint32_t global_shadow::begin_launch() {
  Store& s = store();
  std::lock_guard lock(s.mutex);
  if (s.next_tag == kTags) {
    if (s.running) return 0;
    clear_races();
    s.next_tag = 1;
  }
  ++s.running;
  return s.next_tag++;
}

void global_shadow::end_launch(uint32_t tag) {
  if (!tag) return;
  std::lock_guard lock(store().mutex);
  --store().running;
}

}  // namespace check

void check_host_write(uint64_t address, uint64_t bytes) {
  check::global_shadow::set_initialised(address, bytes);
}
void check_host_allocate(uint64_t address, uint64_t bytes) {
  check::global_shadow::set_uninitialised(address, bytes);
}
void check_host_free(uint64_t address, uint64_t bytes) {
  check::global_shadow::set_initialised(address, bytes);
}

}  // namespace ptxsim
