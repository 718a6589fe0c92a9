#include "cli/machine_facts.h"

#include <dlfcn.h>
#include <mpi.h>
#include <sched.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "base/error.h"

namespace contender {
namespace {

// The value of `key: value` (or `key value`) in a file of /proc; "" when there is none.
std::string proc_field(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key)) continue;
    const size_t begin = line.find_first_not_of(": \t", key.size());
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

int64_t integer_in(const std::string& path) {
  std::ifstream in(path);
  int64_t value = 0;
  return in >> value ? value : 0;
}

std::string widest_vectors() {
  if (__builtin_cpu_supports("avx512f"))
    return __builtin_cpu_supports("avx512bf16") ? "AVX-512 with BF16" : "AVX-512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "AVX2 + FMA";
  return "SSE";
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

void read_memory(MachineFacts& f) {
  constexpr int64_t kKib = 1024;
  const auto kib = [](const char* key) {
    return std::atoll(proc_field("/proc/meminfo", key).c_str()) * kKib;
  };
  f.memory_bytes = kib("MemTotal");
  f.available_bytes = kib("MemAvailable");
  for (const char* limit : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    const int64_t bytes = integer_in(limit);
    if (bytes > 0)
      f.memory_bytes = std::min(f.memory_bytes, bytes),
      f.available_bytes = std::min(f.available_bytes, bytes);
  }
}

std::string container_sign() {
  if (::access("/.dockerenv", F_OK) == 0) return "docker";
  if (::access("/run/.containerenv", F_OK) == 0) return "podman";
  if (const char* kind = std::getenv("container")) return kind;
  if (std::getenv("KUBERNETES_SERVICE_HOST")) return "kubernetes";
  return "";
}

std::string mpi_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  if (MPI_Get_library_version(text, &length) != MPI_SUCCESS) return "?";  // allowed before MPI_Init
  const std::string all(text, static_cast<size_t>(length));
  return all.substr(0, all.find_first_of(",\n"));
}

// The CUDA driver, asked through dlopen so that the binary starts where there is none.
class CudaDriver {
 public:
  CudaDriver() : handle_(::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) {}
  ~CudaDriver() {
    if (handle_) ::dlclose(handle_);
  }
  CudaDriver(const CudaDriver&) = delete;
  CudaDriver& operator=(const CudaDriver&) = delete;

  std::string describe() const {
    if (!handle_) return "none: libcuda.so.1 is not installed";
    const auto init = function<int(unsigned)>("cuInit");
    const auto version = function<int(int*)>("cuDriverGetVersion");
    const auto count = function<int(int*)>("cuDeviceGetCount");
    const auto name = function<int(char*, int, int)>("cuDeviceGetName");
    const auto memory = function<int(size_t*, int)>("cuDeviceTotalMem_v2");
    if (!init || !version || !count || !name || !memory) return "none: libcuda.so.1 lacks functions";
    int driver = 0, devices = 0;
    if (const int error = init(0))
      return fmt::format("none: the CUDA driver does not start (error {})", error);
    if (version(&driver) != 0 || count(&devices) != 0 || devices == 0)
      return "none: the CUDA driver sees no device";
    std::string text;
    for (int d = 0; d < devices; ++d) {
      char model[128] = "";
      size_t bytes = 0;
      if (name(model, sizeof model, d) != 0 || memory(&bytes, d) != 0)
        return "none: the CUDA driver fails on a device";
      text +=
          fmt::format("{}{} {:.0f} GiB", d == 0 ? "" : ", ", model, static_cast<double>(bytes) / (1 << 30));
    }
    return fmt::format("{}; driver for CUDA {}.{}", text, driver / 1000, driver % 1000 / 10);
  }

 private:
  template <class F>
  F* function(const char* symbol) const {
    return reinterpret_cast<F*>(::dlsym(handle_, symbol));
  }
  void* handle_;
};

// NCCL carries collectives between GPUs; without it they go through the host.
std::string nccl_version() {
  void* handle = ::dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (!handle) return "none: libnccl.so.2 is not installed; ranks on GPUs exchange through host memory";
  const auto version = reinterpret_cast<int (*)(int*)>(::dlsym(handle, "ncclGetVersion"));
  int v = 0;
  const bool known = version && version(&v) == 0;
  ::dlclose(handle);
  return known ? fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100)
               : "libnccl.so.2 without a version";
}

}  // namespace

MachineFacts read_machine_facts() {
  MachineFacts f;
  f.cpu = proc_field("/proc/cpuinfo", "model name");
  f.vectors = widest_vectors();
  f.cores = usable_cores();
  read_memory(f);
  struct statvfs disk {};
  if (::statvfs(".", &disk) == 0) f.disk_free_bytes = static_cast<int64_t>(disk.f_bavail * disk.f_frsize);
  f.mpi = mpi_version();
  f.container = container_sign();
  const std::string seccomp = proc_field("/proc/self/status", "Seccomp");
  f.seccomp = !seccomp.empty() && seccomp[0] != '0';
  f.root = ::geteuid() == 0;
  f.gpu = CudaDriver().describe();
  f.nccl = nccl_version();
  return f;
}

}  // namespace contender
