#include "reward/worker_pool.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/timer.h"

namespace contender {

WorkerPool::WorkerPool(WorkerKind kind, const RewardConfig& config) : kind_(kind), config_(config) {
  start_worker_server();
  for (int i = 0; i < config_.workers; ++i) {
    workers_.push_back(std::make_unique<RewardWorker>(kind_, i, config_));
    const int error = workers_.back()->start();
    if (error != 0 && kind_ == WorkerKind::kCommand)
      fail(ExitCode::kConfig, "reward.command: cannot run \"{}\": {}", config_.command[0],
           std::strerror(error));
    if (error != 0) fail(ExitCode::kSandbox, "no process for a verifier: {}", std::strerror(error));
  }
  wake_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  CHECK(wake_ >= 0, "eventfd: {}", std::strerror(errno));
  // Signals are for the main thread; SIGPIPE, of a worker that is gone, for nobody.
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

WorkerPool::~WorkerPool() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake();
  thread_.join();
  ::close(wake_);
}

void WorkerPool::submit(const ScoreRequest& request, Score score) {
  RewardJob job = make_job(kind_, config_, request, std::move(score));
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(job));
    ++unfinished_;
  }
  wake();
}

std::vector<Score> WorkerPool::poll() {
  std::lock_guard lock(mutex_);
  return std::exchange(finished_, {});
}

std::vector<Score> WorkerPool::drain() {
  std::unique_lock lock(mutex_);
  all_finished_.wait(lock, [&] { return unfinished_ == 0; });
  return std::exchange(finished_, {});
}

void WorkerPool::wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_, &one, sizeof one);
}

void WorkerPool::run() {
  while (give_jobs()) {
    wait();
    for (const auto& worker : workers_) {
      if (std::optional<Score> score = worker->advance(now_ns())) finish(std::move(*score));
    }
  }
}

// Hands waiting jobs to idle workers. False when the pool ends.
bool WorkerPool::give_jobs() {
  for (const auto& worker : workers_) {
    while (!worker->busy()) {
      std::optional<RewardJob> job;
      {
        std::lock_guard lock(mutex_);
        if (ending_) return false;
        if (queue_.empty()) return true;
        job = std::move(queue_.front());
        queue_.pop_front();
      }
      if (worker->start() == 0) {
        worker->begin(std::move(*job));
      } else {
        job->score.valid = false;
        job->score.status = "unavailable";
        finish(std::move(job->score));
      }
    }
  }
  std::lock_guard lock(mutex_);
  return !ending_;
}

// Until a pipe is ready, a request runs out of time, or submit() or the destructor calls.
void WorkerPool::wait() {
  std::vector<pollfd> polled = {{wake_, POLLIN, 0}};
  int64_t deadline_ns = INT64_MAX;
  for (const auto& worker : workers_) {
    worker->add_polled(&polled);
    if (worker->busy()) deadline_ns = std::min(deadline_ns, worker->deadline_ns());
  }
  const int64_t left_ms =
      deadline_ns == INT64_MAX ? -1 : std::max<int64_t>(0, ceil_div(deadline_ns - now_ns(), 1'000'000));
  ::poll(polled.data(), polled.size(), static_cast<int>(std::min<int64_t>(left_ms, 1'000'000)));
  uint64_t calls;
  [[maybe_unused]] const ssize_t read = ::read(wake_, &calls, sizeof calls);
}

void WorkerPool::finish(Score score) {
  std::lock_guard lock(mutex_);
  finished_.push_back(std::move(score));
  if (--unfinished_ == 0) all_finished_.notify_all();
}

}  // namespace contender
