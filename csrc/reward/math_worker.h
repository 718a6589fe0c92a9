// The verifier of task "math" as a worker process (reward/worker_server.h): reads requests as JSON lines from
// stdin, compares the completion's answer with the expected one, writes a reply each to stdout.
//
// An answer whose own evaluation is too much ends the process, by a signal that nobody else sends: SIGPROF
// for its processor time, SIGABRT for its memory or for a library that gives up. Whatever else ends it, the
// kernel short of memory or a wall clock, is no verdict on the answer (how_maths_ended()).
#pragma once

#include <string_view>

#include "reward/math_verify.h"

namespace contender {

using MathVerifier = MathVerdict (*)(std::string_view prompt, std::string_view completion,
                                     std::string_view expected);

// Until stdin ends; returns the exit status. Takes 512 MiB of memory for itself, and `seconds` of processor
// time for each request.
int run_math_worker(double seconds, MathVerifier verify = verify_math);

// The status of an answer that ended its worker by this signal, too_long or aborted: a wrong one. Nullptr: no
// verdict.
const char* how_maths_ended(int signal);

// The wall clock of a request: far more than its processor time takes on a crowded machine, below the
// watchdog's patience.
double math_wall_seconds(double seconds);

}  // namespace contender
