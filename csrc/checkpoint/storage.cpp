#include "checkpoint/storage.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/job.h"

namespace contender {
namespace {

// -1: not known.
int64_t free_bytes(const std::string& path) {
  struct statvfs info {};
  const std::string dir = std::filesystem::path(path).parent_path().string();
  if (::statvfs(dir.empty() ? "." : dir.c_str(), &info) != 0) return -1;
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

// A descriptor that is closed on every way out.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

int64_t read_fully(int fd, char* data, int64_t bytes) {
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t n = ::read(fd, data + done, static_cast<size_t>(bytes - done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) break;
    done += n;
  }
  return done;
}

}  // namespace

std::string xxh3_128_hex(const void* data, int64_t bytes) {
  const XXH128_hash_t h = XXH3_128bits(data, static_cast<size_t>(bytes));
  return fmt::format("{:016x}{:016x}", h.high64, h.low64);
}

std::string file_problem(const std::string& path, const FileRecord& record) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0)
    return fmt::format("{}: {}", record.name, errno == ENOENT ? "missing" : std::strerror(errno));
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) return fmt::format("{}: {}", record.name, std::strerror(errno));
  if (info.st_size != record.bytes)
    return fmt::format("{}: {} bytes instead of {}", record.name, static_cast<int64_t>(info.st_size),
                       record.bytes);
  std::vector<char> chunk(static_cast<size_t>(std::min(kHashChunkBytes, record.bytes)));
  for (size_t c = 0; c < record.chunk_hashes.size(); ++c) {
    const int64_t begin = static_cast<int64_t>(c) * kHashChunkBytes;
    const int64_t bytes = std::min(kHashChunkBytes, record.bytes - begin);
    if (read_fully(file.fd, chunk.data(), bytes) != bytes)
      return fmt::format("{}: cannot read bytes {} to {}: {}", record.name, begin, begin + bytes,
                         std::strerror(errno));
    if (xxh3_128_hex(chunk.data(), bytes) != record.chunk_hashes[c])
      return fmt::format("{}: checksum of bytes {} to {} does not match", record.name, begin, begin + bytes);
  }
  return "";
}

std::string read_small_file(const std::string& path, int64_t max_bytes) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat info {};
  if (file.fd < 0 || ::fstat(file.fd, &info) != 0)
    fail(ExitCode::kStorage, "{}: {}", path, std::strerror(errno));
  if (!S_ISREG(info.st_mode)) fail(ExitCode::kStorage, "{}: not a file", path);
  if (info.st_size > max_bytes)
    fail(ExitCode::kStorage, "{}: {} bytes, at most {} expected", path, static_cast<int64_t>(info.st_size),
         max_bytes);
  std::string text(static_cast<size_t>(info.st_size), '\0');
  const int64_t n = read_fully(file.fd, text.data(), info.st_size);
  if (n < 0) fail(ExitCode::kStorage, "{}: read failed: {}", path, std::strerror(errno));
  text.resize(static_cast<size_t>(n));
  return text;
}

Storage::Storage(int rank) : rank_(rank) {
  if (fault_fires("crash_write", rank)) crash_after_ = std::atoll(fault_param("crash_write").c_str());
}

void Storage::after_operation() {
  if (++operations_ == crash_after_) ::raise(SIGKILL);
}

void Storage::make_dir(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) fail(ExitCode::kStorage, "{}: cannot create the directory: {}", path, error.message());
}

void Storage::rename(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0)
    fail(ExitCode::kStorage, "{}: cannot rename to {}: {}", from, to, std::strerror(errno));
  after_operation();
}

void Storage::sync_dir(const std::string& path) {
  const Descriptor dir{::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (dir.fd < 0 || ::fsync(dir.fd) != 0)
    fail(ExitCode::kStorage, "{}: cannot sync the directory: {}", path, std::strerror(errno));
  after_operation();
}

FileRecord Storage::write_file(const std::string& path, const std::string& text) {
  HashedFile file(*this, path, static_cast<int64_t>(text.size()));
  file.write(text.data(), static_cast<int64_t>(text.size()));
  return file.finish();
}

HashedFile::HashedFile(Storage& storage, const std::string& path, int64_t total_bytes)
    : storage_(storage), path_(path), total_bytes_(total_bytes) {
  fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_call("open", errno);
  record_.name = std::filesystem::path(path).filename().string();
  buffer_.reserve(static_cast<size_t>(std::min(kHashChunkBytes, total_bytes)));
}

HashedFile::~HashedFile() {
  if (fd_ >= 0) ::close(fd_);
}

void HashedFile::write(const void* data, int64_t bytes) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const int64_t n = std::min(bytes, kHashChunkBytes - static_cast<int64_t>(buffer_.size()));
    buffer_.insert(buffer_.end(), from, from + n);
    from += n;
    bytes -= n;
    if (static_cast<int64_t>(buffer_.size()) == kHashChunkBytes) flush();
  }
}

void HashedFile::flush() {
  if (buffer_.empty()) return;
  record_.chunk_hashes.push_back(xxh3_128_hex(buffer_.data(), static_cast<int64_t>(buffer_.size())));
  for (size_t done = 0; done < buffer_.size();) {
    if (fault_fires("disk_full", storage_.rank())) fail_call("write", ENOSPC);
    if (fault_fires("eio", storage_.rank())) fail_call("write", EIO);
    const ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_call("write", errno);
    done += static_cast<size_t>(n);
    storage_.after_operation();
  }
  record_.bytes += static_cast<int64_t>(buffer_.size());
  buffer_.clear();
}

FileRecord HashedFile::finish() {
  flush();
  if (fault_fires("fsync", storage_.rank())) fail_call("fsync", EIO);
  if (::fsync(fd_) != 0) fail_call("fsync", errno);
  storage_.after_operation();
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0) fail_call("close", errno);
  return record_;
}

void HashedFile::fail_call(const char* call, int error) const {
  fail(ExitCode::kStorage, "{}: {} failed: {} ({} of {} bytes written, {} bytes free)", path_, call,
       std::strerror(error), record_.bytes, total_bytes_, free_bytes(path_));
}

}  // namespace contender
