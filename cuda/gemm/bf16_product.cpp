#include "cuda/gemm/bf16_product.h"

#include <algorithm>
#include <bit>

#include "base/error.h"

namespace contender::cuda {
namespace {

enum class Direction { kForward, kBackward };

bool power_of_two(int64_t n) { return n > 0 && std::has_single_bit(static_cast<uint64_t>(n)); }

Product product(const Tensor& a, const WeightView& w, const Tensor& c, Direction direction, int slices) {
  const bool forward = direction == Direction::kForward;
  const int64_t in = forward ? w.k : w.n, out = forward ? w.n : w.k;
  const void* form = forward ? w.forward : w.backward;
  CHECK(a.dtype == DType::kBF16, "products of {} activations are not supported on CUDA, only of BF16",
        dtype_name(a.dtype));
  CHECK(c.dtype == DType::kBF16 || c.dtype == DType::kF32, "results in {}, not BF16 or F32",
        dtype_name(c.dtype));
  CHECK(w.format.dtype == kCudaWeights.dtype && w.format.panel == kCudaWeights.panel,
        "the weight is packed as {} in panels of {} columns; products on CUDA read rows of BF16",
        dtype_name(w.format.dtype), w.format.panel);
  CHECK(form != nullptr || w.n * w.k * w.num_groups == 0, "the {} form is not packed",
        forward ? "forward" : "backward");
  CHECK(a.rows == c.rows && a.cols == in && c.cols == out, "[{}, {}] x {} form of w [{}, {}] -> [{}, {}]",
        a.rows, a.cols, forward ? "forward" : "backward", w.n, w.k, c.rows, c.cols);
  CHECK(power_of_two(slices) && in % slices == 0,
        "{} contracted values in {} slices: a power of two that divides them is needed", in, slices);
  const int64_t form_bytes =
      forward ? packed_forward_bytes(w.n, w.k, w.format) : packed_backward_bytes(w.n, w.k, w.format);
  return {.a = a.data,
          .lda = a.ld,
          .b = form,
          .ldb = in,
          .b_layer = form_bytes / dtype_size(DType::kBF16),
          .c = c.data,
          .ldc = c.ld,
          .m = a.rows,
          .n = out,
          .k = in,
          .slices = slices,
          .c_type = c.dtype};
}

Product grouped(Product p, const WeightView& w, const int32_t* offsets) {
  CHECK(offsets != nullptr, "no offsets");
  p.offsets = offsets;
  p.grouped = true;
  p.layers = w.num_groups;
  return p;
}

WgradProduct checked(const WgradProduct& w) {
  CHECK(w.dy.dtype == DType::kBF16 && w.x.dtype == DType::kBF16 && w.dw.dtype == DType::kF32,
        "dy {}, x {}, dw {}: weight gradients are F32 sums over BF16 activations on CUDA",
        dtype_name(w.dy.dtype), dtype_name(w.x.dtype), dtype_name(w.dw.dtype));
  const RowSegments& s = w.segments;
  CHECK(power_of_two(s.num_leaves) && s.num_leaves <= kMaxLeaves,
        "{} leaves: a power of two up to {} is needed", s.num_leaves, kMaxLeaves);
  const int64_t groups = w.shared_rows ? 1 : w.groups, chains = groups * s.num_leaves;
  CHECK(s.count >= 0 && (chains == 0 || s.count % chains == 0),
        "{} segments are no table of {} groups x {} leaves", s.count, groups, s.num_leaves);
  return w;
}

}  // namespace

Product product_of(const LinearArgs& args) {
  Product p = product(args.x, args.w, args.y, Direction::kForward, args.slices);
  p.bias = args.bias;
  p.accumulate = args.accumulate;
  return p;
}

Product product_of(const LinearDgradArgs& args) {
  Product p = product(args.dy, args.w, args.dx, Direction::kBackward, args.slices);
  p.accumulate = args.accumulate;
  return p;
}

Product product_of(const GroupedLinearArgs& args) {
  return grouped(product(args.x, args.w, args.y, Direction::kForward, 1), args.w, args.offsets);
}

Product product_of(const GroupedLinearDgradArgs& args) {
  return grouped(product(args.dy, args.w, args.dx, Direction::kBackward, 1), args.w, args.offsets);
}

Product product_of(const HeadsLinearArgs& args) {
  const WeightView& w = args.w;
  const int64_t in = args.transposed ? w.n : w.k, out = args.transposed ? w.k : w.n, last = w.num_groups - 1;
  CHECK(last < 0 || (last * args.x_stride + in <= args.x.cols && last * args.y_stride + out <= args.y.cols),
        "{} heads: x of {} columns, stride {}, {} each; y of {}, stride {}, {} each", w.num_groups,
        args.x.cols, args.x_stride, in, args.y.cols, args.y_stride, out);
  // The first head's columns.
  Product p = product(args.x.col_range(0, std::min(in, args.x.cols)), w,
                      args.y.col_range(0, std::min(out, args.y.cols)),
                      args.transposed ? Direction::kBackward : Direction::kForward, 1);
  p.a_layer = args.x_stride;
  p.c_layer = args.y_stride;
  p.layers = w.num_groups;
  return p;
}

WgradProduct product_of(const LinearWgradArgs& args) {
  const Tensor &dy = args.dy, &x = args.x, &dw = args.dw;
  CHECK(dy.rows == x.rows && dw.rows == args.num_groups * dy.cols && dw.cols == x.cols,
        "dy [{}, {}], x [{}, {}], dw [{}, {}] of {} groups", dy.rows, dy.cols, x.rows, x.cols, dw.rows,
        dw.cols, args.num_groups);
  return checked({.dy = dy, .x = x, .dw = dw, .segments = args.segments, .groups = args.num_groups});
}

WgradProduct product_of(const HeadsWgradArgs& args) {
  const int64_t heads = args.num_heads, last = heads - 1, k = args.dw.cols;
  CHECK(heads >= 1 && args.dw.rows % heads == 0, "dw of {} rows, {} heads", args.dw.rows, heads);
  const int64_t n = args.dw.rows / heads;
  CHECK(args.dy.rows == args.x.rows && last * args.dy_stride + n <= args.dy.cols &&
            last * args.x_stride + k <= args.x.cols,
        "{} heads: dy [{}, {}], stride {}, {} each; x [{}, {}], stride {}, {} each", heads, args.dy.rows,
        args.dy.cols, args.dy_stride, n, args.x.rows, args.x.cols, args.x_stride, k);
  return checked({.dy = args.dy.col_range(0, n),
                  .x = args.x.col_range(0, k),
                  .dw = args.dw,
                  .segments = args.segments,
                  .dy_group = args.dy_stride,
                  .x_group = args.x_stride,
                  .groups = heads,
                  .shared_rows = true});
}

}  // namespace contender::cuda
