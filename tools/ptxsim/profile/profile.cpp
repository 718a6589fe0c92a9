#include "profile/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

#include "config.h"

namespace ptxsim {

namespace {

struct KernelProfile {
  std::string name;
  uint64_t launches = 0, blocks = 0;
  InstructionCounts total;
  struct Line {
    std::string place, source;  // "gemm.cu:120", text
    InstructionCounts counts;
  };
  std::map<std::pair<int, int>, Line> lines;  // by file, line
};

void add(InstructionCounts& to, const InstructionCounts& n) {
  to.issued += n.issued;
  to.lanes += n.lanes;
  to.bytes += n.bytes;
  to.sectors += n.sectors;
  to.wavefronts += n.wavefronts;
  to.ideal_wavefronts += n.ideal_wavefronts;
  to.flops += n.flops;
  to.engine_read += n.engine_read;
  to.engine_written += n.engine_written;
  to.load_sectors += n.load_sectors;
}

double percent(uint64_t part, uint64_t whole) {
  return whole ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0;
}

class Report {
 public:
  static Report& instance() {
    static Report* report = [] {
      auto* r = new Report;  // outlives static destructors that still launch
      std::atexit([] { instance().print(); });
      return r;
    }();
    return *report;
  }

  void add_launch(const Launch& launch, const std::vector<InstructionCounts>& counts) {
    std::lock_guard lock(mutex_);
    const Program& p = *launch.program;
    KernelProfile& k = kernels_[p.name];
    k.name = p.short_name;
    if (launch.serial != last_serial_) {
      last_serial_ = launch.serial;
      ++k.launches;
      k.blocks += launch.grid.count();
    }
    for (size_t pc = 0; pc < counts.size() && pc < p.where.size(); ++pc) {
      if (!counts[pc].issued) continue;
      add(k.total, counts[pc]);
      const ptx::Location& at = p.where[pc];
      KernelProfile::Line& line = k.lines[{at.file, at.line}];
      if (line.place.empty()) {
        auto file = p.module->files.find(at.file);
        std::string name = file == p.module->files.end() ? "(added)" : file->second;
        if (const size_t slash = name.rfind('/'); slash != std::string::npos) name = name.substr(slash + 1);
        line.place = fmt::format("{}:{}", name, at.line);
      }
      add(line.counts, counts[pc]);
    }
  }

  void print() {
    std::lock_guard lock(mutex_);
    for (const auto& [mangled, k] : kernels_) print_kernel(k);
    if (!config().profile_json.empty()) write_json(config().profile_json);
  }

 private:
  static void print_row(const std::string& what, const InstructionCounts& n) {
    fmt::print(
        stderr, "  {:<28} {:>12} {:>5.1f} {:>12} {:>12} {:>6.2f} {:>10} {:>6.2f} {:>10.3f}\n", what, n.issued,
        n.issued ? static_cast<double>(n.lanes) / static_cast<double>(n.issued) : 0.0,
        n.load_sectors * 32 + n.engine_read, (n.sectors - n.load_sectors) * 32 + n.engine_written,
        n.sectors ? static_cast<double>(n.sectors) * 32 / static_cast<double>(std::max<uint64_t>(1, n.bytes))
                  : 0.0,
        n.wavefronts,
        n.ideal_wavefronts ? static_cast<double>(n.wavefronts) / static_cast<double>(n.ideal_wavefronts)
                           : 0.0,
        static_cast<double>(n.flops) * 1e-9);
  }

  static void print_kernel(const KernelProfile& k) {
    fmt::print(stderr, "\nptxsim: {}: {} launches, {} blocks\n", k.name, k.launches, k.blocks);
    fmt::print(stderr, "  {:<28} {:>12} {:>5} {:>12} {:>12} {:>6} {:>10} {:>6} {:>10}\n", "line",
               "warp instr", "lanes", "bytes read", "written", "x ask", "shared", "x min", "Gflop");
    std::vector<const KernelProfile::Line*> lines;
    for (const auto& [key, line] : k.lines) lines.push_back(&line);
    std::sort(lines.begin(), lines.end(),
              [](auto* a, auto* b) { return a->counts.issued > b->counts.issued; });
    if (lines.size() > 20) lines.resize(20);
    for (const auto* line : lines) print_row(line->place, line->counts);
    print_row("all", k.total);
  }

  static std::string json_counts(const InstructionCounts& n) {
    return fmt::format(
        R"("warp_instructions": {}, "lanes": {}, "global_read_bytes": {}, "global_written_bytes": {}, "requested_bytes": {}, "sectors": {}, "shared_wavefronts": {}, "shared_ideal_wavefronts": {}, "tensor_flops": {}, "divergence_percent": {:.2f})",
        n.issued, n.lanes, n.load_sectors * 32 + n.engine_read,
        (n.sectors - n.load_sectors) * 32 + n.engine_written, n.bytes, n.sectors, n.wavefronts,
        n.ideal_wavefronts, n.flops, n.issued ? 100 - percent(n.lanes, n.issued * 32) : 0.0);
  }

  static std::string quoted(const std::string& s) {
    std::string out = "\"";
    for (const char c : s) {
      if (c == '"' || c == '\\') out += '\\';
      if (static_cast<unsigned char>(c) >= 0x20) out += c;
    }
    return out + '"';
  }

  void write_json(const std::string& path) const {
    std::FILE* f = std::fopen(path.c_str(), "w");
    if (!f) {
      fmt::print(stderr, "ptxsim: cannot write the profile to {}\n", path);
      return;
    }
    fmt::print(f, "{{\"kernels\": [");
    const char* comma = "";
    for (const auto& [mangled, k] : kernels_) {
      fmt::print(f,
                 "{}\n {{\"name\": {}, \"mangled\": {}, \"launches\": {}, \"blocks\": {}, {}, \"lines\": [",
                 comma, quoted(k.name), quoted(mangled), k.launches, k.blocks, json_counts(k.total));
      comma = ",";
      const char* inner = "";
      for (const auto& [key, line] : k.lines) {
        fmt::print(f, "{}\n  {{\"place\": {}, {}}}", inner, quoted(line.place), json_counts(line.counts));
        inner = ",";
      }
      fmt::print(f, "]}}");
    }
    fmt::print(f, "\n]}}\n");
    std::fclose(f);
  }

  std::mutex mutex_;
  std::map<std::string, KernelProfile> kernels_;
  uint64_t last_serial_ = 0;
};

// Passes over the 32 banks of 4 bytes: lanes that touch different words of one bank wait for each other. Wide
// accesses go in phases of 128 bytes.
uint64_t wavefronts(uint32_t mask, const uint64_t* addresses, uint32_t bytes) {
  const int lanes_per_phase = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8;
  uint64_t passes = 0;
  for (int begin = 0; begin < kWarpSize; begin += lanes_per_phase) {
    uint64_t words[32][32];
    int depth[32] = {};
    int worst = 0;
    for (int l = begin; l < begin + lanes_per_phase; ++l) {
      if (!(mask >> l & 1)) continue;
      for (uint32_t b = 0; b < std::max(4u, bytes); b += 4) {
        const uint64_t word = (addresses[l] + b) / 4;
        const int bank = static_cast<int>(word % 32);
        if (std::find(words[bank], words[bank] + depth[bank], word) != words[bank] + depth[bank]) continue;
        if (depth[bank] < 32) words[bank][depth[bank]++] = word;
        worst = std::max(worst, depth[bank]);
      }
    }
    passes += worst;
  }
  return passes;
}

}  // namespace

void add_to_profile(const Launch& launch, const std::vector<InstructionCounts>& counts) {
  Report::instance().add_launch(launch, counts);
}

void profile_access(Warp& w, const Instr& i, uint32_t mask, const uint64_t* addresses,
                    const AccessInfo& info) {
  InstructionCounts& n = (*w.cta->cluster->worker->profile)[&i - w.program->code.data()];
  const uint64_t tag = addresses[__builtin_ctz(mask)] & kTagMask;
  const uint64_t asked = static_cast<uint64_t>(__builtin_popcount(mask)) * info.bytes;
  if (tag == kSharedTag) {
    n.wavefronts += wavefronts(mask, addresses, info.bytes);
    n.ideal_wavefronts += (asked + 127) / 128;
  } else if (tag == 0) {
    std::array<uint64_t, 512> sectors;
    size_t count = 0;
    for (uint32_t m = mask; m; m &= m - 1) {
      const uint64_t a = addresses[__builtin_ctz(m)];
      for (uint64_t s = a / 32; s <= (a + info.bytes - 1) / 32 && count < sectors.size(); ++s)
        sectors[count++] = s;
    }
    std::sort(sectors.begin(), sectors.begin() + count);
    const auto distinct =
        static_cast<uint64_t>(std::unique(sectors.begin(), sectors.begin() + count) - sectors.begin());
    n.sectors += distinct;
    if (info.access == Access::kRead) n.load_sectors += distinct;
    n.bytes += asked;
  }
}

void profile_engine(Warp& w, const Instr& i, uint64_t bytes, Access access) {
  std::vector<InstructionCounts>* profile = w.cta->cluster->worker->profile;
  if (!profile) return;
  InstructionCounts& n = (*profile)[&i - w.program->code.data()];
  (access == Access::kRead ? n.engine_read : n.engine_written) += bytes;
}

void profile_flops(Warp& w, const Instr& i, uint64_t flops) {
  if (w.cta->cluster->worker->profile)
    (*w.cta->cluster->worker->profile)[&i - w.program->code.data()].flops += flops;
}

}  // namespace ptxsim
