#include "base/error.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>

namespace contender {
namespace {

template <class F>
std::string message_of(F f, ExitCode expected) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), expected);
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST(ErrorTest, CheckSaysFileLineExpressionAndValues) {
  const int rows = 3;
  const std::string message = message_of([&] { CHECK(rows == 4, "rows {}", rows); }, ExitCode::kInternal);
  EXPECT_NE(message.find("error_test.cpp:"), std::string::npos) << message;
  EXPECT_NE(message.find("CHECK(rows == 4) failed: rows 3"), std::string::npos) << message;
  EXPECT_TRUE(
      message_of([&] { CHECK(rows == 4); }, ExitCode::kInternal).ends_with("CHECK(rows == 4) failed"));
  CHECK(rows == 3, "never formatted");
}

TEST(ErrorTest, FailCarriesTheExitCode) {
  EXPECT_EQ(message_of([] { fail(ExitCode::kLayout, "tp {} of {}", 3, 8); }, ExitCode::kLayout), "tp 3 of 8");
}

TEST(ErrorTest, IntegerGuards) {
  EXPECT_EQ(div_exact(12, 4), 3);
  EXPECT_EQ(message_of([] { div_exact(13, 4); }, ExitCode::kInternal), "13 is not a multiple of 4");
  message_of([] { div_exact(13, 0); }, ExitCode::kInternal);
  EXPECT_EQ(ceil_div(13, 4), 4);
  EXPECT_EQ(ceil_div(12, 4), 3);
  EXPECT_EQ(round_up(13, 16), 16);
  EXPECT_EQ(round_up(0, 16), 0);

  EXPECT_EQ(narrow<int>(int64_t{-7}), -7);
  message_of([] { narrow<int>(int64_t{1} << 40); }, ExitCode::kInternal);
  message_of([] { narrow<uint32_t>(-1); }, ExitCode::kInternal);
  message_of([] { narrow<int32_t>(std::numeric_limits<uint32_t>::max()); }, ExitCode::kInternal);
}

}  // namespace
}  // namespace contender
