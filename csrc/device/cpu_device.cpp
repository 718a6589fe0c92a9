#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "device/device.h"

namespace contender {

struct Stream {};  // the CPU runs its work at once

namespace {

constexpr int64_t kAlignment = 64;

std::string cpu_model_name() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

// Physical memory, or what the container (cgroup v2, v1) leaves of it, or CONTENDER_MEMORY_LIMIT in bytes.
int64_t usable_memory_bytes() {
  int64_t limit = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    int64_t bytes = 0;
    if (std::ifstream(path) >> bytes && bytes > 0) limit = std::min(limit, bytes);
  }
  if (const char* text = std::getenv("CONTENDER_MEMORY_LIMIT")) {
    char* end = nullptr;
    const long long bytes = std::strtoll(text, &end, 10);
    if (end == text || *end != '\0' || bytes <= 0) {
      fail(ExitCode::kConfig, "CONTENDER_MEMORY_LIMIT=\"{}\" is not a number of bytes", text);
    }
    limit = std::min<int64_t>(limit, bytes);
  }
  return limit;
}

double mib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

class CpuDevice final : public Device {
 public:
  CpuDevice() : name_("CPU (" + cpu_model_name() + ")"), memory_bytes_(usable_memory_bytes()) {}

  std::string name() const override { return name_; }
  int64_t memory_bytes() const override { return memory_bytes_; }

  void* alloc(int64_t bytes, const char* what) override {
    CHECK(bytes >= 0 && bytes <= std::numeric_limits<int64_t>::max() - kAlignment, "{}: {} bytes", what,
          bytes);
    const int64_t size = std::max(kAlignment, round_up(bytes, kAlignment));
    const std::lock_guard lock(mutex_);
    void* p = size <= memory_bytes_ - allocated_ ? std::aligned_alloc(kAlignment, static_cast<size_t>(size))
                                                 : nullptr;
    if (!p) fail(ExitCode::kOutOfMemory, "{}", out_of_memory_message(bytes, what));
    users_[p] = {size, what};
    allocated_ += size;
    peak_ = std::max(peak_, allocated_);
    return p;
  }

  void free(void* p) override {
    if (!p) return;
    const std::lock_guard lock(mutex_);
    const auto user = users_.find(p);
    CHECK(user != users_.end(), "free of a pointer this device did not allocate");
    allocated_ -= user->second.bytes;
    users_.erase(user);
    std::free(p);
  }

  bool host_memory() const override { return true; }

  Stream* compute_stream() override { return &stream_; }
  Stream* stream(const char*) override { return &stream_; }
  void copy(Stream*, void* dst, const void* src, int64_t bytes) override {
    if (bytes > 0) std::memcpy(dst, src, static_cast<size_t>(bytes));
  }
  void zero(Stream*, void* dst, int64_t bytes) override {
    if (bytes > 0) std::memset(dst, 0, static_cast<size_t>(bytes));
  }
  void upload(Stream* s, void* dst, const void* src, int64_t bytes) override { copy(s, dst, src, bytes); }
  void download(Stream* s, void* dst, const void* src, int64_t bytes) override { copy(s, dst, src, bytes); }
  void synchronize(Stream*) override {}
  int64_t host_waits() const override { return 0; }

  void order(Stream*, Stream*) override {}
  Event* record(Stream*) override { return nullptr; }
  void wait(Stream*, Event*) override {}
  bool done(Event*) override { return true; }
  void release(Event*) override {}

  Graph* capture(Stream*, const std::function<void()>&) override { return nullptr; }
  void launch(Stream*, Graph*) override { fail(ExitCode::kInternal, "the CPU has no graphs"); }
  void release(Graph*) override {}
  void* handle(Stream*) override { return nullptr; }

  int64_t allocated_bytes() const override {
    const std::lock_guard lock(mutex_);
    return allocated_;
  }
  int64_t peak_bytes() const override {
    const std::lock_guard lock(mutex_);
    return peak_;
  }

 private:
  struct User {
    int64_t bytes;
    std::string what;
  };

  std::string out_of_memory_message(int64_t bytes, const char* what) const {
    std::map<std::string, int64_t> totals;
    for (const auto& [p, user] : users_) totals[user.what] += user.bytes;
    std::vector<std::pair<std::string, int64_t>> largest(totals.begin(), totals.end());
    std::stable_sort(largest.begin(), largest.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    std::string list;
    for (size_t i = 0; i < std::min<size_t>(3, largest.size()); ++i) {
      list += fmt::format("{}{} {:.1f} MiB", i ? ", " : "; largest users: ", largest[i].first,
                          mib(largest[i].second));
    }
    return fmt::format(
        "out of memory: {} needs {:.1f} MiB, {:.1f} of {:.1f} MiB are free{}; lower a setting that sizes one "
        "of them",
        what, mib(bytes), mib(memory_bytes_ - allocated_), mib(memory_bytes_), list);
  }

  const std::string name_;
  const int64_t memory_bytes_;
  Stream stream_;
  mutable std::mutex mutex_;
  std::unordered_map<void*, User> users_;
  int64_t allocated_ = 0;
  int64_t peak_ = 0;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device() { return std::make_unique<CpuDevice>(); }

}  // namespace contender
