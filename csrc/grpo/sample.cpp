#include "grpo/sample.h"

#include <cstring>
#include <utility>

namespace contender {
namespace {

class Writer {
 public:
  template <class T>
  void value(const T& v) {
    out.append(reinterpret_cast<const char*>(&v), sizeof(T));
  }
  template <class T>
  void list(const std::vector<T>& v) {
    value(static_cast<uint64_t>(v.size()));
    out.append(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(T));
  }
  void text(const std::string& s) {
    value(static_cast<uint64_t>(s.size()));
    out += s;
  }
  std::string out;
};

class Reader {
 public:
  Reader(const std::string& bytes, size_t& at) : bytes_(bytes), at_(at) {}
  template <class T>
  T value() {
    T v;
    std::memcpy(&v, take(1, sizeof(T)), sizeof(T));
    return v;
  }
  template <class T>
  std::vector<T> list() {
    const uint64_t n = value<uint64_t>();
    const char* from = take(n, sizeof(T));
    std::vector<T> v(n);
    if (n > 0) std::memcpy(v.data(), from, n * sizeof(T));
    return v;
  }
  std::string text() {
    const uint64_t n = value<uint64_t>();
    return std::string(take(n, 1), n);
  }
  // A number of things that have at least `size` bytes each.
  uint64_t count(size_t size) {
    const uint64_t n = value<uint64_t>();
    require(n, size);
    return n;
  }

 private:
  void require(uint64_t n, size_t size) const {
    CHECK(n <= (bytes_.size() - at_) / size, "packed samples are cut short: {} x {} bytes wanted at {} of {}",
          n, size, at_, bytes_.size());
  }
  const char* take(uint64_t n, size_t size) {
    require(n, size);
    return bytes_.data() + std::exchange(at_, at_ + n * size);
  }
  const std::string& bytes_;
  size_t& at_;
};

}  // namespace

std::string pack_samples(uint64_t id, const std::vector<Sample>& samples) {
  Writer w;
  w.value(id);
  w.value(static_cast<uint64_t>(samples.size()));
  for (const Sample& s : samples) {
    const Completion& c = s.completion;
    w.value(c.id);
    w.value(c.sample);
    w.list(c.tokens);
    w.list(c.logp);
    w.list(c.logp_sampled);
    w.list(c.version);
    w.value(c.finished);
    w.value(c.cancelled);
    for (float f : {s.score.reward, s.score.accuracy, s.score.format, s.score.language, s.score.overlong})
      w.value(f);
    w.value(s.score.valid);
    w.text(s.score.status);
    w.text(s.text);
  }
  return std::move(w.out);
}

std::pair<uint64_t, std::vector<Sample>> unpack_samples(const std::string& bytes, size_t& at) {
  Reader r(bytes, at);
  const uint64_t id = r.value<uint64_t>();
  std::vector<Sample> samples(r.count(sizeof(uint64_t)));
  for (Sample& s : samples) {
    Completion& c = s.completion;
    c.id = r.value<uint64_t>();
    c.sample = r.value<int32_t>();
    c.tokens = r.list<int32_t>();
    c.logp = r.list<float>();
    c.logp_sampled = r.list<float>();
    c.version = r.list<int64_t>();
    c.finished = r.value<bool>();
    c.cancelled = r.value<bool>();
    for (float* f :
         {&s.score.reward, &s.score.accuracy, &s.score.format, &s.score.language, &s.score.overlong})
      *f = r.value<float>();
    s.score.valid = r.value<bool>();
    s.score.status = r.text();
    s.text = r.text();
  }
  return {id, std::move(samples)};
}

}  // namespace contender
