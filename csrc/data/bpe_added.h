// Where the texts of added tokens stand in a text: from left to right, the longest at each place.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer_json.h"

namespace contender {

class AddedTokens {
 public:
  struct Match {
    int32_t id;
    size_t begin, end;  // white space that the token takes is inside
    size_t text_end;    // behind its own text: the next token begins there or later
  };

  explicit AddedTokens(std::vector<AddedToken> tokens);

  // The first match at or behind `at`. `from`: where the last match ended; a token takes no white space
  // before it. marks: one per byte of the text, or none; a text with a marked byte is no token. False: none.
  bool next(std::string_view text, std::string_view marks, size_t from, size_t at, Match& match) const;
  bool empty() const { return tokens_.empty(); }

 private:
  struct Node {
    std::vector<std::pair<char, int32_t>> next;
    int32_t token = -1;
  };
  size_t begin_of_one(std::string_view text, size_t at) const;  // npos: none
  int32_t longest_at(std::string_view text, size_t at) const;   // index into tokens_, -1: none

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;  // a trie; 0 is its root
  std::string first_bytes_;
  std::array<bool, 256> first_byte_{};
};

}  // namespace contender
