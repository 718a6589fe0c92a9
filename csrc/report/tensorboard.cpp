#include "report/tensorboard.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"
#include "report/files.h"

namespace contender {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kCastagnoli = 0x82F63B78;  // reflected polynomial
constexpr int64_t kFrameBytes = 16;           // around the data

std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c & 1) ? (c >> 1) ^ kCastagnoli : c >> 1;
    table[i] = c;
  }
  return table;
}

template <class T>
std::string bytes_of(T value) {
  std::string out(sizeof value, '\0');
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

template <class T>
T value_of(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

// Protobuf: a field is a tag (number << 3 | wire type) and a payload.
enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

std::string varint(uint64_t v) {
  std::string out;
  for (; v >= 0x80; v >>= 7) out += static_cast<char>(v | 0x80);
  return out + static_cast<char>(v);
}
std::string tag(uint32_t field, WireType type) { return varint(field << 3 | type); }
std::string bytes_field(uint32_t field, std::string_view data) {
  return tag(field, kBytes) + varint(data.size()) + std::string(data);
}

std::string wall_time_field() {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  return tag(1, kFixed64) + bytes_of(now.count());  // Event.wall_time = 1
}
std::string version_event() {
  return wall_time_field() + bytes_field(3, "brain.Event:2");
}  // Event.file_version = 3

std::string scalar_event(int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  std::string summary;
  for (const auto& [name, value] : scalars) {
    // Summary.value = 1 {tag = 1, simple_value = 2}
    summary += bytes_field(1, bytes_field(1, name) + tag(2, kFixed32) + bytes_of(static_cast<float>(value)));
  }
  std::string event =
      wall_time_field() + tag(2, kVarint) + varint(static_cast<uint64_t>(step));  // Event.step = 2
  if (!summary.empty()) event += bytes_field(5, summary);                         // Event.summary = 5
  return event;
}

std::string find_or_name_file(const std::string& dir) {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    if (entry.path().filename().string().starts_with("events.out.tfevents."))
      found.push_back(entry.path().string());
  }
  if (!found.empty()) return *std::max_element(found.begin(), found.end());
  char host[256] = "localhost";
  ::gethostname(host, sizeof host - 1);
  const auto seconds =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch());
  return fmt::format("{}/events.out.tfevents.{:010}.{}", dir, seconds.count(), host);
}

// File sizes after each whole frame; a torn or damaged tail is not counted.
std::vector<int64_t> frame_ends(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string data((std::istreambuf_iterator<char>(in)), {});
  const std::string_view all = data;
  std::vector<int64_t> ends;
  uint64_t at = 0;
  while (all.size() - at >= kFrameBytes) {
    const auto length = value_of<uint64_t>(all.substr(at, 8));
    if (length > all.size() - at - kFrameBytes) break;
    if (value_of<uint32_t>(all.substr(at + 8, 4)) != masked_crc32c(all.substr(at, 8))) break;
    if (value_of<uint32_t>(all.substr(at + 12 + length, 4)) != masked_crc32c(all.substr(at + 12, length)))
      break;
    at += kFrameBytes + length;
    ends.push_back(static_cast<int64_t>(at));
  }
  return ends;
}

}  // namespace

uint32_t crc32c(std::string_view data) {
  static const std::array<uint32_t, 256> table = make_crc_table();
  uint32_t c = 0xFFFFFFFF;
  for (const char byte : data) c = table[(c ^ static_cast<uint8_t>(byte)) & 0xFF] ^ (c >> 8);
  return c ^ 0xFFFFFFFF;
}

uint32_t masked_crc32c(std::string_view data) { return std::rotr(crc32c(data), 15) + 0xA282EAD8; }

EventWriter::EventWriter(const std::string& dir) : path_(find_or_name_file(dir)), ends_(frame_ends(path_)) {
  fd_ = open_append(path_);
  cut_file(fd_, path_, ends_.empty() ? 0 : ends_.back());
  if (ends_.empty()) append(version_event());
}

EventWriter::~EventWriter() { ::close(fd_); }

void EventWriter::set_records(int64_t count) {
  if (records() > count) {
    ends_.resize(static_cast<size_t>(count) + 1);
    cut_file(fd_, path_, ends_.back());
  }
  while (records() < count) append(scalar_event(0, {}));
}

void EventWriter::write(int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  append(scalar_event(step, scalars));
}

void EventWriter::append(const std::string& event) {
  const std::string length = bytes_of(static_cast<uint64_t>(event.size()));
  const std::string frame = length + bytes_of(masked_crc32c(length)) + event + bytes_of(masked_crc32c(event));
  write_all(fd_, path_, frame);
  ends_.push_back((ends_.empty() ? 0 : ends_.back()) + static_cast<int64_t>(frame.size()));
}

}  // namespace contender
