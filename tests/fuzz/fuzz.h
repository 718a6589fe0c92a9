// What the targets share. Anything that leaves a reader but the error it promises is a bug: libFuzzer takes
// an exception that nobody catches for a crash.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"

namespace contender::fuzz {

inline void require(bool condition) {
  if (!condition) std::abort();
}

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// A file of these bytes, in memory, for readers that take a path.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes) : fd_(::memfd_create("fuzz", MFD_CLOEXEC)) {
    require(fd_ >= 0 && ::write(fd_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  const int fd_;
};

// Runs `read`; it may refuse its input as Error(kConfig), and in no other way.
template <class F>
void may_refuse(const F& read) {
  try {
    read();
  } catch (const Error& e) {
    require(e.code() == ExitCode::kConfig && e.what()[0] != '\0');
  }
}

// The same for readers that give a reason without a place. A failed CHECK is an Error of another code.
template <class F>
void may_refuse_with_reason(const F& read) {
  try {
    read();
  } catch (const Error& e) {
    require(e.code() == ExitCode::kConfig);
  } catch (const std::runtime_error& e) {
    require(e.what()[0] != '\0');
  }
}

}  // namespace contender::fuzz
