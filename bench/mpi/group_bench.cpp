// Collectives between ranks: latency and bytes sent per rank and second, MPI's own collectives beside them.
//   make b/mpi/group builds it; mpirun --oversubscribe -np 2 build/release/b/mpi/group_bench measures. Alone
//   it skips.
// Iterations are fixed: every rank must make the same calls.
#include <benchmark/benchmark.h>
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <vector>

#include "mpi/mesh.h"

namespace contender {
namespace {

// Rank 0 reports for all. Before main, because the header is printed first.
const bool g_silent = launcher_info().rank > 0 && std::freopen("/dev/null", "w", stdout) != nullptr;

struct Session {
  std::unique_ptr<Mesh> mesh;
  Session() {
    init_mpi(nullptr, nullptr);
    set_watchdog(600);
    const int size = launcher_info().size;
    mesh = std::make_unique<Mesh>(MeshShape{.dp = size, .edp = size});
  }
  ~Session() {
    mesh.reset();
    finalize_mpi();
  }
};

Group* group_or_skip(benchmark::State& state) {
  if (launcher_info().size < 2) {
    state.SkipWithError("run under mpirun with 2 ranks or more");
    return nullptr;
  }
  static Session session;
  session.mesh->world().barrier("bench");
  return &session.mesh->world();
}

void report(benchmark::State& state, Group& g) {
  const double bytes = static_cast<double>(take_sent_bytes());
  state.counters["GB/s"] = benchmark::Counter(bytes * 1e-9, benchmark::Counter::kIsRate);
  state.counters["ranks"] = g.size();
}

// range(0): KiB; 0 is a single float.
std::vector<float> message(const benchmark::State& state, int64_t pieces) {
  return std::vector<float>(static_cast<size_t>(state.range(0) == 0 ? 1 : pieces * state.range(0) * 256),
                            1.0f);
}

void AllReduceSum(benchmark::State& state) {
  Group* g = group_or_skip(state);
  if (!g) return;
  std::vector<int64_t> x(static_cast<size_t>(std::max<int64_t>(1, state.range(0) * 128)), 1);
  const int64_t n = static_cast<int64_t>(x.size());
  g->all_reduce_sum("bench", x.data(), n);
  if (x.front() != g->size() || x.back() != g->size()) return state.SkipWithError("wrong sum");
  std::fill(x.begin(), x.end(), 0);
  take_sent_bytes();
  for (auto _ : state) g->all_reduce_sum("bench", x.data(), n);
  report(state, *g);
}

void AllReduceMpi(benchmark::State& state) {
  Group* g = group_or_skip(state);
  if (!g) return;
  std::vector<float> x = message(state, 1);
  for (auto _ : state) {
    MPI_Allreduce(MPI_IN_PLACE, x.data(), static_cast<int>(x.size()), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    x[0] = 0;
  }
  state.counters["ranks"] = g->size();
}

void ReduceScatter(benchmark::State& state) {
  Group* g = group_or_skip(state);
  if (!g) return;
  std::vector<float> x = message(state, g->size()), shard(x.size());
  const int64_t n = static_cast<int64_t>(x.size());
  g->reduce_scatter_flat("bench", x.data(), n, shard.data()).wait();
  if (shard.front() != g->size()) return state.SkipWithError("wrong sum");
  take_sent_bytes();
  for (auto _ : state) g->reduce_scatter_flat("bench", x.data(), n, shard.data()).wait();
  report(state, *g);
}

// range(0) KiB to every peer and back, as an expert layer does.
void ExchangeAndBack(benchmark::State& state) {
  Group* g = group_or_skip(state);
  if (!g) return;
  constexpr int64_t kCols = 128;
  const int64_t capacity = state.range(0) * 256 / kCols;
  std::vector<float> send = message(state, g->size()), recv(send.size());
  const std::vector<int32_t> counts(static_cast<size_t>(g->size()), static_cast<int32_t>(capacity));
  const Tensor out = f32_tensor(send.data(), g->size() * capacity, kCols),
               in = f32_tensor(recv.data(), g->size() * capacity, kCols);
  const auto run = [&] {
    g->exchange_blocks({"dispatch", out, counts.data(), in, capacity}).wait();
    g->exchange_blocks({"combine", in, counts.data(), out, capacity}).wait();
  };
  run();
  if (recv.back() != 1.0f) return state.SkipWithError("wrong rows");
  take_sent_bytes();
  for (auto _ : state) run();
  report(state, *g);
}

BENCHMARK(AllReduceSum)
    ->Arg(0)
    ->Arg(4)
    ->Arg(32)
    ->Arg(256)
    ->Iterations(1000)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(AllReduceMpi)
    ->Arg(0)
    ->Arg(4)
    ->Arg(32)
    ->Arg(256)
    ->Iterations(1000)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(ReduceScatter)->Arg(64)->Arg(1024)->Iterations(200)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(ExchangeAndBack)
    ->Arg(4)
    ->Arg(64)
    ->Arg(1024)
    ->Iterations(200)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace contender
