// Group: the collectives of one axis of the mesh, written as point-to-point messages so that the order of
// every sum is ours, every exchange can be left in flight, and a missing peer is known by name.
//
// Sums are made in the fixed binary tree over group ranks ((0+1)+(2+3))+... for every element, whatever the
// size of the message: with the trees inside the ranks this continues one tree over virtual slices or slots.
// Group sizes are powers of two.
//
// Every call takes a name ("dispatch", "reduce.layer3"): it appears in the trace (lane comm: from begin until
// done), in the log and in the watchdog's message. A call that waits longer than the watchdog's limit prints
//   rank 2 waited 60.0 s for rank 1 in "dispatch" (collective 1234, step 17, phase update): peer lost or hung
// and ends the job with exit code 18; it names the rank at the root, not one that waits itself (see
// watchdog.h). Collectives are numbered within their group. Names are string literals, the same on all
// members.
//
// Every member makes the same calls in the same order; several may be in flight and may be waited for in any
// order. Memory given to a call stays untouched until it is done. Rows are contiguous (ld = cols). A group of
// one copies and sends nothing.
//
// Rows, blocks and shards are in the memory of the mesh's device; what the control plane sends (all_reduce_*,
// broadcast, all_gather_bytes) is in the host's. A collective sees what the compute stream has produced when
// it begins, and runs on the stream of its kind: "dispatch" (blocks, all_to_all), "reduce" (flat) or "tp"
// (rows). Pending::wait() lets the compute stream go on behind the result. How the data travels is the
// transport of the mesh:
//   host    MPI reads and writes the memory itself (a device whose memory the host sees)
//   staged  through host memory: the host waits for a download at the begin, and in wait() for the messages
//           (several ranks on one GPU, the simulator, no NCCL). Same sums, to the bit, as host.
//   nccl    on the device alone, without host waits. Sums are ncclSum's: in an order of NCCL's choosing. What
//           hangs is seen in finish_collectives (mesh.h). A span of the trace ends when the host looks next.
//           `--fault delay` is for the other two.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/exact_sum.h"
#include "base/tensor.h"

namespace contender {

// An exchange in flight. wait() completes it: what the compute stream is given after sees the results. The
// destructor calls it unless unwinding. poke() lets MPI make progress without blocking; call it between
// pieces of computation.
class Pending {
 public:
  struct Impl;
  Pending();
  explicit Pending(std::unique_ptr<Impl> impl);
  Pending(Pending&&) noexcept;
  Pending& operator=(Pending&&) noexcept;
  ~Pending();
  void wait();
  bool poke();  // true when complete
  bool active() const { return impl_ != nullptr; }

 private:
  std::unique_ptr<Impl> impl_;
};

// Blocks of rows: rows [p * capacity, + send_counts[p]) of `send` go to peer p; what comes from peer p lands
// from row p * capacity of `recv` on. Counts are device memory and stay with the sender. Host and staged send
// used rows only and leave the others of `recv` as they are; nccl sends whole blocks. A group of one may give
// the same memory twice: nothing is copied then.
struct BlocksArgs {
  const char* name = "";
  Tensor send;                           // [size * capacity, H]
  const int32_t* send_counts = nullptr;  // [size] used rows of each block, at most capacity
  Tensor recv;                           // [size * capacity, H] out
  int64_t capacity = 0;                  // rows of a block
};

class Group {
 public:
  struct Impl;
  explicit Group(std::unique_ptr<Impl> impl);
  ~Group();
  int rank() const;
  int size() const;
  int world_rank(int member) const;

  // Rows of all members, in rank order: out = [x_0; x_1; ...], counts[p] rows from p. x may lie inside out at
  // its place.
  Pending all_gather_rows(const char* name, const Tensor& x, const Tensor& out, const int64_t* counts);
  // out = tree sum over members of their rows [offset(rank), + counts[rank]) of x; x has sum(counts) rows on
  // every member. out may be the own part of x.
  Pending reduce_scatter_rows(const char* name, const Tensor& x, const Tensor& out, const int64_t* counts);
  // Flat versions over [n] floats cut into shard(n) contiguous pieces (see shard_range).
  Pending reduce_scatter_flat(const char* name, const float* x, int64_t n, float* out);
  Pending all_gather_flat(const char* name, const float* shard, int64_t n, float* out);
  // recv[p] = what peer p has in send[rank], both [size][n].
  Pending all_to_all(const char* name, const int32_t* send, int32_t* recv, int64_t n);
  Pending exchange_blocks(const BlocksArgs& args);

  void all_reduce_sum(const char* name, int64_t* x, int64_t n);
  void all_reduce_sum(const char* name, ExactSum& sum);
  void all_reduce_max(const char* name, double* x, int64_t n);
  void broadcast(const char* name, void* data, int64_t bytes, int root = 0);
  // Every member's bytes on every member, in rank order.
  std::vector<std::string> all_gather_bytes(const char* name, const std::string& mine);
  void barrier(const char* name);

  // See Mesh::finish_collectives.
  void finish_collectives();

  // Host memory held for received pieces (a reduce-scatter needs as much as the other members' pieces) and
  // for staging, reused by later calls.
  int64_t scratch_bytes() const;

 private:
  std::unique_ptr<Impl> impl_;
};

// [begin, end) of member `rank`'s shard of n elements: equal pieces, multiples of 16 elements, the last ones
// shorter or empty.
std::pair<int64_t, int64_t> shard_range(int64_t n, int rank, int size);

// Limit of every wait, seconds (a config key; 3 s in tests). The default is 60 s. set_step_seconds gives the
// median step time: the limit is max(watchdog_s, 10 x median). When it is reached, the last collectives of
// the rank are written to dump_path (its own), if given.
void set_watchdog(double watchdog_s, const std::string& dump_path = "");
void set_step_seconds(double median_step_s);
// Times the host has waited for the device so that "staged" could send: part of Device::host_waits.
int64_t staged_waits();
// Bytes sent by this rank to others since the last call (for `contender plan`'s check and the metrics).
int64_t take_sent_bytes();
// Under `--fault delay`, since the last call: the delay of this rank's exchanges, and what was left of it
// when computation had to stop and wait. 1 - exposed / injected is the share that overlap hides.
struct DelaySeconds {
  double injected = 0, exposed = 0;
};
DelaySeconds take_delay_seconds();

}  // namespace contender
