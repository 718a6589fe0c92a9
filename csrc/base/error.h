// Errors end the job with one readable line and a documented exit code.
//
// Host code throws `Error`; `main` prints `rank N: <message>` once and ends every rank with `code`.
// CHECK is for conditions that a user can cause or a bug can break; it stays on in release builds.
#pragma once

#ifdef __CUDACC__
#define FMT_USE_CONSTEXPR 1  // fmt 9 takes nvcc for a compiler without it
#endif
#include <fmt/format.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace contender {

// Stable, documented in the README. Anything that is not one of these is a bug in contender (kInternal).
enum class ExitCode : int {
  kDone = 0,
  kInternal = 1,
  kStopped = 3,        // stopped on request, resumable
  kConfig = 10,        // configuration or input data
  kNoCheckpoint = 11,  // no usable checkpoint
  kLayout = 12,        // layout does not fit the checkpoint
  kHardware = 16,      // the machine reports lost memory
  kNonFinite = 17,     // non-finite values or failed validation
  kPeerLost = 18,      // peer lost or hang
  kOutOfMemory = 19,
  kStorage = 20,
  kSandbox = 21,
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

template <class... A>
[[noreturn]] void fail(ExitCode code, fmt::format_string<A...> format, A&&... args) {
  throw Error(code, fmt::format(format, std::forward<A>(args)...));
}

[[noreturn]] void fail_check(const char* file, int line, const char* expr, const std::string& values);

// Division that must be exact: `div_exact(heads, tp)`.
int64_t div_exact(int64_t a, int64_t b);

template <class To, class From>
To narrow(From v) {
  const To r = static_cast<To>(v);
  if (static_cast<From>(r) != v || ((r < To{}) != (v < From{})))
    fail(ExitCode::kInternal, "narrow: {} does not fit", v);
  return r;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace contender

// CHECK(rows == m, "rows {} m {}", rows, m): file:line, the expression and the values.
#define CHECK(cond, ...)                                                                 \
  do {                                                                                   \
    if (!(cond)) [[unlikely]]                                                            \
      ::contender::fail_check(__FILE__, __LINE__, #cond, ::fmt::format("" __VA_ARGS__)); \
  } while (0)
