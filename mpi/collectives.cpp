// The collectives of rows, blocks and shards: on memory that MPI reads itself, staged through the host, or
// NCCL's. Staged, a flight has a copy of the memory on the host: what is sent is downloaded at the begin, the
// messages and sums are those of host memory, and what arrived is uploaded at the end.
#include <algorithm>
#include <cstring>

#include "base/job.h"
#include "mpi/flight.h"
#include "mpi/nccl.h"

namespace contender {
namespace {

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

// Within the rank: null is the host's stream.
void copy_own(const Group::Impl& g, Stream* stream, void* dst, const void* src, int64_t bytes) {
  if (dst == src || bytes == 0) return;
  if (stream) {
    g.via.device->copy(stream, dst, src, bytes);
  } else {
    std::memmove(dst, src, static_cast<size_t>(bytes));
  }
}

std::unique_ptr<Pending::Impl> begin_exchange(Group::Impl& g, const char* name, Kind kind) {
  std::unique_ptr<Pending::Impl> f = g.begin(name, kind);
  const int64_t delay_ns = f->nccl ? 0 : fault_delay_ns(g.world_rank());
  if (delay_ns != 0) f->not_before_ns = f->begin_ns + delay_ns;
  return f;
}

// NCCL: `call` puts the work into the stream, an event ends it.
template <class Call>
Pending in_stream(std::unique_ptr<Pending::Impl> f, Call call) {
  if (!f->skipped) call(*f);
  f->event = f->group->via.device->record(f->stream);
  return Pending(std::move(f));
}

// g.offsets says, in floats, where each member's piece lies in x.
Pending reduce_pieces(Group::Impl& g, const char* name, Kind kind, const float* x, float* out) {
  const auto offset = [&](int p) { return g.offsets[static_cast<size_t>(p)]; };
  const auto count = [&](int p) { return offset(p + 1) - offset(p); };
  const int64_t n = count(g.rank), bytes = n * int64_t{sizeof(float)};
  if (g.size == 1) {
    copy_own(g, g.compute_stream(kind), out, x, bytes);
    return Pending();
  }
  auto f = begin_exchange(g, name, kind);
  if (f->nccl) return in_stream(std::move(f), [&](Pending::Impl& flight) { nccl_reduce(flight, x, out); });
  if (f->stream) {
    const int64_t all_bytes = offset(g.size) * int64_t{sizeof(float)};
    float* host = reinterpret_cast<float*>(f->stage(all_bytes));
    staged_download(g, f->stream, host, x, all_bytes);
    f->bring(out, host + offset(g.rank), bytes);
    x = host;
    out = host + offset(g.rank);
  }
  if (n > 0 && !f->skipped) {
    f->scratch = g.pool.take((g.size - 1) * bytes);
    f->own = x + offset(g.rank);
    f->out = out;
    f->n = n;
    for_others(g, [&](int p) { f->recv(p, f->scratch.f32() + (p - (p > g.rank)) * n, bytes); });
  }
  for_others(g, [&](int p) {
    if (count(p) > 0) f->send(p, x + offset(p), count(p) * int64_t{sizeof(float)});
  });
  return Pending(std::move(f));
}

// `block` bytes of room for every member in send and recv; g.used says how many of them go to each.
Pending move_blocks(Group::Impl& g, const char* name, const void* send, void* recv, int64_t block) {
  const char* from = static_cast<const char*>(send);
  char* to = static_cast<char*>(recv);
  const auto used = [&](int p) { return g.used[static_cast<size_t>(p)]; };
  CHECK(block <= kMaxMessageBytes, "\"{}\": {} bytes for each peer do not fit one message", name, block);
  if (g.size == 1) {
    copy_own(g, g.compute_stream(Kind::kDispatch), to, from, used(0));
    return Pending();
  }
  auto f = begin_exchange(g, name, Kind::kDispatch);
  copy_own(g, f->stream, to + g.rank * block, from + g.rank * block, used(g.rank));
  if (f->nccl) {
    return in_stream(std::move(f), [&](Pending::Impl& flight) { nccl_blocks(flight, send, recv, block); });
  }
  if (f->stream) {
    char* host_to = f->stage(2 * g.size * block);
    char* host_from = host_to + g.size * block;
    int request = 0;  // what arrived of a block is known by the length of its message
    for_others(g, [&](int p) {
      f->bring(to + p * block, host_to + p * block, block, request++);
      staged_download(g, f->stream, host_from + p * block, from + p * block, used(p));
    });
    from = host_from;
    to = host_to;
  }
  for_others(g, [&](int p) { f->recv(p, to + p * block, block); });
  for_others(g, [&](int p) { f->send(p, from + p * block, used(p)); });
  return Pending(std::move(f));
}

// Bytes to send of each block, in g.used. Alone, and under NCCL, the host does not ask: whole blocks.
void find_used(Group::Impl& g, const BlocksArgs& a) {
  const int64_t bytes = row_bytes(a.send);
  const size_t size = static_cast<size_t>(g.size);
  g.used.assign(size, a.capacity * bytes);
  const int32_t* counts = a.send_counts;
  if (g.via.transport != Transport::kHost) {
    if (g.via.transport == Transport::kNccl || g.size == 1) return;
    g.counts.resize(size);
    staged_download(g, g.begin_stream(Kind::kDispatch), g.counts.data(), counts,
                    g.size * int64_t{sizeof(int32_t)});
    counts = g.counts.data();
  }
  for (int p = 0; p < g.size; ++p) {
    CHECK(counts[p] >= 0 && counts[p] <= a.capacity, "\"{}\": {} rows for rank {}, room for {}", a.name,
          counts[p], g.world_ranks[static_cast<size_t>(p)], a.capacity);
    g.used[static_cast<size_t>(p)] = counts[p] * bytes;
  }
}

}  // namespace

std::pair<int64_t, int64_t> shard_range(int64_t n, int rank, int size) {
  const int64_t piece = round_up(ceil_div(n, size), 16);
  const int64_t begin = std::min(n, rank * piece);
  return {begin, std::min(n, begin + piece)};
}

Pending gather_pieces(Group::Impl& g, const char* name, Kind kind, const void* mine, void* out,
                      int64_t unit) {
  const auto offset = [&](int p) { return g.offsets[static_cast<size_t>(p)] * unit; };
  const auto bytes = [&](int p) { return offset(p + 1) - offset(p); };
  char* base = static_cast<char*>(out);
  if (g.size == 1) {
    copy_own(g, g.compute_stream(kind), out, mine, bytes(0));
    return Pending();
  }
  auto f = begin_exchange(g, name, kind);
  if (f->nccl) {
    return in_stream(std::move(f), [&](Pending::Impl& flight) { nccl_gather(flight, mine, out, unit); });
  }
  copy_own(g, f->stream, base + offset(g.rank), mine, bytes(g.rank));
  if (f->stream) {
    char* host = f->stage(offset(g.size));
    staged_download(g, f->stream, host + offset(g.rank), mine, bytes(g.rank));
    f->bring(base, host, offset(g.rank));  // the pieces before the own one, and those behind it
    const int64_t behind = offset(g.rank + 1);
    f->bring(base + behind, host + behind, offset(g.size) - behind);
    mine = host + offset(g.rank);
    base = host;
  }
  for_others(g, [&](int p) {
    if (bytes(p) > 0) f->recv(p, base + offset(p), bytes(p));
  });
  for_others(g, [&](int p) {
    if (bytes(g.rank) > 0) f->send(p, mine, bytes(g.rank));
  });
  return Pending(std::move(f));
}

Pending Group::all_gather_rows(const char* name, const Tensor& x, const Tensor& out, const int64_t* counts) {
  fill_offsets(*impl_, counts);
  CHECK(x.rows == counts[rank()] && out.rows == impl_->offsets.back() && x.cols == out.cols &&
            x.dtype == out.dtype,
        "\"{}\": x [{}, {}], out [{}, {}], {} rows in all", name, x.rows, x.cols, out.rows, out.cols,
        impl_->offsets.back());
  CHECK(x.contiguous() && out.contiguous(), "\"{}\"", name);
  return gather_pieces(*impl_, name, Kind::kTp, x.data, out.data, row_bytes(x));
}

Pending Group::all_gather_flat(const char* name, const float* shard, int64_t n, float* out) {
  fill_shard_offsets(*impl_, n);
  return gather_pieces(*impl_, name, Kind::kReduce, shard, out, sizeof(float));
}

Pending Group::reduce_scatter_rows(const char* name, const Tensor& x, const Tensor& out,
                                   const int64_t* counts) {
  fill_offsets(*impl_, counts);
  CHECK(out.rows == counts[rank()] && x.rows == impl_->offsets.back() && x.cols == out.cols,
        "\"{}\": x [{}, {}], out [{}, {}], {} rows in all", name, x.rows, x.cols, out.rows, out.cols,
        impl_->offsets.back());
  CHECK(x.contiguous() && out.contiguous(), "\"{}\"", name);
  for (int64_t& offset : impl_->offsets) offset *= x.cols;
  return reduce_pieces(*impl_, name, Kind::kTp, x.f32(), out.f32());
}

Pending Group::reduce_scatter_flat(const char* name, const float* x, int64_t n, float* out) {
  fill_shard_offsets(*impl_, n);
  return reduce_pieces(*impl_, name, Kind::kReduce, x, out);
}

Pending Group::all_to_all(const char* name, const int32_t* send, int32_t* recv, int64_t n) {
  const int64_t bytes = n * int64_t{sizeof(int32_t)};
  impl_->used.assign(static_cast<size_t>(size()), bytes);
  return move_blocks(*impl_, name, send, recv, bytes);
}

Pending Group::exchange_blocks(const BlocksArgs& a) {
  const int64_t rows = size() * a.capacity;
  CHECK(a.send.rows == rows && a.recv.rows == rows && a.send.cols == a.recv.cols &&
            a.send.dtype == a.recv.dtype && a.send.contiguous() && a.recv.contiguous(),
        "\"{}\": send [{}, {}], recv [{}, {}], {} blocks of {} rows", a.name, a.send.rows, a.send.cols,
        a.recv.rows, a.recv.cols, size(), a.capacity);
  find_used(*impl_, a);
  return move_blocks(*impl_, a.name, a.send.data, a.recv.data, a.capacity * row_bytes(a.send));
}

}  // namespace contender
