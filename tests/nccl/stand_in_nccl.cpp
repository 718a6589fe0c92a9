// A libnccl.so.2 for machines without several GPUs: the functions that mpi/nccl.cpp calls, over the CUDA
// runtime (the simulator's, or a real one) and memory that the processes of one machine share.
//
// Every NCCL group becomes: copies of what is sent into pinned memory, a host function that exchanges it with
// the other ranks, copies of what was received. All of it is in the caller's stream, so a caller that forgets
// an order between streams gets wrong data, as with NCCL. Ranks may share a GPU. Sums are made in rank order.
//
// An exchange is one of all ranks of the communicator: each puts what it sends, with a table in front, into a
// memory file of its own, says where, raises its counter, and reads the files of the others. They end with
// their process, whatever ends it.
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace {

enum Result { kSuccess = 0, kUnhandledCudaError = 1, kSystemError = 2, kInvalidUsage = 5 };
constexpr int kFloat32 = 7;  // other types here are bytes
constexpr int kSum = 0;
constexpr int kMaxRanks = 64;

struct UniqueId {
  char internal[128];
};

enum class Verb : int64_t { kSend, kRecv, kBroadcast, kReduce, kAllGather, kReduceScatter };

// What a rank does in one call; `peer` is also the root.
struct Call {
  Verb verb;
  int64_t peer;
  int64_t sent_bytes, received_bytes;
  int64_t sent_at, received_at;  // in the rank's buffers of the exchange
  const void* from;
  void* to;
};

struct Control {
  std::atomic<int> attached;
  int process[kMaxRanks];
  int file[kMaxRanks];                                      // of the exchange being made
  std::atomic<int64_t> posted[kMaxRanks], done[kMaxRanks];  // exchanges
};

struct Pinned {
  char* data = nullptr;
  int64_t bytes = 0;
};

std::string process_file(int process, int file) {
  return "/proc/" + std::to_string(process) + "/fd/" + std::to_string(file);
}

template <class Condition>
void wait_until(Condition condition) {
  while (!condition()) ::usleep(20);
}

[[noreturn]] void stop(const std::string& what) {
  std::perror(("stand-in NCCL: " + what).c_str());
  std::abort();
}

// A file of memory that several processes map.
class Shared {
 public:
  // An own one, which others see as long as this lives; or the one that the name leads to.
  explicit Shared(int64_t bytes) : file_(::memfd_create("stand-in-nccl", 0)) {
    if (file_ < 0 || ::ftruncate(file_, std::max<int64_t>(bytes, 1)) != 0) stop("memory for what is sent");
    map("own");
  }
  explicit Shared(const std::string& name) : file_(::open(name.c_str(), O_RDWR)) { map(name); }
  ~Shared() {
    ::munmap(data_, bytes_);
    ::close(file_);
  }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  char* data() const { return static_cast<char*>(data_); }
  int file() const { return file_; }

 private:
  void map(const std::string& name) {
    const off_t end = file_ < 0 ? -1 : ::lseek(file_, 0, SEEK_END);
    if (end <= 0) stop(name);
    bytes_ = static_cast<size_t>(end);
    data_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
    if (data_ == MAP_FAILED) stop(name);
  }
  int file_;
  size_t bytes_ = 0;
  void* data_ = nullptr;
};

}  // namespace

struct NcclComm {
  NcclComm(const std::string& name, int size, int rank) : size(size), rank(rank), shared(name) {
    control().process[rank] = static_cast<int>(::getpid());
    control().attached++;
    wait_until([&] { return control().attached == size; });
  }
  Control& control() { return *reinterpret_cast<Control*>(shared.data()); }
  Pinned take(int64_t bytes);
  void give(Pinned p) {
    const std::lock_guard lock(mutex);
    free.push_back(p);
  }

  const int size, rank;
  Shared shared;
  int64_t num_exchanges = 0;
  std::atomic<int> error = kSuccess;
  std::mutex mutex;
  std::vector<Pinned> free;
};

Pinned NcclComm::take(int64_t bytes) {
  const std::lock_guard lock(mutex);
  for (size_t i = 0; i < free.size(); ++i) {
    if (free[i].bytes < bytes) continue;
    const Pinned p = free[i];
    free.erase(free.begin() + static_cast<std::ptrdiff_t>(i));
    return p;
  }
  Pinned p{nullptr, bytes};
  cudaMallocHost(reinterpret_cast<void**>(&p.data), static_cast<size_t>(std::max<int64_t>(bytes, 1)));
  return p;
}

namespace {

struct Exchange {
  NcclComm* comm;
  int64_t number;
  std::vector<Call> calls;
  Pinned sent, received;
  int64_t sent_bytes = 0;

  void run();
  void receive(const std::vector<std::unique_ptr<Shared>>& objects);
};

// An object is: number of calls, calls, data.
struct Published {
  explicit Published(const char* p) {
    std::memcpy(&count, p, sizeof count);
    calls = reinterpret_cast<const Call*>(p + sizeof count);
    data = p + sizeof count + count * static_cast<int64_t>(sizeof(Call));
  }
  // Call `index`, or the `index`th send to `receiver`.
  const Call* call(int64_t index) const { return index < count ? calls + index : nullptr; }
  const Call* send(int receiver, int64_t index) const {
    for (int64_t i = 0; i < count; ++i) {
      if (calls[i].verb == Verb::kSend && calls[i].peer == receiver && index-- == 0) return calls + i;
    }
    return nullptr;
  }
  int64_t count = 0;
  const Call* calls;
  const char* data;
};

void Exchange::run() {
  NcclComm& c = *comm;
  const int64_t count = static_cast<int64_t>(calls.size()),
                table = static_cast<int64_t>(sizeof count) + count * static_cast<int64_t>(sizeof(Call));
  const Shared mine(table + sent_bytes);
  std::memcpy(mine.data(), &count, sizeof count);
  std::memcpy(mine.data() + sizeof count, calls.data(), static_cast<size_t>(count) * sizeof(Call));
  std::memcpy(mine.data() + table, sent.data, static_cast<size_t>(sent_bytes));
  c.control().file[c.rank] = mine.file();
  c.control().posted[c.rank] = number + 1;
  std::vector<std::unique_ptr<Shared>> objects;
  for (int p = 0; p < c.size; ++p) {
    wait_until([&] { return c.control().posted[p] > number; });
    objects.push_back(std::make_unique<Shared>(process_file(c.control().process[p], c.control().file[p])));
  }
  receive(objects);
  c.control().done[c.rank] = number + 1;
  for (int p = 0; p < c.size; ++p) wait_until([&] { return c.control().done[p] > number; });
}

void add(float* sum, const char* terms, int64_t n) {
  const float* x = reinterpret_cast<const float*>(terms);
  for (int64_t i = 0; i < n; ++i) sum[i] += x[i];
}

void Exchange::receive(const std::vector<std::unique_ptr<Shared>>& objects) {
  std::vector<int64_t> num_received(static_cast<size_t>(comm->size), 0);
  for (size_t k = 0; k < calls.size(); ++k) {
    const Call& call = calls[k];
    if (call.received_bytes == 0) continue;
    char* to = received.data + call.received_at;
    const int64_t piece = call.verb == Verb::kAllGather ? call.sent_bytes : call.received_bytes;
    if (call.verb == Verb::kReduce || call.verb == Verb::kReduceScatter)
      std::memset(to, 0, static_cast<size_t>(piece));
    for (int p = 0; p < comm->size; ++p) {
      const bool from_one = call.verb == Verb::kRecv || call.verb == Verb::kBroadcast;
      if (from_one && p != call.peer) continue;
      const Published all(objects[static_cast<size_t>(p)]->data());
      const Call* theirs = call.verb == Verb::kRecv
                               ? all.send(comm->rank, num_received[static_cast<size_t>(p)]++)
                               : all.call(static_cast<int64_t>(k));
      const int64_t expected = call.verb == Verb::kReduceScatter ? piece * comm->size : piece;
      const bool same_verb =
          theirs && (call.verb == Verb::kRecv || (theirs->verb == call.verb && theirs->peer == call.peer));
      if (!same_verb || theirs->sent_bytes != expected) {
        std::fprintf(stderr, "stand-in NCCL: call %zu of exchange %ld of rank %d: rank %d sends another\n", k,
                     static_cast<long>(number), comm->rank, p);
        comm->error = kInvalidUsage;
        continue;
      }
      const char* data = all.data + theirs->sent_at;
      if (call.verb == Verb::kReduce) {
        add(reinterpret_cast<float*>(to), data, piece / 4);
      } else if (call.verb == Verb::kReduceScatter) {
        add(reinterpret_cast<float*>(to), data + comm->rank * piece, piece / 4);
      } else {
        std::memcpy(to + (call.verb == Verb::kAllGather ? p * piece : 0), data, static_cast<size_t>(piece));
      }
    }
  }
}

// The NCCL group being collected by this thread.
struct Collected {
  int depth = 0;
  NcclComm* comm = nullptr;
  cudaStream_t stream = nullptr;
  std::vector<Call> calls;
};
thread_local Collected g_group;

void CUDART_CB run_exchange(void* data) { static_cast<Exchange*>(data)->run(); }
void CUDART_CB end_exchange(void* data) {
  const std::unique_ptr<Exchange> e(static_cast<Exchange*>(data));
  e->comm->give(e->sent);
  e->comm->give(e->received);
}

int launch() {
  NcclComm* comm = g_group.comm;
  if (!comm) return kSuccess;
  auto* e = new Exchange{comm, comm->num_exchanges++, std::move(g_group.calls), {}, {}};
  cudaStream_t stream = g_group.stream;
  g_group = {};
  int64_t received_bytes = 0;
  for (Call& c : e->calls) {
    c.sent_at = e->sent_bytes;
    c.received_at = received_bytes;
    e->sent_bytes += (c.sent_bytes + 63) / 64 * 64;
    received_bytes += (c.received_bytes + 63) / 64 * 64;
  }
  e->sent = comm->take(e->sent_bytes);
  e->received = comm->take(received_bytes);
  bool ok = e->sent.data && e->received.data;
  for (const Call& c : e->calls) {
    if (c.sent_bytes > 0)
      ok = ok && cudaMemcpyAsync(e->sent.data + c.sent_at, c.from, static_cast<size_t>(c.sent_bytes),
                                 cudaMemcpyDeviceToHost, stream) == cudaSuccess;
  }
  ok = ok && cudaLaunchHostFunc(stream, run_exchange, e) == cudaSuccess;
  for (const Call& c : e->calls) {
    if (c.received_bytes > 0)
      ok =
          ok && cudaMemcpyAsync(c.to, e->received.data + c.received_at, static_cast<size_t>(c.received_bytes),
                                cudaMemcpyHostToDevice, stream) == cudaSuccess;
  }
  ok = ok && cudaLaunchHostFunc(stream, end_exchange, e) == cudaSuccess;
  return ok ? kSuccess : kUnhandledCudaError;
}

int collect(NcclComm* comm, cudaStream_t stream, const Call& call) {
  if (g_group.comm && (g_group.comm != comm || g_group.stream != stream)) {
    std::fputs("stand-in NCCL: a group of calls has one communicator and one stream here\n", stderr);
    return kInvalidUsage;
  }
  g_group.comm = comm;
  g_group.stream = stream;
  g_group.calls.push_back(call);
  return g_group.depth > 0 ? kSuccess : launch();
}

int64_t bytes_of(size_t count, int type) { return static_cast<int64_t>(count) * (type == kFloat32 ? 4 : 1); }

}  // namespace

extern "C" {

int ncclGetUniqueId(UniqueId* id) {
  // Lives as long as the process: nobody says when the last rank has attached.
  const auto* control = new Shared(static_cast<int64_t>(sizeof(Control)));
  std::snprintf(id->internal, sizeof id->internal, "%s",
                process_file(static_cast<int>(::getpid()), control->file()).c_str());
  return kSuccess;
}
int ncclCommInitRank(NcclComm** comm, int size, UniqueId id, int rank) {
  if (size > kMaxRanks) return kInvalidUsage;
  *comm = new NcclComm(id.internal, size, rank);
  return kSuccess;
}
int ncclCommDestroy(NcclComm* comm) {
  for (const Pinned& p : comm->free) cudaFreeHost(p.data);
  delete comm;
  return kSuccess;
}
int ncclCommGetAsyncError(NcclComm* comm, int* error) {
  *error = comm->error;
  return kSuccess;
}
const char* ncclGetErrorString(int result) {
  return result == kSuccess        ? "no error"
         : result == kSystemError  ? "unhandled system error"
         : result == kInvalidUsage ? "invalid usage"
                                   : "unhandled cuda error";
}
int ncclGroupStart() {
  ++g_group.depth;
  return kSuccess;
}
int ncclGroupEnd() { return --g_group.depth > 0 ? static_cast<int>(kSuccess) : launch(); }

int ncclSend(const void* from, size_t count, int type, int peer, NcclComm* comm, cudaStream_t stream) {
  return collect(comm, stream, {Verb::kSend, peer, bytes_of(count, type), 0, 0, 0, from, nullptr});
}
int ncclRecv(void* to, size_t count, int type, int peer, NcclComm* comm, cudaStream_t stream) {
  return collect(comm, stream, {Verb::kRecv, peer, 0, bytes_of(count, type), 0, 0, nullptr, to});
}
int ncclBroadcast(const void* from, void* to, size_t count, int type, int root, NcclComm* comm,
                  cudaStream_t stream) {
  const int64_t bytes = bytes_of(count, type);
  return collect(comm, stream,
                 {Verb::kBroadcast, root, root == comm->rank ? bytes : 0, bytes, 0, 0, from, to});
}
int ncclReduce(const void* from, void* to, size_t count, int type, int op, int root, NcclComm* comm,
               cudaStream_t stream) {
  if (type != kFloat32 || op != kSum) return kInvalidUsage;
  const int64_t bytes = bytes_of(count, type);
  return collect(comm, stream, {Verb::kReduce, root, bytes, root == comm->rank ? bytes : 0, 0, 0, from, to});
}
int ncclAllGather(const void* from, void* to, size_t count, int type, NcclComm* comm, cudaStream_t stream) {
  const int64_t bytes = bytes_of(count, type);
  return collect(comm, stream, {Verb::kAllGather, 0, bytes, bytes * comm->size, 0, 0, from, to});
}
int ncclReduceScatter(const void* from, void* to, size_t count, int type, int op, NcclComm* comm,
                      cudaStream_t stream) {
  if (type != kFloat32 || op != kSum) return kInvalidUsage;
  const int64_t bytes = bytes_of(count, type);
  return collect(comm, stream, {Verb::kReduceScatter, 0, bytes * comm->size, bytes, 0, 0, from, to});
}

}  // extern "C"
