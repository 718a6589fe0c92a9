// What every entry point shares: errors as exceptions inside, as cudaError_t and one line on stderr outside.
#pragma once

#include <driver_types.h>
#include <fmt/format.h>

#include <exception>
#include <string>
#include <utility>

namespace ptxsim::runtime {

// A call that is refused. The reason may be empty where the code says it all (not ready).
class ApiError : public std::exception {
 public:
  explicit ApiError(cudaError_t code, std::string why = {}) : code(code), why(std::move(why)) {}
  const char* what() const noexcept override { return why.c_str(); }
  cudaError_t code;
  std::string why;
};

template <class... Args>
[[noreturn]] void refuse(cudaError_t code, fmt::format_string<Args...> format, Args&&... args) {
  throw ApiError(code, fmt::format(format, std::forward<Args>(args)...));
}
// Refuses a call whose argument is null.
template <class T>
T* need(T* pointer, const char* name) {
  if (pointer == nullptr) refuse(cudaErrorInvalidValue, "{} is null", name);
  return pointer;
}

const char* error_name(int code);
const char* error_text(int code);

// One line on stderr, "ptxsim: ..."; PTXSIM_QUIET=1 silences it.
void say(const std::string& line);

// What an entry point asks of the process before it does anything.
enum class Needs {
  kNothing,  // works after a kernel fault, inside host functions: error strings, versions, the device number
  kContext,  // refuses where the current device has failed, inside host functions, and in a forked child
};

// The refusal that `needs` asks for right now; cudaSuccess where there is none.
cudaError_t before_call(Needs needs);
// Remembers the error of this thread, prints the line; returns the code. Called inside a catch block only.
cudaError_t after_throw(const char* name);
cudaError_t remember(cudaError_t code);

// Runs the body of an entry point. Nothing escapes it.
template <class F>
cudaError_t api(const char* name, F&& body, Needs needs = Needs::kContext) noexcept {
  if (const cudaError_t code = before_call(needs); code != cudaSuccess) return remember(code);
  try {
    body();
    return cudaSuccess;
  } catch (...) {
    return after_throw(name);
  }
}

// The same for calls that wait for work: its failure is their result.
template <class F>
cudaError_t api_waiting(const char* name, F&& body) noexcept {
  const cudaError_t code = api(name, std::forward<F>(body));
  if (code != cudaSuccess) return code;
  const cudaError_t failure = before_call(Needs::kContext);
  return failure == cudaSuccess ? failure : remember(failure);
}

}  // namespace ptxsim::runtime
