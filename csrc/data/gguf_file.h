// GGUF files, versions 2 and 3: metadata and tensors (ggml's docs/gguf.md).
//
//   "GGUF" | u32 version | u64 tensors | u64 entries
//   an entry:  key | u32 type | value; an array: u32 type | u64 count | values; a string: u64 bytes | bytes
//   a tensor:  name | u32 rank | u64 dimensions, the fastest first | u32 type | u64 offset
//   padding to general.alignment | data
//
// Files come from strangers. The reader accepts exactly that, little-endian, with at most 2^16 entries,
// 250,000 tensors and 256 MiB before the data; keys and names of printable ASCII, none twice; values that it
// knows the type of; tensors of types below, of whole blocks, that follow one another in the order of the
// list with nothing but padding between them and behind the last. Anything else is Error(kConfig), one line
// with the file. Memory: some tens of bytes for each entry and tensor; texts and arrays stay in the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace contender {

// Numbers of the file.
enum class GgufType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ6_K = 14,
  kBF16 = 30,
};
struct GgufTypeInfo {
  const char* name;
  int64_t block_values, block_bytes;  // values are stored in blocks, along the rows
};
const GgufTypeInfo& gguf_type_info(GgufType type);

struct GgufTensor {
  GgufType type = GgufType::kF32;
  std::vector<int64_t> shape;  // the slowest dimension first, as elsewhere
  const std::byte* data = nullptr;
  int64_t bytes = 0;
};

class GgufFile {
 public:
  explicit GgufFile(const std::string& path);  // mapped
  // In memory, which must stay; `path` is for messages.
  GgufFile(const std::string& path, std::span<const std::byte> bytes);
  GgufFile(const GgufFile&) = delete;
  GgufFile& operator=(const GgufFile&) = delete;

  static bool named(const std::string& path) { return path.ends_with(".gguf"); }

  const std::string& path() const { return path_; }
  const std::map<std::string, GgufTensor>& tensors() const { return tensors_; }
  std::vector<std::string> keys(const std::string& prefix) const;

  // Values by key. Error(kConfig) naming file and key when it is missing or of another type.
  bool has(const std::string& key) const { return entries_.contains(key); }
  int64_t integer(const std::string& key) const;  // of any width
  double number(const std::string& key) const;    // f32 as the decimal number that it was written from
  bool flag(const std::string& key) const;
  std::string_view text(const std::string& key) const;  // UTF-8
  std::string shown(const std::string& key) const;      // the beginning of a text, for messages of one line
  std::vector<std::string_view> texts(const std::string& key) const;
  std::vector<int64_t> integers(const std::string& key) const;
  template <class T>
  T value_or(T (GgufFile::*read)(const std::string&) const, const std::string& key, T otherwise) const {
    return has(key) ? (this->*read)(key) : otherwise;
  }

 private:
  class Cursor;
  struct Entry {
    uint32_t type = 0;  // of the value, or of an array's values
    bool array = false;
    uint64_t count = 1;
    const std::byte* at = nullptr;
  };
  void parse();
  void read_entry(Cursor& c);
  std::pair<std::string, uint64_t> read_tensor(Cursor& c);  // its name, and where it says that its data begin
  const Entry& entry(const std::string& key, bool array) const;
  std::vector<std::string_view> texts_of(const std::string& key, const Entry& e) const;
  int64_t integer_at(const std::string& key, const Entry& e, const std::byte* at) const;

  std::string path_;
  std::shared_ptr<void> mapping_;  // unmapped with it
  std::span<const std::byte> bytes_;
  std::map<std::string, Entry> entries_;
  std::map<std::string, GgufTensor> tensors_;
};

}  // namespace contender
