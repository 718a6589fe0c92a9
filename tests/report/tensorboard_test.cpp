#include "report/tensorboard.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "base/error.h"

namespace contender {
namespace {

namespace fs = std::filesystem;

// A decoder of its own for the three messages, strict: anything unknown is an error.
struct DecodedEvent {
  double wall_time = 0;
  int64_t step = 0;
  std::string version;
  std::map<std::string, float> scalars;
};

uint64_t take_varint(std::string_view& s) {
  uint64_t v = 0;
  for (int shift = 0; shift < 64 && !s.empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(s[0]);
    s.remove_prefix(1);
    v |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return v;
  }
  throw std::runtime_error("varint");
}
std::string_view take(std::string_view& s, uint64_t bytes) {
  if (bytes > s.size()) throw std::runtime_error("short");
  const std::string_view out = s.substr(0, bytes);
  s.remove_prefix(bytes);
  return out;
}
template <class T>
T take_value(std::string_view& s) {
  T v;
  std::memcpy(&v, take(s, sizeof v).data(), sizeof v);
  return v;
}

void decode_summary_value(std::string_view s, DecodedEvent& event) {
  std::string name;
  while (!s.empty()) {
    const uint64_t tag = take_varint(s);
    if (tag == (1 << 3 | 2)) {
      name = take(s, take_varint(s));
    } else if (tag == (2 << 3 | 5)) {
      event.scalars[name] = take_value<float>(s);
    } else {
      throw std::runtime_error("value field");
    }
  }
}

DecodedEvent decode_event(std::string_view s) {
  DecodedEvent event;
  while (!s.empty()) {
    const uint64_t tag = take_varint(s);
    if (tag == (1 << 3 | 1)) {
      event.wall_time = take_value<double>(s);
    } else if (tag == (2 << 3 | 0)) {
      event.step = static_cast<int64_t>(take_varint(s));
    } else if (tag == (3 << 3 | 2)) {
      event.version = take(s, take_varint(s));
    } else if (tag == (5 << 3 | 2)) {
      std::string_view summary = take(s, take_varint(s));
      while (!summary.empty()) {
        if (take_varint(summary) != (1 << 3 | 2)) throw std::runtime_error("summary field");
        decode_summary_value(take(summary, take_varint(summary)), event);
      }
    } else {
      throw std::runtime_error("event field");
    }
  }
  return event;
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<DecodedEvent> decode_file(const std::string& path) {
  const std::string data = read_file(path);
  std::string_view rest = data;
  std::vector<DecodedEvent> events;
  while (!rest.empty()) {
    const std::string_view length_bytes = rest.substr(0, 8);
    const auto length = take_value<uint64_t>(rest);
    EXPECT_EQ(take_value<uint32_t>(rest), masked_crc32c(length_bytes));
    const std::string_view body = take(rest, length);
    EXPECT_EQ(take_value<uint32_t>(rest), masked_crc32c(body));
    events.push_back(decode_event(body));
  }
  return events;
}

class TensorBoardTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "/tensorboard_test." + std::to_string(::getpid());
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }
  std::string dir_;
};

TEST_F(TensorBoardTest, Crc32cKnownValues) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);            // the check value of the catalogue of CRCs
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
}

TEST_F(TensorBoardTest, FileDecodesBack) {
  EventWriter writer(dir_);
  writer.write(1, {{"sft/loss", 2.5}});
  writer.write(300, {{"rl/accuracy", 0.5}, {"rl/kl", 1e-3}});
  writer.write(301, {});
  const std::vector<DecodedEvent> events = decode_file(writer.path());
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_GT(events[1].wall_time, 1.6e9);
  EXPECT_EQ(events[1].step, 1);
  EXPECT_EQ(events[1].scalars, (std::map<std::string, float>{{"sft/loss", 2.5f}}));
  EXPECT_EQ(events[2].step, 300);
  EXPECT_EQ(events[2].scalars, (std::map<std::string, float>{{"rl/accuracy", 0.5f}, {"rl/kl", 1e-3f}}));
  EXPECT_TRUE(events[3].scalars.empty());
}

TEST_F(TensorBoardTest, OneFileGoesOnAfterCutsAndDamage) {
  std::string path;
  {
    EventWriter writer(dir_);
    path = writer.path();
    for (int64_t step = 1; step <= 5; ++step) writer.write(step, {{"rl/reward", 1.0}});
    writer.set_records(3);
    EXPECT_EQ(writer.records(), 3);
    writer.write(4, {{"rl/reward", 2.0}});
  }
  std::ofstream(path, std::ios::app | std::ios::binary) << "torn";
  EventWriter writer(dir_);
  EXPECT_EQ(writer.path(), path);
  EXPECT_EQ(writer.records(), 4);
  writer.set_records(6);
  writer.write(7, {{"rl/reward", 3.0}});
  const std::vector<DecodedEvent> events = decode_file(path);
  ASSERT_EQ(events.size(), 8u);
  EXPECT_EQ(events[4].scalars.at("rl/reward"), 2.0f);
  EXPECT_TRUE(events[5].scalars.empty());
  EXPECT_EQ(events[7].scalars.at("rl/reward"), 3.0f);
}

TEST_F(TensorBoardTest, FlippedBitEndsTheFileThere) {
  std::string path;
  {
    EventWriter writer(dir_);
    path = writer.path();
    for (int64_t step = 1; step <= 3; ++step) writer.write(step, {{"rl/reward", 1.0}});
  }
  std::string data = read_file(path);
  data[data.size() - 8] ^= 1;  // in the value of the last record
  std::ofstream(path, std::ios::binary) << data;
  EXPECT_EQ(EventWriter(dir_).records(), 2);
}

}  // namespace
}  // namespace contender
