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
#include <vector>

namespace contender {

struct WorkerProcess {
  pid_t pid = -1;                   // also its process group; -1: not running
  int in = -1, out = -1, err = -1;  // our ends of its stdin, stdout and stderr; non-blocking
};

// Runs command[0] (looked up in PATH) with its arguments. Returns 0, or the errno that says why there is no
// worker; ECONNRESET when the server is gone.
int spawn_worker(const std::vector<std::string>& command, WorkerProcess* worker);

// Kills the worker and all that descends from it, closes the pipes, and says how it ended: "exit status 3",
// "signal 9 (Killed)".
std::string stop_worker(WorkerProcess* worker);

}  // namespace contender
