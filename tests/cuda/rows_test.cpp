#include <gtest/gtest.h>

#include "cuda/ops.h"
#include "tests/cuda/products.h"
#include "tests/cuda/segment_table.h"

namespace contender {
namespace {

using test::Captured;
using test::DeviceArray;
using test::DeviceTensor;
using test::Matrix;
using test::SegmentTable;

// The operators that work row by row, at the nano model's shapes: what each puts on a stream.
struct RowOperands {
  static constexpr int64_t kRows = 37, kHidden = 64, kHead = 16, kHeads = 4;
  static constexpr Heads kInOrder = {.count = kHeads, .stride = kHead};
  static constexpr Heads kSliced = {
      .count = kHeads, .stride = kHead + 8, .offset = 8, .per_slice = 2, .slice_stride = 80};

  static DeviceTensor bf16(int64_t cols, uint64_t seed) {
    return DeviceTensor(DType::kBF16, Matrix::random(kRows, cols, seed));
  }
  static DeviceTensor poison(int64_t cols) { return DeviceTensor(DType::kBF16, kRows, cols); }

  DeviceTensor x = bf16(kHidden, 1), dy = bf16(kHidden, 2), wide = bf16(160, 3);
  DeviceTensor gamma = DeviceTensor(DType::kF32, Matrix::random(1, kHidden, 4));
  DeviceTensor y = poison(kHidden), dx = poison(kHidden), heads = poison(160), gates = poison(2 * kHidden);
  DeviceTensor column = DeviceTensor(DType::kF32, kHeads, kHidden),
               f32 = DeviceTensor(DType::kF32, kRows, kHidden);
  DeviceTensor weight = DeviceTensor(DType::kF32, Matrix::random(kRows, 1, 5));
  DeviceArray<float> rstd = DeviceArray<float>(test::random_values(kRows * kHeads, 6));
  DeviceArray<int32_t> index = DeviceArray<int32_t>(all_rows());
  DeviceArray<uint8_t> codes = DeviceArray<uint8_t>(kRows * kHidden);
  SegmentTable segments = SegmentTable(kRows, 4);

  static std::vector<int32_t> all_rows() {
    std::vector<int32_t> rows(kRows);
    for (int64_t r = 0; r < kRows; ++r) rows[r] = static_cast<int32_t>(kRows - 1 - r);
    return rows;
  }
  QTensor quantised() const {
    return {.data = {codes.data(), DType::kE4M3, kRows, kHidden},
            .scale = f32.tensor().col_range(0, 1),
            .layout = QLayout::k1x128};
  }
};

// `run` captured, then once on the default stream, then replayed: as many launches, the same bytes in `out`.
template <class Run>
void expect_launches(const char* name, size_t launches, DeviceTensor& out, const Run& run) {
  const Captured captured(run);
  EXPECT_EQ(captured.launches(), launches) << name;
  const Matrix before = out.download();
  run(Exec{});
  const Matrix want = out.download();
  EXPECT_FALSE(test::same_bits(before.values, want.values)) << name << " did nothing";
  out.upload(before);
  captured.replay();
  EXPECT_TRUE(test::same_bits(out.download().values, want.values)) << name;
}

TEST(CudaRows, NormsAreOneLaunchTheirBackwardTwo) {
  RowOperands o;
  const RmsNormArgs norm = {.x = o.x.tensor(),
                            .delta = o.dy.tensor(),
                            .sum = o.dx.tensor(),
                            .gamma = o.gamma.tensor(),
                            .y = o.y.tensor(),
                            .rstd = o.rstd.data()};
  expect_launches("rms_norm", 1, o.y, [&](const Exec& e) { cuda::rms_norm(e, norm); });
  expect_launches("rms_norm_quantize", 1, o.f32,
                  [&](const Exec& e) { cuda::rms_norm_quantize(e, {.norm = norm, .q = o.quantised()}); });
  expect_launches("rms_norm_bwd", 2, o.column, [&](const Exec& e) {
    cuda::rms_norm_bwd(e, {.dy = o.dy.tensor(),
                           .x = o.x.tensor(),
                           .gamma = o.gamma.tensor(),
                           .rstd = o.rstd.data(),
                           .dx = o.dx.tensor(),
                           .dgamma = o.column.tensor().row_range(0, 1),
                           .segments = o.segments.device()});
  });
  const Tensor head_gamma = o.gamma.tensor().col_range(0, o.kHead);
  expect_launches("head_norm", 1, o.heads, [&](const Exec& e) {
    cuda::head_norm(e, {.x = o.x.tensor(),
                        .x_heads = o.kInOrder,
                        .gamma = head_gamma,
                        .y = o.heads.tensor(),
                        .y_heads = o.kSliced,
                        .rstd = o.rstd.data()});
  });
  expect_launches("head_norm_bwd", 1, o.column, [&](const Exec& e) {
    cuda::head_norm_bwd(e, {.dy = o.wide.tensor(),
                            .dy_heads = o.kSliced,
                            .x = o.x.tensor(),
                            .x_heads = o.kInOrder,
                            .gamma = head_gamma,
                            .rstd = o.rstd.data(),
                            .dx = o.dx.tensor(),
                            .dx_heads = o.kInOrder,
                            .dgamma = o.column.tensor().col_range(0, o.kHead),
                            .segments = o.segments.device()});
  });
}

TEST(CudaRows, ElementsAreOneLaunch) {
  RowOperands o;
  const DeviceTensor table(DType::kF32, Matrix::random(RowOperands::kRows, 16, 7));
  expect_launches("rope", 1, o.heads, [&](const Exec& e) {
    cuda::rope(e, {.x = o.x.tensor(),
                   .x_heads = o.kInOrder,
                   .y = o.heads.tensor(),
                   .y_heads = o.kSliced,
                   .positions = o.index.data(),
                   .table = table.tensor()});
  });
  const Tensor gate_up = o.wide.tensor().col_range(0, 2 * RowOperands::kHidden);
  const SwigluArgs swiglu = {.gate_up = gate_up, .y = o.y.tensor(), .slices = 4};
  expect_launches("swiglu", 1, o.y, [&](const Exec& e) { cuda::swiglu(e, swiglu); });
  expect_launches("swiglu_quantize", 1, o.f32,
                  [&](const Exec& e) { cuda::swiglu_quantize(e, {.swiglu = swiglu, .q = o.quantised()}); });
  expect_launches("swiglu_bwd", 1, o.gates, [&](const Exec& e) {
    cuda::swiglu_bwd(e, {.dy = o.dy.tensor(), .gate_up = gate_up, .dgate_up = o.gates.tensor(), .slices = 4});
  });
  expect_launches("add", 1, o.dx, [&](const Exec& e) {
    cuda::add(e, {.a = o.x.tensor(), .b = o.dy.tensor(), .y = o.dx.tensor()});
  });
}

TEST(CudaRows, MovesAreOneLaunch) {
  RowOperands o;
  const Tensor pos = i32_tensor(o.index.data(), RowOperands::kRows, 1);
  expect_launches("gather_rows", 1, o.y, [&](const Exec& e) {
    cuda::gather_rows(e, {.x = o.x.tensor(), .index = o.index.data(), .y = o.y.tensor()});
  });
  expect_launches("gather_rows to F32", 1, o.f32,
                  [&](const Exec& e) { cuda::gather_rows(e, {.x = o.x.tensor(), .y = o.f32.tensor()}); });
  expect_launches("scatter_rows", 1, o.dx, [&](const Exec& e) {
    cuda::scatter_rows(e, {.x = o.x.tensor(), .index = o.index.data(), .y = o.dx.tensor()});
  });
  expect_launches("copy_heads", 1, o.heads, [&](const Exec& e) {
    cuda::copy_heads(e, {.x = o.x.tensor(),
                         .x_heads = o.kInOrder,
                         .y = o.heads.tensor(),
                         .y_heads = o.kSliced,
                         .width = o.kHead});
  });
  expect_launches("combine", 1, o.y, [&](const Exec& e) {
    cuda::combine(e, {.x = o.dy.tensor(), .pos = pos, .weight = o.weight.tensor(), .y = o.y.tensor()});
  });
  expect_launches("combine_bwd", 1, o.dx, [&](const Exec& e) {
    cuda::combine_bwd(e, {.dy = o.dy.tensor(),
                          .x = o.x.tensor(),
                          .pos = pos,
                          .weight = o.weight.tensor(),
                          .dx = o.dx.tensor(),
                          .dweight = o.f32.tensor().col_range(0, 1)});
  });
}

TEST(CudaRows, SumsOverRowsAreOneLaunch) {
  RowOperands o;
  DeviceTensor table(DType::kF32, RowOperands::kRows, RowOperands::kHidden);
  expect_launches("column_sum", 1, o.column, [&](const Exec& e) {
    cuda::column_sum(
        e, {.dy = o.dy.tensor(), .sum = o.column.tensor().row_range(0, 1), .segments = o.segments.device()});
  });
  expect_launches("embedding", 1, o.y, [&](const Exec& e) {
    cuda::embedding(e, {.tokens = o.index.data(), .table = o.x.tensor(), .y = o.y.tensor()});
  });
  expect_launches("embedding_bwd", 1, table, [&](const Exec& e) {
    cuda::embedding_bwd(e, {.tokens = o.index.data(),
                            .dy = o.dy.tensor(),
                            .dtable = table.tensor(),
                            .segments = o.segments.device()});
  });
}

}  // namespace
}  // namespace contender
