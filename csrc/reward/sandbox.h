// One run of one untrusted program in a sandbox made for it and gone after it: bubblewrap (user, mount, pid,
// network, ipc, uts and cgroup namespaces; no capabilities, no /proc, no /sys, no host file but a read-only
// runtime, an empty environment), a list of the system calls it may make (reward/sandbox_filter.h), resource
// limits, and a clock.
//
// The program is pid 1 of its own pid namespace: with its end, by itself or by SIGKILL from here, the kernel
// ends whatever it left behind. It has no descriptor but stdin, stdout, stderr and, where asked for, 3.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace contender {

enum class SandboxWorld {
  kPython,    // /usr/bin/python3 and its library; nothing can be written, no second process
  kBinary,    // only the files given; nothing can be written, no second process
  kCompiler,  // g++ with its libraries, /tmp of 256 MiB, up to 32 processes
};

struct SandboxFile {
  std::string path;  // absolute, in the sandbox; its folder is "/"
  std::string_view content;
  bool executable = false;
};

enum class AfterResult { kWait, kProgress, kStop };

struct SandboxJob {
  SandboxWorld world = SandboxWorld::kPython;
  std::vector<std::string> command;  // [0]: absolute path in the sandbox
  std::vector<SandboxFile> files;    // read-only
  std::string_view input;            // of stdin
  double seconds = 10;               // wall clock
  double processor_seconds = 0;    // of a process, with all its threads; 0: a second more than the wall clock
  int64_t memory_mib = 1024;       // address space of a process
  size_t max_out_bytes = 1 << 20;  // of stdout; of descriptor 3
  // Takes part of what descriptor 3 brought, all that came so far: kProgress begins the wall clock anew,
  // kStop ends the program. Without it the program has no descriptor 3.
  std::function<AfterResult(std::string* received)> on_result;
};

struct SandboxResult {
  enum class End {
    kExited,   // by itself or by a signal: exit_code, 128 + n for signal n
    kTimeout,  // wall clock or processor time
    kMemory,   // ended by the kernel for want of memory (a failed allocation is the program's own affair:
               // kExited)
    kOutputLimit,
    kStopped,  // by on_result
    kBroken,   // no verdict on the program: the sandbox could not be made or did not last; `why`
  };
  End end = End::kBroken;
  int exit_code = -1;
  std::string out;  // stdout, max_out_bytes at most
  std::string err;  // the last 4 KiB of stderr
  std::string why;  // of kBroken, a line
};

// Takes no longer than the wall clock and a second. Never throws; never runs anything outside a sandbox. One
// at a time in a process: as root it is another user for a moment.
SandboxResult run_in_sandbox(const SandboxJob& job);

// Empty when programs can be run here, else a line that says why not: what is missing or forbidden. Runs one.
std::string sandbox_problem();

}  // namespace contender
