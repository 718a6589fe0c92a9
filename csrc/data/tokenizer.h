// Tokenizer interface, and the byte tokenizer of procedural tasks: 256 bytes, then special tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace contender {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  virtual std::string decode(
      const std::vector<int32_t>& tokens) const = 0;  // special tokens as their text, eos as ""
  virtual int32_t eos() const = 0;
  virtual int64_t vocab_size() const = 0;  // ids are below it
  virtual std::string fingerprint() const = 0;
};

// Ids 0..255 are bytes; 256 <eos>, 257 <think>, 258 </think>, 259 <answer>, 260 </answer>, 261 <user>, 262
// <assistant>, 263 <pad>, 264..271 unused: they decode as <unused264>... and fill the vocabulary up to a
// multiple of 16. encode() makes the special tokens 257..262 from their exact text (prompts are trusted
// templates); <eos> and <pad> never come from text. decode() throws Error for any other id.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

}  // namespace contender
