// Device code for tests of the runtime: a few kernels in PTX, in a fat binary made here, registered as nvcc's
// host code does it. The tests link the simulator's runtime directly.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace ptxsim_test {

// --- the container that nvcc writes ---
struct FatbinEntry {
  uint16_t kind = 1;  // 1 PTX, 2 SASS
  uint32_t arch = 90;
  std::string payload;
  uint32_t compressed_bytes = 0;
  uint64_t flags = 0x11;
};
std::vector<std::byte> make_fatbin(const std::vector<FatbinEntry>& entries);

// What __cudaRegisterFatBinary is given.
struct Wrapper {
  uint32_t magic = 0x466243b1, version = 1;
  const void* data = nullptr;
  const void* more = nullptr;
};

// One registered fat binary; unregistered at the end of its life.
class RegisteredBinary {
 public:
  explicit RegisteredBinary(std::vector<std::byte> fatbin);
  ~RegisteredBinary();
  RegisteredBinary(const RegisteredBinary&) = delete;
  void kernel(const void* host, const char* name);
  void variable(void* host, const char* name, size_t bytes);

 private:
  std::vector<std::byte> fatbin_;
  Wrapper wrapper_;
  void** handle_;
};

// Kernels of the test program; each is known by the address of its host stand-in.
//   add(int* p, int value, int n): p[i] += value for i < n
//   spin(const int* flag): until *flag != 0
//   store(int* p): *p = 1 (anywhere: faults, too)
//   shared(int* p): 1024 bytes of static shared memory
//   wide(int* p): .maxntid 128
//   pair(int* p): requires clusters of 2; p[0] gets the cluster size
//   bump(): adds 1 to the variable `counter` (initially 5)
struct Program {
  static Program& instance();
  const void *add, *spin, *store, *shared, *wide, *pair, *bump;
  int* counter;  // host shadow of the variable
};
const std::string& test_ptx();

// Launches with the arguments' addresses taken.
template <class... Arguments>
cudaError_t launch(const void* kernel, dim3 grid, dim3 block, cudaStream_t stream, Arguments... arguments) {
  void* list[] = {&arguments..., nullptr};
  return cudaLaunchKernel(kernel, grid, block, list, 0, stream);
}

}  // namespace ptxsim_test
