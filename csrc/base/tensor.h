// Tensor: a non-owning view of a row-major matrix. Everything the operators see is tokens x features (or
// rows x columns of a weight); higher ranks are written as rows x (heads * dim) and stated in the Args
// comment.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/error.h"

namespace contender {

enum class DType : uint8_t { kF32, kBF16, kF16, kE4M3, kI32, kU8 };

constexpr int64_t dtype_size(DType t) {
  switch (t) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kE4M3:
    case DType::kU8:
      return 1;
  }
  return 0;
}
constexpr const char* dtype_name(DType t) {
  switch (t) {
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kF16:
      return "F16";
    case DType::kE4M3:
      return "F8_E4M3";
    case DType::kI32:
      return "I32";
    case DType::kU8:
      return "U8";
  }
  return "?";
}

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kU8;
};

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t ld = 0;  // elements from one row to the next, >= cols

  Tensor() = default;
  Tensor(void* d, DType t, int64_t r, int64_t c) : data(d), dtype(t), rows(r), cols(c), ld(c) {}
  Tensor(void* d, DType t, int64_t r, int64_t c, int64_t stride)
      : data(d), dtype(t), rows(r), cols(c), ld(stride) {}

  explicit operator bool() const { return data != nullptr; }
  int64_t numel() const { return rows * cols; }
  bool contiguous() const { return ld == cols || rows <= 1; }

  template <class T>
  T* as() const {
    CHECK(dtype == DTypeOf<T>::value, "dtype {}", dtype_name(dtype));
    return static_cast<T*>(data);
  }
  float* f32() const { return as<float>(); }
  int32_t* i32() const { return as<int32_t>(); }
  float* row(int64_t r) const { return f32() + r * ld; }

  Tensor row_range(int64_t begin, int64_t end) const {
    CHECK(0 <= begin && begin <= end && end <= rows, "rows [{}, {}) of {}", begin, end, rows);
    return {static_cast<char*>(data) + begin * ld * dtype_size(dtype), dtype, end - begin, cols, ld};
  }
  Tensor col_range(int64_t begin, int64_t end) const {
    CHECK(0 <= begin && begin <= end && end <= cols, "cols [{}, {}) of {}", begin, end, cols);
    return {static_cast<char*>(data) + begin * dtype_size(dtype), dtype, rows, end - begin, ld};
  }
};

inline Tensor f32_tensor(float* data, int64_t rows, int64_t cols) { return {data, DType::kF32, rows, cols}; }
inline Tensor i32_tensor(int32_t* data, int64_t rows, int64_t cols) {
  return {data, DType::kI32, rows, cols};
}

}  // namespace contender
