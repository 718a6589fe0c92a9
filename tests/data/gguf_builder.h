// GGUF files byte by byte, for tests: what is right, and what a stranger could write.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace contender::testing_gguf {

inline constexpr uint32_t kU32 = 4, kI32 = 5, kF32Value = 6, kBool = 7, kString = 8, kArray = 9, kU64 = 10;
inline constexpr uint32_t kTensorF32 = 0;

template <class T>
std::string raw(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}
inline std::string text(std::string_view s) { return raw<uint64_t>(s.size()) + std::string(s); }

struct GgufBuilder {
  uint32_t version = 3;
  std::vector<std::string> entries, tensors;
  std::string data;

  // An entry of any type with its value as it stands.
  GgufBuilder& add(std::string_view key, uint32_t type, const std::string& value) {
    entries.push_back(text(key) + raw(type) + value);
    return *this;
  }
  GgufBuilder& u32(std::string_view key, uint32_t value) { return add(key, kU32, raw(value)); }
  GgufBuilder& f32(std::string_view key, float value) { return add(key, kF32Value, raw(value)); }
  GgufBuilder& flag(std::string_view key, bool value) { return add(key, kBool, raw<uint8_t>(value)); }
  GgufBuilder& words(std::string_view key, std::string_view value) { return add(key, kString, text(value)); }
  GgufBuilder& texts(std::string_view key, const std::vector<std::string>& values) {
    std::string list = raw(kString) + raw<uint64_t>(values.size());
    for (const std::string& v : values) list += text(v);
    return add(key, kArray, list);
  }
  GgufBuilder& i32s(std::string_view key, const std::vector<int32_t>& values) {
    std::string list = raw(kI32) + raw<uint64_t>(values.size());
    for (const int32_t v : values) list += raw(v);
    return add(key, kArray, list);
  }
  // Dimensions the fastest first.
  GgufBuilder& describe(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                        uint64_t offset) {
    std::string t = text(name) + raw(static_cast<uint32_t>(dims.size()));
    for (const uint64_t d : dims) t += raw(d);
    tensors.push_back(t + raw(type) + raw(offset));
    return *this;
  }
  GgufBuilder& tensor(std::string_view name, const std::vector<uint64_t>& dims,
                      const std::vector<float>& values) {
    data.resize((data.size() + 31) / 32 * 32);
    describe(name, dims, kTensorF32, data.size());
    data.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    return *this;
  }

  std::string bytes() const {
    std::string out = "GGUF" + raw(version) + raw<uint64_t>(tensors.size()) + raw<uint64_t>(entries.size());
    for (const std::string& e : entries) out += e;
    for (const std::string& t : tensors) out += t;
    out.resize((out.size() + 31) / 32 * 32);
    return out + data;
  }
  void write(const std::string& path) const { std::ofstream(path, std::ios::binary) << bytes(); }
};

}  // namespace contender::testing_gguf
