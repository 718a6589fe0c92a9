// NCCL, opened at run time; internal to mpi/. Neither its headers nor the library are needed to build.
//
// The collectives of group.h as NCCL's, put into the stream of a flight. Pieces of unequal length, which
// ncclAllGather and ncclReduceScatter do not know, are one broadcast or reduction per member, in one NCCL
// group.
#pragma once

#include <cstdint>
#include <string>

#include "mpi/group.h"

namespace contender {

struct NcclComm;  // ncclComm of the library

// Empty, or why NCCL cannot be used on this machine.
std::string nccl_problem();

// Collective over the group.
NcclComm* make_nccl_comm(Group::Impl& group);
void destroy_nccl_comm(NcclComm* comm);
// Error(kPeerLost) when the communicator reports a failure of its own or of a peer.
void check_nccl_comm(const Pending::Impl& flight);

// The group's offsets, in units of `unit` bytes, say where each member's piece lies in `out`.
void nccl_gather(Pending::Impl& flight, const void* mine, void* out, int64_t unit);
// The group's offsets, in floats, say where each member's piece lies in x.
void nccl_reduce(Pending::Impl& flight, const float* x, float* out);
// `block` bytes to every other member and from it.
void nccl_blocks(Pending::Impl& flight, const void* send, void* recv, int64_t block);

}  // namespace contender
