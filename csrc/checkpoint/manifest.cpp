#include "checkpoint/manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "base/error.h"

namespace contender {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSchema = "contender-checkpoint-1";
constexpr int kMaxDepth = 6;
// The file is kBefore <32 hex digits> kBetween <body> kAfter: valid JSON, and every byte of it is checked.
constexpr std::string_view kBefore = "{\"xxh3_128\":\"";
constexpr std::string_view kBetween = "\",\n\"manifest\":";
constexpr std::string_view kAfter = "}\n";
constexpr size_t kHashDigits = 32;

// Without duplicate keys and deep nesting.
Json parse_strict(std::string_view text) {
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > kMaxDepth) fail(ExitCode::kNoCheckpoint, "nested deeper than {}", kMaxDepth);
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
      fail(ExitCode::kNoCheckpoint, "key {} twice", value.get<std::string>());
    return true;
  };
  return Json::parse(text, check);
}

Json files_json(const std::vector<ShardFile>& files) {
  Json list = Json::array();
  for (const ShardFile& f : files) {
    list.push_back({{"name", f.record.name},
                    {"rank", f.rank},
                    {"bytes", f.record.bytes},
                    {"xxh3_128", f.record.chunk_hashes}});
  }
  return list;
}

std::vector<ShardFile> files_of(const Json& list) {
  std::vector<ShardFile> files;
  std::set<std::string> names;
  for (const Json& f : list) {
    ShardFile file;
    file.record.name = f.at("name").get<std::string>();
    file.rank = f.at("rank").get<int>();
    file.record.bytes = f.at("bytes").get<int64_t>();
    file.record.chunk_hashes = f.at("xxh3_128").get<std::vector<std::string>>();
    const std::string& name = file.record.name;
    if (name.empty() || name[0] == '.' || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos)
      fail(ExitCode::kNoCheckpoint, "file name \"{}\" leaves the directory", name);
    if (!names.insert(name).second) fail(ExitCode::kNoCheckpoint, "file {} listed twice", name);
    const int64_t bytes = file.record.bytes;
    if (bytes < 0 ||
        ceil_div(bytes, kHashChunkBytes) != static_cast<int64_t>(file.record.chunk_hashes.size()))
      fail(ExitCode::kNoCheckpoint, "{} chunk checksums for the {} bytes of {}",
           file.record.chunk_hashes.size(), bytes, name);
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace

std::string manifest_text(const Manifest& manifest) {
  const CheckpointInfo& info = manifest.info;
  const Json body = {
      {"schema", kSchema},
      {"run_id", info.run_id},
      {"step", info.step},
      {"layout",
       {{"tp", info.layout.tp}, {"dp", info.layout.dp}, {"ep", info.layout.ep}, {"np", info.layout.np}}},
      {"config_hash", info.config_hash},
      {"tokenizer_hash", info.tokenizer_hash},
      {"state", info.state},
      {"chunk_bytes", kHashChunkBytes},
      {"files", files_json(manifest.files)},
  };
  const std::string text = body.dump(1);
  return fmt::format("{}{}{}{}{}", kBefore, xxh3_128_hex(text.data(), static_cast<int64_t>(text.size())),
                     kBetween, text, kAfter);
}

Manifest parse_manifest(const std::string& text) {
  const std::string_view all = text;
  const size_t body_at = kBefore.size() + kHashDigits + kBetween.size();
  if (all.size() < body_at + kAfter.size() || !all.starts_with(kBefore) || !all.ends_with(kAfter) ||
      all.substr(kBefore.size() + kHashDigits, kBetween.size()) != kBetween)
    fail(ExitCode::kNoCheckpoint, "{}: cut off or not a manifest", kManifestName);
  const std::string_view body = all.substr(body_at, all.size() - body_at - kAfter.size());
  if (all.substr(kBefore.size(), kHashDigits) != xxh3_128_hex(body.data(), static_cast<int64_t>(body.size())))
    fail(ExitCode::kNoCheckpoint, "{}: checksum does not match", kManifestName);
  try {
    const Json json = parse_strict(body);
    if (json.at("schema") != kSchema)
      fail(ExitCode::kNoCheckpoint, "schema {} instead of \"{}\"", json.at("schema").dump(), kSchema);
    if (json.at("chunk_bytes") != kHashChunkBytes)
      fail(ExitCode::kNoCheckpoint, "chunk_bytes {}", json.at("chunk_bytes").dump());
    Manifest manifest;
    manifest.info.run_id = json.at("run_id").get<std::string>();
    manifest.info.step = json.at("step").get<int64_t>();
    const Json& layout = json.at("layout");
    manifest.info.layout = {layout.at("tp").get<int64_t>(), layout.at("dp").get<int64_t>(),
                            layout.at("ep").get<int64_t>(), layout.at("np").get<int64_t>()};
    manifest.info.config_hash = json.at("config_hash").get<std::string>();
    manifest.info.tokenizer_hash = json.at("tokenizer_hash").get<std::string>();
    manifest.info.state = json.at("state").get<std::string>();
    manifest.files = files_of(json.at("files"));
    return manifest;
  } catch (const Error& e) {
    fail(ExitCode::kNoCheckpoint, "{}: {}", kManifestName, e.what());
  } catch (const nlohmann::json::exception& e) {
    fail(ExitCode::kNoCheckpoint, "{}: {}", kManifestName, e.what());
  }
}

std::string outcome_text(const RankOutcome& outcome) {
  return Json{{"error", outcome.error}, {"files", files_json(outcome.files)}}.dump(
      -1, ' ', false, Json::error_handler_t::replace);
}

RankOutcome parse_outcome(const std::string& text) {
  const Json json = Json::parse(text);
  RankOutcome outcome;
  outcome.error = json.at("error").get<std::string>();
  outcome.files = files_of(json.at("files"));
  return outcome;
}

}  // namespace contender
