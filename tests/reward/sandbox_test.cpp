#include "reward/sandbox.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

namespace contender {
namespace {

namespace fs = std::filesystem;
using End = SandboxResult::End;

std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Where programs cannot be run these tests fail, with the reason.
class SandboxTest : public testing::Test {
 protected:
  void SetUp() override {
    static const std::string problem = sandbox_problem();
    ASSERT_EQ(problem, "");
    mounts_ = content("/proc/self/mountinfo");
    descriptors_ = descriptors();
  }

  // Nothing is left of any run: no process, no ended child, no mount, no descriptor.
  void TearDown() override {
    EXPECT_EQ(processes_of(tag_), 0) << "processes are left";
    EXPECT_LE(::waitpid(-1, nullptr, WNOHANG), 0) << "an ended child is left";
    EXPECT_EQ(content("/proc/self/mountinfo"), mounts_);
    EXPECT_EQ(descriptors(), descriptors_);
  }

  static std::ptrdiff_t descriptors() {
    return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator());
  }

  // Processes that have the word among their arguments, as forks of a tagged one do.
  static int processes_of(const std::string& tag) {
    int count = 0;
    for (const auto& entry : fs::directory_iterator("/proc"))
      count += content(entry.path() / "cmdline").find(tag) != std::string::npos;
    return count;
  }

  // Ends in time, whatever it does.
  SandboxResult run(const SandboxJob& job) {
    const auto start = std::chrono::steady_clock::now();
    SandboxResult result = run_in_sandbox(job);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    EXPECT_LT(took.count(), job.seconds + 1);
    EXPECT_NE(result.end, End::kBroken) << result.why;
    return result;
  }

  SandboxJob python_job(const std::string& program, double seconds = 5) const {
    SandboxJob job;
    job.command = {"/usr/bin/python3", "-s", "-P", "-S", "-B", "-c", program, tag_};
    job.seconds = seconds;
    job.memory_mib = 256;
    return job;
  }
  SandboxResult python(const std::string& program, double seconds = 5) {
    return run(python_job(program, seconds));
  }

  // In the world where processes are allowed.
  SandboxResult shell(const std::string& script, double seconds = 5) {
    SandboxJob job;
    job.world = SandboxWorld::kCompiler;
    job.command = {"/usr/bin/sh", "-c", script, tag_};
    job.seconds = seconds;
    return run(job);
  }

  const std::string tag_ = "sandbox-test-" + std::to_string(::getpid());
  std::string mounts_;
  std::ptrdiff_t descriptors_ = 0;
};

TEST_F(SandboxTest, ProgramGetsItsInputAndNothingElse) {
  SandboxJob job = python_job(
      "import os, sys\n"
      "print(input(), os.getpid(), os.getuid(), os.getgid(), sorted(os.environ), os.getcwd(), "
      "open('/a').read())\n"
      "def has(fd):\n"
      "    try: return os.fstat(fd) is not None\n"
      "    except OSError: return False\n"
      "print([fd for fd in range(64) if has(fd)], sorted(os.listdir('/')), os.listdir('/dev'))\n"
      "sys.exit(7)");
  job.input = "line\n";
  job.files = {{"/a", "file"}};
  ASSERT_EQ(::setenv("CONTENDER_SECRET", "x", 1), 0);
  const SandboxResult result = run(job);
  ::unsetenv("CONTENDER_SECRET");
  EXPECT_EQ(result.end, End::kExited);
  EXPECT_EQ(result.exit_code, 7);
  EXPECT_EQ(result.out,
            "line 1 65534 65534 ['LC_CTYPE', 'PWD', 'PYTHONHASHSEED'] / file\n"
            "[0, 1, 2] ['a', 'dev', 'lib', 'lib64', 'usr'] ['null']\n");
  EXPECT_EQ(result.err, "");
}

TEST_F(SandboxTest, ForkBombs) {
  const SandboxResult stopped = python("import os\nwhile True: os.fork()");
  EXPECT_EQ(stopped.end, End::kExited);
  EXPECT_EQ(stopped.exit_code, 1);
  EXPECT_NE(stopped.err.find("PermissionError"), std::string::npos);
  const SandboxResult stubborn = python(
      "import os\n"
      "while True:\n"
      "    try: os.fork()\n"
      "    except OSError: pass",
      0.5);
  EXPECT_EQ(stubborn.end, End::kTimeout);
  const SandboxResult threads = python(
      "import threading\n"
      "threading.stack_size(65536)\n"
      "try:\n"
      "    for n in range(10000): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
      "except RuntimeError: print(n)");
  EXPECT_EQ(threads.out, "31\n");
  EXPECT_EQ(shell("f() { f | f & }; f; while :; do :; done", 0.5).end, End::kTimeout);
}

TEST_F(SandboxTest, Memory) {
  const SandboxResult allocated = python("x = bytearray(1 << 30)");
  EXPECT_EQ(allocated.exit_code, 1);
  EXPECT_NE(allocated.err.find("MemoryError"), std::string::npos);
  // What does not count as its address space: memory files, shared segments, big pipes.
  EXPECT_EQ(python("import os\n"
                   "try: os.memfd_create('x')\n"
                   "except PermissionError: print('refused')")
                .out,
            "refused\n");
}

TEST_F(SandboxTest, LoopsAndRecursion) {
  EXPECT_EQ(python("while True: pass", 0.5).end, End::kTimeout);
  EXPECT_EQ(python("import time; time.sleep(1000)", 0.5).end, End::kTimeout);
  const SandboxResult recursion = python("def f(): return f() + 1\nf()");
  EXPECT_EQ(recursion.exit_code, 1);
  EXPECT_NE(recursion.err.find("RecursionError"), std::string::npos);
}

TEST_F(SandboxTest, Sockets) {
  EXPECT_EQ(python("import _socket as s\n"
                   "for family in (s.AF_INET, s.AF_INET6, s.AF_UNIX, s.AF_NETLINK, s.AF_PACKET):\n"
                   "    for kind in (s.SOCK_STREAM, s.SOCK_DGRAM, s.SOCK_RAW):\n"
                   "        try: s.socket(family, kind); print('open', family, kind)\n"
                   "        except PermissionError: pass\n"
                   "try: s.socketpair(); print('pair')\n"
                   "except PermissionError: pass")
                .out,
            "");
  EXPECT_EQ(shell("cat < /dev/tcp/127.0.0.1/22").exit_code, 2);
}

TEST_F(SandboxTest, FilesOfTheMachine) {
  const std::string home = std::getenv("HOME") ? std::getenv("HOME") : "/root";
  const std::string own = fs::read_symlink("/proc/self/exe");
  const std::string program =
      "import os\n"
      "for path in ('/etc/shadow', '/etc/passwd', '/proc/1/environ', '/proc/self/environ', '/proc/cpuinfo', "
      "'/sys',\n"
      "             '/root', '/home', '/var', '/run', '/usr/bin/sh', '/dev/mem', '/dev/sda', '" +
      home + "', '" + own +
      "'):\n"
      "    if os.path.lexists(path): print(path)";
  EXPECT_EQ(python(program).out, "");
  EXPECT_EQ(shell("for f in /etc/shadow /proc/1/environ /sys /root " + home + " " + own +
                  "; do [ -e $f ] && echo $f; done; echo end")
                .out,
            "end\n");
}

TEST_F(SandboxTest, SignalsAreIgnoredInVain) {
  EXPECT_EQ(python("import signal\n"
                   "for n in range(1, 65):\n"
                   "    try: signal.signal(n, signal.SIG_IGN)\n"
                   "    except (OSError, ValueError): pass\n"
                   "while True: pass",
                   0.5)
                .end,
            End::kTimeout);
}

TEST_F(SandboxTest, DaemonsEndWithTheirProgram) {
  EXPECT_EQ(python("import os\n"
                   "try: os.setsid()\n"
                   "except PermissionError: print('no session')\n"
                   "try: os.fork()\n"
                   "except PermissionError: print('no process')")
                .out,
            "no session\nno process\n");
  const std::string daemon = "(setsid sh -c 'trap \"\" HUP TERM INT; (while :; do sleep 1000; done) &' " +
                             tag_ + " >/dev/null 2>&1 &); sleep 0.1; echo started; ";
  const SandboxResult ended = shell(daemon + "exit 0");
  EXPECT_EQ(ended.out, "started\n");
  EXPECT_EQ(ended.exit_code, 0);
  EXPECT_EQ(processes_of(tag_), 0);
  EXPECT_EQ(shell(daemon + "while :; do :; done", 0.5).end, End::kTimeout);
}

TEST_F(SandboxTest, Floods) {
  SandboxJob job = python_job("import os\nwhile True: os.write(1, b'x' * 65536)");
  job.max_out_bytes = 100'000;
  const SandboxResult out = run(job);
  EXPECT_EQ(out.end, End::kOutputLimit);
  EXPECT_EQ(out.out, std::string(100'000, 'x'));
  const SandboxResult err = python("import os\nwhile True: os.write(2, b'y' * 65536)");
  EXPECT_EQ(err.end, End::kOutputLimit);
  EXPECT_EQ(err.err, std::string(4096, 'y'));
  job = python_job("import os\nwhile True: os.write(3, b'z' * 65536)");
  job.on_result = [](std::string*) { return AfterResult::kWait; };
  EXPECT_EQ(run(job).end, End::kOutputLimit);
}

TEST_F(SandboxTest, Disks) {
  EXPECT_EQ(
      python("import os\n"
             "for path in ('/', '/tmp', '/dev', '/usr', '/usr/lib', '/lib'):\n"
             "    for make in (lambda p: open(p, 'w'), os.mkdir, lambda p: os.symlink('a', p), os.mkfifo):\n"
             "        try: make(path + '/made'); print('made in', path)\n"
             "        except OSError: pass\n"
             "os.truncate('/program.py', 0) if os.path.exists('/program.py') else None")
          .out,
      "");
  const SandboxResult full = shell(
      "for i in 1 2 3 4 5 6; do (yes | head -c 70000000 > /tmp/$i) 2>/dev/null; done; du -m /tmp | cut -f1; "
      "exit 3");
  EXPECT_EQ(full.exit_code, 3);
  EXPECT_EQ(full.out, "256\n");
}

// Calls of the kernel that reach beyond a sandbox or around its limits, by number: each is refused in both
// worlds.
TEST_F(SandboxTest, SystemCalls) {
  const char* const program =
      "import ctypes\n"
      "libc = ctypes.CDLL(None, use_errno=True)\n"
      "calls = dict(ptrace=101, syslog=103, keyctl=250, add_key=248, request_key=249, mount=165, "
      "umount2=166,\n"
      "    pivot_root=155, chroot=161, unshare=272, setns=308, kexec_load=246, kexec_file_load=320, "
      "init_module=175,\n"
      "    finit_module=313, delete_module=176, bpf=321, perf_event_open=298, userfaultfd=323, "
      "io_uring_setup=425,\n"
      "    io_uring_enter=426, process_vm_readv=310, process_vm_writev=311, memfd_create=319, "
      "memfd_secret=447,\n"
      "    shmget=29, msgget=68, semget=64, mq_open=240, socket=41, socketpair=53, personality=135, "
      "open_tree=428,\n"
      "    move_mount=429, fsopen=430, fsmount=432, name_to_handle_at=303, open_by_handle_at=304, "
      "quotactl=179,\n"
      "    acct=163, swapon=167, reboot=169, setuid=105, setresuid=117, setgroups=116, capset=126, "
      "inotify_init=253,\n"
      "    fanotify_init=300, pidfd_open=434, pidfd_getfd=438, clone_newuser=56, prctl_pdeathsig=157, "
      "ioperm=173,\n"
      "    iopl=172, modify_ldt=154, vmsplice=278, seccomp=317, landlock=444, migrate_pages=256, "
      "settimeofday=164)\n"
      "for name, number in calls.items():\n"
      "    first = 0x10000011 if name == 'clone_newuser' else 1 if name == 'prctl_pdeathsig' else 0\n"
      "    ctypes.set_errno(0)\n"
      "    if libc.syscall(number, first, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1: print(name)\n"
      "ctypes.set_errno(0)\n"
      "print(libc.syscall(435, 0, 0), ctypes.get_errno())";
  EXPECT_EQ(python(program).out, "-1 38\n");  // clone3: the C library falls back
  SandboxJob job = python_job(program);
  job.world = SandboxWorld::kCompiler;
  EXPECT_EQ(run(job).out, "-1 38\n");
}

TEST_F(SandboxTest, ResultsHaveTheirOwnChannel) {
  SandboxJob job = python_job(
      "import os, time\n"
      "for i in range(4):\n"
      "    time.sleep(0.3)\n"
      "    os.write(3, b'.')\n"
      "time.sleep(1000)",
      0.7);  // each; longer in all
  std::string received;
  job.on_result = [&](std::string* more) {
    received += std::exchange(*more, {});
    return received.size() == 4 ? AfterResult::kStop : AfterResult::kProgress;
  };
  const SandboxResult result = run_in_sandbox(job);
  EXPECT_EQ(result.end, End::kStopped);
  EXPECT_EQ(received, "....");
}

// A bomb of its own does not slow or starve a sandbox of the same user beside it.
TEST_F(SandboxTest, OthersGoOn) {
  const pid_t bomber = ::fork();
  if (bomber == 0) {
    const SandboxResult bomb = shell("f() { f | f & }; f; while :; do :; done", 2);
    ::_exit(bomb.end == End::kTimeout ? 0 : 1);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  for (int i = 0; i < 3; ++i) {
    const SandboxResult result = python(
        "import threading\n"
        "t = threading.Thread(target=lambda: print('well'))\n"
        "t.start(); t.join()");
    EXPECT_EQ(result.out, "well\n") << result.err;
  }
  int status = -1;
  EXPECT_EQ(::waitpid(bomber, &status, 0), bomber);
  EXPECT_EQ(status, 0);
}

// The supervisor is killed: so is what it supervised.
TEST_F(SandboxTest, NothingOutlivesItsSupervisor) {
  const pid_t supervisor = ::fork();
  if (supervisor == 0) {
    python("while True: pass", 1000);
    ::_exit(0);
  }
  ASSERT_GT(supervisor, 1);
  const auto wait_for = [&](auto condition) {
    for (int i = 0; i < 1000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return condition();
  };
  // bubblewrap outside, and the program.
  EXPECT_TRUE(wait_for([&] { return processes_of(tag_) >= 2; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  ::kill(supervisor, SIGKILL);
  ::waitpid(supervisor, nullptr, 0);
  EXPECT_TRUE(wait_for([&] { return processes_of(tag_) == 0; }));
}

// As on machines without user namespaces: no program runs, and the reason is said.
TEST_F(SandboxTest, WithoutUserNamespacesNothingRuns) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    const scmp_filter_ctx filter = ::seccomp_init(SCMP_ACT_ALLOW);
    ::seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                       SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER));
    ::seccomp_load(filter);
    std::string said = sandbox_problem();
    SandboxJob job = python_job("print('it runs')");
    const SandboxResult result = run_in_sandbox(job);
    said += result.end == End::kBroken && result.out.empty() ? "|broken" : "|it runs";
    [[maybe_unused]] const ssize_t n = ::write(ends[1], said.data(), said.size());
    ::_exit(0);
  }
  ::waitpid(child, nullptr, 0);
  char said[1000] = {};
  EXPECT_GT(::read(ends[0], said, sizeof said - 1), 0);
  ::close(ends[0]);
  ::close(ends[1]);
  EXPECT_NE(std::string(said).find("no sandbox can be made: bwrap: "), std::string::npos) << said;
  EXPECT_NE(std::string(said).find("namespace"), std::string::npos) << said;
  EXPECT_NE(std::string(said).find("|broken"), std::string::npos) << said;
}

}  // namespace
}  // namespace contender
