#include "report/metrics.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace contender {
namespace {

namespace fs = std::filesystem;

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class MetricsTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "/metrics_test." + std::to_string(::getpid());
    fs::remove_all(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }
  std::string path() const { return dir_ + "/metrics.jsonl"; }
  std::string dir_;
};

MetricRecord loss_record(double loss) {
  MetricRecord record;
  record.set("loss", loss);
  return record;
}

TEST_F(MetricsTest, RecordKeepsOrderAndEveryBit) {
  MetricRecord record;
  record.set("zeta", 0.1);
  record.set("alpha", int64_t{9007199254740993});
  record.set("note", std::string("say \"hi\"\n\xff"));
  record.set("nan", NAN);
  record.set("inf", -INFINITY);
  record.set_seconds("gen", 0.25);
  EXPECT_EQ(
      record.json(),
      "{\"zeta\":0.10000000000000001,\"alpha\":9007199254740993,\"note\":\"say \\\"hi\\\"\\n\xEF\xBF\xBD\","
      "\"nan\":\"NaN\",\"inf\":\"-Infinity\",\"seconds\":{\"gen\":0.25}}");
  record.set("zeta", 2.0);  // set again: same place
  EXPECT_TRUE(record.json().starts_with("{\"zeta\":2,"));
  EXPECT_EQ(record.number("zeta"), 2.0);
  EXPECT_EQ(record.number("missing", -1), -1);
  EXPECT_EQ(MetricRecord().json(), "{}");
  for (double v = 1.1e-300; v < 1e300; v *= 12345.678) {
    const nlohmann::json json = nlohmann::json::parse(loss_record(v).json());
    EXPECT_EQ(json["loss"].get<double>(), v);
  }
}

TEST_F(MetricsTest, WriterAppendsAndCuts) {
  {
    MetricWriter writer(dir_ + "/deep/er", false);
    writer.write("sft", 1, loss_record(0.5));
    EXPECT_EQ(writer.lines(), 1);
    writer.write("s\"", 2, MetricRecord());
  }
  EXPECT_EQ(read_file(dir_ + "/deep/er/metrics.jsonl"),
            "{\"stage\":\"sft\",\"step\":1,\"loss\":0.5}\n{\"stage\":\"s\\\"\",\"step\":2}\n");
}

TEST_F(MetricsTest, ResumeDropsWhatTheCheckpointDidNotKnow) {
  std::string straight;
  {
    MetricWriter writer(dir_, true);
    for (int64_t step = 1; step <= 6; ++step)
      writer.write("rl", step, loss_record(1.0 / static_cast<double>(step)));
    straight = read_file(path());
  }
  std::ofstream(path(), std::ios::app) << "{\"stage\":\"rl\",\"st";  // killed in the middle of a line
  {
    MetricWriter writer(dir_, true);
    EXPECT_EQ(writer.lines(), 6);
    writer.truncate(4);
    EXPECT_EQ(writer.lines(), 4);
    for (int64_t step = 5; step <= 6; ++step)
      writer.write("rl", step, loss_record(1.0 / static_cast<double>(step)));
    writer.truncate(99);  // more than there is: said, not fatal
    EXPECT_EQ(writer.lines(), 6);
  }
  EXPECT_EQ(read_file(path()), straight);
  int64_t event_files = 0;
  for (const auto& entry : fs::directory_iterator(dir_))
    event_files += entry.path().filename() != "metrics.jsonl" ? 1 : 0;
  EXPECT_EQ(event_files, 1);
}

TEST_F(MetricsTest, UnwritableDirectoryIsAStorageErrorWithThePath) {
  fs::create_directories(dir_);
  std::ofstream(dir_ + "/file") << "x";
  try {
    MetricWriter writer(dir_ + "/file/run", false);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kStorage);
    EXPECT_NE(std::string(e.what()).find(dir_ + "/file/run"), std::string::npos);
  }
}

TEST_F(MetricsTest, PlainLineHasTheColumnsThatThereAre) {
  MetricRecord record;
  record.set("accuracy", 0.5);
  record.set("kl", 1.234e-3);
  record.set("matrix_share", 0.4567);
  record.set_seconds("gen", 0.25);
  const std::string line = plain_step_line("rl", 7, 200, record);
  EXPECT_EQ(line,
            "rl               7/200 | accuracy    0.500 | kl  1.23e-3 | gen   0.250s | matrix    45.7%");
  EXPECT_EQ(plain_step_line("rl", 123, 200, record).size(), line.size());
}

}  // namespace
}  // namespace contender
