// Packing of weights. The products are in bf16_gemm_bench.cpp.
#include <bit>
#include <cmath>

#include "bench/cuda/gpu_bench.h"
#include "bench/cuda/weight.h"
#include "cuda/ops.h"
#include "ops/linear.h"
#include "ops/permute.h"

namespace contender::bench {
namespace {

void pack_weight(const RowsShape& s) {
  const Weight w(s.rows, s.cols, 1);
  measure({.cost = rows_cost(s.rows, s.cols, 2),  // four bytes in, two forms of two out
           .call = [&] { cuda::pack_weight({}, w.pack()); },
           .check =
               [&](Check& check) {
                 for (const int64_t r : samples(s.rows, 4)) {
                   for (const int64_t c : samples(s.cols, 4)) {
                     const auto value = [&](const DeviceData& d, int64_t i) {
                       const Tensor t = {d.as<void>(), DType::kBF16, 1, s.rows * s.cols};
                       uint16_t bits = 0;
                       CUDA_CHECK(
                           cudaMemcpy(&bits, static_cast<uint16_t*>(t.data) + i, 2, cudaMemcpyDeviceToHost));
                       return std::bit_cast<float>(uint32_t{bits} << 16);
                     };
                     const double want = w.master.at(r, c);
                     check.near(value(w.forward, r * s.cols + c), want, std::abs(want) / 256);
                     check.near(value(w.backward, c * s.rows + r), want, std::abs(want) / 256);
                   }
                 }
               }});
}

const Family family("linear", [] {
  rows("pack_weight", std::vector<RowsShape>{{7168, 16384}, {7168, 18432}}, {{256, 512}}, pack_weight);
});

}  // namespace
}  // namespace contender::bench
