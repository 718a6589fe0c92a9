// A prompt file: every line is checked from end to end before the run begins; only the place and the hash of
// each are kept in memory.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/jsonl_line.h"
#include "data/prompt_text.h"

namespace contender {

class JsonlFile {
 public:
  // prompt_form: task.prompt_form. Throws what open_prompt_text does.
  explicit JsonlFile(std::string path, std::string prompt_form = kPromptPlace);

  // The one pass: every line that is not blank, with its number. Those for which `visit` returns true are the
  // prompts of the file. Throws Error(kConfig), `file:line: what`, for the first bad line.
  using Visit = std::function<bool(int64_t line, PromptLine&& parsed)>;
  void scan(const Tokenizer& tokenizer, const Visit& visit);

  const std::string& path() const { return path_; }
  int64_t lines() const { return lines_read_; }  // that are not blank
  int64_t size() const { return std::ssize(places_); }
  const std::string& hash() const { return hash_; }  // XXH3-128 of the text, 32 digits
  // 0 <= index < size(). Throws Error(kConfig) when the file is not what it was.
  Prompt at(int64_t index, const Tokenizer& tokenizer) const;
  int64_t line_of(int64_t index) const { return places_[index].line; }
  [[noreturn]] void fail_at(int64_t line, const std::string& what) const;

 private:
  struct Place {
    int64_t offset, line;
    uint64_t hash;
    int32_t bytes;
  };

  PromptLine parse(std::string_view text, int64_t line, const Tokenizer& tokenizer) const;

  const std::string path_, prompt_form_;
  const std::unique_ptr<PromptText> text_;
  std::vector<Place> places_;
  int64_t lines_read_ = 0;
  std::string hash_;
};

}  // namespace contender
