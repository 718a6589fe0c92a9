// Shadow of global memory, for the life of the process: per word who wrote it last and who read it last, and
// per byte whether it was ever written. Kept in chunks of 64 KiB of memory that exist from their first use
// on.
//
// An epoch is launch 8 | warp 20 | clock 15 | bytes 4 | site 12 | lane 5. `launch` is a tag that a launch
// holds while it runs; epochs of other tags mean nothing, because launches are ordered or, where they
// overlap, are not compared. When all tags have been used and no launch runs, the epochs are cleared. `site`
// numbers the instructions of a launch that touched global memory. One reader per word is kept: of several
// unordered ones the first in even words, the last in odd words.
//
// Threads use the words without locks: each is written whole, and a lost update only loses a report.
// Costs: 16 bytes of shadow per word touched, and a bit per byte where memory is not wholly initialised.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace ptxsim::check {

inline constexpr int kTagShift = 56, kWarpShift = 36, kGlobalClockShift = 21, kBytesShift = 17,
                     kSiteShift = 5;
inline constexpr uint32_t kTags = 256, kGlobalWarps = 1 << 20, kMaxGlobalClock = (1 << 15) - 1,
                          kSites = 1 << 12;
// Tag and warp: equal for accesses of one warp.
inline uint64_t owner_of(uint64_t e) { return e >> kWarpShift; }
// Another warp of the same launch: the owners differ, and only in the low 20 bits.
inline bool other_warp(uint64_t a, uint64_t b) { return ((a ^ b) >> kWarpShift) - 1 < kGlobalWarps - 1; }

inline constexpr int kChunkShift = 16;
inline constexpr uint64_t kChunkBytes = uint64_t{1} << kChunkShift;
inline constexpr size_t kChunkWords = kChunkBytes / 4;

struct RaceChunk {
  uint64_t writes[kChunkWords];
  uint64_t reads[kChunkWords];
  uint64_t written_by;  // tag of the launch that wrote here last
  uint64_t unused[7];
};
// Bits of bytes; 1 where initialised.
struct InitChunk {
  std::atomic<uint64_t> bits[kChunkBytes / 64];
};

// Zero at the start of the process, without a constructor: kernels are registered before constructors have
// run.
inline constexpr int kRegionShift = 34;
inline constexpr size_t kRegions = size_t{1} << (48 - kRegionShift);
inline constexpr size_t kChunksOfRegion = size_t{1} << (kRegionShift - kChunkShift);
struct Region {  // 16 GiB of address space
  std::atomic<RaceChunk*> races[kChunksOfRegion];
  std::atomic<InitChunk*> bits[kChunksOfRegion];  // null: all initialised
};
extern constinit std::array<std::atomic<Region*>, kRegions> global_regions;

// The shadow of the chunk that holds an address. `races` is null where it was not made.
struct Chunk {
  RaceChunk* races = nullptr;
  InitChunk* bits = nullptr;
};

namespace global_shadow {

inline Region* region(uint64_t address) {
  return global_regions[address >> kRegionShift & (kRegions - 1)].load(std::memory_order_acquire);
}
inline Chunk find(uint64_t address) {
  const Region* r = region(address);
  const size_t at = address >> kChunkShift & (kChunksOfRegion - 1);
  return r ? Chunk{r->races[at].load(std::memory_order_acquire), r->bits[at].load(std::memory_order_acquire)}
           : Chunk{};
}
// Made where it does not exist.
RaceChunk& races(uint64_t address);

// First byte of the range that was never written; ~0 where there is none.
uint64_t first_uninitialised(uint64_t address, uint64_t bytes);
void set_initialised(uint64_t address, uint64_t bytes);
void set_uninitialised(uint64_t address, uint64_t bytes);

// A tag of its own for a launch; 0 where none is left: that launch is not checked for races in global memory.
uint32_t begin_launch();
void end_launch(uint32_t tag);

}  // namespace global_shadow

}  // namespace ptxsim::check
