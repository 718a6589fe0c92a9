#include "names.h"

#include <gtest/gtest.h>

namespace ptxsim {
namespace {

TEST(Names, AsAPersonWouldSayThem) {
  EXPECT_EQ(short_name("gemm"), "gemm");
  EXPECT_EQ(short_name("_Z5scalePfi"), "scale");
  EXPECT_EQ(short_name("_ZN3foo4gemmILi128ELb1EEEvPKf"), "foo::gemm<128, true>");
  EXPECT_EQ(short_name("_ZN7planted46_GLOBAL__N__a0551072_9_memory_cu_50a0e74e_17534copyEPKiPi"),
            "planted::copy");
  EXPECT_EQ(short_name("_ZZN7planted3runEPiE4tile"), "tile");
  EXPECT_EQ(short_name("_Z1fIPFviEEvT_"), "f<void (*)(int)>");
}

}  // namespace
}  // namespace ptxsim
