// A grid from its first block to its last: clusters are dealt to the calling thread and to idle threads of
// the pool. A thread runs one cluster to its end; when that one waits for something outside, the thread
// begins another, up to what the GPU would hold, and goes round among them. So grid barriers and signals
// between kernels make progress.
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <thread>

#include "check/checker.h"
#include "exec/scheduler.h"
#include "memory/global.h"
#include "profile/profile.h"
#include "sim.h"

namespace ptxsim {

namespace {

using Clock = std::chrono::steady_clock;

// Of the whole process: a launch that waits for another may wait as long as that one moves.
std::atomic<uint64_t>& progress() {
  static std::atomic<uint64_t> count{0};
  return count;
}

struct ThreadState {
  Worker worker;
  std::vector<std::unique_ptr<ClusterSlot>> spare;

  std::unique_ptr<ClusterSlot> take_slot() {
    if (spare.empty()) return std::make_unique<ClusterSlot>();
    auto slot = std::move(spare.back());
    spare.pop_back();
    return slot;
  }
};

ThreadState& thread_state() {
  thread_local ThreadState state;
  return state;
}

struct Running {
  Launch launch;
  std::unique_ptr<Checker> checker;
  uint64_t clusters = 0, resident_limit = 0;
  std::atomic<uint64_t> next{0}, resident{0};
  std::atomic<bool> aborted{false};
  std::mutex mutex;
  std::exception_ptr error;  // the first
  std::atomic<uint64_t> steps{0};

  void abort(std::exception_ptr e) {
    std::lock_guard lock(mutex);
    if (!error) error = std::move(e);
    aborted = true;
  }
  // The next cluster, if the GPU has room for it.
  bool take(uint64_t* index) {
    if (aborted || next.load() >= clusters) return false;
    if (resident.fetch_add(1) >= resident_limit) {
      --resident;
      return false;
    }
    *index = next.fetch_add(1);
    if (*index < clusters) return true;
    --resident;
    return false;
  }
};

[[noreturn]] void hang(Running& r, const std::vector<std::unique_ptr<ClusterSlot>>& active, double seconds) {
  std::string who;
  for (const auto& slot : active)
    for (const auto& cta : slot->cluster.ctas)
      for (const Warp& w : cta->warps)
        for (const Split& s : w.splits) {
          if (who.size() > 8000) continue;
          who += fmt::format("\n  block ({},{},{}) warp {} lanes {:#010x}: {} at {}", cta->id.x, cta->id.y,
                             cta->id.z, w.index, s.mask, s.why ? s.why : "spins",
                             instruction_place(*w.program, s.pc - (s.again || s.pc == 0 ? 0 : 1)));
        }
  throw Fault(
      ErrorCode::kLaunchTimeout,
      fmt::format("kernel {}: [hang] nothing happened for {:.0f} s; {} of {} blocks have begun, the GPU "
                  "holds {} at a time; "
                  "they wait for something that does not come:{}",
                  r.launch.name, seconds, std::min(r.next.load(), r.clusters) * r.launch.cluster.count(),
                  r.launch.grid.count(), r.resident_limit * r.launch.cluster.count(), who));
}

void work(Running& r) {
  ThreadState& state = thread_state();
  state.worker.steps = 0;
  state.worker.random = config().seed * 0x2545f4914f6cdd1d + r.launch.serial;
  state.worker.ranges.fill({});
  std::vector<InstructionCounts> counts;
  if (config().profile) counts.resize(r.launch.program->code.size());
  state.worker.profile = config().profile ? &counts : nullptr;
  std::vector<std::unique_ptr<ClusterSlot>> active;
  try {
    size_t k = 0, stalled = 0;
    uint64_t seen = 0, turns = 0;
    Clock::time_point since{};
    bool idle = false;
    for (uint64_t index;;) {
      // A first cluster, or a further one when all that have begun wait for something outside.
      if (active.empty() || stalled >= active.size()) {
        if (r.take(&index)) {
          active.push_back(state.take_slot());
          start_cluster(*active.back(), r.launch, state.worker, index);
          k = active.size() - 1;
          stalled = 0;
        } else if (active.empty()) {
          if (r.aborted || r.next.load() >= r.clusters) break;
          sched_yield();
          continue;
        } else {
          stalled = 0;
          sched_yield();
          const uint64_t now = progress().load();
          if (!idle || now != seen) {
            idle = true;
            seen = now;
            since = Clock::now();
          } else if (std::chrono::duration<double>(Clock::now() - since).count() > config().hang_seconds) {
            hang(r, active, config().hang_seconds);
          }
        }
      }
      if (r.aborted) break;
      Cluster& c = active[k]->cluster;
      switch (run_slice(c)) {
        case Slice::kFinished:
          if (r.launch.check) r.launch.check->end_cluster(c);
          state.spare.push_back(std::move(active[k]));
          active.erase(active.begin() + static_cast<std::ptrdiff_t>(k));
          --r.resident;
          ++progress();
          stalled = 0;
          idle = false;
          if (!active.empty()) k %= active.size();
          break;
        case Slice::kProgress:
          ++progress();
          idle = false;
          // Spinning that writes looks like progress: now and then the others have a turn all the same.
          if (++turns % 1024 == 0) {
            ++stalled;
            k = (k + 1) % active.size();
          } else {
            stalled = 0;
          }
          break;
        case Slice::kStalled:
          ++stalled;
          k = (k + 1) % active.size();
          break;
      }
    }
  } catch (...) {
    r.abort(std::current_exception());
  }
  r.resident -= active.size();
  for (auto& slot : active) {
    slot->cluster.pending.clear();
    state.spare.push_back(std::move(slot));
  }
  if (state.spare.size() > 64) state.spare.resize(64);
  if (state.worker.profile) add_to_profile(r.launch, counts);
  state.worker.profile = nullptr;
  r.steps += state.worker.steps;
}

// Idle threads that help with launches. Kept for the life of the process: their end is the process's.
class Pool {
 public:
  static Pool& instance() {
    static Pool* pool = new Pool;  // never destroyed: its threads may be waiting
    return *pool;
  }
  int threads() const { return threads_; }

  // Offers `r` to up to `helpers` idle threads. withdraw() before r ends.
  void offer(Running& r, int helpers) {
    std::lock_guard lock(mutex_);
    for (int k = 0; k < helpers; ++k) queue_.push_back(&r);
    if (helpers == 1)
      wake_.notify_one();
    else
      wake_.notify_all();
  }
  // Takes back what nobody began and waits for those who did.
  void withdraw(Running& r) {
    std::unique_lock lock(mutex_);
    queue_.erase(std::remove(queue_.begin(), queue_.end(), &r), queue_.end());
    done_.wait(lock, [&] { return std::find(busy_.begin(), busy_.end(), &r) == busy_.end(); });
  }

 private:
  Pool() {
    const int cores = std::max(1u, std::thread::hardware_concurrency());
    threads_ = config().threads > 0 ? config().threads : cores;
    for (int k = 1; k < threads_; ++k) std::thread([this] { run(); }).detach();
  }
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return !queue_.empty(); });
      Running* r = queue_.front();
      queue_.pop_front();
      busy_.push_back(r);
      lock.unlock();
      work(*r);
      lock.lock();
      busy_.erase(std::find(busy_.begin(), busy_.end(), r));
      done_.notify_all();
    }
  }
  int threads_ = 1;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::deque<Running*> queue_;
  std::vector<Running*> busy_;
};

// Global memory in which the blocks of a cooperative grid meet.
class GridWorkspace {
 public:
  explicit GridWorkspace(Launch& launch) {
    const auto begin = reinterpret_cast<uint64_t>(bytes_);
    GlobalMemory::instance().add(begin, begin + sizeof bytes_, launch.device, MemoryKind::kDevice);
    if (config().checked) {
      check_host_allocate(begin, sizeof bytes_);
      check_host_write(begin, sizeof bytes_);
    }
    launch.grid_workspace = bytes_;
  }
  ~GridWorkspace() {
    GlobalMemory::instance().remove(reinterpret_cast<uint64_t>(bytes_));
    if (config().checked) check_host_free(reinterpret_cast<uint64_t>(bytes_), sizeof bytes_);
  }

 private:
  alignas(256) std::byte bytes_[256] = {};
};

uint64_t blocks_per_sm(const Program& p, uint64_t threads, uint32_t dynamic_shared) {
  const GpuLimits& gpu = gpu_limits();
  const uint64_t warps = (threads + kWarpSize - 1) / kWarpSize;
  uint64_t n = std::min<uint64_t>(gpu.max_blocks_per_sm, gpu.max_threads_per_sm / (warps * kWarpSize));
  const uint64_t shared = (p.static_shared_bytes + dynamic_shared + gpu.reserved_shared + 127) / 128 * 128;
  return std::max<uint64_t>(1, std::min<uint64_t>(n, gpu.shared_per_sm / shared));
}

}  // namespace

void launch(const LaunchSpec& spec) {
  static std::atomic<uint64_t> serial{0};
  Running r;
  const Program& p = *spec.program;
  alignas(128) std::byte parameters[32768];
  if (p.parameter_bytes > sizeof parameters)
    throw Fault(ErrorCode::kInvalidValue,
                fmt::format("kernel {} has {} bytes of parameters", p.name, p.parameter_bytes));
  if (p.parameter_bytes) std::memcpy(parameters, spec.parameters, p.parameter_bytes);
  r.launch.program = &p;
  r.launch.grid = spec.grid;
  r.launch.block = spec.block;
  r.launch.cluster = spec.cluster;
  r.launch.dynamic_shared = spec.dynamic_shared;
  r.launch.parameter_base = parameters;
  r.launch.device = spec.device;
  r.launch.registers_per_thread = spec.registers ? spec.registers : registers_of(p);
  r.launch.serial = ++serial;
  r.launch.cooperative = spec.cooperative;
  r.launch.name = p.short_name;
  std::unique_ptr<GridWorkspace> workspace;
  if (spec.cooperative) workspace = std::make_unique<GridWorkspace>(r.launch);
  r.clusters = spec.grid.count() / spec.cluster.count();
  r.resident_limit = std::max<uint64_t>(
      1, gpu_limits().sms * blocks_per_sm(p, spec.block.count(), spec.dynamic_shared) / spec.cluster.count());
  if (config().checked) {
    r.checker = make_checker(r.launch);
    r.launch.check = r.checker.get();
  }
  const auto start = Clock::now();
  Pool& pool = Pool::instance();
  const int helpers = static_cast<int>(std::min<uint64_t>(pool.threads() - 1, r.clusters - 1));
  if (helpers > 0) pool.offer(r, helpers);
  work(r);
  if (helpers > 0) pool.withdraw(r);
  if (config().time) {
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    fmt::print(stderr,
               "ptxsim: {}: {} blocks of {}, {:.3f} M warp instructions in {:.3f} ms on {} threads: {:.1f} "
               "M/s per thread\n",
               r.launch.name, spec.grid.count(), spec.block.count(), r.steps / 1e6, seconds * 1e3,
               helpers + 1, r.steps / 1e6 / seconds / (helpers + 1));
  }
  if (r.error) std::rethrow_exception(r.error);
}

}  // namespace ptxsim
