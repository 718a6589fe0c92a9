// The verifier of task "math" as a worker process (reward/worker_server.h): reads requests as JSON lines from
// stdin, compares the completion's answer with the expected one, writes a reply each to stdout.
#pragma once

namespace contender {

// Until stdin ends; returns the exit status. Limits its own memory to 512 MiB first: a comparison that needs
// more ends the process. Time is the caller's business.
int run_math_worker();

}  // namespace contender
