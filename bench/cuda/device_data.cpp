#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "bench/cuda/fill.h"
#include "bench/cuda/gpu_bench.h"
#include "ops/quantize.h"

namespace contender::bench {
namespace {

template <class T, class F>
std::vector<double> converted(const std::vector<uint8_t>& bytes, const F& value) {
  std::vector<double> values(bytes.size() / sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    T bits;
    std::memcpy(&bits, &bytes[i * sizeof(T)], sizeof(T));
    values[i] = value(bits);
  }
  return values;
}

std::vector<RowSegment> equal_segments(int64_t rows, int32_t leaves, int32_t groups) {
  const int64_t count = int64_t{leaves} * groups;
  std::vector<RowSegment> list;
  for (int64_t i = 0; i < count; ++i) {
    list.push_back({narrow<int32_t>(rows * i / count), narrow<int32_t>(rows * (i + 1) / count),
                    static_cast<int32_t>(i / leaves), static_cast<int32_t>(i % leaves)});
  }
  return list;
}

}  // namespace

DeviceData::DeviceData(DType dtype, int64_t rows, int64_t cols) : dtype_(dtype), rows_(rows), cols_(cols) {
  const auto bytes = static_cast<size_t>(rows * cols * dtype_size(dtype));
  CUDA_CHECK(cudaMalloc(&data_, bytes));
  CUDA_CHECK(cudaMemset(data_, 0xFF, bytes));
}

DeviceData DeviceData::random(DType dtype, int64_t rows, int64_t cols, uint64_t seed, float scale) {
  DeviceData d(dtype, rows, cols);
  if (values_wanted()) {
    fill_random(d.data_, dtype, rows * cols, seed, scale);
  } else {
    CUDA_CHECK(cudaMemset(d.data_, 0x3F, static_cast<size_t>(rows * cols * dtype_size(dtype))));  // 0.75
  }
  return d;
}

std::vector<double> DeviceData::block(int64_t r, int64_t rows, int64_t c, int64_t cols) const {
  CHECK(0 <= r && r + rows <= rows_ && 0 <= c && c + cols <= cols_, "[{}+{}, {}+{}] of [{}, {}]", r, rows, c,
        cols, rows_, cols_);
  const auto size = static_cast<size_t>(dtype_size(dtype_)), width = static_cast<size_t>(cols) * size;
  std::vector<uint8_t> bytes(static_cast<size_t>(rows) * width);
  CUDA_CHECK(cudaDeviceSynchronize());
  CUDA_CHECK(cudaMemcpy2D(bytes.data(), width, as<char>() + (r * cols_ + c) * static_cast<int64_t>(size),
                          static_cast<size_t>(cols_) * size, width, static_cast<size_t>(rows),
                          cudaMemcpyDeviceToHost));
  switch (dtype_) {
    case DType::kF32:
      return converted<float>(bytes, [](float v) { return v; });
    case DType::kBF16:
      return converted<uint16_t>(bytes, [](uint16_t v) { return std::bit_cast<float>(uint32_t{v} << 16); });
    case DType::kI32:
      return converted<int32_t>(bytes, [](int32_t v) { return v; });
    case DType::kE4M3:
      return converted<uint8_t>(bytes, [](uint8_t v) { return e4m3_to_float(v); });
    default:
      fail(ExitCode::kInternal, "values of {}", dtype_name(dtype_));
  }
}
std::vector<double> DeviceData::row(int64_t r) const { return block(r, 1, 0, cols_); }
std::vector<double> DeviceData::column(int64_t c) const { return block(0, rows_, c, 1); }

Segments::Segments(int64_t rows, int32_t num_leaves, int32_t num_groups)
    : count_(num_leaves * num_groups),
      num_leaves_(num_leaves),
      data_(DeviceData::of(equal_segments(rows, num_leaves, num_groups))) {}

void Check::near(double got, double want, double tolerance) {
  ++compared_;
  if (std::abs(got - want) <= tolerance) return;
  if (wrong_++ == 0) first_ = fmt::format("{} for {}", got, want);
}

double tolerance_of(DType dtype, double want, double terms) {
  const double half_ulp = dtype == DType::kBF16 ? 1.0 / 256 : 1.0 / (1 << 23);
  return half_ulp * std::abs(want) + 1e-5 * terms;
}

std::vector<int64_t> samples(int64_t end, int64_t n) {
  std::vector<int64_t> list;
  for (int64_t i = 0; i < std::min(n, end); ++i)
    list.push_back(n == 1 ? 0 : (end - 1) * i / std::max<int64_t>(1, std::min(n, end) - 1));
  return list;
}

}  // namespace contender::bench
