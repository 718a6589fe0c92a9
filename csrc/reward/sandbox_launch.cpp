#include "reward/sandbox_launch.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>

#include "base/error.h"
#include "reward/sandbox_filter.h"

namespace contender {
namespace {

constexpr const char* kBubblewrap = "/usr/bin/bwrap";
constexpr uid_t kNobody = 65534;
constexpr int kResult = 3;
constexpr rlim_t kMaxProcesses = 32;  // and threads
constexpr rlim_t kMiB = 1 << 20;

void connect(Descriptor& read, Descriptor& write) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) fail(ExitCode::kInternal, "sandbox: no pipe: {}", std::strerror(errno));
  read = Descriptor(ends[0]);
  write = Descriptor(ends[1]);
}

// A file in memory that reads `content` from its start and that nobody can change.
Descriptor make_data(std::string_view content) {
  Descriptor file(::memfd_create("data", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  for (size_t written = 0; written < content.size();) {
    const ssize_t n = ::write(file.number(), content.data() + written, content.size() - written);
    if (n <= 0) fail(ExitCode::kInternal, "sandbox: no memory for {} bytes of data", content.size());
    written += static_cast<size_t>(n);
  }
  ::lseek(file.number(), 0, SEEK_SET);
  ::fcntl(file.number(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
  return file;
}

using Arguments = std::vector<std::string>;

void add(Arguments& to, std::initializer_list<std::string> words) { to.insert(to.end(), words); }

// The file system of a world: what of the host can be read there.
void add_world(SandboxWorld world, Arguments& to) {
  if (world != SandboxWorld::kBinary) {
    add(to, {"--ro-bind", "/usr/lib", "/usr/lib", "--symlink", "usr/lib", "/lib"});
    add(to, {"--ro-bind-try", "/usr/lib64", "/usr/lib64", "--symlink", "usr/lib64", "/lib64"});
  }
  if (world == SandboxWorld::kPython) {
    add(to, {"--ro-bind", "/usr/bin/python3", "/usr/bin/python3", "--setenv", "PYTHONHASHSEED", "0"});
  }
  if (world == SandboxWorld::kCompiler) {
    add(to, {"--ro-bind", "/usr/bin", "/usr/bin", "--ro-bind", "/usr/include", "/usr/include"});
    add(to, {"--size", "268435456", "--tmpfs", "/tmp", "--setenv", "PATH", "/usr/bin"});
  }
  add(to, {"--dev-bind", "/dev/null", "/dev/null"});
}

struct TheirEnds {
  Descriptor input, out, err, result, status, go, filter;
  std::vector<Descriptor> files;
};

Arguments bubblewrap_arguments(const SandboxJob& job, const TheirEnds& theirs) {
  const std::string nobody = std::to_string(kNobody);
  Arguments a = {kBubblewrap,     "--unshare-user", "--unshare-pid",
                 "--unshare-net", "--unshare-ipc",  "--unshare-uts"};
  add(a, {"--unshare-cgroup-try", "--uid", nobody, "--gid", nobody, "--hostname", "sandbox"});
  add(a, {"--as-pid-1", "--die-with-parent", "--new-session", "--chdir", "/"});
  add(a, {"--json-status-fd", std::to_string(theirs.status.number())});
  add(a, {"--block-fd", std::to_string(theirs.go.number())});
  add(a, {"--seccomp", std::to_string(theirs.filter.number())});
  add_world(job.world, a);
  for (size_t i = 0; i < job.files.size(); ++i) {
    add(a, {"--perms", job.files[i].executable ? "0555" : "0444", "--file",
            std::to_string(theirs.files[i].number()), job.files[i].path});
  }
  add(a, {"--remount-ro", "/", "--"});
  a.insert(a.end(), job.command.begin(), job.command.end());
  return a;
}

struct Limit {
  __rlimit_resource resource;
  rlim_t value;
};

double processor_limit(const SandboxJob& job) {
  return job.processor_seconds > 0 ? job.processor_seconds : job.seconds + 1;
}

std::vector<Limit> limits_of(const SandboxJob& job) {
  return {{RLIMIT_AS, static_cast<rlim_t>(job.memory_mib) * kMiB},
          {RLIMIT_CPU, static_cast<rlim_t>(std::ceil(processor_limit(job)))},
          {RLIMIT_FSIZE, 64 * kMiB},
          {RLIMIT_STACK, 64 * kMiB},
          {RLIMIT_NOFILE, 64},
          {RLIMIT_SIGPENDING, 64},
          {RLIMIT_MEMLOCK, 0},
          {RLIMIT_MSGQUEUE, 0},
          {RLIMIT_CORE, 0}};
}

// In the forked child, which has the memory of a process without threads: nothing here allocates.
[[noreturn]] void become_bubblewrap(char** argv, const std::vector<Limit>& limits,
                                    const std::vector<int>& passed, const TheirEnds& theirs, pid_t parent) {
  const auto stop = [](const char* what) {
    const char* const why = std::strerror(errno);
    for (const char* part : {"sandbox: ", what, ": ", why})
      [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, part, std::strlen(part));
    ::_exit(127);
  };
  ::setpgid(0, 0);
  ::dup2(theirs.input.number(), STDIN_FILENO);
  ::dup2(theirs.out.number(), STDOUT_FILENO);
  ::dup2(theirs.err.number(), STDERR_FILENO);
  ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
  if (theirs.result.open()) ::dup2(theirs.result.number(), kResult);
  for (const int fd : passed) ::fcntl(fd, F_SETFD, 0);
  for (int signal = 1; signal < NSIG; ++signal) std::signal(signal, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  // The limits of processes and the rights over files are those of whoever starts the sandbox, and root has
  // none and all.
  if (::geteuid() == 0 && (::setgroups(0, nullptr) != 0 || ::setresgid(kNobody, kNobody, kNobody) != 0 ||
                           ::setresuid(kNobody, kNobody, kNobody) != 0)) {
    stop("cannot become uid 65534");
  }
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // after the change of user, which clears it
  if (::getppid() != parent) ::_exit(127);
  for (const Limit& limit : limits) {
    rlimit now;
    ::getrlimit(limit.resource, &now);
    const rlim_t value = std::min(limit.value, now.rlim_max);
    const rlimit wanted = {value, value};
    if (::setrlimit(limit.resource, &wanted) != 0) stop("setrlimit");
  }
  char* const no_environment[] = {nullptr};
  ::execve(argv[0], argv, no_environment);
  stop(argv[0]);
  ::_exit(127);
}

}  // namespace

Descriptor::Descriptor(int number) {
  if (number < 0) fail(ExitCode::kInternal, "sandbox: no descriptor: {}", std::strerror(errno));
  number_ = ::fcntl(number, F_DUPFD_CLOEXEC, 10);
  const int error = errno;
  ::close(number);
  if (number_ < 0) fail(ExitCode::kInternal, "sandbox: no descriptor: {}", std::strerror(error));
}

void Descriptor::close() {
  if (number_ >= 0) ::close(number_);
  number_ = -1;
}

bool limit_processes(pid_t pid) {
  const bool root = ::geteuid() == 0;
  // Only the same user may limit a process, and root only where it has CAP_SYS_RESOURCE: not in most
  // containers.
  if (root && (::setresgid(kNobody, -1, -1) != 0 || ::setresuid(kNobody, -1, -1) != 0)) return false;
  const rlimit most = {kMaxProcesses, kMaxProcesses};
  const bool limited = ::prlimit(pid, RLIMIT_NPROC, &most, nullptr) == 0;
  const int error = errno;
  if (root && (::setresuid(0, -1, -1) != 0 || ::setresgid(0, -1, -1) != 0)) return false;
  errno = error;
  return limited;
}

LaunchedSandbox launch_sandbox(const SandboxJob& job) {
  LaunchedSandbox ours;
  TheirEnds theirs;
  connect(ours.out, theirs.out);
  connect(ours.err, theirs.err);
  connect(ours.status, theirs.status);
  connect(theirs.go, ours.go);
  if (job.on_result) connect(ours.result, theirs.result);
  for (const Descriptor* d : {&ours.out, &ours.err, &ours.status, &ours.result})
    if (d->open()) ::fcntl(d->number(), F_SETFL, O_NONBLOCK);
  theirs.input = make_data(job.input);
  theirs.filter = make_data(sandbox_filter(job.world == SandboxWorld::kCompiler));
  for (const SandboxFile& file : job.files) theirs.files.push_back(make_data(file.content));

  const Arguments arguments = bubblewrap_arguments(job, theirs);
  std::vector<char*> argv;
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  std::vector<int> passed = {theirs.status.number(), theirs.go.number(), theirs.filter.number()};
  for (const Descriptor& file : theirs.files) passed.push_back(file.number());
  const std::vector<Limit> limits = limits_of(job);
  const pid_t parent = ::getpid();
  ours.monitor = ::fork();
  if (ours.monitor < 0) fail(ExitCode::kInternal, "sandbox: fork: {}", std::strerror(errno));
  if (ours.monitor == 0) become_bubblewrap(argv.data(), limits, passed, theirs, parent);
  ::setpgid(ours.monitor, ours.monitor);  // here too: whichever comes first
  return ours;
}

}  // namespace contender
