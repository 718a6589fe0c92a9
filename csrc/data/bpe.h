// Byte-level BPE: the tokens of one word (a piece of text that no merge crosses).
//
// A word begins as its bytes, one symbol each. While a neighbouring pair is in the table of merges, the pair
// of lowest rank becomes one symbol, the leftmost first among equals: Sennrich et al. 2016, on bytes as in
// GPT-2. Words of up to 32 bytes are remembered; long ones take O(n log n) by a heap over a linked list.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace contender {

struct BpeMerge {
  int32_t left, right, merged;  // ids
};

// What encoding one text needs besides the model: of one thread at a time.
class BpeScratch {
 public:
  BpeScratch() : words_(kWords) {}

 private:
  friend class BpeModel;
  static constexpr size_t kWords = 1 << 15, kWordBytes = 30, kWordTokens = 8;
  struct Word {  // one cache line: a word and its tokens, replaced by any other of the same hash
    uint8_t bytes = 0, tokens = 0;
    char text[kWordBytes];
    int32_t ids[kWordTokens];
  };
  std::vector<Word> words_;
  std::vector<int32_t> ids_, next_, previous_;
  std::vector<uint32_t> ranks_;  // of the pair that begins at a symbol
  std::vector<uint64_t> heap_;   // rank << 32 | place
};

class BpeModel {
 public:
  // byte_ids: the token of each byte, -1 where the vocabulary has none (the byte is dropped). merges: rank =
  // index. whole_words: words that are one token whatever the merges say; empty for most tokenizers.
  BpeModel(const std::array<int32_t, 256>& byte_ids, const std::vector<BpeMerge>& merges,
           std::unordered_map<std::string, int32_t> whole_words);

  // Appends the tokens of `word`, of less than 2^31 bytes.
  void encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& tokens) const;

 private:
  static constexpr uint32_t kNoRank = UINT32_MAX;
  struct Slot {
    uint64_t pair = UINT64_MAX;
    uint32_t rank = kNoRank;
    int32_t merged = -1;
  };
  const Slot& find(int32_t left, int32_t right) const;
  void merge_short(std::string_view word, std::vector<int32_t>& tokens) const;
  void merge_long(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& tokens) const;

  std::array<int32_t, 256> byte_ids_;
  std::vector<Slot> slots_;  // open addressing, a power of two
  std::unordered_map<std::string, int32_t> whole_words_;
};

}  // namespace contender
