#include "report/metrics.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "report/files.h"
#include "report/tensorboard.h"

namespace contender {
namespace {

std::string json_string(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string json_number(double v) {
  if (std::isnan(v)) return "\"NaN\"";
  if (std::isinf(v)) return v > 0 ? "\"Infinity\"" : "\"-Infinity\"";
  return fmt::format("{:.17g}", v);
}

template <class V>
void set_pair(std::vector<std::pair<std::string, V>>& list, const std::string& key, V value) {
  const auto at = std::find_if(list.begin(), list.end(), [&](const auto& p) { return p.first == key; });
  if (at == list.end()) {
    list.emplace_back(key, std::move(value));
  } else {
    at->second = std::move(value);
  }
}

}  // namespace

void MetricRecord::set(const std::string& key, double value) {
  set_pair(fields_, key, json_number(value));
  set_pair(numbers_, key, value);
}

void MetricRecord::set(const std::string& key, int64_t value) {
  set_pair(fields_, key, std::to_string(value));
  set_pair(numbers_, key, static_cast<double>(value));
}

void MetricRecord::set(const std::string& key, const std::string& value) {
  set_pair(fields_, key, json_string(value));
}

void MetricRecord::set_seconds(const std::string& phase, double seconds) {
  set_pair(seconds_, phase, seconds);
}

void MetricRecord::set_rate(const std::string& key, double value) {
  set_pair(rates_, key, value);
  set_pair(numbers_, key, value);
}

double MetricRecord::number(const std::string& key, double missing) const {
  for (const auto& [name, value] : numbers_) {
    if (name == key) return value;
  }
  return missing;
}

std::string MetricRecord::json() const {
  std::string out = "{";
  for (const auto& [key, value] : fields_) out += fmt::format("{}:{},", json_string(key), value);
  const auto object = [](const auto& list) {
    std::string text;
    for (const auto& [key, value] : list)
      text += fmt::format("{}{}:{}", text.empty() ? "" : ",", json_string(key), json_number(value));
    return text;
  };
  if (!seconds_.empty() || !rates_.empty()) {
    out += "\"seconds\":{" + object(seconds_);
    if (!rates_.empty())
      out += fmt::format("{}\"rates\":{{{}}}", seconds_.empty() ? "" : ",", object(rates_));
    out += "},";
  }
  if (out.size() > 1) out.pop_back();
  return out + "}";
}

struct MetricWriter::Impl {
  std::string path;
  int fd = -1;
  std::vector<int64_t> line_ends;  // file size after each line
  std::optional<EventWriter> events;

  int64_t bytes() const { return line_ends.empty() ? 0 : line_ends.back(); }
  ~Impl() {
    if (fd >= 0) ::close(fd);
  }
};

MetricWriter::MetricWriter(const std::string& dir, bool tensorboard) : impl_(std::make_unique<Impl>()) {
  make_dirs(dir);
  impl_->path = dir + "/metrics.jsonl";
  impl_->fd = open_append(impl_->path);
  std::ifstream in(impl_->path, std::ios::binary);
  const std::string old((std::istreambuf_iterator<char>(in)), {});
  for (size_t i = 0; i < old.size(); ++i) {
    if (old[i] == '\n') impl_->line_ends.push_back(static_cast<int64_t>(i) + 1);
  }
  cut_file(impl_->fd, impl_->path, impl_->bytes());  // a line torn by the end of the last run
  if (tensorboard) {
    impl_->events.emplace(dir);
    impl_->events->set_records(lines());
  }
}

MetricWriter::~MetricWriter() = default;

void MetricWriter::truncate(int64_t lines) {
  CHECK(lines >= 0, "lines {}", lines);
  if (lines > this->lines()) {
    log_warn("{}: has {} lines, the checkpoint was made after {}: the curve will have a gap", impl_->path,
             this->lines(), lines);
    return;
  }
  impl_->line_ends.resize(static_cast<size_t>(lines));
  cut_file(impl_->fd, impl_->path, impl_->bytes());
  if (impl_->events) impl_->events->set_records(lines);
}

void MetricWriter::write(const std::string& stage, int64_t step, const MetricRecord& record) {
  if (impl_->events) {
    std::vector<std::pair<std::string, double>> scalars;
    for (const auto& [key, value] : record.numbers())
      scalars.emplace_back(fmt::format("{}/{}", stage, key), value);
    for (const auto& [phase, value] : record.seconds())
      scalars.emplace_back(fmt::format("{}/seconds/{}", stage, phase), value);
    impl_->events->write(
        step, scalars);  // first: a record too many is cut at the next start, one too few would be a hole
  }
  const std::string body = record.json();
  const std::string line = fmt::format("{{\"stage\":{},\"step\":{}{}{}\n", json_string(stage), step,
                                       body == "{}" ? "" : ",", body.substr(1));
  write_all(impl_->fd, impl_->path, line);
  impl_->line_ends.push_back(impl_->bytes() + static_cast<int64_t>(line.size()));
}

int64_t MetricWriter::lines() const { return static_cast<int64_t>(impl_->line_ends.size()); }

}  // namespace contender
