#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"
#include "report/chart.h"
#include "report/metrics.h"

namespace contender {
namespace {

namespace fs = std::filesystem;

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

int64_t count_of(const std::string& text, const std::string& piece) {
  int64_t count = 0;
  for (size_t at = text.find(piece); at != std::string::npos; at = text.find(piece, at + piece.size()))
    ++count;
  return count;
}

// Every opened element is closed in order; void elements and the doctype aside.
std::string unbalanced_element(const std::string& html) {
  std::vector<std::string> open;
  for (size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const size_t end = html.find('>', at);
    if (end == std::string::npos) return "unfinished <";
    const std::string inside = html.substr(at + 1, end - at - 1);
    const bool closing = inside.starts_with("/");
    const std::string name =
        inside.substr(closing ? 1 : 0, inside.find_first_of(" />\n", 1) - (closing ? 1 : 0));
    if (name == "!doctype" || name == "meta" || inside.ends_with("/")) continue;
    if (!closing) {
      open.push_back(name);
    } else if (open.empty() || open.back() != name) {
      return name;
    } else {
      open.pop_back();
    }
  }
  return open.empty() ? "" : open.back();
}

class ReportTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "/report_test." + std::to_string(::getpid());
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }
  void write(const std::string& name, const std::string& text) {
    fs::create_directories(fs::path(dir_ + "/" + name).parent_path());
    std::ofstream(dir_ + "/" + name, std::ios::binary) << text;
  }
  std::string dir_;
};

TEST_F(ReportTest, EscapesEverything) {
  EXPECT_EQ(html_escape("<a href=\"x\">'&"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
  EXPECT_EQ(html_escape("a\x01\nb"), "a&#x2401;\nb");
  EXPECT_EQ(html_escape("\xff"
                        "ok\xe6\x97"),
            "\xEF\xBF\xBDok\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(html_escape("\u202Eabc 日"),
            "\xEF\xBF\xBD"
            "abc 日");
}

TEST_F(ReportTest, TicksAreRoundAndInside) {
  EXPECT_EQ(nice_ticks(0, 1, 4), (std::vector<double>{0, 0.25, 0.5, 0.75, 1}));
  EXPECT_EQ(nice_ticks(-3, 12, 4), (std::vector<double>{0, 5, 10}));
  EXPECT_TRUE(nice_ticks(1, 1, 4).empty());
  EXPECT_TRUE(nice_ticks(NAN, 1, 4).empty());
  for (const double low : {-1e6, -1.0, 0.0, 1e-9, 123.456}) {
    for (const double span : {1e-3, 0.3, 17.0, 1e7}) {
      const std::vector<double> ticks = nice_ticks(low, low + span, 4);
      EXPECT_LE(ticks.size(), 6u);
      for (const double t : ticks) EXPECT_TRUE(t >= low - 1e-6 * span && t <= low + 1.000001 * span);
    }
  }
}

TEST_F(ReportTest, NoMetricsIsAConfigError) {
  try {
    write_report(dir_);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kConfig);
    EXPECT_NE(std::string(e.what()).find("metrics.jsonl"), std::string::npos);
  }
}

TEST_F(ReportTest, PageHasCurvesStagesSamplesAndSubRuns) {
  {
    MetricWriter writer(dir_, false);
    for (int64_t step = 1; step <= 20; ++step) {
      MetricRecord record;
      record.set("loss", 1.0 / static_cast<double>(step));
      record.set("my_number", 1e-7 * static_cast<double>(step));
      record.set_seconds("forward", 2.0);
      writer.write("sft", step, record);
    }
    for (int64_t step = 1; step <= 50; ++step) {
      MetricRecord record;
      record.set("accuracy", static_cast<double>(step) / 50);
      record.set("entropy", step == 3 ? NAN : 1.0);
      if (step % 10 == 0) record.set("eval_accuracy", 0.5);
      record.set_seconds("gen", 6.0);
      writer.write("r<l>", step, record);
    }
  }
  fs::create_directories(dir_ + "/countdown");
  fs::copy_file(dir_ + "/metrics.jsonl", dir_ + "/countdown/metrics.jsonl");
  write("summary.json",
        R"({"accuracy_before":0.29,"accuracy_after":0.93,"tokens_trained":1234567,"task":"<b>add</b>"})");
  write("samples.json", R"([{"prompt":"1+1","answer":"2","before":"<think>?<script>alert(1)</script>","after":
    "<think>1 1</think><answer>2</answer>","before_correct":false,"after_correct":true},7])");
  const std::string path = write_report(dir_);
  EXPECT_EQ(path, dir_ + "/report.html");
  const std::string page = read_file(path);
  EXPECT_EQ(unbalanced_element(page), "");
  EXPECT_EQ(count_of(page, "<script"), 0);
  EXPECT_EQ(count_of(page, "http"), 0);
  EXPECT_EQ(count_of(page, "<b>add</b>"), 0);
  EXPECT_EQ(count_of(page, "<svg"), 2 * 4);  // accuracy, entropy, loss, my_number; twice
  EXPECT_EQ(count_of(page, "class=\"mark s1\""), 2 * 5);
  EXPECT_EQ(count_of(page, "1 not finite"), 2);
  EXPECT_NE(page.find("r&lt;l&gt;"), std::string::npos);
  EXPECT_NE(page.find("<h2>countdown</h2>"), std::string::npos);
  EXPECT_NE(page.find("0.290</span>"), std::string::npos);
  EXPECT_NE(page.find("1\u202F234\u202F567"), std::string::npos);
  EXPECT_NE(page.find("gen 5:00 (88.2%)"), std::string::npos);
  EXPECT_NE(page.find("<span class=\"answer\">2</span>"), std::string::npos);
  EXPECT_NE(page.find("&lt;script&gt;"), std::string::npos);
}

TEST_F(ReportTest, DamagedInputStillGivesAPage) {
  write("metrics.jsonl",
        "{\"stage\":\"rl\",\"step\":1,\"reward\":1}\nnot "
        "json\n[1]\n\n{\"step\":\"x\",\"reward\":\"NaN\"}\n{\"seconds\":3}\n");
  write("summary.json", "{");
  write("samples.json", "{\"prompt\":1}");
  const std::string page = read_file(write_report(dir_));
  EXPECT_EQ(unbalanced_element(page), "");
  EXPECT_EQ(count_of(page, "<svg"), 1);
  write("metrics.jsonl", "");
  EXPECT_NE(read_file(write_report(dir_)).find("No step"), std::string::npos);
}

TEST_F(ReportTest, LongRunsStaySmall) {
  std::string lines;
  for (int64_t step = 1; step <= 20000; ++step)
    lines += "{\"stage\":\"rl\",\"step\":" + std::to_string(step) +
             ",\"reward\":" + std::to_string(step % 17) + "}\n";
  write("metrics.jsonl", lines);
  write_report(dir_);
  EXPECT_LT(fs::file_size(dir_ + "/report.html"), 200'000u);
}

}  // namespace
}  // namespace contender
