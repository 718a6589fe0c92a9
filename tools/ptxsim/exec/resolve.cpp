// Addresses of lanes -> host pointers: bounds and alignment in every space, and the words a person needs when
// they fail.
#include <fmt/format.h>

#include <algorithm>

#include "check/checker.h"
#include "exec/warp.h"
#include "exec/worker.h"
#include "memory/global.h"

namespace ptxsim {

namespace {

// Shared memory of a block of the cluster that has threads left; null outside it.
std::byte* in_shared(const Cluster& c, uint64_t a, uint64_t bytes) {
  const uint32_t rank = shared_rank(a), offset = shared_offset(a);
  if (rank >= c.ctas.size() || offset < kSharedBase || offset + bytes > c.ctas[rank]->shared_end ||
      !c.ctas[rank]->running)
    return nullptr;
  return c.ctas[rank]->shared + offset;
}

const char* verb(Access a) {
  return a == Access::kRead ? "read" : a == Access::kWrite ? "write" : "atomic access";
}

std::string variable_at(const std::vector<Placed>& variables, uint64_t offset) {
  const Placed* best = nullptr;
  for (const Placed& v : variables)
    if (v.offset <= offset && (!best || v.offset >= best->offset)) best = &v;
  if (!best) return "";
  return fmt::format(" ({}{})", best->name,
                     offset == best->offset ? "" : fmt::format(" + {}", offset - best->offset));
}

[[noreturn]] void out_of_bounds(Warp& w, const Instr& i, int lane, uint64_t a, uint64_t bytes,
                                const char* what) {
  const uint64_t tag = a & kTagMask;
  if (tag == kSharedTag) {
    const uint32_t rank = shared_rank(a), offset = shared_offset(a);
    const size_t ctas = w.cta->cluster->ctas.size();
    if (rank >= ctas)
      fail(w, i, lane, ErrorCode::kIllegalAddress,
           fmt::format("[bounds.shared] {} of {} bytes in the shared memory of block {} of a cluster of {}",
                       what, bytes, rank, ctas));
    if (w.cta->cluster->ctas[rank]->running == 0)
      fail(w, i, lane, ErrorCode::kIllegalAddress,
           fmt::format("[bounds.shared] {} of {} bytes in the shared memory of block {} of the cluster, "
                       "which has exited: "
                       "a cluster barrier must keep it until its peers are done",
                       what, bytes, rank));
    fail(w, i, lane, ErrorCode::kIllegalAddress,
         fmt::format("[bounds.shared] {} of {} bytes at shared offset {}{}: the block has {} to {}", what,
                     bytes, offset, variable_at(w.program->shared_variables, offset), kSharedBase,
                     w.cta->shared_end));
  }
  if (tag == kLocalTag)
    fail(w, i, lane, ErrorCode::kIllegalAddress,
         fmt::format("[bounds.local] {} of {} bytes at local offset {}{}: the thread has {} bytes", what,
                     bytes, a & ~kTagMask, variable_at(w.program->local_variables, a & ~kTagMask),
                     w.program->local_bytes));
  if (tag == kParamTag)
    fail(w, i, lane, ErrorCode::kIllegalAddress,
         fmt::format("[bounds.param] {} of {} bytes at parameter offset {}: the kernel has {} bytes", what,
                     bytes, a & ~kTagMask, w.program->parameter_bytes));
  const Allocation inside = GlobalMemory::instance().find(a);
  if (inside.end >= a + bytes && inside.begin <= a)
    fail(w, i, lane, ErrorCode::kIllegalAddress,
         fmt::format("[bounds.global] {} of {} bytes at {:#x}: memory of device {}, to which device {} has "
                     "no peer access",
                     what, bytes, a, inside.device, w.cta->cluster->launch->device));
  const std::string where = inside.end ? fmt::format("{} bytes before the end of {} bytes", inside.end - a,
                                                     inside.end - inside.begin)
                                       : GlobalMemory::instance().describe(a);
  fail(w, i, lane, ErrorCode::kIllegalAddress,
       fmt::format("[bounds.global] {} of {} bytes at {:#x}: {}", what, bytes, a, where));
}

// Global memory around `a`, at least to a + bytes; asks the table only when the ranges seen last do not hold
// it.
bool in_global(const Cluster& c, uint64_t low, uint64_t high) {
  Worker& worker = *c.worker;
  const uint64_t generation = GlobalMemory::instance().generation();
  for (const RangeCache& r : worker.ranges)
    if (r.begin <= low && high <= r.end && r.generation == generation) return true;
  const Allocation found = GlobalMemory::instance().find(low);
  if (!found.end || high > found.end || !GlobalMemory::instance().accessible(c.launch->device, found))
    return false;
  worker.ranges[worker.next_range++ % worker.ranges.size()] = {found.begin, found.end, generation};
  return true;
}

}  // namespace

std::byte* resolve_range(Warp& w, const Instr& i, int lane, uint64_t a, uint64_t bytes, uint64_t alignment) {
  if (a % alignment)
    fail(w, i, lane, ErrorCode::kMisalignedAddress,
         fmt::format("[alignment] address {:#x} is not a multiple of {}", a, alignment));
  switch (a & kTagMask) {
    case 0:
      if (bytes == 0 || in_global(*w.cta->cluster, a, a + bytes)) return reinterpret_cast<std::byte*>(a);
      break;
    case kSharedTag:
      if (std::byte* p = in_shared(*w.cta->cluster, a, bytes)) return p;
      break;
    case kLocalTag: {
      const uint64_t offset = a & ~kTagMask;
      if (lane >= 0 && offset + bytes <= w.program->local_bytes)
        return w.local + lane * w.program->local_bytes + offset;
      break;
    }
    case kParamTag: {
      const uint64_t offset = a & ~kTagMask;
      const Launch& launch = *w.cta->cluster->launch;
      if (offset + bytes <= w.program->parameter_bytes)
        return const_cast<std::byte*>(launch.parameter_base) + offset;
      break;
    }
  }
  out_of_bounds(w, i, lane, a, bytes, "access");
}

void resolve(Warp& w, const Instr& i, uint32_t mask, const uint64_t* addresses, const AccessInfo& info,
             std::byte** out) {
  if (!mask) return;
  // One pass over all lanes: lanes that do not take part repeat one that does.
  const uint64_t some = addresses[__builtin_ctz(mask)];
  uint64_t low = some, high = some, bits = 0;
  if (mask == kAllLanes) {
    for (int l = 0; l < kWarpSize; ++l) {
      low = std::min(low, addresses[l]);
      high = std::max(high, addresses[l]);
      bits |= addresses[l];
    }
  } else {
    for (uint32_t m = mask; m; m &= m - 1) {
      const uint64_t a = addresses[__builtin_ctz(m)];
      low = std::min(low, a);
      high = std::max(high, a);
      bits |= a;
    }
  }
  const uint32_t bytes = info.bytes;
  if (bits & (bytes - 1)) {
    for (uint32_t m = mask; m; m &= m - 1) {
      const int l = __builtin_ctz(m);
      if (addresses[l] & (bytes - 1))
        fail(w, i, l, ErrorCode::kMisalignedAddress,
             fmt::format("[alignment] {} of {} bytes at {:#x}", verb(info.access), bytes, addresses[l]));
    }
  }
  Cluster& c = *w.cta->cluster;
  if ((high & kTagMask) == 0 && in_global(c, low, high + bytes)) {
    for (int l = 0; l < kWarpSize; ++l) out[l] = reinterpret_cast<std::byte*>(addresses[l]);
  } else {
    for (uint32_t m = mask; m; m &= m - 1) {
      const int l = __builtin_ctz(m);
      const uint64_t a = addresses[l];
      std::byte* p = nullptr;
      if ((a & kTagMask) == kSharedTag) {
        p = in_shared(c, a, bytes);
      } else if ((a & kTagMask) == kLocalTag) {
        if ((a & ~kTagMask) + bytes <= w.program->local_bytes)
          p = w.local + l * w.program->local_bytes + (a & ~kTagMask);
      } else if ((a & kTagMask) == kParamTag) {
        if ((a & ~kTagMask) + bytes <= w.program->parameter_bytes)
          p = const_cast<std::byte*>(c.launch->parameter_base) + (a & ~kTagMask);
      } else if ((a & kTagMask) == 0 && in_global(c, a, a + bytes)) {
        p = reinterpret_cast<std::byte*>(a);
      }
      if (!p) out_of_bounds(w, i, l, a, bytes, verb(info.access));
      out[l] = p;
    }
  }
  if (info.access == Access::kWrite) ++c.events;  // atomics: whoever knows whether they changed something
  if (w.check) w.check->access(w, i, mask, addresses, info);
  if (c.worker->profile) profile_access(w, i, mask, addresses, info);
}

void load_addresses(Warp& w, uint32_t row_offset, int bits, int64_t offset, uint64_t* out) {
  if (bits == 64) {
    const uint64_t* a = row<uint64_t>(w, row_offset);
    for (int l = 0; l < kWarpSize; ++l) out[l] = a[l] + static_cast<uint64_t>(offset);
  } else {
    const uint32_t* a = row<uint32_t>(w, row_offset);
    for (int l = 0; l < kWarpSize; ++l) out[l] = static_cast<uint32_t>(a[l] + static_cast<uint32_t>(offset));
  }
}

std::string position(const Warp& w, const Instr& i, int lane) {
  const Program& p = *w.program;
  const size_t pc = &i - p.code.data();
  std::string at = fmt::format("kernel {}, block ({},{},{}), warp {}", w.cta->cluster->launch->name,
                               w.cta->id.x, w.cta->id.y, w.cta->id.z, w.index);
  if (lane >= 0) at += fmt::format(", lane {}", lane);
  return at + "; " + instruction_place(p, pc);
}

std::string instruction_place(const Program& p, size_t pc) {
  if (pc >= p.where.size()) return "at its end";
  const ptx::Location& loc = p.where[pc];
  std::string at;
  if (loc.line) {
    auto file = p.module->files.find(loc.file);
    std::string name = file == p.module->files.end() ? "?" : file->second;
    if (const size_t slash = name.rfind('/'); slash != std::string::npos) name = name.substr(slash + 1);
    at = fmt::format("{}:{} ", name, loc.line);
  }
  const std::string_view opcode = p.opcodes[pc];
  return at +
         (opcode.empty() ? std::string("(a label)") : fmt::format("(PTX line {}: {})", loc.ptx_line, opcode));
}

void fail(Warp& w, const Instr& i, int lane, ErrorCode code, const std::string& what) {
  if (w.check) w.check->before_fault(w);
  throw Fault(code, fmt::format("{}: {}", position(w, i, lane), what));
}

}  // namespace ptxsim
