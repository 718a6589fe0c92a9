// What ends a launch: the error the CUDA runtime would return, and the line a person needs.
#pragma once

#include <stdexcept>
#include <string>

namespace ptxsim {

// Values of cudaError_t (CUDA 13, driver_types.h); named here so that the interpreter does not include CUDA
// headers.
enum class ErrorCode : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kMemoryAllocation = 2,
  kInvalidConfiguration = 9,
  kInvalidPtx = 218,
  kNoKernelImage = 209,
  kUnsupportedPtxVersion = 222,
  kIllegalAddress = 700,
  kLaunchOutOfResources = 701,
  kLaunchTimeout = 702,
  kAssert = 710,
  kHardwareStackError = 714,
  kIllegalInstruction = 715,
  kMisalignedAddress = 716,
  kInvalidAddressSpace = 717,
  kInvalidPc = 718,
  kLaunchFailure = 719,
};

// Thrown by the interpreter; ends the launch. The message already names kernel, block, warp, lane and source
// line when it was made by fail() of exec/warp.h.
class Fault : public std::runtime_error {
 public:
  Fault(ErrorCode code, const std::string& what) : std::runtime_error(what), code(code) {}
  ErrorCode code;
};

}  // namespace ptxsim
