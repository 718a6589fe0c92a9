// Tokenizer interface, the byte tokenizer of procedural tasks, and byte-level BPE from a model's files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/config.h"
#include "data/tokenizer_json.h"

namespace contender {

class ChatTemplate;

// Text of which some bytes come from elsewhere than the program and the template: special tokens are not made
// of them.
struct MarkedText {
  std::string text;
  std::string from_data;  // one byte per byte of `text`: not 0 where it is data; or empty: none is
};

enum class Show {
  kAllButStops,  // special tokens as their text, stop tokens as ""
  kAll,
  kNoSpecials,
};

// Usable by several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // Trusted text (a template, a solution): special tokens come from their text.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  // Anybody's text: what looks like a special token is text.
  virtual std::vector<int32_t> encode_plain(std::string_view text) const = 0;
  virtual std::vector<int32_t> encode(const MarkedText& text) const = 0;

  // What decoding makes of one token. Throws Error(kInternal) for an id outside the vocabulary.
  virtual std::string_view bytes_of(int32_t token, Show show = Show::kAllButStops) const = 0;
  virtual std::string decode(const std::vector<int32_t>& tokens, Show show = Show::kAllButStops) const = 0;

  virtual int32_t eos() const = 0;
  virtual const std::vector<int32_t>& stop_tokens() const = 0;   // any of them ends a completion; eos is one
  virtual const std::vector<int32_t>& first_tokens() const = 0;  // before a text without a chat template
  virtual int64_t vocab_size() const = 0;                        // ids are below it
  virtual std::string fingerprint() const = 0;
  virtual const ChatTemplate* chat_template() const = 0;  // null: none
  virtual bool speaks_in_tags() const { return false; }   // <user>...<assistant> are tokens of its own
};

// Ids 0..255 are bytes; 256 <eos>, 257 <think>, 258 </think>, 259 <answer>, 260 </answer>, 261 <user>, 262
// <assistant>, 263 <pad>, 264..271 unused: they decode as <unused264>... and fill the vocabulary up to a
// multiple of 16. encode() makes the special tokens 257..262 from their exact text (prompts are trusted
// templates); <eos> and <pad> never come from text. Decoding gives the bytes as they are.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

// Byte-level BPE. Bytes that are not UTF-8 are encoded as U+FFFD, and decoded as it.
struct BpeIdentity {
  std::vector<int32_t> stop_tokens;  // the first is eos
  std::string fingerprint;
  std::shared_ptr<const ChatTemplate> chat_template;
};
std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeSpec spec, BpeIdentity identity);

// The tokenizer of a model: `path` is its directory, its tokenizer.json, or a GGUF file
// (data/tokenizer_gguf.h). Beside a tokenizer.json are read, where they are: tokenizer_config.json
// (eos_token, add_bos_token, chat_template), generation_config.json (eos_token_id, one or several),
// chat_template.jinja. Empty path: the byte tokenizer. Throws Error(kConfig), `file: what`.
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path);
// Of a run: tokenizer.path, else the one of model.path, else the byte tokenizer. Error(kConfig)
// when the model has fewer ids, or comes without its tokenizer and has other ids than the byte tokenizer.
std::unique_ptr<Tokenizer> open_tokenizer(const RunConfig& config);

// Text of tokens that come one by one: a character is shown when it is whole. What is shown together is
// decode() of the tokens, with U+FFFD for bytes that are no UTF-8.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, Show show = Show::kAllButStops)
      : tokenizer_(tokenizer), show_(show) {}
  std::string push(int32_t token);
  std::string finish();  // what is left: at most one U+FFFD

 private:
  const Tokenizer& tokenizer_;
  Show show_;
  std::string pending_;  // less than a character
};

}  // namespace contender
