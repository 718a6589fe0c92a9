// Start and end of MPI, and how a job ends early.
//
// Verified with Open MPI 4.1.4 (tests/e2e/watchdog.sh repeats it on 2 and 4 ranks):
// - a rank killed by a signal: mpirun ends the others within two seconds and returns 128 + signal;
// - a rank calling exit(0) between MPI_Init and MPI_Finalize: mpirun ends the others likewise and returns 1;
// - MPI_Abort(code): mpirun returns the code; a rank under SIGSTOP does not survive it;
// - a rank that is stopped or leaves out a collective: mpirun never notices; the watchdog does.
#include <mpi.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "base/log.h"
#include "mpi/flight.h"
#include "mpi/mesh.h"
#include "mpi/watchdog.h"

namespace contender {
namespace {

bool g_started = false;

std::optional<int> environment_integer(const char* name) {
  const char* text = std::getenv(name);
  if (!text) return std::nullopt;
  const std::string_view view = text;
  int value = 0;
  const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), value);
  if (error != std::errc() || end != view.data() + view.size() || value < 0) return std::nullopt;
  return value;
}

// Open MPI's mpirun; Hydra and srun --mpi=pmi2; srun --mpi=pmix. SLURM's own rank is not asked: it is also
// set where a batch script starts a single process.
std::optional<MpiInfo> launcher() {
  constexpr const char* kNames[][2] = {{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
                                       {"PMI_RANK", "PMI_SIZE"},
                                       {"PMIX_RANK", "SLURM_STEP_NUM_TASKS"}};
  for (const auto& [rank_name, size_name] : kNames) {
    const std::optional<int> rank = environment_integer(rank_name), size = environment_integer(size_name);
    if (rank && size && *rank < *size) return MpiInfo{*rank, *size};
  }
  return std::nullopt;
}

}  // namespace

MpiInfo launcher_info() { return launcher().value_or(MpiInfo{}); }

bool mpi_started() { return g_started; }

void check_mpi(int code, const char* call, const char* name) {
  if (code == MPI_SUCCESS) [[likely]]
    return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail(ExitCode::kPeerLost, "{} in \"{}\" failed: {}", call, name,
       std::string_view(text, static_cast<size_t>(length)));
}

MpiInfo init_mpi(int* argc, char*** argv) {
  ::signal(SIGPIPE, SIG_IGN);  // a reward worker or a peer that dies is an error code, not the end
  MpiInfo info;
  if (launcher()) {
    // Inside its own calls Open MPI would otherwise spin through whole time slices when other processes need
    // the cores.
    ::setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    int provided = 0;
    check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread", "start");
    check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler", "start");
    CHECK(provided >= MPI_THREAD_FUNNELED, "MPI gives thread level {}", provided);
    int* tag_limit = nullptr;
    int found = 0;
    check_mpi(MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &tag_limit, &found), "MPI_Comm_get_attr",
              "start");
    CHECK(found && *tag_limit >= kMaxTag, "MPI's tags end at {}, {} are needed", found ? *tag_limit : 0,
          kMaxTag);
    start_watchdog();
    g_started = true;
    check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &info.rank), "MPI_Comm_rank", "start");
    check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &info.size), "MPI_Comm_size", "start");
  }
  set_log_rank(info.rank, info.size);
  return info;
}

void finalize_mpi() {
  if (!g_started) return;
  g_started = false;
  check_mpi(MPI_Finalize(), "MPI_Finalize", "end");
}

void abort_job(int exit_code) {
  std::fflush(nullptr);
  if (g_started) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace contender
