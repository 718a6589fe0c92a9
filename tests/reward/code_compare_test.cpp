#include "reward/code_compare.h"

#include <gtest/gtest.h>

#include <string>

namespace contender {
namespace {

TEST(CodeCompare, OutputsLineByLine) {
  EXPECT_TRUE(same_output("1 2\n3\n", "1 2\n3"));
  EXPECT_TRUE(same_output("1 2\n3", "1 2  \r\n3\t\n\n\n"));
  EXPECT_TRUE(same_output("a\n\nb", "a\n \nb\n"));
  EXPECT_FALSE(same_output("a\n\nb", "a\nb"));
  EXPECT_FALSE(same_output("1 2", "1  2"));
  EXPECT_FALSE(same_output("1", " 1"));
  EXPECT_FALSE(same_output("1", "1\n2"));
  EXPECT_FALSE(same_output("1\n2", "1"));
  EXPECT_FALSE(same_output("12", "\xD9\xA1\xD9\xA2"));  // Arabic digits
  EXPECT_FALSE(same_output("1", ""));
  EXPECT_FALSE(same_output("inf", "1e999"));
  EXPECT_FALSE(same_output("1", std::string("1\0", 2)));
}

TEST(CodeCompare, ValuesOfTheSameType) {
  EXPECT_TRUE(same_value("[1, \"a\", null, {\"k\": [true]}]", "[1,\"a\",null,{\"k\":[true]}]"));
  EXPECT_TRUE(same_value("{\"a\": 1, \"b\": 2}", "{\"b\": 2, \"a\": 1}"));
  for (const char* other :
       {"[2]", "[1, 1]", "[]", "1", "[\"1\"]", "[true]", "[null]", "{\"0\": 1}", "", "[1", "NaN"})
    EXPECT_FALSE(same_value("[1]", other)) << other;
  EXPECT_FALSE(same_value("{\"a\": 1}", "{\"a\": 1, \"b\": 2}"));
  EXPECT_FALSE(same_value("{\"a\": 1}", "{\"a\": 1, \"a\": 1}"));
  EXPECT_FALSE(same_value("true", "1"));
  EXPECT_FALSE(same_value("0", "false"));
  EXPECT_FALSE(same_value("\"\"", "null"));
}

TEST(CodeCompare, Numbers) {
  EXPECT_TRUE(same_value("0.3", "0.30000000000000004"));
  EXPECT_TRUE(same_value("1e10", "10000000001.0"));
  EXPECT_TRUE(same_value("2.0", "2"));
  EXPECT_TRUE(same_value("2", "2.0"));
  EXPECT_FALSE(same_value("2", "2.0000001"));
  EXPECT_FALSE(same_value("0.3", "0.3001"));
  EXPECT_FALSE(same_value("0.5", "\"0.5\""));
  EXPECT_FALSE(same_value("0.5", "1e999"));
  EXPECT_FALSE(same_value("0.5", "Infinity"));
  EXPECT_TRUE(same_value("0", "-0.0"));
  EXPECT_FALSE(same_value("0", "0.4"));
  EXPECT_FALSE(same_value("9007199254740993", "9007199254740992.0"));
  EXPECT_TRUE(same_value("9007199254740992", "9007199254740992.0"));
  EXPECT_TRUE(same_value("-1180591620717411303424", "-1.1805916207174113e+21"));  // -2^70
  EXPECT_FALSE(same_value("-1180591620717411303425", "-1.1805916207174113e+21"));
  EXPECT_TRUE(same_value("1e21", "1000000000000000000001"));
  EXPECT_FALSE(same_value("111111111111111111111", R"("\u0001111111111111111111111")"));
  EXPECT_FALSE(same_value(R"("\u0001111111111111111111111")", R"("\u0001111111111111111111111")"));
  const std::string large = "1" + std::string(400, '0');
  EXPECT_TRUE(same_value(large, large));
  EXPECT_FALSE(same_value(large + "1", large + "2"));
  EXPECT_TRUE(same_value("-9007199254740993", "-9007199254740993"));
  EXPECT_FALSE(same_value("9007199254740993", "9007199254740992"));
  EXPECT_FALSE(same_value("[1000000000000000000000001]", "[1000000000000000000000002]"));
  EXPECT_TRUE(
      same_value("{\"1000000000000000000000001\": 1e-5}", "{\"1000000000000000000000001\": 0.00001}"));
}

TEST(CodeCompare, SmallNumbers) {
  EXPECT_TRUE(same_value("0.001", "0.0010005"));
  EXPECT_FALSE(same_value("1e-9", "0"));
  EXPECT_FALSE(same_value("1e-9", "1.00001e-9"));
  EXPECT_TRUE(same_value("1e-9", "1.0000001e-9"));
  EXPECT_FALSE(same_value("0.0", "1e-9"));
  EXPECT_TRUE(same_value("0.0", "5.551115123125783e-17"));  // 0.1 + 0.2 - 0.3
}

}  // namespace
}  // namespace contender
