// A prompt file, plain or compressed: every prompt can be read again as it was checked, or the file is
// refused.
#include <vector>

#include "data/jsonl_file.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace contender;
  using namespace contender::fuzz;
  static const auto tokenizer = make_byte_tokenizer();
  const MemoryFile bytes(text_of(data, size));
  may_refuse([&] {
    JsonlFile file(bytes.path());
    std::vector<Prompt> prompts;
    file.scan(*tokenizer, [&](int64_t, PromptLine&& parsed) {
      require(!parsed.question.empty() && !parsed.prompt.text.empty() && !parsed.prompt.tokens.empty());
      require(!parsed.prompt.answer.empty() || !parsed.prompt.tests.empty());
      prompts.push_back(std::move(parsed.prompt));
      return true;
    });
    require(file.size() == std::ssize(prompts) && file.lines() == file.size());
    for (int64_t i = 0; i < file.size(); ++i) {
      const Prompt again = file.at(i, *tokenizer);
      require(again.text == prompts[i].text && again.tests == prompts[i].tests);
    }
  });
  return 0;
}
