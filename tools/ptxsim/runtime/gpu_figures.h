// What the simulated GPU says of itself.
#pragma once

#include <driver_types.h>

namespace ptxsim::runtime {

// The value of an attribute; throws ApiError(cudaErrorInvalidValue) for a number that is none.
int device_attribute(cudaDeviceAttr attribute, int device);
void fill_properties(cudaDeviceProp& properties, int device);

}  // namespace ptxsim::runtime
