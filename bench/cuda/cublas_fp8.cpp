#include "bench/cuda/cublas_fp8.h"

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <iterator>

#include "bench/cuda/gpu_bench.h"

namespace contender::bench {
namespace {

// cublasLt.h, cublas_api.h and library_types.h.
constexpr int kTransA = 3, kScalePointerA = 17, kScalePointerB = 18, kScaleModeA = 31, kScaleModeB = 32;
constexpr int32_t kTranspose = 1, kVectors = 4, kSquares = 5, kCompute32F = 68;
constexpr int kMostWorkspace = 1;
constexpr size_t kWorkspaceBytes = size_t{32} << 20;

struct Result {
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

// The library's functions, by their names without "cublasLt".
struct Library {
  void *handle = nullptr, *workspace = nullptr, *so = nullptr;
  int (*create)(void**) = nullptr;
  int (*desc_create)(void**, int compute, int scale_type) = nullptr;
  int (*desc_destroy)(void*) = nullptr;
  int (*desc_set)(void*, int attribute, const void*, size_t) = nullptr;
  int (*layout_create)(void**, int type, uint64_t rows, uint64_t cols, int64_t ld) = nullptr;
  int (*layout_destroy)(void*) = nullptr;
  int (*preference_create)(void**) = nullptr;
  int (*preference_destroy)(void*) = nullptr;
  int (*preference_set)(void*, int attribute, const void*, size_t) = nullptr;
  int (*heuristic)(void*, void* desc, void* a, void* b, void* c, void* d, void* preference, int wanted,
                   Result*, int* found) = nullptr;
  int (*matmul)(void*, void* desc, const void* alpha, const void* a, void* a_layout, const void* b,
                void* b_layout, const void* beta, const void* c, void* c_layout, void* d, void* d_layout,
                const void* algorithm, void* workspace, size_t workspace_bytes, cudaStream_t) = nullptr;

  Library() {
    if (!library_wanted()) return;
    so = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
    if (!so) return;
    const bool complete = load(create, "cublasLtCreate") && load(desc_create, "cublasLtMatmulDescCreate") &&
                          load(desc_destroy, "cublasLtMatmulDescDestroy") &&
                          load(desc_set, "cublasLtMatmulDescSetAttribute") &&
                          load(layout_create, "cublasLtMatrixLayoutCreate") &&
                          load(layout_destroy, "cublasLtMatrixLayoutDestroy") &&
                          load(preference_create, "cublasLtMatmulPreferenceCreate") &&
                          load(preference_destroy, "cublasLtMatmulPreferenceDestroy") &&
                          load(preference_set, "cublasLtMatmulPreferenceSetAttribute") &&
                          load(heuristic, "cublasLtMatmulAlgoGetHeuristic") && load(matmul, "cublasLtMatmul");
    if (!complete || create(&handle) != 0) {
      handle = nullptr;
      return;
    }
    CUDA_CHECK(cudaMalloc(&workspace, kWorkspaceBytes));
  }
  template <class F>
  bool load(F& function, const char* name) const {
    function = reinterpret_cast<F>(dlsym(so, name));
    return function != nullptr;
  }
};
const Library& library() {
  static const Library l;
  return l;
}

}  // namespace

// Column-major, the same bytes are y^T [n, m] = w x^T: w is the library's A, transposed.
CublasFp8Product::CublasFp8Product(const CublasFp8Operand& x, const CublasFp8Operand& w, int64_t k,
                                   const Tensor& y)
    : x_(x.codes), w_(w.codes), y_(y.data) {
  const Library& l = library();
  if (!l.handle) return;
  const int y_type = y.dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F;
  const auto set = [&](int attribute, const auto& value) {
    return l.desc_set(desc_, attribute, &value, sizeof(value)) == 0;
  };
  const auto layout = [&](void*& handle, int type, int64_t rows, int64_t cols) {
    return l.layout_create(&handle, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), rows) ==
           0;
  };
  if (l.desc_create(&desc_, kCompute32F, CUDA_R_32F) != 0) return;
  if (!set(kTransA, kTranspose) || !set(kScaleModeA, w.square_blocks ? kSquares : kVectors) ||
      !set(kScaleModeB, x.square_blocks ? kSquares : kVectors) || !set(kScalePointerA, w.scale) ||
      !set(kScalePointerB, x.scale) || !layout(w_layout_, CUDA_R_8F_E4M3, k, w.rows) ||
      !layout(x_layout_, CUDA_R_8F_E4M3, k, x.rows) || !layout(y_layout_, y_type, w.rows, x.rows))
    return;
  void* preference = nullptr;
  if (l.preference_create(&preference) != 0) return;
  Result result = {};
  int found = 0;
  const bool asked =
      l.preference_set(preference, kMostWorkspace, &kWorkspaceBytes, sizeof(kWorkspaceBytes)) == 0 &&
      l.heuristic(l.handle, desc_, w_layout_, x_layout_, y_layout_, y_layout_, preference, 1, &result,
                  &found) == 0;
  l.preference_destroy(preference);
  possible_ = asked && found > 0 && result.state == 0;
  std::copy(std::begin(result.algorithm), std::end(result.algorithm), algorithm_.data);
}

CublasFp8Product::~CublasFp8Product() {
  const Library& l = library();
  if (desc_) l.desc_destroy(desc_);
  for (void* layout : {w_layout_, x_layout_, y_layout_})
    if (layout) l.layout_destroy(layout);
}

void CublasFp8Product::run() const {
  const Library& l = library();
  const float one = 1, zero = 0;
  const int status = l.matmul(l.handle, desc_, &one, w_, w_layout_, x_, x_layout_, &zero, y_, y_layout_, y_,
                              y_layout_, &algorithm_, l.workspace, kWorkspaceBytes, nullptr);
  CHECK(status == 0, "cublasLtMatmul: status {}", status);
}

}  // namespace contender::bench
