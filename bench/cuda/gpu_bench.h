// What the benches of the CUDA kernels share: data on the device, a check that comes before any timing, times
// of a cold cache, and a table of rows. `--smoke` takes the small shapes, for the simulator.
#pragma once

#include <cuda_runtime.h>
#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/tensor.h"
#include "cuda/common/check.h"
#include "ops/exec.h"

namespace contender::bench {

// [rows, cols] on the device, rows dense; freed with it.
class DeviceData {
 public:
  DeviceData(DType dtype, int64_t rows, int64_t cols);  // every byte 0xFF: NaN as a float, -1 as an integer
  // Uniform in (-scale, scale); F32 or BF16.
  static DeviceData random(DType dtype, int64_t rows, int64_t cols, uint64_t seed, float scale = 1);
  // The bytes of host values.
  template <class T>
  static DeviceData of(const std::vector<T>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    DeviceData d(DType::kU8, 1, bytes);
    CUDA_CHECK(cudaMemcpy(d.data_, values.data(), static_cast<size_t>(bytes), cudaMemcpyHostToDevice));
    return d;
  }
  DeviceData(DeviceData&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)), dtype_(o.dtype_), rows_(o.rows_), cols_(o.cols_) {}
  DeviceData& operator=(DeviceData&&) = delete;
  ~DeviceData() { cudaFree(data_); }

  Tensor tensor() const { return {data_, dtype_, rows_, cols_}; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  // Values as double, after all work that was started; F32, BF16, I32 or codes of E4M3.
  std::vector<double> row(int64_t r) const;
  std::vector<double> column(int64_t c) const;
  std::vector<double> block(int64_t r, int64_t rows, int64_t c, int64_t cols) const;
  double at(int64_t r, int64_t c) const { return block(r, 1, c, 1)[0]; }

 private:
  void* data_ = nullptr;
  DType dtype_;
  int64_t rows_, cols_;
};

// Scratch memory of an operator.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : data_(DType::kU8, 1, bytes > 0 ? bytes : 1), bytes_(bytes) {}
  Exec exec() const { return {.workspace = data_.as<void>(), .workspace_bytes = bytes_}; }

 private:
  DeviceData data_;
  int64_t bytes_;
};

// One group of rows in equal leaves, or each group its equal share of the rows, in equal leaves.
class Segments {
 public:
  Segments(int64_t rows, int32_t num_leaves, int32_t num_groups = 1);
  RowSegments get() const { return {data_.as<RowSegment>(), count_, num_leaves_}; }

 private:
  int32_t count_, num_leaves_;
  DeviceData data_;
};

// Sampled results against a reference.
class Check {
 public:
  void near(double got, double want, double tolerance);
  void equal(double got, double want) { near(got, want, 0); }
  int64_t compared() const { return compared_; }
  int64_t wrong() const { return wrong_; }
  const std::string& first() const { return first_; }

 private:
  int64_t compared_ = 0, wrong_ = 0;
  std::string first_;
};
// Of a value rounded to dtype, of FP32 sums whose terms have this size: half an ulp, and a
// hundred-thousandth.
double tolerance_of(DType dtype, double want, double terms);
// At most n indices below `end`, both ends among them.
std::vector<int64_t> samples(int64_t end, int64_t n);

struct Work {
  Cost cost;
  std::function<void()> call;         // puts the operator's work into the default stream
  std::function<void(Check&)> check;  // of what it wrote
  std::function<void()> baseline =
      {};  // the same by a library, into the same place; empty where there is none
  // Of the tensor cores, in multiples of BF16's: 1, FP8 2. 0: a row without "% tensor cores".
  int tensor_rate = 0;
};
// The row that runs: checks, then times, or says in a word why not.
void measure(const Work& work);

bool small_shapes();
bool values_wanted();   // random values, not just any
bool library_wanted();  // load libraries for baselines
bool every_shape();     // --all: long sweeps too
// `explain`: why the kernel runs as it does, for --explain.
void register_row(const std::string& name, std::function<void()> run,
                  std::function<std::string()> explain = {});

// A row NAME/SHAPE for each shape, or each small one; Shape has text().
template <class Shape, class F>
void rows(const std::string& name, const std::vector<Shape>& shapes,
          const std::type_identity_t<std::vector<Shape>>& small, const F& f) {
  for (const Shape& s : small_shapes() ? small : shapes)
    register_row(name + "/" + s.text(), [f, s] { f(s); });
}

// At namespace scope of a bench: calls `add_rows` once the command line is known.
struct Family {
  Family(const char* name, std::function<void()> add_rows);
};

// The shape of most operators.
struct RowsShape {
  int64_t rows, cols;
  std::string text() const { return fmt::format("{}x{}", rows, cols); }
};

inline constexpr DType kActivation = DType::kBF16;

}  // namespace contender::bench
