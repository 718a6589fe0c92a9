// The command of the CUDA benches: timing, the machine's peaks, the table, and what the command line says.
#include "bench/cuda/gpu_bench.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "bench/cuda/cublas.h"
#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define CONTENDER_HAS_NVTX 1
#endif

namespace contender::bench {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
constexpr int kMostRuns = 50;
constexpr double kSecondsOfRow = 0.2;

struct Options {
  bool smoke = false, all = false, explain = false;
  std::string once, family;
  double seconds = 1e9;
  std::FILE* json = nullptr;
};
Options& options() {
  static Options o;
  return o;
}
std::map<std::string, std::function<void()>>& families() {
  static std::map<std::string, std::function<void()>> f;
  return f;
}
struct Row {
  std::string name;
  std::function<void()> run;
  std::function<std::string()> explain;
};
std::vector<Row>& registered_rows() {
  static std::vector<Row> r;
  return r;
}
// Of the row that runs, null in a single run.
benchmark::State* state = nullptr;
std::string row_name;

double seconds_since_start() {
  static const auto start = std::chrono::steady_clock::now();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Range {
  explicit Range(const std::string& name) {
#ifdef CONTENDER_HAS_NVTX
    nvtxRangePushA(name.c_str());
#else
    (void)name;
#endif
  }
  ~Range() {
#ifdef CONTENDER_HAS_NVTX
    nvtxRangePop();
#endif
  }
};

// --- timing ---

// Overwrites the L2 cache more than twice.
void flush_cache() {
  static const size_t bytes = [] {
    int device = 0, l2 = 0;
    CUDA_CHECK(cudaGetDevice(&device));
    CUDA_CHECK(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device));
    return small_shapes() ? size_t{4096} : static_cast<size_t>(l2) * 5 / 2;
  }();
  static void* const data = [] {
    void* p = nullptr;
    CUDA_CHECK(cudaMalloc(&p, bytes));
    return p;
  }();
  CUDA_CHECK(cudaMemsetAsync(data, 0x5A, bytes, nullptr));
}

// Median of runs with a cold cache. Everything is queued at once, so that the host's part is not measured.
double median_us(const std::function<void()>& call) {
  struct Pair {
    cudaEvent_t begin, end;
  };
  const auto time_runs = [&](int n) {
    std::vector<Pair> pairs(static_cast<size_t>(n));
    for (Pair& p : pairs) {
      CUDA_CHECK(cudaEventCreate(&p.begin));
      CUDA_CHECK(cudaEventCreate(&p.end));
      flush_cache();
      CUDA_CHECK(cudaEventRecord(p.begin, nullptr));
      call();
      CUDA_CHECK(cudaEventRecord(p.end, nullptr));
    }
    CUDA_CHECK(cudaDeviceSynchronize());
    std::vector<double> us;
    for (Pair& p : pairs) {
      float ms = 0;
      CUDA_CHECK(cudaEventElapsedTime(&ms, p.begin, p.end));
      us.push_back(ms * 1e3);
      CUDA_CHECK(cudaEventDestroy(p.begin));
      CUDA_CHECK(cudaEventDestroy(p.end));
    }
    std::nth_element(us.begin(), us.begin() + n / 2, us.end());
    return us[static_cast<size_t>(n / 2)];
  };
  const double first = std::max(time_runs(1), 1.0);
  if (small_shapes()) return first;
  return time_runs(std::clamp(static_cast<int>(kSecondsOfRow * 1e6 / first), 3, kMostRuns));
}

// --- the machine ---

struct Peaks {
  double tflops = kUnknown, gbps = kUnknown;
};
// Dense BF16 and memory, of NVIDIA's data sheets.
Peaks datasheet_peaks() {
  int device = 0;
  cudaDeviceProp prop;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaGetDeviceProperties(&prop, device));
  const std::string name = prop.name;
  if (name.find("H200") != std::string::npos) return {989.4, 4800};
  if (name.find("H100") != std::string::npos || name.find("H800") != std::string::npos) return {989.4, 3350};
  return {};
}
// A copy, read and written bytes counted; the library's product of 8192 x 8192 x 8192.
Peaks measured_peaks() {
  Peaks peaks;
  const int64_t bytes = small_shapes() ? 1 << 16 : int64_t{1} << 31, n = small_shapes() ? 64 : 8192;
  {
    const DeviceData from = DeviceData::random(DType::kF32, 1, bytes / 4, 1), to(DType::kU8, 1, bytes);
    const double us = median_us([&] {
      CUDA_CHECK(cudaMemcpyAsync(to.as<void>(), from.as<void>(), static_cast<size_t>(bytes),
                                 cudaMemcpyDeviceToDevice, nullptr));
    });
    peaks.gbps = 2e-3 * static_cast<double>(bytes) / us;
  }
  if (!have_cublas()) return peaks;
  const DeviceData x = DeviceData::random(DType::kBF16, n, n, 1),
                   w = DeviceData::random(DType::kBF16, n, n, 2), y(DType::kBF16, n, n);
  const double us = median_us([&] {
    cublas_product({.m = n,
                    .n = n,
                    .k = n,
                    .x = x.as<void>(),
                    .ldx = n,
                    .w = w.as<void>(),
                    .ldw = n,
                    .y = y.as<void>(),
                    .ldy = n});
  });
  const double edge = static_cast<double>(n);
  peaks.tflops = 2e-6 * edge * edge * edge / us;
  return peaks;
}
const Peaks& measured() {
  static const Peaks p = measured_peaks();
  return p;
}

// The time that the slower of the two peaks leaves; unknown where that one is. No library's FP8 is a peak of
// the machine: twice its BF16 stands for it.
double floor_us(const Work& work, const Peaks& peaks) {
  const Peaks sheet = datasheet_peaks();
  const Cost& cost = work.cost;
  const double rate = std::max(work.tensor_rate, 1);
  const bool compute = cost.flops / (rate * sheet.tflops * 1e6) > cost.bytes / (sheet.gbps * 1e3);
  return compute ? cost.flops / (rate * peaks.tflops * 1e6) : cost.bytes / (peaks.gbps * 1e3);
}

// --- the table ---

constexpr std::array<std::pair<const char*, const char*>, 8> kColumns = {{
    {"us", "{:.1f}"},
    {"TFLOP/s", "{:.1f}"},
    {"% tensor cores", "{:.1f}"},
    {"GB/s", "{:.0f}"},
    {"% datasheet", "{:.1f}"},
    {"% measured peak", "{:.1f}"},
    {"x baseline", "{:.2f}"},
    {"wrong", "{:.0f}"},
}};

class Table : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override {
    fmt::print("| kernel |");
    for (const auto& [name, format] : kColumns) fmt::print(" {} |", name);
    fmt::print("\n|---|");
    for (size_t i = 0; i < kColumns.size(); ++i) fmt::print("--:|");
    fmt::print("\n");
    return true;
  }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      const std::string& name = run.run_name.function_name;
      std::string row = fmt::format("| {} |", name), json = fmt::format(R"({{"name": "{}")", name);
      for (const auto& [column, format] : kColumns) {
        const auto at = run.counters.find(column);
        const bool known = at != run.counters.end() && std::isfinite(at->second.value);
        row += known ? " " + fmt::format(fmt::runtime(format), at->second.value) + " |" : " - |";
        if (known) json += fmt::format(R"(, "{}": {:.6g})", column, at->second.value);
      }
      if (run.error_occurred) row += " " + run.error_message;
      if (run.error_occurred) json += fmt::format(R"(, "error": "{}")", run.error_message);
      fmt::print("{}\n", row);
      std::fflush(stdout);
      if (!options().json) continue;
      fmt::print(options().json, "{}}}\n", json);
      std::fflush(options().json);
    }
  }
};

// Of rows that only explain themselves.
class NoTable : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>&) override {}
};

constexpr const char* kHelp =
    "cuda_bench [--family=NAME] [--benchmark_filter=REGEX] [--seconds=N] [--json=FILE] [--smoke] [--all]\n"
    "  --families      names of the families, one per line\n"
    "  --seconds=N     rows that would begin later are left out\n"
    "  --json=FILE     a line of JSON per row too\n"
    "  --smoke         small shapes, no libraries: for the simulator\n"
    "  --all           sweeps over every M, where a run takes two or three\n"
    "  --explain       times nothing: the candidates of each row that has some, and their scores\n"
    "  --once=ROW      runs the operator of one row of --smoke once, unchecked, and prints the bytes of its "
    "cost()\n";

// Takes what it knows out of argv. False: nothing is left to do.
bool parse(int& argc, char** argv) {
  Options& o = options();
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const auto value = [&](const char* name) {
      return arg.starts_with(name) ? arg.c_str() + std::strlen(name) : nullptr;
    };
    if (const char* v = value("--once=")) {
      o.once = v;
      o.smoke = true;
    } else if (const char* v = value("--family=")) {
      o.family = v;
      CHECK(families().contains(v), "no family {}; --families lists them", v);
    } else if (const char* v = value("--seconds=")) {
      o.seconds = std::stod(v);
    } else if (const char* v = value("--json=")) {
      o.json = std::fopen(v, "a");
      CHECK(o.json, "cannot write {}", v);
    } else if (arg == "--smoke") {
      o.smoke = true;
    } else if (arg == "--all") {
      o.all = true;
    } else if (arg == "--explain") {
      o.explain = true;
    } else if (arg == "--families") {
      for (const auto& [name, add] : families()) fmt::print("{}\n", name);
      return false;
    } else if (arg == "--help") {
      fmt::print("{}", kHelp);
      return false;
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  return true;
}

// The operator of one row, alone; the name may leave the shape out.
void run_once(const std::string& name) {
  for (const Row& row : registered_rows()) {
    if (row.name == name || row.name.starts_with(name + "/")) return row.run();
  }
  fail(ExitCode::kConfig, "no row {}; --smoke --benchmark_list_tests lists them", name);
}

void explain(const Row& row, benchmark::State& s) {
  if (row.explain) fmt::print("{}\n{}\n", row.name, row.explain());
  s.SkipWithError("not timed");
}

void run_table(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  CHECK(argc == 1, "unknown argument {} (--help)", argv[1]);
  for (const Row& row : registered_rows()) {
    benchmark::RegisterBenchmark(row.name.c_str(),
                                 [row](benchmark::State& s) {
                                   if (options().explain) return explain(row, s);
                                   state = &s;
                                   row_name = row.name;
                                   try {
                                     row.run();
                                   } catch (const std::exception& e) {
                                     s.SkipWithError(e.what());
                                   }
                                 })
        ->Iterations(1)
        ->UseManualTime();
  }
  if (options().explain) {
    NoTable silent;
    benchmark::RunSpecifiedBenchmarks(&silent);
    return;
  }
  fmt::print("measured: copy {:.0f} GB/s, {}\n\n", measured().gbps,
             have_cublas() ? fmt::format("cuBLAS {:.0f} TFLOP/s", measured().tflops) : "no cuBLAS");
  Table table;
  benchmark::RunSpecifiedBenchmarks(&table);
}

}  // namespace

bool small_shapes() { return options().smoke; }
bool values_wanted() { return options().once.empty(); }
bool library_wanted() { return !options().smoke; }
bool every_shape() { return options().all; }
void register_row(const std::string& name, std::function<void()> run, std::function<std::string()> explain) {
  registered_rows().push_back({name, std::move(run), std::move(explain)});
}
Family::Family(const char* name, std::function<void()> add_rows) { families()[name] = std::move(add_rows); }

void measure(const Work& work) {
  if (!state) {
    work.call();
    CUDA_CHECK(cudaDeviceSynchronize());
    fmt::print("cost_bytes {:.0f}\n", work.cost.bytes);
    return;
  }
  if (seconds_since_start() > options().seconds) return state->SkipWithError("no time left");
  const auto wrong = [&] {
    CUDA_CHECK(cudaDeviceSynchronize());
    Check check;
    work.check(check);
    CHECK(check.compared() > 0, "{} compares nothing", row_name);
    return check;
  };
  work.call();
  const Check check = wrong();
  state->counters["wrong"] = static_cast<double>(check.wrong());
  if (check.wrong() > 0)
    return state->SkipWithError(
        fmt::format("{} of {} samples, first {}", check.wrong(), check.compared(), check.first()).c_str());
  double us = 0, baseline_us = kUnknown;
  {
    const Range range(row_name);
    us = median_us(work.call);
  }
  if (work.baseline) {
    work.baseline();
    if (wrong().wrong() == 0) baseline_us = median_us(work.baseline);
  }
  for (auto _ : *state) state->SetIterationTime(us * 1e-6);
  auto& counters = state->counters;
  counters["us"] = us;
  counters["TFLOP/s"] = work.cost.flops * 1e-6 / us;
  if (work.tensor_rate > 0)
    counters["% tensor cores"] = 100 * counters["TFLOP/s"] / (work.tensor_rate * datasheet_peaks().tflops);
  counters["GB/s"] = work.cost.bytes * 1e-3 / us;
  counters["% datasheet"] = 100 * floor_us(work, datasheet_peaks()) / us;
  counters["% measured peak"] = 100 * floor_us(work, measured()) / us;
  counters["x baseline"] = baseline_us / us;
}

}  // namespace contender::bench

int main(int argc, char** argv) try {
  using namespace contender::bench;
  seconds_since_start();
  if (!parse(argc, argv)) return 0;
  for (const auto& [name, add_rows] : families()) {
    if (options().family.empty() || options().family == name) add_rows();
  }
  if (!options().once.empty()) {
    run_once(options().once);
  } else {
    run_table(argc, argv);
  }
} catch (const std::exception& e) {
  fmt::print(stderr, "cuda_bench: {}\n", e.what());
  return 1;
}
