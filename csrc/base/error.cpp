#include "base/error.h"

namespace contender {

void fail_check(const char* file, int line, const char* expr, const std::string& values) {
  throw Error(ExitCode::kInternal, fmt::format("{}:{}: CHECK({}) failed{}{}", file, line, expr,
                                               values.empty() ? "" : ": ", values));
}

int64_t div_exact(int64_t a, int64_t b) {
  if (b == 0 || a % b != 0) fail(ExitCode::kInternal, "{} is not a multiple of {}", a, b);
  return a / b;
}

}  // namespace contender
