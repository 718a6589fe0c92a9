#include "data/prompt_text.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "base/error.h"

namespace contender {
namespace {

constexpr int64_t kChunkBytes = 64 << 10;
constexpr int64_t kBlockBytes = 64 << 10;
constexpr int kMaxWindowLog = 27;
// A bomb is more than this many times as large as what it came from, beyond a first part that costs nothing.
constexpr int64_t kMaxExpansion = 1000, kFreeBytes = 64 << 20;

class FileHandle {
 public:
  explicit FileHandle(int fd) : fd_(fd) {}
  FileHandle(FileHandle&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileHandle& operator=(FileHandle&&) = delete;
  ~FileHandle() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

// Up to `bytes` from `offset` on; fewer at the end of the file. Negative: errno.
int64_t read_up_to(const FileHandle& file, char* to, int64_t bytes, int64_t offset) {
  int64_t got = 0;
  while (got < bytes) {
    const ssize_t n = ::pread(file.get(), to + got, static_cast<size_t>(bytes - got), offset + got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) break;
    got += n;
  }
  return got;
}

class PlainText final : public PromptText {
 public:
  PlainText(std::string path, FileHandle file) : path_(std::move(path)), file_(std::move(file)) {}

  bool append_next(std::string* buffer) override {
    const std::string piece = read(passed_, kChunkBytes);
    passed_ += std::ssize(piece);
    buffer->append(piece);
    return !piece.empty();
  }

  std::string read(int64_t offset, int64_t bytes) const override {
    std::string text(static_cast<size_t>(bytes), '\0');
    const int64_t got = read_up_to(file_, text.data(), bytes, offset);
    if (got < 0) fail(ExitCode::kConfig, "{}: {}", path_, std::strerror(errno));
    text.resize(static_cast<size_t>(got));
    return text;
  }

 private:
  const std::string path_;
  const FileHandle file_;
  int64_t passed_ = 0;
};

// Blocks of text, compressed one by one, in a file that is gone with the process.
class BlockStore {
 public:
  explicit BlockStore(std::string owner)
      : owner_(std::move(owner)), folder_(std::filesystem::temp_directory_path()), file_(unnamed_file()) {}

  void append(std::string_view block) {
    packed_.resize(ZSTD_compressBound(block.size()));
    const size_t size =
        ZSTD_compressCCtx(packer_.get(), packed_.data(), packed_.size(), block.data(), block.size(), 1);
    CHECK(!ZSTD_isError(size), "{}", ZSTD_getErrorName(size));
    for (size_t put = 0; put < size;) {
      const ssize_t n = ::pwrite(file_.get(), packed_.data() + put, size - put, end(count()) + put);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) fail_storage("write", errno);
      put += static_cast<size_t>(n);
    }
    ends_.push_back(end(count()) + static_cast<int64_t>(size));
  }

  int64_t count() const { return std::ssize(ends_); }

  std::string block(int64_t index) const {
    CHECK(0 <= index && index < count(), "block {} of {}", index, count());
    std::string packed(static_cast<size_t>(end(index + 1) - end(index)), '\0');
    if (read_up_to(file_, packed.data(), std::ssize(packed), end(index)) != std::ssize(packed))
      fail_storage("read", errno);
    std::string text(kBlockBytes, '\0');
    const size_t size = ZSTD_decompress(text.data(), text.size(), packed.data(), packed.size());
    if (ZSTD_isError(size)) fail_storage("unpack", EIO);
    text.resize(size);
    return text;
  }

 private:
  int64_t end(int64_t blocks) const { return blocks == 0 ? 0 : ends_[blocks - 1]; }

  FileHandle unnamed_file() const {
    std::string name = folder_ + "/contender.XXXXXX";
    FileHandle file(::mkostemp(name.data(), O_CLOEXEC));
    if (file.get() < 0) fail_storage("make", errno);
    ::unlink(name.c_str());
    return file;
  }

  [[noreturn]] void fail_storage(const char* what, int error) const {
    fail(ExitCode::kStorage, "{}: cannot {} a temporary file in {} for its text: {}; TMPDIR names the folder",
         owner_, what, folder_, std::strerror(error));
  }

  const std::string owner_, folder_;
  const FileHandle file_;
  std::vector<int64_t> ends_;  // of each block in the file
  std::string packed_;
  std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> packer_{ZSTD_createCCtx(), ZSTD_freeCCtx};
};

class ZstdText final : public PromptText {
 public:
  ZstdText(std::string path, FileHandle file)
      : path_(std::move(path)), file_(std::move(file)), given_(ZSTD_DStreamInSize(), '\0'), blocks_(path_) {
    ZSTD_DCtx_setParameter(unpacker_.get(), ZSTD_d_windowLogMax, kMaxWindowLog);
  }

  bool append_next(std::string* buffer) override {
    std::string block(kBlockBytes, '\0');
    ZSTD_outBuffer out{block.data(), block.size(), 0};
    while (out.pos < out.size && unpack(&out)) {
    }
    block.resize(out.pos);
    if (block.empty()) return false;
    unpacked_bytes_ += std::ssize(block);
    if (unpacked_bytes_ > kFreeBytes + kMaxExpansion * given_bytes_)
      fail(ExitCode::kConfig, "{}: {} bytes expand to more than {} times as many", path_, given_bytes_,
           kMaxExpansion);
    blocks_.append(block);
    buffer->append(block);
    return true;
  }

  std::string read(int64_t offset, int64_t bytes) const override {
    std::string text;
    for (int64_t at = offset; at < offset + bytes;) {
      const std::string block = blocks_.block(at / kBlockBytes);
      const int64_t begin = at % kBlockBytes, n = std::min(offset + bytes - at, std::ssize(block) - begin);
      if (n <= 0) break;
      text.append(block, static_cast<size_t>(begin), static_cast<size_t>(n));
      at += n;
    }
    return text;
  }

 private:
  // False at the end of the file.
  bool unpack(ZSTD_outBuffer* out) {
    if (in_.pos == in_.size) {
      const int64_t got = read_up_to(file_, given_.data(), std::ssize(given_), given_bytes_);
      if (got < 0) fail(ExitCode::kConfig, "{}: {}", path_, std::strerror(errno));
      given_bytes_ += got;
      in_ = {given_.data(), static_cast<size_t>(got), 0};
      if (got == 0 && !in_frame_) return false;
    }
    const size_t before = out->pos, had = in_.size - in_.pos;
    const size_t hint = ZSTD_decompressStream(unpacker_.get(), out, &in_);
    if (ZSTD_getErrorCode(hint) == ZSTD_error_frameParameter_windowTooLarge)
      fail(ExitCode::kConfig, "{}: compressed with a window of more than {} MiB: compress it without --long",
           path_, (1 << kMaxWindowLog) >> 20);
    if (ZSTD_isError(hint)) fail(ExitCode::kConfig, "{}: zstd: {}", path_, ZSTD_getErrorName(hint));
    in_frame_ = hint != 0;
    if (in_frame_ && had == 0 && out->pos == before)
      fail(ExitCode::kConfig, "{}: zstd: the file is cut off", path_);
    return true;
  }

  const std::string path_;
  const FileHandle file_;
  std::string given_;
  ZSTD_inBuffer in_{nullptr, 0, 0};
  bool in_frame_ = false;
  int64_t given_bytes_ = 0, unpacked_bytes_ = 0;
  BlockStore blocks_;
  std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> unpacker_{ZSTD_createDCtx(), ZSTD_freeDCtx};
};

// A frame of zstd, or a skippable one before it. No JSON begins like that.
bool is_zstd(const FileHandle& file) {
  unsigned char b[4] = {};
  if (read_up_to(file, reinterpret_cast<char*>(b), 4, 0) < 4) return false;
  const uint32_t magic = b[0] | b[1] << 8 | b[2] << 16 | static_cast<uint32_t>(b[3]) << 24;
  return magic == ZSTD_MAGICNUMBER || (magic & ZSTD_MAGIC_SKIPPABLE_MASK) == ZSTD_MAGIC_SKIPPABLE_START;
}

}  // namespace

std::unique_ptr<PromptText> open_prompt_text(const std::string& path) {
  FileHandle file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a pipe must not be waited for
  struct stat status;
  if (file.get() < 0 || ::fstat(file.get(), &status) != 0)
    fail(ExitCode::kConfig, "{}: {}", path, std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail(ExitCode::kConfig, "{}: not a regular file", path);
  if (is_zstd(file)) return std::make_unique<ZstdText>(path, std::move(file));
  return std::make_unique<PlainText>(path, std::move(file));
}

}  // namespace contender
