#include "cuda/backend.h"

#include <cuda_runtime.h>

#include "cuda/common/check.h"
#include "cuda/device/cuda_device.h"
#include "cuda/ops.h"

namespace contender::cuda {
namespace {

constexpr int kMajor = 9, kMinor = 0;  // sm_90a code runs on this capability alone

const Ops kOps = {
    .name = "cuda",
    .activation = DType::kBF16,
    .weights = kCudaWeights,
    .pack_weight = pack_weight,
    .linear = linear,
    .linear_dgrad = linear_dgrad,
    .linear_wgrad = linear_wgrad,
    .grouped_linear = grouped_linear,
    .grouped_linear_dgrad = grouped_linear_dgrad,
    .heads_linear = heads_linear,
    .heads_wgrad = heads_wgrad,
    .fp8_gemm = fp8_gemm,
    .fp8_grouped_gemm = fp8_grouped_gemm,
    .fp8_wgrad = fp8_wgrad,
    .rms_norm = rms_norm,
    .rms_norm_bwd = rms_norm_bwd,
    .rms_norm_quantize = rms_norm_quantize,
    .head_norm = head_norm,
    .head_norm_bwd = head_norm_bwd,
    .rope = rope,
    .attention = attention,
    .attention_bwd = attention_bwd,
    .swiglu = swiglu,
    .swiglu_bwd = swiglu_bwd,
    .swiglu_quantize = swiglu_quantize,
    .router = router,
    .router_bwd = router_bwd,
    .send_plan = send_plan,
    .arrival_plan = arrival_plan,
    .gather_rows = gather_rows,
    .scatter_rows = scatter_rows,
    .combine = combine,
    .combine_bwd = combine_bwd,
    .copy_heads = copy_heads,
    .add = add,
    .column_sum = column_sum,
    .embedding = embedding,
    .embedding_bwd = embedding_bwd,
    .head_partial = head_partial,
    .head_finish = head_finish,
    .head_bwd = head_bwd,
    .token_loss = token_loss,
    .sample = sample,
    .adamw = adamw,
    .square_sum = square_sum,
    .quantize = quantize,
    .dequantize = dequantize,
    .quantize_transposed = quantize_transposed,
    .quantize_weight = quantize_weight,
    .row_places = row_places,
};

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

std::string problem_of(const Gpus& g, cudaError_t counted) {
  if (g.driver == 0) return "no CUDA driver";
  if (counted == cudaErrorInsufficientDriver)
    return fmt::format("the driver is for CUDA {}, the library needs {}", version_text(g.driver),
                       version_text(g.runtime));
  if (counted == cudaErrorNoDevice || (counted == cudaSuccess && g.gpus.empty()))
    return "the CUDA driver sees no GPU";
  if (counted != cudaSuccess)
    return fmt::format("the CUDA driver does not start: {} ({})", cudaGetErrorString(counted),
                       cudaGetErrorName(counted));
  for (const Gpu& gpu : g.gpus) {
    if (gpu.major != kMajor || gpu.minor != kMinor)
      return fmt::format("{} has compute capability {}.{}, the kernels are for {}.{} (H100, H200, H800)",
                         gpu.name, gpu.major, gpu.minor, kMajor, kMinor);
  }
  return "";
}

Gpus find_gpus() {
  Gpus g;
  cudaRuntimeGetVersion(&g.runtime);
  cudaDriverGetVersion(&g.driver);
  int count = 0;
  const cudaError_t counted = cudaGetDeviceCount(&count);
  for (int i = 0; counted == cudaSuccess && i < count; ++i) {
    cudaDeviceProp p;
    CUDA_CHECK(cudaGetDeviceProperties(&p, i));
    g.gpus.push_back({p.name, uuid_text(p.uuid), p.major, p.minor, static_cast<int64_t>(p.totalGlobalMem)});
  }
  cudaGetLastError();  // told as the problem
  g.problem = problem_of(g, counted);
  return g;
}

}  // namespace

extern "C" const Library* contender_cuda_backend(int version) {
  static const Library library = {&kOps, find_gpus, make_device, matrix_gflops};
  return version == kLibraryVersion ? &library : nullptr;
}

}  // namespace contender::cuda
