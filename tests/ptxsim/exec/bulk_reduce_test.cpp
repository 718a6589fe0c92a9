#include "exec/bulk_reduce.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

namespace ptxsim {
namespace {

template <class T>
std::vector<T> reduced(ReduceOp op, ReduceType type, std::vector<T> target, const std::vector<T>& values) {
  const ReduceFunction f = reduce_function(op, type);
  if (!f) return {};
  f(reinterpret_cast<std::byte*>(target.data()), reinterpret_cast<const std::byte*>(values.data()),
    static_cast<uint32_t>(values.size()));
  return target;
}

TEST(BulkReduce, Integers) {
  using V = std::vector<uint32_t>;
  const V a{5, 0xffffffff, 7, 0}, b{9, 1, 7, 3};
  EXPECT_EQ(reduced(ReduceOp::kAdd, ReduceType::kU32, a, b), (V{14, 0, 14, 3}));
  EXPECT_EQ(reduced(ReduceOp::kMin, ReduceType::kU32, a, b), (V{5, 1, 7, 0}));
  EXPECT_EQ(reduced(ReduceOp::kMin, ReduceType::kS32, a, b), (V{5, 0xffffffff, 7, 0}));
  EXPECT_EQ(reduced(ReduceOp::kMax, ReduceType::kU32, a, b), (V{9, 0xffffffff, 7, 3}));
  EXPECT_EQ(reduced(ReduceOp::kInc, ReduceType::kU32, a, b), (V{6, 0, 0, 1}));
  EXPECT_EQ(reduced(ReduceOp::kDec, ReduceType::kU32, a, b), (V{4, 1, 6, 3}));
  EXPECT_EQ(reduced(ReduceOp::kAnd, ReduceType::kU32, a, b), (V{1, 1, 7, 0}));
  EXPECT_EQ(reduced(ReduceOp::kOr, ReduceType::kU32, a, b), (V{13, 0xffffffff, 7, 3}));
  EXPECT_EQ(reduced(ReduceOp::kXor, ReduceType::kU32, a, b), (V{12, 0xfffffffe, 0, 3}));
  using W = std::vector<uint64_t>;
  EXPECT_EQ(reduced(ReduceOp::kAdd, ReduceType::kU64, W{~uint64_t{0}}, W{2}), (W{1}));
  EXPECT_EQ(reduced(ReduceOp::kMax, ReduceType::kS64, W{~uint64_t{0}}, W{2}), (W{2}));
  EXPECT_EQ(reduced(ReduceOp::kMax, ReduceType::kU64, W{~uint64_t{0}}, W{2}), (W{~uint64_t{0}}));
}

TEST(BulkReduce, Floats) {
  using V = std::vector<float>;
  EXPECT_EQ(reduced(ReduceOp::kAdd, ReduceType::kF32, V{1.5f, -2.0f}, V{0.25f, 2.0f}), (V{1.75f, 0.0f}));
  // Subnormals go: as inputs and as results.
  EXPECT_EQ(reduced(ReduceOp::kAdd, ReduceType::kF32, V{0x1p-130f}, V{0x1p-126f}), (V{0x1p-126f}));
  EXPECT_EQ(reduced(ReduceOp::kAdd, ReduceType::kF32, V{1.5f * 0x1p-126f}, V{-0x1p-126f}), (V{0.0f}));
  using D = std::vector<double>;
  EXPECT_EQ(reduced(ReduceOp::kAdd, ReduceType::kF64, D{0x1p-1050}, D{0x1p-1050}), (D{0x1p-1049}));
}

TEST(BulkReduce, Halves) {
  using V = std::vector<uint16_t>;
  // f16: 1 + 2^-11 is halfway and goes to even; subnormals stay; 65504 + 16 rounds up to infinity.
  EXPECT_EQ(reduced(ReduceOp::kAdd, ReduceType::kF16, V{0x3c00, 0x0001, 0x7bff}, V{0x1000, 0x0001, 0x4c00}),
            (V{0x3c00, 0x0002, 0x7c00}));
  EXPECT_EQ(reduced(ReduceOp::kMax, ReduceType::kF16, V{0x7fff, 0x8000, 0x3c00}, V{0xbc00, 0x0000, 0x7e00}),
            (V{0xbc00, 0x0000, 0x3c00}));
  EXPECT_EQ(reduced(ReduceOp::kMin, ReduceType::kF16, V{0x0000, 0xbc00}, V{0x8000, 0x3c00}),
            (V{0x8000, 0xbc00}));
  EXPECT_EQ(reduced(ReduceOp::kAdd, ReduceType::kBf16, V{0x3f80, 0x3f80}, V{0x3f80, 0x3b80}),
            (V{0x4000, 0x3f80}));
  EXPECT_EQ(reduced(ReduceOp::kMin, ReduceType::kBf16, V{0x7fc0}, V{0x7fc0}), (V{0x7fff}));
}

TEST(BulkReduce, NoOtherCombinations) {
  EXPECT_EQ(reduce_function(ReduceOp::kInc, ReduceType::kS32), nullptr);
  EXPECT_EQ(reduce_function(ReduceOp::kMin, ReduceType::kF32), nullptr);
  EXPECT_EQ(reduce_function(ReduceOp::kAnd, ReduceType::kF16), nullptr);
  EXPECT_EQ(reduce_function(ReduceOp::kMax, ReduceType::kF64), nullptr);
}

TEST(BulkReduce, ThreadsDoNotLoseUpdates) {
  alignas(64) uint16_t target[2] = {};
  const uint16_t one[2] = {0x3f80, 0x3f80};
  const auto add = [&] {
    for (int k = 0; k < 60; ++k)
      reduce_function(ReduceOp::kAdd, ReduceType::kBf16)(reinterpret_cast<std::byte*>(target),
                                                         reinterpret_cast<const std::byte*>(one), 2);
  };
  std::thread other(add);
  add();
  other.join();
  EXPECT_EQ(target[0], 0x42f0) << "120";
  EXPECT_EQ(target[1], 0x42f0);
}

}  // namespace
}  // namespace ptxsim
