#include "runtime/occupancy.h"

#include <algorithm>

#include "sim.h"

namespace ptxsim::runtime {
namespace {

constexpr int kWarp = 32;
constexpr int kQuarters = 4;  // an SM's register file and warps are in four parts
constexpr int kRegisterGranularity = 256;
constexpr uint64_t kSharedGranularity = 128;
// SMs of each GPC of a GH100 with 132 of them.
constexpr int kGpcs[] = {18, 18, 16, 16, 16, 16, 16, 16};

int round_up(int n, int to) { return (n + to - 1) / to * to; }

int warps_by_registers(int registers) {
  if (registers <= 0) return 64;
  const int per_warp = round_up(registers * kWarp, kRegisterGranularity);
  return gpu_limits().registers_per_sm / kQuarters / per_warp * kQuarters;
}

}  // namespace

bool registers_fit(int threads, int registers) {
  const int warps = (threads + kWarp - 1) / kWarp;
  return round_up(warps, kQuarters) <= warps_by_registers(registers);
}

int blocks_per_sm(const BlockNeeds& needs) {
  const GpuLimits& gpu = gpu_limits();
  if (needs.threads <= 0 || needs.threads > 1024) return 0;
  const int warps = (needs.threads + kWarp - 1) / kWarp;
  const int by_warps = gpu.max_threads_per_sm / kWarp / warps;
  const int by_registers = warps_by_registers(needs.registers) / warps;
  const uint64_t reserved = needs.shared_bytes + gpu.reserved_shared;
  const uint64_t shared = (reserved + kSharedGranularity - 1) / kSharedGranularity * kSharedGranularity;
  const int by_shared =
      static_cast<int>(std::min<uint64_t>(gpu.shared_per_sm / shared, gpu.max_blocks_per_sm));
  return std::min({by_warps, by_registers, by_shared, gpu.max_blocks_per_sm});
}

int clusters_per_gpu(const BlockNeeds& needs, int size) {
  const int per_sm = blocks_per_sm(needs);
  int clusters = 0;
  for (const int sms : kGpcs) clusters += sms * per_sm / std::max(size, 1);
  return clusters;
}

}  // namespace ptxsim::runtime
