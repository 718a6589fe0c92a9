// Device memory for the tests of the CUDA operators: arrays and matrices that upload, download and poison
// themselves. What an operator must not touch stays NaN (or 0x55), and is checked.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "base/tensor.h"
#include "cuda/common/check.h"
#include "ops/exec.h"
#include "tests/cpu/op_inputs.h"

namespace contender::test {

// BF16 of a float, to nearest even; NaN stays NaN.
inline uint16_t to_bf16(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  if (std::isnan(v)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline float from_bf16(uint16_t v) { return std::bit_cast<float>(uint32_t{v} << 16); }

// The value that a tensor of this dtype (F32 or BF16) keeps of v.
inline float rounded(float v, DType dtype) { return dtype == DType::kBF16 ? from_bf16(to_bf16(v)) : v; }
inline Matrix rounded(Matrix m, DType dtype) {
  for (float& v : m.values) v = rounded(v, dtype);
  return m;
}
// Half an ulp of 1.
inline double eps_of(DType dtype) { return dtype == DType::kBF16 ? 1.0 / (1 << 8) : kEps; }

// n values of T on the device, aligned to 256 bytes; freed with it.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  // Every byte 0xFF: NaN as F32 and BF16, -1 as I32.
  explicit DeviceArray(int64_t n) : n_(n) {
    CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&data_), std::max<size_t>(bytes(), 1)));
    CUDA_CHECK(cudaMemset(data_, 0xFF, std::max<size_t>(bytes(), 1)));
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(static_cast<int64_t>(host.size())) {
    upload(host);
  }
  DeviceArray(DeviceArray&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)), n_(std::exchange(o.n_, 0)) {}
  DeviceArray& operator=(DeviceArray&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(n_, o.n_);
    return *this;
  }
  ~DeviceArray() { cudaFree(data_); }

  T* data() const { return data_; }
  int64_t size() const { return n_; }
  void upload(const std::vector<T>& host) {
    CHECK(static_cast<int64_t>(host.size()) == n_, "{} values for {}", host.size(), n_);
    CUDA_CHECK(cudaMemcpy(data_, host.data(), bytes(), cudaMemcpyHostToDevice));
  }
  // Waits for the device first.
  std::vector<T> download() const {
    std::vector<T> host(static_cast<size_t>(n_));
    CUDA_CHECK(cudaDeviceSynchronize());
    CUDA_CHECK(cudaMemcpy(host.data(), data_, bytes(), cudaMemcpyDeviceToHost));
    return host;
  }

 private:
  size_t bytes() const { return static_cast<size_t>(n_) * sizeof(T); }
  T* data_ = nullptr;
  int64_t n_ = 0;
};

// A matrix on the device, F32 or BF16; on the host it is a Matrix of floats. Columns past `cols` (padding)
// are NaN.
class DeviceTensor {
 public:
  // Poisoned: every value NaN.
  DeviceTensor(DType dtype, int64_t rows, int64_t cols, int64_t padding = 0)
      : dtype_(dtype),
        rows_(rows),
        cols_(cols),
        ld_(cols + padding),
        storage_(rows * (cols + padding) * dtype_size(dtype)) {
    CHECK(dtype == DType::kF32 || dtype == DType::kBF16, "dtype {}", dtype_name(dtype));
  }
  // Values and row stride of m, rounded to dtype.
  DeviceTensor(DType dtype, const Matrix& m) : DeviceTensor(dtype, m.rows, m.cols, m.ld - m.cols) {
    upload(m);
  }

  Tensor tensor() const { return {storage_.data(), dtype_, rows_, cols_, ld_}; }
  float* f32() const { return tensor().f32(); }

  void upload(const Matrix& m) {
    CHECK(m.rows == rows_ && m.cols == cols_ && m.ld == ld_, "[{}, {}] (row stride {})", m.rows, m.cols,
          m.ld);
    std::vector<uint8_t> bytes(static_cast<size_t>(storage_.size()));
    for (size_t i = 0; i < m.values.size(); ++i) {
      const uint16_t half = to_bf16(m.values[i]);
      if (dtype_ == DType::kBF16) std::memcpy(bytes.data() + 2 * i, &half, 2);
      if (dtype_ == DType::kF32) std::memcpy(bytes.data() + 4 * i, &m.values[i], 4);
    }
    storage_.upload(bytes);
  }
  // Waits for the device first.
  Matrix download() const {
    Matrix m = Matrix::poisoned(rows_, cols_, ld_ - cols_);
    const std::vector<uint8_t> bytes = storage_.download();
    for (size_t i = 0; i < m.values.size(); ++i) {
      uint16_t half = 0;
      if (dtype_ == DType::kBF16) std::memcpy(&half, bytes.data() + 2 * i, 2);
      if (dtype_ == DType::kBF16) m.values[i] = from_bf16(half);
      if (dtype_ == DType::kF32) std::memcpy(&m.values[i], bytes.data() + 4 * i, 4);
    }
    return m;
  }
  // The same bits, padding included.
  bool same_bytes(const DeviceTensor& o) const { return storage_.download() == o.storage_.download(); }

 private:
  DType dtype_;
  int64_t rows_, cols_, ld_;
  DeviceArray<uint8_t> storage_;
};

// Scratch memory, poisoned, exactly as large as the operator asks for; operators run on the default stream.
class DeviceWorkspace {
 public:
  explicit DeviceWorkspace(int64_t bytes) : storage_(bytes) {}
  Exec exec() const {
    return {.stream = nullptr, .workspace = storage_.data(), .workspace_bytes = storage_.size()};
  }

 private:
  DeviceArray<uint8_t> storage_;
};

}  // namespace contender::test
