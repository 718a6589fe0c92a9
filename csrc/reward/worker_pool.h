// Some workers of one kind, a queue before them, and the thread that talks to all of them: scoring goes on
// and timeouts are kept while the caller does something else.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "reward/worker.h"

namespace contender {

class WorkerPool {
 public:
  // Starts reward.workers of them. Throws Error(kConfig) when reward.command cannot be run, Error(kSandbox)
  // when a verifier cannot.
  WorkerPool(WorkerKind kind, const RewardConfig& config);
  ~WorkerPool();  // kills them
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // `score` holds what the rules about the text gave, reward included; the reply completes it.
  void submit(const ScoreRequest& request, Score score);
  std::vector<Score> poll();   // finished since the last poll
  std::vector<Score> drain();  // waits for everything submitted

 private:
  void wake();
  void run();
  bool give_jobs();
  void wait();
  void finish(Score score);

  const WorkerKind kind_;
  const RewardConfig config_;
  int wake_ = -1;
  std::vector<std::unique_ptr<RewardWorker>> workers_;  // of the thread, once it runs

  std::mutex mutex_;  // of all below
  std::condition_variable all_finished_;
  std::deque<RewardJob> queue_;
  std::vector<Score> finished_;
  int64_t unfinished_ = 0;
  bool ending_ = false;

  std::thread thread_;
};

}  // namespace contender
