#include "runtime/device.h"

#include <algorithm>

#include "config.h"
#include "runtime/api.h"
#include "runtime/registry.h"
#include "runtime/stream.h"
#include "runtime/thread_state.h"

namespace ptxsim::runtime {

Device::Device(int index) : index(index), arena(index) {
  const size_t defaults[] = {1024, size_t{7} << 20, size_t{8} << 20, 2, 2048, 64, 0, 0};
  for (size_t i = 0; i < limits.size(); ++i) limits[i] = defaults[i];
}

void Device::fail(cudaError_t code, const std::string& line) {
  int none = cudaSuccess;
  if (!failure_.compare_exchange_strong(none, code)) return;
  say(fmt::format("{} ({})", line, error_name(code)));
}

std::shared_ptr<Stream> Device::legacy_stream() {
  std::lock_guard lock(legacy_mutex_);
  if (legacy_ == nullptr) legacy_ = Stream::create(*this, cudaStreamDefault, 0, true);
  return legacy_;
}

void Device::forget(const Stream* stream) {
  std::shared_ptr<Stream> last;  // dies after the lock
  std::lock_guard lock(order_mutex);
  const auto it =
      std::find_if(streams.begin(), streams.end(), [&](const auto& s) { return s.get() == stream; });
  if (it == streams.end()) return;
  last = std::move(*it);
  streams.erase(it);
}

void Device::synchronize() {
  std::vector<std::shared_ptr<Stream>> all{legacy_stream()};
  {
    std::lock_guard lock(order_mutex);
    all.insert(all.end(), streams.begin(), streams.end());
  }
  for (const auto& stream : all) stream->synchronize();
}

void Device::reset() {
  synchronize();
  stream_handles().remove_if([this](const Stream& s) { return &s.device() == this; });
  std::vector<std::shared_ptr<Stream>> all;
  {
    std::lock_guard lock(order_mutex);
    all = streams;
  }
  for (const auto& stream : all) stream->close();
  forget_images(index);
  arena.clear();
  for (int peer = 0; peer < device_count(); ++peer)
    GlobalMemory::instance().set_peer_access(index, peer, false);
  peers = 0;
  failure_ = cudaSuccess;
  epoch_.fetch_add(1);
}

namespace {

struct Devices {
  Devices() {
    for (int i = 0; i < config().devices; ++i) all.push_back(std::make_unique<Device>(i));
  }
  std::vector<std::unique_ptr<Device>> all;
};

Devices& devices() {
  static auto* d = new Devices;  // work of detached threads may outlive main
  return *d;
}

}  // namespace

int device_count() { return static_cast<int>(devices().all.size()); }

Device& device_at(int index) {
  if (index < 0 || index >= device_count())
    refuse(cudaErrorInvalidDevice, "device {} of {} (PTXSIM_DEVICES sets how many there are)", index,
           device_count());
  return *devices().all[index];
}

Device& current_device() { return *devices().all[thread_state().device]; }

Device* device_of_window(const void* address) {
  for (const auto& device : devices().all)
    if (device->arena.contains(address)) return device.get();
  return nullptr;
}

}  // namespace ptxsim::runtime
