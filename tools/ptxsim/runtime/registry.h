// Device code that the program brought along: fat binaries, the kernels and variables registered from them,
// and what each of them is on each device. Nothing is parsed before its first use.
#pragma once

#include <driver_types.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "ptx/module.h"
#include "runtime/cubin.h"
#include "sim.h"

namespace ptxsim::runtime {

// One fat binary, or PTX text that was given to cudaLibraryLoadData.
class Binary {
 public:
  explicit Binary(const void* wrapper) : wrapper_(wrapper) {}
  explicit Binary(std::string ptx) : text_(std::move(ptx)) {}

  // Throw ApiError or Fault where the device code cannot be used, every time.
  const ptx::Module& module();
  std::shared_ptr<Image> image(int device);
  void forget_image(int device);
  // Zeros where the binary has no SASS for the kernel.
  SassUsage usage(const std::string& kernel);

  std::vector<void**> managed;             // host pointers to managed variables, by
  std::vector<std::string> managed_names;  // name

 private:
  void parse();
  const void* wrapper_ = nullptr;
  std::string text_;
  std::mutex mutex_;
  std::shared_ptr<ptx::Module> module_;
  std::unordered_map<std::string, SassUsage> usage_;
  std::map<int, std::shared_ptr<Image>> images_;
};

// cudaKernel_t and cudaFunction_t are pointers to it.
class Kernel {
 public:
  Kernel(std::shared_ptr<Binary> binary, std::string name);

  // The declaration: parameters and launch bounds. Refuses a name that the PTX does not have.
  const ptx::Function& function();
  const Program& program(int device);
  // The name as a person would say it: "gemm<128, 64>".
  std::string label() const;

  const std::shared_ptr<Binary> binary;
  const std::string name;  // mangled

  // Set by cudaFuncSetAttribute, for all devices (per device where the program asks for that).
  struct Settings {
    std::atomic<int> max_dynamic_shared{-1};  // -1: what fits into 48 KB
    std::atomic<int> carveout{-1};
    std::atomic<bool> nonportable_cluster{false};
    std::atomic<bool> cluster_must_be_set{false};
    std::atomic<int> cluster_width{0}, cluster_height{0}, cluster_depth{0}, cluster_policy{0};
  };
  Settings& settings(int device) { return settings_[device]; }

  // Registers per thread: those of the SASS, else an estimate from the PTX.
  int registers(int device);
  // Launch bounds of the source, at most 1024.
  int max_threads();

 private:
  std::unique_ptr<Settings[]> settings_;  // per device
};

struct DeviceVariable {
  std::shared_ptr<Binary> binary;
  std::string name;
  uint64_t bytes = 0;
};

// A library of cudaLibraryLoadData.
struct Library {
  std::shared_ptr<Binary> binary;
  std::map<std::string, std::unique_ptr<Kernel>> kernels;
};

// Known by the address of its host stub, or itself a cudaKernel_t / cudaFunction_t. Refuses what is neither
// (cudaErrorInvalidDeviceFunction).
Kernel& kernel_of(const void* function);
// Known by the address of its host shadow (cudaErrorInvalidSymbol otherwise).
const DeviceVariable& variable_of(const void* symbol);
// Where a variable lies on a device.
struct VariablePlace {
  std::byte* address;
  uint64_t bytes;
};
VariablePlace place_of(const void* symbol, int device);
VariablePlace place_of(Binary& binary, const std::string& name, int device);

// Registration; from static constructors and destructors of the program.
void** register_binary(const void* wrapper);
void unregister_binary(void** handle);
std::shared_ptr<Binary> binary_of(void** handle);
void register_kernel(void** handle, const void* host, const char* name);
void register_variable(void** handle, const void* host, const char* name, uint64_t bytes);
// Makes a kernel known by itself, and forgets it.
void adopt(Kernel& kernel);
void disown(Kernel& kernel);
// All that a device had of every binary.
void forget_images(int device);

}  // namespace ptxsim::runtime
