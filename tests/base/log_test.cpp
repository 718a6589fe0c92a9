#include "base/log.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace contender {
namespace {

class LogTest : public testing::Test {
 protected:
  ~LogTest() override {
    set_log_rank(-1, 1);
    set_log_level(LogLevel::kInfo);
  }
  template <class F>
  static std::string stderr_of(F f) {
    testing::internal::CaptureStderr();
    f();
    return testing::internal::GetCapturedStderr();
  }
};

TEST_F(LogTest, RankPrefixExceptOnRankZero) {
  const auto hello = [] { log_info("hello {}", 7); };
  EXPECT_EQ(stderr_of(hello), "hello 7\n");
  set_log_rank(0, 4);
  EXPECT_EQ(stderr_of(hello), "hello 7\n");
  set_log_rank(3, 4);
  EXPECT_EQ(log_rank(), 3);
  EXPECT_EQ(stderr_of(hello), "[rank 3] hello 7\n");
  EXPECT_EQ(stderr_of([] { log_error("gone"); }), "[rank 3] error: gone\n");
  EXPECT_THROW(set_log_rank(4, 4), Error);
}

TEST_F(LogTest, LevelsFilter) {
  EXPECT_EQ(stderr_of([] { log_debug("x"); }), "");
  set_log_level(LogLevel::kDebug);
  EXPECT_EQ(stderr_of([] { log_debug("x"); }), "debug: x\n");
  set_log_level(LogLevel::kError);
  EXPECT_EQ(stderr_of([] { log_warn("x"); }), "");
  EXPECT_EQ(stderr_of([] { log_error("x"); }), "error: x\n");
}

}  // namespace
}  // namespace contender
