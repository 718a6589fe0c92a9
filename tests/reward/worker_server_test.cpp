#include "reward/worker_server.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "reward/reward.h"

namespace contender {
namespace {

// Opens files until `free` more are possible; all are closed at the end.
class FewDescriptors {
 public:
  explicit FewDescriptors(size_t free) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit low = {std::min<rlim_t>(before_.rlim_cur, 256), before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &low);
    fill();
    for (; free > 0; --free) {
      ::close(held_.back());
      held_.pop_back();
    }
  }
  ~FewDescriptors() {
    for (const int fd : held_) ::close(fd);
    ::setrlimit(RLIMIT_NOFILE, &before_);
  }
  // How many were possible.
  size_t fill() {
    const size_t before = held_.size();
    for (int fd = ::open("/dev/null", O_RDONLY); fd >= 0; fd = ::open("/dev/null", O_RDONLY))
      held_.push_back(fd);
    return held_.size() - before;
  }

 private:
  rlimit before_ = {};
  std::vector<int> held_;
};

TEST(WorkerServer, TooManyOpenFilesAreAnErrorAndNothingIsLeftOpen) {
  start_worker_server();
  const RewardConfig config;
  const int flags = ::fcntl(STDIN_FILENO, F_GETFL);
  for (const size_t free : {0, 1, 2}) {
    WorkerProcess worker;
    FewDescriptors few(free);
    EXPECT_EQ(spawn_worker(WorkerKind::kMath, config, &worker), EMFILE) << free;
    EXPECT_EQ(worker.pid, -1) << free;
    EXPECT_EQ(few.fill(), free);
    EXPECT_EQ(::fcntl(STDIN_FILENO, F_GETFL), flags) << free;
  }
  WorkerProcess worker;
  FewDescriptors few(3);
  ASSERT_EQ(spawn_worker(WorkerKind::kMath, config, &worker), 0);
  EXPECT_EQ(stop_worker(&worker).text, "signal 9 (Killed)");
  EXPECT_EQ(few.fill(), 3u);
}

}  // namespace
}  // namespace contender
