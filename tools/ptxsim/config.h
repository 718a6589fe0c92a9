// How the simulator behaves, read once from the environment (PTXSIM_...); tools/sim sets these from its
// flags.
#pragma once

#include <cstdint>
#include <string>

namespace ptxsim {

enum class Accumulation : uint8_t { kPlain, kHardware };

struct Config {
  int devices = 1;             // PTXSIM_DEVICES
  std::string gpu = "H200";    // PTXSIM_GPU: H200, H800, or A100 in name and capability, to be refused
  int driver = 13000;          // PTXSIM_DRIVER: its CUDA version, too old below 13000, 0 for none
  uint64_t device_memory = 0;  // PTXSIM_MEMORY: bytes per device ("512M", "80G"); 0: that of the GPU
  int threads = 0;             // PTXSIM_THREADS: host threads that run blocks; 0: all cores
  bool late = false;           // PTXSIM_LATE=1: async work as late as legal, warps in random order
  uint64_t seed = 1;           // PTXSIM_SEED: of that order
  bool checked = false;  // PTXSIM_CHECK=1: races, proxy fences, uninitialised reads, registers in flight
  Accumulation accumulation = Accumulation::kHardware;  // PTXSIM_ACCUMULATION: plain or hardware
  bool profile = false;                                 // PTXSIM_PROFILE=1 or a file that gets the JSON
  std::string profile_json;
  bool time = false;         // PTXSIM_TIME=1: a line per launch: instructions, milliseconds, M/s
  double hang_seconds = 30;  // PTXSIM_HANG_SECONDS: a launch without any progress for so long is reported
};

// Of this process. A value that cannot be read ends the process with one line and status 10.
const Config& config();

}  // namespace ptxsim
