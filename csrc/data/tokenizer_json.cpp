#include "data/tokenizer_json.h"

#include <simdjson.h>

#include <stdexcept>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "data/bpe_normalize.h"

namespace contender {
namespace {

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::object;

constexpr size_t kMaxBytes = 128 << 20, kMaxDepth = 32, kMaxAddedBytes = 256;
constexpr int64_t kMaxId = 1 << 21;

template <class... A>
[[noreturn]] void refuse(fmt::format_string<A...> format, A&&... args) {
  throw std::runtime_error(fmt::format(format, std::forward<A>(args)...));
}

// An object whose keys occur once; `where` names it in messages.
class Reader {
 public:
  Reader(element value, std::string where) : where_(std::move(where)) {
    if (value.get_object().get(object_) != simdjson::SUCCESS) refuse("{} is not an object", where_);
    for (const auto& field : object_) {
      if (!fields_.emplace(field.key, field.value).second) refuse("{}: \"{:.40}\" twice", where_, field.key);
    }
  }

  // Null is the same as not there.
  const element* find(std::string_view key) {
    const auto found = fields_.find(key);
    if (found == fields_.end()) return nullptr;
    seen_.insert(found->first);
    return found->second.is_null() ? nullptr : &found->second;
  }
  element need(std::string_view key) {
    const element* value = find(key);
    if (!value) refuse("{}: \"{}\" is missing", where_, key);
    return *value;
  }
  std::string_view text(std::string_view key) { return get<std::string_view>(need(key), key, "a string"); }
  bool flag(std::string_view key, bool otherwise) {
    const element* value = find(key);
    return value ? get<bool>(*value, key, "true or false") : otherwise;
  }
  int64_t integer(std::string_view key) { return get<int64_t>(need(key), key, "an integer"); }
  array list(std::string_view key) { return get<array>(need(key), key, "a list"); }

  // The key may be there as long as it says what it says when it is not.
  void only_null(std::string_view key) {
    if (find(key)) refuse("{}.{} is not supported", where_, key);
  }
  void only_false(std::string_view key) {
    if (flag(key, false)) refuse("{}.{} = true is not supported", where_, key);
  }
  void only_empty(std::string_view key) {
    if (find(key) && !text(key).empty()) refuse("{}.{} is not supported", where_, key);
  }
  // Every key has been asked for.
  void done() const {
    for (const auto& [key, value] : fields_) {
      if (!seen_.contains(key)) refuse("{}.{:.40} is not known", where_, key);
    }
  }
  const std::string& where() const { return where_; }

 private:
  template <class T>
  T get(element value, std::string_view key, const char* what) const {
    T v;
    if (value.get(v) != simdjson::SUCCESS) refuse("{}.{} is not {}", where_, key, what);
    return v;
  }
  std::string where_;
  object object_;
  std::unordered_map<std::string_view, element> fields_;
  std::unordered_set<std::string_view> seen_;
};

int32_t checked_id(int64_t id, std::string_view text) {
  if (id < 0 || id >= kMaxId) refuse("the token \"{:.40}\" has the id {}, beyond {}", text, id, kMaxId - 1);
  return static_cast<int32_t>(id);
}

void read_added(element root, BpeSpec& spec) {
  array tokens;
  if (root.get_array().get(tokens) != simdjson::SUCCESS) refuse("added_tokens is not a list");
  for (const element token : tokens) {
    Reader r(token, fmt::format("added_tokens[{}]", spec.added.size()));
    AddedToken t;
    t.text = r.text("content");
    t.id = checked_id(r.integer("id"), t.text);
    t.special = r.flag("special", false);
    t.lstrip = r.flag("lstrip", false);
    t.rstrip = r.flag("rstrip", false);
    t.single_word = r.flag("single_word", false);
    t.normalized = r.flag("normalized", !t.special);
    r.done();
    if (t.text.empty() || t.text.size() > kMaxAddedBytes)
      refuse("{}: a text of {} bytes, not 1 to {}", r.where(), t.text.size(), kMaxAddedBytes);
    spec.added.push_back(std::move(t));
  }
}

void read_normalizer(element value, BpeSpec& spec) {
  Reader r(value, "normalizer");
  const std::string_view type = r.text("type");
  if (type == "NFC") {
    spec.nfc = true;
  } else if (type == "Sequence") {
    for (const element part : r.list("normalizers")) read_normalizer(part, spec);
  } else {
    refuse("normalizer {:.40} is not supported: NFC or none", type);
  }
  r.done();
}

void read_split(Reader& r, BpeSpec& spec) {
  Reader pattern(r.need("pattern"), r.where() + ".pattern");
  PretokenizeStep step;
  step.pattern = pattern.text("Regex");
  pattern.done();
  const std::string_view behavior = r.text("behavior");
  if (behavior != "Isolated" && behavior != "Removed")
    refuse("{}: behavior {:.40} is not supported: Isolated or Removed", r.where(), behavior);
  step.remove = behavior == "Removed";
  step.invert = r.flag("invert", false);
  spec.steps.push_back(std::move(step));
}

// Returns whether the step makes bytes of the text.
bool read_pre_tokenizer(element value, BpeSpec& spec) {
  Reader r(value, "pre_tokenizer");
  const std::string_view type = r.text("type");
  bool byte_level = false;
  if (type == "Sequence") {
    for (const element part : r.list("pretokenizers")) {
      if (byte_level) refuse("pre_tokenizer: ByteLevel is not the last step");
      byte_level = read_pre_tokenizer(part, spec);
    }
  } else if (type == "Split") {
    read_split(r, spec);
  } else if (type == "Digits") {
    spec.steps.push_back({.pattern = r.flag("individual_digits", false) ? kDigitPattern : kDigitsPattern});
  } else if (type == "ByteLevel") {
    byte_level = true;
    r.flag("trim_offsets", true);
    if (r.flag("add_prefix_space", true))
      spec.steps.push_back({.kind = PretokenizeStep::Kind::kAddPrefixSpace});
    if (r.flag("use_regex", true)) spec.steps.push_back({.pattern = kByteLevelPattern});
  } else {
    refuse("pre_tokenizer {:.40} is not supported: Sequence, Split, Digits or ByteLevel", type);
  }
  r.done();
  return byte_level;
}

void read_template(Reader& r, BpeSpec& spec) {
  std::unordered_map<std::string_view, std::vector<int32_t>> ids;
  Reader specials(r.need("special_tokens"), "post_processor.special_tokens");
  object entries;
  if (r.need("special_tokens").get_object().get(entries) != simdjson::SUCCESS) refuse("special_tokens");
  for (const auto& entry : entries) {
    Reader special(entry.value, fmt::format("post_processor.special_tokens.{:.40}", entry.key));
    for (const element id : special.list("ids")) {
      int64_t v = -1;
      if (id.get_int64().get(v) != simdjson::SUCCESS) refuse("{}: an id is not an integer", special.where());
      ids[entry.key].push_back(checked_id(v, entry.key));
    }
  }
  bool text_seen = false;
  for (const element part : r.list("single")) {
    Reader piece(part, "post_processor.single");
    if (piece.find("Sequence")) {
      if (text_seen) refuse("post_processor.single: the text stands twice");
      text_seen = true;
      continue;
    }
    Reader special(piece.need("SpecialToken"), "post_processor.single");
    const auto found = ids.find(special.text("id"));
    if (found == ids.end()) refuse("post_processor.single: no token {:.40}", special.text("id"));
    std::vector<int32_t>& side = text_seen ? spec.last : spec.first;
    side.insert(side.end(), found->second.begin(), found->second.end());
  }
  if (!text_seen) refuse("post_processor.single: the text does not stand in it");
  r.find("pair");  // of two texts at once: nothing here makes them
}

void read_post_processor(element value, BpeSpec& spec) {
  Reader r(value, "post_processor");
  const std::string_view type = r.text("type");
  if (type == "Sequence") {
    for (const element part : r.list("processors")) read_post_processor(part, spec);
  } else if (type == "TemplateProcessing") {
    if (!spec.first.empty() || !spec.last.empty()) refuse("post_processor: TemplateProcessing twice");
    read_template(r, spec);
  } else if (type == "ByteLevel") {  // moves offsets only
    for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) r.flag(key, true);
  } else {
    refuse("post_processor {:.40} is not supported: ByteLevel or TemplateProcessing", type);
  }
  r.done();
}

void read_decoder(element value) {
  Reader r(value, "decoder");
  const std::string_view type = r.text("type");
  if (type == "Sequence") {
    array parts = r.list("decoders");
    if (parts.size() != 1) refuse("decoder: a Sequence of {} is not supported", parts.size());
    read_decoder(parts.at(0).value());
  } else if (type == "ByteLevel") {
    for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) r.flag(key, true);
  } else {
    refuse("decoder {:.40} is not supported: ByteLevel", type);
  }
  r.done();
}

std::pair<std::string_view, std::string_view> read_merge(element merge, size_t rank) {
  std::string_view line;
  if (merge.get_string().get(line) == simdjson::SUCCESS) {
    const size_t space = line.find(' ');
    if (space == line.npos || line.find(' ', space + 1) != line.npos)
      refuse("model.merges[{}] is not two texts with a space between them", rank);
    return {line.substr(0, space), line.substr(space + 1)};
  }
  array pair;
  std::string_view left, right;
  if (merge.get_array().get(pair) != simdjson::SUCCESS || pair.size() != 2 ||
      pair.at(0).get_string().get(left) != simdjson::SUCCESS ||
      pair.at(1).get_string().get(right) != simdjson::SUCCESS)
    refuse("model.merges[{}] is neither \"a b\" nor [\"a\", \"b\"]", rank);
  return {left, right};
}

void read_model(element value, BpeSpec& spec) {
  Reader r(value, "model");
  if (r.find("type") && r.text("type") != "BPE") refuse("model.type {:.40} is not BPE", r.text("type"));
  r.only_null("dropout");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) r.only_empty(key);
  for (const char* key : {"fuse_unk", "byte_fallback"}) r.only_false(key);
  spec.ignore_merges = r.flag("ignore_merges", false);
  object entries;
  if (r.need("vocab").get_object().get(entries) != simdjson::SUCCESS) refuse("model.vocab is not an object");
  std::vector<VocabText> vocabulary;
  for (const auto& entry : entries) {
    int64_t id = -1;
    if (entry.value.get_int64().get(id) != simdjson::SUCCESS)
      refuse("model.vocab[\"{:.40}\"] is not an integer", entry.key);
    vocabulary.push_back({entry.key, checked_id(id, entry.key)});
  }
  std::vector<std::pair<std::string_view, std::string_view>> merges;
  for (const element merge : r.list("merges")) merges.push_back(read_merge(merge, merges.size()));
  const std::string_view unknown = r.find("unk_token") ? r.text("unk_token") : "";
  r.done();
  set_vocabulary(vocabulary, merges, spec);
  if (unknown.empty()) return;
  for (const VocabText& v : vocabulary) {  // bytes without a token are this one
    for (int32_t& id : spec.byte_ids) id = id < 0 && v.text == unknown ? v.id : id;
  }
}

// A token may be both in the model and added, under one id; else ids and texts are different.
void check_added(const BpeSpec& spec) {
  std::unordered_map<std::string, int32_t> id_of;
  std::unordered_map<int32_t, std::string> text_of;
  for (const AddedToken& t : spec.added) {
    std::string bytes;
    if (!byte_level_bytes(t.text, bytes)) bytes = t.text;
    if (!id_of.emplace(bytes, t.id).second || !text_of.emplace(t.id, bytes).second)
      refuse("added_tokens: \"{:.40}\", id {}, is there twice", t.text, t.id);
  }
  for (int32_t id = 0; id < std::ssize(spec.pieces); ++id) {
    if (spec.pieces[id].empty()) continue;
    const auto same_text = id_of.find(spec.pieces[id]);
    const auto same_id = text_of.find(id);
    if ((same_text != id_of.end() && same_text->second != id) ||
        (same_id != text_of.end() && same_id->second != spec.pieces[id]))
      refuse("added_tokens: the model has another text or id for the token \"{:.40}\", id {}",
             spec.pieces[id], id);
  }
}

}  // namespace

bool byte_level_bytes(std::string_view text, std::string& bytes) {
  // The printable characters of Latin-1 stand for themselves, the other bytes for U+0100 and on, in order.
  static const std::array<int16_t, 0x144> kByteOf = [] {
    std::array<int16_t, 0x144> table;
    table.fill(-1);
    int16_t next = 0x100;
    for (int16_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
      table[printable ? byte : next++] = byte;
    }
    return table;
  }();
  bytes.clear();
  for (size_t at = 0; at < text.size();) {
    const uint8_t first = static_cast<uint8_t>(text[at]);
    int32_t c = first;
    if (first >= 0x80) {
      if (first > 0xc5 || at + 1 >= text.size()) return false;
      c = (first & 0x1f) << 6 | (text[at + 1] & 0x3f);
    }
    if (c >= std::ssize(kByteOf) || kByteOf[c] < 0) return false;
    bytes += static_cast<char>(kByteOf[c]);
    at += first < 0x80 ? 1 : 2;
  }
  return true;
}

void set_vocabulary(const std::vector<VocabText>& vocabulary,
                    const std::vector<std::pair<std::string_view, std::string_view>>& merges, BpeSpec& spec) {
  std::unordered_map<std::string_view, int32_t> id_of;
  id_of.reserve(2 * vocabulary.size());
  spec.byte_ids.fill(-1);
  std::string bytes;
  for (const VocabText& v : vocabulary) {
    if (v.text.empty()) refuse("model.vocab: an empty token");
    if (!id_of.emplace(v.text, v.id).second) refuse("model.vocab: \"{:.40}\" twice", v.text);
    if (v.id >= std::ssize(spec.pieces)) spec.pieces.resize(static_cast<size_t>(v.id) + 1);
    if (!spec.pieces[v.id].empty()) refuse("model.vocab: the id {} twice", v.id);
    const bool byte_level = byte_level_bytes(v.text, bytes);
    spec.pieces[v.id] = byte_level ? bytes : std::string(v.text);
    if (byte_level && bytes.size() == 1) spec.byte_ids[static_cast<uint8_t>(bytes[0])] = v.id;
  }
  std::string joined;
  std::unordered_set<uint64_t> pairs;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    joined.assign(left).append(right);
    const auto a = id_of.find(left), b = id_of.find(right), ab = id_of.find(joined);
    if (a == id_of.end() || b == id_of.end() || ab == id_of.end())
      refuse("model.merges[{}]: \"{:.40}\" is not in the vocabulary", rank,
             a == id_of.end()   ? left
             : b == id_of.end() ? right
                                : joined);
    if (!pairs.insert(static_cast<uint64_t>(a->second) << 32 | static_cast<uint32_t>(b->second)).second)
      refuse("model.merges[{}]: the same pair twice", rank);
    spec.merges.push_back({a->second, b->second, ab->second});
  }
}

BpeSpec parse_tokenizer_json(std::string_view text) {
  if (text.size() > kMaxBytes) refuse("{} bytes, more than 128 MiB", text.size());
  simdjson::dom::parser parser;
  if (parser.allocate(text.size() + 1, kMaxDepth) != simdjson::SUCCESS)
    refuse("{} bytes: no memory", text.size());
  element root;
  const simdjson::error_code error = parser.parse(text.data(), text.size()).get(root);
  if (error != simdjson::SUCCESS) refuse("{}", simdjson::error_message(error));
  Reader r(root, "tokenizer");
  BpeSpec spec;
  if (r.find("version") && r.text("version") != "1.0") refuse("version {:.40} is not 1.0", r.text("version"));
  for (const char* key : {"truncation", "padding"}) r.only_null(key);
  read_model(r.need("model"), spec);
  if (const element* added = r.find("added_tokens")) read_added(*added, spec);
  if (const element* normalizer = r.find("normalizer")) read_normalizer(*normalizer, spec);
  if (!read_pre_tokenizer(r.need("pre_tokenizer"), spec)) refuse("pre_tokenizer: there is no ByteLevel step");
  if (const element* post = r.find("post_processor")) read_post_processor(*post, spec);
  read_decoder(r.need("decoder"));
  r.done();
  check_added(spec);
  return spec;
}

}  // namespace contender
