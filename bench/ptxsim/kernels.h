// Between the files of ptxsim_bench.
#pragma once

#include <chrono>

template <typename F>
double milliseconds(F f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

// From the first CUDA call to the end of the first launch of every kernel of a large module, in milliseconds
// per MB of its PTX, which is looked for in the program itself.
double start_up(const char* program);
