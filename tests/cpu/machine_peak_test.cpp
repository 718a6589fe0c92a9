#include "cpu/machine_peak.h"

#include <gtest/gtest.h>

namespace contender {
namespace {

// Wide bounds: a rate off by 1000 (units) or a loop the compiler removed fails, a slow machine does not.
TEST(MachinePeak, RatesArePlausible) {
  const double gflops = cpu::measured_matrix_gflops();
  EXPECT_GT(gflops, 1);
  EXPECT_LT(gflops, 1000);
  const double gbps = cpu::measured_copy_gbps();
  EXPECT_GT(gbps, 0.2);
  EXPECT_LT(gbps, 1000);
}

}  // namespace
}  // namespace contender
