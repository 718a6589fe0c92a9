// Overlap of training prompts with held-out ones, by the rule that the DeepSeek-R1 paper filters its training
// data with: 10 words in a row that both hold.
//
// Words are runs of letters and digits, in lower case; each Chinese or Japanese character is one. A prompt of
// fewer than 10 words overlaps with one that is, but for case and white space, the same. 10 words that more
// than a tenth of the held-out prompts share (and at least ten of them) are how questions are put ("put your
// final answer within ..."), not what they are, and do not count.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace contender {

// Memory: about 50 bytes per word of the held-out prompts. Time: linear in the text.
class HeldOutWords {
 public:
  void add(std::string_view question);  // held-out prompt 0, 1, 2, ...
  // The first held-out prompt that a training prompt overlaps with. All are added by then.
  std::optional<int64_t> overlap(std::string_view question) const;

 private:
  struct Seen {
    uint32_t first, last;  // prompt
    uint32_t prompts;
  };
  std::unordered_map<uint64_t, Seen> grams_;
  uint32_t prompts_ = 0;
};

}  // namespace contender
