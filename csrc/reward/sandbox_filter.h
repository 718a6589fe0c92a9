// The system calls that a program in a sandbox may make, as a seccomp filter.
#pragma once

#include <string>

namespace contender {

// BPF as bubblewrap's --seccomp reads it; made once. Everything that is not listed fails with EPERM: sockets,
// bpf, io_uring, perf, ptrace, keys, mounts, namespaces, memory that no limit counts (memfd, System V), and,
// unless `processes`, fork: then a program is one process, of threads, and the limit of its address space is
// the limit of what it can hold. Throws Error(kInternal) when libseccomp does.
const std::string& sandbox_filter(bool processes);

}  // namespace contender
