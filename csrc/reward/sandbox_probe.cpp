#include <unistd.h>

#include "base/error.h"
#include "reward/sandbox.h"

namespace contender {
namespace {

// What a program can see and do where the sandbox holds; it says so, or what does not.
constexpr const char* kProbe = R"py(
import os
def refused(what, call):
    try:
        call()
    except OSError:
        return
    raise SystemExit(what)
if (os.getpid(), os.getuid(), os.getgid()) != (1, 65534, 65534):
    raise SystemExit('the program is not alone, or not uid 65534')
refused('a program can start processes', os.fork)
refused('a program can write files', lambda: open('/written', 'w'))
refused('a program can see /proc', lambda: os.listdir('/proc'))
refused('a program can see the files of this machine', lambda: os.listdir('/etc'))
for fd in range(3, 64):
    refused('a program can use descriptors of others', lambda: os.fstat(fd))
try:
    import _json
except ImportError:
    raise SystemExit('python3 has no module _json, which hands over the values of function tests')
import _socket
refused('a program can open sockets', _socket.socket)
print('held')
)py";

}  // namespace

std::string sandbox_problem() {
  for (const char* program : {"/usr/bin/bwrap", "/usr/bin/python3", "/usr/bin/g++"}) {
    if (::access(program, X_OK) != 0)
      return fmt::format("{} is missing (tools/setup.sh installs bubblewrap, python3 and g++)", program);
  }
  SandboxJob job;
  job.command = {"/usr/bin/python3", "-s", "-P", "-S", "-B", "-c", kProbe};
  const SandboxResult result = run_in_sandbox(job);
  if (result.end == SandboxResult::End::kBroken)
    return fmt::format("no sandbox can be made: {} (programs need user namespaces)", result.why);
  if (result.end == SandboxResult::End::kExited && result.exit_code == 0 && result.out == "held\n") return {};
  return fmt::format("the sandbox does not do its work: {}", result.err.substr(0, result.err.find('\n')));
}

}  // namespace contender
