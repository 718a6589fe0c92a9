// What: SwiGLU, its backward, and its fusion with 1x128 quantisation.
// Math: s = sigmoid(g);  y = g s u;  du = dy g s;  dg = dy u s (1 + g (1 - s))
// Shapes: gate_up, dgate_up [M, 2I] = [gate | up] of each slice; y, dy [M, I].
// Layouts: row-major with any row stride. Halves of slices that are whole 16-byte pieces at aligned addresses
//   move in such pieces, others element by element, with the same bits.
// Precision: activations F32 or BF16, everything between in FP32; exp within 2 ulp, the reciprocal correctly
//   rounded (the CPU backend's own exp differs in the last bits). y is rounded before it is quantised, so
//   that the fused form equals the composition bit for bit.
// Schedule: a thread for each 16-byte piece of y. Fused, the 128 / piece neighbouring lanes that hold a block
//   find its amax by a butterfly.
// Roofline: about 24 flops for 3 elements (backward: 5): memory-bound, floor 3 M I elements / 4.3 TB/s on
//   H200, / 3.0 TB/s on H800; quantised, a byte and 1/32 instead of the third element.
// Limits: fewer than 2^31 pieces of y.
// Source: Shazeer, arXiv 2002.05202.
#include "cuda/common/e4m3.cuh"
#include "cuda/common/grid.h"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "ops/swiglu.h"

namespace contender::cuda {
namespace {

constexpr int kThreads = 256;
static_assert(kThreads % kQuantizeBlock == 0, "lanes that share a block share a warp");

__device__ float sigmoid(float x) { return __frcp_rn(1.0f + expf(-x)); }

// The piece of a thread: rows of `pieces` pieces, one after the other.
struct Place {
  unsigned row;
  int column;
};
template <class T>
__device__ Place place_of_thread(int pieces) {
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  return {i / pieces, static_cast<int>(i % pieces) * kVec<T>};
}

// Where the gate of column c of y is; up is `width`, that of a slice, further.
__device__ int gate_column(int c, int width) { return c + c / width * width; }

// f(gate_column, k) for the pieces (of one column, element by element) of y from c on that lie before cols.
template <Access kAccess, class T, class F>
__device__ void for_gates(int c, int cols, int width, const F& f) {
  constexpr int kStep = kAccess == Access::kVector ? kVec<T> : 1;
#pragma unroll
  for (int k = 0; k < kVec<T>; k += kStep) {
    if (c + k < cols) f(gate_column(c + k, width), k);
  }
}

template <Access kAccess, class T>
__device__ void load_gate_up(const T* row, int c, int cols, int width, Vec<T>& gate, Vec<T>& up) {
  for_gates<kAccess, T>(c, cols, width, [&](int at, int k) {
    if constexpr (kAccess == Access::kVector) {
      gate = load_vec(row + at);
      up = load_vec(row + at + width);
    } else {
      gate.v[k] = load_one(row + at);
      up.v[k] = load_one(row + at + width);
    }
  });
}

template <Access kAccess, class T>
__device__ void store_gate_up(T* row, int c, int cols, int width, const Vec<T>& gate, const Vec<T>& up) {
  for_gates<kAccess, T>(c, cols, width, [&](int at, int k) {
    if constexpr (kAccess == Access::kVector) {
      store_vec(row + at, gate);
      store_vec(row + at + width, up);
    } else {
      store_one(row + at, gate.v[k]);
      store_one(row + at + width, up.v[k]);
    }
  });
}

template <Access kAccess, class T>
__device__ Vec<T> swiglu_piece(const T* gate_up, int c, int cols, int slices) {
  Vec<T> gate = {}, up = {}, y;
  load_gate_up<kAccess>(gate_up, c, cols, cols / slices, gate, up);
#pragma unroll
  for (int k = 0; k < kVec<T>; ++k)
    y.v[k] = round_to(gate.v[k] * sigmoid(gate.v[k]) * up.v[k], std::type_identity<T>());
  return y;
}

template <class T, Access kAccess>
__global__ void __launch_bounds__(kThreads) swiglu_kernel(const __grid_constant__ SwigluArgs a) {
  const int cols = static_cast<int>(a.y.cols);
  const auto [r, c] = place_of_thread<T>((cols + kVec<T> - 1) / kVec<T>);
  if (r >= a.y.rows) return;
  store_piece<kAccess>(row_of<T>(a.y, r), c, cols,
                       swiglu_piece<kAccess>(row_of<const T>(a.gate_up, r), c, cols, a.slices));
}

template <class T, Access kAccess>
__global__ void __launch_bounds__(kThreads) swiglu_bwd_kernel(const __grid_constant__ SwigluBwdArgs a) {
  const int cols = static_cast<int>(a.dy.cols), width = cols / a.slices;
  const auto [r, c] = place_of_thread<T>((cols + kVec<T> - 1) / kVec<T>);
  if (r >= a.dy.rows) return;
  Vec<T> gate = {}, up = {};
  load_gate_up<kAccess>(row_of<const T>(a.gate_up, r), c, cols, width, gate, up);
  const Vec<T> dy = load_piece<kAccess>(row_of<const T>(a.dy, r), c, cols);
#pragma unroll
  for (int k = 0; k < kVec<T>; ++k) {
    const float g = gate.v[k], s = sigmoid(g);
    const float slope = s * fmaf(g, 1.0f - s, 1.0f);
    gate.v[k] = dy.v[k] * up.v[k] * slope;
    up.v[k] = dy.v[k] * (g * s);
  }
  store_gate_up<kAccess>(row_of<T>(a.dgate_up, r), c, cols, width, gate, up);
}

// Rows are padded to whole blocks of 128 columns: every warp has all its lanes.
template <class T, Access kAccess>
__global__ void __launch_bounds__(kThreads)
    swiglu_quantize_kernel(const __grid_constant__ SwigluQuantizeArgs a) {
  const int cols = static_cast<int>(a.q.data.cols);
  const auto [r, c] =
      place_of_thread<T>((cols + kQuantizeBlock - 1) / kQuantizeBlock * (kQuantizeBlock / kVec<T>));
  const bool inside = r < a.q.data.rows;
  const int end = inside ? cols : 0;  // lanes past the last row hold zeros and store nothing
  const unsigned row = inside ? r : 0;
  Vec<T> y = {};
  if (inside) y = swiglu_piece<kAccess>(row_of<const T>(a.swiglu.gate_up, row), c, cols, a.swiglu.slices);
  if (a.swiglu.y.data) store_piece<kAccess>(row_of<T>(a.swiglu.y, row), c, end, y);
  quantize_piece<kAccess>(y, c, end, row_of<uint8_t>(a.q.data, row), row_of<float>(a.q.scale, row));
}

void check_swiglu(const Tensor& gate_up, const Tensor& y, int32_t slices) {
  CHECK(slices >= 1 && gate_up.cols % (2 * slices) == 0, "gate_up has {} columns in {} slices", gate_up.cols,
        slices);
  CHECK(!y || (y.rows == gate_up.rows && y.cols * 2 == gate_up.cols && y.dtype == gate_up.dtype),
        "gate_up [{}, {}], y [{}, {}]", gate_up.rows, gate_up.cols, y.rows, y.cols);
}

// Both halves of every slice of every row are whole pieces.
bool halves_in_pieces(const Tensor& gate_up, int32_t slices) {
  return in_pieces(gate_up.col_range(0, gate_up.cols / (2 * slices)));
}

// Blocks for rows of `pieces` pieces.
unsigned grid_of(int64_t rows, int64_t pieces) { return grid_size(narrow<int32_t>(rows * pieces), kThreads); }

}  // namespace

void swiglu(const Exec& exec, const SwigluArgs& a) {
  check_swiglu(a.gate_up, a.y, a.slices);
  if (a.y.numel() == 0) return;
  with_float_type(a.y.dtype, [&]<class T>(std::type_identity<T>) {
    with_access(halves_in_pieces(a.gate_up, a.slices) && in_pieces(a.y),
                [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
                  swiglu_kernel<T, kAccess>
                      <<<grid_of(a.y.rows, ceil_div(a.y.cols, kVec<T>)), kThreads, 0, stream_of(exec)>>>(a);
                  CUDA_CHECK_LAUNCH();
                });
  });
}

void swiglu_bwd(const Exec& exec, const SwigluBwdArgs& a) {
  check_swiglu(a.gate_up, a.dy, a.slices);
  check_swiglu(a.dgate_up, a.dy, a.slices);
  if (a.dy.numel() == 0) return;
  with_float_type(a.dy.dtype, [&]<class T>(std::type_identity<T>) {
    with_access(
        halves_in_pieces(a.gate_up, a.slices) && halves_in_pieces(a.dgate_up, a.slices) && in_pieces(a.dy),
        [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
          swiglu_bwd_kernel<T, kAccess>
              <<<grid_of(a.dy.rows, ceil_div(a.dy.cols, kVec<T>)), kThreads, 0, stream_of(exec)>>>(a);
          CUDA_CHECK_LAUNCH();
        });
  });
}

void swiglu_quantize(const Exec& exec, const SwigluQuantizeArgs& a) {
  const Tensor &gate_up = a.swiglu.gate_up, &y = a.swiglu.y, &codes = a.q.data;
  check_swiglu(gate_up, y, a.swiglu.slices);
  CHECK(a.q.layout == QLayout::k1x128, "layout {}", static_cast<int>(a.q.layout));
  CHECK(codes.dtype == DType::kE4M3 && codes.rows == gate_up.rows && codes.cols * 2 == gate_up.cols,
        "gate_up [{}, {}], quantised [{}, {}]", gate_up.rows, gate_up.cols, codes.rows, codes.cols);
  const int64_t blocks = ceil_div(codes.cols, kQuantizeBlock);
  CHECK(a.q.scale.rows == codes.rows && a.q.scale.cols == blocks, "scale [{}, {}] of [{}, {}]",
        a.q.scale.rows, a.q.scale.cols, codes.rows, codes.cols);
  if (codes.numel() == 0) return;
  with_float_type(gate_up.dtype, [&]<class T>(std::type_identity<T>) {
    with_access(
        halves_in_pieces(gate_up, a.swiglu.slices) && in_pieces(y) && in_pieces(codes, kVec<T>),
        [&]<Access kAccess>(std::integral_constant<Access, kAccess>) {
          swiglu_quantize_kernel<T, kAccess>
              <<<grid_of(codes.rows, blocks * (kQuantizeBlock / kVec<T>)), kThreads, 0, stream_of(exec)>>>(a);
          CUDA_CHECK_LAUNCH();
        });
  });
}

}  // namespace contender::cuda
