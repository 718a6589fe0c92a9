// Columns of heads (Heads in ops/exec.h) on the device.
#pragma once

#include "cuda/common/dispatch.h"
#include "ops/exec.h"

namespace contender::cuda {

__device__ inline int64_t head_column(const Heads& heads, unsigned h) {
  if (heads.per_slice == 0) return heads.offset + h * heads.stride;
  const auto per_slice = static_cast<unsigned>(heads.per_slice);
  return heads.offset + h / per_slice * heads.slice_stride + h % per_slice * heads.stride;
}

// The columns of one head after the other, without a division for each.
class HeadWalk {
 public:
  __device__ HeadWalk(const Heads& heads, unsigned first)
      : heads_(heads), column_(head_column(heads, first)) {
    const auto per_slice = static_cast<unsigned>(heads.per_slice);
    left_ = per_slice == 0 ? ~0u : per_slice - first % per_slice;
  }
  // The column of the head it stands at; goes on to the next.
  __device__ int64_t next() {
    const int64_t column = column_;
    if (--left_ > 0) {
      column_ += heads_.stride;
    } else {
      column_ += heads_.slice_stride - (heads_.per_slice - 1) * heads_.stride;
      left_ = static_cast<unsigned>(heads_.per_slice);
    }
    return column;
  }

 private:
  const Heads& heads_;
  int64_t column_;
  unsigned left_;  // heads of this slice from here on
};

// `width` columns of every head are whole pieces of `bytes` at aligned addresses.
inline bool heads_in_pieces(const Tensor& t, const Heads& heads, int64_t width, int64_t bytes = 16) {
  const auto whole = [&](int64_t columns) { return columns * dtype_size(t.dtype) % bytes == 0; };
  return reinterpret_cast<uintptr_t>(t.data) % static_cast<uintptr_t>(bytes) == 0 && whole(width) &&
         whole(heads.offset) && (t.rows <= 1 || whole(t.ld)) && (heads.count == 1 || whole(heads.stride)) &&
         (heads.per_slice == 0 || heads.count == heads.per_slice || whole(heads.slice_stride));
}

}  // namespace contender::cuda
