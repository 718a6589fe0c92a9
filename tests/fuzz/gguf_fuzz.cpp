// Whatever the bytes, values of a GGUF file, its tensors, its config.json and its tokenizer come out, or it
// is refused.
#include <functional>
#include <vector>

#include "data/tokenizer_gguf.h"
#include "data/tokenizer_json.h"
#include "hub/gguf_blocks.h"
#include "hub/gguf_model.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace contender;
using namespace contender::fuzz;

void read_everything(const GgufFile& file) {
  for (const std::string& key : file.keys("")) {
    may_refuse([&] { file.integer(key); });
    may_refuse([&] { file.number(key); });
    may_refuse([&] { file.flag(key); });
    may_refuse([&] { file.text(key); });
    may_refuse([&] { file.texts(key); });
    may_refuse([&] { file.integers(key); });
  }
  std::vector<float> row;
  for (const auto& tensor : file.tensors()) {
    const GgufTensor& t = tensor.second;
    const GgufTypeInfo& info = gguf_type_info(t.type);
    const int64_t last = t.bytes - t.shape.back() / info.block_values * info.block_bytes;
    row.resize(static_cast<size_t>(t.shape.back()));
    gguf_to_f32(t.type, t.data + last, 0, t.shape.back(), row.data());
  }
  may_refuse([&] { gguf_config_text(file); });
  std::string tokenizer;
  may_refuse([&] { tokenizer = gguf_tokenizer_texts(file).tokenizer_json; });
  may_refuse_with_reason([&] { parse_tokenizer_json(tokenizer); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  may_refuse([&] { read_everything(GgufFile("fuzz.gguf", std::as_bytes(std::span(data, size)))); });
  return 0;
}
