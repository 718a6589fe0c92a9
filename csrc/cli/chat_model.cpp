// A model to talk to, from a path alone: a RunConfig of one sequence, and the sampling its makers chose.
#include <algorithm>
#include <bit>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/config_schema.h"
#include "base/error.h"
#include "checkpoint/manifest.h"
#include "checkpoint/storage.h"
#include "cli/chat.h"
#include "cli/models.h"
#include "data/strict_json.h"
#include "hub/model_config.h"

namespace contender {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxFileBytes = 16 << 20;
constexpr int64_t kPrefillTokens = 512;  // of one forward: products are at full speed from there on
constexpr double kPatience = 3600;  // seconds: ranks that look on wait for a long forward of a large model
constexpr const char* kNoConfig = "/dev/null";

SampleParams sampling_of_model(const std::string& dir) {
  const std::string path = dir + "/generation_config.json";
  SampleParams p{.temperature = 0.6f, .top_p = 0.95f};  // of R1's evaluations
  if (!fs::is_regular_file(path)) return p;
  try {
    const nlohmann::json j = parse_strict_json(read_small_file(path, kMaxFileBytes));
    if (!j.is_object()) throw std::runtime_error("expected an object");
    const auto number = [&](const char* key, double low, double high, double otherwise) {
      const auto found = j.find(key);
      if (found == j.end() || found->is_null()) return otherwise;
      if (!found->is_number()) throw std::runtime_error(fmt::format("{} is no number", key));
      return std::clamp(found->get<double>(), low, high);
    };
    p.temperature = static_cast<float>(number("temperature", 0, 100, p.temperature));
    p.top_p = static_cast<float>(number("top_p", 1e-6, 1, p.top_p));
    p.top_k = static_cast<int32_t>(number("top_k", 0, 1 << 24, p.top_k));
    if (const auto sample = j.find("do_sample"); sample != j.end() && *sample == false) p.temperature = 0;
  } catch (const std::exception& e) {
    fail(ExitCode::kConfig, "{}: {}", path, e.what());
  }
  return p;
}

void apply(const ChatOptions& o, SampleParams& p) {
  if (o.temperature) p.temperature = static_cast<float>(*o.temperature);
  if (o.top_p) p.top_p = static_cast<float>(*o.top_p);
  if (o.min_p) p.min_p = static_cast<float>(*o.min_p);
  if (o.top_k) p.top_k = narrow<int32_t>(*o.top_k);
}

// The largest power of two that divides n and is at most np.
int64_t largest_share(int64_t n, int64_t np) {
  int64_t share = 1;
  while (2 * share <= np && n % (2 * share) == 0) share *= 2;
  return share;
}

}  // namespace

ChatModel open_chat_model(const ChatOptions& o, const std::vector<std::string>& overrides, int np) {
  if (!std::has_single_bit(static_cast<unsigned>(np)))
    fail(ExitCode::kConfig, "the job has {} ranks; their number must be a power of two", np);
  ChatModel chat;
  std::string file = kNoConfig;
  std::vector<std::string> settings;
  const fs::path path = o.model;
  if (const std::string why = why_no_model(o.model); !why.empty())
    fail(ExitCode::kConfig, "--model: {}: {}", o.model, why);
  if (fs::exists(path / kManifestName)) {
    chat.checkpoint = o.model;
    file = (fs::absolute(path / "").parent_path().parent_path() / "config.toml")
               .lexically_proximate(fs::current_path());
    if (!fs::exists(file))
      fail(ExitCode::kConfig,
           "--model: {}: a checkpoint without its run: there is no {}; contender convert "
           "makes a model of it",
           o.model, file);
  } else if (fs::exists(path / "config.toml")) {
    chat.run_dir = o.model;
    file = path / "config.toml";
  } else {
    try {
      read_model_config(o.model);  // what is wrong with it is a problem of --model, not of a setting
    } catch (const Error& e) {
      fail(e.code(), "--model: {}", e.what());
    }
    settings = {"model.path=" + o.model, "model.num_nextn_predict_layers=0",  // it is for training only
                "task.max_prompt_tokens=1", "rl.max_new_tokens=1"};           // the context decides
  }
  std::vector<MissingInput> missing;  // a run's prompts are of no use here
  const auto load = [&](int64_t tp, int64_t ep, int64_t slots, int ranks) {
    std::vector<std::string> all = settings;
    all.push_back(fmt::format("mesh.tp={}", tp));
    all.push_back("mesh.dp=0");
    all.push_back(fmt::format("mesh.ep={}", ep));
    all.push_back(fmt::format("mesh.data_slots={}", slots));
    all.insert(all.end(), overrides.begin(), overrides.end());
    return load_config_before_files(file, all, ranks, read_model_config, missing);
  };
  const ModelConfig model = load(1, 1, 1, 0).model;
  RunConfig& c = chat.config;
  c = load(largest_share(virtual_slices(model), np),
           model.n_routed_experts > 0 ? largest_share(model.n_routed_experts, np) : 1, np, np);
  c.rollout.max_sequences = 1;
  c.rollout.max_tokens_per_step = kPrefillTokens;
  c.train.token_budget = kPrefillTokens;
  c.train.recompute = "full";
  c.train.watchdog_seconds = kPatience;
  chat.sampling = file == kNoConfig ? sampling_of_model(o.model)
                                    : SampleParams{.temperature = static_cast<float>(c.eval.temperature),
                                                   .top_p = static_cast<float>(c.eval.top_p)};
  apply(o, chat.sampling);
  return chat;
}

}  // namespace contender
