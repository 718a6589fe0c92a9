// What: y = x w^T and dx = dy w; plain, grouped by expert, batched over heads (ops/linear.h).
// Math: both are C = A B^T on rows of contracted values: of w the forward form [N, K] for y, the backward
// form [K, N] for dx.
// Shapes: any M, N, K, also 0; K (N for dx) divisible by `slices`, a power of two. Rows of x behind the last
// group are not read, those of y not written.
// Layouts: x, dy BF16, row-major, any ld. y, dx BF16, or F32 where a partial result goes on to another rank
// or is needed unrounded. Packed forms as pack.cu writes them.
// Precision: linear_tile.cuh. The chain of a slice starts at the slice. Bias and old value are added in FP32.
// Schedule: one block per tile; tiles of 128 x 128 where they fill the GPU, else of 64 x 64: the same bits.
// For groups the grid has as many row tiles as there can be; each block finds its own from the offsets, which
// stay on the device, and surplus ones leave. One launch, whatever the slices, groups or heads.
// Roofline: 2 M N K flops; 2 (M K + N K + M N) bytes. Memory-bound below M = 206 (H200) and 295 (H800) rows
// of a wide weight.
// Limits: F32 x or dy; 65,535 tiles of columns, and heads.
// Source: PTX ISA, mma.m16n8k16, ldmatrix, cp.async.
#include "cuda/common/device_check.cuh"
#include "cuda/common/stream.h"
#include "cuda/linear/linear_tile.cuh"
#include "cuda/ops.h"

namespace contender::cuda {
namespace {

// Strides are in elements.
struct ProductParams {
  const Bf16* a = nullptr;  // [m, k]
  int64_t lda = 0, a_group = 0;
  const Bf16* b = nullptr;  // [groups][n, k]
  int64_t b_group = 0;
  void* c = nullptr;  // [m, n]
  int64_t ldc = 0, c_group = 0;
  const float* bias = nullptr;       // [n] or null
  const int32_t* offsets = nullptr;  // [groups + 1] or null: every group has all rows
  int m = 0, n = 0, k = 0, groups = 1, slices = 1;
  bool accumulate = false;
};

// Rows [row, row + rows) are those of one tile, all of one group.
struct Place {
  int group, row, rows;
};

template <class S>
__device__ Place find_place(const ProductParams& p) {
  const int tile = static_cast<int>(blockIdx.x);
  if (!p.offsets) {
    const int row = tile * S::kSide;
    return {static_cast<int>(blockIdx.z), row, min(S::kSide, p.m - row)};
  }
  constexpr unsigned kAll = 0xffffffffu;
  const int lane = threadIdx.x % 32;
  int before = 0;  // tiles of earlier groups
  for (int base = 0; base < p.groups; base += 32) {
    const int g = base + lane;
    const int begin = g < p.groups ? p.offsets[g] : p.m, end = g < p.groups ? p.offsets[g + 1] : p.m;
    DEVICE_CHECK((g == 0 ? begin == 0 : begin >= 0) && begin <= end && end <= p.m,
                 "grouped_linear: group %d of %d: rows [%d, %d) of %d", g, p.groups, begin, end, p.m);
    const int tiles = (end - begin + S::kSide - 1) / S::kSide;
    int sum = tiles;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      const int left = __shfl_up_sync(kAll, sum, o);
      if (lane >= o) sum += left;
    }
    const unsigned reached = __ballot_sync(kAll, before + sum > tile);
    if (reached != 0) {
      const int owner = __ffs(static_cast<int>(reached)) - 1;
      const int first = before + __shfl_sync(kAll, sum - tiles, owner);
      const int row = __shfl_sync(kAll, begin, owner) + (tile - first) * S::kSide;
      return {base + owner, row, min(S::kSide, __shfl_sync(kAll, end, owner) - row)};
    }
    before += __shfl_sync(kAll, sum, 31);
  }
  return {0, 0, 0};
}

extern __shared__ __align__(128) char product_smem[];

template <class T, class S, Access kAccess>
__global__ void __launch_bounds__(S::kThreads) product_kernel(const __grid_constant__ ProductParams p) {
  auto& smem = *reinterpret_cast<ProductSmem<S>*>(product_smem);
  float* levels = reinterpret_cast<float*>(&smem + 1);
  const Place place = find_place<S>(p);
  if (place.rows == 0) return;
  const int col = blockIdx.y * S::kSide, cols = min(S::kSide, p.n - col);
  const Bf16* a = p.a + place.group * p.a_group + place.row * p.lda;
  const Bf16* b = p.b + place.group * p.b_group + static_cast<int64_t>(col) * p.k;
  const int length = p.k / p.slices;
  Accumulator<S> acc;
  sum_of_chains<S, Major::kContracted>(
      acc, smem, levels, p.slices, [&](int) { return length; },
      [&](int stage, int slice, int first) {
        const int start = slice * length, end = start + length;
        load_rows<kAccess, S>(smem.a[stage], a, p.lda, place.rows, start + first, end);
        load_rows<kAccess, S>(smem.b[stage], b, p.k, cols, start + first, end);
      });
  store_tile<kAccess, S>(
      acc, smem,
      TileOut<T>{.c = static_cast<T*>(p.c) + place.group * p.c_group + place.row * p.ldc + col,
                 .ld = p.ldc,
                 .rows = place.rows,
                 .cols = cols,
                 .bias = p.bias ? p.bias + col : nullptr,
                 .accumulate = p.accumulate});
}

bool aligned(const void* p, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) == 0;
}

// Operands in pieces of 16 bytes, results in quads.
bool vector_access(const ProductParams& p, DType out) {
  return p.k / p.slices % kPieceSize == 0 && p.lda % kPieceSize == 0 && p.a_group % kPieceSize == 0 &&
         p.b_group % kPieceSize == 0 && aligned(p.a, 16) && aligned(p.b, 16) && p.n % 4 == 0 &&
         p.ldc % 4 == 0 && p.c_group % 4 == 0 && aligned(p.c, 4 * dtype_size(out)) && aligned(p.bias, 16);
}

template <class S>
int64_t smem_bytes(const ProductParams& p) {
  return static_cast<int64_t>(sizeof(ProductSmem<S>)) + tree_bytes<S>(p.slices);
}

// Large tiles read half as much; they pay where every SM gets one.
bool large_tiles(const ProductParams& p) {
  constexpr int64_t kSide = LargeTile::kSide;
  if (smem_bytes<LargeTile>(p) > kMaxSharedBytes) return false;
  if (p.offsets && p.m / p.groups < kSide) return false;
  return ceil_div(p.m, kSide) * ceil_div(p.n, kSide) * (p.offsets ? 1 : p.groups) >= sm_count();
}

template <class T, class S, Access kAccess>
void launch_product(const Exec& exec, const ProductParams& p) {
  int64_t row_tiles = ceil_div(p.m, S::kSide);
  if (p.offsets) row_tiles += p.groups;  // each group may end in a tile of its own
  const int64_t col_tiles = ceil_div(p.n, S::kSide), layers = p.offsets ? 1 : p.groups;
  CHECK(col_tiles <= 65535 && layers <= 65535, "{} columns, {} groups", p.n, p.groups);
  const dim3 grid(static_cast<unsigned>(narrow<int>(row_tiles)), static_cast<unsigned>(col_tiles),
                  static_cast<unsigned>(layers));
  const size_t shared = shared_bytes_of<product_kernel<T, S, kAccess>>(smem_bytes<S>(p));
  product_kernel<T, S, kAccess><<<grid, S::kThreads, shared, stream_of(exec)>>>(p);
  CUDA_CHECK_LAUNCH();
}

void product(const Exec& exec, const ProductParams& p, DType out) {
  CHECK(p.slices > 0 && (p.slices & (p.slices - 1)) == 0 && p.k % p.slices == 0,
        "{} contracted values in {} slices: a power of two that divides them is needed", p.k, p.slices);
  if (p.m == 0 || p.n == 0 || p.groups == 0) return;
  with_float_type(out, [&]<class T>(std::type_identity<T>) {
    if (!vector_access(p, out)) return launch_product<T, SmallTile, Access::kScalar>(exec, p);
    if (!large_tiles(p)) return launch_product<T, SmallTile, Access::kVector>(exec, p);
    launch_product<T, LargeTile, Access::kVector>(exec, p);
  });
}

enum class Direction { kForward, kBackward };

// A and C as given, the weight from its form; the caller fills in what is special.
ProductParams product_params(const Tensor& a, const WeightView& w, const Tensor& c, Direction direction) {
  const bool forward = direction == Direction::kForward;
  const int64_t in = forward ? w.k : w.n, out = forward ? w.n : w.k;
  const void* form = forward ? w.forward : w.backward;
  CHECK(a.dtype == DType::kBF16, "products of {} activations are not supported on CUDA, only of BF16",
        dtype_name(a.dtype));
  CHECK(w.format.dtype == kCudaWeights.dtype && w.format.panel == kCudaWeights.panel,
        "the weight is packed as {} in panels of {} columns; products on CUDA read rows of BF16",
        dtype_name(w.format.dtype), w.format.panel);
  CHECK(form != nullptr || w.n * w.k * w.num_groups == 0, "the {} form is not packed",
        forward ? "forward" : "backward");
  CHECK(a.rows == c.rows && a.cols == in && c.cols == out, "[{}, {}] x {} form of w [{}, {}] -> [{}, {}]",
        a.rows, a.cols, forward ? "forward" : "backward", w.n, w.k, c.rows, c.cols);
  const int64_t form_bytes =
      forward ? packed_forward_bytes(w.n, w.k, w.format) : packed_backward_bytes(w.n, w.k, w.format);
  return {.a = static_cast<const Bf16*>(a.data),
          .lda = a.ld,
          .b = static_cast<const Bf16*>(form),
          .b_group = form_bytes / dtype_size(DType::kBF16),
          .c = c.data,
          .ldc = c.ld,
          .m = narrow<int>(a.rows),
          .n = narrow<int>(out),
          .k = narrow<int>(in)};
}

}  // namespace

void linear(const Exec& exec, const LinearArgs& args) {
  ProductParams p = product_params(args.x, args.w, args.y, Direction::kForward);
  p.bias = args.bias;
  p.slices = args.slices;
  p.accumulate = args.accumulate;
  product(exec, p, args.y.dtype);
}

void linear_dgrad(const Exec& exec, const LinearDgradArgs& args) {
  ProductParams p = product_params(args.dy, args.w, args.dx, Direction::kBackward);
  p.slices = args.slices;
  p.accumulate = args.accumulate;
  product(exec, p, args.dx.dtype);
}

void grouped_linear(const Exec& exec, const GroupedLinearArgs& args) {
  ProductParams p = product_params(args.x, args.w, args.y, Direction::kForward);
  CHECK(args.offsets != nullptr, "no offsets");
  p.offsets = args.offsets;
  p.groups = narrow<int>(args.w.num_groups);
  product(exec, p, args.y.dtype);
}

void grouped_linear_dgrad(const Exec& exec, const GroupedLinearDgradArgs& args) {
  ProductParams p = product_params(args.dy, args.w, args.dx, Direction::kBackward);
  CHECK(args.offsets != nullptr, "no offsets");
  p.offsets = args.offsets;
  p.groups = narrow<int>(args.w.num_groups);
  product(exec, p, args.dx.dtype);
}

void heads_linear(const Exec& exec, const HeadsLinearArgs& args) {
  const WeightView& w = args.w;
  const int64_t in = args.transposed ? w.n : w.k, out = args.transposed ? w.k : w.n;
  const int64_t last = w.num_groups - 1;
  if (last < 0) return;
  // The first head's columns; the last head's exist.
  const Tensor x = args.x.col_range(0, in), y = args.y.col_range(0, out);
  CHECK(last * args.x_stride + in <= args.x.cols && last * args.y_stride + out <= args.y.cols,
        "{} heads: x of {} columns, stride {}, {} each; y of {}, stride {}, {} each", w.num_groups,
        args.x.cols, args.x_stride, in, args.y.cols, args.y_stride, out);
  ProductParams p = product_params(x, w, y, args.transposed ? Direction::kBackward : Direction::kForward);
  p.a_group = args.x_stride;
  p.c_group = args.y_stride;
  p.groups = narrow<int>(w.num_groups);
  product(exec, p, args.y.dtype);
}

}  // namespace contender::cuda
