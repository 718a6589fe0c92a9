#include "cuda/device/staging.h"

#include <algorithm>
#include <cstring>

#include "cuda/common/check.h"

namespace contender::cuda {
namespace {

char* pinned(int64_t bytes) {
  void* p = nullptr;
  CUDA_CHECK(cudaMallocHost(&p, static_cast<size_t>(bytes)));
  return static_cast<char*>(p);
}

}  // namespace

cudaEvent_t new_event() {
  cudaEvent_t e = nullptr;
  CUDA_CHECK(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
  return e;
}

bool passed(cudaEvent_t e) {
  const cudaError_t answer = cudaEventQuery(e);
  if (answer == cudaErrorNotReady) {
    cudaGetLastError();  // an answer, not an error
    return false;
  }
  if (answer != cudaSuccess) fail_cuda(__FILE__, __LINE__, "cudaEventQuery", answer);
  return true;
}

// Errors while taking down have been said by the call that met them first.
UploadStaging::~UploadStaging() {
  for (std::deque<Block>& size : blocks_) {
    for (const Block& b : size) {
      cudaEventSynchronize(b.event);
      cudaEventDestroy(b.event);
      cudaFreeHost(b.data);
    }
  }
}

int64_t UploadStaging::upload(cudaStream_t stream, void* dst, const void* src, int64_t bytes) {
  int64_t waits = 0;
  for (int64_t done = 0; done < bytes; done += kLargest) {
    waits += piece(stream, static_cast<char*>(dst) + done, static_cast<const char*>(src) + done,
                   std::min(kLargest, bytes - done));
  }
  return waits;
}

bool UploadStaging::piece(cudaStream_t stream, char* dst, const char* src, int64_t bytes) {
  static_assert(kSmallest << 2 * (kNumSizes - 1) == kLargest);
  int64_t size = kSmallest;
  int index = 0;
  while (size < bytes) size *= 4, ++index;
  std::deque<Block>& blocks = blocks_[static_cast<size_t>(index)];
  const bool free = !blocks.empty() && passed(blocks.front().event);
  const bool waits = !free && !blocks.empty() && pinned_ + size > kBound;
  if (waits) CUDA_CHECK(cudaEventSynchronize(blocks.front().event));
  if (free || waits) {
    blocks.push_back(blocks.front());
    blocks.pop_front();
  } else {
    blocks.push_back({pinned(size), new_event()});
    pinned_ += size;
  }
  const Block& b = blocks.back();
  std::memcpy(b.data, src, static_cast<size_t>(bytes));
  CUDA_CHECK(cudaMemcpyAsync(dst, b.data, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream));
  CUDA_CHECK(cudaEventRecord(b.event, stream));
  return waits;
}

DownloadStaging::~DownloadStaging() {
  for (cudaEvent_t e : filled_) {
    if (e) cudaEventDestroy(e);
  }
  cudaFreeHost(data_);
}

void DownloadStaging::download(cudaStream_t stream, void* dst, const void* src, int64_t bytes) {
  if (!data_) {
    data_ = pinned(2 * kBlock);
    for (cudaEvent_t& e : filled_) e = new_event();
  }
  const int64_t pieces = ceil_div(bytes, kBlock);
  const auto length = [&](int64_t i) { return static_cast<size_t>(std::min(kBlock, bytes - i * kBlock)); };
  for (int64_t i = 0; i <= pieces; ++i) {
    if (i < pieces) {
      CUDA_CHECK(cudaMemcpyAsync(data_ + i % 2 * kBlock, static_cast<const char*>(src) + i * kBlock,
                                 length(i), cudaMemcpyDeviceToHost, stream));
      CUDA_CHECK(cudaEventRecord(filled_[static_cast<size_t>(i % 2)], stream));
    }
    if (i == 0) continue;
    const int64_t last = i - 1;
    CUDA_CHECK(cudaEventSynchronize(filled_[static_cast<size_t>(last % 2)]));
    std::memcpy(static_cast<char*>(dst) + last * kBlock, data_ + last % 2 * kBlock, length(last));
  }
}

}  // namespace contender::cuda
