// Exchanges whose counts the host knows, on host memory.
#include <cstring>

#include "base/job.h"
#include "mpi/flight.h"

namespace contender {
namespace {

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

}  // namespace contender
