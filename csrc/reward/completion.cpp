#include "reward/completion.h"

#include "reward/reward.h"

namespace contender {
namespace {

constexpr std::string_view kThink = "<think>", kEndThink = "</think>", kAnswer = "<answer>",
                           kEndAnswer = "</answer>";

// Where `tag` stands when it occurs exactly once, else npos.
size_t only_place(std::string_view text, std::string_view tag) {
  const size_t first = text.find(tag);
  if (first == text.npos || text.find(tag, first + tag.size()) != text.npos) return text.npos;
  return first;
}

// A thought that a template opened in the prompt goes on in the completion.
bool opens_thought(std::string_view text) {
  const size_t open = text.rfind(kThink), close = text.rfind(kEndThink);
  return open != text.npos && (close == text.npos || close < open);
}

}  // namespace

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\n\r\f\v";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

std::optional<std::string_view> thought_part(std::string_view completion) {
  const size_t end = completion.find(kEndThink);
  if (end == completion.npos) return {};
  const size_t open = completion.substr(0, end).find(kThink);
  const size_t begin = open == completion.npos ? 0 : open + kThink.size();
  return completion.substr(begin, end - begin);
}

std::optional<std::string_view> behind_thought(std::string_view prompt, std::string_view completion) {
  const size_t end = completion.rfind(kEndThink);
  if (end == completion.npos && opens_thought(prompt)) return {};
  const std::string_view rest =
      end == completion.npos ? completion : completion.substr(end + kEndThink.size());
  if (rest.find(kThink) != rest.npos) return {};
  return rest;
}

std::optional<std::string_view> answer_part(std::string_view completion) {
  const size_t thought_end = only_place(completion, kEndThink);
  const size_t open = only_place(completion, kAnswer);
  const size_t close = only_place(completion, kEndAnswer);
  if (thought_end == completion.npos || open == completion.npos || close == completion.npos) return {};
  if (open < thought_end || close < open) return {};
  const size_t begin = open + kAnswer.size();
  const std::string_view answer = trimmed(completion.substr(begin, close - begin));
  if (answer.empty()) return {};
  return answer;
}

float verify_format(const std::string& completion, std::string_view prompt) {
  const std::string whole = (trimmed(prompt).ends_with(kThink) ? std::string(kThink) : "") + completion;
  const std::string_view text = trimmed(whole);
  const size_t think = only_place(text, kThink);
  const size_t end_think = only_place(text, kEndThink);
  const size_t answer = only_place(text, kAnswer);
  const size_t end_answer = only_place(text, kEndAnswer);
  if (think != 0 || end_think == text.npos || answer == text.npos || end_answer == text.npos) return 0;
  if (answer < end_think || end_answer < answer || end_answer + kEndAnswer.size() != text.size()) return 0;
  const auto between = [&](size_t from, std::string_view tag, size_t to) {
    return trimmed(text.substr(from + tag.size(), to - from - tag.size()));
  };
  const bool thought_filled = !between(think, kThink, end_think).empty();
  const bool gap_empty = between(end_think, kEndThink, answer).empty();
  const bool answer_filled = !between(answer, kAnswer, end_answer).empty();
  return thought_filled && gap_empty && answer_filled ? 1 : 0;
}

}  // namespace contender
