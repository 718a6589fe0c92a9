// tokenizer.json, and behind a byte 0xFF a text: a tokenizer that encodes it to ids of its vocabulary and
// decodes them, or a reason why not.
#include "data/tokenizer.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace contender;
  using namespace contender::fuzz;
  const std::string_view all = text_of(data, size);
  const size_t end = std::min(all.find('\xff'), all.size());
  const std::string_view text =
      end < all.size() ? all.substr(end + 1) : "Hello  wörld 123\n\n  don't <s> 你好";
  may_refuse_with_reason([&] {
    const auto tokenizer = make_bpe_tokenizer(parse_tokenizer_json(all.substr(0, end)),
                                              {.stop_tokens = {0}, .fingerprint = "fuzz"});
    for (const bool plain : {false, true}) {
      const std::vector<int32_t> tokens = plain ? tokenizer->encode_plain(text) : tokenizer->encode(text);
      for (const int32_t t : tokens) require(0 <= t && t < tokenizer->vocab_size());
      const std::string whole = tokenizer->decode(tokens);
      StreamDecoder stream(*tokenizer);
      std::string parts;
      for (const int32_t t : tokens) parts += stream.push(t);
      require(parts + stream.finish() == whole);
    }
  });
  return 0;
}
