#include "data/gguf_file.h"

#include <fcntl.h>
#include <simdjson.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace contender {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint64_t kMaxEntries = 1 << 16, kMaxTensors = 250'000, kMaxHeadBytes = 256 << 20;
constexpr uint64_t kMaxKeyBytes = 1 << 16, kMaxNameBytes = 63, kMaxRank = 4, kMaxAlignment = 1 << 16;
constexpr uint32_t kTypeBool = 7, kTypeString = 8, kTypeArray = 9, kValueTypes = 13;
constexpr uint32_t kTypeF32 = 6, kTypeF64 = 12;

// Of a string: its length alone.
constexpr uint64_t kValueBytes[kValueTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
constexpr const char* kValueNames[kValueTypes] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                  "bool", "string", "array", "u64", "i64", "f64"};

struct TensorType {
  uint32_t number;
  GgufTypeInfo info;
};
constexpr TensorType kTensorTypes[] = {
    {0, {"F32", 1, 4}},    {1, {"F16", 1, 2}},       {2, {"Q4_0", 32, 18}},    {3, {"Q4_1", 32, 20}},
    {8, {"Q8_0", 32, 34}}, {12, {"Q4_K", 256, 144}}, {14, {"Q6_K", 256, 210}}, {30, {"BF16", 1, 2}}};

// Names of types that are known and not read, for messages.
std::string name_of_other_type(uint32_t number) {
  static const std::map<uint32_t, const char*> names = {
      {6, "Q5_0"},   {7, "Q5_1"},     {9, "Q8_1"},    {10, "Q2_K"},    {11, "Q3_K"},  {13, "Q5_K"},
      {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"},
      {21, "IQ3_S"}, {22, "IQ2_S"},   {23, "IQ4_XS"}, {24, "I8"},      {25, "I16"},   {26, "I32"},
      {27, "I64"},   {28, "F64"},     {29, "IQ1_M"},  {34, "TQ1_0"},   {35, "TQ2_0"}, {39, "MXFP4"}};
  const auto found = names.find(number);
  return found == names.end() ? fmt::format("type {}", number) : found->second;
}

bool printable_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7F; });
}

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

uint64_t padded(uint64_t bytes, uint64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

const GgufTypeInfo& gguf_type_info(GgufType type) {
  for (const TensorType& t : kTensorTypes)
    if (t.number == static_cast<uint32_t>(type)) return t.info;
  fail(ExitCode::kInternal, "tensor type {} of GGUF", static_cast<uint32_t>(type));
}

// What has not been read yet. Everything is compared with what is left before it is used.
class GgufFile::Cursor {
 public:
  Cursor(const std::string& path, std::span<const std::byte> bytes)
      : path_(path), begin_(bytes.data()), at_(bytes.data()), end_(bytes.data() + bytes.size()) {}

  template <class... A>
  [[noreturn]] void refuse(fmt::format_string<A...> format, A&&... args) const {
    fail(ExitCode::kConfig, "{}: {}", path_, fmt::format(format, std::forward<A>(args)...));
  }
  uint64_t left() const { return static_cast<uint64_t>(end_ - at_); }
  uint64_t place() const { return static_cast<uint64_t>(at_ - begin_); }
  const std::byte* here() const { return at_; }

  void skip(uint64_t bytes, const std::string& what) {
    if (bytes > left()) refuse("{}: {} bytes at byte {}, where {} are left", what, bytes, place(), left());
    at_ += bytes;
  }
  template <class T>
  T take(const std::string& what) {
    skip(sizeof(T), what);
    return load<T>(at_ - sizeof(T));
  }
  std::string_view take_text(const std::string& what) {
    const uint64_t bytes = take<uint64_t>(what);
    skip(bytes, what);
    return {reinterpret_cast<const char*>(at_ - bytes), bytes};
  }
  std::string take_name(const std::string& what, uint64_t most) {
    const std::string_view name = take_text(what);
    if (name.empty() || name.size() > most || !printable_ascii(name))
      refuse("{}: not 1 to {} letters, digits and signs", what, most);
    return std::string(name);
  }

 private:
  const std::string& path_;
  const std::byte *begin_, *at_, *end_;
};

GgufFile::GgufFile(const std::string& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(ExitCode::kConfig, "{}: cannot open: {}", path, std::strerror(errno));
  struct stat info {};
  const bool is_file = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  const size_t bytes = is_file ? static_cast<size_t>(info.st_size) : 0;
  void* map = bytes > 0 ? ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0) : nullptr;
  const int map_errno = errno;
  ::close(fd);
  if (!map) fail(ExitCode::kConfig, "{}: not a GGUF file: {}", path, is_file ? "it is empty" : "no file");
  if (map == MAP_FAILED) fail(ExitCode::kStorage, "{}: cannot map: {}", path, std::strerror(map_errno));
  bytes_ = {static_cast<const std::byte*>(map), bytes};
  mapping_.reset(map, [bytes](void* p) { ::munmap(p, bytes); });
  parse();
}

GgufFile::GgufFile(const std::string& path, std::span<const std::byte> bytes) : path_(path), bytes_(bytes) {
  parse();
}

void GgufFile::parse() {
  Cursor c(path_, bytes_.first(std::min<size_t>(bytes_.size(), kMaxHeadBytes)));
  if (bytes_.size() < 4 || std::memcmp(bytes_.data(), "GGUF", 4) != 0) c.refuse("not a GGUF file");
  c.skip(4, "magic");
  const uint32_t version = c.take<uint32_t>("version");
  if (version != 2 && version != 3)
    c.refuse("version {} of GGUF is not supported: 2 and 3 are, little-endian", version);
  const uint64_t tensors = c.take<uint64_t>("number of tensors");
  const uint64_t entries = c.take<uint64_t>("number of entries");
  if (tensors > kMaxTensors || entries > kMaxEntries)
    c.refuse("{} tensors and {} entries, more than {} and {}", tensors, entries, kMaxTensors, kMaxEntries);
  for (uint64_t i = 0; i < entries; ++i) read_entry(c);
  const int64_t alignment = value_or(&GgufFile::integer, "general.alignment", int64_t{32});
  if (alignment < 1 || !std::has_single_bit(static_cast<uint64_t>(alignment)) ||
      alignment > static_cast<int64_t>(kMaxAlignment))
    c.refuse("general.alignment: {} is no power of two up to {}", alignment, kMaxAlignment);

  uint64_t end = 0;  // of the last tensor, within the data
  std::vector<GgufTensor*> order;
  std::vector<uint64_t> offsets;
  for (uint64_t i = 0; i < tensors; ++i) {
    const auto [name, offset] = read_tensor(c);
    GgufTensor& t = tensors_.at(name);
    if (offset != padded(end, alignment))
      c.refuse("tensor {}: its data begin at byte {} instead of {}", name, offset, padded(end, alignment));
    if (__builtin_add_overflow(offset, static_cast<uint64_t>(t.bytes), &end) || end > bytes_.size())
      c.refuse("tensor {}: {} bytes at byte {} of the data, in a file of {}", name, t.bytes, offset,
               bytes_.size());
    order.push_back(&t);
    offsets.push_back(offset);
  }
  const uint64_t begin = padded(c.place(), alignment);
  const uint64_t least = tensors > 0 ? begin + end : c.place(), most = begin + padded(end, alignment);
  if (bytes_.size() < least || bytes_.size() > most)
    c.refuse("{} bytes, but the last tensor ends at byte {}", bytes_.size(), least);
  for (size_t i = 0; i < order.size(); ++i) order[i]->data = bytes_.data() + begin + offsets[i];
}

void GgufFile::read_entry(Cursor& c) {
  const std::string key = c.take_name(fmt::format("key {}", entries_.size()), kMaxKeyBytes);
  const std::string shown = key.substr(0, 100);
  Entry e;
  e.type = c.take<uint32_t>(shown);
  if (e.type == kTypeArray) {
    e.array = true;
    e.type = c.take<uint32_t>(shown);
    e.count = c.take<uint64_t>(shown);
  }
  if (e.type >= kValueTypes || e.type == kTypeArray)
    c.refuse("{}: a value of unknown type {}", shown, e.type);
  const uint64_t least = kValueBytes[e.type];  // of one
  if (e.count > c.left() / least)
    c.refuse("{}: {} values, where {} bytes are left", shown, e.count, c.left());
  e.at = c.here();
  if (e.type == kTypeString) {
    for (uint64_t i = 0; i < e.count; ++i) c.take_text(shown);
  } else {
    c.skip(e.count * least, shown);
  }
  if (!entries_.emplace(key, e).second) c.refuse("{}: the key is there twice", shown);
}

std::pair<std::string, uint64_t> GgufFile::read_tensor(Cursor& c) {
  const std::string name = c.take_name(fmt::format("tensor {}", tensors_.size()), kMaxNameBytes);
  GgufTensor t;
  const uint32_t rank = c.take<uint32_t>(name);
  if (rank < 1 || rank > kMaxRank) c.refuse("tensor {}: {} dimensions, not 1 to {}", name, rank, kMaxRank);
  for (uint32_t i = 0; i < rank; ++i) {
    const uint64_t d = c.take<uint64_t>(name);
    if (d < 1 || d > uint64_t{1} << 40) c.refuse("tensor {}: a dimension of {}", name, d);
    t.shape.insert(t.shape.begin(), static_cast<int64_t>(d));
  }
  const uint32_t number = c.take<uint32_t>(name);
  const auto* known = std::find_if(std::begin(kTensorTypes), std::end(kTensorTypes),
                                   [&](const TensorType& x) { return x.number == number; });
  if (known == std::end(kTensorTypes))
    c.refuse("tensor {}: {} is not supported: F32, F16, BF16, Q4_0, Q4_1, Q8_0, Q4_K and Q6_K are", name,
             name_of_other_type(number));
  t.type = static_cast<GgufType>(number);
  if (t.shape.back() % known->info.block_values != 0)
    c.refuse("tensor {}: rows of {} values are not whole blocks of {}", name, t.shape.back(),
             known->info.name);
  t.bytes = t.shape.back() / known->info.block_values * known->info.block_bytes;
  for (size_t i = 0; i + 1 < t.shape.size(); ++i)
    if (__builtin_mul_overflow(t.bytes, t.shape[i], &t.bytes)) c.refuse("tensor {}: too large", name);
  const uint64_t offset = c.take<uint64_t>(name);
  if (!tensors_.emplace(name, std::move(t)).second) c.refuse("tensor {} is there twice", name);
  return {name, offset};
}

std::vector<std::string> GgufFile::keys(const std::string& prefix) const {
  std::vector<std::string> found;
  for (auto e = entries_.lower_bound(prefix); e != entries_.end() && e->first.starts_with(prefix); ++e)
    found.push_back(e->first);
  return found;
}

const GgufFile::Entry& GgufFile::entry(const std::string& key, bool array) const {
  const auto found = entries_.find(key);
  if (found == entries_.end()) fail(ExitCode::kConfig, "{}: {}: missing", path_, key);
  if (found->second.array != array)
    fail(ExitCode::kConfig, "{}: {}: {}", path_, key, array ? "not an array" : "an array, not one value");
  return found->second;
}

int64_t GgufFile::integer_at(const std::string& key, const Entry& e, const std::byte* at) const {
  switch (e.type) {
    case 0:
      return load<uint8_t>(at);
    case 1:
      return load<int8_t>(at);
    case 2:
      return load<uint16_t>(at);
    case 3:
      return load<int16_t>(at);
    case 4:
      return load<uint32_t>(at);
    case 5:
      return load<int32_t>(at);
    case 10:
    case 11:
      if (load<uint64_t>(at) <= static_cast<uint64_t>(INT64_MAX) || e.type == 11) return load<int64_t>(at);
      fail(ExitCode::kConfig, "{}: {}: {} is beyond 2^63", path_, key, load<uint64_t>(at));
    default:
      fail(ExitCode::kConfig, "{}: {}: a {}, not an integer", path_, key, kValueNames[e.type]);
  }
}

int64_t GgufFile::integer(const std::string& key) const {
  const Entry& e = entry(key, false);
  return integer_at(key, e, e.at);
}

double GgufFile::number(const std::string& key) const {
  const Entry& e = entry(key, false);
  if (e.type != kTypeF32 && e.type != kTypeF64) return static_cast<double>(integer_at(key, e, e.at));
  // The shortest decimal number that is this float: 1e-05 of a config.json, not 9.99999974e-06.
  const double value = e.type == kTypeF64
                           ? load<double>(e.at)
                           : std::strtod(fmt::format("{}", load<float>(e.at)).c_str(), nullptr);
  if (!std::isfinite(value)) fail(ExitCode::kConfig, "{}: {}: {} is not finite", path_, key, value);
  return value;
}

bool GgufFile::flag(const std::string& key) const {
  const Entry& e = entry(key, false);
  if (e.type != kTypeBool || load<uint8_t>(e.at) > 1)
    fail(ExitCode::kConfig, "{}: {}: not true or false", path_, key);
  return load<uint8_t>(e.at) == 1;
}

std::string_view GgufFile::text(const std::string& key) const { return texts_of(key, entry(key, false))[0]; }

std::string GgufFile::shown(const std::string& key) const {
  std::string shown(text(key).substr(0, 40));
  std::replace_if(
      shown.begin(), shown.end(), [](char c) { return c < 0x20 || c == 0x7F; }, '?');
  return shown;
}

std::vector<std::string_view> GgufFile::texts(const std::string& key) const {
  return texts_of(key, entry(key, true));
}

std::vector<std::string_view> GgufFile::texts_of(const std::string& key, const Entry& e) const {
  if (e.type != kTypeString) fail(ExitCode::kConfig, "{}: {}: {}, not text", path_, key, kValueNames[e.type]);
  std::vector<std::string_view> list;
  list.reserve(e.count);
  const std::byte* at = e.at;
  for (uint64_t i = 0; i < e.count; ++i) {
    const uint64_t bytes = load<uint64_t>(at);
    list.emplace_back(reinterpret_cast<const char*>(at + sizeof bytes), bytes);
    at += sizeof bytes + bytes;
    if (!simdjson::validate_utf8(list.back().data(), list.back().size()))
      fail(ExitCode::kConfig, "{}: {}: text {} is not UTF-8", path_, key, i);
  }
  return list;
}

std::vector<int64_t> GgufFile::integers(const std::string& key) const {
  const Entry& e = entry(key, true);
  std::vector<int64_t> list;
  list.reserve(e.count);
  for (uint64_t i = 0; i < e.count; ++i) list.push_back(integer_at(key, e, e.at + i * kValueBytes[e.type]));
  return list;
}

}  // namespace contender
