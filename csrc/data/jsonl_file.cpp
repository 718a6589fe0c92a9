#include "data/jsonl_file.h"

#include <xxhash.h>

#include <algorithm>
#include <stdexcept>

#include "base/error.h"

namespace contender {
namespace {

constexpr size_t kMaxLineBytes = 8 << 20;

}  // namespace

JsonlFile::JsonlFile(std::string path, std::string prompt_form)
    : path_(std::move(path)), prompt_form_(std::move(prompt_form)), text_(open_prompt_text(path_)) {}

void JsonlFile::fail_at(int64_t line, const std::string& what) const {
  fail(ExitCode::kConfig, "{}:{}: {}", path_, line, what);
}

void JsonlFile::scan(const Tokenizer& tokenizer, const Visit& visit) {
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> hash(XXH3_createState(), XXH3_freeState);
  XXH3_128bits_reset(hash.get());
  std::string buffer;
  int64_t base = 0;                // place of the buffer in the text
  size_t begin = 0, searched = 0;  // the line, and how far its end has been looked for
  for (int64_t number = 1;; ++number) {
    size_t end = buffer.find('\n', searched);
    while (end == buffer.npos) {
      if (buffer.size() - begin > kMaxLineBytes) fail_at(number, "line of more than 8 MiB");
      base += static_cast<int64_t>(begin);
      buffer.erase(0, begin);
      begin = 0;
      searched = buffer.size();
      if (!text_->append_next(&buffer)) break;
      XXH3_128bits_update(hash.get(), buffer.data() + searched, buffer.size() - searched);
      end = buffer.find('\n', searched);
    }
    if (buffer.empty()) break;
    end = std::min(end, buffer.size());  // the last line may lack its newline
    const std::string_view line = std::string_view(buffer).substr(begin, end - begin);
    if (line.size() > kMaxLineBytes) fail_at(number, "line of more than 8 MiB");
    if (line.find_first_not_of(" \t\r\n") != line.npos) {
      ++lines_read_;
      if (visit(number, parse(line, number, tokenizer)))
        places_.push_back({base + static_cast<int64_t>(begin), number, XXH3_64bits(line.data(), line.size()),
                           static_cast<int32_t>(line.size())});
    }
    begin = searched = std::min(end + 1, buffer.size());
  }
  const XXH128_hash_t digest = XXH3_128bits_digest(hash.get());
  hash_ = fmt::format("{:016x}{:016x}", digest.high64, digest.low64);
}

Prompt JsonlFile::at(int64_t index, const Tokenizer& tokenizer) const {
  CHECK(0 <= index && index < size(), "index {} size {}", index, size());
  const Place& place = places_[index];
  const std::string line = text_->read(place.offset, place.bytes);
  if (std::ssize(line) != place.bytes || XXH3_64bits(line.data(), line.size()) != place.hash)
    fail_at(place.line, "changed since the run began");
  return parse(line, place.line, tokenizer).prompt;
}

PromptLine JsonlFile::parse(std::string_view text, int64_t line, const Tokenizer& tokenizer) const {
  try {
    return parse_prompt_line(text, tokenizer, prompt_form_);
  } catch (const std::runtime_error& reason) {
    fail_at(line, reason.what());
  }
}

}  // namespace contender
