#include "tests/cuda/gemm/fp8_products.h"
#include "tests/cuda/products.h"

namespace contender {
namespace {

using test::DeviceArray;
using test::DeviceFp8Matrix;
using test::DeviceTensor;
using test::expect_same_matrix;
using test::Fp8Matrix;
using test::Matrix;

constexpr int64_t kGroups = 6, kN = 144, kK = 272, kCapacity = 70;
constexpr int64_t kBlocks = 3;

// Sorted by expert, or of fixed capacity.
enum class Rows { kSorted, kFixed };

struct GroupSizes {
  Rows rows;
  std::vector<int32_t> values;  // offsets or counts
};

std::ostream& operator<<(std::ostream& o, const GroupSizes& s) {
  o << (s.rows == Rows::kSorted ? "offsets" : "counts");
  for (const int32_t v : s.values) o << " " << v;
  return o;
}

class CudaFp8Grouped : public testing::TestWithParam<GroupSizes> {
 protected:
  Fp8GroupedGemmArgs args(const QTensor& a, const QTensor& b, const Tensor& d, const int32_t* values) const {
    const bool sorted = GetParam().rows == Rows::kSorted;
    return {.a = a,
            .b = b,
            .d = d,
            .num_groups = kGroups,
            .offsets = sorted ? values : nullptr,
            .counts = sorted ? nullptr : values};
  }
};

// Ragged groups, empty ones, rows of none: those stay NaN. N is no multiple of 128: scales of b begin anew in
// each group.
TEST_P(CudaFp8Grouped, EqualsTheCpuBackend) {
  const int64_t m = kGroups * kCapacity;
  DeviceFp8Matrix a(Fp8Matrix(m, kK, QLayout::k1x128, 21)),
      b(Fp8Matrix(kGroups * kN, kK, QLayout::k128x128, 22, kGroups));
  const DeviceArray<int32_t> values(GetParam().values);
  Matrix want = Matrix::poisoned(m, kN, 8);
  cpu::fp8_grouped_gemm({}, args(a.host.tensor(), b.host.tensor(), want.tensor(), GetParam().values.data()));
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const cuda::Fp8Tile& tile : cuda::kFp8Tiles) {
      SCOPED_TRACE(testing::Message() << tile);
      const DeviceTensor d(dtype, m, kN, 8);
      cuda::fp8_grouped_gemm({}, args(a.tensor(), b.tensor(), d.tensor(), values.data()), tile, kBlocks);
      expect_same_matrix(d.download(), test::rounded(want, dtype));
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Groups, CudaFp8Grouped,
                         testing::Values(GroupSizes{Rows::kSorted, {0, 1, 1, 131, 180, 180, 321}},
                                         GroupSizes{Rows::kSorted, {0, 0, 0, 0, 0, 0, 0}},
                                         GroupSizes{Rows::kFixed, {70, 0, 1, 65, 0, 13}}));

// The chosen tile, q, more groups than a warp has lanes, most of them empty; the same again.
TEST(CudaFp8GroupedQuantised, ManyGroups) {
  constexpr int64_t kMany = 100, kM = 60, kCols = 16, kDepth = 16;
  DeviceFp8Matrix a(Fp8Matrix(kM, kDepth, QLayout::k1x128, 23)),
      b(Fp8Matrix(kMany * kCols, kDepth, QLayout::k128x128, 24, kMany));
  std::vector<int32_t> offsets(kMany + 1);
  for (int64_t g = 0; g <= kMany; ++g)
    offsets[static_cast<size_t>(g)] = static_cast<int32_t>(g / 3 * 3 * 50 / 100);
  std::vector<uint8_t> codes(kM * (kCols + 16), 0xFF);
  Matrix want = Matrix::poisoned(kM, kCols), scale = Matrix::poisoned(kM, 1, 1);
  Fp8GroupedGemmArgs args{
      .a = a.host.tensor(),
      .b = b.host.tensor(),
      .d = want.tensor(),
      .q = {{codes.data(), DType::kE4M3, kM, kCols, kCols + 16}, scale.tensor(), QLayout::k1x128},
      .num_groups = kMany,
      .offsets = offsets.data()};
  cpu::fp8_grouped_gemm({}, args);
  const DeviceArray<int32_t> device_offsets(offsets);
  const test::Fp8Output q(kM, kCols);
  const DeviceTensor d(DType::kF32, kM, kCols);
  args.a = a.tensor();
  args.b = b.tensor();
  args.d = d.tensor();
  args.q = q.tensor();
  args.offsets = device_offsets.data();
  for (int run = 0; run < 2; ++run) {
    cuda::fp8_grouped_gemm({}, args);
    EXPECT_EQ(q.codes.download(), codes);
    EXPECT_TRUE(test::same_or_nan(d.download().values, want.values));
  }
}

// In a graph, with counts that change between replays: one launch, no more rows than there are.
TEST(CudaFp8GroupedCaptured, CountsOfTheReplay) {
  constexpr int64_t kM = kGroups * 8;
  DeviceFp8Matrix a(Fp8Matrix(kM, kK, QLayout::k1x128, 29)),
      b(Fp8Matrix(kGroups * kN, kK, QLayout::k128x128, 30, kGroups));
  DeviceArray<int32_t> counts(std::vector<int32_t>(kGroups, 0));
  const Matrix poisoned = Matrix::poisoned(kM, kN);
  DeviceTensor d(DType::kF32, poisoned);
  const test::Captured graph([&](const Exec& exec) {
    cuda::fp8_grouped_gemm(
        exec,
        {.a = a.tensor(), .b = b.tensor(), .d = d.tensor(), .num_groups = kGroups, .counts = counts.data()});
  });
  EXPECT_EQ(graph.launches(), 1u);
  for (const std::vector<int32_t>& now : {std::vector<int32_t>{1, 0, 8, 3, 0, 0}, {0, 8, 0, 0, 5, 2}}) {
    counts.upload(now);
    d.upload(poisoned);
    graph.replay();
    Matrix want = poisoned;
    cpu::fp8_grouped_gemm({}, {.a = a.host.tensor(),
                               .b = b.host.tensor(),
                               .d = want.tensor(),
                               .num_groups = kGroups,
                               .counts = now.data()});
    expect_same_matrix(d.download(), want);
  }
}

TEST(CudaFp8GroupedErrors, SeenByTheHost) {
  DeviceFp8Matrix a(Fp8Matrix(7, 32, QLayout::k1x128, 25)), b(Fp8Matrix(64, 32, QLayout::k128x128, 26, 2));
  const DeviceTensor d(DType::kF32, 7, 32);
  const DeviceArray<int32_t> values(3);
  Fp8GroupedGemmArgs args{.a = a.tensor(), .b = b.tensor(), .d = d.tensor(), .num_groups = 2};
  EXPECT_THROW(cuda::fp8_grouped_gemm({}, args), Error);  // neither offsets nor counts
  args.counts = values.data();
  EXPECT_THROW(cuda::fp8_grouped_gemm({}, args), Error);  // 7 rows, 2 groups
  args.counts = nullptr;
  args.offsets = values.data();
  args.num_groups = 513;
  EXPECT_THROW(cuda::fp8_grouped_gemm({}, args), Error);
}

// What only the kernel sees: it ends the job and says which group it refuses.
TEST(CudaFp8GroupedErrors, SeenByTheKernel) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run = [](bool sorted, const std::vector<int32_t>& host) {
    DeviceFp8Matrix a(Fp8Matrix(8, 32, QLayout::k1x128, 27)), b(Fp8Matrix(64, 32, QLayout::k128x128, 28, 2));
    const DeviceTensor d(DType::kF32, 8, 32);
    const DeviceArray<int32_t> values(host);
    Fp8GroupedGemmArgs args{.a = a.tensor(), .b = b.tensor(), .d = d.tensor(), .num_groups = 2};
    (sorted ? args.offsets : args.counts) = values.data();
    try {
      cuda::fp8_grouped_gemm({}, args);
      CUDA_CHECK(cudaDeviceSynchronize());
    } catch (const Error& e) {
      std::fprintf(stderr, "%s\n", e.what());
      std::_Exit(3);
    }
    std::_Exit(0);
  };
  const auto failed = testing::ExitedWithCode(3);
  EXPECT_EXIT(run(true, {0, 3, 8}), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(run(true, {0, 3, 9}), failed, "fp8gemm refuses group 1: rows .3, 9., they may end at 8");
  EXPECT_EXIT(run(true, {0, 4, 3}), failed, "fp8gemm refuses group 1: rows .4, 3.");
  EXPECT_EXIT(run(true, {1, 4, 8}), failed, "fp8gemm refuses group 0: rows .1, 4.");
  EXPECT_EXIT(run(false, {4, 5}), failed, "fp8gemm refuses group 1: rows .4, 9., they may end at 8");
  EXPECT_EXIT(run(false, {-1, 2}), failed, "fp8gemm refuses group 0: rows .0, -1.");
}

}  // namespace
}  // namespace contender
