#include "data/jsonl.h"

#include <xxhash.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <unordered_map>

#include "base/error.h"
#include "data/contamination.h"
#include "data/jsonl_file.h"
#include "data/mixture.h"

namespace contender {
namespace {

struct LinePlace {
  size_t file;
  int64_t line;
};

// The held-out prompts, as training prompts are compared with them.
class HeldOut {
 public:
  HeldOut(const TaskConfig& task, const Tokenizer& tokenizer) : files_(task.eval_files) {
    for (size_t f = 0; f < files_.size(); ++f) {
      JsonlFile(files_[f], task.prompt_form).scan(tokenizer, [&](int64_t line, PromptLine&& parsed) {
        same_.emplace(hash_of(parsed.prompt.canonical), LinePlace{f, line});
        if (task.contamination != "off") {
          words_.add(parsed.question);
          places_.push_back({f, line});
        }
        return false;
      });
    }
  }

  // Where a prompt is held out, "file:line"; empty: it is not.
  std::string same(const Prompt& prompt) const {
    const auto found = same_.find(hash_of(prompt.canonical));
    return found == same_.end() ? "" : text_of(found->second);
  }
  // Where one is held out that shares 10 words in a row with it.
  std::string overlap(const std::string& question) const {
    const std::optional<int64_t> prompt = words_.overlap(question);
    return prompt ? text_of(places_[*prompt]) : "";
  }

 private:
  static uint64_t hash_of(const std::string& text) { return XXH3_64bits(text.data(), text.size()); }
  std::string text_of(LinePlace place) const { return fmt::format("{}:{}", files_[place.file], place.line); }

  const std::vector<std::string>& files_;
  std::unordered_map<uint64_t, LinePlace> same_;  // by canonical prompt
  HeldOutWords words_;
  std::vector<LinePlace> places_;  // of each prompt in words_
};

// What is done with each training prompt that overlaps, and what is said of all of them.
class Contamination {
 public:
  Contamination(const TaskConfig& task, const HeldOut& held_out)
      : rule_(task.contamination), held_out_(held_out) {}

  // Is it trained on? Throws Error(kConfig) for a prompt that is itself held out.
  bool keep(const JsonlFile& file, int64_t line, const PromptLine& parsed) {
    ++prompts_;
    const std::string same = held_out_.same(parsed.prompt);
    if (!same.empty() && rule_ != "drop")
      file.fail_at(line, fmt::format("the same prompt as {}, which is held out", same));
    const std::string like = same.empty() && rule_ != "off" ? held_out_.overlap(parsed.question) : same;
    if (like.empty()) return true;
    constexpr int64_t kShown = 3;
    if (++found_ <= kShown)
      shown_ += fmt::format("{}{}:{} as {}", shown_.empty() ? "" : ", ", file.path(), line, like);
    if (found_ == kShown + 1) shown_ += ", ...";
    return rule_ != "drop";
  }

  int64_t dropped() const { return rule_ == "drop" ? found_ : 0; }

  // One line; empty when nothing overlaps. Throws it with the rule "error".
  std::string note() const {
    if (found_ == 0) return "";
    const std::string text = fmt::format(
        "{} of {} training prompts {} 10 words in a row with held-out ones{} (task.contamination = \"{}\"): "
        "{}",
        found_, prompts_, found_ == 1 ? "shares" : "share",
        dropped() == 0   ? ""
        : dropped() == 1 ? " and is left out"
                         : " and are left out",
        rule_, shown_);
    if (rule_ == "error") throw Error(ExitCode::kConfig, text);
    return text;
  }

 private:
  const std::string rule_;
  const HeldOut& held_out_;
  int64_t prompts_ = 0, found_ = 0;
  std::string shown_;
};

class JsonlSource final : public PromptSource {
 public:
  JsonlSource(const TaskConfig& task, Split split, const Tokenizer& tokenizer, int64_t max_solved_tokens,
              PromptCheck check)
      : tokenizer_(tokenizer),
        prompt_form_(task.prompt_form),
        max_prompt_tokens_(task.max_prompt_tokens),
        max_solved_tokens_(max_solved_tokens),
        check_(check) {
    const bool train = split == Split::kTrain;
    const std::vector<std::string>& paths = train ? task.train_files : task.eval_files;
    if (paths.empty())
      fail(ExitCode::kConfig, "task.{} is not set (task.name = \"jsonl\")",
           train ? "train_files" : "eval_files");
    if (train) {
      const HeldOut held_out(task, tokenizer);
      Contamination contamination(task, held_out);
      for (const std::string& path : paths) read(path, &contamination);
      note_ = contamination.note();
      dropped_ = contamination.dropped();
    } else {
      for (const std::string& path : paths) read(path, nullptr);
    }
    std::vector<int64_t> sizes;
    for (const auto& file : files_) sizes.push_back(file->size());
    if (train && !task.train_weights.empty()) mixture_.emplace(sizes, task.train_weights);
    if (!train && files_.size() > 1) order_ = interleaved(sizes);
  }

  int64_t size() const override { return ends_.back(); }

  Prompt at(int64_t index) const override {
    CHECK(0 <= index && index < size(), "index {} size {}", index, size());
    const int64_t place = order_.empty() ? index : order_[index];
    const size_t f = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), place) - ends_.begin());
    Prompt prompt = files_[f]->at(place - (ends_[f] - files_[f]->size()), tokenizer_);
    prompt.index = static_cast<uint32_t>(index);
    return prompt;
  }

  int64_t index_at(uint64_t seed, int64_t position) const override {
    return mixture_ ? mixture_->index_at(seed, position) : PromptSource::index_at(seed, position);
  }

  std::string fingerprint() const override {
    std::string text = "jsonl";
    for (const auto& file : files_) text += ":" + file->hash();
    return dropped_ > 0 ? fmt::format("{}-{}", text, dropped_) : text;
  }

  std::string note() const override { return note_; }
  bool asks_for_programs() const override { return asks_for_programs_; }

 private:
  void read(const std::string& path, Contamination* contamination) {
    auto file = std::make_unique<JsonlFile>(path, prompt_form_);
    file->scan(tokenizer_, [&](int64_t line, PromptLine&& parsed) {
      check_length(*file, line, parsed.prompt);
      const std::string problem = check_ ? check_(parsed.prompt) : "";
      if (!problem.empty()) file->fail_at(line, problem);
      asks_for_programs_ |= parsed.prompt.task == "code";
      return !contamination || contamination->keep(*file, line, parsed);
    });
    if (file->lines() == 0) fail(ExitCode::kConfig, "{}: no prompts", path);
    if (file->size() == 0)
      fail(ExitCode::kConfig,
           "{}: every prompt is like a held-out one, task.contamination = \"drop\" leaves none", path);
    const int64_t end = size_so_far() + file->size();
    if (end > std::numeric_limits<uint32_t>::max())
      fail(ExitCode::kConfig, "{}: more than 2^32 prompts", path);
    ends_.push_back(end);
    files_.push_back(std::move(file));
  }

  int64_t size_so_far() const { return ends_.empty() ? 0 : ends_.back(); }

  void check_length(const JsonlFile& file, int64_t line, const Prompt& prompt) const {
    if (std::ssize(prompt.tokens) > max_prompt_tokens_)
      file.fail_at(line, fmt::format("prompt of {} tokens, task.max_prompt_tokens = {}", prompt.tokens.size(),
                                     max_prompt_tokens_));
    if (max_solved_tokens_ == 0) return;
    if (prompt.solution.empty())
      file.fail_at(line, "\"solution\" is missing, which a stage of kind sft learns from");
    const int64_t tokens = std::ssize(prompt.tokens) + std::ssize(tokenizer_.encode(prompt.solution)) + 1;
    if (tokens > max_solved_tokens_)
      file.fail_at(line, fmt::format("{} tokens with its solution, model.max_position_embeddings = {}",
                                     tokens, max_solved_tokens_));
  }

  const Tokenizer& tokenizer_;
  const std::string prompt_form_;
  const int64_t max_prompt_tokens_, max_solved_tokens_;
  const PromptCheck check_;
  std::vector<std::unique_ptr<JsonlFile>> files_;
  std::vector<int64_t> ends_;  // of each file in the prompts of all
  std::optional<Mixture> mixture_;
  std::vector<int64_t> order_;  // of held-out prompts of several files
  std::string note_;
  int64_t dropped_ = 0;
  bool asks_for_programs_ = false;
};

}  // namespace

std::unique_ptr<PromptSource> make_jsonl_source(const TaskConfig& task, Split split,
                                                const Tokenizer& tokenizer, int64_t max_solved_tokens,
                                                PromptCheck check) {
  return std::make_unique<JsonlSource>(task, split, tokenizer, max_solved_tokens, check);
}

}  // namespace contender
