#include "mpi/group.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <exception>

#include "base/job.h"
#include "base/log.h"
#include "mpi/flight.h"
#include "mpi/mesh.h"

namespace contender {
namespace {

// log2(size) exchanges with partners at distance 1, 2, 4, ...; combine(received) joins a partner's value to
// `data`. After each both partners hold the same value, the node of the binary tree above them.
template <class Combine>
void butterfly(Group::Impl& g, const char* name, void* data, int64_t bytes, Combine combine) {
  if (g.size == 1) return;
  auto f = g.begin(name);
  f->scratch = g.pool.take(bytes);
  for (int distance = 1; distance < g.size && !f->skipped; distance *= 2) {
    const int partner = g.rank ^ distance;
    f->recv(partner, f->scratch.data.get(), bytes);
    f->send(partner, data, bytes);
    f->wait_messages();
    combine(f->scratch.data.get());
  }
  f->complete();
  g.reuse(std::move(f));
}

}  // namespace

Pending::Pending() = default;
Pending::Pending(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Pending::Pending(Pending&&) noexcept = default;
Pending& Pending::operator=(Pending&& o) noexcept {
  if (this == &o) return *this;
  wait();
  impl_ = std::move(o.impl_);
  return *this;
}

Pending::~Pending() {
  if (!impl_) return;
  if (std::uncaught_exceptions() > impl_->exceptions) {
    // The job is ending. MPI may still write into the scratch memory, so it must outlive this.
    static_cast<void>(impl_.release());
    return;
  }
  try {
    wait();
  } catch (const Error& e) {
    log_error("{}", e.what());
    abort_job(static_cast<int>(e.code()));
  }
}

void Pending::wait() {
  if (!impl_) return;
  impl_->complete();
  Group::Impl* group = impl_->group;
  group->retire(std::move(impl_));
}

bool Pending::poke() {
  if (!impl_) return true;
  if (!impl_->complete_if_done()) return false;
  Group::Impl* group = impl_->group;
  group->retire(std::move(impl_));
  return true;
}

std::unique_ptr<Group> make_group(int color, const TransportChoice& choice) {
  auto g = std::make_unique<Group::Impl>();
  g->via = choice;
  if (mpi_started()) {
    int world_rank = 0;
    check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &world_rank), "MPI_Comm_rank", "mesh");
    check_mpi(MPI_Comm_split(MPI_COMM_WORLD, color, world_rank, &g->comm), "MPI_Comm_split", "mesh");
    check_mpi(MPI_Comm_set_errhandler(g->comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler", "mesh");
    check_mpi(MPI_Comm_rank(g->comm, &g->rank), "MPI_Comm_rank", "mesh");
    check_mpi(MPI_Comm_size(g->comm, &g->size), "MPI_Comm_size", "mesh");
    g->world_ranks.resize(static_cast<size_t>(g->size));
    check_mpi(MPI_Allgather(&world_rank, 1, MPI_INT, g->world_ranks.data(), 1, MPI_INT, g->comm),
              "MPI_Allgather", "mesh");
    CHECK(std::has_single_bit(static_cast<unsigned>(g->size)), "a group of {} ranks: sizes are powers of two",
          g->size);
  }
  return std::make_unique<Group>(std::move(g));
}

Group::Group(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Group::~Group() {
  if (!mpi_started() || impl_->comm == MPI_COMM_NULL || std::uncaught_exceptions() > 0) return;
  for (const auto& flight : impl_->unseen) flight->end();
  for (NcclComm* comm : impl_->nccl) {
    if (comm) destroy_nccl_comm(comm);
  }
  MPI_Comm_free(&impl_->comm);
}

int Group::rank() const { return impl_->rank; }
int Group::size() const { return impl_->size; }
int Group::world_rank(int member) const { return impl_->world_ranks.at(static_cast<size_t>(member)); }
int64_t Group::scratch_bytes() const { return impl_->pool.total_bytes(); }
void Group::finish_collectives() { impl_->finish_collectives(); }

void Group::all_reduce_sum(const char* name, int64_t* x, int64_t n) {
  butterfly(*impl_, name, x, n * int64_t{sizeof(int64_t)}, [&](const void* other) {
    const int64_t* y = static_cast<const int64_t*>(other);
    for (int64_t i = 0; i < n; ++i) x[i] += y[i];
  });
}

void Group::all_reduce_sum(const char* name, ExactSum& sum) {
  butterfly(*impl_, name, &sum, sizeof sum,
            [&](const void* other) { sum.merge(*static_cast<const ExactSum*>(other)); });
}

void Group::all_reduce_max(const char* name, double* x, int64_t n) {
  butterfly(*impl_, name, x, n * int64_t{sizeof(double)}, [&](const void* other) {
    const double* y = static_cast<const double*>(other);
    for (int64_t i = 0; i < n; ++i)
      x[i] = y[i] > x[i] || std::isnan(y[i]) ? y[i] : x[i];  // NaN reaches everybody
  });
}

void Group::barrier(const char* name) {
  butterfly(*impl_, name, nullptr, 0, [](const void*) {});
}

// Binomial tree: at distance 1, 2, 4, ... from the root, those who have the data pass it on.
void broadcast_bytes(Group::Impl& g, const char* name, void* data, int64_t bytes, int root) {
  if (g.size == 1 || bytes == 0) return;
  auto f = g.begin(name);
  const int place = (g.rank - root + g.size) % g.size;
  const auto member = [&](int other_place) { return (other_place + root) % g.size; };
  if (place != 0) {
    const int from = place - static_cast<int>(std::bit_floor(static_cast<unsigned>(place)));
    f->recv(member(from), data, bytes);
    f->wait_messages();
  }
  for (int distance = place == 0 ? 1 : 2 * static_cast<int>(std::bit_floor(static_cast<unsigned>(place)));
       distance < g.size; distance *= 2) {
    f->send(member(place + distance), data, bytes);
  }
  f->complete();
  g.reuse(std::move(f));
}

void Group::broadcast(const char* name, void* data, int64_t bytes, int root) {
  broadcast_bytes(*impl_, name, data, bytes, root);
}

std::vector<std::string> Group::all_gather_bytes(const char* name, const std::string& mine) {
  std::vector<int64_t> counts(static_cast<size_t>(size()), 0);
  counts[static_cast<size_t>(rank())] = static_cast<int64_t>(mine.size());
  all_reduce_sum(name, counts.data(), size());
  fill_offsets(*impl_, counts.data());
  const std::vector<int64_t> offsets = impl_->offsets;
  std::string all(static_cast<size_t>(offsets.back()), '\0');
  gather_pieces(*impl_, name, Kind::kControl, mine.data(), all.data(), 1).wait();
  std::vector<std::string> pieces;
  for (size_t p = 0; p + 1 < offsets.size(); ++p) {
    pieces.push_back(all.substr(static_cast<size_t>(offsets[p]), static_cast<size_t>(counts[p])));
  }
  return pieces;
}

}  // namespace contender
