#include "reward/math_words.h"

#include <gtest/gtest.h>

#include <string>

namespace contender {
namespace {

struct Case {
  const char *words, *digits;
};

TEST(MathWords, NumbersInWords) {
  for (const auto& [words, digits] : {Case{"five", "5"},
                                      {"\\text{Twelve}", "12"},
                                      {"$\\text{Zero}$", "0"},
                                      {"twenty-five", "25"},
                                      {"two hundred fifty", "250"},
                                      {"two hundred and fifty", "250"},
                                      {"2 hundred fifty", "250"},
                                      {"2 thousand 5 hundred", "2500"},
                                      {"1,250 thousand", "1250000"},
                                      {"three hundred forty-two thousand one hundred seven", "342107"},
                                      {"a hundred thousand", "100000"},
                                      {"one million two hundred thousand", "1200000"},
                                      {"2.5 million", "2500000"},
                                      {"3 dozens", "36"},
                                      {"negative three", "-3"},
                                      {"-2 hundred", "-200"},
                                      {"minus one half", "-\\frac{1}{2}"},
                                      {"twenty-five percent", "25\\%"},
                                      {"half a percent", "\\frac{1}{2}\\%"},
                                      {"ten per cent", "10\\%"},
                                      {"5 per cent", "5\\%"},
                                      {"three times", "3\\text{ times}"},
                                      {"six cows and", "six cows and"},
                                      {"six brown cows", "6\\text{ brown cows}"},
                                      {"two x", "2 x"},
                                      {"three pi", "3 pi"}})
    EXPECT_EQ(in_digits(words), digits) << words;
}

TEST(MathWords, PartsOfOne) {
  for (const auto& [words, digits] : {Case{"5 halves", "\\frac{5}{2}"},
                                      {"5 tenths", "\\frac{1}{2}"},
                                      {"one-half", "\\frac{1}{2}"},
                                      {"half", "\\frac{1}{2}"},
                                      {"a third", "\\frac{1}{3}"},
                                      {"1 fifth", "\\frac{1}{5}"},
                                      {"two-thirds of them", "\\frac{2}{3}\\text{ of them}"},
                                      {"twenty-five hundredths", "\\frac{1}{4}"},
                                      {"one and a half", "\\frac{3}{2}"},
                                      {"3\\text{ and a half}", "\\frac{7}{2}"},
                                      {"2 and 3 tenths", "\\frac{23}{10}"},
                                      {"-1 and three quarters", "-\\frac{7}{4}"},
                                      {"a hundred and one half", "\\frac{201}{2}"},
                                      {"half a dozen", "6"},
                                      {"half an hour", "\\frac{1}{2}\\text{ hour}"},
                                      {"two and a half million dollars", "2500000\\text{ dollars}"}})
    EXPECT_EQ(in_digits(words), digits) << words;
}

// Lists, ordinals, calculations, and numbers that are in digits already.
TEST(MathWords, EverythingElseStaysAsItIs) {
  for (const std::string text : {"",
                                 "5",
                                 "5 cm",
                                 "5 quarters",
                                 "1 and 2",
                                 "one or two",
                                 "one, two",
                                 "two to one",
                                 "the third",
                                 "third",
                                 "twenty-fifth",
                                 "one twenty-fifth",
                                 "7 fifth",
                                 "two five",
                                 "five times six",
                                 "five times x",
                                 "ten over y",
                                 "three point one",

                                 "2*3 dozen",
                                 "2^3 dozen",
                                 "\\frac{1}{2}\\text{ dozen}",
                                 "hundred",
                                 "none",
                                 "a",
                                 "and",
                                 "-",
                                 "- half a",
                                 "1,25 hundred",
                                 "12.345.6 hundred",
                                 ". hundred",
                                 "1. hundred",
                                 "99999999999999999999 hundred",
                                 "nine hundred billion billion",
                                 "900 thousand billion",
                                 "0.0000001 hundred"})
    EXPECT_EQ(in_digits(text), text) << text;
}

}  // namespace
}  // namespace contender
