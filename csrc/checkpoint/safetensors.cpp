#include "checkpoint/safetensors.h"

#include <fcntl.h>
#include <simdjson.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/half.h"

namespace contender {
namespace {

namespace ondemand = simdjson::ondemand;

static_assert(std::endian::native == std::endian::little);

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeaderBytes = 100'000'000;
// Tensors, and metadata: more than any model has in one file; keeps a hostile header below a second.
constexpr size_t kMaxEntries = 250'000;
constexpr size_t kMaxRank = 8;
constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kE4M3, DType::kI32, DType::kU8};

std::optional<DType> dtype_of(std::string_view name) {
  for (const DType t : kDTypes) {
    if (name == dtype_name(t)) return t;
  }
  return std::nullopt;
}

// shape x dtype, or nothing when it does not fit.
std::optional<int64_t> checked_bytes(const TensorInfo& info) {
  int64_t bytes = dtype_size(info.dtype);
  for (const int64_t d : info.shape) {
    if (__builtin_mul_overflow(bytes, d, &bytes)) return std::nullopt;
  }
  return bytes;
}

// The header, value by value; nothing is built but the tensors, and nothing is visited deeper than the format
// goes.
class HeaderReader {
 public:
  HeaderReader(std::map<std::string, TensorInfo>& tensors, std::map<std::string, std::string>& metadata)
      : tensors_(tensors), metadata_(metadata) {}

  // Throws Refused.
  void read(const char* head, int64_t bytes) {
    ondemand::parser parser(static_cast<size_t>(kMaxHeaderBytes));
    const simdjson::padded_string text(head, static_cast<size_t>(bytes));
    ondemand::document document = parser.iterate(text);  // checks UTF-8
    for (auto field : ondemand::object(document.get_object())) {
      at_ = std::string_view(field.unescaped_key());
      ondemand::value value = field.value();
      if (at_ != "__metadata__") {
        read_tensor(value.get_object());
      } else if (std::exchange(has_metadata_, true)) {
        refuse("a duplicate key");
      } else {
        read_metadata(value.get_object());
      }
    }
    at_.clear();
    if (document.current_location().error() == simdjson::SUCCESS)
      refuse("something follows the header's object");
  }
  struct Refused {
    std::string why;
  };
  [[noreturn]] void refuse(const std::string& why) const {
    throw Refused{at_.empty() ? why : fmt::format("\"{}\": {}", at_.substr(0, 100), why)};
  }

 private:
  void read_metadata(ondemand::object object) {
    for (auto field : object) {
      std::string key(std::string_view(field.unescaped_key()));
      if (!metadata_.emplace(std::move(key), std::string_view(field.value().get_string())).second)
        refuse("a duplicate metadata key");
      if (metadata_.size() > kMaxEntries) refuse("more than 250,000 entries");
    }
  }

  void read_tensor(ondemand::object object) {
    TensorInfo info;
    std::vector<int64_t> offsets;
    std::vector<std::string_view> seen;
    for (auto field : object) {
      const std::string_view key = field.unescaped_key();
      if (std::find(seen.begin(), seen.end(), key) != seen.end())
        refuse(fmt::format("a duplicate key \"{}\"", key));
      if (key == "dtype") {
        info.dtype = read_dtype(field.value());
      } else if (key == "shape") {
        info.shape = read_numbers(field.value());
      } else if (key == "data_offsets") {
        offsets = read_numbers(field.value());
      } else {
        refuse(fmt::format("unknown key \"{}\"", key.substr(0, 40)));
      }
      seen.push_back(key);
    }
    if (seen.size() != 3) refuse("dtype, shape or data_offsets missing");
    if (offsets.size() != 2 || offsets[0] > offsets[1]) refuse("data_offsets are not [begin, end]");
    info.begin = offsets[0];
    info.end = offsets[1];
    if (checked_bytes(info) != info.end - info.begin)
      refuse("shape x dtype differs from the length of its data");
    if (!tensors_.emplace(at_, std::move(info)).second) refuse("a duplicate key");
    if (tensors_.size() > kMaxEntries) refuse("more than 250,000 tensors");
  }

  DType read_dtype(ondemand::value value) const {
    const std::string_view name = value.get_string();
    const std::optional<DType> dtype = dtype_of(name);
    if (!dtype) refuse(fmt::format("unknown dtype \"{}\"", name.substr(0, 40)));
    return *dtype;
  }

  std::vector<int64_t> read_numbers(ondemand::value value) const {
    std::vector<int64_t> numbers;
    for (auto element : ondemand::array(value.get_array())) {
      const uint64_t number = element.get_uint64();
      if (number > static_cast<uint64_t>(INT64_MAX)) refuse("a number beyond 2^63");
      if (numbers.size() == kMaxRank) refuse("a list of more than 8 numbers");
      numbers.push_back(static_cast<int64_t>(number));
    }
    return numbers;
  }

  std::map<std::string, TensorInfo>& tensors_;
  std::map<std::string, std::string>& metadata_;
  bool has_metadata_ = false;
  std::string at_;  // tensor being read
};

// "" when the header could be read.
std::string header_problem(const char* head, int64_t bytes, std::map<std::string, TensorInfo>& tensors,
                           std::map<std::string, std::string>& metadata) {
  HeaderReader reader(tensors, metadata);
  try {
    try {
      reader.read(head, bytes);
      return "";
    } catch (const simdjson::simdjson_error& e) {
      reader.refuse(fmt::format("the header is not the JSON of this format ({})", e.what()));
    }
  } catch (const HeaderReader::Refused& refused) {
    return refused.why;
  }
}

// "" when the ranges tile [0, data_bytes).
std::string tiling_problem(const std::map<std::string, TensorInfo>& tensors, int64_t data_bytes) {
  std::vector<std::pair<const std::string*, const TensorInfo*>> order;
  for (const auto& [name, info] : tensors) order.emplace_back(&name, &info);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
  });
  int64_t end = 0;
  for (const auto& [name, info] : order) {
    if (info->begin != end)
      return fmt::format("\"{}\": data begins at byte {} instead of {}", name->substr(0, 100), info->begin,
                         end);
    end = info->end;
  }
  if (end != data_bytes) return fmt::format("the tensors end at byte {} of {}", end, data_bytes);
  return "";
}

// Source rows need no alignment.
void row_to_f32(DType dtype, const std::byte* src, int64_t cols, float* dst) {
  if (dtype == DType::kF32) {
    std::memcpy(dst, src, static_cast<size_t>(cols) * sizeof(float));
    return;
  }
  const auto half = [src](int64_t c) {
    uint16_t value;
    std::memcpy(&value, src + 2 * c, sizeof value);
    return value;
  };
  if (dtype == DType::kBF16) {
    for (int64_t c = 0; c < cols; ++c) dst[c] = std::bit_cast<float>(static_cast<uint32_t>(half(c)) << 16);
  } else {
    for (int64_t c = 0; c < cols; ++c) dst[c] = f16_to_f32(half(c));
  }
}

}  // namespace

int64_t TensorInfo::rows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

void SafetensorsWriter::add(const std::string& name, DType dtype, const std::vector<int64_t>& shape,
                            Source source) {
  Entry entry{name, {dtype, shape, data_bytes_, 0}, std::move(source)};
  const std::optional<int64_t> bytes = checked_bytes(entry.info);
  CHECK(bytes && *bytes >= 0, "tensor {}", name);
  data_bytes_ = entry.info.end = data_bytes_ + *bytes;
  entries_.push_back(std::move(entry));
}

std::string SafetensorsWriter::header() const {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!metadata_.empty()) json["__metadata__"] = metadata_;
  for (const Entry& e : entries_) {
    CHECK(!json.contains(e.name), "tensor {} twice", e.name);
    json[e.name] = {{"dtype", dtype_name(e.info.dtype)},
                    {"shape", e.info.shape},
                    {"data_offsets", {e.info.begin, e.info.end}}};
  }
  std::string text = json.dump();
  text.resize(static_cast<size_t>(round_up(static_cast<int64_t>(text.size()), 8)),
              ' ');  // the data begin aligned
  return text;
}

FileRecord SafetensorsWriter::write(Storage& storage, const std::string& path) const {
  const std::string head = header();
  const uint64_t length = head.size();
  std::optional<HashedFile> file;
  std::exception_ptr error;
  const auto attempt = [&](const auto& action) {
    if (error) return;
    try {
      action();
    } catch (...) {
      error = std::current_exception();
    }
  };
  attempt([&] {
    file.emplace(storage, path, kLengthBytes + static_cast<int64_t>(length) + data_bytes_);
    file->write(&length, kLengthBytes);
    file->write(head.data(), static_cast<int64_t>(length));
  });
  for (const Entry& e : entries_) {
    const Tensor t = e.source();
    CHECK(t.dtype == e.info.dtype && t.numel() * dtype_size(t.dtype) == e.info.end - e.info.begin,
          "tensor {}: {} x {} {}", e.name, t.rows, t.cols, dtype_name(t.dtype));
    const int64_t row_bytes = t.cols * dtype_size(t.dtype);
    attempt([&] {
      for (int64_t r = 0; r < t.rows; ++r)
        file->write(static_cast<const char*>(t.data) + r * t.ld * dtype_size(t.dtype), row_bytes);
    });
  }
  FileRecord record;
  attempt([&] { record = file->finish(); });
  if (error) std::rethrow_exception(error);
  return record;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(ExitCode::kStorage, "{}: cannot open: {}", path, std::strerror(errno));
  struct stat info {};
  const bool is_file = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  map_bytes_ = is_file ? info.st_size : 0;
  void* map = map_bytes_ >= kLengthBytes
                  ? ::mmap(nullptr, static_cast<size_t>(map_bytes_), PROT_READ, MAP_PRIVATE, fd, 0)
                  : nullptr;
  const int map_errno = errno;
  ::close(fd);
  if (!map) fail(ExitCode::kConfig, "{}: not a safetensors file: {} bytes", path, map_bytes_);
  if (map == MAP_FAILED) fail(ExitCode::kStorage, "{}: cannot map: {}", path, std::strerror(map_errno));
  map_ = static_cast<std::byte*>(map);
  // From here on a failure must unmap: the destructor of an object under construction does not run.
  struct Unmap {
    SafetensorsFile* file;
    ~Unmap() {
      if (file) ::munmap(file->map_, static_cast<size_t>(file->map_bytes_));
    }
  } unmap{this};

  uint64_t length = 0;
  std::memcpy(&length, map_, kLengthBytes);
  if (length > static_cast<uint64_t>(kMaxHeaderBytes))
    fail(ExitCode::kConfig, "{}: header of {} bytes, more than 100 MB", path, length);
  if (length > static_cast<uint64_t>(map_bytes_ - kLengthBytes))
    fail(ExitCode::kConfig, "{}: header of {} bytes in a file of {}", path, length, map_bytes_);
  const char* head = reinterpret_cast<const char*>(map_) + kLengthBytes;
  if (length == 0 || head[0] != '{') fail(ExitCode::kConfig, "{}: the header does not start with {{", path);
  data_begin_ = kLengthBytes + static_cast<int64_t>(length);
  std::string problem = header_problem(head, static_cast<int64_t>(length), tensors_, metadata_);
  if (problem.empty()) problem = tiling_problem(tensors_, map_bytes_ - data_begin_);
  if (!problem.empty()) fail(ExitCode::kConfig, "{}: {}", path, problem);
  unmap.file = nullptr;
}

SafetensorsFile::~SafetensorsFile() {
  if (map_) ::munmap(map_, static_cast<size_t>(map_bytes_));
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : path_(std::move(other.path_)),
      map_(std::exchange(other.map_, nullptr)),
      map_bytes_(other.map_bytes_),
      data_begin_(other.data_begin_),
      tensors_(std::move(other.tensors_)),
      metadata_(std::move(other.metadata_)) {}

const TensorInfo& SafetensorsFile::info(const std::string& name) const {
  const auto at = tensors_.find(name);
  if (at == tensors_.end()) fail(ExitCode::kConfig, "{}: no tensor \"{}\"", path_, name);
  return at->second;
}

void SafetensorsFile::read(const std::string& name, int64_t row_begin, int64_t rows, int64_t col_begin,
                           int64_t cols, float* dst, int64_t ld) const {
  const TensorInfo& t = info(name);
  CHECK(0 <= row_begin && 0 <= rows && row_begin <= t.rows() - rows, "rows [{}, +{}) of {} in {}", row_begin,
        rows, t.rows(), name);
  CHECK(0 <= col_begin && 0 <= cols && col_begin <= t.cols() - cols, "cols [{}, +{}) of {} in {}", col_begin,
        cols, t.cols(), name);
  if (t.dtype != DType::kF32 && t.dtype != DType::kBF16 && t.dtype != DType::kF16)
    fail(ExitCode::kConfig, "{}: \"{}\" is {}, not a plain floating-point tensor", path_, name,
         dtype_name(t.dtype));
  if (cols == 0) return;  // dst may be null
  const int64_t size = dtype_size(t.dtype);
  for (int64_t r = 0; r < rows; ++r)
    row_to_f32(t.dtype, data(t) + ((row_begin + r) * t.cols() + col_begin) * size, cols, dst + r * ld);
}

}  // namespace contender
