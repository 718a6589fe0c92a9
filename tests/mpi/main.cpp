// The tests of mpi/ run under mpirun: every rank runs the same tests, rank 0 reports as usual, other ranks
// print only their failures, in the same form. A failure anywhere makes every rank's exit code 1.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "base/log.h"
#include "mpi/mesh.h"

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

}  // namespace

int main(int argc, char** argv) {
  const contender::MpiInfo info = contender::init_mpi(&argc, &argv);
  testing::InitGoogleTest(&argc, argv);
  contender::set_watchdog(20);  // a test that leaves a peer waiting must not hang the run
  if (info.rank != 0) {
    testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter(info.rank));
  }
  try {
    int64_t failed = RUN_ALL_TESTS();
    {
      const contender::Mesh mesh({.dp = info.size, .edp = info.size});
      mesh.world().all_reduce_sum("test.result", &failed, 1);
    }
    if (info.rank == 0 && failed != 0) fmt::print("tests failed on {} of {} ranks\n", failed, info.size);
    contender::finalize_mpi();
    return failed != 0;
  } catch (const contender::Error& e) {
    contender::log_error("{}", e.what());
    contender::abort_job(1);
  }
}
