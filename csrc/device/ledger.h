// Who holds how much of a device's memory: what every device does around its vendor's malloc.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <unordered_map>

namespace contender {

// Safe to use from several threads.
class Ledger {
 public:
  // `capacity` bytes, or what the environment variable CONTENDER_MEMORY_LIMIT leaves of them (bytes; exit 10
  // when it is not a number).
  explicit Ledger(int64_t capacity);

  // `bytes` rounded up to a positive multiple of `alignment` (a power of two), from `allocate`, which returns
  // nullptr when it cannot. When it cannot, or the capacity is used up: exit 19 with the largest users.
  void* alloc(int64_t bytes, int64_t alignment, const char* what,
              const std::function<void*(int64_t size)>& allocate);
  // Forgets p; exit 1 when it is not here.
  void remove(void* p);

  int64_t capacity() const { return capacity_; }
  int64_t allocated() const;  // now
  int64_t peak() const;       // highest so far

 private:
  struct User {
    int64_t bytes;
    std::string what;
  };
  std::string out_of_memory_message(int64_t bytes, const char* what) const;

  const int64_t capacity_;
  mutable std::mutex mutex_;
  std::unordered_map<void*, User> users_;
  int64_t allocated_ = 0;
  int64_t peak_ = 0;
};

}  // namespace contender
