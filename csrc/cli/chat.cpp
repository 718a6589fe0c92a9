// What a conversation is made of: prompts, and how an answer looks.
#include "cli/chat.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/bpe_normalize.h"
#include "data/chat_template_prompt.h"

namespace contender {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kThink = "<think>", kThinkEnd = "</think>";
constexpr std::string_view kDim = "\x1b[2m", kUndim = "\x1b[22m";

ordered_json message(const Tokenizer& tokenizer, const char* role, std::string_view content) {
  std::string text(content);
  if (!tokenizer.speaks_in_tags()) {  // anybody may type any bytes; the byte tokenizer takes them
    text.clear();
    append_utf8(content, /*more=*/false, text);
  }
  return {{"role", role}, {"content", text}};
}

}  // namespace

Conversation::Conversation(const Tokenizer& tokenizer, const std::string& system)
    : tokenizer_(tokenizer),
      messages_(std::make_unique<ordered_json>(ordered_json::array())),
      remembers_(tokenizer.chat_template() || tokenizer.speaks_in_tags()) {
  if (system.empty()) return;
  if (!remembers_)
    fail(ExitCode::kConfig, "--system: the model has no chat template that would give it a place");
  messages_->push_back(message(tokenizer, "system", system));
  has_system_ = true;
}

Conversation::~Conversation() = default;

Prompt Conversation::ask(const std::string& question, int64_t context, int64_t room) {
  ordered_json all = remembers_ ? *messages_ : ordered_json::array();  // kept only when the question fits
  all.push_back(message(tokenizer_, "user", question));
  const size_t first = has_system_ ? 1 : 0;
  Prompt prompt;
  const auto fits = [&] {
    try {
      set_prompt(tokenizer_, all, prompt);
    } catch (const std::exception& e) {
      fail(ExitCode::kConfig, "the chat template: {}", e.what());
    }
    return std::ssize(prompt.tokens) + room <= context;
  };
  bool all_of_it = fits();
  while (!all_of_it && all.size() > first + 2) {
    all.erase(first);  // a question and its answer
    all.erase(first);
    all_of_it = fits();
  }
  if (!all_of_it)
    fail(ExitCode::kConfig,
         "the question has {} tokens; with {} for the answer it is beyond the context of {}",
         prompt.tokens.size(), room, context);
  *messages_ = std::move(all);
  return prompt;
}

void Conversation::answer(std::string_view text) {
  const size_t thought = text.rfind(kThinkEnd);
  if (thought != std::string_view::npos) text.remove_prefix(thought + kThinkEnd.size());
  const size_t begin = text.find_first_not_of(" \t\r\n");
  text.remove_prefix(std::min(begin, text.size()));
  messages_->push_back(message(tokenizer_, "assistant", text));
}

std::string ThoughtPainter::painted(std::string_view text) {
  if (text.empty()) return "";
  std::string out;
  if (inside_ != dimmed_) out = inside_ ? kDim : kUndim;
  dimmed_ = inside_;
  return out.append(text);
}

std::string ThoughtPainter::push(std::string_view text) {
  if (!dim_) return std::string(text);
  pending_ += text;
  std::string out;
  for (;;) {
    const std::string_view mark = inside_ ? kThinkEnd : kThink, rest = pending_;
    const size_t at = rest.find(mark);
    if (at == std::string_view::npos) {
      size_t held = std::min(rest.size(), mark.size() - 1);
      while (!mark.starts_with(rest.substr(rest.size() - held))) --held;
      out += painted(rest.substr(0, rest.size() - held));
      pending_.erase(0, pending_.size() - held);
      return out;
    }
    if (!inside_) out += painted(rest.substr(0, at));
    const size_t begin = inside_ ? 0 : at;
    inside_ = true;  // the marks are dim themselves
    out += painted(rest.substr(begin, at + mark.size() - begin));
    inside_ = mark == kThink;
    pending_.erase(0, at + mark.size());
  }
}

std::string ThoughtPainter::finish() {
  std::string out = painted(std::exchange(pending_, {}));
  if (dimmed_) out += kUndim;
  dimmed_ = false;
  return out;
}

}  // namespace contender
