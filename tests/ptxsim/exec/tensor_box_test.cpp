#include "tensor_box.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <random>
#include <vector>

namespace ptxsim {
namespace {

// A tensor in memory with padded strides, random bytes, and a map of it.
struct Tensor {
  std::vector<std::byte> bytes;
  TensorMap map;
};

constexpr std::byte kPoison{0xe7};
constexpr uint32_t kSharedBytes = 1 << 17;

std::byte* shared_memory() {
  alignas(1024) static std::byte memory[kSharedBytes];
  std::memset(memory, static_cast<int>(kPoison), sizeof memory);
  return memory;
}

Tensor make_tensor(std::mt19937& random, int rank, TensorType type, Swizzle swizzle) {
  const auto pick = [&](uint32_t low, uint32_t high) {
    return low + static_cast<uint32_t>(random()) % (high - low + 1);
  };
  Tensor t;
  TensorMap& m = t.map;
  const uint32_t size = size_of(type);
  m.type = type;
  m.rank = rank;
  m.swizzle = swizzle;
  m.stride[0] = size;
  m.nan_fill = is_float(type) && random() % 2;
  m.dim[0] = pick(1, 300 / size + 3);
  const uint32_t chunks =
      swizzle == Swizzle::kNone ? std::min(256 / (16 / size), 12u) : span_of(swizzle) / 16;
  m.box[0] = pick(1, chunks) * 16 / size;
  uint64_t span = m.dim[0] * size;
  for (int d = 1; d < rank; ++d) {
    m.dim[d] = pick(1, rank > 3 ? 4 : 20);
    m.stride[d] = (span + 15) / 16 * 16 + 16 * pick(0, 2);
    span = m.stride[d] * m.dim[d];
    m.box[d] = pick(1, rank > 3 ? 5 : 24);
    m.step[d] = random() % 3 ? 1 : pick(1, 8);
  }
  t.bytes.resize(span + 64);
  for (std::byte& b : t.bytes) b = static_cast<std::byte>(random());
  m.address = (reinterpret_cast<uint64_t>(t.bytes.data()) + 15) / 16 * 16;
  return t;
}

BoxPlace place_box(std::mt19937& random, const TensorMap& m, bool inside_start) {
  BoxPlace place;
  for (int d = 0; d < m.rank; ++d) {
    const int low = inside_start ? 0 : -6;
    place.at[d] = low + static_cast<int>(random() % (m.dim[d] + 8));
  }
  return place;
}

// Calls f(global address or 0, shared address) for every element of the box, one by one and from the
// definition.
template <class F>
void each_element(const TensorMap& m, const BoxPlace& place, uint32_t base, F f) {
  const uint32_t size = size_of(m.type);
  const uint32_t row_bytes = m.box[0] * size;
  const uint32_t pitch = m.swizzle == Swizzle::kNone ? row_bytes : span_of(m.swizzle);
  uint32_t n[5];
  for (int d = 0; d < 5; ++d) n[d] = d < m.rank ? (m.box[d] + m.step[d] - 1) / m.step[d] : 1;
  uint32_t row = 0;
  for (uint32_t e = 0; e < n[4]; ++e)
    for (uint32_t d = 0; d < n[3]; ++d)
      for (uint32_t c = 0; c < n[2]; ++c)
        for (uint32_t b = 0; b < n[1]; ++b, ++row)
          for (uint32_t a = 0; a < n[0]; ++a) {
            const uint32_t k[5] = {a, b, c, d, e};
            uint64_t global = m.address;
            bool inside = true;
            for (int q = 0; q < m.rank; ++q) {
              const int64_t x = int64_t{place.at[q]} + int64_t{k[q]} * m.step[q];
              inside = inside && x >= 0 && x < static_cast<int64_t>(m.dim[q]);
              global += static_cast<uint64_t>(x) * m.stride[q];
            }
            uint32_t shared = base + row * pitch + a * size;
            if (m.swizzle == Swizzle::k128) shared ^= (shared >> 7 & 7) << 4;
            if (m.swizzle == Swizzle::k64) shared ^= (shared >> 7 & 3) << 4;
            if (m.swizzle == Swizzle::k32) shared ^= (shared >> 7 & 1) << 4;
            f(inside ? global : 0, shared);
          }
}

// Types without conversion on the way.
constexpr TensorType kTypes[] = {TensorType::kU8,  TensorType::kBf16, TensorType::kF16,
                                 TensorType::kF32, TensorType::kU64,  TensorType::kF64};
constexpr Swizzle kSwizzles[] = {Swizzle::kNone, Swizzle::k32, Swizzle::k64, Swizzle::k128};

class TensorBoxAgainstLoop : public testing::TestWithParam<std::tuple<int, Swizzle>> {};

TEST_P(TensorBoxAgainstLoop, Load) {
  const auto [rank, swizzle] = GetParam();
  std::mt19937 random(static_cast<uint32_t>(rank * 10 + static_cast<int>(swizzle)));
  for (int round = 0; round < 40; ++round) {
    const TensorType type = kTypes[random() % std::size(kTypes)];
    const Tensor t = make_tensor(random, rank, type, swizzle);
    const uint32_t size = size_of(type);
    if (box_extent(t.map) > kSharedBytes - 2048) continue;
    const BoxPlace place = place_box(random, t.map, false);
    const uint32_t base = 128 * (random() % 8);
    std::byte* shared = shared_memory();
    std::vector<std::byte> expected(shared, shared + kSharedBytes);
    each_element(t.map, place, base, [&](uint64_t global, uint32_t at) {
      std::byte value[8];
      std::memset(value, t.map.nan_fill ? 0xff : 0, 8);
      if (t.map.nan_fill) value[size - 1] = std::byte{0x7f};
      std::memcpy(expected.data() + at, global ? reinterpret_cast<const void*>(global) : value, size);
    });
    load_box(t.map, place, shared + base, base);
    ASSERT_EQ(std::memcmp(shared, expected.data(), kSharedBytes), 0) << "round " << round;
  }
}

TEST_P(TensorBoxAgainstLoop, Store) {
  const auto [rank, swizzle] = GetParam();
  std::mt19937 random(static_cast<uint32_t>(rank * 100 + static_cast<int>(swizzle)));
  for (int round = 0; round < 40; ++round) {
    const TensorType type = kTypes[random() % std::size(kTypes)];
    Tensor t = make_tensor(random, rank, type, swizzle);
    if (box_extent(t.map) > kSharedBytes - 2048) continue;
    const BoxPlace place = place_box(random, t.map, true);
    const uint32_t base = 128 * (random() % 8);
    std::byte* shared = shared_memory();
    for (uint32_t k = 0; k < kSharedBytes; ++k) shared[k] = static_cast<std::byte>(random());
    std::vector<std::byte> expected = t.bytes;
    const uint64_t begin = reinterpret_cast<uint64_t>(t.bytes.data());
    each_element(t.map, place, base, [&](uint64_t global, uint32_t at) {
      if (global) std::memcpy(expected.data() + (global - begin), shared + at, size_of(type));
    });
    store_box(t.map, place, shared + base, base);
    ASSERT_EQ(t.bytes, expected) << "round " << round;
  }
}

INSTANTIATE_TEST_SUITE_P(RanksAndSwizzles, TensorBoxAgainstLoop,
                         testing::Combine(testing::Range(1, 6), testing::ValuesIn(kSwizzles)));

TEST(TensorBox, CountsTheWholeBox) {
  TensorMap m;
  m.rank = 3;
  m.type = TensorType::kF16;
  m.box[0] = 32;
  m.box[1] = 9;
  m.box[2] = 2;
  m.step[1] = 4;
  EXPECT_EQ(box_rows(m), 6u) << "ceil(9 / 4) * 2";
  EXPECT_EQ(box_bytes(m), 6u * 64);
  EXPECT_EQ(box_extent(m), 6u * 64);
  m.swizzle = Swizzle::k128;
  EXPECT_EQ(box_bytes(m), 6u * 64) << "the padding of a narrow row is not counted";
  EXPECT_EQ(box_extent(m), 6u * 128);
}

TEST(TensorBox, SharedPiecesAreTheBytesOfTheBox) {
  std::mt19937 random(4);
  for (int round = 0; round < 200; ++round) {
    const Tensor t =
        make_tensor(random, 1 + round % 3, kTypes[random() % std::size(kTypes)], kSwizzles[round % 4]);
    if (box_extent(t.map) > kSharedBytes - 2048) continue;
    const BoxPlace place = place_box(random, t.map, false);
    const uint32_t base = 128 * (random() % 8);
    for (bool only_inside : {false, true}) {
      std::vector<int> expected(kSharedBytes), seen(kSharedBytes);
      each_element(t.map, place, base, [&](uint64_t global, uint32_t at) {
        for (int k = 0; k < size_of(t.map.type); ++k) expected[at + k] = global || !only_inside;
      });
      for_each_shared_piece(t.map, place, base, only_inside, [&](uint64_t at, uint64_t bytes) {
        for (uint64_t k = 0; k < bytes; ++k) ++seen[at + k];
      });
      ASSERT_EQ(seen, expected) << "round " << round << (only_inside ? " inside" : "");
    }
  }
}

TEST(TensorBox, HullHoldsTheRowsInside) {
  std::mt19937 random(3);
  int empty = 0;
  for (int round = 0; round < 300; ++round) {
    const Tensor t = make_tensor(random, 1 + round % 5, TensorType::kU16, Swizzle::kNone);
    const BoxPlace place = place_box(random, t.map, false);
    uint64_t low = ~uint64_t{0}, high = 0, begin, end;
    each_element(t.map, place, 0, [&](uint64_t global, uint32_t) {
      if (!global) return;
      low = std::min(low, global);
      high = std::max(high, global + 2);
    });
    const bool any = global_hull(t.map, place, &begin, &end);
    ASSERT_EQ(any, high != 0);
    empty += !any;
    if (!any) continue;
    ASSERT_EQ(begin, low);
    ASSERT_EQ(end, high);
  }
  EXPECT_GT(empty, 0);
}

TEST(TensorBox, ReduceGetsOnlyWhatLiesInside) {
  std::mt19937 random(5);
  Tensor t = make_tensor(random, 2, TensorType::kU32, Swizzle::k128);
  t.map.dim[0] = 5;
  t.map.box[0] = 32;
  std::byte* shared = shared_memory();
  const std::vector<std::byte> before = t.bytes;
  std::vector<std::byte> expected = t.bytes;
  const uint64_t begin = reinterpret_cast<uint64_t>(t.bytes.data());
  each_element(t.map, {}, 0, [&](uint64_t global, uint32_t at) {
    if (!global) return;
    uint32_t a, b;
    std::memcpy(&a, expected.data() + (global - begin), 4);
    std::memcpy(&b, shared + at, 4);
    a += b;
    std::memcpy(expected.data() + (global - begin), &a, 4);
  });
  reduce_box(t.map, {}, shared, 0, [](std::byte* to, const std::byte* values, uint32_t elements) {
    for (uint32_t k = 0; k < elements; ++k) {
      uint32_t a, b;
      std::memcpy(&a, to + 4 * k, 4);
      std::memcpy(&b, values + 4 * k, 4);
      a += b;
      std::memcpy(to + 4 * k, &a, 4);
    }
  });
  EXPECT_EQ(t.bytes, expected);
  EXPECT_NE(t.bytes, before);
}

TEST(TensorBox, SomeTypesRoundOnLoad) {
  alignas(128) float values[4] = {1.0f + 0x1p-11f, std::bit_cast<float>(0x80000003u), 1.0f + 3 * 0x1p-11f,
                                  -0x1p-126f};
  alignas(128) float loaded[4];
  TensorMap m;
  m.address = reinterpret_cast<uint64_t>(values);
  m.dim[0] = m.box[0] = 4;
  m.stride[0] = 4;
  const auto load = [&](TensorType type) {
    m.type = type;
    load_box(m, {}, reinterpret_cast<std::byte*>(loaded), 0);
  };
  load(TensorType::kF32);
  EXPECT_EQ(std::memcmp(loaded, values, sizeof values), 0);
  load(TensorType::kTf32);
  EXPECT_EQ(loaded[0], 1.0f) << "halfway goes to even";
  EXPECT_EQ(loaded[2], 1.0f + 4 * 0x1p-11f);
  EXPECT_EQ(loaded[3], -0x1p-126f);
  load(TensorType::kF32Ftz);
  EXPECT_EQ(loaded[0], values[0]);
  EXPECT_EQ(std::bit_cast<uint32_t>(loaded[1]), 0x80000000u);
  load(TensorType::kTf32Ftz);
  EXPECT_EQ(loaded[0], 1.0f);
  EXPECT_EQ(std::bit_cast<uint32_t>(loaded[1]), 0x80000000u);
}

// The first two examples of the PTX ISA for im2col: 64 channels, W = 9, H = 14, a batch of 64.
TEST(TensorBox, Im2colWalksTheBoundingBox) {
  TensorMap m;
  m.rank = 4;
  m.type = TensorType::kU16;
  m.im2col = true;
  m.channels = 8;
  m.pixels = 64;
  const uint64_t dims[4] = {64, 9, 14, 64};
  m.stride[0] = 2;
  for (int d = 0; d < 4; ++d) {
    m.dim[d] = dims[d];
    if (d > 0) m.stride[d] = m.stride[d - 1] * dims[d - 1];
  }
  const auto walk = [&](BoxPlace place) {
    std::vector<std::array<int64_t, 3>> seen;  // w, h, n; -1 where outside
    for_each_row(m, place, [&](const BoxRow& r) {
      if (!r.count) {
        seen.push_back({-1, -1, -1});
        return;
      }
      const int64_t pixel = static_cast<int64_t>(r.global / m.stride[1]);
      seen.push_back({pixel % 9, pixel / 9 % 14, pixel / 9 / 14});
    });
    return seen;
  };
  m.lower[0] = m.lower[1] = m.upper[0] = m.upper[1] = -1;
  auto seen = walk({.at = {0, 7, 7, 4}});
  ASSERT_EQ(seen.size(), 64u);
  EXPECT_EQ(seen[0], (std::array<int64_t, 3>{7, 7, 4}));
  EXPECT_EQ(seen[1], (std::array<int64_t, 3>{-1, -1, -1})) << "base W = -1 of the next line is padding";
  EXPECT_EQ(seen[2], (std::array<int64_t, 3>{0, 8, 4}));
  EXPECT_EQ(seen[10], (std::array<int64_t, 3>{-1, -1, -1}));
  // Behind the last line of an image (base H = 12) comes line -1 of the next.
  const size_t next_image = 1 + 9 * 5;
  EXPECT_EQ(seen[next_image - 1], (std::array<int64_t, 3>{7, 12, 4}));
  for (size_t k = next_image; k < next_image + 10; ++k) EXPECT_EQ(seen[k][0], -1) << k;
  EXPECT_EQ(seen[next_image + 10], (std::array<int64_t, 3>{0, 0, 5}));

  m.lower[0] = m.lower[1] = 0;
  m.upper[0] = m.upper[1] = -2;
  BoxPlace shifted{.at = {0, 6, 7, 4}, .offset = {2, 2, 0}};
  seen = walk(shifted);
  EXPECT_EQ(seen[0], (std::array<int64_t, 3>{8, 9, 4}));
  EXPECT_EQ(seen[1], (std::array<int64_t, 3>{2, 10, 4}));
  m.step[1] = 2;
  seen = walk({.at = {0, 0, 0, 0}});
  EXPECT_EQ(seen[3], (std::array<int64_t, 3>{6, 0, 0}));
  EXPECT_EQ(seen[4], (std::array<int64_t, 3>{0, 1, 0})) << "bases 0, 2, 4, 6 of a line";
}

}  // namespace
}  // namespace ptxsim
