#include "report/text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace contender {
namespace {

TEST(ReportText, WidthCountsColumnsNotBytes) {
  EXPECT_EQ(display_width("abc"), 3);
  EXPECT_EQ(display_width("e\u0301"), 1);
  EXPECT_EQ(display_width("日本"), 4);
  EXPECT_EQ(display_width("▏█"), 2);
  EXPECT_EQ(display_width("\x1b[1;38;5;41mok\x1b[0m"), 2);
  EXPECT_EQ(display_width("\xff\xfe"), 2);
  EXPECT_EQ(display_width("\x1b["), 0);
  EXPECT_EQ(display_width(""), 0);
}

TEST(ReportText, ClipKeepsWholeCharactersAndSwitchesColoursOff) {
  EXPECT_EQ(clip_to_width("日本語", 5), "日本");
  EXPECT_EQ(clip_to_width("\x1b[31mabcdef\x1b[0m", 3), "\x1b[31mabc\x1b[0m");
  EXPECT_EQ(clip_to_width("日a", 1), "");  // nothing after the first that did not fit
  EXPECT_EQ(pad_left("日", 4), "  日");
  EXPECT_EQ(pad_right("toolong", 3), "toolong");
}

TEST(ReportText, NothingFromAModelReachesTheTerminalRaw) {
  EXPECT_EQ(printable("a\x1b[31mb\a\r"), "a\\x1B[31mb\\x07\\x0D");
  EXPECT_EQ(printable(std::string_view("\0\x7f", 2)), "\\x00\\x7F");
  EXPECT_EQ(printable("\xff\xc3(\xe6\x97"), "\\xFF\\xC3(\\xE6\\x97");
  EXPECT_EQ(printable("\xc2\x9b"
                      "31m"),
            "\\xC2\\x9B31m");  // CSI as one character
  EXPECT_EQ(printable("1\t2\n日本 é ✓"), "1\t2\n日本 é ✓");
  EXPECT_EQ(printable_line("1\t2\n日本\x01"), "1\\t2\\n日本\\x01");
  std::string every;
  for (int c = 0; c < 256; ++c) every += static_cast<char>(c);
  for (const char c : printable_line(every)) EXPECT_TRUE(c >= 0x20 && c < 0x7F) << int{c};
}

TEST(ReportText, NumbersHaveThreeDigits) {
  EXPECT_EQ(compact_number(0), "0");
  EXPECT_EQ(compact_number(0.73449), "0.734");
  EXPECT_EQ(compact_number(12.345), "12.3");
  EXPECT_EQ(compact_number(999.6), "1000");
  EXPECT_EQ(compact_number(4567), "4567");
  EXPECT_EQ(compact_number(12345), "12.3k");
  EXPECT_EQ(compact_number(2.5e6), "2.50M");
  EXPECT_EQ(compact_number(-0.00123), "-1.23e-3");
  EXPECT_EQ(compact_number(1.5e20), "1.50e20");
  EXPECT_EQ(compact_number(NAN), "nan");
  EXPECT_EQ(compact_number(-INFINITY), "-inf");
  for (double v = 1.2345678e-30; v < 1e30; v *= 3.7) {
    EXPECT_LE(compact_number(v).size(), 8u) << v;
    EXPECT_LE(compact_number(-v).size(), 9u) << v;
  }
  EXPECT_EQ(compact_duration(8.44), "8.4s");
  EXPECT_EQ(compact_duration(72), "1:12");
  EXPECT_EQ(compact_duration(7500), "2h05m");
  EXPECT_EQ(compact_duration(NAN), "?");
}

TEST(ReportText, SparklineAndBar) {
  const std::vector<double> rising = {0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(sparkline(rising, 8), "▁▂▃▄▅▆▇█");
  EXPECT_EQ(sparkline(rising, 4), "▁▃▆█");  // means of pairs
  EXPECT_EQ(sparkline(std::vector<double>{0, NAN, 1}, 8), "▁ █");
  EXPECT_EQ(sparkline(std::vector<double>{0.5, 0.5}, 8), "▅▅");
  EXPECT_EQ(sparkline(std::vector<double>{0.5, 2.0}, 8, 0, 1), "▅█");
  EXPECT_EQ(eighth_bar(0.5, 3), "█▌ ");
  EXPECT_EQ(eighth_bar(1, 3), "███");
  EXPECT_EQ(eighth_bar(0.9999, 3), "██▉");
  EXPECT_EQ(eighth_bar(NAN, 2), "  ");
  EXPECT_EQ(display_width(eighth_bar(0.123, 40)), 40);
}

TEST(ReportText, ProgressNeverWraps) {
  std::vector<double> history(300);
  std::iota(history.begin(), history.end(), 0);
  for (double& h : history) h /= 300;
  history[7] = NAN;
  ProgressView view{"日本語 a very long name of a phase", 1234, 200000, 10, 1e9, false, "accuracy", history,
                    {{"len", "23.4"}, {"tok/s", "12.3k"}}};
  for (int64_t columns = 1; columns < 250; ++columns) {
    const std::string line = progress_line(view, columns);
    EXPECT_LE(display_width(line), columns);
    EXPECT_EQ(line.find('\n'), std::string::npos);
  }
  EXPECT_NE(progress_line(view, 200).find("12.3k"), std::string::npos);
  EXPECT_EQ(progress_line(view, 60).find("12.3k"), std::string::npos);
}

TEST(ReportText, ProgressGoesFromRedToGreen) {
  const auto line = [](double accuracy) {
    return progress_line({"rl", 1, 2, 0, 0, false, "accuracy", std::span(&accuracy, 1), {}}, 100);
  };
  EXPECT_NE(line(0.02).find("38;5;167;48"), std::string::npos);
  EXPECT_NE(line(0.98).find("38;5;41;48"), std::string::npos);
  EXPECT_NE(line(NAN).find("nan"), std::string::npos);
}

TEST(ReportText, PlainTableIsAligned) {
  EXPECT_EQ(format_table({{"name", "n"}, {"a", "12.5"}, {"日本", "3"}}, TextStyle::kPlain, 80),
            "name     n\n"
            "----  ----\n"
            "a     12.5\n"
            "日本     3\n");
  EXPECT_EQ(format_table({}, TextStyle::kPlain, 80), "");
  EXPECT_EQ(format_table({{"a"}, {"b", "c"}}, TextStyle::kPlain, 80), "a\n-  -\nb  c\n");
}

TEST(ReportText, BoxTableFitsTheTerminal) {
  const std::vector<std::vector<std::string>> rows = {
      {"prompt", "completion", "score"}, {"12+34", std::string(200, 'x') + "\nsecond line", "0.5"}};
  const std::string table = format_table(rows, TextStyle::kTerminal, 60);
  int64_t lines = 0;
  for (size_t at = 0; at < table.size(); ++lines) {
    const size_t end = table.find('\n', at);
    EXPECT_EQ(display_width(table.substr(at, end - at)), 60);
    at = end + 1;
  }
  EXPECT_EQ(lines, 5);
  EXPECT_NE(table.find("x…"), std::string::npos);
}

}  // namespace
}  // namespace contender
