#include "mpi/flight.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <functional>
#include <string_view>

#include "base/job.h"
#include "base/timer.h"
#include "mpi/watchdog.h"

namespace contender {
namespace {

int64_t g_sent_bytes = 0;
int64_t g_staged_waits = 0;
DelaySeconds g_delay;

// Of the device, by Kind.
constexpr const char* kStreamNames[kNumKinds] = {nullptr, "dispatch", "reduce", "tp"};

void sleep_until_ns(int64_t deadline_ns) {
  const timespec t = {deadline_ns / 1'000'000'000, deadline_ns % 1'000'000'000};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr) != 0) {
  }
}

}  // namespace

int64_t take_sent_bytes() { return std::exchange(g_sent_bytes, 0); }
void count_sent(int64_t bytes) { g_sent_bytes += bytes; }
int64_t staged_waits() { return g_staged_waits; }
DelaySeconds take_delay_seconds() { return std::exchange(g_delay, {}); }

Scratch ScratchPool::take(int64_t bytes) {
  auto best = free_.end(), largest = free_.end();
  for (auto s = free_.begin(); s != free_.end(); ++s) {
    if (s->bytes >= bytes && (best == free_.end() || s->bytes < best->bytes)) best = s;
    if (largest == free_.end() || s->bytes > largest->bytes) largest = s;
  }
  if (best == free_.end()) best = largest;
  Scratch scratch;
  if (best != free_.end()) {
    scratch = std::move(*best);
    free_.erase(best);
  }
  if (scratch.bytes < bytes || !scratch.data) {
    total_bytes_ -= scratch.bytes;
    scratch.data.reset();
    scratch.bytes = round_up(std::max<int64_t>(bytes, 1), 64);
    scratch.data.reset(std::aligned_alloc(64, static_cast<size_t>(scratch.bytes)));
    if (!scratch.data) fail(ExitCode::kOutOfMemory, "messages of a collective: no {} bytes", scratch.bytes);
    total_bytes_ += scratch.bytes;
  }
  return scratch;
}

void ScratchPool::give(Scratch scratch) {
  if (scratch.data) free_.push_back(std::move(scratch));
}

Stream* Group::Impl::compute_stream(Kind kind) const {
  return kind == Kind::kControl || via.transport == Transport::kHost ? nullptr : via.device->compute_stream();
}

Stream* Group::Impl::begin_stream(Kind kind) const {
  Stream* compute = compute_stream(kind);
  if (!compute) return nullptr;
  Stream* stream = via.device->stream(kStreamNames[static_cast<size_t>(kind)]);
  via.device->order(compute, stream);
  return stream;
}

void staged_download(const Group::Impl& g, Stream* stream, void* host, const void* device, int64_t bytes) {
  if (bytes == 0) return;
  const int64_t waits = g.via.device->host_waits();
  g.via.device->download(stream, host, device, bytes);
  g_staged_waits += g.via.device->host_waits() - waits;
}

std::unique_ptr<Pending::Impl> Group::Impl::begin(const char* name, Kind kind) {
  NcclComm** comm = nullptr;
  if (kind != Kind::kControl && via.transport == Transport::kNccl) {
    forget_finished();
    comm = &nccl[static_cast<size_t>(kind)];
    if (!*comm) *comm = make_nccl_comm(*this);
  }
  std::unique_ptr<Pending::Impl> f;
  if (idle.empty()) {
    f = std::make_unique<Pending::Impl>();
    f->group = this;
  } else {
    f = std::move(idle.back());
    idle.pop_back();
  }
  f->name = name;
  f->collective = num_collectives++;
  const size_t hash = std::hash<std::string_view>()(name);
  f->tag = static_cast<int>(((f->collective & 0xFFFF) << 6 | (hash & 0x3F)) & kMaxTag);
  f->skipped = fault_fires("skip", world_rank());
  f->begin_ns = now_ns();
  f->range = begin_range(name);
  f->not_before_ns = 0;
  f->exceptions = std::uncaught_exceptions();
  f->out = nullptr;
  f->record_number = record_begin(*this, name, f->collective);
  f->nccl = comm ? *comm : nullptr;
  f->stream = begin_stream(kind);
  return f;
}

void Group::Impl::reuse(std::unique_ptr<Pending::Impl> flight) {
  pool.give(std::move(flight->scratch));
  pool.give(std::move(flight->staging));
  flight->arrivals.clear();
  idle.push_back(std::move(flight));
}

void Group::Impl::retire(std::unique_ptr<Pending::Impl> flight) {
  if (flight->event) {
    unseen.push_back(std::move(flight));
  } else {
    reuse(std::move(flight));
  }
}

void Group::Impl::forget_finished() {
  while (!unseen.empty() && via.device->done(unseen.front()->event)) {
    unseen.front()->end();
    reuse(std::move(unseen.front()));
    unseen.pop_front();
  }
}

void Group::Impl::finish_collectives() {
  while (!unseen.empty()) {
    const Pending::Impl& oldest = *unseen.front();
    Watch watch(oldest);
    while (!via.device->done(oldest.event)) {
      check_nccl_comm(oldest);
      sched_yield();
      watch.tick();
    }
    check_nccl_comm(oldest);
    forget_finished();
  }
}

char* Pending::Impl::stage(int64_t bytes) {
  staging = group->pool.take(bytes);
  return static_cast<char*>(staging.data.get());
}

void Pending::Impl::bring(void* device, const void* host, int64_t bytes, int request) {
  if (bytes > 0) arrivals.push_back({device, host, bytes, request});
}

void Pending::Impl::send(int member, const void* data, int64_t bytes) {
  if (skipped) return;
  count_sent(bytes);
  const char* p = static_cast<const char*>(data);
  do {
    const int64_t part = std::min(bytes, kMaxMessageBytes);
    peers.push_back(member);
    check_mpi(
        MPI_Isend(p, static_cast<int>(part), MPI_BYTE, member, tag, group->comm, &requests.emplace_back()),
        "MPI_Isend", name);
    p += part;
    bytes -= part;
  } while (bytes > 0);
}

void Pending::Impl::recv(int member, void* data, int64_t bytes) {
  if (skipped) return;
  char* p = static_cast<char*>(data);
  do {
    const int64_t part = std::min(bytes, kMaxMessageBytes);
    peers.push_back(member);
    check_mpi(
        MPI_Irecv(p, static_cast<int>(part), MPI_BYTE, member, tag, group->comm, &requests.emplace_back()),
        "MPI_Irecv", name);
    p += part;
    bytes -= part;
  } while (bytes > 0);
}

bool Pending::Impl::poll() {
  if (requests.empty()) return true;
  int done = 0;
  statuses.resize(requests.size());
  const int code = MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, statuses.data());
  if (code == MPI_ERR_IN_STATUS) {
    for (size_t i = 0; i < statuses.size(); ++i) {
      if (statuses[i].MPI_ERROR == MPI_SUCCESS || statuses[i].MPI_ERROR == MPI_ERR_PENDING) continue;
      const std::string call =
          fmt::format("message with rank {}", group->world_ranks[static_cast<size_t>(peers[i])]);
      check_mpi(statuses[i].MPI_ERROR, call.c_str(), name);
    }
  }
  check_mpi(code, "MPI_Testall", name);
  if (!done) return false;
  requests.clear();
  peers.clear();
  return true;
}

void Pending::Impl::wait_messages() {
  constexpr int kSpins = 200;  // then each poll gives the core away: the peer may need it
  for (int i = 0; i < kSpins; ++i) {
    if (poll()) return;
  }
  Watch watch(*this);
  while (!poll()) {
    sched_yield();
    watch.tick();
  }
}

bool Pending::Impl::complete_if_done() {
  if (event) {
    if (!group->via.device->done(event)) return false;
    complete();
    return true;
  }
  if (!poll() || (not_before_ns != 0 && now_ns() < not_before_ns)) return false;
  finish_now();
  return true;
}

void Pending::Impl::complete() {
  if (event) return group->via.device->wait(group->via.device->compute_stream(), event);
  if (not_before_ns != 0)
    g_delay.exposed += static_cast<double>(std::max<int64_t>(0, not_before_ns - now_ns())) * 1e-9;
  wait_messages();
  if (not_before_ns != 0) sleep_until_ns(not_before_ns);
  finish_now();
}

void Pending::Impl::finish_now() {
  if (not_before_ns != 0) g_delay.injected += static_cast<double>(not_before_ns - begin_ns) * 1e-9;
  if (out) tree_sum(scratch.f32(), own, group->rank, group->size, n, out);
  if (stream) bring_arrivals();
  end();
}

void Pending::Impl::bring_arrivals() {
  Device& device = *group->via.device;
  const int64_t waits = device.host_waits();
  for (const Arrival& a : arrivals) {
    if (skipped) break;
    const int64_t bytes = a.request < 0 ? a.bytes : received_bytes(a.request);
    if (bytes > 0) device.upload(stream, a.to, a.from, bytes);
  }
  g_staged_waits += device.host_waits() - waits;  // for room to upload from
  device.order(stream, device.compute_stream());
}

int64_t Pending::Impl::received_bytes(int request) const {
  int bytes = 0;
  check_mpi(MPI_Get_count(&statuses[static_cast<size_t>(request)], MPI_BYTE, &bytes), "MPI_Get_count", name);
  return bytes;
}

void Pending::Impl::end() {
  if (event) group->via.device->release(std::exchange(event, nullptr));
  record_done(record_number);
  end_range(range);
  trace_span(name, Lane::kComm, begin_ns, now_ns());
}

void tree_sum(float* pieces, const float* own, int rank, int size, int64_t n, float* out) {
  constexpr int64_t kBlock = 2048;  // own goes through a copy: it may be `out`
  float own_block[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t len = std::min(kBlock, n - begin);
    std::memcpy(own_block, own + begin, sizeof(float) * static_cast<size_t>(len));
    const auto block = [&](int p) { return p == rank ? own_block : pieces + (p - (p > rank)) * n + begin; };
    for (int width = 1; width < size; width *= 2) {
      for (int p = 0; p < size; p += 2 * width) {
        const float* b = block(p + width);
        const float* a = block(p);
        float* sum = 2 * width == size ? out + begin : block(p);
        for (int64_t i = 0; i < len; ++i) sum[i] = a[i] + b[i];
      }
    }
  }
}

}  // namespace contender
