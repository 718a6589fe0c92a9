#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "device/device.h"
#include "device/ledger.h"

namespace contender {

struct Stream {};  // the CPU runs its work at once

namespace {

constexpr int64_t kAlignment = 64;

// Buffers of several huge pages lie in such: the kernel fills one at a time, and the processor's tables of
// addresses cover the weights.
constexpr int64_t kHugePage = int64_t{2} << 20;

void* allocate(int64_t bytes) {
  const bool huge = bytes >= 2 * kHugePage;
  void* p = nullptr;
  if (posix_memalign(&p, static_cast<size_t>(huge ? kHugePage : kAlignment), static_cast<size_t>(bytes)))
    return nullptr;
  if (huge) ::madvise(p, static_cast<size_t>(bytes) / kHugePage * kHugePage, MADV_HUGEPAGE);
  return p;
}

std::string cpu_model_name() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

// Physical memory, or what the container (cgroup v2, v1) leaves of it.
int64_t usable_memory_bytes() {
  int64_t limit = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    int64_t bytes = 0;
    if (std::ifstream(path) >> bytes && bytes > 0) limit = std::min(limit, bytes);
  }
  return limit;
}

class CpuDevice final : public Device {
 public:
  CpuDevice() : name_("CPU (" + cpu_model_name() + ")"), ledger_(usable_memory_bytes()) {}

  std::string name() const override { return name_; }
  int64_t memory_bytes() const override { return ledger_.capacity(); }

  void* alloc(int64_t bytes, const char* what) override {
    return ledger_.alloc(bytes, kAlignment, what, allocate);
  }

  void free(void* p) override {
    if (!p) return;
    ledger_.remove(p);
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

  int64_t allocated_bytes() const override { return ledger_.allocated(); }
  int64_t peak_bytes() const override { return ledger_.peak(); }

 private:
  const std::string name_;
  Ledger ledger_;
  Stream stream_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device() { return std::make_unique<CpuDevice>(); }

}  // namespace contender
