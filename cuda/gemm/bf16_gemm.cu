// What: y = x w^T and dx = dy w in BF16 on wgmma; plain, by expert, by head (ops/linear.h).
// Math: both are C = A B^T on rows of contracted values: of w the forward form [N, K] for y, the backward
// form [K, N] for dx.
// Shapes: any M >= 0, any groups, empty ones too; N, K and a slice of K multiples of 8. Rows of x behind the
// last group are not used, those of y not written.
// Layouts: x, dy BF16, row-major; y, dx BF16 or F32. Packed forms as linear/pack.cu writes them.
// Precision: BF16 operands, FP32 accumulators: one chain per slice in steps of 16 from the slice's start,
// zeros behind its end; slices summed in the fixed tree; bias and old value added in FP32; one rounding. No
// tile, place, side or cluster enters, so all rows of the table give the same bits, and M none.
// Schedule: persistent; a warp feeds a ring of stages by TMA, one or two consumer warpgroups multiply and
// store: the ring runs ahead into the next unit while results leave. Two consumers share a unit, or take
// turns: one multiplies 128 rows while the other stores its own. Clusters of 2 fetch a tile of w once. Bands
// of the raster keep what runs at once nearly square. Groups are found on the device. One group of wgmma is
// in flight behind the one that is waited for. Small M: w takes the 64 rows of wgmma and x its N.
// Registers: 40 for the producer's warpgroup and 232 for each of two consumers; 52 to 161 with one consumer.
// Shared memory: 4 to 20 stages and staging, 208 to 224 KB.
// Roofline: 2 M N K flops; 2 (M K + N K + M N) bytes. Memory-bound below M = 206 (H200) and 295 (H800).
// Limits: the multiples above, rows and bases in pieces of 16 bytes, 4 slices, M and N below 2^31.
// Source: PTX ISA 9.0: wgmma, cp.async.bulk.tensor, mbarrier, setmaxnreg.
#include <array>
#include <utility>

#include "cuda/common/shared_memory.h"
#include "cuda/common/stream.h"
#include "cuda/common/tensor_map.h"
#include "cuda/gemm/bf16_gemm.h"
#include "cuda/gemm/bf16_gemm_device.cuh"

namespace contender::cuda {
namespace {

constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

// --- the instantiation table ---
constexpr TileShape kTiles[] = {
    {Side::kRows, 2, 256, 4, 2, 0},
    {Side::kRows, 2, 256, 4, 1, 0},
    {Side::kRows, 2, 192, 5, 1, 0},
    {Side::kRows, 2, 128, 5, 2, 2},
    {Side::kRows, 2, 128, 5, 1, 2},
    {Side::kRows, 2, 128, 6, 2, 0, Turns::kInTurns},
    {Side::kRows, 2, 128, 6, 1, 0, Turns::kInTurns},
    {Side::kColumns, 1, 128, 8, 1, 2},
    {Side::kColumns, 1, 64, 12, 1, 2},
    {Side::kColumns, 1, 32, 16, 1, 2},
    {Side::kColumns, 1, 16, 20, 1, 2},
};

extern __shared__ __align__(1024) uint8_t gemm_smem[];

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1) bf16_gemm_kernel(const __grid_constant__ GemmParams p) {
  auto& s = *reinterpret_cast<GemmSmem<T>*>(gemm_smem);
  static_assert(sizeof(GemmSmem<T>) <= kMaxSharedMemory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < T::kStages; ++i) {
      mbarrier_init(&s.full[i], 1);
      mbarrier_init(&s.empty[i], T::kReaders * T::kCluster);  // a lane of each warp that reads it
    }
    fence_mbarrier_init();
  }
  __syncthreads();
  if constexpr (T::kCluster > 1) cluster_arrive(), cluster_wait();
  griddepcontrol_wait();
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);  // uniform
  if (warpgroup == T::kConsumers) {
    if constexpr (T::kConsumers == 2) setmaxnreg_dec<kProducerRegisters>();
    if (threadIdx.x / 32 % 4 == 0) produce<T>(p, s);
    __syncwarp();
    griddepcontrol_launch_dependents();
  } else {
    if constexpr (T::kConsumers == 2) setmaxnreg_inc<kConsumerRegisters>();
    if constexpr (T::kInTurns) {
      consume_in_turns<T>(p, s, warpgroup);
    } else {
      consume<T>(p, s, warpgroup);
    }
    __syncwarp();  // warps leave whole: without this ptxas spills
  }
  // Nobody leaves while another block may still count at its barriers.
  if constexpr (T::kCluster > 1) cluster_arrive(), cluster_wait();
}

template <TileShape kShape>
void launch(const Exec& exec, const GemmParams& p, int64_t units) {
  using T = Tile<kShape>;
  allow_shared_memory<bf16_gemm_kernel<T>>();
  const int64_t clusters = std::min<int64_t>(units, sm_count() / T::kCluster);
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {T::kCluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(narrow<int>(clusters * T::kCluster)));
  config.blockDim = dim3(T::kThreads);
  config.dynamicSmemBytes = sizeof(GemmSmem<T>);
  config.stream = stream_of(exec);
  config.attrs = attributes;
  config.numAttrs = T::kCluster > 1 ? 2 : 1;
  CUDA_CHECK(cudaLaunchKernelEx(&config, bf16_gemm_kernel<T>, p));
}

using Launch = void (*)(const Exec&, const GemmParams&, int64_t);
template <size_t... kIndex>
constexpr auto launches(std::index_sequence<kIndex...>) {
  return std::array<Launch, sizeof...(kIndex)>{launch<kTiles[kIndex]>...};
}
constexpr auto kLaunches = launches(std::make_index_sequence<std::size(kTiles)>());

// --- what the forms of the product have in common ---
// C [m, n] = A [m, k] B [n, k]^T; strides in elements, *_layer from one head or group to the next.
struct Product {
  const void* a = nullptr;
  int64_t lda = 0, a_layer = 0;
  const void* b = nullptr;
  int64_t b_layer = 0;
  void* c = nullptr;
  int64_t ldc = 0, c_layer = 0;
  int64_t m = 0, n = 0, k = 0, layers = 1;
  int slices = 1;
  DType a_type = DType::kBF16, c_type = DType::kBF16;
  WeightFormat format = kCudaWeights;
  const float* bias = nullptr;
  const int32_t* offsets = nullptr;
  bool grouped = false, accumulate = false;
};

bool in_16(const void* p, std::initializer_list<int64_t> strides_bytes) {
  for (int64_t s : strides_bytes)
    if (s % 16 != 0) return false;
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

std::string refuses(const Product& p) {
  if (p.a_type != DType::kBF16 || p.format.dtype != kCudaWeights.dtype ||
      p.format.panel != kCudaWeights.panel)
    return fmt::format("operands of {} and {} in panels of {}, not rows of BF16", dtype_name(p.a_type),
                       dtype_name(p.format.dtype), p.format.panel);
  if (p.c_type != DType::kBF16 && p.c_type != DType::kF32)
    return fmt::format("results in {}, not BF16 or F32", dtype_name(p.c_type));
  if (p.slices != 1 && p.slices != 2 && p.slices != 4)
    return fmt::format("{} slices, not 1, 2 or 4", p.slices);
  if (p.k == 0 || p.k % (8 * p.slices) != 0 || p.n % 8 != 0)
    return fmt::format("N {}, K {} in {} slices: not multiples of 8", p.n, p.k, p.slices);
  const int64_t out = dtype_size(p.c_type);
  if (!in_16(p.a, {2 * p.lda, 2 * p.a_layer}) || !in_16(p.b, {2 * p.b_layer}) ||
      !in_16(p.c, {out * p.ldc, out * p.c_layer}) || !in_16(p.bias, {}))
    return fmt::format(
        "operands at {}, {}, {}, bias at {}, rows of {} and {} elements, layers {}, {} and {} apart: "
        "not in pieces of 16 bytes",
        p.a, p.b, p.c, static_cast<const void*>(p.bias), p.lda, p.ldc, p.a_layer, p.b_layer, p.c_layer);
  return "";
}

ProductShape shape_of(const Product& p) {
  return {.m = p.m,
          .n = p.n,
          .k = p.k,
          .layers = p.layers,
          .grouped = p.grouped,
          .slices = p.slices,
          .out_bytes = dtype_size(p.c_type)};
}

// Rows of contracted values in boxes of `box_rows`; slices are layers that lie beside each other.
CUtensorMap operand_map(const void* base, int64_t rows, int64_t ld, int64_t layers, int64_t layer_stride,
                        const Product& p, int box_rows) {
  const int64_t length = p.k / p.slices;
  return make_tensor_map_3d({.base = base,
                             .cols = length,
                             .rows = rows,
                             .layers = p.slices > 1 ? p.slices : layers,
                             .row_stride = ld,
                             .layer_stride = p.slices > 1 ? length : layer_stride,
                             .box_cols = kGemmDepth,
                             .box_rows = box_rows});
}

void run(const Exec& exec, const Product& p, int tile) {
  const std::string reason = refuses(p);
  CHECK(reason.empty(), "bf16_gemm: {}", reason);
  CHECK(p.slices == 1 || p.layers == 1, "{} slices of {} layers", p.slices, p.layers);
  if (p.m == 0 || p.n == 0 || p.layers == 0) return;
  if (tile < 0) tile = choose_tile(kTiles, shape_of(p), sm_count());
  CHECK(tile < static_cast<int>(std::size(kTiles)), "tile {} of {}", tile, std::size(kTiles));
  const TileShape& t = kTiles[tile];
  CHECK((1 << t.levels) >= p.slices, "tile {} sums {} slices, not {}", tile, 1 << t.levels, p.slices);
  const int box_p = 64 * t.consumers, box_q = t.wgmma_n / t.cluster;
  const bool swapped = t.side == Side::kColumns;
  GemmParams g;
  g.x = operand_map(p.a, p.m, p.lda, p.grouped ? 1 : p.layers, p.a_layer, p, swapped ? box_q : box_p);
  g.w = operand_map(p.b, p.n, p.k, p.layers, p.b_layer, p, swapped ? box_p : box_q);
  g.out = {.y = p.c,
           .ldy = p.ldc,
           .y_layer = p.c_layer,
           .bias = p.bias,
           .n = narrow<int>(p.n),
           .y_type = p.c_type,
           .accumulate = p.accumulate};
  g.offsets = p.offsets;
  g.stall = stall_record();
  g.m = narrow<int>(p.m);
  g.layers = narrow<int>(p.layers);
  g.slices = p.slices;
  g.k_blocks = narrow<int>(ceil_div(p.k / p.slices, kGemmDepth));
  g.band = raster_band(t, sm_count());
  // Each group may end in a tile of its own.
  const int64_t tiles_m = ceil_div(p.m, t.tile_m()) + (p.grouped ? p.layers : 0);
  const int64_t units = tiles_m * ceil_div(p.n, t.tile_n()) * (p.grouped ? 1 : p.layers);
  narrow<int>(units);
  kLaunches[tile](exec, g, units);
}

// --- from the Args ---
enum class Direction { kForward, kBackward };

Product product_of(const Tensor& a, const WeightView& w, const Tensor& c, Direction direction) {
  const bool forward = direction == Direction::kForward;
  const int64_t in = forward ? w.k : w.n, out = forward ? w.n : w.k;
  const void* form = forward ? w.forward : w.backward;
  CHECK(form != nullptr || w.n * w.k * w.num_groups == 0, "the {} form is not packed",
        forward ? "forward" : "backward");
  CHECK(a.rows == c.rows && a.cols == in && c.cols == out, "[{}, {}] x {} form of w [{}, {}] -> [{}, {}]",
        a.rows, a.cols, forward ? "forward" : "backward", w.n, w.k, c.rows, c.cols);
  const int64_t form_bytes =
      forward ? packed_forward_bytes(w.n, w.k, w.format) : packed_backward_bytes(w.n, w.k, w.format);
  return {.a = a.data,
          .lda = a.ld,
          .b = form,
          .b_layer = form_bytes / 2,
          .c = c.data,
          .ldc = c.ld,
          .m = a.rows,
          .n = out,
          .k = in,
          .a_type = a.dtype,
          .c_type = c.dtype,
          .format = w.format};
}
Product product_of(const LinearArgs& args) {
  Product p = product_of(args.x, args.w, args.y, Direction::kForward);
  p.bias = args.bias;
  p.slices = args.slices;
  p.accumulate = args.accumulate;
  return p;
}
Product product_of(const LinearDgradArgs& args) {
  Product p = product_of(args.dy, args.w, args.dx, Direction::kBackward);
  p.slices = args.slices;
  p.accumulate = args.accumulate;
  return p;
}
Product grouped(Product p, const WeightView& w, const int32_t* offsets) {
  CHECK(offsets != nullptr, "no offsets");
  p.offsets = offsets;
  p.grouped = true;
  p.layers = w.num_groups;
  return p;
}
Product product_of(const GroupedLinearArgs& args) {
  return grouped(product_of(args.x, args.w, args.y, Direction::kForward), args.w, args.offsets);
}
Product product_of(const GroupedLinearDgradArgs& args) {
  return grouped(product_of(args.dy, args.w, args.dx, Direction::kBackward), args.w, args.offsets);
}
Product product_of(const HeadsLinearArgs& args) {
  const WeightView& w = args.w;
  const int64_t in = args.transposed ? w.n : w.k, out = args.transposed ? w.k : w.n, last = w.num_groups - 1;
  CHECK(last < 0 || (last * args.x_stride + in <= args.x.cols && last * args.y_stride + out <= args.y.cols),
        "{} heads: x of {} columns, stride {}, {} each; y of {}, stride {}, {} each", w.num_groups,
        args.x.cols, args.x_stride, in, args.y.cols, args.y_stride, out);
  Product p = product_of(args.x.col_range(0, in), w, args.y.col_range(0, out),
                         args.transposed ? Direction::kBackward : Direction::kForward);
  p.a_layer = args.x_stride;
  p.c_layer = args.y_stride;
  p.layers = w.num_groups;
  return p;
}

}  // namespace

std::span<const TileShape> bf16_gemm_tiles() { return kTiles; }
std::string bf16_gemm_explain(const ProductShape& shape) { return explain_tiles(kTiles, shape, sm_count()); }

std::string bf16_gemm_refuses(const LinearArgs& args) { return refuses(product_of(args)); }
std::string bf16_gemm_refuses(const LinearDgradArgs& args) { return refuses(product_of(args)); }
std::string bf16_gemm_refuses(const GroupedLinearArgs& args) { return refuses(product_of(args)); }
std::string bf16_gemm_refuses(const GroupedLinearDgradArgs& args) { return refuses(product_of(args)); }
std::string bf16_gemm_refuses(const HeadsLinearArgs& args) { return refuses(product_of(args)); }

void bf16_gemm(const Exec& exec, const LinearArgs& args, int tile) { run(exec, product_of(args), tile); }
void bf16_gemm(const Exec& exec, const LinearDgradArgs& args, int tile) { run(exec, product_of(args), tile); }
void bf16_gemm(const Exec& exec, const GroupedLinearArgs& args, int tile) {
  run(exec, product_of(args), tile);
}
void bf16_gemm(const Exec& exec, const GroupedLinearDgradArgs& args, int tile) {
  run(exec, product_of(args), tile);
}
void bf16_gemm(const Exec& exec, const HeadsLinearArgs& args, int tile) { run(exec, product_of(args), tile); }

}  // namespace contender::cuda
