// Chat templates: the bounded part of Jinja that the templates of DeepSeek-V3 and R1, Qwen, Llama 3 and
// SmolLM are written in, rendered as `transformers` renders them (trim_blocks, lstrip_blocks).
//
// for/else with a filter, break, continue, if/elif/else, set (also of a namespace's attribute, also of a
// block), expressions with their operators, slices, string and dict methods, the filters and tests of
// chat_template_value.h, range, namespace, raise_exception. A template with anything else is refused when it
// is read. strftime_now is not defined: what a model is asked does not depend on the day.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "data/tokenizer.h"

namespace contender {

struct TemplateNode;

class ChatTemplate {
 public:
  // `constants`: an object of texts that templates may print, bos_token and eos_token among them. Throws
  // std::runtime_error, "line N: what".
  ChatTemplate(std::string_view source, const nlohmann::ordered_json& constants);
  ~ChatTemplate();

  // `variables`: an object; messages (a list of objects with role and content) and add_generation_prompt, by
  // choice tools, enable_thinking, ... Every text in it is marked as data. Throws std::runtime_error: what
  // the template raises, what does not fit together, or a limit (10^6 steps, 16 MiB of text).
  MarkedText render(const nlohmann::ordered_json& variables) const;

 private:
  std::unique_ptr<nlohmann::ordered_json> constants_;
  std::unique_ptr<TemplateNode> root_;
};

}  // namespace contender
