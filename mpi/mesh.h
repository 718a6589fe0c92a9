// The mesh: one set of ranks, two views. Attention: pp x cp x tp x dp. Experts: pp x etp x ep x edp. Equal
// products, so expert parallelism is folded into the others and np = pp cp tp dp. pp = cp = etp = 1 today;
// the axes exist so that blocks run as ranges.
//
// rank = d * tp + t: the ranks of a tp group are neighbours, an ep group is `ep` consecutive ranks. All sizes
// are powers of two. Tokens are owned by virtual data slots: rank r owns slots [r * S / np, (r + 1) * S / np)
// and does all token-wise work for them; a tp group sees the slots of its members together, an ep group
// likewise. Sums over slots are made in one binary tree, which every group's range of slots is a subtree of:
// that is why layouts are bit-equal.
#pragma once

#include <memory>
#include <string>

#include "device/device.h"
#include "mpi/group.h"

namespace contender {

struct MeshShape {
  int pp = 1, cp = 1, tp = 1, dp = 1;  // attention view
  int etp = 1, ep = 1, edp = 1;        // expert view; edp = np / (etp * ep)
  int np() const { return pp * cp * tp * dp; }
};

class Mesh {
 public:
  // Collective over MPI_COMM_WORLD, whose size must be shape.np() (exit 10 naming both otherwise).
  // The device, whose memory the collectives work on, outlives the mesh; without one it is the host's.
  // Transports are those of group.h, or "auto": host where the host sees the memory, nccl where it can be
  // loaded and every rank has a GPU to itself, else staged. Exit 10 names the one that cannot be had, and
  // why.
  explicit Mesh(const MeshShape& shape, Device* device = nullptr, const std::string& transport = "auto");
  const MeshShape& shape() const { return shape_; }
  int rank() const { return world_->rank(); }
  int size() const { return world_->size(); }
  Group& world() const { return *world_; }
  Group& tp() const { return *tp_; }    // ranks d*tp .. d*tp + tp - 1
  Group& dp() const { return *dp_; }    // ranks with the same t
  Group& ep() const { return *ep_; }    // ep consecutive ranks
  Group& edp() const { return *edp_; }  // ranks with the same place in their ep group

  // To be called before the host waits for the compute stream: returns when the device is done with every
  // collective that the compute stream waits for. One that takes longer than the watchdog's limit, or that
  // NCCL reports as failed, ends the job with exit code 18. Nothing to do unless the transport is nccl.
  void finish_collectives() const;

 private:
  MeshShape shape_;
  std::unique_ptr<Group> world_, tp_, dp_, ep_, edp_;
};

// MPI start and end. init_mpi ignores SIGPIPE, sets the error handler so that MPI errors become
// Error(kPeerLost), and returns {rank, size}. Without mpirun it starts as a single rank.
struct MpiInfo {
  int rank = 0;
  int size = 1;
};
MpiInfo init_mpi(int* argc, char*** argv);
void finalize_mpi();
// Ends every rank with the code; prints nothing.
[[noreturn]] void abort_job(int exit_code);
// Rank and size as mpirun announces them in the environment, before (or without) init_mpi.
MpiInfo launcher_info();

}  // namespace contender
