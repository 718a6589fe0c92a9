#include "reward/worker_server.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio_ext.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "reward/code_worker.h"
#include "reward/math_worker.h"
#include "reward/reward.h"

namespace contender {
namespace {

constexpr size_t kMaxMessageBytes = 64 << 10;
constexpr int kReplyTimeoutSeconds = 10;
// First byte of a request. Behind it: the arguments, each with its 0; a Verifier; a pid.
constexpr char kSpawn = 'S', kVerify = 'V', kStop = 'K';

// What a verifier needs to know.
struct Verifier {
  WorkerKind kind;
  double math_seconds, code_seconds;
  int64_t code_memory_mib;
};

struct Reply {
  int32_t error = 0;  // errno
  int32_t pid = -1;
  int32_t wait_status = 0;  // of a stopped worker
};

template <class Call>
auto retry_interrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

void close_all(std::initializer_list<int*> fds) {
  for (int* fd : fds) {
    if (*fd >= 0) ::close(*fd);
    *fd = -1;
  }
}

// --- the server ---

struct Pipe {
  int read = -1, write = -1;
  bool open() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return false;
    read = ends[0];
    write = ends[1];
    return true;
  }
  ~Pipe() { close_all({&read, &write}); }
};

void become_worker(pid_t server, const Pipe& in, const Pipe& out, const Pipe& err) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != server) ::_exit(127);  // it died before the line above
  ::dup2(in.read, STDIN_FILENO);
  ::dup2(out.write, STDOUT_FILENO);
  ::dup2(err.write, STDERR_FILENO);
}

[[noreturn]] void run_program(char** argv, int failure_fd) {
  ::execvp(argv[0], argv);
  const int32_t error = errno;
  [[maybe_unused]] const ssize_t written = ::write(failure_fd, &error, sizeof error);
  ::_exit(127);
}

[[noreturn]] void run_verifier(const Verifier& verifier) {
  ::close_range(STDERR_FILENO + 1, ~0U, 0);  // nothing of the server; and it learns that the child runs
  RewardConfig config;
  config.code_seconds = verifier.code_seconds;
  config.code_memory_mib = verifier.code_memory_mib;
  const bool maths = verifier.kind == WorkerKind::kMath;
  ::prctl(PR_SET_NAME, maths ? "math-worker" : "code-worker");
  try {
    ::_exit(maths ? run_math_worker(verifier.math_seconds) : run_code_worker(config));
  } catch (const std::exception& error) {  // of the rank, whose copy this is, nothing may go on
    std::fprintf(stderr, "%s\n", error.what());
    ::_exit(1);
  }
}

class Server {
 public:
  explicit Server(int socket) : socket_(socket) {}

  void serve() {
    std::vector<char> message(kMaxMessageBytes);
    for (;;) {
      const ssize_t size =
          retry_interrupted([&] { return ::recv(socket_, message.data(), message.size(), 0); });
      if (size <= 0) break;  // the rank is gone
      const char* const body = message.data() + 1;
      if (message[0] == kSpawn) {
        std::vector<char*> argv;
        for (char* argument = message.data() + 1; argument < message.data() + size;
             argument += std::strlen(argument) + 1)
          argv.push_back(argument);
        argv.push_back(nullptr);
        spawn([&](int failure_fd) { run_program(argv.data(), failure_fd); });
      } else if (message[0] == kVerify) {
        Verifier verifier;
        std::memcpy(&verifier, body, sizeof verifier);
        spawn([&](int) { run_verifier(verifier); });
      } else {
        stop(body);
      }
    }
    for (const pid_t worker : workers_) ::kill(-worker, SIGKILL);
    workers_.clear();
    kill_orphans();
  }

 private:
  template <class Run>
  void spawn(Run run) {
    Pipe in, out, err, failure;
    Reply reply;
    if (!in.open() || !out.open() || !err.open() || !failure.open()) {
      reply.error = errno;
      return send(reply, {});
    }
    const pid_t server = ::getpid();
    reply.pid = ::fork();
    if (reply.pid == 0) {
      become_worker(server, in, out, err);
      run(failure.write);
    }
    if (reply.pid < 0) {
      reply.error = errno;
      return send(reply, {});
    }
    close_all({&failure.write});
    // Closed without a word when the worker runs.
    if (retry_interrupted([&] { return ::read(failure.read, &reply.error, sizeof reply.error); }) > 0) {
      retry_interrupted([&] { return ::waitpid(reply.pid, nullptr, 0); });
      return send(reply, {});
    }
    workers_.push_back(reply.pid);
    send(reply, {in.write, out.read, err.read});
  }

  void stop(const char* pid_bytes) {
    Reply reply;
    std::memcpy(&reply.pid, pid_bytes, sizeof reply.pid);
    // Until it is waited for, a dead worker keeps its number: the group cannot be a stranger's.
    if (std::erase(workers_, reply.pid) == 1) {
      ::kill(-reply.pid, SIGKILL);
      retry_interrupted([&] { return ::waitpid(reply.pid, &reply.wait_status, 0); });
      kill_orphans();
    }
    send(reply, {});
  }

  // What a worker leaves behind becomes a child of this process (PR_SET_CHILD_SUBREAPER), and then what that
  // leaves behind.
  void kill_orphans() {
    for (std::vector<pid_t> orphans = children(); !orphans.empty(); orphans = children()) {
      for (const pid_t orphan : orphans) {
        ::kill(orphan, SIGKILL);
        retry_interrupted([&] { return ::waitpid(orphan, nullptr, 0); });
      }
    }
  }

  // Children of this process that are not workers, from /proc/<pid>/stat: `pid (name) state ppid ...`.
  std::vector<pid_t> children() const {
    std::vector<pid_t> found;
    DIR* const proc = ::opendir("/proc");
    if (!proc) return found;
    while (const dirent* entry = ::readdir(proc)) {
      const pid_t pid = std::atoi(entry->d_name);
      if (pid <= 0 || std::find(workers_.begin(), workers_.end(), pid) != workers_.end()) continue;
      char text[512];
      std::snprintf(text, sizeof text, "/proc/%d/stat", pid);
      const int fd = ::open(text, O_RDONLY | O_CLOEXEC);
      if (fd < 0) continue;  // ended meanwhile
      const ssize_t size = ::read(fd, text, sizeof text - 1);
      ::close(fd);
      if (size <= 0) continue;
      text[size] = 0;
      const char* name_end = std::strrchr(text, ')');
      int parent = 0;
      if (name_end && std::sscanf(name_end + 1, " %*c %d", &parent) == 1 && parent == ::getpid())
        found.push_back(pid);
    }
    ::closedir(proc);
    return found;
  }

  void send(Reply reply, const std::vector<int>& fds) {
    iovec data = {&reply, sizeof reply};
    alignas(cmsghdr) char control[CMSG_SPACE(3 * sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      cmsghdr* const rights = CMSG_FIRSTHDR(&message);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
      std::memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
    }
    retry_interrupted([&] { return ::sendmsg(socket_, &message, MSG_NOSIGNAL); });
  }

  const int socket_;
  std::vector<pid_t> workers_;  // started and not yet waited for
};

// A worker that starts MPI by itself must not take itself for a rank of this job.
void forget_launcher() {
  std::vector<std::string> names;
  for (char** variable = environ; *variable; ++variable) {
    const std::string_view entry = *variable;
    if (entry.starts_with("OMPI_") || entry.starts_with("PMIX_"))
      names.emplace_back(entry.substr(0, entry.find('=')));
  }
  for (const std::string& name : names) ::unsetenv(name.c_str());
}

[[noreturn]] void run_server(int socket) {
  ::setsid();  // signals to the rank's process group or terminal are not for the server: it ends when its
               // rank has
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  ::prctl(PR_SET_NAME, "reward-server");
  for (int signal = 1; signal < NSIG; ++signal) std::signal(signal, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::__fpurge(stdout);  // what the rank had not written yet is its own to write
  // Nothing of the rank stays open here: not its files, and not the pipes that mpirun waits for.
  const int nowhere = ::open("/dev/null", O_RDWR);
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(nowhere, fd);
  constexpr int kSocket = STDERR_FILENO + 1;
  ::dup2(socket, kSocket);
  ::fcntl(kSocket, F_SETFD, FD_CLOEXEC);
  ::close_range(kSocket + 1, ~0U, 0);
  forget_launcher();
  Server(kSocket).serve();
  ::_exit(0);
}

// --- the rank's side ---

std::mutex g_mutex;
int g_socket = -1;
pid_t g_owner = -1;  // a fork of this process has no server
pid_t g_server = -1;

// The rank ends after its server, and so after every worker. (A rank that is killed cannot wait; its server
// ends a moment later.)
void end_worker_server() {
  std::lock_guard lock(g_mutex);
  if (g_owner != ::getpid()) return;
  close_all({&g_socket});
  retry_interrupted([&] { return ::waitpid(g_server, nullptr, 0); });
}

// The descriptors that came with a reply. The kernel leaves out those that this process has no number for:
// false then.
bool take_pipes(msghdr* message, WorkerProcess* worker) {
  const cmsghdr* const rights = CMSG_FIRSTHDR(message);
  const size_t came = rights ? (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
  int* const ends[] = {&worker->in, &worker->out, &worker->err};
  for (size_t i = 0; i < std::min(came, std::size(ends)); ++i) {
    std::memcpy(ends[i], CMSG_DATA(rights) + i * sizeof(int), sizeof(int));
    ::fcntl(*ends[i], F_SETFL, ::fcntl(*ends[i], F_GETFL) | O_NONBLOCK);
  }
  return came == std::size(ends) && !(message->msg_flags & MSG_CTRUNC);
}

// One request, one reply; `worker`, of a spawn: its pid and descriptors, EMFILE when not all came. ECONNRESET
// when the server does not answer; it is given up then.
int call_server(const std::string& request, Reply* reply, WorkerProcess* worker) {
  std::lock_guard lock(g_mutex);
  if (g_socket < 0 || g_owner != ::getpid()) return ECONNRESET;
  iovec data = {reply, sizeof *reply};
  alignas(cmsghdr) char control[CMSG_SPACE(3 * sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (retry_interrupted([&] { return ::send(g_socket, request.data(), request.size(), MSG_NOSIGNAL); }) < 0 ||
      retry_interrupted([&] { return ::recvmsg(g_socket, &message, MSG_CMSG_CLOEXEC); }) != sizeof *reply) {
    close_all({&g_socket});
    return ECONNRESET;
  }
  if (worker && reply->error == 0) {
    worker->pid = reply->pid;
    if (!take_pipes(&message, worker)) return EMFILE;
  }
  return reply->error;
}

}  // namespace

void start_worker_server() {
  std::lock_guard lock(g_mutex);
  if (g_socket >= 0 && g_owner == ::getpid()) return;
  close_all({&g_socket});
  if (g_owner == ::getpid()) ::waitpid(g_server, nullptr, WNOHANG);  // one that was lost
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    fail(ExitCode::kInternal, "reward workers: socketpair: {}", std::strerror(errno));
  }
  const pid_t pid = ::fork();
  if (pid < 0) fail(ExitCode::kInternal, "reward workers: fork: {}", std::strerror(errno));
  if (pid == 0) run_server(ends[1]);
  ::close(ends[1]);
  const timeval timeout = {kReplyTimeoutSeconds, 0};
  ::setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  g_socket = ends[0];
  g_owner = ::getpid();
  g_server = pid;
  static const int registered = std::atexit(end_worker_server);
  CHECK(registered == 0);
}

int spawn_worker(WorkerKind kind, const RewardConfig& config, WorkerProcess* worker) {
  std::string request;
  if (kind == WorkerKind::kCommand) {
    request = kSpawn;
    for (const std::string& argument : config.command) request += argument + '\0';
    if (request.size() > kMaxMessageBytes) return E2BIG;
  } else {
    request = kVerify;
    const Verifier verifier = {kind, config.math_seconds, config.code_seconds, config.code_memory_mib};
    request.append(reinterpret_cast<const char*>(&verifier), sizeof verifier);
  }
  Reply reply;
  const int error = call_server(request, &reply, worker);
  if (error != 0 && worker->pid >= 0) stop_worker(worker);  // it runs, but without its pipes
  return error;
}

WorkerEnd stop_worker(WorkerProcess* worker) {
  std::string request(1, kStop);
  const int32_t pid = worker->pid;
  request.append(reinterpret_cast<const char*>(&pid), sizeof pid);
  Reply reply;
  const int error = call_server(request, &reply, nullptr);
  close_all({&worker->in, &worker->out, &worker->err});
  worker->pid = -1;
  if (error != 0) return {0, "its server process is gone"};
  if (WIFEXITED(reply.wait_status)) return {0, fmt::format("exit status {}", WEXITSTATUS(reply.wait_status))};
  const int signal = WTERMSIG(reply.wait_status);
  return {signal, fmt::format("signal {} ({})", signal, ::strsignal(signal))};
}

}  // namespace contender
