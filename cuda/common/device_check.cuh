// A condition on device data that only the kernel can see (an index read from memory): one line that names
// the kernel and the values, then a trap, which ends the job at the next synchronisation.
#pragma once

#include <cstdio>

#define DEVICE_CHECK(condition, format, ...)          \
  do {                                                \
    if (!(condition)) [[unlikely]] {                  \
      printf(format "\n" __VA_OPT__(, ) __VA_ARGS__); \
      __trap();                                       \
      __builtin_unreachable();                        \
    }                                                 \
  } while (0)
