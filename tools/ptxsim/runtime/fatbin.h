// The container in which nvcc leaves device code in a program: PTX and SASS images of several architectures.
// Source: the layout that fatbinary of CUDA 13 writes (magic 0xBA55ED50); every size is checked before it is
// used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ptxsim::runtime {

struct FatbinImage {
  enum class Kind : uint8_t { kPtx, kElf };
  Kind kind = Kind::kPtx;
  int arch = 0;  // 90 for sm_90, sm_90a, compute_90a
  bool compressed = false;
  std::string_view payload;  // into the container; PTX without the zeros behind it
};

// Throws ApiError(cudaErrorInvalidKernelImage) where the bytes are no container or end early.
std::vector<FatbinImage> read_fatbin(std::span<const std::byte> bytes);

// The bytes that a __fatBinC_Wrapper_t (the argument of __cudaRegisterFatBinary) points to. Throws as
// read_fatbin does.
std::span<const std::byte> fatbin_of_wrapper(const void* wrapper);

// The PTX image that runs on sm_90, newest first. Throws ApiError(cudaErrorNoKernelImageForDevice) where
// there is none; the reason says how to build the program.
std::string_view choose_ptx(std::span<const FatbinImage> images);

}  // namespace ptxsim::runtime
