#include "reward/sandbox_filter.h"

#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace contender {
namespace {

constexpr const char* kAllowed[] = {
    // files that are open, or can be read
    "read", "readv", "pread64", "preadv", "write", "writev", "pwrite64", "close", "close_range", "lseek",
    "fstat", "newfstatat", "stat", "lstat", "statx", "statfs", "fstatfs", "access", "faccessat", "faccessat2",
    "open", "openat", "readlink", "readlinkat", "getcwd", "chdir", "fchdir", "getdents", "getdents64", "dup",
    "dup2", "dup3", "fcntl", "pipe", "pipe2", "poll", "ppoll", "select", "pselect6", "epoll_create",
    "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "eventfd2", "fadvise64", "fsync", "umask",
    // memory
    "mmap", "munmap", "mprotect", "mremap", "madvise", "brk", "mincore", "membarrier",
    // itself and its threads
    "execve", "exit", "exit_group", "arch_prctl", "set_tid_address", "set_robust_list", "get_robust_list",
    "rseq", "futex", "sched_yield", "sched_getaffinity", "sched_getparam", "sched_getscheduler",
    "sched_get_priority_max", "sched_get_priority_min", "getcpu", "getpid", "gettid", "getppid", "getpgrp",
    "getpgid", "getsid", "getuid", "geteuid", "getgid", "getegid", "getgroups", "getresuid", "getresgid",
    "capget", "getrlimit", "setrlimit", "getrusage", "getpriority", "wait4", "waitid", "uname", "sysinfo",
    "getrandom",
    // signals and time
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigsuspend", "rt_sigtimedwait",
    "sigaltstack", "kill", "tkill", "tgkill", "pause", "alarm", "getitimer", "setitimer", "restart_syscall",
    "nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time", "times"};

constexpr const char* kForCompiler[] = {"fork",      "vfork",     "creat",     "unlink",         "unlinkat",
                                        "rename",    "renameat",  "mkdir",     "rmdir",          "chmod",
                                        "fchmod",    "fchmodat",  "ftruncate", "link",           "utime",
                                        "utimensat", "fallocate", "sendfile",  "copy_file_range"};

constexpr uint64_t kTerminalCalls[] = {TCGETS, TIOCGWINSZ, FIOCLEX, FIONCLEX, FIONBIO, FIONREAD};
// Not PR_SET_PDEATHSIG: it is how a program ends with whoever supervises it.
constexpr uint64_t kPrctlCalls[] = {PR_SET_NAME, PR_GET_NAME, PR_SET_VMA};
constexpr uint64_t kNewNamespaces =
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

std::string make_filter(bool processes) {
  const scmp_filter_ctx filter = ::seccomp_init(SCMP_ACT_ERRNO(EPERM));
  CHECK(filter);
  ::seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);  // a tree: 10 comparisons a call, not 100
  const auto check = [](int error, const char* what) {
    if (error != 0) fail(ExitCode::kInternal, "seccomp filter, {}: {}", what, std::strerror(-error));
  };
  const auto allow = [&](const char* name, std::initializer_list<scmp_arg_cmp> arguments = {}) {
    const int call = ::seccomp_syscall_resolve_name(name);
    check(::seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call, static_cast<unsigned>(arguments.size()),
                                   arguments.begin()),
          name);
  };
  for (const char* name : kAllowed) allow(name);
  for (const uint64_t request : kTerminalCalls) allow("ioctl", {SCMP_A1(SCMP_CMP_EQ, request)});
  for (const uint64_t option : kPrctlCalls) allow("prctl", {SCMP_A0(SCMP_CMP_EQ, option)});
  allow("prlimit64", {SCMP_A0(SCMP_CMP_EQ, 0)});
  // clone3 keeps its flags in memory, where a filter cannot look; the C library then falls back to clone.
  check(::seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0), "clone3");
  if (processes) {
    for (const char* name : kForCompiler) allow(name);
    allow("clone", {SCMP_A0(SCMP_CMP_MASKED_EQ, kNewNamespaces, 0)});
  } else {
    allow("clone", {SCMP_A0(SCMP_CMP_MASKED_EQ, kNewNamespaces | CLONE_THREAD, CLONE_THREAD)});
  }

  const int file = ::memfd_create("filter", MFD_CLOEXEC);
  CHECK(file >= 0, "memfd_create: {}", std::strerror(errno));
  check(::seccomp_export_bpf(filter, file), "export");
  ::seccomp_release(filter);
  std::string bpf(static_cast<size_t>(::lseek(file, 0, SEEK_END)), 0);
  CHECK(::pread(file, bpf.data(), bpf.size(), 0) == static_cast<ssize_t>(bpf.size()));
  ::close(file);
  return bpf;
}

}  // namespace

const std::string& sandbox_filter(bool processes) {
  static const std::string one = make_filter(false), many = make_filter(true);
  return processes ? many : one;
}

}  // namespace contender
