// What the CUDA runtime of the simulator (runtime/) asks of the interpreter: load PTX, look at kernels,
// launch them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "exec/program.h"
#include "exec/warp.h"
#include "fault.h"
#include "ptx/module.h"

namespace ptxsim {

// A module on one device: its text is shared between devices, its variables are not.
class Image {
 public:
  // Declarations only; bodies are parsed and decoded when a kernel is first asked for. Throws
  // Fault(kInvalidPtx, kUnsupportedPtxVersion or kNoKernelImage: target not of the sm_90 family) with one
  // line that says why.
  static std::shared_ptr<Image> load(std::shared_ptr<ptx::Module> module, int device);
  static std::shared_ptr<ptx::Module> parse(std::string text);

  // Throws Fault where there is no such entry or it cannot be decoded.
  const Program& kernel(std::string_view name);
  // Memory of a .global or .const variable; null where there is none.
  std::byte* variable(std::string_view name, uint64_t* bytes);
  int device() const { return device_; }
  const ptx::Module& module() const { return *module_; }
  ~Image();

 private:
  Image() = default;
  std::shared_ptr<ptx::Module> module_;
  int device_ = 0;
  std::mutex mutex_;
  std::unordered_map<std::string, std::unique_ptr<Program>> programs_;
  struct Data;
  std::unique_ptr<Data> data_;
};

struct LaunchSpec {
  const Program* program = nullptr;
  Dim3 grid, block, cluster;  // cluster {1,1,1}: none (or what the kernel requires)
  uint32_t dynamic_shared = 0;
  const void* parameters = nullptr;  // program->parameter_bytes packed as parameter_offsets say; copied
  int device = 0;
  bool cooperative = false;
  int registers = 0;  // per thread, from the cubin where the caller knows it; 0: registers_of()
};

// Limits of the configured GPU that both sides need.
struct GpuLimits {
  int sms, max_threads_per_sm = 2048, max_blocks_per_sm = 32, registers_per_sm = 65536;
  uint32_t shared_per_sm = 233472, shared_per_block = 49152, shared_per_block_optin = 232448,
           reserved_shared = 1024;
  int max_cluster = 8, max_cluster_nonportable = 16;
  uint64_t memory_bytes;
};
const GpuLimits& gpu_limits();

// Registers per thread of a kernel: the most PTX registers live at once stands in for what ptxas would give,
// within .maxnreg and what .maxntid / .minnctapersm leave; kernels with setmaxnreg get all that their block
// size allows, in eights.
int registers_of(const Program& program);

// Runs a grid to its end on the calling thread and the idle threads of the pool; many may run at once
// (streams, devices). Throws Fault; memory is then as the kernel left it.
void launch(const LaunchSpec& spec);

}  // namespace ptxsim
