// The tests of mpi/ run under mpirun: every rank runs the same tests, rank 0 reports as usual, other ranks
// print only their failures, in the same form. A failure anywhere makes every rank's exit code 1.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/job.h"
#include "base/log.h"
#include "base/timer.h"
#include "mpi/mesh.h"
#include "tests/mpi/drill.h"

std::unique_ptr<contender::Device> (*contender::g_make_drill_device)() = nullptr;

namespace {

class FailurePrinter : public testing::EmptyTestEventListener {
 public:
  explicit FailurePrinter(int rank) : rank_(rank) {}

 private:
  void OnTestPartResult(const testing::TestPartResult& part) override {
    if (!part.failed()) return;
    print(fmt::format("[rank {}] {}:{}: {}\n", rank_, part.file_name() ? part.file_name() : "?",
                      part.line_number(), part.summary()));
  }
  void OnTestEnd(const testing::TestInfo& test) override {
    if (test.result()->Failed())
      print(fmt::format("[  FAILED  ] {}.{} on rank {}\n", test.test_suite_name(), test.name(), rank_));
  }
  static void print(const std::string& text) {
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
  }
  const int rank_;
};

void run_drill(const contender::MpiInfo& info, double watchdog_s, const std::vector<std::string>& faults) {
  for (const std::string& spec : faults) contender::add_fault(spec);
  const char* dump_path = std::getenv("DRILL_DUMP");
  contender::set_watchdog(watchdog_s, dump_path ? dump_path : "");
  const bool gpu = contender::g_make_drill_device != nullptr;
  const auto device = gpu ? contender::g_make_drill_device() : contender::make_cpu_device();
  const contender::Mesh mesh({.dp = info.size, .edp = info.size}, device.get(), gpu ? "nccl" : "auto");
  const contender::Buffer mine(device.get(), 64, "drill"), all(device.get(), 64 * info.size, "drill");
  device->zero(device->compute_stream(), mine.data(), mine.bytes());
  for (int step = 1; step <= 50; ++step) {
    contender::job_position().step = step;
    const contender::TimerScope scope("update");
    contender::run_process_faults(info.rank);
    int64_t x = 1;
    mesh.world().all_reduce_sum("norm", &x, 1);
    CHECK(x == info.size || !faults.empty(), "sum {}", x);
    contender::Pending gather = mesh.world().all_gather_flat("gather", mine.f32(), 16 * info.size, all.f32());
    ::usleep(10'000);
    gather.wait();
    mesh.finish_collectives();
  }
  if (info.rank == 0) fmt::print("drill done\n");
}

int run_tests(const contender::MpiInfo& info) {
  contender::set_watchdog(20);  // a test that leaves a peer waiting must not hang the run
  if (info.rank != 0) {
    testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter(info.rank));
  }
  int64_t failed = RUN_ALL_TESTS();
  const contender::Mesh mesh({.dp = info.size, .edp = info.size});
  mesh.world().all_reduce_sum("test.result", &failed, 1);
  if (info.rank == 0 && failed != 0) fmt::print("tests failed on {} of {} ranks\n", failed, info.size);
  return failed != 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const contender::MpiInfo info = contender::init_mpi(&argc, &argv);
    testing::InitGoogleTest(&argc, argv);
    int status = 0;
    if (argc > 2 && std::string(argv[1]) == "drill") {
      run_drill(info, std::stod(argv[2]), {argv + 3, argv + argc});
    } else {
      status = run_tests(info);
    }
    contender::finalize_mpi();
    return status;
  } catch (const contender::Error& e) {
    contender::log_error("{}", e.what());
    contender::abort_job(static_cast<int>(e.code()));
  }
}
