// Handles that programs hold: numbers never used twice, so that one that was destroyed is known for what it
// is.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "runtime/api.h"

namespace ptxsim::runtime {

// Handle is an opaque pointer type (cudaStream_t); the values are no addresses. Any thread.
template <class Handle, class T>
class HandleTable {
 public:
  explicit HandleTable(const char* what) : what_(what) {}

  Handle add(std::shared_ptr<T> object) {
    std::unique_lock lock(mutex_);
    const uint64_t number = kFirst + 16 * next_++;
    objects_.emplace(number, std::move(object));
    return reinterpret_cast<Handle>(number);
  }
  // Refuses a handle that never was or is no more.
  std::shared_ptr<T> get(Handle handle) const {
    std::shared_lock lock(mutex_);
    const auto it = objects_.find(reinterpret_cast<uint64_t>(handle));
    if (it == objects_.end()) refuse_unknown(handle);
    return it->second;
  }
  std::shared_ptr<T> remove(Handle handle) {
    std::unique_lock lock(mutex_);
    const auto it = objects_.find(reinterpret_cast<uint64_t>(handle));
    if (it == objects_.end()) refuse_unknown(handle);
    std::shared_ptr<T> object = std::move(it->second);
    objects_.erase(it);
    return object;
  }
  // Forgets every object for which the predicate holds.
  template <class F>
  void remove_if(F&& gone) {
    std::unique_lock lock(mutex_);
    std::erase_if(objects_, [&](const auto& entry) { return gone(*entry.second); });
  }

 private:
  // Far from the small numbers that mean the default streams, in a range that no pointer has.
  static constexpr uint64_t kFirst = uint64_t{0x5c0} << 48;

  [[noreturn]] void refuse_unknown(Handle handle) const {
    const uint64_t number = reinterpret_cast<uint64_t>(handle);
    const bool was = number >= kFirst && number < kFirst + 16 * next_ && number % 16 == 0;
    refuse(cudaErrorInvalidResourceHandle, "{:#x} {}", number,
           was ? std::string("was ") + what_ + " that has been destroyed" : std::string("is not ") + what_);
  }

  const char* what_;
  mutable std::shared_mutex mutex_;
  uint64_t next_ = 1;
  std::unordered_map<uint64_t, std::shared_ptr<T>> objects_;
};

}  // namespace ptxsim::runtime
