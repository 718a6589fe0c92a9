#include "data/jsonl.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/error.h"
#include "data/chat_template_prompt.h"
#include "data/strict_json.h"

namespace contender {
namespace {

constexpr size_t kMaxLineBytes = 8 << 20;
constexpr std::string_view kSpace = " \t\r\n";

// Reasons are thrown as runtime_error and get their `file:line:` where both are known.
template <class... A>
[[noreturn]] void refuse(fmt::format_string<A...> format, A&&... args) {
  throw std::runtime_error(fmt::format(format, std::forward<A>(args)...));
}

const std::string& text_of(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) refuse("\"{}\" is missing", key);
  if (!found->is_string()) refuse("\"{}\" must be a string", key);
  const std::string& text = found->get_ref<const std::string&>();
  if (text.find_first_not_of(kSpace) == text.npos) refuse("\"{}\" is empty", key);
  return text;
}

// What stands inside a turn must not begin another one.
const std::string& turn_text(const nlohmann::json& object, const char* key, const Tokenizer& tokenizer) {
  const std::string& text = text_of(object, key);
  if (!tokenizer.speaks_in_tags()) return text;
  for (const char* reserved : {"<user>", "<assistant>"}) {
    if (text.find(reserved) != text.npos) refuse("\"{}\" holds {}, which separates turns", key, reserved);
  }
  return text;
}

// Role and content of each message, the user's last.
nlohmann::ordered_json checked_messages(const nlohmann::json& messages, const Tokenizer& tokenizer) {
  if (!messages.is_array() || messages.empty()) refuse("\"messages\" must be a list of messages");
  auto checked = nlohmann::ordered_json::array();
  std::string expected = "user";
  for (const nlohmann::json& message : messages) {
    if (!message.is_object()) refuse("a message must be an object with role and content");
    const std::string& role = text_of(message, "role");
    const std::string& content = turn_text(message, "content", tokenizer);
    if (role == expected) {
      expected = role == "user" ? "assistant" : "user";
    } else if (role != "system" || &message != &messages.front()) {
      refuse("message of role \"{:.40}\" where {} speaks", role, expected);
    }
    checked.push_back({{"role", role}, {"content", content}});
  }
  if (expected != "assistant") refuse("the last message must be the user's");
  return checked;
}

std::string squeeze_space(std::string_view text) {
  std::string squeezed;
  for (size_t at = text.find_first_not_of(kSpace); at < text.size();
       at = text.find_first_not_of(kSpace, at)) {
    const size_t end = std::min(text.find_first_of(kSpace, at), text.size());
    if (!squeezed.empty()) squeezed += ' ';
    squeezed += text.substr(at, end - at);
    at = end;
  }
  return squeezed;
}

Prompt parse_line(std::string_view line, const Tokenizer& tokenizer) {
  const nlohmann::json record = parse_strict_json(line);
  if (!record.is_object()) refuse("not an object");
  const bool has_prompt = record.contains("prompt"), has_messages = record.contains("messages");
  if (has_prompt == has_messages)
    refuse("{}", has_prompt ? "both \"prompt\" and \"messages\"" : "\"prompt\" is missing");
  Prompt prompt;
  if (has_prompt) {
    set_question(tokenizer, turn_text(record, "prompt", tokenizer), prompt);
  } else {
    set_prompt(tokenizer, checked_messages(record["messages"], tokenizer), prompt);
  }
  const auto answer = record.find("answer");
  const bool whole_number = answer != record.end() && answer->is_number_integer();
  prompt.answer = whole_number ? answer->dump() : text_of(record, "answer");
  prompt.task = record.contains("task") ? text_of(record, "task") : "exact";
  if (record.contains("solution")) prompt.solution = turn_text(record, "solution", tokenizer);
  prompt.canonical = squeeze_space(prompt.text);
  return prompt;
}

class JsonlSource final : public PromptSource {
 public:
  JsonlSource(const std::string& path, int64_t max_prompt_tokens, const Tokenizer& tokenizer)
      : path_(path),
        max_prompt_tokens_(max_prompt_tokens),
        tokenizer_(tokenizer),
        fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    struct stat status;
    if (fd_ < 0 || ::fstat(fd_, &status) != 0) fail(ExitCode::kConfig, "{}: {}", path_, std::strerror(errno));
    if (!S_ISREG(status.st_mode)) fail(ExitCode::kConfig, "{}: not a regular file", path_);
  }
  ~JsonlSource() override { ::close(fd_); }
  JsonlSource(const JsonlSource&) = delete;
  JsonlSource& operator=(const JsonlSource&) = delete;

  // Checks every line, remembers where the prompts are, and shows each to `visit`.
  void scan(const std::function<void(int64_t line, const Prompt&)>& visit) {
    std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> hash(XXH3_createState(), XXH3_freeState);
    XXH3_128bits_reset(hash.get());
    std::string buffer;
    int64_t base = 0;                // place of the buffer in the file
    size_t begin = 0, searched = 0;  // the line, and how far its end has been looked for
    for (int64_t number = 1;; ++number) {
      size_t end = buffer.find('\n', searched);
      while (end == buffer.npos) {
        if (buffer.size() - begin > kMaxLineBytes) fail_at(number, "line of more than 8 MiB");
        base += static_cast<int64_t>(begin);
        buffer.erase(0, begin);
        begin = 0;
        searched = buffer.size();
        if (!append_chunk(base + static_cast<int64_t>(searched), &buffer)) break;
        XXH3_128bits_update(hash.get(), buffer.data() + searched, buffer.size() - searched);
        end = buffer.find('\n', searched);
      }
      if (buffer.empty()) break;
      end = std::min(end, buffer.size());  // the last line may lack its newline
      const std::string_view line = std::string_view(buffer).substr(begin, end - begin);
      if (line.size() > kMaxLineBytes) fail_at(number, "line of more than 8 MiB");
      if (line.find_first_not_of(kSpace) != line.npos) {
        lines_.push_back({base + static_cast<int64_t>(begin), number, static_cast<int32_t>(line.size()),
                          XXH3_64bits(line.data(), line.size())});
        visit(number, parse(line, number));
      }
      begin = searched = std::min(end + 1, buffer.size());
    }
    if (lines_.empty()) fail(ExitCode::kConfig, "{}: no prompts", path_);
    if (lines_.size() > std::numeric_limits<uint32_t>::max())
      fail(ExitCode::kConfig, "{}: more than 2^32 prompts", path_);
    const XXH128_hash_t digest = XXH3_128bits_digest(hash.get());
    fingerprint_ = fmt::format("jsonl:{:016x}{:016x}", digest.high64, digest.low64);
  }

  int64_t size() const override { return std::ssize(lines_); }

  Prompt at(int64_t index) const override {
    CHECK(0 <= index && index < size(), "index {} size {}", index, size());
    const Line& line = lines_[index];
    std::string text(static_cast<size_t>(line.bytes), '\0');
    const ssize_t got = ::pread(fd_, text.data(), text.size(), line.offset);
    if (got != line.bytes || XXH3_64bits(text.data(), text.size()) != line.hash) {
      fail_at(line.number, "changed since the run began");
    }
    Prompt prompt = parse(text, line.number);
    prompt.index = static_cast<uint32_t>(index);
    return prompt;
  }

  std::string fingerprint() const override { return fingerprint_; }

  [[noreturn]] void fail_at(int64_t line, const std::string& what) const {
    fail(ExitCode::kConfig, "{}:{}: {}", path_, line, what);
  }

 private:
  struct Line {
    int64_t offset;
    int64_t number;
    int32_t bytes;
    uint64_t hash;
  };

  // False at the end of the file.
  bool append_chunk(int64_t offset, std::string* buffer) const {
    constexpr size_t kChunkBytes = 1 << 20;
    const size_t old_size = buffer->size();
    buffer->resize(old_size + kChunkBytes);
    const ssize_t got = ::pread(fd_, buffer->data() + old_size, kChunkBytes, offset);
    if (got < 0) fail(ExitCode::kConfig, "{}: {}", path_, std::strerror(errno));
    buffer->resize(old_size + static_cast<size_t>(got));
    return got > 0;
  }

  Prompt parse(std::string_view line, int64_t number) const {
    try {
      Prompt prompt = parse_line(line, tokenizer_);
      if (std::ssize(prompt.tokens) > max_prompt_tokens_) {
        refuse("prompt of {} tokens, task.max_prompt_tokens = {}", prompt.tokens.size(), max_prompt_tokens_);
      }
      return prompt;
    } catch (const std::runtime_error& reason) {
      fail_at(number, reason.what());
    }
  }

  const std::string path_;
  const int64_t max_prompt_tokens_;
  const Tokenizer& tokenizer_;
  const int fd_;
  std::vector<Line> lines_;
  std::string fingerprint_;
};

std::unique_ptr<JsonlSource> open_source(const TaskConfig& task, Split split, const Tokenizer& tokenizer) {
  const bool train = split == Split::kTrain;
  const std::vector<std::string>& paths = train ? task.train_files : task.eval_files;
  if (paths.empty())
    fail(ExitCode::kConfig, "task.{} is not set (task.name = \"jsonl\")",
         train ? "train_files" : "eval_files");
  return std::make_unique<JsonlSource>(paths.front(), task.max_prompt_tokens, tokenizer);
}

uint64_t hash_of(const std::string& text) { return XXH3_64bits(text.data(), text.size()); }

}  // namespace

std::unique_ptr<PromptSource> make_jsonl_source(const TaskConfig& task, Split split,
                                                const Tokenizer& tokenizer, int64_t max_solved_tokens) {
  std::unordered_map<uint64_t, int64_t> held_out;  // canonical prompt -> its line
  if (split == Split::kTrain && !task.eval_files.empty()) {
    open_source(task, Split::kHeldOut, tokenizer)->scan([&](int64_t line, const Prompt& prompt) {
      held_out.emplace(hash_of(prompt.canonical), line);
    });
  }
  auto source = open_source(task, split, tokenizer);
  source->scan([&](int64_t line, const Prompt& prompt) {
    const auto found = held_out.find(hash_of(prompt.canonical));
    if (found != held_out.end()) {
      source->fail_at(line, fmt::format("the same prompt as {}:{}, which is held out",
                                        task.eval_files.front(), found->second));
    }
    if (max_solved_tokens == 0) return;
    if (prompt.solution.empty())
      source->fail_at(line, "\"solution\" is missing, which a stage of kind sft learns from");
    const int64_t tokens = std::ssize(prompt.tokens) + std::ssize(tokenizer.encode(prompt.solution)) + 1;
    if (tokens > max_solved_tokens)
      source->fail_at(line, fmt::format("{} tokens with its solution, model.max_position_embeddings = {}",
                                        tokens, max_solved_tokens));
  });
  return source;
}

}  // namespace contender
