// Where the answer stands in what a model, or the author of a prompt set, wrote.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace contender {

// The final answers of a completion, behind the thought; views into it. None when the thought is not closed.
// In this order: every \boxed{...}; what stands behind the last "####", or the last "the answer is" or the
// like; the formula that the last line ends with; a text of a single line. Inside <answer>...</answer>, if
// there is one. More than one come only from boxes and tags. Linear time.
std::vector<std::string_view> final_answers(std::string_view prompt, std::string_view completion);

// The answer that a prompt set expects: what stands behind its last "####" (a worked solution as in GSM8K),
// else what is in its boxes, else all of it.
std::string expected_answer(std::string_view text);

// All answers as one list, each text once. `answers` is left with these; one more than kMaxListed says that
// there were too many.
constexpr size_t kMaxListed = 16;
std::string listed(std::vector<std::string_view>* answers);

}  // namespace contender
