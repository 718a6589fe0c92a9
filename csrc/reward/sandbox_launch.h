// The start of a sandbox: descriptors, bubblewrap's arguments, the process that becomes it.
#pragma once

#include <sys/types.h>

#include <utility>

#include "reward/sandbox.h"

namespace contender {

// A descriptor, closed with its owner. All are 10 or more, so that none is in the way of a program's 0 to 3.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number);  // takes it over
  ~Descriptor() { close(); }
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  int number() const { return number_; }
  bool open() const { return number_ >= 0; }
  void close();

 private:
  int number_ = -1;
};

// Our ends.
struct LaunchedSandbox {
  pid_t monitor = -1;  // bubblewrap outside of the sandbox: our child, and its process group
  Descriptor status;   // bubblewrap's JSON: "child-pid" first, "exit-code" when the program had been started
  Descriptor go;       // a byte lets the program begin
  Descriptor out, err, result;  // non-blocking; result only with job.on_result
};

// Throws Error(kInternal) when descriptors or processes cannot be made; bubblewrap's own troubles come as
// stderr and a status without "exit-code".
LaunchedSandbox launch_sandbox(const SandboxJob& job);

// Limits processes and threads of the sandbox whose first process is `pid`. They count per user namespace, so
// this comes only when that is there. False with errno.
bool limit_processes(pid_t pid);

}  // namespace contender
