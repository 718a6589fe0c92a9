// Where the job is, for messages, the watchdog and fault injection: one rank, one step, one phase.
#pragma once

#include <cstdint>
#include <string>

namespace contender {

struct JobPosition {
  int64_t step = 0;             // training step being computed
  const char* phase = "start";  // name of the innermost timer scope of the step ("gen", "update", ...)
};
JobPosition& job_position();

// `--fault kind@step:rank[:param]`, repeatable; rank may be `*`. Drills for users, and how every row of the
// fault tests is made.
//   kill, segv, exit        at the start of the step: SIGKILL, SIGSEGV, exit(0)
//   hang                    SIGSTOP at the start of the step
//   skip                    this rank leaves out its next collective
//   delay                   every exchange takes `param` more (e.g. 2ms), from the step on
//   nan                     NaN in the gradient;  nan_reward: NaN in a reward;  spike: gradient x 1e6
//   disk_full, eio, fsync   the next checkpoint write fails that way
//   crash_write             SIGKILL after the param-th write/rename/fsync of a save
//   sigterm, sigusr1        the signal to this process
//   memory_error            SIGBUS as the kernel sends it for memory whose contents are lost
// Throws Error(kConfig) naming the bad spec and the known kinds, also for a rank that a job of `ranks` has
// not.
void add_fault(const std::string& spec, int ranks = 1 << 24);

// True when `kind` is planned for (job_position().step, rank). One-shot kinds are consumed; `delay` is not.
bool fault_fires(const char* kind, int rank);
// Parameter of the last fault that fired, e.g. "2ms"; and of `delay`: nanoseconds added to exchanges now, 0
// when none.
std::string fault_param(const char* kind);
int64_t fault_delay_ns(int rank);

// From here on a memory error that the machine reports and cannot correct (SIGBUS with BUS_MCEERR_AR or _AO)
// ends the process with one line, which begins with `who`, and exit code 16. Any other SIGBUS stays fatal.
void end_on_memory_errors(const std::string& who);

// From here on SIGTERM writes this line to stderr before it ends the process as it would have. Later lines
// replace it.
void set_last_words(const std::string& line);

// Runs the process-level faults (kill, segv, exit, hang, memory_error, sigterm, sigusr1) planned for this
// step and rank.
void run_process_faults(int rank);

}  // namespace contender
