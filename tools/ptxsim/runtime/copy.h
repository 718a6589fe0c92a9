// Copies and fills, as boxes of width x height x depth bytes.
#pragma once

#include <driver_types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/device.h"
#include "runtime/stream.h"

namespace ptxsim::runtime {

// Rows of `width` bytes; `pitch` bytes from row to row, `slice` from one plane to the next.
struct Box {
  uint64_t width = 0, height = 1, depth = 1;
  bool empty() const { return width == 0 || height == 0 || depth == 0; }
};
struct BoxPlace {
  std::byte* base = nullptr;
  uint64_t pitch = 0, slice = 0;
};

// What the runtime knows of memory at an address.
enum class MemorySort { kPageable, kPinned, kManaged, kDevice };
// Refuses (cudaErrorInvalidValue) what is null, freed, or ends outside its allocation. `name`: "source", ...
MemorySort sort_of(const BoxPlace& place, const Box& box, const char* name);

class CopyWork : public Work {
 public:
  // Checks both sides and the direction. `parameters` is kept for graphs to show.
  CopyWork(BoxPlace to, BoxPlace from, Box box, cudaMemcpyKind kind);
  cudaGraphNodeType type() const override { return cudaGraphNodeTypeMemcpy; }
  void run() const override;
  // Takes the source's bytes now: the program may change pageable memory as soon as the call returns.
  void stage();

  uint64_t bytes() const { return box_.width * box_.height * box_.depth; }
  MemorySort to_sort() const { return to_sort_; }
  MemorySort from_sort() const { return from_sort_; }
  cudaMemcpy3DParms parameters() const;

 private:
  BoxPlace to_, from_;
  Box box_;
  cudaMemcpyKind kind_;
  MemorySort to_sort_, from_sort_;
  std::vector<std::byte> staged_;
};

class FillWork : public Work {
 public:
  // Elements of 1, 2 or 4 bytes; the box's width in bytes.
  FillWork(BoxPlace to, Box box, uint32_t value, uint32_t element_bytes);
  cudaGraphNodeType type() const override { return cudaGraphNodeTypeMemset; }
  void run() const override;
  cudaMemsetParams parameters() const;

 private:
  BoxPlace to_;
  Box box_;
  uint32_t value_, element_bytes_;
};

// A copy or fill described by the structures of the API. Refuses arrays (textures).
std::shared_ptr<CopyWork> copy_of(const cudaMemcpy3DParms& parameters);
std::shared_ptr<FillWork> fill_of(const cudaMemsetParams& parameters);
std::shared_ptr<CopyWork> copy_of(void* to, const void* from, uint64_t bytes, cudaMemcpyKind kind);

}  // namespace ptxsim::runtime
