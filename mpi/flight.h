// Flight: the messages of one collective, from begin until done. Internal to mpi/: the only header that shows
// MPI.
//
// A collective of a group is a few point-to-point messages under one tag (the group's sequence number and a
// hash of the name, so that ranks that disagree about the collective wait for each other and are found by the
// watchdog instead of mixing their data). Flights and their scratch memory are reused: no allocation per call
// in the steady state.
#pragma once

#include <mpi.h>

#include <array>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "device/device.h"
#include "mpi/group.h"
#include "mpi/nccl.h"

namespace contender {

// MPI errors mean that a peer or the network is gone: Error(kPeerLost) naming the call and the collective.
void check_mpi(int code, const char* call, const char* name);

// Between init_mpi and finalize_mpi under a launcher; a single rank without one never starts MPI.
bool mpi_started();

// How the data of a group travels (group.h); the device may be null for kHost.
enum class Transport : uint8_t { kHost, kStaged, kNccl };
struct TransportChoice {
  Transport transport = Transport::kHost;
  Device* device = nullptr;
};

// What a collective is for: memory of the host, or the stream that it runs on.
enum class Kind : uint8_t { kControl, kDispatch, kReduce, kTp };
inline constexpr int kNumKinds = 4;

// A group of the ranks of MPI_COMM_WORLD with the same color, ordered by world rank; collective over the
// world.
std::unique_ptr<Group> make_group(int color, const TransportChoice& choice = {});

inline constexpr int kMaxTag = (1 << 22) - 1;
inline constexpr int64_t kMaxMessageBytes = int64_t{1} << 30;  // MPI counts are int: longer messages are cut

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};

struct Scratch {
  std::unique_ptr<void, FreeDeleter> data;  // 64-byte aligned
  int64_t bytes = 0;
  float* f32() const { return static_cast<float*>(data.get()); }
};

class ScratchPool {
 public:
  Scratch take(int64_t bytes);  // the smallest free one that fits; if none does, the largest free one grows
  void give(Scratch scratch);
  int64_t total_bytes() const { return total_bytes_; }

 private:
  std::vector<Scratch> free_;
  int64_t total_bytes_ = 0;  // free or lent
};

struct Group::Impl {
  TransportChoice via;
  MPI_Comm comm = MPI_COMM_NULL;  // null when alone
  int rank = 0;
  int size = 1;
  std::vector<int> world_ranks = {0};
  int64_t num_collectives = 0;
  std::vector<int64_t> offsets;  // [size + 1] pieces of the collective being begun
  std::vector<int64_t> used;     // [size] bytes for each peer of the exchange being begun
  std::vector<int32_t> counts;   // [size] rows likewise, downloaded
  std::vector<std::unique_ptr<Pending::Impl>> idle;
  ScratchPool pool;
  std::array<NcclComm*, kNumKinds> nccl{};  // made by the first collective of the kind
  // kNccl: the compute stream waits for them, and the host has not seen them done.
  std::deque<std::unique_ptr<Pending::Impl>> unseen;

  int world_rank() const { return world_ranks[static_cast<size_t>(rank)]; }
  // Null: the memory of this kind is the host's.
  Stream* compute_stream(Kind kind) const;
  // The stream of the kind, ordered behind the compute stream; null likewise.
  Stream* begin_stream(Kind kind) const;
  std::unique_ptr<Pending::Impl> begin(const char* name, Kind kind = Kind::kControl);
  void reuse(std::unique_ptr<Pending::Impl> flight);
  // After Pending::Impl::complete.
  void retire(std::unique_ptr<Pending::Impl> flight);
  void forget_finished();     // drops from `unseen` what is done
  void finish_collectives();  // waits for all of `unseen`, at most as long as the watchdog lets it
};

struct Pending::Impl {
  Group::Impl* group = nullptr;
  const char* name = "";
  int64_t collective = 0;     // number within the group
  int64_t record_number = 0;  // number within this rank, for the dump
  int tag = 0;
  bool skipped = false;  // --fault skip: no messages
  int64_t begin_ns = 0;
  uint64_t range = 0;         // of NVTX
  int64_t not_before_ns = 0;  // --fault delay: done no earlier
  int exceptions = 0;         // in flight at the begin; more of them at the end mean unwinding
  std::vector<MPI_Request> requests;
  std::vector<MPI_Status> statuses;
  std::vector<int> peers;  // member behind each request

  Scratch scratch;       // pieces of others
  float* out = nullptr;  // if any: the tree's sum of them and of `own`, of n elements each; may be own
  const float* own = nullptr;
  int64_t n = 0;

  // Staged and nccl: the stream of its kind; null for host memory.
  Stream* stream = nullptr;
  NcclComm* nccl = nullptr;  // of its group and kind
  Event* event = nullptr;    // nccl: behind its last work
  Scratch staging;           // staged: the host's copy of what is sent and received
  struct Arrival {
    void* to;          // device
    const void* from;  // host, in staging
    int64_t bytes;
    int request;  // -1, or the receive whose length takes the place of `bytes`
  };
  std::vector<Arrival> arrivals;  // staged: goes to the device at the end

  char* stage(int64_t bytes);
  void bring(void* device, const void* host, int64_t bytes, int request = -1);

  void send(int member, const void* data, int64_t bytes);
  void recv(int member, void* data, int64_t bytes);
  bool poll();           // lets MPI work; true when every message has been sent and received
  void wait_messages();  // polls, gives the core away, ends the job when the watchdog's limit is reached
  bool complete_if_done();
  void complete();  // waits, sums, records the span; nccl: the compute stream waits
  void end();       // records the span; nccl: when the device is done

 private:
  void finish_now();
  void bring_arrivals();
  int64_t received_bytes(int request) const;
};

template <class Count>
void fill_offsets(Group::Impl& g, const Count* counts) {
  g.offsets.assign(1, 0);
  for (int p = 0; p < g.size; ++p) g.offsets.push_back(g.offsets.back() + counts[p]);
}

// g.offsets says, in units of `unit` bytes, where each member's piece lies in `out`.
Pending gather_pieces(Group::Impl& g, const char* name, Kind kind, const void* mine, void* out, int64_t unit);

// On host memory, whatever the transport.
void broadcast_bytes(Group::Impl& group, const char* name, void* data, int64_t bytes, int root);

// Device to host; the waits of the host count as those of the transport "staged".
void staged_download(const Group::Impl& group, Stream* stream, void* host, const void* device, int64_t bytes);

// The bytes count as sent by this rank (take_sent_bytes).
void count_sent(int64_t bytes);

// out[i] = ((x_0 + x_1) + (x_2 + x_3)) + ... over size (a power of two) pieces of n floats: piece `rank` is
// own, the others lie in `pieces` in rank order without it, and are overwritten. out may be own.
void tree_sum(float* pieces, const float* own, int rank, int size, int64_t n, float* out);

}  // namespace contender
