#include "base/tensor.h"

#include <gtest/gtest.h>

#include <vector>

namespace contender {
namespace {

TEST(TensorTest, RowsAndColumnsOfAView) {
  std::vector<float> data(6 * 8);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i);
  const Tensor x = f32_tensor(data.data(), 6, 8);
  EXPECT_TRUE(x.contiguous());
  EXPECT_EQ(x.numel(), 48);

  const Tensor part = x.row_range(2, 5).col_range(3, 7);
  EXPECT_EQ(part.rows, 3);
  EXPECT_EQ(part.cols, 4);
  EXPECT_EQ(part.ld, 8);
  EXPECT_FALSE(part.contiguous());
  EXPECT_EQ(part.row(0)[0], 2 * 8 + 3.0f);
  EXPECT_EQ(part.row(2)[3], 4 * 8 + 6.0f);
  EXPECT_TRUE(part.row_range(1, 2).contiguous());  // one row always is
  EXPECT_EQ(x.row_range(6, 6).rows, 0);
}

TEST(TensorTest, RefusesWrongTypesAndRanges) {
  std::vector<int32_t> data(4);
  const Tensor x = i32_tensor(data.data(), 2, 2);
  EXPECT_EQ(x.i32(), data.data());
  EXPECT_THROW(x.f32(), Error);
  EXPECT_THROW(x.row_range(1, 3), Error);
  EXPECT_THROW(x.row_range(2, 1), Error);
  EXPECT_THROW(x.col_range(-1, 1), Error);
  EXPECT_FALSE(Tensor());
}

TEST(TensorTest, RangesCountBytesOfTheType) {
  std::vector<uint16_t> data(12);
  const Tensor x(data.data(), DType::kBF16, 3, 4);
  EXPECT_EQ(x.row_range(1, 2).data, data.data() + 4);
  EXPECT_EQ(x.col_range(1, 2).data, data.data() + 1);
  EXPECT_EQ(dtype_size(DType::kE4M3), 1);
  EXPECT_STREQ(dtype_name(DType::kBF16), "BF16");
}

}  // namespace
}  // namespace contender
