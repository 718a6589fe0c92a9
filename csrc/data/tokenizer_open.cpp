// A model's tokenizer files, and the stop tokens and templates beside them; or all of them in a GGUF file.
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "data/chat_template.h"
#include "data/strict_json.h"
#include "data/tokenizer.h"
#include "data/tokenizer_gguf.h"

namespace contender {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uintmax_t kMaxTokenizerBytes = 128 << 20, kMaxOtherBytes = 16 << 20;

std::string read_whole(const fs::path& path, uintmax_t most) {
  std::error_code error;
  if (!fs::is_regular_file(path, error))
    fail(ExitCode::kConfig, "{}: {}", path.string(), error ? error.message() : "not a regular file");
  if (fs::file_size(path, error) > most)
    fail(ExitCode::kConfig, "{}: more than {} bytes", path.string(), most);
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (in.bad()) fail(ExitCode::kConfig, "{}: {}", path.string(), std::strerror(errno));
  return text;
}

// The file beside the tokenizer, "" where there is none.
std::string read_beside(const fs::path& path) {
  return fs::exists(path) ? read_whole(path, kMaxOtherBytes) : "";
}

// Runs `work`; what it throws gets the name of the file, and stays one line whatever it quotes.
template <class F>
auto in_file(const fs::path& path, const F& work) {
  try {
    return work();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    std::string reason = e.what();
    std::replace_if(
        reason.begin(), reason.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }, '?');
    fail(ExitCode::kConfig, "{}: {}", path.string(), reason);
  }
}

json object_of(const fs::path& path, const std::string& text) {
  return in_file(path, [&] {
    json j = text.empty() ? json::object() : parse_strict_json(text);
    if (!j.is_object()) throw std::runtime_error("not an object");
    return j;
  });
}

// A token of tokenizer_config.json: its text, or an object with it, or null.
std::optional<std::string> token_text(const json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return {};
  const json& text = found->is_object() ? found->value("content", json()) : *found;
  if (!text.is_string()) throw std::runtime_error(fmt::format("{} is not a text", key));
  return text.get<std::string>();
}

int32_t id_of(const BpeSpec& spec, const std::string& text, const char* key) {
  std::string bytes;
  if (!byte_level_bytes(text, bytes)) bytes = text;
  for (const AddedToken& t : spec.added)
    if (t.text == text) return t.id;
  const auto found = std::find(spec.pieces.begin(), spec.pieces.end(), bytes);
  if (found == spec.pieces.end())
    throw std::runtime_error(fmt::format("{} \"{:.40}\" is no token", key, text));
  return static_cast<int32_t>(found - spec.pieces.begin());
}

std::vector<int32_t> ids_in(const json& config, const char* key, int64_t vocab_size) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return {};
  std::vector<int32_t> ids;
  for (const json& id : found->is_array() ? *found : json::array({*found})) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab_size)
      throw std::runtime_error(fmt::format("{} {:.40} is no token", key, id.dump()));
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

int64_t vocabulary_of(const BpeSpec& spec) {
  int64_t size = std::ssize(spec.pieces);
  for (const AddedToken& t : spec.added) size = std::max<int64_t>(size, t.id + 1);
  return size;
}

// A text, or a list of templates with names, of which "default" counts.
std::string template_source(const json& config) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return "";
  if (found->is_string()) return found->get<std::string>();
  for (const json& one : found->is_array() ? *found : json::array())
    if (one.is_object() && one.value("name", "") == "default") return one.value("template", "");
  throw std::runtime_error("chat_template is neither a text nor a list with one named default");
}

std::string hash_of(std::initializer_list<std::string_view> texts) {
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), XXH3_freeState);
  XXH3_128bits_reset(state.get());
  for (const std::string_view text : texts) {
    const uint64_t size = text.size();
    XXH3_128bits_update(state.get(), &size, sizeof size);
    XXH3_128bits_update(state.get(), text.data(), text.size());
  }
  const XXH128_hash_t digest = XXH3_128bits_digest(state.get());
  return fmt::format("{:016x}{:016x}", digest.high64, digest.low64);
}

// A file and what it says; or what a part of a GGUF file says.
struct Source {
  fs::path path;
  std::string text;
};
struct Sources {
  Source tokenizer, config, generation, chat_template;
};

Sources sources_beside(const fs::path& path) {
  const auto beside = [&](const char* name) {
    const fs::path other = path.parent_path() / name;
    return Source{other, read_beside(other)};
  };
  return {.tokenizer = {path, read_whole(path, kMaxTokenizerBytes)},
          .config = beside("tokenizer_config.json"),
          .generation = beside("generation_config.json"),
          .chat_template = beside("chat_template.jinja")};
}

Sources sources_in(const GgufFile& file) {
  const TokenizerTexts texts = gguf_tokenizer_texts(file);
  return {.tokenizer = {file.path(), texts.tokenizer_json},
          .config = {file.path(), texts.tokenizer_config},
          .generation = {file.path(), texts.generation_config},
          .chat_template = {file.path(), ""}};
}

std::unique_ptr<Tokenizer> tokenizer_of(const Sources& from) {
  BpeSpec spec = in_file(from.tokenizer.path, [&] { return parse_tokenizer_json(from.tokenizer.text); });
  const json config = object_of(from.config.path, from.config.text),
             generation = object_of(from.generation.path, from.generation.text);

  BpeIdentity identity;
  nlohmann::ordered_json constants = nlohmann::ordered_json::object();
  in_file(from.config.path, [&] {
    for (const char* key : {"bos_token", "eos_token", "pad_token", "unk_token"}) {
      const auto token = token_text(config, key);
      if (token) constants[key] = *token;
    }
    if (constants.contains("eos_token"))
      identity.stop_tokens = {id_of(spec, constants["eos_token"], "eos_token")};
    const auto add_bos = config.find("add_bos_token");
    if (add_bos != config.end() && add_bos->is_boolean()) {
      spec.first.clear();
      if (add_bos->get<bool>())
        spec.first = {id_of(spec, token_text(config, "bos_token").value_or(""), "bos_token")};
    }
    return 0;
  });
  in_file(from.generation.path, [&] {
    for (const int32_t id : ids_in(generation, "eos_token_id", vocabulary_of(spec))) {
      if (std::find(identity.stop_tokens.begin(), identity.stop_tokens.end(), id) ==
          identity.stop_tokens.end())
        identity.stop_tokens.push_back(id);
    }
    return 0;
  });
  if (identity.stop_tokens.empty())
    fail(ExitCode::kConfig,
         "{}: no end of a completion is known: neither eos_token in tokenizer_config.json nor "
         "eos_token_id in generation_config.json",
         from.tokenizer.path.string());

  const bool inside = from.chat_template.text.empty();
  const std::string source =
      inside ? in_file(from.config.path, [&] { return template_source(config); }) : from.chat_template.text;
  if (!source.empty())
    identity.chat_template = in_file(inside ? from.config.path : from.chat_template.path,
                                     [&] { return std::make_shared<const ChatTemplate>(source, constants); });
  std::string stops;
  for (const int32_t id : identity.stop_tokens) stops += fmt::format("{} ", id);
  for (const int32_t id : spec.first) stops += fmt::format("<{} ", id);
  identity.fingerprint = fmt::format("bpe-v1:{}", hash_of({from.tokenizer.text, source, stops}));
  return in_file(from.tokenizer.path,
                 [&] { return make_bpe_tokenizer(std::move(spec), std::move(identity)); });
}

// What a model's own tokenizer is opened by; "": it has none.
std::string tokenizer_path_of(const std::string& model) {
  if (model.empty()) return "";
  if (GgufFile::named(model)) return has_tokenizer(GgufFile(model)) ? model : "";
  const fs::path path = fs::path(model) / "tokenizer.json";
  return fs::exists(path) ? path.string() : "";
}

}  // namespace

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& given) {
  if (given.empty()) return make_byte_tokenizer();
  if (GgufFile::named(given)) return tokenizer_of(sources_in(GgufFile(given)));
  return tokenizer_of(
      sources_beside(fs::is_directory(given) ? fs::path(given) / "tokenizer.json" : fs::path(given)));
}

std::unique_ptr<Tokenizer> open_tokenizer(const RunConfig& config) {
  std::string path = config.tokenizer.path;
  if (path.empty()) path = tokenizer_path_of(config.model.path);
  std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(path);
  if (tokenizer->vocab_size() > config.model.vocab_size)
    fail(ExitCode::kConfig, "model.vocab_size = {} is less than the {} tokens of {}", config.model.vocab_size,
         tokenizer->vocab_size(), path.empty() ? "the byte tokenizer" : path);
  // A released model on bytes would train, and learn nothing.
  if (path.empty() && !config.model.path.empty() && tokenizer->vocab_size() != config.model.vocab_size)
    fail(ExitCode::kConfig,
         "{}: no tokenizer for its {} tokens: name its tokenizer.json with tokenizer.path",
         config.model.path, config.model.vocab_size);
  return tokenizer;
}

}  // namespace contender
