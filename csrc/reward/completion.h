// The parts of a completion: one thought, then one answer. Views into the text; linear time on any bytes.
#pragma once

#include <optional>
#include <string_view>

namespace contender {

// Without ASCII white space at both ends.
std::string_view trimmed(std::string_view text);

// Between <think> (or the beginning of `completion`, where a template opened the thought) and </think>.
// Nothing when </think> is missing.
std::optional<std::string_view> thought_part(std::string_view completion);

// Behind the last </think>; all of it where there was no thought. Nothing when one is still open: in the
// completion, or in `prompt`, where a template opened it.
std::optional<std::string_view> behind_thought(std::string_view prompt, std::string_view completion);

// The trimmed text of the only <answer>...</answer>, behind the only </think>. Nothing when a tag is missing,
// repeated or out of order, or when the answer is empty.
std::optional<std::string_view> answer_part(std::string_view completion);

}  // namespace contender
