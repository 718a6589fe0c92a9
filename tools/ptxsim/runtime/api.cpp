#include "runtime/api.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#include "fault.h"
#include "runtime/device.h"
#include "runtime/stream.h"
#include "runtime/thread_state.h"

namespace ptxsim::runtime {
namespace {

struct ErrorRow {
  cudaError_t code;
  const char* name;
  const char* text;
};

constexpr ErrorRow kErrors[] = {
#define PTXSIM_ERROR(name, text) {name, #name, text},
#include "runtime/error_table.inc"
#undef PTXSIM_ERROR
};

const ErrorRow* row_of(int code) {
  for (const ErrorRow& row : kErrors)
    if (row.code == code) return &row;
  return nullptr;
}

constexpr const char* kUnrecognized = "unrecognized error code";

// A child of fork() has the memory of the devices and none of the threads that serve their streams.
std::atomic<bool>& is_forked_child() {
  static auto* forked = [] {
    auto* f = new std::atomic<bool>(false);
    pthread_atfork(nullptr, nullptr, [] { is_forked_child() = true; });
    return f;
  }();
  return *forked;
}

struct ThreadSlot {
  ThreadState* state = nullptr;
  ~ThreadSlot();
};
thread_local bool thread_ended = false;

ThreadSlot::~ThreadSlot() {
  thread_ended = true;
  if (state == nullptr) return;
  for (const auto& [device, stream] : state->streams) stream->close();
  delete state;
}

}  // namespace

ThreadState& thread_state() {
  // Destructors of static objects call the runtime after the thread's own state is gone.
  static auto* late = new ThreadState;
  if (thread_ended) return *late;
  thread_local ThreadSlot slot;
  if (slot.state == nullptr) slot.state = new ThreadState;
  return *slot.state;
}

const char* error_name(int code) {
  const ErrorRow* row = row_of(code);
  return row != nullptr ? row->name : kUnrecognized;
}

const char* error_text(int code) {
  const ErrorRow* row = row_of(code);
  return row != nullptr ? row->text : kUnrecognized;
}

void say(const std::string& line) {
  static const bool quiet = [] {
    const char* value = std::getenv("PTXSIM_QUIET");
    return value != nullptr && std::strcmp(value, "1") == 0;
  }();
  if (quiet) return;
  const std::string whole = "ptxsim: " + line + "\n";  // one write: lines of several ranks do not mix
  for (size_t at = 0; at < whole.size();) {
    const ssize_t n = ::write(STDERR_FILENO, whole.data() + at, whole.size() - at);
    if (n <= 0) return;
    at += static_cast<size_t>(n);
  }
}

cudaError_t before_call(Needs needs) {
  if (needs == Needs::kNothing) return cudaSuccess;
  if (is_forked_child()) {
    say("CUDA was used before fork(); the child cannot use it (cudaErrorInitializationError)");
    return cudaErrorInitializationError;
  }
  if (thread_state().in_host_function) {
    say("a host function of a stream called CUDA (cudaErrorNotPermitted)");
    return cudaErrorNotPermitted;
  }
  return current_device().failure();
}

cudaError_t remember(cudaError_t code) {
  ThreadState& thread = thread_state();
  thread.last = code;
  thread.last_epoch = current_device().epoch();
  return code;
}

cudaError_t after_throw(const char* name) {
  cudaError_t code = cudaErrorUnknown;
  std::string why;
  try {
    throw;
  } catch (const ApiError& error) {
    code = error.code;
    why = error.why;
  } catch (const Fault& fault) {
    code = static_cast<cudaError_t>(fault.code);
    why = fault.what();
  } catch (const std::bad_alloc&) {
    code = cudaErrorMemoryAllocation;
    why = "the host has no memory left";
  } catch (const std::exception& error) {
    why = error.what();
  }
  if (!why.empty()) say(fmt::format("{}: {} ({})", name, why, error_name(code)));
  return remember(code);
}

}  // namespace ptxsim::runtime
