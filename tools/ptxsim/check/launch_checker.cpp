#include "check/launch_checker.h"

#include <algorithm>

#include "check/cluster_checker.h"
#include "check/global_shadow.h"
#include "check/register_facts.h"

namespace ptxsim {

namespace check {

namespace {

// Checkers of clusters are kept, because their shadow memory has been touched already.
struct Spare {
  std::mutex mutex;
  std::vector<std::unique_ptr<ClusterChecker>> all;

  std::unique_ptr<ClusterChecker> take() {
    std::lock_guard lock(mutex);
    if (all.empty()) return std::make_unique<ClusterChecker>();
    auto last = std::move(all.back());
    all.pop_back();
    return last;
  }
  void give(std::unique_ptr<ClusterChecker> c) {
    std::lock_guard lock(mutex);
    if (all.size() < 64) all.push_back(std::move(c));
  }
};

Spare& spare() {
  static Spare* s = new Spare;
  return *s;
}

size_t hash_of(uint64_t address) { return (address >> 2) * 0x9e3779b97f4a7c15 >> 32; }

}  // namespace

LaunchChecker::LaunchChecker(Launch& launch) : launch_(launch) {
  tag_ = global_shadow::begin_launch();
  const uint64_t ctas = launch.cluster.count();
  clusters_ = std::max<uint64_t>(1, launch.grid.count() / ctas);
  levels_ = remote_levels(clusters_);
  warps_per_cluster_ = ctas * ((launch.block.count() + kWarpSize - 1) / kWarpSize);
  warp_numbers_ = kGlobalWarps / warps_per_cluster_ * warps_per_cluster_;
  register_facts_ = register_facts(*launch.program);
  program_size_ = launch.program->code.size();
  site_of_pc_.reset(new std::atomic<uint16_t>[program_size_ + 1]());
  strong_.reset(new std::atomic<bool>[program_size_ + 1]());
  sites_.resize(std::min<size_t>(program_size_ + 1, kSites));
}

LaunchChecker::~LaunchChecker() {
  for (auto& c : running_)
    if (c) spare().give(std::move(c));
  global_shadow::end_launch(tag_);
}

uint32_t LaunchChecker::site_of(size_t pc, bool strong, bool far, bool engine) {
  if (pc >= program_size_) return 0;
  if (const uint16_t known = site_of_pc_[pc].load(std::memory_order_acquire)) return known;
  std::lock_guard lock(site_mutex_);
  if (const uint16_t known = site_of_pc_[pc].load(std::memory_order_relaxed)) return known;
  const uint32_t number = site_count_;
  if (number >= sites_.size()) return 0;
  ++site_count_;
  sites_[number] = {static_cast<uint32_t>(pc), strong, far, engine};
  site_of_pc_[pc].store(static_cast<uint16_t>(number), std::memory_order_release);
  return number;
}

void LaunchChecker::release(uint64_t address, const Remote& what, bool far, uint64_t cluster) {
  const size_t hash = hash_of(address);
  Stripe& stripe = stripes_[hash % stripes_.size()];
  std::lock_guard lock(stripe.mutex);
  hints_[hash / 64 % hints_.size()].fetch_or(uint64_t{1} << hash % 64, std::memory_order_release);
  any_release_.store(true, std::memory_order_release);
  Released& there = stripe.at[address];
  if (far) {
    there.far = remote_join(there.far, what, levels_);
    return;
  }
  auto own =
      std::find_if(there.near.begin(), there.near.end(), [&](const auto& n) { return n.first == cluster; });
  if (own == there.near.end())
    there.near.emplace_back(cluster, what);
  else
    own->second = remote_join(own->second, what, levels_);
}

Remote LaunchChecker::acquire(uint64_t address, bool far, uint64_t cluster) {
  const size_t hash = hash_of(address);
  if (!(hints_[hash / 64 % hints_.size()].load(std::memory_order_acquire) >> hash % 64 & 1)) return nullptr;
  Stripe& stripe = stripes_[hash % stripes_.size()];
  std::lock_guard lock(stripe.mutex);
  const auto found = stripe.at.find(address);
  if (found == stripe.at.end()) return nullptr;
  const Released& there = found->second;
  Remote all = far ? there.far : nullptr;
  for (const auto& [who, what] : there.near)
    if (who == cluster) all = remote_join(all, what, levels_);
  // At cta scope only what the own blocks released counts.
  if (const Leaf* own = far ? nullptr : remote_find(there.far, cluster, levels_))
    all = remote_join(all, remote_with(nullptr, cluster, std::make_shared<Leaf>(*own), levels_), levels_);
  return all;
}

ClusterChecker& LaunchChecker::of(const Cluster& c) {
  std::lock_guard lock(clusters_mutex_);
  return *by_cluster_.at(&c);
}

void LaunchChecker::begin_cluster(Cluster& c) {
  auto checker = spare().take();
  std::lock_guard lock(clusters_mutex_);
  size_t slot = 0;
  while (slot < running_.size() && running_[slot]) ++slot;
  if (slot == running_.size()) running_.emplace_back();
  checker->begin(*this, c, slot + 1);
  by_cluster_[&c] = checker.get();
  running_[slot] = std::move(checker);
}

void LaunchChecker::end_cluster(Cluster& c) {
  of(c).end_cluster(c);
  std::lock_guard lock(clusters_mutex_);
  const auto found = by_cluster_.find(&c);
  for (auto& r : running_)
    if (r.get() == found->second) spare().give(std::move(r));
  by_cluster_.erase(found);
}

void LaunchChecker::access(Warp& w, const Instr& i, uint32_t mask, const uint64_t* addresses,
                           const AccessInfo& info) {
  of(w).access(w, i, mask, addresses, info);
}
void LaunchChecker::store_lost(Warp& w, const Instr& i, int lane, uint64_t address) {
  of(w).store_lost(w, i, lane, address);
}
void LaunchChecker::before_fault(Warp& w) { of(w).before_fault(w); }
void LaunchChecker::sync_lanes(Warp& w, uint32_t mask) { of(w).sync_lanes(w, mask); }
void LaunchChecker::barrier_arrive(Warp& w, const Instr& i, uint32_t mask, int barrier, uint64_t phase) {
  of(w).barrier_arrive(w, i, mask, barrier, phase);
}
void LaunchChecker::barrier_leave(Warp& w, const Instr& i, uint32_t mask, int barrier, uint64_t phase) {
  of(w).barrier_leave(w, i, mask, barrier, phase);
}
void LaunchChecker::cluster_arrive(Warp& w, const Instr& i, uint32_t mask, bool release, uint64_t phase) {
  of(w).cluster_arrive(w, i, mask, release, phase);
}
void LaunchChecker::cluster_leave(Warp& w, const Instr& i, uint32_t mask, bool acquire, uint64_t phase) {
  of(w).cluster_leave(w, i, mask, acquire, phase);
}
void LaunchChecker::mbarrier_init(Warp& w, const Instr& i, int lane, uint64_t address) {
  of(w).mbarrier_init(w, i, lane, address);
}
void LaunchChecker::mbarrier_arrive(Warp& w, const Instr& i, int lane, uint64_t address, bool release) {
  of(w).mbarrier_arrive(w, i, lane, address, release);
}
void LaunchChecker::mbarrier_phase(Cluster& c, uint64_t address) { of(c).mbarrier_phase(c, address); }
void LaunchChecker::mbarrier_observe(Warp& w, const Instr& i, uint32_t mask, uint64_t address, bool acquire) {
  of(w).mbarrier_observe(w, i, mask, address, acquire);
}
void LaunchChecker::fence(Warp& w, const Instr& i, uint32_t mask, Fence kind, Scope scope) {
  of(w).fence(w, i, mask, kind, scope);
}
AsyncId LaunchChecker::begin_async(Warp& w, const Instr& i, int lane, Engine engine) {
  return of(w).begin_async(w, i, lane, engine);
}
void LaunchChecker::async_access(AsyncId id, uint64_t address, uint64_t bytes, Access access) {
  ClusterChecker* cluster = nullptr;
  {
    std::lock_guard lock(clusters_mutex_);
    cluster = running_[(id >> kSlotShift) - 1].get();
  }
  cluster->async_access(id, address, bytes, access);
}
void LaunchChecker::complete_on_mbarrier(AsyncId id, Cluster& c, uint64_t mbarrier) {
  of(c).complete_on_mbarrier(id, c, mbarrier);
}
void LaunchChecker::complete_on_wait(AsyncId id, Warp& w, uint32_t mask, bool reads_only) {
  of(w).complete_on_wait(id, w, mask, reads_only);
}
void LaunchChecker::wgmma_rows(Warp& w, const Instr& i, AsyncId id, const uint32_t* rows, int count,
                               bool written) {
  of(w).wgmma_rows(w, i, id, rows, count, written);
}
void LaunchChecker::wgmma_done(Warp& w, AsyncId id) { of(w).wgmma_done(w, id); }
void LaunchChecker::registers(Warp& w, const Instr& i) { of(w).registers(w, i); }

}  // namespace check

std::unique_ptr<Checker> make_checker(Launch& launch) {
  return std::make_unique<check::LaunchChecker>(launch);
}

}  // namespace ptxsim
