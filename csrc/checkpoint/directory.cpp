#include "checkpoint/directory.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <random>
#include <string_view>

#include "base/error.h"
#include "checkpoint/storage.h"

namespace contender {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step_";
constexpr size_t kTagDigits = 12;

std::optional<int64_t> parse_number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

std::optional<CheckpointDir> parse_name(const std::string& name) {
  std::string_view rest = name;
  if (!rest.starts_with(kPrefix)) return std::nullopt;
  rest.remove_prefix(kPrefix.size());
  const size_t dash = rest.find('-');
  const std::optional<int64_t> step = parse_number(rest.substr(0, dash));
  const std::optional<int64_t> generation =
      dash == std::string_view::npos ? 1 : parse_number(rest.substr(dash + 1));
  if (!step || !generation) return std::nullopt;
  return CheckpointDir{name, *step, *generation};
}

std::vector<std::string> names_in(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(dir, error), end; !error && at != end; at.increment(error)) {
    names.push_back(at->path().filename().string());
  }
  if (error && fs::exists(dir))
    fail(ExitCode::kStorage, "{}: cannot list the directory: {}", dir, error.message());
  return names;
}

std::string run_tag(const std::string& run_id) {
  return xxh3_128_hex(run_id.data(), static_cast<int64_t>(run_id.size())).substr(0, kTagDigits);
}

}  // namespace

std::vector<CheckpointDir> list_checkpoint_dirs(const std::string& dir) {
  std::vector<CheckpointDir> found;
  for (const std::string& name : names_in(dir)) {
    const std::optional<CheckpointDir> parsed = parse_name(name);
    if (parsed && fs::is_directory(dir + "/" + name)) found.push_back(*parsed);
  }
  std::sort(found.begin(), found.end(), [](const CheckpointDir& a, const CheckpointDir& b) {
    return std::pair(a.step, a.generation) > std::pair(b.step, b.generation);
  });
  return found;
}

std::string free_checkpoint_name(const std::string& dir, int64_t step) {
  int64_t last = 0;
  for (const CheckpointDir& d : list_checkpoint_dirs(dir)) {
    if (d.step == step) last = std::max(last, d.generation);
  }
  return last == 0 ? fmt::format("{}{}", kPrefix, step) : fmt::format("{}{}-{}", kPrefix, step, last + 1);
}

std::string temporary_name(const std::string& step_name, const std::string& run_id) {
  std::random_device random;
  return fmt::format("{}.tmp-{}-{:08x}{:08x}", step_name, run_tag(run_id), random(), random());
}

std::vector<std::string> list_leftovers(const std::string& dir, const std::string& run_id) {
  const std::string mark = ".tmp-" + run_tag(run_id) + "-";
  std::vector<std::string> found;
  for (const std::string& name : names_in(dir)) {
    if (name.starts_with(kPrefix) && name.find(mark) != std::string::npos) found.push_back(name);
  }
  return found;
}

}  // namespace contender
