// Pairs with what they are to each other, made beside math-verify (tools/fixtures/make_math_cases.py); where
// it says something else, tests/fixtures/math/disagreements.md says why.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reward/math_compare.h"
#include "reward/math_verify.h"

namespace contender {
namespace {

std::vector<nlohmann::json> rows_of(const std::string& name) {
  std::ifstream file("tests/fixtures/math/" + name);
  std::vector<nlohmann::json> rows;
  for (std::string line; std::getline(file, line);) rows.push_back(nlohmann::json::parse(line));
  return rows;
}

TEST(MathCases, GeneratedPairs) {
  const std::vector<nlohmann::json> rows = rows_of("cases.jsonl");
  ASSERT_GE(rows.size(), 1000u);
  for (const nlohmann::json& row : rows) {
    EXPECT_EQ(same_answer(row[0].get<std::string>(), row[1].get<std::string>()), row[2].get<bool>()) << row;
    EXPECT_EQ(same_answer(row[1].get<std::string>(), row[0].get<std::string>()), row[2].get<bool>()) << row;
  }
}

TEST(MathCases, PublishedCasesOfMathVerify) {
  const std::vector<nlohmann::json> rows = rows_of("published.jsonl");
  ASSERT_GE(rows.size(), 150u);
  for (const nlohmann::json& row : rows) {
    const bool disagreed = row.size() == 4;
    EXPECT_EQ(verify_math("", row[0].get<std::string>(), row[1].get<std::string>()).correct,
              row[2].get<bool>() != disagreed)
        << row;
  }
}

}  // namespace
}  // namespace contender
