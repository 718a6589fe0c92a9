// A weight of `groups` matrices [n, k], random, in the forms that products read.
#pragma once

#include "bench/cuda/gpu_bench.h"
#include "cuda/ops.h"
#include "ops/linear.h"

namespace contender::bench {

struct Weight {
  int64_t n, k, groups;
  DeviceData master, forward, backward;

  Weight(int64_t n, int64_t k, int64_t groups, float scale = 1)
      : n(n),
        k(k),
        groups(groups),
        master(DeviceData::random(DType::kF32, groups * n, k, 3, scale)),
        forward(DType::kU8, groups, packed_forward_bytes(n, k, kCudaWeights)),
        backward(DType::kU8, groups, packed_backward_bytes(n, k, kCudaWeights)) {
    if (values_wanted()) cuda::pack_weight({}, pack());
  }
  PackWeightArgs pack() const {
    return {.master = master.tensor(),
            .forward = forward.as<void>(),
            .backward = backward.as<void>(),
            .n = n,
            .k = k,
            .num_groups = groups};
  }
  WeightView view() const {
    return {.forward = forward.as<void>(),
            .backward = backward.as<void>(),
            .n = n,
            .k = k,
            .num_groups = groups,
            .format = kCudaWeights};
  }
  // As the products read it: rounded to BF16.
  DeviceData rounded() const {
    DeviceData b(DType::kBF16, groups * n, k);
    for (int64_t g = 0; g < groups; ++g) {
      CUDA_CHECK(cudaMemcpy(b.as<uint16_t>() + g * n * k, view().group(g).forward,
                            static_cast<size_t>(2 * n * k), cudaMemcpyDeviceToDevice));
    }
    return b;
  }
};

}  // namespace contender::bench
