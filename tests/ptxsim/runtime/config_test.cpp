// Settings from the environment: each in a process of its own, because they are read once.
#include "config.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace {

// The settings of this process may have been read already: each child is a fresh one.
class SimConfigDeathTest : public testing::Test {
 protected:
  SimConfigDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

// Reads the settings in a child with one of them set; the child prints what it read and ends with status 0.
#define EXPECT_READS(name, value, field, wanted)              \
  EXPECT_EXIT(                                                \
      {                                                       \
        setenv(name, value, 1);                               \
        const bool same = ptxsim::config().field == (wanted); \
        std::exit(same ? 0 : 1);                              \
      },                                                      \
      testing::ExitedWithCode(0), "")
#define EXPECT_REFUSES(name, value) \
  EXPECT_EXIT(                      \
      {                             \
        setenv(name, value, 1);     \
        ptxsim::config();           \
        std::exit(0);               \
      },                            \
      testing::ExitedWithCode(10), name "=" value ": .* needed")

TEST_F(SimConfigDeathTest, ReadsEverySetting) {
  EXPECT_READS("PTXSIM_DEVICES", "8", devices, 8);
  EXPECT_READS("PTXSIM_GPU", "H800", gpu, "H800");
  EXPECT_READS("PTXSIM_GPU", "A100", gpu, "A100");
  EXPECT_READS("PTXSIM_DRIVER", "12040", driver, 12040);
  EXPECT_READS("PTXSIM_MEMORY", "512M", device_memory, uint64_t{512} << 20);
  EXPECT_READS("PTXSIM_MEMORY", "80GiB", device_memory, uint64_t{80} << 30);
  EXPECT_READS("PTXSIM_MEMORY", "4096", device_memory, 4096u);
  EXPECT_READS("PTXSIM_THREADS", "3", threads, 3);
  EXPECT_READS("PTXSIM_LATE", "1", late, true);
  EXPECT_READS("PTXSIM_CHECK", "0", checked, false);
  EXPECT_READS("PTXSIM_SEED", "77", seed, 77u);
  EXPECT_READS("PTXSIM_ACCUMULATION", "plain", accumulation, ptxsim::Accumulation::kPlain);
  EXPECT_READS("PTXSIM_PROFILE", "x.json", profile_json, "x.json");
  EXPECT_READS("PTXSIM_HANG_SECONDS", "2.5", hang_seconds, 2.5);
}

TEST_F(SimConfigDeathTest, RefusesWhatItCannotRead) {
  EXPECT_REFUSES("PTXSIM_DEVICES", "0");
  EXPECT_REFUSES("PTXSIM_DEVICES", "two");
  EXPECT_REFUSES("PTXSIM_GPU", "B200");
  EXPECT_REFUSES("PTXSIM_DRIVER", "12.4");
  EXPECT_REFUSES("PTXSIM_MEMORY", "80X");
  EXPECT_REFUSES("PTXSIM_MEMORY", "99999999999T");
  EXPECT_REFUSES("PTXSIM_LATE", "yes");
  EXPECT_REFUSES("PTXSIM_ACCUMULATION", "exact");
  EXPECT_REFUSES("PTXSIM_HANG_SECONDS", "-1");
}

}  // namespace
