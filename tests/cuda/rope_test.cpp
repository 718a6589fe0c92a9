#include "ops/rope.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "cpu/cpu_ops.h"
#include "cuda/ops.h"
#include "tests/cuda/device_array.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceTensor;
using test::Matrix;
using test::same_bits;

// Heads of `dim` rotated columns in x, and where they go.
struct HeadShape {
  int64_t dim;
  Heads from, to;
};
std::ostream& operator<<(std::ostream& o, const HeadShape& s) {
  return o << s.from.count << " x " << s.dim << " at " << s.from.offset << " of " << s.from.stride;
}
// The same bits; a NaN, which is what was not written, is like another.
bool same_or_untouched(const Matrix& a, const Matrix& b) {
  return std::equal(a.values.begin(), a.values.end(), b.values.begin(), b.values.end(),
                    [](float x, float y) { return same_bits(x, y) || (std::isnan(x) && std::isnan(y)); });
}
int64_t columns_of(const Heads& heads, int64_t dim) {
  return round_up(heads.column(heads.count - 1) + dim, 8);
}

class CudaRope : public testing::TestWithParam<std::tuple<DType, bool, bool, HeadShape>> {
 protected:
  static constexpr int64_t kPositions = 300;
  DType dtype() const { return std::get<0>(GetParam()); }
  HeadShape shape() const { return std::get<3>(GetParam()); }
  RopeArgs args(const Tensor& x, const Tensor& y, const int32_t* positions, float* table) const {
    return {.x = x,
            .x_heads = shape().from,
            .y = y,
            .y_heads = shape().to,
            .positions = positions,
            .table = f32_tensor(table, kPositions, shape().dim),
            .interleaved = std::get<1>(GetParam()),
            .inverse = std::get<2>(GetParam())};
  }
};

// The CPU backend's bits in F32; in BF16 one rounding of them. Other columns are untouched, in place as into
// another layout, and a token alone has the bits that it has among others.
TEST_P(CudaRope, EqualsTheCpuBackend) {
  const auto [dim, from, to] = shape();
  std::vector<float> table =
      rope_table({.dim = dim, .yarn_factor = 40, .original_max_position = 64, .mscale = 0.7}, kPositions);
  const DeviceArray<float> device_table(table);
  for (const int64_t tokens : {0, 1, 67}) {
    Matrix x = test::rounded(Matrix::random(tokens, columns_of(from, dim), 1, 8), dtype()), in_place = x;
    std::vector<int32_t> positions(static_cast<size_t>(tokens));
    for (int64_t t = 0; t < tokens; ++t) positions[t] = t == 0 ? 299 : test::random_below(kPositions, 2, t);
    Matrix want = Matrix::poisoned(tokens, columns_of(to, dim));
    cpu::rope({}, args(x.tensor(), want.tensor(), positions.data(), table.data()));
    cpu::rope({}, args(in_place.tensor(), {}, positions.data(), table.data()));
    const DeviceTensor device(dtype(), x), y(dtype(), want.rows, want.cols),
        again(dtype(), want.rows, want.cols);
    const DeviceArray<int32_t> device_positions(positions);
    cuda::rope({}, args(device.tensor(), y.tensor(), device_positions.data(), device_table.data()));
    const Matrix got = y.download();
    EXPECT_TRUE(same_or_untouched(got, test::rounded(want, dtype()))) << tokens;
    for (int64_t t = tokens / 2; t < std::min(tokens, tokens / 2 + 1); ++t) {
      cuda::rope({}, args(device.tensor().row_range(t, t + 1), again.tensor().row_range(t, t + 1),
                          device_positions.data() + t, device_table.data()));
      const Matrix alone = again.download();
      for (int64_t c = 0; c < want.cols; ++c)
        EXPECT_TRUE(same_bits(alone.at(t, c), got.at(t, c)) || std::isnan(got.at(t, c))) << c;
    }
    cuda::rope({}, args(device.tensor(), {}, device_positions.data(), device_table.data()));
    EXPECT_TRUE(same_or_untouched(device.download(), test::rounded(in_place, dtype()))) << tokens;
  }
}
INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaRope,
    testing::Combine(
        testing::Values(DType::kF32, DType::kBF16), testing::Bool(), testing::Bool(),
        testing::Values(HeadShape{64, {4, 192, 128}, {4, 64, 0}}, HeadShape{64, {1, 0, 512}, {1, 0, 0}},
                        HeadShape{16, {4, 24, 16, 2, 56}, {4, 40, 24}}, HeadShape{16, {3, 19, 2}, {3, 16, 0}},
                        HeadShape{2, {3, 5, 0}, {3, 2, 1}}, HeadShape{6, {2, 8, 0}, {2, 8, 2}},
                        HeadShape{20, {2, 24, 4}, {2, 24, 0}}, HeadShape{8, {70, 16, 8}, {70, 8, 0, 35, 288}},
                        HeadShape{24, {4, 0, 8, 1, 32}, {4, 24, 0}}, HeadShape{32, {2, 36, 8}, {2, 32, 0}})));

TEST(CudaRopeErrors, HeadsMustFit) {
  const DeviceTensor x(DType::kF32, 1, 8), table(DType::kF32, 4, 6);
  const DeviceArray<int32_t> positions(1);
  EXPECT_THROW(cuda::rope({}, {.x = x.tensor(),
                               .x_heads = {.count = 2, .stride = 4},
                               .positions = positions.data(),
                               .table = table.tensor()}),
               Error);
}

void rotate_past_the_table() {
  dup2(STDERR_FILENO, STDOUT_FILENO);
  const DeviceTensor x(DType::kF32, 2, 4), table(DType::kF32, 8, 4);
  const DeviceArray<int32_t> positions(std::vector<int32_t>{7, 8});
  cuda::rope({}, {.x = x.tensor(), .positions = positions.data(), .table = table.tensor()});
  const cudaError_t error = cudaDeviceSynchronize();
  std::fflush(stdout);  // what the kernel printed
  std::_Exit(error == cudaErrorLaunchFailure ? 1 : 0);
}

// Only the device sees the positions: the kernel names the token and ends the job.
TEST(CudaRopeDeathTest, PositionsAreChecked) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(rotate_past_the_table(), testing::ExitedWithCode(1), "token 1 has position 8 of a table of 8");
}

}  // namespace
}  // namespace contender
