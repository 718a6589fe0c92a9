#include "exec/scheduler.h"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <new>

#include "check/checker.h"
#include "exec/mbarrier.h"
#include "exec/split.h"

namespace ptxsim {

namespace {

constexpr int kTurn = 2048;  // backward branches of a turn
constexpr int kDivergedTurn =
    256;  // of a warp whose lanes are at different places: one part may spin on the other
constexpr int kTurnsOfOthers = 64;
constexpr int kLateTurn = 32;

template <bool kInstrumented>
void run_warp(Warp& w) {
  const Instr* code = w.program->code.data();
  Worker& worker = *w.cta->cluster->worker;
  do {
    if constexpr (kInstrumented) {
      if (worker.profile) {
        InstructionCounts& n = (*worker.profile)[w.pc];
        ++n.issued;
        n.lanes += __builtin_popcount(active(w, code[w.pc]));
      }
      if (w.check && w.rows_in_flight) w.check->registers(w, code[w.pc]);
    }
    const Instr& i = code[w.pc++];
    ++w.steps;
    i.run(w, i);
  } while (!w.stop);
}

bool take_turn(Cluster& c, Warp& w) {
  const Config& options = config();
  const bool diverged = w.splits.size() > 1;
  w.budget = options.late ? 1 + static_cast<int>(next_random(*c.worker) % kLateTurn)
             : diverged   ? kDivergedTurn
                          : kTurn;
  w.stop = false;
  if (!reschedule(w)) return false;
  const uint64_t before = w.steps;
  if (w.check || c.worker->profile)
    run_warp<true>(w);
  else
    run_warp<false>(w);
  c.worker->steps += w.steps - before;
  if (w.budget <= 0 && w.mask && !w.splits.empty()) w.turns_of_others = kTurnsOfOthers;
  put_back(w);
  return true;
}

void happen(Cluster& c, size_t k) {
  const std::function<void()> work = std::move(c.pending[k].happen);
  c.pending.erase(c.pending.begin() + static_cast<std::ptrdiff_t>(k));
  work();
  ++c.events;
}

constexpr int kReleases = 1000;

// mbarrier.try_wait may give up: when nobody else can run, it says no, so that a program that only looked
// goes on. One that always looks again is stuck after so many times without an event.
bool release_waits(Cluster& c) {
  if (c.released_at != c.events) c.releases = 0;
  c.released_at = c.events;
  if (++c.releases > kReleases) return false;
  bool any = false;
  for (const auto& cta : c.ctas)
    for (Warp& w : cta->warps)
      for (Split& s : w.splits)
        if (s.ready == try_wait_ready) {
          s.ready = nullptr;
          any = true;
        }
  return any;
}

[[noreturn]] void deadlock(Cluster& c) {
  std::string who;
  int more = 0;
  for (const auto& cta : c.ctas)
    for (const Warp& w : cta->warps)
      for (const Split& s : w.splits) {
        if (!w.live || !s.mask) continue;
        // It waits behind the instruction that it has executed, unless it executes it again.
        const uint32_t pc = s.pc - (s.again || s.pc == 0 ? 0 : 1);
        if (who.size() > 8000)
          ++more;
        else
          who +=
              fmt::format("\n  block ({},{},{}) warp {} lanes {:#010x}: {} at {}", cta->id.x, cta->id.y,
                          cta->id.z, w.index, s.mask, s.why ? s.why : "?", instruction_place(*w.program, pc));
      }
  if (more) who += fmt::format("\n  and {} more", more);
  throw Fault(
      ErrorCode::kLaunchTimeout,
      fmt::format("kernel {}: [deadlock] every thread of the cluster waits and nothing can wake one:{}",
                  c.launch->name, who));
}

using Buffer = std::unique_ptr<std::byte[], void (*)(std::byte*)>;

void ensure(Buffer& buffer, size_t& have, size_t need) {
  if (have >= need && buffer) return;
  const size_t bytes = (std::max<size_t>(need, 64) + 63) / 64 * 64;
  auto* p = static_cast<std::byte*>(std::aligned_alloc(64, bytes));
  if (!p)
    throw Fault(ErrorCode::kMemoryAllocation,
                fmt::format("no memory for {} bytes of simulated registers or shared memory", bytes));
  buffer = Buffer(p, [](std::byte* q) { std::free(q); });
  have = bytes;
}

void fill_constants(const Program& p, Warp& w) {
  *row<uint32_t>(w, kTrueRow) = ~0u;
  for (const ConstantRow& c : p.constants) {
    const uint64_t value = c.shared ? c.value + (uint64_t{w.cta->rank} << 24) : c.value;
    for (int l = 0; l < kWarpSize; ++l) {
      if (c.width == 2)
        row<uint16_t>(w, c.offset)[l] = static_cast<uint16_t>(value);
      else if (c.width == 4)
        row<uint32_t>(w, c.offset)[l] = static_cast<uint32_t>(value);
      else
        row<uint64_t>(w, c.offset)[l] = value;
    }
  }
}

void lay_out(ClusterSlot& slot, const Launch& launch) {
  const Program& p = *launch.program;
  const uint64_t threads = launch.block.count();
  const auto n_warps = static_cast<size_t>((threads + kWarpSize - 1) / kWarpSize);
  const size_t n_ctas = launch.cluster.count();
  const uint32_t shared_end = kSharedBase + p.static_shared_bytes + launch.dynamic_shared;
  const size_t shared_stride = (shared_end + 1023) / 1024 * 1024 + 64;  // vector reads may look past the end
  ensure(slot.registers, slot.register_bytes, n_ctas * n_warps * p.register_bytes);
  // TMA swizzles by address bits: a block's shared memory begins at a multiple of 1024.
  ensure(slot.shared, slot.shared_bytes, n_ctas * shared_stride + 1024);
  ensure(slot.local, slot.local_bytes, n_ctas * n_warps * kWarpSize * p.local_bytes);
  Cluster& c = slot.cluster;
  c.ctas.resize(n_ctas);
  for (size_t r = 0; r < n_ctas; ++r) {
    if (!c.ctas[r]) c.ctas[r] = std::make_unique<Cta>();
    Cta& cta = *c.ctas[r];
    cta.cluster = &c;
    cta.rank = static_cast<uint32_t>(r);
    cta.shared = slot.shared.get() + r * shared_stride;
    cta.shared_end = shared_end;
    cta.warps.resize(n_warps);
    for (size_t k = 0; k < n_warps; ++k) {
      Warp& w = cta.warps[k];
      w.regs = slot.registers.get() + (r * n_warps + k) * p.register_bytes;
      w.local = slot.local.get() + (r * n_warps + k) * kWarpSize * p.local_bytes;
      w.index = static_cast<int>(k);
      w.cta = &cta;
      w.program = &p;
      const uint64_t lanes = threads - k * kWarpSize;
      w.lanes = lanes >= kWarpSize ? kAllLanes : (1u << lanes) - 1;
      fill_constants(p, w);
    }
  }
  slot.program = p.serial;
  slot.block = launch.block;
  slot.size = launch.cluster;
}

bool same(const Dim3& a, const Dim3& b) { return a.x == b.x && a.y == b.y && a.z == b.z; }

}  // namespace

uint64_t next_random(Worker& w) {
  w.random += 0x9e3779b97f4a7c15;  // splitmix64 (Steele, Lea, Flood 2014)
  uint64_t z = w.random;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

Slice run_slice(Cluster& c) {
  const bool late = config().late;
  const uint64_t events = c.events, polls = c.polls;
  bool ran = false;
  const size_t per_cta = c.ctas[0]->warps.size(), n = c.ctas.size() * per_cta;
  const size_t start = late ? next_random(*c.worker) % n : 0;
  for (size_t k = 0; k < n; ++k) {
    const size_t at = (start + k) % n;
    Warp& w = c.ctas[at / per_cta]->warps[at % per_cta];
    if (!w.live) continue;
    ran |= take_turn(c, w);
    if (late && !c.pending.empty() && next_random(*c.worker) % 16 == 0)
      happen(c, next_random(*c.worker) % c.pending.size());
  }
  if (c.running == 0) {
    while (!c.pending.empty()) happen(c, 0);
    return Slice::kFinished;
  }
  if (!ran && c.events == events) {
    if (c.pending.empty()) {
      if (!release_waits(c)) deadlock(c);
      return Slice::kProgress;
    }
    happen(c, next_random(*c.worker) % c.pending.size());
    return Slice::kProgress;
  }
  return c.events != events || c.polls == polls ? Slice::kProgress : Slice::kStalled;
}

void defer(Warp& w, Pending work) {
  Cluster& c = *w.cta->cluster;
  if (config().late) {
    c.pending.push_back(std::move(work));
    return;
  }
  work.happen();
  ++c.events;
}

void settle(Cluster& c, const std::function<bool(const Pending&)>& due) {
  for (size_t k = 0; k < c.pending.size();) {
    if (due(c.pending[k]))
      happen(c, k);
    else
      ++k;
  }
}

void start_cluster(ClusterSlot& slot, Launch& launch, Worker& worker, uint64_t index) {
  const Program& p = *launch.program;
  const uint32_t shared_end = kSharedBase + p.static_shared_bytes + launch.dynamic_shared;
  Cluster& c = slot.cluster;
  if (slot.program != p.serial || !same(slot.block, launch.block) || !same(slot.size, launch.cluster) ||
      c.ctas[0]->shared_end != shared_end)
    lay_out(slot, launch);
  const Dim3 clusters{launch.grid.x / launch.cluster.x, launch.grid.y / launch.cluster.y,
                      launch.grid.z / launch.cluster.z};
  c.launch = &launch;
  c.worker = &worker;
  c.id = {static_cast<uint32_t>(index % clusters.x), static_cast<uint32_t>(index / clusters.x % clusters.y),
          static_cast<uint32_t>(index / clusters.x / clusters.y)};
  c.pending.clear();
  c.releases = 0;
  c.arrived = 0;
  c.phase = 0;
  c.running = 0;
  const bool poison = config().late || launch.check;
  for (auto& cta : c.ctas) {
    const uint32_t r = cta->rank;
    cta->id = {c.id.x * launch.cluster.x + r % launch.cluster.x,
               c.id.y * launch.cluster.y + r / launch.cluster.x % launch.cluster.y,
               c.id.z * launch.cluster.z + r / launch.cluster.x / launch.cluster.y};
    cta->linear = cta->id.x + launch.grid.x * (cta->id.y + uint64_t{launch.grid.y} * cta->id.z);
    cta->barriers.fill({});
    cta->barriers_in_use = 0;
    cta->running = static_cast<int>(cta->warps.size());
    cta->registers_at_launch = launch.registers_per_thread;
    c.running += cta->running;
    if (poison) std::memset(cta->shared, 0xff, cta->shared_end);
    for (Warp& w : cta->warps) {
      w.pc = 0;
      w.mask = 0;
      w.stop = false;
      w.turns_of_others = 0;
      w.check = launch.check;
      w.live = w.lanes;
      w.splits.clear();
      w.splits.push_back({0, w.lanes});
      w.steps = 0;
      w.uid = cta->linear * cta->warps.size() + w.index;
      w.rows_in_flight = 0;
      w.cluster_arrivals = 0;
      w.async_groups.reset();
      w.wgmma = {};
      w.max_registers = 0;
      w.carry = 0;
    }
  }
  if (launch.check) launch.check->begin_cluster(c);
}

}  // namespace ptxsim
