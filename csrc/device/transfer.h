// Host arrays on their way to the device, and results on their way back: many at a time, so that a forward
// takes one copy and a step one wait.
#pragma once

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "device/device.h"

namespace contender {

// Collects arrays, then sends them in one copy:
//   Upload up;
//   const auto tokens = up.add(batch.tokens);
//   up.send(device, stream, arena);
//   use(up.at(tokens));
class Upload {
 public:
  template <class T>
  struct Place {
    int64_t offset = 0;
  };
  template <class T>
  Place<T> add(const T* values, int64_t count) {
    const int64_t offset = round_up(std::ssize(host_), kAlignment);
    host_.resize(offset + count * int64_t{sizeof(T)});
    if (count > 0) std::memcpy(host_.data() + offset, values, count * sizeof(T));
    return {offset};
  }
  template <class T>
  Place<T> add(const std::vector<T>& values) {
    return add(values.data(), std::ssize(values));
  }
  void send(Device& device, Stream* stream, Arena& arena) {
    const int64_t bytes = std::ssize(host_);
    device_ = static_cast<char*>(arena.bytes(bytes));
    device.upload(stream, device_, host_.data(), bytes);
  }
  template <class T>
  T* at(Place<T> place) const {
    return reinterpret_cast<T*>(device_ + place.offset);
  }

 private:
  static constexpr int64_t kAlignment = 64;
  std::vector<char> host_;
  char* device_ = nullptr;
};

// Device arrays that the host wants to see, but not yet: `add` copies them aside in the stream's order (they
// may be overwritten by later work), `download` waits once and brings all of them.
class Readback {
 public:
  Readback(Device* device, Stream* stream) : device_(device), stream_(stream) {}

  template <class T>
  struct Place {
    int64_t offset = 0, count = 0;
  };
  template <class T>
  Place<T> add(const T* values, int64_t count) {
    const int64_t offset = round_up(used_, kAlignment), bytes = count * int64_t{sizeof(T)};
    reserve(offset + bytes);
    device_->copy(stream_, static_cast<char*>(buffer_.data()) + offset, values, bytes);
    used_ = offset + bytes;
    return {offset, count};
  }
  void download() {
    host_.resize(used_);
    device_->download(stream_, host_.data(), buffer_.data(), used_);
    outgrown_.clear();
  }
  template <class T>
  const T* at(Place<T> place) const {
    return reinterpret_cast<const T*>(host_.data() + place.offset);
  }
  template <class T>
  std::span<const T> all(Place<T> place) const {
    return {at(place), static_cast<size_t>(place.count)};
  }
  // Forgets what was added; the memory stays.
  void clear() { used_ = 0; }

 private:
  static constexpr int64_t kAlignment = 64;
  void reserve(int64_t bytes) {
    if (bytes <= buffer_.bytes()) return;
    Buffer larger(device_, std::max<int64_t>({2 * buffer_.bytes(), bytes, 1 << 16}), "results");
    device_->copy(stream_, larger.data(), buffer_.data(), used_);
    std::swap(buffer_, larger);
    outgrown_.push_back(std::move(larger));  // the stream may still read it
  }
  Device* device_;
  Stream* stream_;
  Buffer buffer_;
  std::vector<Buffer> outgrown_;
  std::vector<char> host_;
  int64_t used_ = 0;
};

}  // namespace contender
