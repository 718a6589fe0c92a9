#include "bench/cuda/cublas.h"

#include <cuda_runtime.h>
#include <dlfcn.h>

#include "bench/cuda/gpu_bench.h"

namespace contender::bench {
namespace {

// cublas_api.h and library_types.h.
constexpr int kNoTranspose = 0, kTranspose = 1, kCompute32F = 68, kDefaultAlgorithm = -1;
using Create = int (*)(void**);
using Gemm = int (*)(void* handle, int transa, int transb, int m, int n, int k, const void* alpha,
                     const void* a, int a_type, int lda, long long a_step, const void* b, int b_type, int ldb,
                     long long b_step, const void* beta, void* c, int c_type, int ldc, long long c_step,
                     int batch, int compute, int algorithm);

struct Library {
  void* handle = nullptr;
  Gemm gemm = nullptr;

  Library() {
    if (!library_wanted()) return;
    void* so = dlopen("libcublas.so.13", RTLD_NOW | RTLD_LOCAL);
    if (!so) return;
    const auto create = reinterpret_cast<Create>(dlsym(so, "cublasCreate_v2"));
    gemm = reinterpret_cast<Gemm>(dlsym(so, "cublasGemmStridedBatchedEx"));
    if (!create || !gemm || create(&handle) != 0) handle = nullptr;
  }
};
const Library& library() {
  static const Library l;
  return l;
}

}  // namespace

bool have_cublas() { return library().handle != nullptr; }

// Column-major, the same bytes are y^T [n, m] = w' x'.
void cublas_product(const CublasProduct& p) {
  const float one = 1, zero = 0;
  const int status = library().gemm(
      library().handle, p.w_transposed ? kNoTranspose : kTranspose,
      p.x_transposed ? kTranspose : kNoTranspose, narrow<int>(p.n), narrow<int>(p.m), narrow<int>(p.k), &one,
      p.w, CUDA_R_16BF, narrow<int>(p.ldw), p.w_step, p.x, CUDA_R_16BF, narrow<int>(p.ldx), p.x_step, &zero,
      p.y, p.y_dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F, narrow<int>(p.ldy), p.y_step,
      narrow<int>(p.batch), kCompute32F, kDefaultAlgorithm);
  CHECK(status == 0, "cublasGemmStridedBatchedEx: status {}", status);
}

}  // namespace contender::bench
