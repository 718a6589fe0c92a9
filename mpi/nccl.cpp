// The binary interface of libnccl.so.2 as its public header declares it (nccl.h of NCCL 2.28; these
// functions, types and values have not changed since 2.7, which brought ncclSend and ncclRecv).
#include "mpi/nccl.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>

#include "mpi/flight.h"

namespace contender {
namespace {

using Result = int;
constexpr Result kSuccess = 0, kInProgress = 7;
constexpr int kUint8 = 1, kFloat32 = 7;  // ncclDataType_t
constexpr int kSum = 0;                  // ncclRedOp_t

struct UniqueId {
  char internal[128];
};
using CudaStream = void*;

struct Library {
  std::string problem;
  Result (*get_unique_id)(UniqueId*) = nullptr;
  Result (*comm_init_rank)(NcclComm**, int num_ranks, UniqueId, int rank) = nullptr;
  Result (*comm_destroy)(NcclComm*) = nullptr;
  Result (*comm_get_async_error)(NcclComm*, Result*) = nullptr;
  const char* (*get_error_string)(Result) = nullptr;
  Result (*group_start)() = nullptr;
  Result (*group_end)() = nullptr;
  Result (*send)(const void*, size_t, int type, int peer, NcclComm*, CudaStream) = nullptr;
  Result (*recv)(void*, size_t, int type, int peer, NcclComm*, CudaStream) = nullptr;
  Result (*broadcast)(const void*, void*, size_t, int type, int root, NcclComm*, CudaStream) = nullptr;
  Result (*reduce)(const void*, void*, size_t, int type, int op, int root, NcclComm*, CudaStream) = nullptr;
  Result (*all_gather)(const void*, void*, size_t, int type, NcclComm*, CudaStream) = nullptr;
  Result (*reduce_scatter)(const void*, void*, size_t, int type, int op, NcclComm*, CudaStream) = nullptr;

  Library() {
    // Communicators of several kinds run on one GPU at the same time: NCCL (2.26 on) then begins their
    // kernels in the program's order, without which two GPUs could wait for each other.
    ::setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", 0);
    void* handle = ::dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
      problem = ::dlerror();
      return;
    }
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(handle, name));
      if (!function && problem.empty()) problem = fmt::format("libnccl.so.2 has no {}", name);
    };
    find(get_unique_id, "ncclGetUniqueId");
    find(comm_init_rank, "ncclCommInitRank");
    find(comm_destroy, "ncclCommDestroy");
    find(comm_get_async_error, "ncclCommGetAsyncError");
    find(get_error_string, "ncclGetErrorString");
    find(group_start, "ncclGroupStart");
    find(group_end, "ncclGroupEnd");
    find(send, "ncclSend");
    find(recv, "ncclRecv");
    find(broadcast, "ncclBroadcast");
    find(reduce, "ncclReduce");
    find(all_gather, "ncclAllGather");
    find(reduce_scatter, "ncclReduceScatter");
  }
};

const Library& nccl() {
  static const Library library;
  return library;
}

void check(Result result, const char* call, const char* name, const Group::Impl& g) {
  if (result == kSuccess) [[likely]]
    return;
  fail(ExitCode::kPeerLost, "{} in \"{}\" of ranks {}..{} failed: {} (NCCL_DEBUG=WARN says more)", call, name,
       g.world_ranks.front(), g.world_ranks.back(), nccl().get_error_string(result));
}

// One NCCL group of calls of a flight.
class Calls {
 public:
  explicit Calls(const Pending::Impl& f) : f_(f), stream_(f.group->via.device->handle(f.stream)) {
    (*this)(nccl().group_start(), "ncclGroupStart");
  }
  void operator()(Result result, const char* call) const { check(result, call, f_.name, *f_.group); }
  void end() const { (*this)(nccl().group_end(), "ncclGroupEnd"); }
  CudaStream stream() const { return stream_; }

 private:
  const Pending::Impl& f_;
  CudaStream stream_;
};

// All pieces have the length of the first one.
bool equal_pieces(const Group::Impl& g) {
  for (int p = 1; p <= g.size; ++p) {
    if (g.offsets[static_cast<size_t>(p)] != p * g.offsets[1]) return false;
  }
  return true;
}

}  // namespace

std::string nccl_problem() { return nccl().problem; }

NcclComm* make_nccl_comm(Group::Impl& g) {
  constexpr const char* kName = "nccl";
  UniqueId id{};
  if (g.rank == 0) check(nccl().get_unique_id(&id), "ncclGetUniqueId", kName, g);
  broadcast_bytes(g, kName, &id, sizeof id, 0);
  NcclComm* comm = nullptr;
  check(nccl().comm_init_rank(&comm, g.size, id, g.rank), "ncclCommInitRank", kName, g);
  return comm;
}

void destroy_nccl_comm(NcclComm* comm) { nccl().comm_destroy(comm); }

void check_nccl_comm(const Pending::Impl& f) {
  Result state = kSuccess;
  check(nccl().comm_get_async_error(f.nccl, &state), "ncclCommGetAsyncError", f.name, *f.group);
  if (state != kInProgress) check(state, "a message", f.name, *f.group);
}

void nccl_gather(Pending::Impl& f, const void* mine, void* out, int64_t unit) {
  const Group::Impl& g = *f.group;
  const auto offset = [&](int p) { return g.offsets[static_cast<size_t>(p)] * unit; };
  const auto bytes = [&](int p) { return static_cast<size_t>(offset(p + 1) - offset(p)); };
  count_sent((g.size - 1) * (offset(g.rank + 1) - offset(g.rank)));
  const Calls call(f);
  if (equal_pieces(g)) {
    call(nccl().all_gather(mine, out, bytes(0), kUint8, f.nccl, call.stream()), "ncclAllGather");
  } else {
    for (int p = 0; p < g.size; ++p) {
      if (bytes(p) == 0) continue;
      char* piece = static_cast<char*>(out) + offset(p);
      call(nccl().broadcast(p == g.rank ? mine : piece, piece, bytes(p), kUint8, p, f.nccl, call.stream()),
           "ncclBroadcast");
    }
  }
  call.end();
}

void nccl_reduce(Pending::Impl& f, const float* x, float* out) {
  const Group::Impl& g = *f.group;
  const auto offset = [&](int p) { return g.offsets[static_cast<size_t>(p)]; };
  const auto count = [&](int p) { return static_cast<size_t>(offset(p + 1) - offset(p)); };
  count_sent((offset(g.size) - (offset(g.rank + 1) - offset(g.rank))) * int64_t{sizeof(float)});
  const Calls call(f);
  if (equal_pieces(g)) {
    call(nccl().reduce_scatter(x, out, count(0), kFloat32, kSum, f.nccl, call.stream()), "ncclReduceScatter");
  } else {
    for (int p = 0; p < g.size; ++p) {
      if (count(p) == 0) continue;
      call(nccl().reduce(x + offset(p), p == g.rank ? out : nullptr, count(p), kFloat32, kSum, p, f.nccl,
                         call.stream()),
           "ncclReduce");
    }
  }
  call.end();
}

void nccl_blocks(Pending::Impl& f, const void* send, void* recv, int64_t block) {
  const Group::Impl& g = *f.group;
  if (block == 0) return;
  count_sent((g.size - 1) * block);
  const Calls call(f);
  for (int p = 0; p < g.size; ++p) {
    if (p == g.rank) continue;
    call(nccl().send(static_cast<const char*>(send) + p * block, static_cast<size_t>(block), kUint8, p,
                     f.nccl, call.stream()),
         "ncclSend");
    call(nccl().recv(static_cast<char*>(recv) + p * block, static_cast<size_t>(block), kUint8, p, f.nccl,
                     call.stream()),
         "ncclRecv");
  }
  call.end();
}

}  // namespace contender
