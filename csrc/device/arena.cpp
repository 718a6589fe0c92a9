#include <algorithm>

#include "device/device.h"

namespace contender {

Buffer::Buffer(Device* device, int64_t bytes, const char* what)
    : device_(device), data_(device->alloc(bytes, what)), bytes_(bytes) {}

Buffer::~Buffer() {
  if (data_) device_->free(data_);
}

Arena::Arena(Device* device, int64_t bytes, const char* what, const char* setting)
    : buffer_(device, bytes, what), what_(what), setting_(setting) {}

void* Arena::bytes(int64_t n) {
  constexpr int64_t kAlignment = 64;
  constexpr double kMiB = 1 << 20;
  CHECK(n >= 0, "{}: {} bytes", what_, n);
  const int64_t begin = used_;
  if (n > capacity() - begin) {
    fail(ExitCode::kOutOfMemory,
         "{}: needs {:.2f} MiB, has {:.2f} MiB; raise {} or lower the tokens it is asked to hold", what_,
         static_cast<double>(begin + n) / kMiB, static_cast<double>(capacity()) / kMiB, setting_);
  }
  used_ = std::min(round_up(begin + n, kAlignment), capacity());
  peak_ = std::max(peak_, used_);
  return static_cast<char*>(buffer_.data()) + begin;
}

Tensor Arena::tensor(DType dtype, int64_t rows, int64_t cols) {
  CHECK(rows >= 0 && cols >= 0, "{}: [{}, {}]", what_, rows, cols);
  return {bytes(rows * cols * dtype_size(dtype)), dtype, rows, cols};
}

}  // namespace contender
