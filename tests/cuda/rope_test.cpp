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

// Of one rotated head: where it lies, and how many there are.
struct Heads {
  int64_t dim, count, stride, offset;
};
std::ostream& operator<<(std::ostream& o, const Heads& h) {
  return o << h.count << " x " << h.dim << " at " << h.offset << " of " << h.stride;
}

class CudaRope : public testing::TestWithParam<std::tuple<DType, bool, bool, Heads>> {
 protected:
  static constexpr int64_t kPositions = 300;
  DType dtype() const { return std::get<0>(GetParam()); }
  Heads heads() const { return std::get<3>(GetParam()); }
  std::vector<float> table() const {
    return rope_table({.dim = heads().dim, .yarn_factor = 40, .original_max_position = 64, .mscale = 0.7},
                      kPositions);
  }
  RopeArgs args(const Tensor& x, const int32_t* positions, const Tensor& table) const {
    return {.x = x,
            .positions = positions,
            .table = table,
            .num_heads = heads().count,
            .head_stride = heads().stride,
            .offset = heads().offset,
            .interleaved = std::get<1>(GetParam()),
            .inverse = std::get<2>(GetParam())};
  }
};

// The CPU backend's bits in F32; in BF16 one rounding of them. Other columns are untouched, and a token alone
// has the bits that it has among others.
TEST_P(CudaRope, EqualsTheCpuBackend) {
  std::vector<float> host_table = table();
  const Tensor table_tensor = f32_tensor(host_table.data(), kPositions, heads().dim);
  const DeviceArray<float> device_table(host_table);
  const Tensor device_tensor = f32_tensor(device_table.data(), kPositions, heads().dim);
  const int64_t cols = (heads().count - 1) * heads().stride + heads().offset + heads().dim + 1;
  const int64_t padding = round_up(cols, 8) - cols;
  for (const int64_t tokens : {0, 1, 67}) {
    const Matrix x = test::rounded(Matrix::random(tokens, cols, 1, padding), dtype());
    std::vector<int32_t> positions(static_cast<size_t>(tokens));
    for (int64_t t = 0; t < tokens; ++t) positions[t] = t == 0 ? 299 : test::random_below(kPositions, 2, t);
    Matrix want = x;
    cpu::rope({}, args(want.tensor(), positions.data(), table_tensor));
    const DeviceTensor device(dtype(), x);
    const DeviceArray<int32_t> device_positions(positions);
    cuda::rope({}, args(device.tensor(), device_positions.data(), device_tensor));
    const Matrix got = device.download();
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t c = 0; c < cols; ++c)
        ASSERT_TRUE(same_bits(got.at(t, c), test::rounded(want.at(t, c), dtype()))) << t << " " << c;
    }
    EXPECT_TRUE(got.padding_untouched());
    if (tokens == 0) continue;
    const DeviceTensor again(dtype(), x);
    cuda::rope({}, args(again.tensor().row_range(tokens / 2, tokens / 2 + 1),
                        device_positions.data() + tokens / 2, device_tensor));
    const Matrix alone = again.download();
    for (int64_t c = 0; c < cols; ++c) EXPECT_TRUE(same_bits(alone.at(tokens / 2, c), got.at(tokens / 2, c)));
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaRope,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16), testing::Bool(),
                                          testing::Bool(),
                                          testing::Values(Heads{64, 4, 192, 128}, Heads{64, 1, 0, 512},
                                                          Heads{16, 3, 19, 2}, Heads{2, 3, 5, 0},
                                                          Heads{6, 2, 8, 0}, Heads{20, 2, 24, 4},
                                                          Heads{8, 70, 16, 8})));

TEST(CudaRopeErrors, HeadsMustFit) {
  const DeviceTensor x(DType::kF32, 1, 8), table(DType::kF32, 4, 6);
  const DeviceArray<int32_t> positions(1);
  EXPECT_THROW(cuda::rope({}, {.x = x.tensor(),
                               .positions = positions.data(),
                               .table = table.tensor(),
                               .num_heads = 2,
                               .head_stride = 4}),
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
