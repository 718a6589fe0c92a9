#include "config.h"

#include <fmt/format.h>

#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace ptxsim {
namespace {

constexpr int kStatusBadSetting = 10;

[[noreturn]] void refuse(const char* name, const char* value, const char* wanted) {
  fmt::print(stderr, "ptxsim: {}={}: {}\n", name, value, wanted);
  std::fflush(stderr);
  std::_Exit(kStatusBadSetting);
}

// Null where unset or empty.
const char* setting(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : nullptr;
}

uint64_t read_number(const char* name, uint64_t otherwise, uint64_t low, uint64_t high) {
  const char* value = setting(name);
  if (value == nullptr) return otherwise;
  char* end = nullptr;
  errno = 0;
  const uint64_t number = std::strtoull(value, &end, 0);
  if (!std::isdigit(static_cast<unsigned char>(*value)) || *end != '\0' || errno != 0 || number < low ||
      number > high)
    refuse(name, value, fmt::format("a number of {} to {} is needed", low, high).c_str());
  return number;
}

bool read_flag(const char* name) {
  const char* value = setting(name);
  if (value == nullptr || std::strcmp(value, "0") == 0) return false;
  if (std::strcmp(value, "1") != 0) refuse(name, value, "0 or 1 is needed");
  return true;
}

// "512M", "80G", "1048576"; binary units.
uint64_t read_bytes(const char* name) {
  const char* value = setting(name);
  if (value == nullptr) return 0;
  char* end = nullptr;
  errno = 0;
  const uint64_t number = std::strtoull(value, &end, 10);
  const bool is_number = std::isdigit(static_cast<unsigned char>(*value)) && errno == 0;
  int shift = 0;
  if (*end != '\0') {
    const char* units = "KMGT";
    const char* unit = std::strchr(units, std::toupper(static_cast<unsigned char>(*end)));
    const bool ends = end[1] == '\0' || std::strcmp(end + 1, "B") == 0 || std::strcmp(end + 1, "iB") == 0;
    shift = unit != nullptr && ends ? static_cast<int>(unit - units + 1) * 10 : -1;
  }
  if (!is_number || shift < 0 || number == 0 || number > (uint64_t{1} << 46) >> shift)
    refuse(name, value, "a size like 512M or 80G is needed");
  return number << shift;
}

double read_seconds(const char* name, double otherwise) {
  const char* value = setting(name);
  if (value == nullptr) return otherwise;
  char* end = nullptr;
  const double seconds = std::strtod(value, &end);
  if (end == value || *end != '\0' || !(seconds > 0) || !std::isfinite(seconds))
    refuse(name, value, "a number of seconds above 0 is needed");
  return seconds;
}

Config read_config() {
  Config c;
  c.devices = static_cast<int>(read_number("PTXSIM_DEVICES", 1, 1, 64));
  if (const char* gpu = setting("PTXSIM_GPU")) c.gpu = gpu;
  if (c.gpu != "H200" && c.gpu != "H800" && c.gpu != "A100")
    refuse("PTXSIM_GPU", c.gpu.c_str(), "H200, H800 or A100 is needed");
  c.driver = static_cast<int>(read_number("PTXSIM_DRIVER", 13000, 0, 99999));
  c.device_memory = read_bytes("PTXSIM_MEMORY");
  c.threads = static_cast<int>(read_number("PTXSIM_THREADS", 0, 0, 4096));
  c.late = read_flag("PTXSIM_LATE");
  c.seed = read_number("PTXSIM_SEED", 1, 0, std::numeric_limits<uint64_t>::max());
  c.checked = read_flag("PTXSIM_CHECK");
  if (const char* value = setting("PTXSIM_ACCUMULATION")) {
    const bool plain = std::strcmp(value, "plain") == 0;
    if (!plain && std::strcmp(value, "hardware") != 0)
      refuse("PTXSIM_ACCUMULATION", value, "plain or hardware is needed");
    c.accumulation = plain ? Accumulation::kPlain : Accumulation::kHardware;
  }
  if (const char* value = setting("PTXSIM_PROFILE"); value != nullptr && std::strcmp(value, "0") != 0) {
    c.profile = true;
    if (std::strcmp(value, "1") != 0) c.profile_json = value;
  }
  c.time = read_flag("PTXSIM_TIME");
  c.hang_seconds = read_seconds("PTXSIM_HANG_SECONDS", c.hang_seconds);
  return c;
}

}  // namespace

const Config& config() {
  static const Config* c = new Config(read_config());
  return *c;
}

}  // namespace ptxsim
