#include "report/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace contender {

void make_dirs(const std::string& dir) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) fail(ExitCode::kStorage, "{}: cannot create the directory: {}", dir, error.message());
}

int open_append(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) fail(ExitCode::kStorage, "{}: cannot open for writing: {}", path, std::strerror(errno));
  return fd;
}

void write_all(int fd, const std::string& path, std::string_view data) {
  while (!data.empty()) {
    const ssize_t n = ::write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ExitCode::kStorage, "{}: write failed: {}", path, std::strerror(errno));
    data.remove_prefix(static_cast<size_t>(n));
  }
}

void cut_file(int fd, const std::string& path, int64_t bytes) {
  if (::ftruncate(fd, bytes) != 0)
    fail(ExitCode::kStorage, "{}: cannot cut the file: {}", path, std::strerror(errno));
}

void replace_file(const std::string& path, std::string_view text) {
  const std::string fresh = path + ".new";
  const int fd = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) fail(ExitCode::kStorage, "{}: cannot open for writing: {}", fresh, std::strerror(errno));
  try {
    write_all(fd, fresh, text);
  } catch (...) {
    ::close(fd);
    throw;
  }
  ::close(fd);
  if (std::rename(fresh.c_str(), path.c_str()) != 0)
    fail(ExitCode::kStorage, "{}: cannot replace the file: {}", path, std::strerror(errno));
}

}  // namespace contender
