#include "data/chat_template_prompt.h"

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "data/bpe_normalize.h"
#include "data/chat_template.h"

namespace contender {
namespace {

using nlohmann::ordered_json;

// <user>...<assistant>...<user>...<assistant>
MarkedText tagged(const ordered_json& messages) {
  MarkedText out;
  const auto append = [&](const std::string& text, bool from_data) {
    out.text += text;
    out.from_data.append(text.size(), from_data);
  };
  std::string system;
  for (const ordered_json& m : messages) {
    const std::string& content = m.at("content").get_ref<const std::string&>();
    const std::string& role = m.at("role").get_ref<const std::string&>();
    if (role == "system") {
      system = content + "\n";
      continue;
    }
    append("<" + role + ">", false);
    append(std::exchange(system, {}) + content, true);
  }
  append("<assistant>", false);
  return out;
}

}  // namespace

void set_prompt(const Tokenizer& tokenizer, const ordered_json& messages, Prompt& prompt) {
  MarkedText text;
  prompt.tokens = {};
  if (tokenizer.chat_template()) {
    text = tokenizer.chat_template()->render({{"messages", messages}, {"add_generation_prompt", true}});
  } else if (tokenizer.speaks_in_tags()) {
    text = tagged(messages);
  } else {
    if (messages.size() != 1)
      throw std::runtime_error("more than one message, and the tokenizer has no chat template");
    text.text = messages[0].at("content").get<std::string>();
    text.from_data.assign(text.text.size(), '\1');
    prompt.tokens = tokenizer.first_tokens();
  }
  const std::vector<int32_t> tokens = tokenizer.encode(text);
  prompt.tokens.insert(prompt.tokens.end(), tokens.begin(), tokens.end());
  prompt.text = std::move(text.text);
}

void set_question(const Tokenizer& tokenizer, const std::string& question, Prompt& prompt,
                  const std::string& system) {
  std::string text = question;
  if (!tokenizer.speaks_in_tags()) {  // a command line may hold any bytes; the byte tokenizer takes them
    text.clear();
    append_utf8(question, /*more=*/false, text);
  }
  ordered_json messages = ordered_json::array();
  if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
  messages.push_back({{"role", "user"}, {"content", text}});
  set_prompt(tokenizer, messages, prompt);
}

}  // namespace contender
