#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>

#include "device/device.h"

namespace contender {
namespace {

constexpr int64_t kMiB = 1 << 20;

class ArenaTest : public testing::Test {
 protected:
  ArenaTest() { ::setenv("CONTENDER_MEMORY_LIMIT", std::to_string(64 * kMiB).c_str(), 1); }
  ~ArenaTest() override { ::unsetenv("CONTENDER_MEMORY_LIMIT"); }

  template <class F>
  static std::string out_of_memory(F f) {
    try {
      f();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kOutOfMemory);
      return e.what();
    }
    ADD_FAILURE() << "no error";
    return "";
  }
};

TEST_F(ArenaTest, DeviceAccountsForItsMemory) {
  const std::unique_ptr<Device> device = make_cpu_device();
  EXPECT_TRUE(device->name().starts_with("CPU ("));
  EXPECT_EQ(device->memory_bytes(), 64 * kMiB);
  Buffer a(device.get(), 100, "a");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data()) % 64, 0u);
  EXPECT_EQ(device->allocated_bytes(), 128);
  {
    const Buffer b(device.get(), 5 * kMiB, "b");
    EXPECT_EQ(device->allocated_bytes(), 128 + 5 * kMiB);
  }
  EXPECT_EQ(device->allocated_bytes(), 128);
  EXPECT_EQ(device->peak_bytes(), 128 + 5 * kMiB);
  Buffer c = std::move(a);
  EXPECT_EQ(a.data(), nullptr);  // NOLINT: moved-from on purpose
  EXPECT_EQ(c.bytes(), 100);
  c = Buffer(device.get(), 64, "c");
  EXPECT_EQ(device->allocated_bytes(), 64);
  int x = 0;
  EXPECT_THROW(device->free(&x), Error);
}

TEST_F(ArenaTest, DeviceRefusesBeyondItsLimitAndNamesTheUsers) {
  const std::unique_ptr<Device> device = make_cpu_device();
  const Buffer weights1(device.get(), 20 * kMiB, "weights"), weights2(device.get(), 10 * kMiB, "weights");
  const Buffer cache(device.get(), 25 * kMiB, "KV cache (rollout.kv_tokens)"),
      small(device.get(), 1 * kMiB, "prompts");
  const Buffer tiny(device.get(), kMiB / 2, "moments");
  EXPECT_EQ(out_of_memory([&] { const Buffer b(device.get(), 16 * kMiB, "activations (train.tokens)"); }),
            "out of memory: activations (train.tokens) needs 16.0 MiB, 7.5 of 64.0 MiB are free; largest "
            "users: weights 30.0 MiB, KV "
            "cache (rollout.kv_tokens) 25.0 MiB, prompts 1.0 MiB; lower a setting that sizes one of them");
  EXPECT_EQ(device->allocated_bytes(), 56 * kMiB + kMiB / 2);
  const Buffer fits(device.get(), 7 * kMiB, "fits");
}

TEST_F(ArenaTest, BadLimitIsAConfigError) {
  for (const char* text : {"", "x", "12k", "-1", "0"}) {
    ::setenv("CONTENDER_MEMORY_LIMIT", text, 1);
    try {
      make_cpu_device();
      ADD_FAILURE() << text;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kConfig);
    }
  }
}

TEST_F(ArenaTest, BumpsAlignsAndReleases) {
  const std::unique_ptr<Device> device = make_cpu_device();
  Arena arena(device.get(), 4096, "activation arena", "train.tokens");
  const Tensor a = arena.f32(3, 5);
  const Tensor b = arena.i32(1, 1);
  EXPECT_EQ(a.rows, 3);
  EXPECT_EQ(a.ld, 5);
  EXPECT_EQ(b.i32(), static_cast<void*>(a.f32() + 16));
  EXPECT_EQ(arena.mark(), 128);
  void* inner = nullptr;
  {
    const ArenaScope scope(arena);
    inner = arena.bytes(1000);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(inner) % 64, 0u);
  }
  EXPECT_EQ(arena.mark(), 128);
  EXPECT_EQ(arena.peak(), 128 + 1024);
  EXPECT_EQ(arena.bytes(8), inner);
  arena.release(0);
  EXPECT_EQ(arena.tensor(DType::kBF16, 64, 32).data, a.data);  // exactly the capacity
  EXPECT_EQ(arena.mark(), 4096);
  EXPECT_EQ(arena.f32(0, 7).rows, 0);
}

TEST_F(ArenaTest, OverflowNamesTheSetting) {
  const std::unique_ptr<Device> device = make_cpu_device();
  Arena arena(device.get(), 2 * kMiB, "activation arena", "train.tokens_per_micro_batch");
  arena.f32(1024, 256);
  EXPECT_EQ(out_of_memory([&] { arena.f32(1024, 512); }),
            "activation arena: needs 3.00 MiB, has 2.00 MiB; raise train.tokens_per_micro_batch or lower the "
            "tokens it is asked to "
            "hold");
  EXPECT_EQ(arena.mark(), kMiB);
  arena.f32(1024, 256);
  Arena moved;
  moved = std::move(arena);
  EXPECT_EQ(moved.mark(), 2 * kMiB);
  EXPECT_THROW(moved.bytes(1), Error);
}

}  // namespace
}  // namespace contender
