// mov from special registers. Source: PTX ISA, section 10.
#include <chrono>
#include <string_view>
#include <unordered_map>

#include "exec/decoder.h"
#include "exec/warp.h"
#include "sim.h"

namespace ptxsim {

namespace {

using Read = uint64_t (*)(const Warp& w, int lane);

const Launch& launch_of(const Warp& w) { return *w.cta->cluster->launch; }

uint32_t thread(const Warp& w, int lane) { return static_cast<uint32_t>(w.index * kWarpSize + lane); }
uint64_t tid_x(const Warp& w, int l) { return thread(w, l) % launch_of(w).block.x; }
uint64_t tid_y(const Warp& w, int l) { return thread(w, l) / launch_of(w).block.x % launch_of(w).block.y; }
uint64_t tid_z(const Warp& w, int l) { return thread(w, l) / launch_of(w).block.x / launch_of(w).block.y; }

uint32_t cta_in_cluster(const Warp& w, int axis) {
  const Dim3& c = launch_of(w).cluster;
  const uint32_t id[3] = {w.cta->id.x % c.x, w.cta->id.y % c.y, w.cta->id.z % c.z};
  return id[axis];
}

uint64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Where a block runs is not modelled: blocks are dealt to SMs in order.
uint64_t sm(const Warp& w) { return w.cta->linear % gpu_limits().sms; }

const std::unordered_map<std::string_view, Read>& readers() {
  static const std::unordered_map<std::string_view, Read> kReaders = {
      {"%tid.x", tid_x},
      {"%tid.y", tid_y},
      {"%tid.z", tid_z},
      {"%ntid.x", [](const Warp& w, int) -> uint64_t { return launch_of(w).block.x; }},
      {"%ntid.y", [](const Warp& w, int) -> uint64_t { return launch_of(w).block.y; }},
      {"%ntid.z", [](const Warp& w, int) -> uint64_t { return launch_of(w).block.z; }},
      {"%ctaid.x", [](const Warp& w, int) -> uint64_t { return w.cta->id.x; }},
      {"%ctaid.y", [](const Warp& w, int) -> uint64_t { return w.cta->id.y; }},
      {"%ctaid.z", [](const Warp& w, int) -> uint64_t { return w.cta->id.z; }},
      {"%nctaid.x", [](const Warp& w, int) -> uint64_t { return launch_of(w).grid.x; }},
      {"%nctaid.y", [](const Warp& w, int) -> uint64_t { return launch_of(w).grid.y; }},
      {"%nctaid.z", [](const Warp& w, int) -> uint64_t { return launch_of(w).grid.z; }},
      {"%laneid", [](const Warp&, int l) -> uint64_t { return l; }},
      {"%warpid", [](const Warp& w, int) -> uint64_t { return w.index; }},
      {"%nwarpid", [](const Warp&, int) -> uint64_t { return 64; }},
      {"%smid", [](const Warp& w, int) -> uint64_t { return sm(w); }},
      {"%nsmid", [](const Warp&, int) -> uint64_t { return gpu_limits().sms; }},
      {"%gridid", [](const Warp& w, int) -> uint64_t { return launch_of(w).serial; }},
      {"%lanemask_eq", [](const Warp&, int l) -> uint64_t { return 1u << l; }},
      {"%lanemask_le", [](const Warp&, int l) -> uint64_t { return kAllLanes >> (31 - l); }},
      {"%lanemask_lt", [](const Warp&, int l) -> uint64_t { return (1u << l) - 1; }},
      {"%lanemask_ge", [](const Warp&, int l) -> uint64_t { return kAllLanes << l; }},
      {"%lanemask_gt", [](const Warp&, int l) -> uint64_t { return (kAllLanes << l) & ~(1u << l); }},
      {"%clusterid.x", [](const Warp& w, int) -> uint64_t { return w.cta->cluster->id.x; }},
      {"%clusterid.y", [](const Warp& w, int) -> uint64_t { return w.cta->cluster->id.y; }},
      {"%clusterid.z", [](const Warp& w, int) -> uint64_t { return w.cta->cluster->id.z; }},
      {"%nclusterid.x", [](const Warp& w, int) -> uint64_t { return launch_of(w).grid.x / launch_of(w).cluster.x; }},
      {"%nclusterid.y", [](const Warp& w, int) -> uint64_t { return launch_of(w).grid.y / launch_of(w).cluster.y; }},
      {"%nclusterid.z", [](const Warp& w, int) -> uint64_t { return launch_of(w).grid.z / launch_of(w).cluster.z; }},
      {"%cluster_ctaid.x", [](const Warp& w, int) -> uint64_t { return cta_in_cluster(w, 0); }},
      {"%cluster_ctaid.y", [](const Warp& w, int) -> uint64_t { return cta_in_cluster(w, 1); }},
      {"%cluster_ctaid.z", [](const Warp& w, int) -> uint64_t { return cta_in_cluster(w, 2); }},
      {"%cluster_nctaid.x", [](const Warp& w, int) -> uint64_t { return launch_of(w).cluster.x; }},
      {"%cluster_nctaid.y", [](const Warp& w, int) -> uint64_t { return launch_of(w).cluster.y; }},
      {"%cluster_nctaid.z", [](const Warp& w, int) -> uint64_t { return launch_of(w).cluster.z; }},
      {"%cluster_ctarank", [](const Warp& w, int) -> uint64_t { return w.cta->rank; }},
      {"%cluster_nctarank", [](const Warp& w, int) -> uint64_t { return launch_of(w).cluster.count(); }},
      {"%is_explicit_cluster", [](const Warp& w, int) -> uint64_t { return launch_of(w).cluster.count() > 1; }},
      {"%clock", [](const Warp& w, int) -> uint64_t { return w.steps; }},
      {"%clock_hi", [](const Warp& w, int) -> uint64_t { return w.steps >> 32; }},
      {"%clock64", [](const Warp& w, int) -> uint64_t { return w.steps; }},
      {"%globaltimer", [](const Warp&, int) -> uint64_t { return now_ns(); }},
      {"%globaltimer_lo", [](const Warp&, int) -> uint64_t { return now_ns() & 0xffffffff; }},
      {"%globaltimer_hi", [](const Warp&, int) -> uint64_t { return now_ns() >> 32; }},
      {"%dynamic_smem_size", [](const Warp& w, int) -> uint64_t { return launch_of(w).dynamic_shared; }},
      {"%total_smem_size", [](const Warp& w, int) -> uint64_t { return w.cta->shared_end; }},
      {"%aggr_smem_size", [](const Warp& w, int) -> uint64_t { return w.cta->shared_end; }},
      {"%reserved_smem_offset_begin", [](const Warp&, int) -> uint64_t { return 0; }},
      {"%reserved_smem_offset_end", [](const Warp&, int) -> uint64_t { return kSharedBase; }},
      {"%current_graph_exec", [](const Warp&, int) -> uint64_t { return 0; }},
  };
  return kReaders;
}

struct Reader {
  Read read;
};

template <class T>
void run_special(Warp& w, const Instr& i) {
  const Read read = static_cast<const Reader*>(i.ext)->read;
  const uint32_t mask = active(w, i);
  T* d = row<T>(w, i.d);
  for (uint32_t m = mask; m; m &= m - 1) d[__builtin_ctz(m)] = static_cast<T>(read(w, __builtin_ctz(m)));
}

}  // namespace

bool decode_special(Decoder& d, const ptx::Instruction& in) {
  if (in.mnemonic() != "mov" && in.mnemonic() != "cvt") return false;
  if (in.operands.size() != 2 || in.operands[1].kind != ptx::OperandKind::kSpecial) return false;
  std::string_view name = in.operands[1].name;
  if (name == "WARP_SZ") return false;
  if (name == "%tid" || name == "%ntid" || name == "%ctaid" || name == "%nctaid") return false;
  const auto found = readers().find(name);
  if (found == readers().end()) {
    d.unknown(in);
    return true;
  }
  const ptx::Type to = d.register_type(in.operands[0]);
  const Handler run = ptx::size_of(to) == 8 ? run_special<uint64_t> : ptx::size_of(to) == 2 ? run_special<uint16_t> : run_special<uint32_t>;
  d.emit({.run = run, .d = d.row(in.operands[0], to), .ext = d.program().keep(Reader{found->second})});
  return true;
}

}  // namespace ptxsim
