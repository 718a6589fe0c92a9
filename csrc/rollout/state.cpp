// Sequences in flight as bytes: a list of records [u64 length | payload], one per group or unread completion,
// so that states can be concatenated and filtered by id. Little-endian, floats by their bits.
#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <utility>

#include "rollout/scheduler.h"

namespace contender {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kRecordFormat = 0x31304352;  // "RC01"
enum class RecordKind : uint32_t { kGroup = 1, kCompletion = 2 };

class Writer {
 public:
  template <class T>
  void put(const T& value) {
    static_assert(std::is_arithmetic_v<T> || std::is_enum_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  template <class T>
  void put(const std::vector<T>& values) {
    put(static_cast<uint64_t>(values.size()));
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }
  void finish_record(std::string& out) {
    const uint64_t length = bytes_.size();
    out.append(reinterpret_cast<const char*>(&length), sizeof(length));
    out += bytes_;
    bytes_.clear();
  }

 private:
  std::string bytes_;
};

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}
  bool at_end() const { return bytes_.empty(); }
  template <class T>
  void get(T& value) {
    std::memcpy(&value, take(1, sizeof(T)).data(), sizeof(T));
  }
  template <class T>
  void get(std::vector<T>& values) {
    uint64_t count = 0;
    get(count);
    const std::string_view data = take(count, sizeof(T));
    values.resize(count);
    if (count > 0) std::memcpy(values.data(), data.data(), data.size());
  }
  std::string_view take(uint64_t count, uint64_t size) {
    if (count > bytes_.size() / size) {
      fail(ExitCode::kNoCheckpoint, "rollout state is cut short: {} x {} bytes wanted, {} left", count, size,
           bytes_.size());
    }
    const std::string_view head = bytes_.substr(0, count * size);
    bytes_.remove_prefix(count * size);
    return head;
  }

 private:
  std::string_view bytes_;
};

// One list of fields for both directions: visit(put or get, value) for each.
template <class Visit, class Request>
void visit_request(Visit&& visit, Request& r) {
  visit(r.id), visit(r.prompt_index), visit(r.step), visit(r.prompt);
  visit(r.params.temperature), visit(r.params.top_k), visit(r.params.top_p), visit(r.params.min_p);
  visit(r.max_new_tokens), visit(r.stop_tokens);
}

template <class Visit, class C>
void visit_completion(Visit&& visit, C& c) {
  visit(c.id), visit(c.sample), visit(c.tokens), visit(c.logp), visit(c.logp_sampled), visit(c.version);
  visit(c.finished), visit(c.cancelled);
}

}  // namespace

std::string Scheduler::save() const {
  std::string state;
  Writer out;
  const auto put = [&](const auto& value) { out.put(value); };
  for (const auto& group : groups_) {
    out.put(kRecordFormat);
    out.put(RecordKind::kGroup);
    visit_request(put, group->request);
    out.put(group->live);
    for (const RolloutSequence& s : group->sequences) {
      if (!s.done) visit_completion(put, s.completion);
    }
    out.finish_record(state);
  }
  for (const Completion& completion : completions_) {
    out.put(kRecordFormat);
    out.put(RecordKind::kCompletion);
    visit_completion(put, completion);
    out.finish_record(state);
  }
  return state;
}

void Scheduler::load(const std::string& state, const std::function<bool(uint64_t)>& mine) {
  Reader in(state);
  while (!in.at_end()) {
    uint64_t length = 0;
    in.get(length);
    Reader record(in.take(length, 1));
    const auto get = [&](auto& value) { record.get(value); };
    uint32_t format = 0;
    RecordKind kind{};
    get(format);
    get(kind);
    if (format != kRecordFormat)
      fail(ExitCode::kNoCheckpoint, "rollout state has format {:#x}, not {:#x}", format, kRecordFormat);
    if (kind == RecordKind::kCompletion) {
      Completion completion;
      visit_completion(get, completion);
      if (!mine || mine(completion.id)) completions_.push_back(std::move(completion));
      continue;
    }
    RolloutRequest request;
    visit_request(get, request);
    get(request.num_samples);
    std::vector<Completion> samples(static_cast<size_t>(std::max(request.num_samples, 0)));
    for (Completion& sample : samples) visit_completion(get, sample);
    if (!mine || mine(request.id)) add_group(std::move(request), std::move(samples));
  }
}

}  // namespace contender
