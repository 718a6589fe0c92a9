// Reward workers are children of a small server process, forked from the rank before MPI and CUDA start
// (start_worker_server() in reward/reward.h), because a process that holds network cards, GPUs and threads is
// no place to fork from.
//
// The server starts and ends workers on request and hands the pipe ends over a socket; the conversation is
// between rank and worker. It collects every process that descends from a worker, daemons too, and when its
// rank is gone, however that came about, it kills them all.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/config.h"

namespace contender {

// What a worker is: the user's program (reward.command), or one of our own verifiers, a function that the
// forked child runs itself.
enum class WorkerKind { kCommand, kMath, kCode };

struct WorkerProcess {
  pid_t pid = -1;                   // also its process group; -1: not running
  int in = -1, out = -1, err = -1;  // our ends of its stdin, stdout and stderr; non-blocking
};

// Returns 0, or the errno that says why there is no worker; ECONNRESET when the server is gone, EMFILE when
// this process has too many open files for the pipes. Command: config.command[0] is looked up in PATH. The
// verifiers get math_seconds, code_seconds and code_memory_mib, and nothing else of the configuration.
int spawn_worker(WorkerKind kind, const RewardConfig& config, WorkerProcess* worker);

struct WorkerEnd {
  int signal = 0;    // that ended it; 0: none, or nobody knows
  std::string text;  // "exit status 3", "signal 9 (Killed)"
};
// Kills the worker, if it has not ended by itself, and all that descends from it, and closes the pipes.
WorkerEnd stop_worker(WorkerProcess* worker);

}  // namespace contender
