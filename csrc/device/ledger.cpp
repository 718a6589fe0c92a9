#include "device/ledger.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <map>
#include <vector>

#include "base/error.h"

namespace contender {
namespace {

int64_t limited(int64_t capacity) {
  const char* text = std::getenv("CONTENDER_MEMORY_LIMIT");
  if (!text) return capacity;
  char* end = nullptr;
  const long long bytes = std::strtoll(text, &end, 10);
  if (end == text || *end != '\0' || bytes <= 0) {
    fail(ExitCode::kConfig, "CONTENDER_MEMORY_LIMIT=\"{}\" is not a number of bytes", text);
  }
  return std::min<int64_t>(capacity, bytes);
}

double mib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace

Ledger::Ledger(int64_t capacity) : capacity_(limited(capacity)) {}

void* Ledger::alloc(int64_t bytes, int64_t alignment, const char* what,
                    const std::function<void*(int64_t size)>& allocate) {
  CHECK(bytes >= 0 && bytes <= std::numeric_limits<int64_t>::max() - alignment, "{}: {} bytes", what, bytes);
  const int64_t size = std::max(alignment, round_up(bytes, alignment));
  const std::lock_guard lock(mutex_);
  const bool fits = size <= capacity_ - allocated_;
  void* p = fits ? allocate(size) : nullptr;
  if (!p) {
    fail(ExitCode::kOutOfMemory, "{}{}", out_of_memory_message(bytes, what),
         fits ? "; it should fit, but the system gives no more: does another program use this memory?" : "");
  }
  users_[p] = {size, what};
  allocated_ += size;
  peak_ = std::max(peak_, allocated_);
  return p;
}

void Ledger::remove(void* p) {
  const std::lock_guard lock(mutex_);
  const auto user = users_.find(p);
  CHECK(user != users_.end(), "free of a pointer this device did not allocate");
  allocated_ -= user->second.bytes;
  users_.erase(user);
}

int64_t Ledger::allocated() const {
  const std::lock_guard lock(mutex_);
  return allocated_;
}

int64_t Ledger::peak() const {
  const std::lock_guard lock(mutex_);
  return peak_;
}

std::string Ledger::out_of_memory_message(int64_t bytes, const char* what) const {
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
      what, mib(bytes), mib(capacity_ - allocated_), mib(capacity_), list);
}

}  // namespace contender
