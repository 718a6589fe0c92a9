// The drill of main.cpp: steps with collectives, during which `--fault` stops ranks.
#pragma once

#include <memory>

#include "device/device.h"

namespace contender {

// Set where the drill's collectives are NCCL's, on this device.
extern std::unique_ptr<Device> (*g_make_drill_device)();

}  // namespace contender
