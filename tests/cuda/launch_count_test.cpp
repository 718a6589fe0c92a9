// Launches of one layer, forward and backward: at most 25 and 45, in FP8 26 and 54 (one chunk, no recompute),
// by counting what the runtime is asked for when a model has one layer more.
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include "cuda/backend.h"
#include "tests/model/tiny_model.h"

extern "C" const contender::cuda::Library* contender_cuda_backend(int version);

namespace {

int64_t launches = 0;

// What lies behind this program's own symbol.
template <class F>
F behind(const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args,
                                          size_t shared, cudaStream_t stream) {
  ++launches;
  return behind<decltype(&__cudaLaunchKernel)>("__cudaLaunchKernel")(kernel, grid, block, args, shared,
                                                                     stream);
}
extern "C" cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel,
                                           void** args) {
  ++launches;
  return behind<decltype(&cudaLaunchKernelExC)>("cudaLaunchKernelExC")(config, kernel, args);
}

namespace contender {
namespace {

struct Launches {
  int64_t forward = 0, backward = 0;
};

Launches of_model(const std::string& name, int64_t layers) {
  const size_t fp8 = name.find("_fp8");
  RunConfig c = load_config(fmt::format("configs/{}.toml", name.substr(0, fp8)), {}, 1);
  if (fp8 != std::string::npos) c.train.precision = "fp8";
  c.device = "cuda";
  c.model.num_hidden_layers = layers;
  const cuda::Library& library = *contender_cuda_backend(cuda::kLibraryVersion);
  testing_model::TinyModel t(c, *library.ops, library.make_device(0, 1));
  const auto sequences = testing_model::random_sequences(6, 3);
  const PackedBatch batch = testing_model::packed(t, sequences);
  t.weights.begin_step();
  t.weights.begin_round();
  Launches n;
  launches = 0;
  t.model.forward_train(batch, 1.0f);
  n.forward = std::exchange(launches, 0);
  t.model.backward(std::vector<float>(batch.head_rows.size(), 0.1f), {});
  n.backward = std::exchange(launches, 0);
  t.weights.finish_reduce();
  return n;
}

class CudaLaunches : public testing::TestWithParam<std::string> {};

TEST_P(CudaLaunches, OfOneLayerMore) {
  const Launches two = of_model(GetParam(), 2), three = of_model(GetParam(), 3);
  ASSERT_GT(two.forward, 10) << "the count does not see launches";
  RecordProperty("forward", static_cast<int>(three.forward - two.forward));
  RecordProperty("backward", static_cast<int>(three.backward - two.backward));
  // FP8: a quantisation before the output projection; backward, of both sides of each weight gradient.
  const bool fp8 = GetParam().ends_with("_fp8");
  EXPECT_LE(three.forward - two.forward, fp8 ? 26 : 25);
  EXPECT_LE(three.backward - two.backward, fp8 ? 54 : 45);
}

INSTANTIATE_TEST_SUITE_P(Models, CudaLaunches,
                         testing::Values("nano", "nano_gqa", "nano_fp8", "nano_gqa_fp8"));

}  // namespace
}  // namespace contender
