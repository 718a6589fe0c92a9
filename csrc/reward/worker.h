// One reward worker and the conversation with it: at most one request under way, never blocking.
#pragma once

#include <poll.h>

#include <optional>

#include "reward/reward.h"
#include "reward/worker_server.h"

namespace contender {

// A request and the score that the reply completes.
struct RewardJob {
  Score score;
  std::string line;    // with its newline
  double seconds = 0;  // longest time to the reply
};
// `score` holds what the rules about the text gave.
RewardJob make_job(WorkerKind kind, const RewardConfig& config, const ScoreRequest& request, Score score);

class RewardWorker {
 public:
  RewardWorker(WorkerKind kind, int index, const RewardConfig& config);
  ~RewardWorker();
  RewardWorker(const RewardWorker&) = delete;
  RewardWorker& operator=(const RewardWorker&) = delete;

  int start();                                // 0, or errno; nothing to do when it runs
  pid_t pid() const { return process_.pid; }  // -1: not running
  bool busy() const { return job_.has_value(); }
  int64_t deadline_ns() const { return deadline_ns_; }  // of the request under way

  void begin(RewardJob job);  // not busy
  void add_polled(std::vector<pollfd>* polled) const;
  // Reads and writes what is possible now. The score of the job that ended by it, if one did.
  std::optional<Score> advance(int64_t now_ns);

 private:
  struct Failure {
    const char* status;
    std::string why;
  };

  std::optional<Failure> write_request();
  std::optional<Failure> read_reply(std::optional<Score>* finished);
  std::optional<Failure> take_reply(std::string_view line, std::optional<Score>* finished);
  void read_errors();
  void log_errors(bool all);
  std::string name() const;
  int stop(const std::string& why);  // the signal that ended it, or 0

  const WorkerKind kind_;
  const int index_;
  const RewardConfig& config_;
  WorkerProcess process_;
  std::optional<RewardJob> job_;
  int64_t deadline_ns_ = 0;
  std::string unsent_, received_, errors_;
  int64_t lines_logged_ = 0, stops_ = 0;
};

}  // namespace contender
