// The tokenizer in a GGUF file's metadata, as the files that Hugging Face keeps it in.
#pragma once

#include <string>

#include "data/gguf_file.h"

namespace contender {

struct TokenizerTexts {
  std::string tokenizer_json;     // tokenizer.json
  std::string tokenizer_config;   // tokenizer_config.json, with the chat template
  std::string generation_config;  // generation_config.json; "" where no token number is known
};

bool has_tokenizer(const GgufFile& file);

// Byte-level BPE (tokenizer.ggml.model = "gpt2") with a pre-tokenizer whose original is known exactly:
// tokenizer.ggml.pre = gpt-2, smollm, qwen2, llama-bpe or deepseek-v3. Control tokens become special tokens,
// user-defined ones are added; unused numbers have no token. Error(kConfig), one line with file and key, for
// anything else: another tokenizer would be a silent error in every number of a run.
TokenizerTexts gguf_tokenizer_texts(const GgufFile& file);

}  // namespace contender
