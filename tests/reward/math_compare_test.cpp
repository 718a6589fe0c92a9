#include "reward/math_compare.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

namespace contender {
namespace {

struct Pair {
  const char *given, *expected;
};

void expect_same(std::initializer_list<Pair> pairs) {
  for (const auto& [a, b] : pairs) {
    EXPECT_TRUE(same_answer(a, b)) << a << "  |  " << b;
    EXPECT_TRUE(same_answer(b, a)) << b << "  |  " << a;
  }
}
void expect_different(std::initializer_list<Pair> pairs) {
  for (const auto& [a, b] : pairs) {
    EXPECT_FALSE(same_answer(a, b)) << a << "  |  " << b;
    EXPECT_FALSE(same_answer(b, a)) << b << "  |  " << a;
  }
}

TEST(MathCompare, NumbersHaveExactValues) {
  expect_same({{"7,425,000", "7425000"},
               {"1 000", "1000"},
               {"1\\,000", "1000"},
               {"14{,}916", "14916"},
               {"\\frac{1}{2}", "0.5"},
               {"\\dfrac12", ".5"},
               {"1\\frac{1}{2}", "3/2"},
               {"1 1/2", "1.5"},
               {"-1\\frac{1}{2}", "-\\tfrac{3}{2}"},
               {"0.\\overline{3}", "1/3"},
               {"0.1\\overline{6}", "1/6"},
               {"1.5e3", "1500"},
               {"2^{10}", "1024"},
               {"2^10", "1024"},
               {"5!", "120"},
               {"\\binom{5}{2}", "10"},
               {"\\sqrt{16}", "4"},
               {"\\sqrt[3]{27}", "3"},
               {"\\lfloor 3.7 \\rfloor", "3"},
               {"\\lfloor -\\frac{7}{2} \\rfloor", "-4"},
               {"\\lceil -\\frac{7}{2} \\rceil", "-3"},
               {"\\gcd(12, 18)", "6"},
               {"\\operatorname{lcm}(4, 6)", "12"},
               {"−5", "-5"},
               {"½", "0.5"},
               {"\\mathbf{12}", "12"},
               {"\\text{12}", "12"},
               {"\\boldsymbol{\\frac{1}{2}}", "0.5"},
               {"3×10²", "300"}});
  expect_different(
      {{"0.333", "1/3"},
       {"12", "1 2"},
       {"1,2", "12"},
       {"1e999", "1e998"},
       {"1e999", "\\infty"},
       {"100000000000000000000000000000000000000000", "100000000000000000000000000000000000000001"},
       {"１２", "12"},
       {"١٢", "12"},
       {"𝟏𝟐", "12"},
       {"1/0", "1"},
       {"NaN", "1"}});
}

TEST(MathCompare, OtherNumbersByEnclosures) {
  expect_same({{"2\\sqrt{2}", "\\sqrt{8}"},
               {"\\frac{\\sqrt3}{3}", "1/\\sqrt{3}"},
               {"\\sqrt{3+2\\sqrt2}", "1+\\sqrt{2}"},
               {"e^{i\\pi}", "-1"},
               {"(1+i)^2", "2i"},
               {"\\log_2 8", "3"},
               {"\\ln e^2", "2"},
               {"\\sin(30^\\circ)", "1/2"},
               {"\\arctan 1", "\\frac{\\pi}{4}"},
               {"\\sqrt{-4}", "2i"},
               {"\\sqrt[3]{-8}", "-2"}});
  expect_different({{"\\sqrt{2}", "1.41421"},  // five places are a number of their own
                    {"\\pi", "22/7"},
                    {"e^{-200}", "e^{-201}"},
                    {"e^{-200}", "0"},
                    {"\\sqrt{2}", "\\sqrt{3}"}});
  expect_same({{"\\sqrt{2}", "1.414214"}, {"6\\pi", "18.849556"}, {"0.333333", "1/3"}});
  expect_different({{"\\sqrt{2}", "1.414213"}, {"0.333334", "1/3"}, {"0.3333331", "1/3"}});
}

TEST(MathCompare, MarksAndUnits) {
  expect_same({{"28\\%", "0.28"},
               {"28 percent", "28"},
               {"90^\\circ", "90"},
               {"90^{\\circ}", "\\frac{\\pi}{2}"},
               {"90 degrees", "90°"},
               {"5 \\text{ cm}", "5"},
               {"5\\text{ in}^2", "5 square inches"},
               {"60\\text{ mph}", "60 miles per hour"},
               {"60 km/h", "60\\text{ km per hour}"},
               {"9.8 m/s^2", "9.8"},
               {"5\\mathrm{~cm}^{2}", "5 square centimeters"},
               {"$18.00", "18"},
               {"\\$18", "18 dollars"},
               {"52_8", "52"}});
  expect_different({{"28\\%", "0.28\\%"},
                    {"28", "0.28"},
                    {"5 cm", "5 m"},
                    {"5\\text{ cm}^2", "5\\text{ cm}^3"},
                    {"52_8", "52_9"},
                    {"52_8", "42"}});
}

TEST(MathCompare, NumberWordsAreNoUnits) {
  expect_same({{"3 million", "3,000,000"},
               {"2.5\\text{ Million dollars}", "2500000"},
               {"\\frac{1}{2}\\text{ dozen}", "6"},
               {"3 hundred thousand people", "300000"},
               {"5 parts per million", "5"},
               {"5 negative integers", "5"},
               {"5 inches squared", "5 in^2"}});
  expect_different({{"5 billion", "5 million"},
                    {"5", "5\\text{ million}"},
                    {"5", "5\\text{ and a half million}"},
                    {"5 hundred", "5"},
                    {"5\\text{ dozen}", "5"},
                    {"5 squared", "5"},
                    {"5 cubed", "5"},
                    {"5 below zero", "5"},
                    {"5\\text{ degrees below zero}", "5"},
                    {"5 negative", "5"}});
}

TEST(MathCompare, NumbersInWordsAreNumbers) {
  expect_same({{"5 halves", "\\frac{5}{2}"},
               {"\\text{5 tenths}", "0.5"},
               {"2 hundred fifty", "250"},
               {"one and a half", "1.5"},
               {"two", "\\text{2}"},
               {"twenty-five percent", "0.25"},
               {"half a dozen eggs", "6"},
               {"two-thirds", "\\text{two thirds}"},
               {"7 quarters", "7"},  // coins
               {"7 quarters", "7/4"},
               {"three quarters", "0.75"},
               {"Zero", "0"}});
  expect_different({{"5 halves", "5"},
                    {"5 tenths", "5"},
                    {"2 hundred fifty", "200"},
                    {"2 hundred fifty", "2"},
                    {"one", "eno"},
                    {"five", "six"},
                    {"one or two", "1"},
                    {"7 quarters", "7 halves"},
                    {"3 quarterbacks", "3/4"},
                    {"the third", "1/3"}});
}

TEST(MathCompare, BrokenTextIsTheSameBothWays) {
  expect_same({{"\\text{(C){", "C"}, {"\\text{(C){", "\\text{C"}});
  expect_different({{"\\text{(C){", "D"}, {"\\text{(C){", "\\text{D"}});
}

TEST(MathCompare, NumbersTooLargeToCompareAreNoWords) {
  expect_different({{"2023", "2023!"},
                    {"2023", "2023!!"},
                    {"10001!", "10001"},
                    {"2024-1", "2024!-1"},
                    {"\\text{the 5! of them}", "\\text{the 5 of them}"},
                    {"n!", "n"}});
}

TEST(MathCompare, SmallDecimalsAreNotWhatRoundsToZero) {
  expect_different({{"0.000000", "\\frac{1}{2598960}"},
                    {"0.0000004", "0.000000"},
                    {"0.000001", "\\frac{1}{900000}"},
                    {"0.00000000000000000000", "10^{-30}"}});
  expect_same({{"0.000000384769", "\\frac{1}{2598960}"}, {"0.000000", "0"}, {"-0.333333", "-1/3"}});
}

TEST(MathCompare, ExpressionsAreFunctionsOfTheirSymbols) {
  expect_same({{"(x+1)^2", "x^2+2x+1"},
               {"\\frac{x^2-1}{x-1}", "x+1"},
               {"x(x-y)", "x^2-xy"},
               {"\\frac{a}{b}+\\frac{c}{d}", "\\frac{ad+bc}{bd}"},
               {"\\sin^2 x+\\cos^2 x", "1"},
               {"\\sin 2x", "2\\sin x\\cos x"},
               {"e^{2x}", "(e^x)^2"},
               {"\\sqrt{x^2}", "|x|"},
               {"x_1+x_2", "x_2+x_{1}"},
               {"x^{-1}", "1/x"}});
  expect_different({{"(x+1)^2", "x^2+2x+2"},
                    {"\\sqrt{x^2}", "x"},
                    {"x", "y"},
                    {"x_1", "x_2"},
                    {"X", "x"},
                    {"\\sin x", "\\cos x"},
                    {"5x", "5"}});
}

TEST(MathCompare, Collections) {
  expect_same(
      {{"\\{1,2\\}", "\\{2,1\\}"},
       {"2, 1", "\\{1,2\\}"},
       {"12\\text{ and }13", "13, 12"},
       {"(1,2)", "1, 2"},
       {"\\{5\\}", "5"},
       {"1\\pm\\sqrt{2}", "1+\\sqrt2, 1-\\sqrt2"},
       {"\\pm 3", "-3, 3"},
       {"\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{bmatrix}1&2\\\\3&\\frac82\\end{bmatrix}"},
       {"\\begin{pmatrix}1\\\\2\\end{pmatrix}", "(1,2)"},
       {"\\emptyset", "\\{\\}"}});
  expect_different({{"(1,2)", "(2,1)"},
                    {"(1,2)", "\\{1,2\\}"},
                    {"1,2,3", "1,2"},
                    {"1,1", "1,2"},
                    {"1,1,2", "1,2,2"},
                    {"\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{pmatrix}1&3\\end{pmatrix}"}});
}

TEST(MathCompare, SetsOfRealNumbers) {
  expect_same({{"(-\\infty,2)\\cup(2,\\infty)", "\\mathbb{R}\\setminus\\{2\\}"},
               {"x>5", "(5,\\infty)"},
               {"5<x", "x>5"},
               {"3 < x \\le 5", "(3,5]"},
               {"x<1 \\text{ or } x>3", "(3,\\infty)\\cup(-\\infty,1)"},
               {"[0,1]\\cup[1,2]", "[0,2]"},
               {"[0,5]\\cap[3,9]", "[3,5]"},
               {"x\\in[1,2]", "[1,2]"},
               {"\\{x \\mid x>2\\}", "(2,\\infty)"},
               {"\\{x\\in\\mathbb{R}: x\\ne 2\\}", "\\mathbb{R}\\setminus\\{2\\}"},
               {"\\text{all real numbers}", "(-\\infty,\\infty)"},
               {"x\\ne 2", "(-\\infty,2)\\cup(2,\\infty)"}});
  expect_different({{"[0,1)", "[0,1]"},
                    {"(0,9)", "[0,9)"},
                    {"x>5", "x\\ge 5"},
                    {"x>5", "5"},
                    {"[0,1)\\cup(1,2]", "[0,2]"},
                    {"(-\\infty,2)", "(2,\\infty)"}});
}

TEST(MathCompare, Relations) {
  expect_same({{"x=5", "5"},
               {"x = 2 + 3 = 5", "5"},
               {"y=2x+3", "2x-y+3=0"},
               {"x=1 \\text{ or } x=2", "\\{1,2\\}"},
               {"x=1, y=2", "(1,2)"},
               {"f(x)=x^2", "x^2"},
               {"2x+4y\\le 6", "4y+2x\\le 6"}});
  expect_different({{"x=5", "x=6"}, {"x=5", "y=5"}, {"y=2x+3", "y=2x+4"}, {"x+y<1", "x+y\\le 1"}});
}

TEST(MathCompare, LettersAndWords) {
  expect_same({{"\\text{Evelyn}", "evelyn"},
               {"\\text{(C)}", "C"},
               {"Yes", "\\textbf{yes}"},
               {"yes!", "Yes"},
               {"2:30 p.m.", "2:30 PM"},
               {"\\text{May 5, 2020}", "May 5 2020"}});
  EXPECT_TRUE(same_answer("C) $\\frac12$", "C"));
  EXPECT_TRUE(same_answer("(C) 12", "(C)"));
  EXPECT_TRUE(same_answer("C. red", "C"));
  expect_same({{"xy", "yx"}, {"\\text{ABC}", "ABC"}});
  expect_different({{"no", "on"},
                    {"ABC", "CAB"},
                    {"2:30 PM", "2:30 AM"},
                    {"no", "no solution"},
                    {"A:B=1", "A"},
                    {"1:2", "(1,2)"},
                    {"1:2", "1<x<2"},
                    {"\\angle ABC", "\\angle BAC"}});
  expect_different({{"D", "C"}, {"\\text{Cat}", "C"}, {"yes", "no"}, {"C or D", "C"}, {"", ""}});
}

// Refused before anything is computed, or small however large they look. Each in far less than its 3 s.
TEST(MathCompare, Bombs) {
  const std::string parentheses = std::string(60'000, '(') + "1" + std::string(60'000, ')');
  const std::string towers = "2^" + std::string(300, '{') + "2" + std::string(300, '}');
  std::string sums = "1";
  for (int i = 0; i < 3000; ++i) sums += "+1";
  std::string powers = "x+y+z+u+v+w";
  for (int i = 0; i < 6; ++i) powers = "(" + powers + ")^{9}";
  std::string products = "9";
  for (int i = 0; i < 30; ++i) products = "(" + products + ")^2";
  for (const std::string& bomb : {std::string("5^(5^(5^(5^5)))"),
                                  std::string("9^(9^9)"),
                                  std::string("factorial(10^7)"),
                                  std::string("(10^7)!"),
                                  std::string("((((9!)!)!)!)!"),
                                  std::string("\\sum_{i=1}^{10^9} i"),
                                  std::string("1e999999999"),
                                  std::string("1e99999"),
                                  std::string("e^{e^{e^{e^{e^{9}}}}}"),
                                  std::string("\\sin(10^{10^{9}})"),
                                  std::string("\\binom{10^9}{10^8}"),
                                  std::string("2^{0.5^{-9999999}}"),
                                  std::string("x^{10^{12}}"),
                                  std::string("(x+1)^{100000}"),
                                  std::string("\\sqrt[10^{12}]{2}"),
                                  parentheses,
                                  towers,
                                  sums,
                                  powers,
                                  products}) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_FALSE(same_answer(bomb, "3")) << bomb.substr(0, 40);
    EXPECT_FALSE(same_answer(bomb, "x^2+1")) << bomb.substr(0, 40);
    EXPECT_FALSE(same_answer(bomb, bomb + "+1/3")) << bomb.substr(0, 40);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(3)) << bomb.substr(0, 40);
  }
}

}  // namespace
}  // namespace contender
