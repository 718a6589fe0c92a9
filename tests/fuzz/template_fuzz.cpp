// A chat template: it renders a conversation, with a mark for every byte, or says why not.
#include <nlohmann/json.hpp>

#include "data/chat_template.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace contender;
  using namespace contender::fuzz;
  static const nlohmann::ordered_json constants = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  static const nlohmann::ordered_json variables = {
      {"messages",
       {{{"role", "system"}, {"content", "Be brief."}},
        {{"role", "user"}, {"content", "Hi <s>\n你好"}},
        {{"role", "assistant"}, {"content", "<think>x</think>y"}},
        {{"role", "user"}, {"content", ""}}}},
      {"tools", nullptr},
      {"add_generation_prompt", true}};
  may_refuse_with_reason([&] {
    const MarkedText text = ChatTemplate(text_of(data, size), constants).render(variables);
    require(text.from_data.empty() || text.from_data.size() == text.text.size());
  });
  return 0;
}
