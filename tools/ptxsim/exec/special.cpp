// mov from special registers. Source: PTX ISA, section 10.
#include <chrono>
#include <string_view>
#include <unordered_map>

#include "exec/decoder.h"
#include "exec/warp.h"
#include "sim.h"

namespace ptxsim {

namespace {

using Read = uint64_t (*)(const Warp& w);  // the same for all lanes
using ReadLane = uint64_t (*)(int lane);   // the same for all warps

const Launch& launch_of(const Warp& w) { return *w.cta->cluster->launch; }

uint32_t cta_in_cluster(const Warp& w, int axis) {
  const Dim3& c = launch_of(w).cluster;
  const uint32_t id[3] = {w.cta->id.x % c.x, w.cta->id.y % c.y, w.cta->id.z % c.z};
  return id[axis];
}

uint64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// Where a block runs is not modelled: blocks are dealt to SMs in order.
uint64_t sm(const Warp& w) { return w.cta->linear % gpu_limits().sms; }

const std::unordered_map<std::string_view, Read>& readers() {
  static const std::unordered_map<std::string_view, Read> kReaders = {
      {"%ntid.x", [](const Warp& w) -> uint64_t { return launch_of(w).block.x; }},
      {"%ntid.y", [](const Warp& w) -> uint64_t { return launch_of(w).block.y; }},
      {"%ntid.z", [](const Warp& w) -> uint64_t { return launch_of(w).block.z; }},
      {"%ctaid.x", [](const Warp& w) -> uint64_t { return w.cta->id.x; }},
      {"%ctaid.y", [](const Warp& w) -> uint64_t { return w.cta->id.y; }},
      {"%ctaid.z", [](const Warp& w) -> uint64_t { return w.cta->id.z; }},
      {"%nctaid.x", [](const Warp& w) -> uint64_t { return launch_of(w).grid.x; }},
      {"%nctaid.y", [](const Warp& w) -> uint64_t { return launch_of(w).grid.y; }},
      {"%nctaid.z", [](const Warp& w) -> uint64_t { return launch_of(w).grid.z; }},
      {"%warpid", [](const Warp& w) -> uint64_t { return w.index; }},
      {"%nwarpid", [](const Warp&) -> uint64_t { return 64; }},
      {"%smid", [](const Warp& w) -> uint64_t { return sm(w); }},
      {"%nsmid", [](const Warp&) -> uint64_t { return gpu_limits().sms; }},
      {"%gridid", [](const Warp& w) -> uint64_t { return launch_of(w).serial; }},
      {"%clusterid.x", [](const Warp& w) -> uint64_t { return w.cta->cluster->id.x; }},
      {"%clusterid.y", [](const Warp& w) -> uint64_t { return w.cta->cluster->id.y; }},
      {"%clusterid.z", [](const Warp& w) -> uint64_t { return w.cta->cluster->id.z; }},
      {"%nclusterid.x",
       [](const Warp& w) -> uint64_t { return launch_of(w).grid.x / launch_of(w).cluster.x; }},
      {"%nclusterid.y",
       [](const Warp& w) -> uint64_t { return launch_of(w).grid.y / launch_of(w).cluster.y; }},
      {"%nclusterid.z",
       [](const Warp& w) -> uint64_t { return launch_of(w).grid.z / launch_of(w).cluster.z; }},
      {"%cluster_ctaid.x", [](const Warp& w) -> uint64_t { return cta_in_cluster(w, 0); }},
      {"%cluster_ctaid.y", [](const Warp& w) -> uint64_t { return cta_in_cluster(w, 1); }},
      {"%cluster_ctaid.z", [](const Warp& w) -> uint64_t { return cta_in_cluster(w, 2); }},
      {"%cluster_nctaid.x", [](const Warp& w) -> uint64_t { return launch_of(w).cluster.x; }},
      {"%cluster_nctaid.y", [](const Warp& w) -> uint64_t { return launch_of(w).cluster.y; }},
      {"%cluster_nctaid.z", [](const Warp& w) -> uint64_t { return launch_of(w).cluster.z; }},
      {"%cluster_ctarank", [](const Warp& w) -> uint64_t { return w.cta->rank; }},
      {"%cluster_nctarank", [](const Warp& w) -> uint64_t { return launch_of(w).cluster.count(); }},
      {"%is_explicit_cluster", [](const Warp& w) -> uint64_t { return launch_of(w).cluster.count() > 1; }},
      {"%clock", [](const Warp& w) -> uint64_t { return w.steps; }},
      {"%clock_hi", [](const Warp& w) -> uint64_t { return w.steps >> 32; }},
      {"%clock64", [](const Warp& w) -> uint64_t { return w.steps; }},
      {"%globaltimer", [](const Warp&) -> uint64_t { return now_ns(); }},
      {"%globaltimer_lo", [](const Warp&) -> uint64_t { return now_ns() & 0xffffffff; }},
      {"%globaltimer_hi", [](const Warp&) -> uint64_t { return now_ns() >> 32; }},
      {"%dynamic_smem_size", [](const Warp& w) -> uint64_t { return launch_of(w).dynamic_shared; }},
      {"%total_smem_size", [](const Warp& w) -> uint64_t { return w.cta->shared_end; }},
      {"%aggr_smem_size", [](const Warp& w) -> uint64_t { return w.cta->shared_end; }},
      {"%reserved_smem_offset_begin", [](const Warp&) -> uint64_t { return 0; }},
      {"%reserved_smem_offset_end", [](const Warp&) -> uint64_t { return kSharedBase; }},
      // The driver's own: where cooperative groups find the barrier of a cooperative grid.
      {"%envreg1",
       [](const Warp& w) -> uint64_t {
         return reinterpret_cast<uint64_t>(launch_of(w).grid_workspace) >> 32;
       }},
      {"%envreg2",
       [](const Warp& w) -> uint64_t {
         return reinterpret_cast<uint64_t>(launch_of(w).grid_workspace) & 0xffffffff;
       }},
      {"%current_graph_exec", [](const Warp&) -> uint64_t { return 0; }},
  };
  return kReaders;
}

const std::unordered_map<std::string_view, ReadLane>& lane_readers() {
  static const std::unordered_map<std::string_view, ReadLane> kReaders = {
      {"%laneid", [](int l) -> uint64_t { return l; }},
      {"%lanemask_eq", [](int l) -> uint64_t { return 1u << l; }},
      {"%lanemask_le", [](int l) -> uint64_t { return kAllLanes >> (31 - l); }},
      {"%lanemask_lt", [](int l) -> uint64_t { return (1u << l) - 1; }},
      {"%lanemask_ge", [](int l) -> uint64_t { return kAllLanes << l; }},
      {"%lanemask_gt", [](int l) -> uint64_t { return (kAllLanes << l) & ~(1u << l); }},
  };
  return kReaders;
}

struct Reader {
  Read read = nullptr;
  uint64_t lanes[kWarpSize] = {};
};

template <class T>
void run_uniform(Warp& w, const Instr& i) {
  const auto value = static_cast<T>(static_cast<const Reader*>(i.ext)->read(w));
  each_lane(active(w, i), row<T>(w, i.d), [&](int) { return value; });
}

template <class T>
void run_lane(Warp& w, const Instr& i) {
  const uint64_t* values = static_cast<const Reader*>(i.ext)->lanes;
  each_lane(active(w, i), row<T>(w, i.d), [&](int l) { return static_cast<T>(values[l]); });
}

// %tid: imm is the axis. One division per warp: lanes count up from the first.
template <class T>
void run_tid(Warp& w, const Instr& i) {
  const Dim3& block = launch_of(w).block;
  const auto first = static_cast<uint32_t>(w.index * kWarpSize);
  T values[kWarpSize];
  if (i.imm == 0 && block.y == 1 && block.z == 1) {
    for (int l = 0; l < kWarpSize; ++l) values[l] = static_cast<T>(first + l);
  } else {
    uint32_t at[3] = {first % block.x, first / block.x % block.y, first / block.x / block.y};
    for (int l = 0; l < kWarpSize; ++l) {
      values[l] = static_cast<T>(at[i.imm]);
      if (++at[0] < block.x) continue;
      at[0] = 0;
      if (++at[1] < block.y) continue;
      at[1] = 0;
      ++at[2];
    }
  }
  each_lane(active(w, i), row<T>(w, i.d), [&](int l) { return values[l]; });
}

// One of three by the width of the destination.
struct Widths {
  Handler b16, b32, b64;
  Handler of(int bytes) const { return bytes == 8 ? b64 : bytes == 2 ? b16 : b32; }
};
constexpr Widths kUniform{run_uniform<uint16_t>, run_uniform<uint32_t>, run_uniform<uint64_t>};
constexpr Widths kLane{run_lane<uint16_t>, run_lane<uint32_t>, run_lane<uint64_t>};
constexpr Widths kTid{run_tid<uint16_t>, run_tid<uint32_t>, run_tid<uint64_t>};

}  // namespace

bool decode_special(Decoder& d, const ptx::Instruction& in) {
  if (in.mnemonic() != "mov" && in.mnemonic() != "cvt") return false;
  if (in.operands.size() != 2 || in.operands[1].kind != ptx::OperandKind::kSpecial) return false;
  std::string_view name = in.operands[1].name;
  if (name == "WARP_SZ") return false;
  if (name == "%tid" || name == "%ntid" || name == "%ctaid" || name == "%nctaid") return false;
  const ptx::Type to = d.register_type(in.operands[0]);
  Instr out{.d = d.row(in.operands[0], to)};
  Reader reader;
  if (name.substr(0, 5) == "%tid.") {
    out.run = kTid.of(ptx::size_of(to));
    out.imm = name[5] - 'x';
  } else if (const auto lane = lane_readers().find(name); lane != lane_readers().end()) {
    for (int l = 0; l < kWarpSize; ++l) reader.lanes[l] = lane->second(l);
    out.run = kLane.of(ptx::size_of(to));
  } else if (const auto uniform = readers().find(name); uniform != readers().end()) {
    reader.read = uniform->second;
    out.run = kUniform.of(ptx::size_of(to));
  } else {
    d.unknown(in);
    return true;
  }
  out.ext = d.program().keep(reader);
  d.emit(out);
  return true;
}

}  // namespace ptxsim
