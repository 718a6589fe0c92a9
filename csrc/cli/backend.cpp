#include "cli/backend.h"

#include <dlfcn.h>
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "cpu/cpu_ops.h"
#include "cpu/machine_peak.h"
#include "mpi/mesh.h"

namespace contender {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLibrary = "libcontender_cuda.so";
constexpr const char* kRuntime = "libcudart.so.13";

std::string load_error() {
  const char* text = ::dlerror();
  return text ? text : "?";
}

// The loader's path first (tools/sim lives by that), then where toolkits are; the library finds what is
// already loaded.
bool load_runtime() {
  std::vector<fs::path> places = {kRuntime};
  for (const char* home : {static_cast<const char*>(std::getenv("CUDA_HOME")), "/usr/local/cuda"}) {
    if (!home) continue;
    for (const char* folder : {"lib64", "lib"}) places.push_back(fs::path(home) / folder / kRuntime);
  }
  return std::any_of(places.begin(), places.end(),
                     [](const fs::path& p) { return ::dlopen(p.c_str(), RTLD_NOW | RTLD_LOCAL) != nullptr; });
}

// Beside the program, or on the loader's path. It stays loaded: its kernels and ours live as long.
const cuda::Library* load_library(std::string& problem) {
  std::error_code error;
  const fs::path beside = fs::read_symlink("/proc/self/exe", error).parent_path() / kLibrary;
  const std::string path = fs::exists(beside, error) ? beside.string() : kLibrary;
  if (!load_runtime()) {
    problem = fmt::format("no {} on LD_LIBRARY_PATH, in CUDA_HOME or in /usr/local/cuda", kRuntime);
    return nullptr;
  }
  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const std::string text = load_error();
    const bool absent = path == kLibrary && text.find("cannot open") != std::string::npos;
    problem = absent ? fmt::format("no {} beside the program: it was built without a CUDA toolkit", kLibrary)
                     : text;
    return nullptr;
  }
  const auto entry = reinterpret_cast<cuda::LibraryEntry*>(::dlsym(handle, cuda::kLibraryEntry));
  const cuda::Library* library = entry ? entry(cuda::kLibraryVersion) : nullptr;
  if (!library) problem = fmt::format("{} is of another build than this program", path);
  return library;
}

// What ranks tell each other about their choice; no pointers, so that it travels as bytes.
struct Word {
  std::array<char, 8> device = {};
  std::array<char, 128> gpu = {};  // host and uuid; the same for ranks that share it
  std::array<char, 64> host = {};
  std::array<char, 256> why = {};
};

template <size_t N>
void put(std::array<char, N>& to, const std::string& text) {
  std::copy_n(text.begin(), std::min(N - 1, text.size()), to.begin());
}

std::vector<Word> tell_all(const Word& mine) {
  std::vector<Word> all(static_cast<size_t>(launcher_info().size), mine);
  if (all.size() > 1 && MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all.data(), sizeof mine, MPI_BYTE,
                                      MPI_COMM_WORLD) != MPI_SUCCESS) {
    fail(ExitCode::kPeerLost, "the ranks cannot agree on a device: MPI_Allgather failed");
  }
  return all;
}

void check_same_device(const std::vector<Word>& all) {
  for (size_t r = 1; r < all.size(); ++r) {
    if (all[r].device == all[0].device) continue;
    const size_t without = std::string(all[r].device.data()) == "cuda" ? 0 : r;
    fail(ExitCode::kConfig,
         "run.device: auto: rank {} ({}) uses {}, but rank 0 ({}) uses {}, because rank {} finds {}; repair "
         "it, or set run.device = \"cpu\"",
         r, all[r].host.data(), all[r].device.data(), all[0].host.data(), all[0].device.data(), without,
         all[without].why.data());
  }
}

}  // namespace

int local_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"}) {
    if (const char* text = std::getenv(name)) return std::max(0, std::atoi(text));
  }
  return launcher_info().rank;
}

DeviceChoice choose_device(const std::string& asked) {
  DeviceChoice c{.device = "cpu"};
  if (asked == "cpu") return c;
  c.library = load_library(c.why_not_cuda);
  if (c.library) {
    c.found = c.library->find_gpus();
    c.why_not_cuda = c.found.problem;
  }
  if (c.why_not_cuda.empty()) c.device = "cuda";
  if (asked == "cuda" && c.device != "cuda")
    fail(ExitCode::kConfig, "run.device: cuda: {}; use auto or cpu to run on the CPU", c.why_not_cuda);
  return c;
}

Backend make_backend(const DeviceChoice& choice, const std::string& asked) {
  const int index = choice.found.gpus.empty() ? 0 : local_rank() % static_cast<int>(choice.found.gpus.size());
  char host[64] = "";
  ::gethostname(host, sizeof host - 1);
  Word mine;
  put(mine.device, choice.device);
  put(mine.host, host);
  put(mine.why, choice.why_not_cuda);
  if (choice.device == "cuda") put(mine.gpu, fmt::format("{} {}", host, choice.found.gpus[index].uuid));
  const std::vector<Word> all = tell_all(mine);
  check_same_device(all);
  if (choice.device == "cpu") {
    return {.ops = &cpu_ops(),
            .make_device = make_cpu_device,
            .matrix_gflops = cpu::measured_matrix_gflops,
            .asked = asked,
            .why_not_cuda = choice.why_not_cuda};
  }
  const int sharers = static_cast<int>(
      std::count_if(all.begin(), all.end(), [&](const Word& w) { return w.gpu == mine.gpu; }));
  const cuda::Library& library = *choice.library;
  return {.ops = library.ops,
          .make_device = [&library, index, sharers] { return library.make_device(index, sharers); },
          .matrix_gflops = [&library, index, sharers] { return library.matrix_gflops(index, sharers); },
          .asked = asked};
}

}  // namespace contender
