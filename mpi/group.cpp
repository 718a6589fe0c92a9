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

// Below this an all-reduce is log2(size) exchanges of the whole vector; above, reduce-scatter and all-gather.
// Same tree, same bits.
constexpr int64_t kButterflyMaxBytes = 32 << 10;

template <class Count>
void fill_offsets(Group::Impl& g, const Count* counts) {
  g.offsets.assign(1, 0);
  for (int p = 0; p < g.size; ++p) g.offsets.push_back(g.offsets.back() + counts[p]);
}

void fill_shard_offsets(Group::Impl& g, int64_t n) {
  g.offsets.assign(1, 0);
  for (int p = 0; p < g.size; ++p) g.offsets.push_back(shard_range(n, p, g.size).second);
}

// Calls f(member) for all others, starting after the own place so that not everybody talks to member 0 first.
template <class F>
void for_others(const Group::Impl& g, F f) {
  for (int i = 1; i < g.size; ++i) f((g.rank + i) % g.size);
}

int64_t row_bytes(const Tensor& t) { return t.cols * dtype_size(t.dtype); }

void move_bytes(void* dst, const void* src, int64_t bytes) {
  if (dst != src && bytes > 0) std::memmove(dst, src, static_cast<size_t>(bytes));
}

std::unique_ptr<Pending::Impl> begin_exchange(Group::Impl& g, const char* name) {
  std::unique_ptr<Pending::Impl> f = g.begin(name);
  if (const int64_t delay_ns = fault_delay_ns(g.world_rank())) f->not_before_ns = f->begin_ns + delay_ns;
  return f;
}

// g.offsets says, in units of `unit` bytes, where each member's piece lies in `out`.
Pending gather_pieces(Group::Impl& g, const char* name, const void* mine, void* out, int64_t unit) {
  const auto offset = [&](int p) { return g.offsets[static_cast<size_t>(p)] * unit; };
  const auto bytes = [&](int p) { return offset(p + 1) - offset(p); };
  char* base = static_cast<char*>(out);
  move_bytes(base + offset(g.rank), mine, bytes(g.rank));
  if (g.size == 1) return Pending();
  auto f = begin_exchange(g, name);
  for_others(g, [&](int p) {
    if (bytes(p) > 0) f->recv(p, base + offset(p), bytes(p));
  });
  for_others(g, [&](int p) {
    if (bytes(g.rank) > 0) f->send(p, mine, bytes(g.rank));
  });
  return Pending(std::move(f));
}

// g.offsets says, in floats, where each member's piece lies in x.
Pending reduce_pieces(Group::Impl& g, const char* name, const float* x, float* out) {
  const auto offset = [&](int p) { return g.offsets[static_cast<size_t>(p)]; };
  const auto count = [&](int p) { return offset(p + 1) - offset(p); };
  const int64_t n = count(g.rank);
  const float* own = x + offset(g.rank);
  if (g.size == 1) {
    move_bytes(out, own, n * int64_t{sizeof(float)});
    return Pending();
  }
  auto f = begin_exchange(g, name);
  if (n > 0 && !f->skipped) {
    f->scratch = g.pool.take((g.size - 1) * n * int64_t{sizeof(float)});
    f->finish = Pending::Impl::Finish::kTreeSum;
    f->own = own;
    f->out = out;
    f->n = n;
    for_others(
        g, [&](int p) { f->recv(p, f->scratch.f32() + (p - (p > g.rank)) * n, n * int64_t{sizeof(float)}); });
  }
  for_others(g, [&](int p) {
    if (count(p) > 0) f->send(p, x + offset(p), count(p) * int64_t{sizeof(float)});
  });
  return Pending(std::move(f));
}

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

// Leaves the offsets of the rows to send in g.offsets.
void check_exchange(Group::Impl& g, const ExchangeArgs& a) {
  fill_offsets(g, a.send_counts);
  CHECK(a.send_rows.cols == a.recv_rows.cols && a.send_rows.dtype == a.recv_rows.dtype &&
            a.send_rows.rows == g.offsets.back() && a.recv_rows.rows >= g.size * a.capacity &&
            a.send_rows.contiguous() && a.recv_rows.contiguous(),
        "\"{}\": send [{}, {}] for {} rows, recv [{}, {}], capacity {}", a.name, a.send_rows.rows,
        a.send_rows.cols, g.offsets.back(), a.recv_rows.rows, a.recv_rows.cols, a.capacity);
  CHECK(a.capacity * row_bytes(a.recv_rows) <= kMaxMessageBytes,
        "\"{}\": {} rows of {} bytes do not fit one message; lower {}", a.name, a.capacity,
        row_bytes(a.recv_rows), a.setting);
  for (int p = 0; p < g.size; ++p) {
    if (a.send_counts[p] <= a.capacity) continue;
    fail(ExitCode::kInternal, "\"{}\": {} rows for rank {}, which has room for {} from each peer; raise {}",
         a.name, a.send_counts[p], g.world_ranks[static_cast<size_t>(p)], a.capacity, a.setting);
  }
}

}  // namespace

std::pair<int64_t, int64_t> shard_range(int64_t n, int rank, int size) {
  const int64_t piece = round_up(ceil_div(n, size), 16);
  const int64_t begin = std::min(n, rank * piece);
  return {begin, std::min(n, begin + piece)};
}

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
  group->reuse(std::move(impl_));
}

bool Pending::poke() {
  if (!impl_) return true;
  if (!impl_->complete_if_done()) return false;
  Group::Impl* group = impl_->group;
  group->reuse(std::move(impl_));
  return true;
}

std::unique_ptr<Group> make_group(int color) {
  auto g = std::make_unique<Group::Impl>();
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
  if (mpi_started() && impl_->comm != MPI_COMM_NULL && std::uncaught_exceptions() == 0)
    MPI_Comm_free(&impl_->comm);
}

int Group::rank() const { return impl_->rank; }
int Group::size() const { return impl_->size; }
int Group::world_rank(int member) const { return impl_->world_ranks.at(static_cast<size_t>(member)); }
int64_t Group::scratch_bytes() const { return impl_->pool.total_bytes(); }

Pending Group::all_gather_rows(const char* name, const Tensor& x, const Tensor& out, const int64_t* counts) {
  fill_offsets(*impl_, counts);
  CHECK(x.rows == counts[rank()] && out.rows == impl_->offsets.back() && x.cols == out.cols &&
            x.dtype == out.dtype,
        "\"{}\": x [{}, {}], out [{}, {}], {} rows in all", name, x.rows, x.cols, out.rows, out.cols,
        impl_->offsets.back());
  CHECK(x.contiguous() && out.contiguous(), "\"{}\"", name);
  return gather_pieces(*impl_, name, x.data, out.data, row_bytes(x));
}

Pending Group::all_gather_flat(const char* name, const float* shard, int64_t n, float* out) {
  fill_shard_offsets(*impl_, n);
  return gather_pieces(*impl_, name, shard, out, sizeof(float));
}

Pending Group::reduce_scatter_rows(const char* name, const Tensor& x, const Tensor& out,
                                   const int64_t* counts) {
  fill_offsets(*impl_, counts);
  CHECK(out.rows == counts[rank()] && x.rows == impl_->offsets.back() && x.cols == out.cols,
        "\"{}\": x [{}, {}], out [{}, {}], {} rows in all", name, x.rows, x.cols, out.rows, out.cols,
        impl_->offsets.back());
  CHECK(x.contiguous() && out.contiguous(), "\"{}\"", name);
  for (int64_t& offset : impl_->offsets) offset *= x.cols;
  return reduce_pieces(*impl_, name, x.f32(), out.f32());
}

Pending Group::reduce_scatter_flat(const char* name, const float* x, int64_t n, float* out) {
  fill_shard_offsets(*impl_, n);
  return reduce_pieces(*impl_, name, x, out);
}

Pending Group::exchange(const ExchangeArgs& args) {
  Impl& g = *impl_;
  check_exchange(g, args);
  const int64_t bytes = row_bytes(args.recv_rows);
  const int64_t header_ints = 1 + args.header_len, header_bytes = header_ints * int64_t{sizeof(int32_t)};
  const auto rows_for = [&](int p) {
    return static_cast<const char*>(args.send_rows.data) + g.offsets[static_cast<size_t>(p)] * bytes;
  };
  const auto rows_from = [&](int p) {
    return static_cast<char*>(args.recv_rows.data) + p * args.capacity * bytes;
  };

  args.recv_counts[g.rank] = args.send_counts[g.rank];
  move_bytes(args.recv_header + g.rank * args.header_len, args.send_header + g.rank * args.header_len,
             header_bytes - int64_t{sizeof(int32_t)});
  move_bytes(rows_from(g.rank), rows_for(g.rank), args.send_counts[g.rank] * bytes);
  if (g.size == 1) return Pending();

  auto f = begin_exchange(g, args.name);
  f->scratch = g.pool.take(2 * g.size * header_bytes);
  int32_t* recv_headers = f->scratch.i32();
  int32_t* send_headers = recv_headers + g.size * header_ints;
  if (f->skipped) std::memset(recv_headers, 0, static_cast<size_t>(g.size * header_bytes));
  f->finish = Pending::Impl::Finish::kExchange;
  f->exchange = args;
  f->headers = recv_headers;
  for_others(g, [&](int p) {
    f->recv(p, recv_headers + p * header_ints, header_bytes);
    f->recv(p, rows_from(p), args.capacity * bytes);
  });
  for_others(g, [&](int p) {
    int32_t* header = send_headers + p * header_ints;
    header[0] = args.send_counts[p];
    move_bytes(header + 1, args.send_header + p * args.header_len, header_bytes - int64_t{sizeof(int32_t)});
    f->send(p, header, header_bytes);
    f->send(p, rows_for(p), args.send_counts[p] * bytes);
  });
  return Pending(std::move(f));
}

Pending Group::exchange_back(const char* name, const Tensor& send_rows, const int32_t* send_counts,
                             int64_t capacity, const Tensor& recv_rows, const int32_t* recv_counts) {
  Impl& g = *impl_;
  const int64_t bytes = row_bytes(send_rows);
  fill_offsets(g, recv_counts);
  CHECK(send_rows.cols == recv_rows.cols && send_rows.dtype == recv_rows.dtype &&
            send_rows.rows >= g.size * capacity && recv_rows.rows == g.offsets.back() &&
            send_rows.contiguous() && recv_rows.contiguous(),
        "\"{}\": send [{}, {}], recv [{}, {}], capacity {}, {} rows expected", name, send_rows.rows,
        send_rows.cols, recv_rows.rows, recv_rows.cols, capacity, g.offsets.back());
  CHECK(send_counts[g.rank] == recv_counts[g.rank], "\"{}\": own rows {} and {}", name, send_counts[g.rank],
        recv_counts[g.rank]);
  const auto rows_for = [&](int p) {
    return static_cast<const char*>(send_rows.data) + p * capacity * bytes;
  };
  const auto rows_from = [&](int p) {
    return static_cast<char*>(recv_rows.data) + g.offsets[static_cast<size_t>(p)] * bytes;
  };
  move_bytes(rows_from(g.rank), rows_for(g.rank), send_counts[g.rank] * bytes);
  if (g.size == 1) return Pending();
  auto f = begin_exchange(g, name);
  for_others(g, [&](int p) {
    if (recv_counts[p] > 0) f->recv(p, rows_from(p), recv_counts[p] * bytes);
  });
  for_others(g, [&](int p) {
    if (send_counts[p] > 0) f->send(p, rows_for(p), send_counts[p] * bytes);
  });
  return Pending(std::move(f));
}

void Group::all_reduce_tree(const char* name, float* x, int64_t n) {
  if (n * int64_t{sizeof(float)} <= kButterflyMaxBytes) {
    butterfly(*impl_, name, x, n * int64_t{sizeof(float)}, [&](const void* other) {
      const float* y = static_cast<const float*>(other);
      for (int64_t i = 0; i < n; ++i) x[i] += y[i];
    });
    return;
  }
  float* own = x + shard_range(n, rank(), size()).first;
  reduce_scatter_flat(name, x, n, own).wait();
  all_gather_flat(name, own, n, x).wait();
}

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
void Group::broadcast(const char* name, void* data, int64_t bytes, int root) {
  Impl& g = *impl_;
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

std::vector<std::string> Group::all_gather_bytes(const char* name, const std::string& mine) {
  std::vector<int64_t> counts(static_cast<size_t>(size()), 0);
  counts[static_cast<size_t>(rank())] = static_cast<int64_t>(mine.size());
  all_reduce_sum(name, counts.data(), size());
  fill_offsets(*impl_, counts.data());
  std::string all(static_cast<size_t>(impl_->offsets.back()), '\0');
  const std::vector<int64_t> offsets = impl_->offsets;
  gather_pieces(*impl_, name, mine.data(), all.data(), 1).wait();
  std::vector<std::string> pieces;
  for (size_t p = 0; p + 1 < offsets.size(); ++p) {
    pieces.push_back(all.substr(static_cast<size_t>(offsets[p]), static_cast<size_t>(counts[p])));
  }
  return pieces;
}

}  // namespace contender
