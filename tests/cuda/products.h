// What the tests of the BF16 products share: weights in the forms of the device, operands, and how near a
// result has to be.
#pragma once

#include <gtest/gtest.h>

#include "cuda/common/dispatch.h"
#include "cuda/common/stream.h"
#include "cuda/ops.h"
#include "tests/cuda/device_array.h"
#include "tests/ref/linear_ref.h"

namespace contender::test {

// Products of BF16 values are exact. A step of 16 cuts 17 addends, each by at most 2^-25 of the largest, and
// the sum by 2^-23 of itself: 10.5 kEps of the magnitude. Each level of a tree rounds once more.
inline double chain_eps(int64_t length, int64_t chains) {
  return kEps * (11.0 * static_cast<double>(ceil_div(length, 16)) + static_cast<double>(chains));
}

inline Matrix random_bf16(int64_t rows, int64_t cols, uint64_t seed, int64_t padding = 0) {
  return rounded(Matrix::random(rows, cols, seed, padding), DType::kBF16);
}

// A weight [groups * n, k] on the device with both packed forms; `master` is what they keep of it.
struct DeviceWeight {
  Matrix master;
  DeviceArray<uint8_t> forward, backward;
  WeightView view;

  DeviceWeight(Matrix values, int64_t groups)
      : master(rounded(values, DType::kBF16)),
        forward(groups * packed_forward_bytes(values.rows / groups, values.cols, kCudaWeights)),
        backward(groups * packed_backward_bytes(values.rows / groups, values.cols, kCudaWeights)),
        view{.forward = forward.data(),
             .backward = backward.data(),
             .n = values.rows / groups,
             .k = values.cols,
             .num_groups = groups,
             .format = kCudaWeights} {
    const DeviceTensor unrounded(DType::kF32, values);
    cuda::pack_weight({}, {.master = unrounded.tensor(),
                           .forward = forward.data(),
                           .backward = backward.data(),
                           .n = view.n,
                           .k = view.k,
                           .num_groups = groups});
    CUDA_CHECK(cudaDeviceSynchronize());
  }
  DeviceWeight(int64_t n, int64_t k, uint64_t seed, int64_t groups = 1)
      : DeviceWeight(Matrix::random(groups * n, k, seed, k % 4 == 0 ? 4 : 1), groups) {}
  float at(int64_t g, int64_t n, int64_t k) const { return master.at(g * view.n + n, k); }
};

// Every element against the double sum of a(i, l) b(l, j).
template <class A, class B>
void expect_product(const Matrix& got, const A& a, const B& b, int64_t length, int64_t slices) {
  for (int64_t i = 0; i < got.rows; ++i) {
    for (int64_t j = 0; j < got.cols; ++j) {
      const ref::DoubleDot want = ref::double_dot(a, b, i, j, length);
      expect_close(got.at(i, j), want.value, want.magnitude, chain_eps(length, slices), "product", i, j);
    }
  }
  EXPECT_TRUE(got.padding_untouched());
}

inline void expect_same(const Matrix& got, const Matrix& want) {
  ASSERT_TRUE(got.rows == want.rows && got.cols == want.cols);
  for (int64_t i = 0; i < got.rows; ++i) {
    for (int64_t j = 0; j < got.cols; ++j)
      ASSERT_TRUE(same_bits(got.at(i, j), want.at(i, j))) << i << " " << j;
  }
}

// For a death test: ends the program with the words of the kernel that failed, or with 0.
inline void exit_with_words(int code) {
  try {
    CUDA_CHECK(cudaDeviceSynchronize());
  } catch (const Error& e) {
    fmt::print(stderr, "{}\n", e.what());
    std::_Exit(code);
  }
  std::_Exit(0);
}

// What an operator puts on a stream, caught while it is captured: it may be replayed after its inputs
// changed.
class Captured {
 public:
  template <class Run>
  explicit Captured(const Run& run) {
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream_.handle, cudaStreamNonBlocking));
    CUDA_CHECK(cudaStreamBeginCapture(stream_.handle, cudaStreamCaptureModeGlobal));
    run(Exec{.stream = &stream_});
    CUDA_CHECK(cudaStreamEndCapture(stream_.handle, &graph_));
    CUDA_CHECK(cudaGraphInstantiate(&exec_, graph_, 0));
  }
  ~Captured() {
    cudaGraphExecDestroy(exec_);
    cudaGraphDestroy(graph_);
    cudaStreamDestroy(stream_.handle);
  }
  size_t launches() const {
    size_t count = 0;
    CUDA_CHECK(cudaGraphGetNodes(graph_, nullptr, &count));
    return count;
  }
  void replay() const {
    CUDA_CHECK(cudaDeviceSynchronize());  // the stream does not wait for the default one
    CUDA_CHECK(cudaGraphLaunch(exec_, stream_.handle));
    CUDA_CHECK(cudaStreamSynchronize(stream_.handle));
  }

 private:
  Stream stream_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace contender::test
