// TensorBoard event files: TFRecord frames around hand-written Event protobufs.
//
// Frame: uint64 length | masked CRC-32C of the length | data | masked CRC-32C of the data, little endian
// (tensorflow/core/lib/io/record_writer.h). Event and Summary: tensorflow/core/util/event.proto,
// framework/summary.proto.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace contender {

uint32_t crc32c(std::string_view data);
uint32_t masked_crc32c(std::string_view data);  // as TFRecord stores it

// One event file per directory: an existing one is continued, so that a resumed run is one curve in
// TensorBoard. Record i of the file (after the version record) belongs to line i of metrics.jsonl.
class EventWriter {
 public:
  // Throws Error(kStorage) naming the path.
  explicit EventWriter(const std::string& dir);
  ~EventWriter();
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;

  int64_t records() const { return static_cast<int64_t>(ends_.size()) - 1; }
  // Cuts to `count` records; when there are fewer, records without values make up for them.
  void set_records(int64_t count);
  void write(int64_t step, const std::vector<std::pair<std::string, double>>& scalars);
  const std::string& path() const { return path_; }

 private:
  void append(const std::string& event);

  std::string path_;
  int fd_ = -1;
  std::vector<int64_t> ends_;  // file size after the version record and after each record
};

}  // namespace contender
