// barrier.cluster, mapa, getctarank, fences. Source: PTX ISA 9.0, 9.7.13.3, 9.7.13.4, 9.7.9.23, 9.7.9.24.
//
// A phase of the cluster's barrier ends when every warp that still has live lanes has arrived; exits need no
// hook, because whoever waits looks at the warps again.
#include <atomic>

#include "check/checker.h"
#include "exec/decoder.h"
#include "exec/memory.h"
#include "exec/warp.h"

namespace ptxsim {

using ptx::Instruction;
using ptx::Space;
using ptx::Type;

namespace {

// --- barrier.cluster ---
// Arrivals of all warps are numbered alike: a warp has arrived in the present phase when its count is above
// the phase.
bool try_complete_phase(Cluster& c) {
  if (c.arrived < static_cast<uint32_t>(c.running)) return false;  // some live warp has not
  for (const auto& cta : c.ctas)
    for (const Warp& w : cta->warps)
      if (w.live && w.cluster_arrivals <= c.phase) return false;
  ++c.phase;
  c.arrived = 0;
  ++c.events;
  return true;
}

// The whole warp must be here: true when it is, and this instruction is for it.
bool whole_warp(Warp& w, const Instr& i, const char* why) {
  const uint32_t mask = active(w, i);
  if (!mask || !gather_lanes(w, i, w.live, why)) return false;
  if (active(w, i) != w.mask)
    fail(w, i, __builtin_ctz(w.mask & ~active(w, i)), ErrorCode::kIllegalInstruction,
         "[cluster] barrier.cluster by a part of the warp: this lane's guard is false");
  return true;
}

bool cluster_barrier_ready(Warp& w, const Split& s) {
  Cluster& c = *w.cta->cluster;
  return c.phase > s.wait[0] || try_complete_phase(c);
}

void run_cluster_arrive(Warp& w, const Instr& i) {
  if (!whole_warp(w, i, "barrier.cluster.arrive")) return;
  Cluster& c = *w.cta->cluster;
  if (w.cluster_arrivals > c.phase) try_complete_phase(c);
  if (w.cluster_arrivals > c.phase)
    fail(w, i, -1, ErrorCode::kLaunchFailure,
         "[cluster] a warp arrives twice in one phase of barrier.cluster");
  if (w.check) w.check->cluster_arrive(w, i, w.mask, i.imm, c.phase);
  ++w.cluster_arrivals;
  ++c.arrived;
  note_event(w);
  try_complete_phase(c);
}

// imm: acquire. Runs again when the phase is over.
void run_cluster_wait(Warp& w, const Instr& i) {
  if (!whole_warp(w, i, "barrier.cluster.wait")) return;
  if (w.cluster_arrivals == 0)
    fail(w, i, -1, ErrorCode::kLaunchFailure, "[cluster] barrier.cluster.wait without an arrive");
  const uint64_t phase = w.cluster_arrivals - 1;
  Cluster& c = *w.cta->cluster;
  if (c.phase <= phase && !try_complete_phase(c)) {
    park(w, i, true, cluster_barrier_ready, phase, 0, "barrier.cluster.wait");
    return;
  }
  if (w.check) w.check->cluster_leave(w, i, w.mask, i.imm, phase);
}

// --- addresses ---
template <class T>
void run_mapa(Warp& w, const Instr& i) {
  const T* a = row<T>(w, i.a);
  const uint32_t* rank = row<uint32_t>(w, i.b);
  each_lane(active(w, i), row<T>(w, i.d),
            [&](int l) { return static_cast<T>((a[l] & ~T{0xff000000}) | static_cast<T>(rank[l] << 24)); });
}

template <class T>
void run_rank(Warp& w, const Instr& i) {
  const T* a = row<T>(w, i.a);
  each_lane(active(w, i), row<uint32_t>(w, i.d), [&](int l) { return shared_rank(a[l]); });
}

// --- fences ---
struct FenceOp {
  Checker::Fence kind = Checker::Fence::kAcqRel;
  Scope scope = Scope::kGpu;
  bool checked = true;  // false: nothing that is modelled
};

void run_fence(Warp& w, const Instr& i) {
  const auto& op = *static_cast<const FenceOp*>(i.ext);
  const uint32_t mask = active(w, i);
  if (!mask) return;
  // Between blocks on other host threads; the host orders everything else by itself.
  if (op.kind == Checker::Fence::kSeqCst)
    std::atomic_thread_fence(std::memory_order_seq_cst);
  else
    std::atomic_signal_fence(std::memory_order_acq_rel);
  if (w.check && op.checked) w.check->fence(w, i, mask, op.kind, op.scope);
}

FenceOp fence_of(const Instruction& in) {
  using Kind = Checker::Fence;
  if (in.has("proxy")) {
    for (std::string_view part : in.parts) {
      if (part == "tensormap::generic") return {Kind::kProxyTensorMap, scope_of(in, Scope::kGpu)};
      if (part.substr(0, 5) == "async") return {Kind::kProxyAsync, scope_of(in, Scope::kCta)};
    }
    return {.checked = false};  // .alias: one address per location here
  }
  if (in.has("mbarrier_init")) return {Kind::kMbarrierInit, Scope::kCluster};
  const bool strong = in.mnemonic() == "membar" || in.has("sc");
  return {strong ? Kind::kSeqCst : Kind::kAcqRel, scope_of(in, Scope::kGpu)};
}

}  // namespace

bool decode_cluster(Decoder& d, const Instruction& in) {
  const std::string_view m = in.mnemonic();
  if (m == "barrier" && in.has("cluster")) {
    const bool arrives = in.has("arrive");
    d.emit({.run = arrives ? run_cluster_arrive : run_cluster_wait, .imm = !in.has("relaxed")});
    return true;
  }
  if (m == "mapa") {
    const bool wide = in.has("u64");
    const Type type = wide ? Type::kU64 : Type::kU32;
    d.emit({.run = wide ? run_mapa<uint64_t> : run_mapa<uint32_t>,
            .d = d.row(in.operands.at(0), type),
            .a = d.row(in.operands.at(1), type),
            .b = d.row(in.operands.at(2), Type::kU32)});
    return true;
  }
  if (m == "getctarank") {
    const bool wide = in.has("u64");
    d.emit({.run = wide ? run_rank<uint64_t> : run_rank<uint32_t>,
            .d = d.row(in.operands.at(0), Type::kU32),
            .a = d.row(in.operands.at(1), wide ? Type::kU64 : Type::kU32)});
    return true;
  }
  if (m == "fence" || m == "membar") {
    d.emit({.run = run_fence, .ext = d.program().keep(fence_of(in))});
    return true;
  }
  return false;
}

}  // namespace ptxsim
