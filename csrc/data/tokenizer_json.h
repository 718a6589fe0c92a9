// tokenizer.json of the Hugging Face library `tokenizers`: byte-level BPE, its pre-tokenization, its added
// tokens. What the reader does not know, it refuses by name: a token more or less would be a silent error in
// every number of a run.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/bpe.h"
#include "data/pretokenize.h"

namespace contender {

// A piece of text that is one token wherever it stands.
struct AddedToken {
  std::string text;
  int32_t id = -1;
  bool special = false;      // left out of decoded text when asked
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // and behind it
  bool single_word = false;  // not between letters or digits
  bool normalized = true;    // looked for in normalized text
};

// What a byte-level BPE tokenizer is made of, whichever file it came from.
struct BpeSpec {
  std::vector<std::string> pieces;  // bytes of each id of the model; empty: no such id
  std::vector<BpeMerge> merges;     // rank = index
  std::array<int32_t, 256> byte_ids;
  bool ignore_merges = false;  // a word that is a token is that token, whatever the merges say
  bool nfc = false;
  std::vector<PretokenizeStep> steps;
  std::vector<AddedToken> added;
  std::vector<int32_t> first, last;  // tokens that stand before and behind a text
};

// Byte-level text ("Ġthe") as its bytes (" the"); false when a character stands for no byte.
bool byte_level_bytes(std::string_view text, std::string& bytes);

// Sets byte_ids and merges from ids of texts. `merge(rank)` gives the two sides as written.
struct VocabText {
  std::string_view text;
  int32_t id;
};
void set_vocabulary(const std::vector<VocabText>& vocabulary,
                    const std::vector<std::pair<std::string_view, std::string_view>>& merges, BpeSpec& spec);

// Throws std::runtime_error with a short reason. Limits: 128 MiB, 32 levels, ids below 2^21. Memory: a small
// multiple of the text.
BpeSpec parse_tokenizer_json(std::string_view text);

}  // namespace contender
