#include "reward/worker.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "base/timer.h"
#include "data/strict_json.h"
#include "reward/math_worker.h"

namespace contender {
namespace {

constexpr size_t kMaxReplyBytes = 64 << 10;
constexpr size_t kMaxErrorLineBytes = 500;
constexpr size_t kMaxStatusBytes = 300;
constexpr int64_t kMaxErrorLines = 200;  // per worker and run
constexpr int64_t kMaxStopsLogged = 20;  // per worker and run

// Up to 64 KiB of what is there. False at the end of the stream.
bool read_some(int fd, std::string* text) {
  char buffer[64 << 10];
  const ssize_t got = ::read(fd, buffer, sizeof buffer);
  if (got > 0) text->append(buffer, static_cast<size_t>(got));
  return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

// One printable line for the log.
std::string printable(std::string_view text, size_t max_bytes) {
  std::string line(text.substr(0, max_bytes));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7F) c = c == '\t' ? ' ' : '?';
  }
  return line + (text.size() > max_bytes ? "..." : "");
}

float finite_number(const nlohmann::json& reply, const char* key) {
  const auto found = reply.find(key);
  if (found == reply.end()) throw std::runtime_error(fmt::format("no \"{}\"", key));
  if (!found->is_number()) throw std::runtime_error(fmt::format("\"{}\" is not a number", key));
  const float value = static_cast<float>(found->get<double>());
  if (!std::isfinite(value)) throw std::runtime_error(fmt::format("\"{}\" is not finite", key));
  return value;
}

std::optional<std::string> optional_text(const nlohmann::json& reply, const char* key, size_t max_bytes) {
  const auto found = reply.find(key);
  if (found == reply.end()) return {};
  if (!found->is_string()) throw std::runtime_error(fmt::format("\"{}\" is not a text", key));
  return printable(found->get<std::string>(), max_bytes);
}

bool flag_or_true(const nlohmann::json& reply, const char* key) {
  const auto found = reply.find(key);
  if (found == reply.end()) return true;
  if (!found->is_boolean()) throw std::runtime_error(fmt::format("\"{}\" is not true or false", key));
  return found->get<bool>();
}

// Our verifiers keep the time of an answer themselves; this is for one that hangs. Every test of a program is
// an object.
double longest_seconds(WorkerKind kind, const RewardConfig& config, const Prompt& prompt) {
  if (kind == WorkerKind::kCommand) return config.timeout_seconds;
  if (kind == WorkerKind::kMath) return math_wall_seconds(config.math_seconds);
  const auto tests = std::count(prompt.tests.begin(), prompt.tests.end(), '{');
  constexpr double kCompileSeconds = 40;
  return kCompileSeconds + (config.code_seconds + 2) * static_cast<double>(tests);
}

}  // namespace

RewardJob make_job(WorkerKind kind, const RewardConfig& config, const ScoreRequest& request, Score score) {
  const Prompt& prompt = *request.prompt;
  nlohmann::ordered_json json = {{"id", request.id},
                                 {"task", prompt.task},
                                 {"prompt", prompt.text},
                                 {"completion", request.completion},
                                 {"answer", prompt.answer}};
  if (!prompt.tests.empty()) json["tests"] = prompt.tests;
  return {std::move(score),
          json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n",
          longest_seconds(kind, config, prompt)};
}

RewardWorker::RewardWorker(WorkerKind kind, int index, const RewardConfig& config)
    : kind_(kind), index_(index), config_(config) {}

RewardWorker::~RewardWorker() {
  if (process_.pid < 0) return;
  read_errors();
  log_errors(true);
  stop_worker(&process_);
}

int RewardWorker::start() { return process_.pid >= 0 ? 0 : spawn_worker(kind_, config_, &process_); }

void RewardWorker::begin(RewardJob job) {
  CHECK(!busy() && process_.pid >= 0);
  unsent_ += job.line;  // behind the rest of a request that was answered before it was read
  deadline_ns_ = now_ns() + static_cast<int64_t>(job.seconds * 1e9);
  job_ = std::move(job);
}

void RewardWorker::add_polled(std::vector<pollfd>* polled) const {
  if (process_.pid < 0) return;
  polled->push_back({process_.out, POLLIN, 0});
  polled->push_back({process_.err, POLLIN, 0});  // -1, which poll() passes over, when the worker closed it
  if (!unsent_.empty()) polled->push_back({process_.in, POLLOUT, 0});
}

std::optional<Score> RewardWorker::advance(int64_t now_ns) {
  std::optional<Score> finished;
  if (process_.pid < 0) return finished;
  read_errors();
  std::optional<Failure> failure = read_reply(&finished);
  if (!failure) failure = write_request();
  if (!failure && busy() && now_ns >= deadline_ns_) {
    failure = Failure{"timeout", fmt::format("no reply in {} s", job_->seconds)};
  }
  if (!failure) return finished;
  const bool was_busy = busy();
  if (was_busy) finished = std::move(job_->score);
  job_.reset();
  const int signal = stop(fmt::format("{}: {}", failure->status, failure->why));
  if (!was_busy) return finished;
  const char* const exhausted = kind_ == WorkerKind::kMath ? how_maths_ended(signal) : nullptr;
  finished->valid = exhausted != nullptr;
  finished->status = exhausted ? exhausted : failure->status;
  return finished;
}

std::optional<RewardWorker::Failure> RewardWorker::write_request() {
  if (unsent_.empty()) return {};
  const ssize_t sent = ::write(process_.in, unsent_.data(), unsent_.size());
  if (sent >= 0) {
    unsent_.erase(0, static_cast<size_t>(sent));
  } else if (errno != EAGAIN && errno != EINTR) {
    return Failure{"died", fmt::format("it does not read its stdin ({})", std::strerror(errno))};
  }
  return {};
}

std::optional<RewardWorker::Failure> RewardWorker::read_reply(std::optional<Score>* finished) {
  const bool open = read_some(process_.out, &received_);
  const size_t end = received_.find('\n');
  if (end != received_.npos) {
    const std::string line = received_.substr(0, end);
    received_.erase(0, end + 1);
    if (auto failure = take_reply(line, finished)) return failure;
  }
  if (!busy() && !received_.empty()) {
    return Failure{"garbage", fmt::format("unasked for: {}", printable(received_, 100))};
  }
  if (received_.size() > kMaxReplyBytes)
    return Failure{"garbage", fmt::format("reply of more than {} bytes", kMaxReplyBytes)};
  if (!open) return Failure{"died", "it closed its stdout"};
  return {};
}

std::optional<RewardWorker::Failure> RewardWorker::take_reply(std::string_view line,
                                                              std::optional<Score>* finished) {
  if (!busy()) return Failure{"garbage", fmt::format("unasked for: {}", printable(line, 100))};
  try {
    const nlohmann::json reply = parse_strict_json(line);
    if (!reply.is_object()) throw std::runtime_error("not an object");
    const auto id = reply.find("id");
    if (id == reply.end() || !id->is_number_unsigned() || id->get<uint64_t>() != job_->score.id) {
      throw std::runtime_error(fmt::format("the id is not {}", job_->score.id));
    }
    Score& score = job_->score;
    const float value = finite_number(reply, "score");
    score.accuracy = reply.contains("accuracy") ? finite_number(reply, "accuracy") : value;
    if (auto status = optional_text(reply, "status", kMaxStatusBytes)) score.status = std::move(*status);
    score.valid = flag_or_true(reply, "valid");
    score.reward += static_cast<float>(config_.accuracy_weight * value);
    *finished = std::move(score);
    job_.reset();
    return {};
  } catch (const std::runtime_error& reason) {
    return Failure{"garbage", fmt::format("{}: {}", reason.what(), printable(line, 100))};
  }
}

void RewardWorker::read_errors() {
  if (process_.err < 0) return;
  if (!read_some(process_.err, &errors_)) {
    ::close(process_.err);
    process_.err = -1;
  }
  log_errors(false);
}

void RewardWorker::log_errors(bool all) {
  const auto log_line = [&](std::string_view line) {
    if (++lines_logged_ <= kMaxErrorLines) log_info("{}: {}", name(), printable(line, kMaxErrorLineBytes));
    if (lines_logged_ == kMaxErrorLines) log_warn("{}: the rest of its stderr is not shown", name());
  };
  size_t begin = 0;
  for (size_t end = errors_.find('\n'); end != errors_.npos; end = errors_.find('\n', begin)) {
    log_line(std::string_view(errors_).substr(begin, end - begin));
    begin = end + 1;
  }
  errors_.erase(0, begin);
  if (!errors_.empty() && (all || errors_.size() > kMaxErrorLineBytes)) {
    log_line(errors_);
    errors_.clear();
  }
}

std::string RewardWorker::name() const {
  constexpr const char* kNames[] = {"reward", "math", "code"};
  return fmt::format("{} worker {}", kNames[static_cast<int>(kind_)], index_);
}

int RewardWorker::stop(const std::string& why) {
  read_errors();  // its last words
  log_errors(true);
  const WorkerEnd end = stop_worker(&process_);
  unsent_.clear();
  received_.clear();
  if (++stops_ <= kMaxStopsLogged) log_warn("{} stopped ({}; {})", name(), why, end.text);
  if (stops_ == kMaxStopsLogged) log_warn("{}: its further stops are not shown", name());
  return end.signal;
}

}  // namespace contender
