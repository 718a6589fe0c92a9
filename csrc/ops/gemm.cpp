#include "ops/gemm.h"

#include <limits>

namespace contender {
namespace {

constexpr int64_t kMultiple = 16;

void check_codes(const Tensor& t, const char* name) {
  CHECK(t.dtype == DType::kE4M3, "{} is {}", name, dtype_name(t.dtype));
  CHECK(t.rows >= 0 && t.cols >= 0 && t.ld >= t.cols && t.rows <= std::numeric_limits<int32_t>::max() &&
            t.cols <= std::numeric_limits<int32_t>::max(),
        "{} [{}, {}], rows {} apart", name, t.rows, t.cols, t.ld);
}

void check_multiple(int64_t v, const char* name) {
  CHECK(v > 0 && v % kMultiple == 0, "{} = {} is not a positive multiple of {}", name, v, kMultiple);
}

void check_scale(const Tensor& scale, int64_t rows, int64_t cols, const char* name) {
  CHECK(scale.dtype == DType::kF32 && scale.rows == rows && scale.cols == cols,
        "scales of {}: {} [{}, {}], expected F32 [{}, {}]", name, dtype_name(scale.dtype), scale.rows,
        scale.cols, rows, cols);
}

// All that plain and grouped products have in common; n is that of one group.
void check_product(const QTensor& a, const QTensor& b, const Tensor& d, const QTensor& q, int64_t groups) {
  check_codes(a.data, "a");
  check_codes(b.data, "b");
  const int64_t m = a.data.rows, k = a.data.cols, n = div_exact(b.data.rows, groups);
  check_multiple(n, "N");
  check_multiple(k, "K");
  CHECK(b.data.cols == k, "a has {} columns, b {}", k, b.data.cols);
  CHECK(a.layout == QLayout::k1x128 && b.layout == QLayout::k128x128,
        "layouts of a {} and b {}, expected 1x128 and 128x128", static_cast<int>(a.layout),
        static_cast<int>(b.layout));
  const int64_t blocks = ceil_div(k, kFp8Block);
  check_scale(a.scale, m, blocks, "a");
  check_scale(b.scale, groups * ceil_div(n, kFp8Block), blocks, "b");
  CHECK(d.dtype == DType::kF32 || d.dtype == DType::kBF16, "d is {}", dtype_name(d.dtype));
  CHECK(d || q.data || m == 0, "neither d nor q");
  if (d) CHECK(d.rows == m && d.cols == n, "d [{}, {}], expected [{}, {}]", d.rows, d.cols, m, n);
  if (!q.data) return;
  check_codes(q.data, "q");
  CHECK(q.layout == QLayout::k1x128, "layout of q {}, expected 1x128", static_cast<int>(q.layout));
  CHECK(q.data.rows == m && q.data.cols == n, "q [{}, {}], expected [{}, {}]", q.data.rows, q.data.cols, m,
        n);
  check_scale(q.scale, m, ceil_div(n, kFp8Block), "q");
}

void check_transposed(const QTransposed& t, int64_t m, int64_t chains, const char* name) {
  check_codes(t.data, name);
  check_multiple(t.data.rows, name);
  CHECK(t.data.cols == m, "{} has {} tokens, dy {}", name, t.data.cols, m);
  const int64_t blocks = fp8_wgrad_blocks(m, chains);
  CHECK(t.scale.dtype == DType::kF32 && t.scale.rows >= blocks && t.scale.cols == t.data.rows,
        "scales of {}: {} [{}, {}], expected F32 [{}, {}]", name, dtype_name(t.scale.dtype), t.scale.rows,
        t.scale.cols, blocks, t.data.rows);
}

void check_groups(int64_t groups) {
  CHECK(groups >= 1 && groups <= kMaxFp8Groups, "{} groups, 1 to {} are possible", groups, kMaxFp8Groups);
}

}  // namespace

void check_fp8_gemm(const Fp8GemmArgs& args) {
  check_product(args.a, args.b, args.d, args.q, 1);
  CHECK(
      !args.accumulate || (args.d.dtype == DType::kF32 && !args.q.data && (args.d || args.a.data.rows == 0)),
      "accumulate needs an F32 d, and no q");
}

void check_fp8_grouped_gemm(const Fp8GroupedGemmArgs& args) {
  check_groups(args.num_groups);
  check_product(args.a, args.b, args.d, args.q, args.num_groups);
  CHECK((args.offsets != nullptr) != (args.counts != nullptr), "offsets or counts, one of them");
  if (args.counts)
    CHECK(args.a.data.rows % args.num_groups == 0, "{} rows for {} groups of one capacity", args.a.data.rows,
          args.num_groups);
}

void check_fp8_wgrad(const Fp8WgradArgs& args) {
  check_groups(args.num_groups);
  const int64_t leaves = check_chains(args.segments, args.offsets, args.num_groups);
  CHECK(leaves <= kMaxLeaves, "{} leaves, up to {} are possible", leaves, kMaxLeaves);
  const int64_t m = args.dy.data.cols;
  check_transposed(args.dy, m, args.num_groups * leaves, "dy");
  check_transposed(args.x, m, args.num_groups * leaves, "x");
  CHECK(args.dw.dtype == DType::kF32 && args.dw.rows == args.num_groups * args.dy.data.rows &&
            args.dw.cols == args.x.data.rows,
        "dw {} [{}, {}], expected F32 [{}, {}]", dtype_name(args.dw.dtype), args.dw.rows, args.dw.cols,
        args.num_groups * args.dy.data.rows, args.x.data.rows);
}

Cost fp8_gemm_cost(int64_t m, int64_t n, int64_t k, DType d, int64_t num_groups) {
  const int64_t blocks = ceil_div(k, kFp8Block);
  const int64_t a = m * (k + 4 * blocks), b = num_groups * (n * k + 4 * ceil_div(n, kFp8Block) * blocks);
  return {.flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k),
          .bytes = static_cast<double>(a + b + m * n * dtype_size(d))};
}

Cost fp8_wgrad_cost(int64_t m, int64_t n, int64_t k, int64_t num_groups, bool accumulate) {
  const int64_t operands = (n + k) * (m + 4 * fp8_wgrad_blocks(m, num_groups));
  return {.flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k),
          .bytes = static_cast<double>(operands + num_groups * n * k * (accumulate ? 8 : 4))};
}

}  // namespace contender
