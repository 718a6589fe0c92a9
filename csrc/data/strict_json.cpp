#include "data/strict_json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/error.h"

namespace contender {
namespace {

constexpr int kMaxDepth = 32;

// "[json.exception.parse_error.101] parse error at line 1, column 8: syntax error ...; last read: <the text>"
// -> "column 8: syntax error ..."
std::string short_reason(std::string reason) {
  const size_t column = reason.find("column ");
  const size_t bracket = reason.find("] ");
  if (column != reason.npos) {
    reason.erase(0, column);
  } else if (bracket != reason.npos) {
    reason.erase(0, bracket + 2);
  }
  return reason.substr(0, std::min(reason.find("; last read"), size_t{160}));
}

}  // namespace

nlohmann::json parse_strict_json(std::string_view text) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::set<std::string>> keys(kMaxDepth + 1);  // of the open object at each depth
  const auto check = [&](int depth, Event event, nlohmann::json& parsed) {
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= kMaxDepth) throw std::runtime_error(fmt::format("nested deeper than {}", kMaxDepth));
      keys[depth + 1].clear();
    }
    if (event == Event::key && !keys[depth].insert(parsed.get<std::string>()).second) {
      throw std::runtime_error(
          fmt::format("key \"{:.40}\" occurs twice", parsed.get_ref<const std::string&>()));
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text.begin(), text.end(), check);
  } catch (const nlohmann::json::exception& e) {
    throw std::runtime_error(short_reason(e.what()));
  }
}

}  // namespace contender
