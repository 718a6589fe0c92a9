// File calls of one save: every failure is Error(kStorage) naming the path, the reason and the bytes wanted
// and free; planned faults (base/job.h: disk_full, eio, fsync, crash_write) happen here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace contender {

inline constexpr int64_t kHashChunkBytes = 4 << 20;

// What a reader needs to trust a file: its size and the XXH3-128 of each chunk of kHashChunkBytes, as 32 hex
// digits.
struct FileRecord {
  std::string name;  // within the checkpoint's directory
  int64_t bytes = 0;
  std::vector<std::string> chunk_hashes;
};

std::string xxh3_128_hex(const void* data, int64_t bytes);

// "" when the file is what the record says, otherwise what is wrong with it.
std::string file_problem(const std::string& path, const FileRecord& record);

// Whole file; Error(kStorage) when it cannot be read or is larger than max_bytes.
std::string read_small_file(const std::string& path, int64_t max_bytes);

class Storage {
 public:
  explicit Storage(int rank);  // of the job: selects the planned faults
  void make_dir(const std::string& path);
  void rename(const std::string& from, const std::string& to);
  void sync_dir(const std::string& path);
  // A whole small file: create, write, fsync, close.
  FileRecord write_file(const std::string& path, const std::string& text);
  int rank() const { return rank_; }

 private:
  friend class HashedFile;
  void after_operation();  // of a write, rename or fsync: crash_write counts them

  int rank_;
  int64_t crash_after_ = -1;
  int64_t operations_ = 0;
};

// A new file, hashed while it is written in chunks.
class HashedFile {
 public:
  // total_bytes: for the message when the disk is full.
  HashedFile(Storage& storage, const std::string& path, int64_t total_bytes);
  ~HashedFile();
  HashedFile(const HashedFile&) = delete;
  HashedFile& operator=(const HashedFile&) = delete;
  void write(const void* data, int64_t bytes);
  FileRecord finish();  // flush, fsync, close

 private:
  void flush();
  [[noreturn]] void fail_call(const char* call, int error) const;

  Storage& storage_;
  std::string path_;
  int64_t total_bytes_;
  int fd_ = -1;
  std::vector<char> buffer_;
  FileRecord record_;
};

}  // namespace contender
