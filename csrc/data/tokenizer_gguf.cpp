#include "data/tokenizer_gguf.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace contender {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kModel = "tokenizer.ggml.model";
constexpr const char* kPre = "tokenizer.ggml.pre";
constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kTypes = "tokenizer.ggml.token_type";
constexpr size_t kMaxTokens = 1 << 21;

// Of a token.
constexpr int64_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;

// What a name of tokenizer.ggml.pre stands for.
struct Pre {
  const char* name;
  std::vector<const char*> splits;  // before bytes
  bool digits = false;              // each alone, before GPT-2's own split
  bool nfc = false;
  bool ignore_merges = false;  // a word that is a token is that token
  bool first_is_bos = false;   // unless the file says otherwise
};

const std::vector<Pre>& pre_tokenizers() {
  static const std::vector<Pre> list = {
      {.name = "gpt-2"},
      {.name = "smollm", .digits = true},
      {.name = "qwen2",
       .splits = {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
                  R"(\s*[\r\n]+|\s+(?!\S)|\s+)"},
       .nfc = true},
      {.name = "llama-bpe",
       .splits =
           {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
            R"(\s*[\r\n]+|\s+(?!\S)|\s+)"},
       .ignore_merges = true,
       .first_is_bos = true},
      {.name = "deepseek-v3",
       .splits =
           {R"(\p{N}{1,3})", "[一-龥\u3040-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
            " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"}},
  };
  return list;
}

Json byte_level(bool add_prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

Json pre_tokenizer_json(const Pre& pre) {
  Json steps = Json::array();
  if (pre.digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  for (const char* pattern : pre.splits)
    steps.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  steps.push_back(byte_level(false, pre.splits.empty()));
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

class Metadata {
 public:
  explicit Metadata(const GgufFile& file)
      : f_(file), pre_(find_pre()), tokens_(f_.texts(kTokens)), types_(f_.integers(kTypes)) {
    if (types_.size() != tokens_.size() || tokens_.size() > kMaxTokens)
      refuse(kTypes, "{} of {} tokens, of which {} may be", types_.size(), tokens_.size(), kMaxTokens);
    for (size_t i = 0; i < types_.size(); ++i)
      if (types_[i] != kNormal && !added(i) && types_[i] != kUnused)
        refuse(kTypes, "{} of token {} is not supported: byte-level BPE has 1, 3, 4 and 5", types_[i], i);
    for (const char* key : {"tokenizer.ggml.add_space_prefix", "tokenizer.ggml.add_eos_token"})
      if (f_.value_or(&GgufFile::flag, key, false)) refuse(key, "true is not supported");
  }

  std::string tokenizer_json() const {
    Json j;
    j["version"] = "1.0";
    j["truncation"] = j["padding"] = nullptr;
    j["added_tokens"] = added_tokens();
    j["normalizer"] = pre_.nfc ? Json{{"type", "NFC"}} : Json();
    j["pre_tokenizer"] = pre_tokenizer_json(pre_);
    j["post_processor"] = post_processor();
    j["decoder"] = byte_level(true, true);
    j["model"] = {{"type", "BPE"},
                  {"dropout", nullptr},
                  {"unk_token", nullptr},
                  {"continuing_subword_prefix", nullptr},
                  {"end_of_word_suffix", nullptr},
                  {"fuse_unk", false},
                  {"byte_fallback", false},
                  {"ignore_merges", pre_.ignore_merges},
                  {"vocab", vocabulary()},
                  {"merges", f_.texts("tokenizer.ggml.merges")}};
    return j.dump();
  }

  std::string tokenizer_config() const {
    Json j;
    j["tokenizer_class"] = "PreTrainedTokenizerFast";
    j["clean_up_tokenization_spaces"] = false;
    for (const auto& [key, name] : {std::pair{"bos_token", "bos"},
                                    {"eos_token", "eos"},
                                    {"pad_token", "padding"},
                                    {"unk_token", "unknown"}})
      if (const int64_t id = special(name); id >= 0) j[key] = tokens_[static_cast<size_t>(id)];
    if (f_.has("tokenizer.chat_template")) j["chat_template"] = f_.text("tokenizer.chat_template");
    return j.dump(2) + "\n";
  }

  std::string generation_config() const {
    Json j, ends = Json::array();
    for (const char* name : {"eos", "eot", "eom"})
      if (const int64_t id = special(name); id >= 0 && std::find(ends.begin(), ends.end(), id) == ends.end())
        ends.push_back(id);
    if (const int64_t id = special("bos"); id >= 0) j["bos_token_id"] = id;
    if (!ends.empty()) j["eos_token_id"] = ends.size() == 1 ? ends[0] : ends;
    if (const int64_t id = special("padding"); id >= 0) j["pad_token_id"] = id;
    return j.empty() ? "" : j.dump(2) + "\n";
  }

 private:
  template <class... A>
  [[noreturn]] void refuse(const std::string& key, fmt::format_string<A...> format, A&&... args) const {
    fail(ExitCode::kConfig, "{}: {}: {}", f_.path(), key, fmt::format(format, std::forward<A>(args)...));
  }

  const Pre& find_pre() const {
    if (f_.text(kModel) != "gpt2")
      refuse(kModel, "\"{}\" is not supported: gpt2 (byte-level BPE) is", f_.shown(kModel));
    std::string known;
    for (const Pre& p : pre_tokenizers()) {
      if (f_.text(kPre) == p.name) return p;
      known += fmt::format("{}{}", known.empty() ? "" : ", ", p.name);
    }
    refuse(kPre, "\"{}\" is not supported: {} are", f_.shown(kPre), known);
  }

  bool added(size_t id) const { return types_[id] == kControl || types_[id] == kUserDefined; }

  // The number of a token by its role, -1: none.
  int64_t special(const char* name) const {
    const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
    if (!f_.has(key)) return -1;
    const int64_t id = f_.integer(key);
    if (id < 0 || id >= std::ssize(tokens_) || types_[static_cast<size_t>(id)] == kUnused)
      refuse(key, "{} is no token", id);
    return id;
  }

  // Added tokens that follow the vocabulary without a gap are not in it, as their numbers follow from it;
  // others are, as that gives them theirs.
  size_t vocabulary_end() const {
    size_t end = tokens_.size();
    while (end > 0 && types_[end - 1] == kUnused) --end;
    const size_t last = end;
    while (end > 0 && added(end - 1)) --end;
    const bool gap = std::find(types_.begin(), types_.begin() + static_cast<int64_t>(end), kUnused) !=
                     types_.begin() + static_cast<int64_t>(end);
    return gap ? last : end;
  }

  Json vocabulary() const {
    Json vocab = Json::object();
    auto& entries = vocab.get_ref<Json::object_t&>();
    const size_t end = vocabulary_end();
    entries.reserve(end);
    for (size_t i = 0; i < end; ++i)  // what is there twice is found by the reader
      if (types_[i] != kUnused) static_cast<Json::object_t::Container&>(entries).emplace_back(tokens_[i], i);
    return vocab;
  }

  Json added_tokens() const {
    Json list = Json::array();
    for (size_t i = 0; i < tokens_.size(); ++i)
      if (added(i))
        list.push_back({{"id", i},
                        {"content", tokens_[i]},
                        {"single_word", false},
                        {"lstrip", false},
                        {"rstrip", false},
                        {"normalized", false},
                        {"special", types_[i] == kControl}});
    return list;
  }

  Json post_processor() const {
    if (!f_.value_or(&GgufFile::flag, "tokenizer.ggml.add_bos_token", pre_.first_is_bos)) return {};
    const int64_t bos = special("bos");
    if (bos < 0) refuse("tokenizer.ggml.bos_token_id", "missing, and texts begin with it");
    const std::string text(tokens_[static_cast<size_t>(bos)]);
    const Json first = {{"SpecialToken", {{"id", text}, {"type_id", 0}}}};
    const auto sequence = [](const char* id, int type) {
      return Json{{"Sequence", {{"id", id}, {"type_id", type}}}};
    };
    return {{"type", "TemplateProcessing"},
            {"single", Json::array({first, sequence("A", 0)})},
            {"pair", Json::array({first, sequence("A", 0), sequence("B", 1)})},
            {"special_tokens",
             {{text, {{"id", text}, {"ids", Json::array({bos})}, {"tokens", Json::array({text})}}}}}};
  }

  const GgufFile& f_;
  const Pre& pre_;
  const std::vector<std::string_view> tokens_;
  const std::vector<int64_t> types_;
};

}  // namespace

bool has_tokenizer(const GgufFile& file) {
  return file.has(kModel) && file.text(kModel) != "none" && file.text(kModel) != "no_vocab";
}

TokenizerTexts gguf_tokenizer_texts(const GgufFile& file) {
  const Metadata m(file);
  return {m.tokenizer_json(), m.tokenizer_config(), m.generation_config()};
}

}  // namespace contender
