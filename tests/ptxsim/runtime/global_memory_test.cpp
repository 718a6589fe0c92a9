// Which bytes a kernel may touch, and what is said about the others.
#include <gtest/gtest.h>

#include "memory/global.h"

namespace {

using ptxsim::GlobalMemory;
using ptxsim::MemoryKind;

// Addresses that no other test of the process uses.
constexpr uint64_t kBase = uint64_t{0x7000} << 32;

TEST(SimGlobalMemory, FindsTheRangeAroundAnAddress) {
  auto& memory = GlobalMemory::instance();
  memory.add(kBase, kBase + 4096, 3, MemoryKind::kDevice);
  EXPECT_EQ(memory.find(kBase).begin, kBase);
  EXPECT_EQ(memory.find(kBase + 4095).end, kBase + 4096);
  EXPECT_EQ(memory.find(kBase + 4095).device, 3);
  EXPECT_EQ(memory.find(kBase + 4096).end, 0u);
  EXPECT_EQ(memory.find(kBase - 1).end, 0u);
  EXPECT_TRUE(memory.remove(kBase));
  EXPECT_FALSE(memory.remove(kBase));
  EXPECT_EQ(memory.find(kBase).end, 0u);
}

TEST(SimGlobalMemory, EveryChangeHasItsGeneration) {
  auto& memory = GlobalMemory::instance();
  const uint64_t before = memory.generation();
  memory.add(kBase, kBase + 16, 0, MemoryKind::kPinned);
  const uint64_t added = memory.generation();
  memory.remove(kBase);
  EXPECT_LT(before, added);
  EXPECT_LT(added, memory.generation());
}

TEST(SimGlobalMemory, SaysWhatLiesAtAnAddress) {
  auto& memory = GlobalMemory::instance();
  const uint64_t at = kBase + (uint64_t{1} << 30);
  EXPECT_EQ(memory.describe(at), "near no allocation");
  memory.add(at, at + 64, 0, MemoryKind::kDevice);
  const auto serial = std::to_string(memory.find(at).serial);
  EXPECT_EQ(memory.describe(at + 68),
            "4 bytes past the end of 64 bytes of device memory (allocation " + serial + ")");
  EXPECT_EQ(memory.describe(at - 2),
            "2 bytes before the beginning of 64 bytes of device memory (allocation " + serial + ")");
  EXPECT_EQ(memory.describe(at + 8), "byte 8 of 64 bytes of device memory (allocation " + serial + ")");
  memory.remove(at);
  EXPECT_EQ(memory.describe(at + 8), "inside 64 bytes freed before (allocation " + serial + ")");
}

TEST(SimGlobalMemory, NewRangeHidesTheFreedOnesBelowIt) {
  auto& memory = GlobalMemory::instance();
  const uint64_t at = kBase + (uint64_t{2} << 30);
  memory.add(at, at + 64, 0, MemoryKind::kDevice);
  memory.add(at + 64, at + 128, 0, MemoryKind::kDevice);
  memory.remove(at);
  memory.remove(at + 64);
  memory.add(at + 32, at + 96, 0, MemoryKind::kManaged);
  memory.remove(at + 32);
  EXPECT_NE(memory.describe(at + 40).find("inside 64 bytes freed"), std::string::npos);
  EXPECT_EQ(memory.describe(at + 4), "near no allocation");
}

TEST(SimGlobalMemory, PeersTouchEachOtherOnlyWhenAllowed) {
  auto& memory = GlobalMemory::instance();
  const ptxsim::Allocation of_device_1{kBase, kBase + 16, 1, MemoryKind::kDevice, 1};
  const ptxsim::Allocation pinned{kBase, kBase + 16, -1, MemoryKind::kPinned, 1};
  const ptxsim::Allocation shared{kBase, kBase + 16, 1, MemoryKind::kIpc, 1};
  EXPECT_TRUE(memory.accessible(1, of_device_1));
  EXPECT_FALSE(memory.accessible(0, of_device_1));
  EXPECT_TRUE(memory.accessible(0, pinned));
  EXPECT_TRUE(memory.accessible(0, shared));
  const uint64_t before = memory.generation();
  memory.set_peer_access(0, 1, true);
  EXPECT_LT(before, memory.generation());
  EXPECT_TRUE(memory.accessible(0, of_device_1));
  EXPECT_FALSE(memory.accessible(2, of_device_1));
  memory.set_peer_access(0, 1, false);
  EXPECT_FALSE(memory.accessible(0, of_device_1));
}

}  // namespace
