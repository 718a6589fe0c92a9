// What libcontender_cuda.so is to the program that loads it (csrc/cli/backend.cpp). No header of CUDA is
// needed to read this one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device/device.h"
#include "ops/ops.h"

namespace contender::cuda {

struct Gpu {
  std::string name;  // "NVIDIA H200"
  std::string uuid;  // the same for all processes that see it
  int major = 0, minor = 0;
  int64_t memory_bytes = 0;
};

// What the CUDA runtime finds, asked without making a context on any GPU.
struct Gpus {
  int driver = 0, runtime = 0;  // CUDA versions, 13020 is 13.2; driver 0: none
  std::vector<Gpu> gpus;
  std::string problem;  // "": all of them can run the kernels; else why not, in a few words
};

struct Library {
  const Ops* ops = nullptr;
  Gpus (*find_gpus)() = nullptr;
  // One rank's device: GPU `index`, of whose memory and speed it gets one of `sharers` equal parts.
  std::unique_ptr<Device> (*make_device)(int index, int sharers) = nullptr;
  double (*matrix_gflops)(int index, int sharers) = nullptr;  // BF16 products, at the highest clock
};

// Of the structures that the library and its program share: both are built together.
constexpr int kLibraryVersion = static_cast<int>(sizeof(Ops) + 1000 * sizeof(Library));
// extern "C" const Library* contender_cuda_backend(int version); nullptr for another kLibraryVersion.
constexpr const char* kLibraryEntry = "contender_cuda_backend";
using LibraryEntry = const Library*(int version);

}  // namespace contender::cuda
