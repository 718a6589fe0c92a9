// Memory and events between processes.
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <mutex>

#include "check/checker.h"
#include "config.h"
#include "memory/global.h"
#include "runtime/api.h"
#include "runtime/device.h"
#include "runtime/ipc.h"

using namespace ptxsim;           // NOLINT: helpers and C functions
using namespace ptxsim::runtime;  // NOLINT

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMagic = 0x316370696d697370;  // "psimipc1"

// What a handle of 64 bytes holds.
struct Ticket64 {
  uint64_t magic = kMagic;
  int32_t process = 0, file = -1;
  uint64_t inode = 0;  // of the memory file: the number of the file may be another's by now
  uint64_t offset = 0, bytes = 0;
  int32_t device = 0;
};
static_assert(sizeof(Ticket64) <= CUDA_IPC_HANDLE_SIZE);

uint64_t inode_of(int file) {
  struct stat s = {};
  return fstat(file, &s) == 0 ? s.st_ino : 0;
}

template <class Handle>
void write_ticket(Handle& handle, Ticket64 t) {
  t.process = getpid();
  t.inode = inode_of(t.file);
  std::memset(&handle, 0, sizeof handle);
  std::memcpy(&handle, &t, sizeof t);
}

template <class Handle>
Ticket64 read_ticket(const Handle& handle) {
  Ticket64 t;
  std::memcpy(static_cast<void*>(&t), &handle, sizeof t);
  if (t.magic != kMagic) refuse(cudaErrorInvalidValue, "this is no interprocess handle of the simulator");
  return t;
}

// Maps [offset, offset + bytes) of the other process's file; both are rounded to pages.
std::byte* map(const Ticket64& t, uint64_t* mapped) {
  const std::string path = fmt::format("/proc/{}/fd/{}", t.process, t.file);
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0 || inode_of(file) != t.inode) {
    if (file >= 0) close(file);
    refuse(cudaErrorInvalidValue, "process {} does not share that memory (any more): {}", t.process,
           std::strerror(errno));
  }
  const uint64_t first = t.offset / kPage * kPage;
  *mapped = (t.offset + t.bytes - first + kPage - 1) / kPage * kPage;
  void* at = mmap(nullptr, *mapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, static_cast<off_t>(first));
  close(file);
  if (at == MAP_FAILED) refuse(cudaErrorMapBufferObjectFailed, "{}", std::strerror(errno));
  return static_cast<std::byte*>(at);
}

struct Opened {
  std::byte* mapping;
  uint64_t mapped;
  void* pointer;
  int count;
};
using Key = std::tuple<int32_t, uint64_t, uint64_t>;  // process, inode, offset

struct OpenedTable {
  std::mutex mutex;
  std::map<Key, Opened> all;
};

OpenedTable& opened() {
  static auto* table = new OpenedTable;
  return *table;
}

}  // namespace

namespace ptxsim::runtime {

void share_event(Event& event) {
  const int file = memfd_create("ptxsim-event", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, kPage) != 0) refuse(cudaErrorMemoryAllocation, "{}", std::strerror(errno));
  void* at = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (at == MAP_FAILED) refuse(cudaErrorMemoryAllocation, "{}", std::strerror(errno));
  event.shared_file = file;
  event.shared = std::shared_ptr<SharedMark>(new (at) SharedMark, [file](SharedMark* mark) {
    munmap(mark, kPage);
    close(file);
  });
}

}  // namespace ptxsim::runtime

#pragma GCC visibility push(default)
extern "C" {

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* pointer) {
  return api(__func__, [&] {
    need(handle, "handle");
    const Allocation a = GlobalMemory::instance().find(reinterpret_cast<uint64_t>(pointer));
    if (a.end == 0 || a.kind != MemoryKind::kDevice)
      refuse(cudaErrorInvalidValue, "{} is not memory of cudaMalloc", pointer);
    const Arena::Place place = device_at(a.device).arena.place(a);
    Ticket64 t;
    t.file = place.file;
    t.offset = place.offset;
    t.bytes = place.bytes;
    t.device = a.device;
    write_ticket(*handle, t);
    // From now on others write here, unseen.
    if (config().checked) check_host_write(a.begin, a.end - a.begin);
  });
}

cudaError_t cudaIpcOpenMemHandle(void** pointer, cudaIpcMemHandle_t handle, unsigned flags) {
  return api(__func__, [&] {
    need(pointer, "devPtr");
    if (flags != cudaIpcMemLazyEnablePeerAccess) refuse(cudaErrorInvalidValue, "flags {}", flags);
    const Ticket64 t = read_ticket(handle);
    if (t.process == getpid())
      refuse(cudaErrorDeviceUninitialized, "the memory is this process's own: use its pointer");
    OpenedTable& table = opened();
    std::lock_guard lock(table.mutex);
    const Key key{t.process, t.inode, t.offset};
    if (const auto known = table.all.find(key); known != table.all.end()) {
      ++known->second.count;
      *pointer = known->second.pointer;
      return;
    }
    uint64_t mapped = 0;
    std::byte* mapping = map(t, &mapped);
    std::byte* begin = mapping + t.offset % kPage;
    table.all[key] = {mapping, mapped, begin, 1};
    const auto address = reinterpret_cast<uint64_t>(begin);
    GlobalMemory::instance().add(address, address + t.bytes, current_device().index, MemoryKind::kIpc);
    if (config().checked) check_host_write(address, t.bytes);
    *pointer = begin;
  });
}

cudaError_t cudaIpcCloseMemHandle(void* pointer) {
  return api(__func__, [&] {
    for (int i = 0; i < device_count(); ++i) device_at(i).synchronize();
    OpenedTable& table = opened();
    std::lock_guard lock(table.mutex);
    for (auto it = table.all.begin(); it != table.all.end(); ++it) {
      if (it->second.pointer != pointer) continue;
      if (--it->second.count > 0) return;
      GlobalMemory::instance().remove(reinterpret_cast<uint64_t>(pointer));
      munmap(it->second.mapping, it->second.mapped);
      table.all.erase(it);
      return;
    }
    refuse(cudaErrorInvalidValue, "{} was not opened by cudaIpcOpenMemHandle", pointer);
  });
}

cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t* handle, cudaEvent_t event) {
  return api(__func__, [&] {
    const auto e = event_handles().get(event);
    if (e->shared == nullptr) refuse(cudaErrorInvalidResourceHandle, "the event lacks cudaEventInterprocess");
    if (e->shared_file < 0) refuse(cudaErrorInvalidResourceHandle, "the event is another process's");
    Ticket64 t;
    t.file = e->shared_file;
    t.bytes = sizeof(SharedMark);
    write_ticket(*need(handle, "handle"), t);
  });
}

cudaError_t cudaIpcOpenEventHandle(cudaEvent_t* event, cudaIpcEventHandle_t handle) {
  return api(__func__, [&] {
    need(event, "event");
    const Ticket64 t = read_ticket(handle);
    if (t.process == getpid()) refuse(cudaErrorDeviceUninitialized, "the event is this process's own");
    uint64_t mapped = 0;
    std::byte* mapping = map(t, &mapped);
    auto opened_event =
        std::make_shared<Event>(current_device(), unsigned{cudaEventDisableTiming | cudaEventInterprocess});
    opened_event->shared = std::shared_ptr<SharedMark>(reinterpret_cast<SharedMark*>(mapping),
                                                       [mapped](SharedMark* mark) { munmap(mark, mapped); });
    *event = event_handles().add(std::move(opened_event));
  });
}

}  // extern "C"
#pragma GCC visibility pop
